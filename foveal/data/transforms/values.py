"""The kind of numbers that pixels are: ToDtype, Normalize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveal.data.statistics import Images, Normalisation, scaled
from foveal.data.transforms.pixels import as_bytes
from foveal.data.transforms.transform import Transform
from foveal.errors import DataError, ShapeError


class ToDtype(Transform):
    """All images as "uint8" or "float32".

    scale: divide bytes by 255, and let floats from 0 to 1 become bytes of which each stands for an equal share;
    without it, numbers stay what they are, and fractions are cut off.
    """

    def __init__(self, dtype: str = "float32", scale: bool = False) -> None:
        if dtype not in ("uint8", "float32"):
            raise ShapeError(f"ToDtype: dtype is {dtype!r}; it is 'uint8' or 'float32'")
        self.dtype, self.scale = dtype, scale

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] of that dtype."""
        if x.dtype == self.dtype:
            return x
        if self.dtype == "float32":
            return scaled(x) if self.scale else x.astype(np.float32)
        high = 1 if self.scale else 255
        if x.size and not (x.min() >= 0 and x.max() <= high):
            raise DataError(
                f"ToDtype: pixels from {x.min():g} to {x.max():g} are no bytes; they have to lie from 0 to {high}"
            )
        return as_bytes(x) if self.scale else x.astype(np.uint8)


class Normalize(Transform):
    """(x - mean) / std by channel, of floats; mean, std: a number for each channel, or one for all.

    A Loader normalises by itself, with mean= and std=, after it has augmented. Raises DataError for bytes.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self._normalisation = Normalisation(self.mean, self.std)

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] normalised."""
        if x.dtype == np.uint8:
            raise DataError("Normalize: images are bytes; put ToDtype('float32', scale=True) before it")
        return self._normalisation(x)
