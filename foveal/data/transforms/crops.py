"""Cutting out and resizing: CenterCrop, RandomCrop, RandomResizedCrop, Resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.pictures import Fill, fill_values, interpolation_of, on_pictures, resampling, resized
from foveal.data.transforms.transform import LARGEST_SIDE, Shape, Transform, bounds, sides
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray

PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]
PADDING_MODES = ("constant", "edge", "reflect", "symmetric")
# Left, top, right, bottom.
Padding = tuple[int, int, int, int]


class CenterCrop(Transform):
    """The middle of each image.

    size: rows and columns of the result, or one number for both. A smaller image is padded with 0 (black).
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = sides(self, size)

    def transform(self, x: Images) -> Images:
        """Return the middle of images x [n, C, H, W]."""
        missing = [max(0, wanted - had) for wanted, had in zip(self.size, x.shape[2:], strict=True)]
        if any(missing):
            down, right = missing
            x = padded("CenterCrop", x, (right // 2, down // 2, right - right // 2, down - down // 2), 0, "constant")
        top, left = (round((had - wanted) / 2) for wanted, had in zip(self.size, x.shape[2:], strict=True))
        middle: Ndarray = np.ascontiguousarray(x[:, :, top : top + self.size[0], left : left + self.size[1]])
        return middle


class RandomCrop(Transform):
    """A part of each image at a random place, after padding.

    size: rows and columns of the result, or one number for both. padding: pixels that are added on all sides; two
    numbers are for left and right, and for top and bottom; four are left, top, right, bottom. pad_if_needed: add more
    where the image is smaller than the result. fill: the added pixels, a number or one for each channel, in the
    images' own units. padding_mode: "constant" for fill, "edge", "reflect" or "symmetric" for pixels of the image, as
    in numpy.pad. Raises DataError for an image that is too small.

        RandomCrop(32, padding=4)  # CIFAR-10's usual one
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: Fill = 0,
        padding_mode: PaddingMode = "constant",
    ) -> None:
        self.size, self.padding = sides(self, size), four_sides(padding)
        self.pad_if_needed, self.fill, self.padding_mode = pad_if_needed, fill, padding_mode
        if padding_mode not in PADDING_MODES:
            raise ShapeError(
                f"RandomCrop: padding_mode is {shown(padding_mode)}; choose from {', '.join(PADDING_MODES)}"
            )

    def whole_padding(self, height: int, width: int) -> Padding:
        """Return the pixels that are added to an image of this size."""
        left, top, right, bottom = self.padding
        if self.pad_if_needed:
            down = max(0, self.size[0] - height - top - bottom)
            across = max(0, self.size[1] - width - left - right)
            left, top, right, bottom = left + across, top + down, right + across, bottom + down
        return left, top, right, bottom

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return top and left of the part in the padded image, [n] each."""
        left, top, right, bottom = self.whole_padding(*shape[2:])
        height, width = shape[2] + top + bottom, shape[3] + left + right
        if height < self.size[0] or width < self.size[1]:
            raise DataError(
                f"RandomCrop: {self.size[0]} x {self.size[1]} pixels cannot be cut out of {height} x {width}; give a"
                " smaller size, or pad_if_needed=True"
            )
        return {
            "top": draws.integers(0, height - self.size[0] + 1),
            "left": draws.integers(0, width - self.size[1] + 1),
        }

    def transform(self, x: Images, top: Ndarray, left: Ndarray) -> Images:
        """Return the parts of images x [n, C, H, W] that begin there."""
        padding = self.whole_padding(*x.shape[2:])
        x = padded("RandomCrop", x, padding, self.fill, self.padding_mode) if any(padding) else x
        # [n, C, places down, places across, rows, columns]: all parts of each image, without a copy.
        windows: Ndarray = np.lib.stride_tricks.sliding_window_view(x, self.size, axis=(2, 3))
        return windows[np.arange(len(x)), :, top, left]


class RandomResizedCrop(Transform):
    """A part of each image, of random size, shape and place, resized (Szegedy et al. 2015, section 6).

    size: rows and columns of the result, or one number for both. scale: the part's share of the image, (low, high).
    ratio: its width / height, (low, high), uniform in its logarithm. A part that does not fit is drawn again, up to ten
    times; then the middle is taken, of a ratio as near as there is. interpolation: "nearest", "bilinear", "bicubic",
    "lanczos", "box" or "hamming"; antialias: True, as Pillow's filters are.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
        antialias: bool = True,
    ) -> None:
        self.size, self.scale, self.ratio = (
            sides(self, size),
            bounds(self, "scale", scale, 0),
            checked_ratio(self, ratio),
        )
        self.interpolation, self.antialias = interpolation_of(self, interpolation), antialiased(self, antialias)

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return top, left, height and width of the part, [n] each."""
        (n, _, rows, columns), attempts = shape, 10
        # [n, attempts]
        areas, ratios = np.split(draws.unit(2 * attempts), 2, axis=1)
        area = rows * columns * (self.scale[0] + (self.scale[1] - self.scale[0]) * areas)
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * ratios)
        width, height = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = (width > 0) & (width <= columns) & (height > 0) & (height <= rows)
        first = np.arange(n), fits.argmax(1)
        middle = whole_of_ratio(rows, columns, self.ratio)
        height = np.where(fits.any(1), height[first], middle[0])
        width = np.where(fits.any(1), width[first], middle[1])
        top, left = draws.integers(0, rows - height + 1), draws.integers(0, columns - width + 1)
        top = np.where(fits.any(1), top, (rows - height) // 2)
        left = np.where(fits.any(1), left, (columns - width) // 2)
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, x: Images, top: Ndarray, left: Ndarray, height: Ndarray, width: Ndarray) -> Images:
        """Return the parts of images x [n, C, H, W], resized."""
        how, size = resampling(self.interpolation), self.size[::-1]
        boxes = np.stack([left, top, left + width, top + height], axis=1).tolist()

        def change(picture: Any, i: int, colour: Any) -> Any:
            # Cut out first: pixels beside the part have no share in the result.
            return picture.crop(boxes[i]).resize(size, how)

        return on_pictures("RandomResizedCrop", x, change)


class Resize(Transform):
    """All images resized.

    size: rows and columns; one number is the shorter side, and the longer one follows, cut off to whole pixels.
    interpolation: as of RandomResizedCrop. max_size: with one number, the largest that the longer side may be; the
    shorter one is then smaller. size None with max_size: the longer side. antialias: True.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None,
        interpolation: str = "bilinear",
        max_size: int | None = None,
        antialias: bool = True,
    ) -> None:
        one = size is None or isinstance(size, int) or len(size) == 1
        if size is None and max_size is None:
            raise ArgumentError("Resize: size and max_size are both missing; give one of them")
        if max_size is not None and not (one and 1 <= max_size <= LARGEST_SIDE):
            raise ShapeError(
                f"Resize: max_size is {max_size} with size {shown(size)}; it goes with one number for size"
            )
        pair = None if size is None else sides(self, size)
        self.size = None if pair is None else pair[0] if one else pair
        if max_size is not None and isinstance(self.size, int) and max_size <= self.size:
            raise ShapeError(f"Resize: max_size is {max_size} and size {self.size}; max_size has to be larger")
        self.interpolation, self.max_size = interpolation_of(self, interpolation), max_size
        self.antialias = antialiased(self, antialias)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the result of an image of this size."""
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        new_short, new_long = self.size, self.max_size
        if new_short is not None and (new_long is None or int(new_short * long / short) <= new_long):
            new_long = int(new_short * long / short)
        else:
            assert new_long is not None
            new_short = max(1, int(new_long * short / long))
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] resized."""
        return resized("Resize", x, self.resized_size(*x.shape[2:]), self.interpolation)


def four_sides(padding: int | Sequence[int] | None) -> Padding:
    """Return padding as (left, top, right, bottom). Raises ShapeError for other than one, two or four numbers."""
    values = (0,) if padding is None else (padding,) if isinstance(padding, int) else tuple(padding)
    if len(values) not in (1, 2, 4) or not 0 <= min(values) <= max(values) <= LARGEST_SIDE:
        raise ShapeError(
            f"RandomCrop: padding is {shown(padding)}; give pixels, 0 or more: one number, (left and right, top and"
            " bottom), or (left, top, right, bottom)"
        )
    left, top, right, bottom = values * (4 // len(values))
    return left, top, right, bottom


def padded(name: str, x: Images, padding: Padding, fill: Fill, mode: PaddingMode) -> Images:
    """Return images x [n, C, H, W] with pixels added on their sides."""
    left, top, right, bottom = padding
    widths = ((0, 0), (0, 0), (top, bottom), (left, right))
    if mode != "constant":
        if mode == "reflect" and (max(left, right) >= x.shape[3] or max(top, bottom) >= x.shape[2]):
            raise DataError(
                f"{name}: padding {padding} of images of {x.shape[2]} x {x.shape[3]} pixels; reflect takes less than"
                " a side"
            )
        extended: Ndarray = np.pad(x, widths, mode)
        return extended
    values = fill_values(name, fill, x.shape[1])
    height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
    result = np.empty((*x.shape[:2], height, width), x.dtype)
    result[:] = np.asarray(values, x.dtype)[:, None, None]
    result[:, :, top : height - bottom, left : width - right] = x
    return result


def checked_ratio(transform: Transform, ratio: Sequence[float]) -> tuple[float, float]:
    """Return a range of ratios. Raises ShapeError unless both are above 0."""
    low, high = bounds(transform, "ratio", ratio)
    if low <= 0:
        raise ShapeError(f"{type(transform).__name__}: ratio is {shown(ratio)}; both numbers have to be above 0")
    return low, high


def whole_of_ratio(rows: int, columns: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of the largest part of an image whose width / height is in that range."""
    low, high = ratio
    if columns / rows < low:
        return max(1, round(columns / low)), columns
    return (rows, max(1, round(rows * high))) if columns / rows > high else (rows, columns)


def antialiased(transform: Transform, antialias: bool) -> bool:
    """Return True. Raises ShapeError for False, which there is not."""
    if not antialias:
        raise ShapeError(f"{type(transform).__name__}: antialias is False; images are always antialiased, leave it out")
    return True
