"""Image files: one photo or drawing as the array that a network takes.

Only the formats of FORMATS are opened, by their content and whatever their name: others that Pillow knows start
programs (EPS: Ghostscript) or are rare enough for their decoders to be little tested. What is decoded is bounded before
it is decoded, from the header.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foveal.data.statistics import Floats, scaled
from foveal.errors import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

Bytes = NDArray[np.uint8]

# Pillow's names of the formats that are opened.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
# The most pixels of an image that are decoded: up to 16 bytes of memory each on the way (WebP), 0.8 GB.
MAX_PIXELS = 50_000_000
# A JPEG up to this size is decoded at a half, a quarter or an eighth of its scale where it has more pixels than that,
# so photos of 108 megapixels can be read; a progressive one is held whole meanwhile and has to be within MAX_PIXELS.
MAX_JPEG_PIXELS = 120_000_000
# Rows that are made opaque at a time.
_ROWS = 256
# Tags of TIFF: bits of a channel; 0 if zero is white.
_BITS, _PHOTOMETRIC = 258, 262


def read_image(path: str | Path, channels: int, height: int, width: int) -> Floats:
    """Read one image file as float32 [C, H, W] in 0 .. 1: grey for one channel, RGB for three.

    The image is rotated upright as its EXIF says, transparent parts become black, and an image of another size is
    resized (Lanczos, antialiased; the aspect ratio is not kept). Grey of 16 bits is scaled from its whole range to 8
    bits, grey floats from 0 .. 1. Of an animation, or of a file with several pages, the first image is read. Nothing is
    inverted: for a model that was trained on MNIST draw white on black.

    Raises DataError for a file that is missing, damaged, not of one of FORMATS, or too large (MAX_PIXELS), and for
    pixels that have no defined scale: integers of 32 bits, and floats beyond 0 .. 1.
    """
    from PIL import Image

    if channels not in (1, 3):
        raise DataError(f"{path}: an image file has 1 or 3 channels, the model takes {channels}")
    image = decode(path)
    # Rows of 8-bit pixels: grey [H, W], or RGB [H, W, 3].
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "LAB":
        # It becomes grey by way of RGB only.
        image = image.convert("RGB")
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = scaled(np.asarray(image))
    return pixels[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def opaque_pixels(image: Image.Image, what: str) -> Bytes:
    """Return a PIL image as bytes: [H, W] of one channel, else RGB, [H, W, 3]; transparent parts are black.

    what: names the image in messages. Raises DataError as `read_image` does for pixels that have no defined scale.
    """
    flat = _flatten(image, _white(image, what), negative=False)
    mode = "L" if flat.mode in ("1", "L") else "RGB"
    return np.asarray(flat if flat.mode == mode else flat.convert(mode))


def decode(
    source: str | os.PathLike[str] | bytes | Image.Image,
    *,
    draft_to: tuple[int, int] | None = None,
    background: tuple[int, int, int] = (0, 0, 0),
) -> Image.Image:
    """Return an image upright, without transparency and with 8 bits per channel.

    source: the path of a file, its content, or a PIL image. draft_to: width and height that are enough: a JPEG may be
    decoded at a half, a quarter or an eighth of its scale, and stays at least as large. background: the colour under
    what is transparent. Raises DataError as `read_image` does.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(source, Image.Image):
        upright = ImageOps.exif_transpose(source)
        return _flatten(upright, _white(upright, "the image"), False, background)
    path = "the image" if isinstance(source, bytes) else source
    if not isinstance(source, bytes):
        _check_regular(source)
    try:
        # Pillow warns of large images and of harmless damage.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as file,
        ):
            _bound(file, path)
            if draft_to is not None:
                file.draft(None, draft_to)
            file.load()
            white = _white(file, path)
            # Pillow inverts what is stored with zero for white up to 8 bits.
            negative = file.mode[0] in "IF" and _tag(file, _PHOTOMETRIC, 1) == 0
            # Without a copy.
            ImageOps.exif_transpose(file, in_place=True)
            return _flatten(file, white, negative, background)
    except DataError:
        raise
    except UnidentifiedImageError:
        names = ", ".join(FORMATS)
        raise DataError(f"{path}: not a readable image; formats that are read are {names}: convert it") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: has too many pixels to be decoded ({error}); save it with fewer") from None
    except MemoryError:
        raise DataError(f"{path}: takes more memory to decode than there is; save it with fewer pixels") from None
    # Pillow raises nearly anything for damaged files: OSError, ValueError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise DataError(f"{path}: not a readable image ({error or type(error).__name__})") from None


