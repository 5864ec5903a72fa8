"""What colour transforms compute: functions of images [n, C, H, W] and of a number for each image, [n].

Bytes and floats of 0 to 1. The definitions, and where fractions of a byte are cut off, are those of torchvision's
tensors.
"""

from __future__ import annotations

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms.transform import bound, per_image, stored
from foveal.errors import DataError
from foveal.strides import Ndarray

# Brightness of red, green and blue (ITU-R BT.601), with as many digits as torchvision and Pillow have.
GREY = np.array([0.2989, 0.587, 0.114], np.float32)
# For each sixth of the circle of hues, which of (value, p, q, t) are red, green and blue (Smith 1978).
SECTORS = np.array([[0, 2, 1, 1, 3, 0], [3, 0, 0, 2, 1, 1], [1, 1, 3, 0, 0, 2]])


def check_colours(name: str, x: Images) -> None:
    """Raise DataError unless images have 1 or 3 channels, of bytes or of floats from 0 to 1."""
    if x.shape[1] not in (1, 3):
        raise DataError(f"{name}: images of {x.shape[1]} channels; colours have 1 (grey) or 3 (red, green, blue)")
    if x.dtype != np.uint8 and x.size and not (x.min() >= 0 and x.max() <= 1):
        raise DataError(
            f"{name}: pixels from {x.min():g} to {x.max():g}; give bytes, or floats from 0 to 1, which are not yet"
            " normalised"
        )


def grey(x: Images) -> Ndarray:
    """Return the brightness of images, float32 [n, 1, H, W], of bytes rounded down."""
    if x.shape[1] == 1:
        return x.astype(np.float32)
    red, green, blue = (x[:, c : c + 1] * GREY[c] for c in range(3))
    brightness: Ndarray = red + green + blue
    return np.floor(brightness, out=brightness) if x.dtype == np.uint8 else brightness


def blended(x: Images, other: Ndarray, factor: Ndarray) -> Images:
    """Return factor x + (1 - factor) other; a factor above 1 leads away from `other`."""
    ratio = per_image(factor)
    # 1 - factor is rounded once.
    rest = per_image(1.0 - np.asarray(factor, np.float64))
    pixels: Ndarray = x * ratio
    pixels += other * rest
    return stored(pixels, x)


def brightness(x: Images, factor: Ndarray) -> Images:
    """Return factor x."""
    return stored(x * per_image(factor), x)


