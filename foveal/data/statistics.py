"""From bytes to what a network computes with: scaling, mean and standard deviation, normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError

Floats = NDArray[np.float32]
# Images [n, C, H, W]: bytes, which stand for value / 255 (`scaled`), or floats, which are what they are.
Images = NDArray[np.uint8] | Floats

# Images of floats that are converted to float64 at a time when their statistics are summed: so many, or as many as
# take so many bytes then.
_BLOCK, _BLOCK_BYTES = 4096, 128 << 20
# Bytes of images that are counted at a time; counting takes eight times as many.
_COUNTED_BYTES = 1 << 20


def scaled(x: Images) -> Floats:
    """Return images as float32 of the same shape: bytes divided by 255, floats as they are."""
    return np.divide(x, 255, dtype=np.float32) if x.dtype == np.uint8 else x.astype(np.float32, copy=False)


def channel_statistics(x: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of scaled(x), x [n, C, H, W], in float64.

    There is never a float copy of all images. The deviation of a channel that is constant is 1.
    """
    if x.dtype == np.uint8:
        return statistics_of_counts(counted(x.view(np.uint8)))
    return _in_tuples(*_of_floats(x))


def _in_tuples(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, given mean and variance [C]."""
    std = np.sqrt(variance)
    # A deviation below this share of the mean is the rounding of a constant.
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def counted(x: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each of the 256 values occurs in each channel of x [n, C, H, W], as [C, 256]."""
    channels = x.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    images = max(1, _COUNTED_BYTES // x[0, 0].size)
    for start in range(0, len(x), images):
        for channel in range(channels):
            counts[channel] += histogram(x[start : start + images, channel].ravel())
    return counts


def statistics_of_counts(counts: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of bytes / 255, from how often each of the 256 values occurs, [C, 256]."""
    # The values as they are computed with, rounded to float32.
    values = scaled(np.arange(256, dtype=np.uint8)).astype(np.float64)
    count = int(counts[0].sum())
    mean = (counts * values).sum(1) / count
    return _in_tuples(mean, (counts * np.square(values - mean[:, None])).sum(1) / count)


def histogram(x: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each of the 256 bytes occurs in x [n]. They are counted in pairs, which takes half the time."""
    paired = len(x) // 2 * 2
    pairs = np.bincount(x[:paired].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: NDArray[np.int64] = pairs.sum(0) + pairs.sum(1) + np.bincount(x[paired:], minlength=256)
    return counts


def _of_floats(x: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance [C] of floats: blocks of images are summed one after another."""
    images = max(1, min(_BLOCK, _BLOCK_BYTES // (8 * x[0].size)))
    blocks = [x[start : start + images] for start in range(0, len(x), images)]
    count = x.size // x.shape[1]
    zero = np.zeros(x.shape[1])
    mean = sum((block.sum(axis=(0, 2, 3), dtype=np.float64) for block in blocks), zero) / count
    squares = zero
    for block in blocks:
        distance = block - mean[:, None, None]
        squares = squares + np.square(distance, out=distance).sum(axis=(0, 2, 3))
    return mean, squares / count


class Normalisation:
    """(x - mean) / std per channel, after bytes were scaled; mean, std: [C].

    One mean and one std stand for all channels. Raises DataError unless each mean is finite and each std a finite
    number above 0, both as float32.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            centre, deviation = np.asarray(mean, np.float32), np.asarray(std)
            scale = (1 / deviation).astype(np.float32)
        if centre.ndim != 1 or centre.shape != deviation.shape:
            raise DataError(
                f"mean {list(mean)} and std {list(std)}: one of each per channel is needed, such as (0.5,) and (0.2,)"
            )
        if not np.isfinite(centre).all():
            raise DataError(f"mean {list(mean)}: every mean has to be finite; take those of the training images")
        if not ((deviation > 0) & np.isfinite(scale) & (scale > 0)).all():
            raise DataError(
                f"std {list(std)}: every standard deviation has to be a finite number above 0; take those of the "
                "training images, and 1 for a constant channel"
            )
        # [C, 1, 1]
        self.centre, self.scale = centre[:, None, None], scale[:, None, None]

    def __call__(self, x: Images) -> Floats:
        """Return images [n, C, H, W] normalised, as a new C-contiguous array."""
        if x.ndim != 4 or len(self.centre) not in (1, x.shape[1]):
            raise DataError(
                f"images of shape {list(x.shape)} with {len(self.centre)} means: [n, C, H, W] with as many channels is "
                "needed"
            )
        # The same steps in the same order, whether bytes are scaled here or before.
        if x.dtype == np.uint8:
            result = np.divide(x, 255, dtype=np.float32, order="C")
            result -= self.centre
        else:
            result = np.subtract(x, self.centre, order="C")
        result *= self.scale
        return result