def _check_regular(path: str | os.PathLike[str]) -> None:
    """Raise DataError unless there is such a file, and not a pipe or a device, which could be read for ever."""
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such image") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "not a regular file"
        raise DataError(f"{path}: not a readable image ({what}); give the path of an image file")


def _bound(file: ImageFile.ImageFile, path: str | os.PathLike[str]) -> None:
    """Raise DataError if the file, which is opened and not decoded, has too many pixels; have a large JPEG reduced."""
    width, height = file.size
    pixels = width * height
    if pixels <= MAX_PIXELS:
        return
    baseline = file.format in ("JPEG", "MPO") and not file.info.get("progressive")
    if not baseline or pixels > MAX_JPEG_PIXELS:
        limit = MAX_JPEG_PIXELS if baseline else MAX_PIXELS
        raise DataError(
            f"{path}: has {width}x{height} = {pixels:,} pixels, and at most {limit:,} are decoded; save it with fewer "
            "pixels"
        )
    # Half the scale leaves a quarter of the pixels.
    file.draft(None, (width // 2, height // 2))


def _white(file: Image.Image, path: str | os.PathLike[str]) -> float:
    """The value of white in a decoded image of one wide channel: 2^bits - 1, or 1 of floats; 255 of any other.

    Raises DataError where no value is defined to be white.
    """
    if file.mode == "F":
        pixels = np.asarray(file)
        low, high = float(pixels.min()), float(pixels.max())
        # Both are NaN if a pixel is, and no comparison holds then.
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{path}: holds floats from {low:g} to {high:g}, and only 0 to 1 has a defined scale; scale them to "
                "that, or save it with 8 or 16 bits"
            )
        return 1.0
    if file.mode.startswith("I;16"):
        return 2.0 ** _tag(file, _BITS, 16) - 1
    if file.mode == "I":
        # What PNG and PPM have in more than 8 bits Pillow may give in 32, from 0 to 65535.
        if file.format in ("PNG", "PPM"):
            return 65535.0
        raise DataError(
            f"{path}: holds whole numbers with sign or of 32 bits, for which no value is defined to be white; save it "
            "with 8 or 16 bits"
        )
    return 255.0


def _tag(file: Image.Image, tag: int, default: int) -> int:
    """The number under a tag of a TIFF file; the default for other files, and where the tag is absent."""
    tags = getattr(file, "tag_v2", None)
    value = default if tags is None else tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _flatten(
    image: Image.Image, white: float, negative: bool, background: tuple[int, int, int] = (0, 0, 0)
) -> Image.Image:
    """The same image without transparency and with 8 bits per channel.

    white: the value of white in an image of one wide channel; negative: True if it is stored with zero for white.
    background: the colour under what is transparent.
    """
    from PIL import Image

    if image.mode == "F":
        grey = np.asarray(image) * np.float32(255)
        # In place, as these may be 200 MB.
        np.round(grey, out=grey)
    elif image.mode.startswith("I"):
        # Pillow clips at 255 when it converts. Rounded to the nearest: of 16 bits, 65535 / 257 = 255.
        grey, full = np.asarray(image).astype(np.int32), int(white)
        grey *= 255
        grey += full // 2
        grey //= full
        np.clip(grey, 0, 255, out=grey)
    elif image.mode != "LAB" and ("A" in image.mode or "transparency" in image.info):
        opaque = Image.new("RGB", image.size)
        # Some rows at a time, as this takes three copies.
        for top in range(0, image.height, _ROWS):
            layer = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert("RGBA")
            under = Image.new("RGBA", layer.size, (*background, 255))
            opaque.paste(Image.alpha_composite(under, layer).convert("RGB"), (0, top))
        return opaque
    else:
        return image
    pixels = grey.astype(np.uint8)
    return Image.fromarray(255 - pixels if negative else pixels)