def contrast(x: Images, factor: Ndarray) -> Images:
    """Return images blended with their mean brightness."""
    mean = grey(x).mean((1, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    return blended(x, mean, factor)


def saturation(x: Images, factor: Ndarray) -> Images:
    """Return images blended with their grey ones; grey images as they are."""
    return x if x.shape[1] == 1 else blended(x, grey(x), factor)


def hue(x: Images, shift: Ndarray) -> Images:
    """Return images whose hues are moved by a share of the circle, -0.5 to 0.5; grey images as they are."""
    if x.shape[1] == 1:
        return x
    pixels = x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
    h, s, v = hsv(pixels)
    h = np.mod(h + np.asarray(shift, np.float32)[:, None, None], np.float32(1))
    result = rgb(h, s, v)
    # Each byte stands for an equal share of 0 .. 1.
    return (result * np.float32(255.999)).astype(np.uint8) if x.dtype == np.uint8 else stored(result, x)


def hsv(x: Ndarray) -> tuple[Ndarray, Ndarray, Ndarray]:
    """Return hue, saturation and value, [n, H, W] each, of floats [n, 3, H, W]."""
    red, green = x[:, 0], x[:, 1]
    low, high = x.min(1), x.max(1)
    span, flat = high - low, high == low
    saturated = span / np.where(flat, np.float32(1), high)
    # How far each channel is below the highest one, in parts of the span.
    r, g, b = np.moveaxis((high[:, None] - x) / np.where(flat, np.float32(1), span)[:, None], 1, 0)
    place = np.where(high == red, b - g, np.where(high == green, 2 + r - b, 4 + g - r))
    return np.mod(place / np.float32(6) + np.float32(1), np.float32(1)), saturated, high


def rgb(h: Ndarray, s: Ndarray, v: Ndarray) -> Ndarray:
    """Return floats [n, 3, H, W] of hue, saturation and value, [n, H, W] each."""
    sector = np.floor(h * 6)
    f = h * 6 - sector
    p, q, t = (1 - s) * v, (1 - s * f) * v, (1 - s * (1 - f)) * v
    parts = np.stack([v, *(np.clip(part, 0, 1) for part in (p, q, t))], 1)
    # [n, 3, H, W]
    chosen = np.moveaxis(SECTORS[:, sector.astype(np.int64) % 6], 0, 1)
    found: Ndarray = np.take_along_axis(parts, chosen, 1)
    return found


def grayscale(x: Images, channels: int) -> Images:
    """Return the brightness of images in 1 or 3 equal channels; grey images stay as they are."""
    single = x if x.shape[1] == 1 else stored(grey(x), x)
    result: Ndarray = np.repeat(single, channels, 1)
    return result


def autocontrast(x: Images) -> Images:
    """Return images stretched so that each channel goes from 0 to full brightness; a constant one as it is."""
    low, high = x.min((2, 3), keepdims=True).astype(np.float32), x.max((2, 3), keepdims=True).astype(np.float32)
    flat = low == high
    span = np.where(flat, np.float32(1), (high - low) * np.float32(1 / bound(x)))
    return stored((x - np.where(flat, np.float32(0), low)) / span, x)


def as_bytes(x: Images) -> Images:
    """Return pixels as bytes, each of which stands for an equal share of 0 .. 1."""
    return x if x.dtype == np.uint8 else (x * np.float32(255.999)).astype(np.uint8)


def equalize(x: Images) -> Images:
    """Return images whose values are spread evenly, each channel by its own histogram, by Pillow's definition."""
    n, channels, height, width = x.shape
    # [n C, H W]: each channel's bytes are counted at places of their own.
    flat = as_bytes(x).reshape(n * channels, height * width)
    places = flat + 256 * np.arange(n * channels)[:, None]
    counts = np.bincount(places.ravel(), minlength=256 * n * channels).reshape(-1, 256)
    total = counts.cumsum(1)
    # Pixels of the brightest value have no share in the step.
    brightest = 255 - (counts[:, ::-1] > 0).argmax(1)
    step = ((height * width - counts[np.arange(len(counts)), brightest]) // 255)[:, None]
    table = np.zeros_like(total)
    table[:, 1:] = np.clip((total[:, :-1] + step // 2) // np.maximum(step, 1), 0, 255)
    # Too few pixels for a step: nothing changes.
    table = np.where(step == 0, np.arange(256), table).astype(np.uint8)
    found = table.ravel()[places].reshape(x.shape)
    return found if x.dtype == np.uint8 else found / np.float32(255)


def posterize(x: Images, bits: Ndarray) -> Images:
    """Return images that keep so many bits of each pixel, the upper ones."""
    if x.dtype == np.uint8:
        mask = (256 - (1 << (8 - np.asarray(bits, np.int64)))).astype(np.uint8)
        return np.bitwise_and(x, mask[:, None, None, None])
    levels = per_image(2.0 ** np.asarray(bits))
    kept: Ndarray = np.clip(np.floor(x * levels), 0, levels - 1) * (1 / levels)
    return kept


def invert(x: Images) -> Images:
    """Return full brightness - x."""
    return np.bitwise_not(x) if x.dtype == np.uint8 else np.float32(1) - x


def solarize(x: Images, threshold: Ndarray) -> Images:
    """Return images whose pixels at or above a threshold, in their own units, are inverted."""
    return np.where(x >= per_image(threshold), invert(x), x)


def sharpness(x: Images, factor: Ndarray) -> Images:
    """Return images blended with smoother ones, but for their edges: 0 is smooth, 1 the image, 2 is sharp."""
    if min(x.shape[2:]) <= 2:
        return x
    inner = x[:, :, 1:-1, 1:-1]
    width = inner.shape[3]
    # The mean of nine pixels, of which the middle one counts five times.
    pixels = x.astype(np.float32)
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    smooth = rows[..., :width] + rows[..., 1 : width + 1] + rows[..., 2:]
    smooth = (smooth + 4 * pixels[:, :, 1:-1, 1:-1]) / np.float32(13)
    smooth = np.rint(smooth) if x.dtype == np.uint8 else smooth
    result = x.copy()
    result[:, :, 1:-1, 1:-1] = stored(inner + (smooth - inner) * per_image(1.0 - np.asarray(factor, np.float64)), x)
    return result


def gaussian_blur(x: Images, sizes: tuple[int, int], sigma: Ndarray) -> Images:
    """Return images smoothed by a Gaussian in a window of (columns, rows) pixels; sigma [n] in pixels.

    The window is cut off and its weights add up to 1; beyond the edges the image is reflected.
    """
    across, down = (size // 2 for size in sizes)
    if across >= x.shape[3] or down >= x.shape[2]:
        raise DataError(
            f"GaussianBlur: kernel_size {sizes} for images of {x.shape[2]} x {x.shape[3]} pixels; half of it has to be"
            " less than a side"
        )
    pixels: Ndarray = np.pad(x.astype(np.float32), ((0, 0), (0, 0), (down, down), (across, across)), "reflect")
    rows, columns = (gaussian_weights(size, sigma) for size in (sizes[1], sizes[0]))
    height, width = x.shape[2:]
    # Rows are summed first, then columns.
    pixels = np.add.reduce([pixels[:, :, i : i + height] * per_image(rows[:, i]) for i in range(sizes[1])])
    pixels = np.add.reduce([pixels[..., i : i + width] * per_image(columns[:, i]) for i in range(sizes[0])])
    return stored(np.rint(pixels), x) if x.dtype == np.uint8 else pixels


def gaussian_weights(size: int, sigma: Ndarray) -> Ndarray:
    """Return exp(-d^2 / (2 sigma^2)) at distances d from the middle, scaled to add up to 1: [n, size]."""
    distance = np.arange(size) - (size - 1) / 2
    weights: Ndarray = np.exp(-0.5 * np.square(distance / np.asarray(sigma, np.float64)[:, None]))
    return weights / weights.sum(1, keepdims=True)
