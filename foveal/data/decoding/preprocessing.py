"""Preprocessing: how an image of any size, kind and origin becomes the array that a network takes.

It stands in a model file, so that what a network was trained on is what it is run on.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from foveal.data.decoding import images
from foveal.data.decoding.pixels import WHITE
from foveal.errors import DataError
from foveal.kinds import shown

if TYPE_CHECKING:
    from PIL import Image

#: What is read as one image: the path of a file, the content of one, a PIL image, or an array of bytes.
Source: TypeAlias = Union[str, "PathLike[str]", bytes, "Image.Image", NDArray[Any]]

FITS = ("stretch", "crop")
#: Of Pillow's filters, all of which read every pixel of what becomes smaller.
INTERPOLATIONS = ("lanczos", "bilinear", "bicubic")
# A JPEG is decoded at a smaller scale if so many times the pixels that are wanted are left along each side.
_SPARE = 1.5
# An image that is so many times as large along a side, and more, is first reduced by whole numbers.
_GAP = 3.0
# Channels that an array may have: grey, RGB, and RGB with transparency.
_OF_ARRAYS = (1, 3, 4)


@dataclass(frozen=True)
class Preprocessing:
    """How images are read for a network, and the statistics by which it normalises them.

        preprocessing = data.Preprocessing(3, (224, 224), fit="crop", crop=224 / 256, interpolation="bilinear")
        x = preprocessing.read("photo.jpg")  # uint8 [3, 224, 224]

    Raises DataError for values that there cannot be.
    """

    #: 1 for grey, 3 for RGB.
    channels: int
    #: Rows and columns of what a network takes.
    size: tuple[int, int]
    #: "stretch" resizes the whole image, whose aspect ratio is not kept. "crop" keeps it: the image is resized until it
    #: covers round(side / crop) along both sides (of a square: until its shorter side is so long), and the centre is
    #: cut out.
    fit: str = "stretch"
    #: The share of each side that "crop" leaves, such as 224 / 256; more than 0, up to 1.
    crop: float = 1.0
    #: "lanczos", "bilinear" or "bicubic", each antialiased.
    interpolation: str = "lanczos"
    #: The colour under what is transparent, (red, green, blue) from 0 to 255.
    background: tuple[int, int, int] = WHITE
    #: Per channel, or one for all channels: of pixels from 0 to 1, as in `Dataset`; the network gets (x - mean) / std.
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    #: The range of the pixels before they were normalised, as in `Dataset`; (0, 1) for image files.
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        sides = (self.channels, *self.size)
        if self.channels not in (1, 3):
            raise DataError(f"Preprocessing: {self.channels} channels; an image file has 1 (grey) or 3 (RGB)")
        if len(self.size) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise DataError(f"Preprocessing: size {self.size}; give whole numbers of rows and columns, 1 or more each")
        if self.fit not in FITS:
            raise DataError(f"Preprocessing: fit {self.fit!r}; choose from {', '.join(FITS)}")
        if not 0 < self.crop <= 1 or (self.fit == "stretch" and self.crop != 1):
            raise DataError(
                f"Preprocessing: crop {self.crop:g} with fit {self.fit!r}; give the share of each side that is left,"
                ' above 0 and up to 1, with fit="crop"'
            )
        if self.interpolation not in INTERPOLATIONS:
            raise DataError(
                f"Preprocessing: interpolation {self.interpolation!r}; choose from {', '.join(INTERPOLATIONS)}"
            )
        if len(self.background) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in self.background):
            raise DataError(f"Preprocessing: background {self.background}; give (red, green, blue) from 0 to 255")

    @property
    def resized(self) -> tuple[int, int]:
        """Rows and columns that an image has to cover when it is resized, before the centre is cut out."""
        rows, columns = (max(side, round(side / self.crop)) for side in self.size)
        return rows, columns

    def read(self, source: Source) -> NDArray[np.uint8]:
        """Return one image as uint8 [C, H, W]: grey for one channel, RGB for three.

        source: the path of an image file, its content as bytes, a PIL image, or an array of bytes, uint8 [H, W],
        [H, W, C] or [C, H, W], with 1 or 3 channels or, RGB with transparency, 4. The image is rotated upright as its
        EXIF says, what is transparent becomes the background, and it is resized to the network's size.

        Raises DataError as `data.read_image` does, and for an array that is no image.
        """
        rows, columns = self.resized
        if isinstance(source, np.ndarray):
            source = pil_image(source)
        elif not isinstance(source, str | bytes | PathLike) and not is_pillow(source):
            raise DataError(f"{shown(source)} is no image; give the path of one, its bytes, a PIL image or an array")
        image = images.decode(
            source, draft_to=(round(_SPARE * columns), round(_SPARE * rows)), background=self.background
        )
        return self.fitted(image)

    def fitted(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return a PIL image that is upright and opaque as uint8 [C, H, W] of the network's size."""
        from PIL import Image

        # Rows of 8-bit pixels: grey [H, W], or RGB [H, W, 3]. LAB becomes grey by way of RGB only.
        mode = "L" if self.channels == 1 else "RGB"
        for step in ("RGB", mode) if image.mode == "LAB" else (mode,):
            if image.mode != step:
                image = image.convert(step)
        rows, columns = self.size
        width, height = self.covering(image.size)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()], reducing_gap=_GAP)
        if (width, height) != (columns, rows):
            left, top = round((width - columns) / 2), round((height - rows) / 2)
            image = image.crop((left, top, left + columns, top + rows))
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))

    def covering(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height to which an image of this width and height is resized."""
        rows, columns = self.resized
        if self.fit == "stretch":
            return columns, rows
        width, height = size
        # The longer side is rounded down, as torchvision's Resize does.
        if width * rows <= height * columns:
            return columns, max(rows, math.floor(columns * height / width))
        return max(columns, math.floor(rows * width / height)), rows


def is_pillow(value: object) -> bool:
    """True for a PIL image. Without one, Pillow is not imported."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def pil_image(array: NDArray[Any]) -> Image.Image:
    """Return an array uint8 [H, W], [H, W, C] or [C, H, W] as a PIL image. Raises DataError for another array."""
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        raise DataError(f"{shown(array)} is no image; give uint8 [H, W], [H, W, C] or [C, H, W] with values 0 to 255")
    if array.ndim == 3:
        first, last = array.shape[0] in _OF_ARRAYS, array.shape[2] in _OF_ARRAYS
        if first == last:
            which = "both the first and the last axis" if first else "neither the first nor the last axis"
            raise DataError(f"{shown(array)}: {which} can be the channels (1, 3 or 4); give [H, W, C] or [C, H, W]")
        array = np.moveaxis(array, 0, 2) if first else array
        array = array[:, :, 0] if array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(array))
