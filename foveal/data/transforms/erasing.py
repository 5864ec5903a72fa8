"""RandomErasing: a rectangle of the image is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms.crops import checked_ratio
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.transform import RandomTransform, Shape, bounds
from foveal.errors import DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray

RANDOM = "random"
ATTEMPTS = 10


class RandomErasing(RandomTransform):
    """A rectangle of each image filled with a value, with probability p (Zhong et al. 2020).

    scale: the rectangle's share of the image, (low, high). ratio: its height / width, (low, high), uniform in its
    logarithm. One that does not fit is drawn again, up to ten times; then nothing is erased. value: a number or one for
    each channel, in the images' own units; "random" for other values at each pixel: bytes from 0 to 255, floats of the
    standard normal distribution, which are for images that are normalised.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | str | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(p)
        self.scale, self.ratio = bounds(self, "scale", scale, 0), checked_ratio(self, ratio)
        if self.scale[1] > 1:
            raise ShapeError(f"RandomErasing: scale is {shown(scale)}; shares of an image are at most 1")
        if isinstance(value, str) and value != RANDOM:
            raise ShapeError(f"RandomErasing: value is {value!r}; give a number, one for each channel, or {RANDOM!r}")
        self.value = value

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return top, left, height and width of the rectangles, [n], of height 0 where none fits; and their pixels."""
        n, channels, rows, columns = shape
        # [n, attempts]
        shares, ratios = np.split(draws.unit(2 * ATTEMPTS), 2, axis=1)
        area = rows * columns * (self.scale[0] + (self.scale[1] - self.scale[0]) * shares)
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * ratios)
        height, width = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = (height < rows) & (width < columns)
        first = np.arange(n), fits.argmax(1)
        found = fits.any(1)
        height, width = np.where(found, height[first], 0), np.where(found, width[first], 0)
        box = {"height": height, "width": width}
        box |= {"top": draws.integers(0, rows - height + 1), "left": draws.integers(0, columns - width + 1)}
        if self.value != RANDOM:
            return box
        # [n, C, H, W], of which the rectangle is used.
        return {**box, "noise": draws.fork(0).words(channels * rows * columns).reshape(shape)}

    def transform(
        self, x: Images, top: Ndarray, left: Ndarray, height: Ndarray, width: Ndarray, noise: Ndarray | None = None
    ) -> Images:
        """Return images x [n, C, H, W] without these rectangles."""
        down, right = np.arange(x.shape[2])[:, None], np.arange(x.shape[3])
        top, left, height, width = (part[:, None, None] for part in (top, left, height, width))
        # [n, 1, H, W]
        inside = ((down >= top) & (down < top + height) & (right >= left) & (right < left + width))[:, None]
        result: Ndarray = np.where(inside, self.filling(x, noise), x)
        return result

    def filling(self, x: Images, noise: Ndarray | None) -> Images:
        """Return what stands in the rectangles."""
        if noise is not None:
            random: Images = (noise >> np.uint64(56)).astype(np.uint8) if x.dtype == np.uint8 else normal(noise)
            return random
        values = np.atleast_1d(np.asarray(self.value, np.float32))
        if len(values) not in (1, x.shape[1]):
            raise DataError(f"RandomErasing: value holds {len(values)} numbers for images of {x.shape[1]} channels")
        if x.dtype == np.uint8 and not ((values >= 0) & (values <= 255)).all():
            raise DataError(f"RandomErasing: value is {shown(self.value)} for images of bytes, which go from 0 to 255")
        filling: Ndarray = values.astype(x.dtype)[:, None, None]
        return filling


def normal(words: Ndarray) -> Images:
    """Return a number of the standard normal distribution of each word (Box and Muller 1958)."""
    radius = ((words >> np.uint64(32)).astype(np.float64) + 1) * 2.0**-32
    angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
    found: Ndarray = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return found.astype(np.float32)
