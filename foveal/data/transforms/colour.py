"""Changes of colour: ColorJitter, grey, contrast, histogram, bits, inversion, sharpness, blur.

All of them take bytes, or floats from 0 to 1, of 1 or 3 channels, and raise DataError for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms import pixels
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.pixels import check_colours
from foveal.data.transforms.transform import LARGEST_SIDE, RandomTransform, Shape, Transform, bound, bounds
from foveal.errors import DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue changed at random, in random order.

    brightness, contrast, saturation: one number v for factors from max(0, 1 - v) to 1 + v, or (low, high); 0 or None
    for none. hue: one number h of at most 0.5 for a move from -h to h of the circle of hues, or (low, high).
    """

    def __init__(
        self,
        brightness: float | Sequence[float] | None = None,
        contrast: float | Sequence[float] | None = None,
        saturation: float | Sequence[float] | None = None,
        hue: float | Sequence[float] | None = None,
    ) -> None:
        self.brightness = self.factors("brightness", brightness)
        self.contrast = self.factors("contrast", contrast)
        self.saturation = self.factors("saturation", saturation)
        pair = (0.0, 0.0) if hue is None else (-hue, hue) if isinstance(hue, int | float) else hue
        self.hue = bounds(self, "hue", pair, -0.5)
        if self.hue[1] > 0.5:
            raise ShapeError(f"ColorJitter: hue is {shown(hue)}; it lies from -0.5 to 0.5, parts of the circle of hues")

    def factors(self, name: str, value: float | Sequence[float] | None) -> tuple[float, float]:
        """Return the range of factors that a number, or a range, stands for."""
        if value is None:
            return 1.0, 1.0
        if isinstance(value, int | float):
            if not 0 <= value < np.inf:
                raise ShapeError(f"ColorJitter: {name} is {value}; one number is 0 or more")
            return max(0.0, 1 - value), 1.0 + value
        return bounds(self, name, value, 0)

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return the order of the four changes, [n, 4], and the factor of each image for each, [n]."""
        return {
            "order": draws.unit(4).argsort(1, kind="stable"),
            "brightness": draws.uniform(*self.brightness),
            "contrast": draws.uniform(*self.contrast),
            "saturation": draws.uniform(*self.saturation),
            "hue": draws.uniform(*self.hue),
        }

    def transform(
        self, x: Images, order: Ndarray, brightness: Ndarray, contrast: Ndarray, saturation: Ndarray, hue: Ndarray
    ) -> Images:
        """Return images x [n, C, H, W] changed; in `order`, 0 is brightness and 3 is hue."""
        check_colours("ColorJitter", x)
        ways = (
            (pixels.brightness, brightness, self.brightness != (1, 1)),
            (pixels.contrast, contrast, self.contrast != (1, 1)),
            (pixels.saturation, saturation, self.saturation != (1, 1)),
            (pixels.hue, hue, self.hue != (0, 0)),
        )
        result = x.copy()
        for step in order.T:
            # Images for which this is the turn of the same change go together.
            for number, (change, values, wanted) in enumerate(ways):
                rows = np.flatnonzero(step == number)
                if wanted and len(rows):
                    result[rows] = change(result[rows], values[rows])
        return result


class Grayscale(Transform):
    """All images as grey ones, of num_output_channels 1, or 3 equal ones."""

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise ShapeError(f"Grayscale: num_output_channels is {num_output_channels}; it is 1 or 3")
        self.num_output_channels = num_output_channels

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] as [n, num_output_channels, H, W]."""
        check_colours("Grayscale", x)
        return pixels.grayscale(x, self.num_output_channels)


class RandomGrayscale(RandomTransform):
    """Images as grey ones of as many channels, with probability p."""

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] without their colours."""
        check_colours("RandomGrayscale", x)
        return pixels.grayscale(x, x.shape[1])


class RandomAutocontrast(RandomTransform):
    """Each channel stretched from black to full brightness, with probability p."""

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] stretched."""
        check_colours("RandomAutocontrast", x)
        return pixels.autocontrast(x)


class RandomEqualize(RandomTransform):
    """The values of each channel spread evenly, by its histogram, with probability p."""

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] with even histograms."""
        check_colours("RandomEqualize", x)
        return pixels.equalize(x)


class RandomPosterize(RandomTransform):
    """Only the upper `bits` bits of each pixel kept, 0 to 8, with probability p."""

    def __init__(self, bits: int, p: float = 0.5) -> None:
        super().__init__(p)
        if not 0 <= bits <= 8:
            raise ShapeError(f"RandomPosterize: bits is {bits}; a byte has 0 to 8")
        self.bits = bits

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] of fewer values."""
        check_colours("RandomPosterize", x)
        return pixels.posterize(x, np.full(len(x), self.bits))


class RandomSolarize(RandomTransform):
    """Pixels at or above a threshold inverted, with probability p.

    threshold: in the images' own units, 0 to 255 of bytes, 0 to 1 of floats.
    """

    def __init__(self, threshold: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.threshold = threshold

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] with bright pixels inverted."""
        check_colours("RandomSolarize", x)
        if not 0 <= self.threshold <= bound(x):
            raise DataError(
                f"RandomSolarize: threshold is {self.threshold} for pixels from 0 to {bound(x):g}; give one in between"
            )
        return pixels.solarize(x, np.full(len(x), self.threshold))


class RandomInvert(RandomTransform):
    """All pixels inverted, with probability p."""

    def transform(self, x: Images) -> Images:
        """Return full brightness less images x [n, C, H, W]."""
        check_colours("RandomInvert", x)
        return pixels.invert(x)


class RandomAdjustSharpness(RandomTransform):
    """Images made sharper or smoother, with probability p.

    sharpness_factor: 0 is smooth, 1 leaves images as they are, 2 is sharp.
    """

    def __init__(self, sharpness_factor: float, p: float = 0.5) -> None:
        super().__init__(p)
        if not 0 <= sharpness_factor < np.inf:
            raise ShapeError(f"RandomAdjustSharpness: sharpness_factor is {sharpness_factor}; it is 0 or more")
        self.sharpness_factor = sharpness_factor

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] made sharper."""
        check_colours("RandomAdjustSharpness", x)
        return pixels.sharpness(x, np.full(len(x), self.sharpness_factor))


class GaussianBlur(Transform):
    """Each image smoothed by a Gaussian of random width.

    kernel_size: the window, an odd number of pixels, or (columns, rows). sigma: the standard deviation in pixels, one
    number or (low, high). Beyond the edges the image is reflected. Other channels than those of colours are taken too.
    """

    def __init__(self, kernel_size: int | Sequence[int], sigma: float | Sequence[float] = (0.1, 2.0)) -> None:
        pair = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(pair) != 2 or not 1 <= min(pair) <= max(pair) <= LARGEST_SIDE or not all(size % 2 for size in pair):
            raise ShapeError(f"GaussianBlur: kernel_size is {shown(kernel_size)}; give an odd number, or two")
        self.kernel_size = pair[0], pair[1]
        self.sigma = bounds(self, "sigma", (sigma, sigma) if isinstance(sigma, int | float) else sigma)
        if self.sigma[0] <= 0:
            raise ShapeError(f"GaussianBlur: sigma is {shown(sigma)}; it has to be above 0")

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return the standard deviation of each image, [n]."""
        return {"sigma": draws.uniform(*self.sigma)}

    def transform(self, x: Images, sigma: Ndarray) -> Images:
        """Return images x [n, C, H, W] smoothed."""
        return pixels.gaussian_blur(x, self.kernel_size, sigma)
