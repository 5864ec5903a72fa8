"""Augmentations: random changes of training images that leave their class as it is.

One of your own is a function (images, rng) -> images of the same shape; `data.Loader(..., augment=cutout)` calls it on
each batch, float32 [n, C, H, W], 0 to 1 as a rule, before it is normalised:

    def cutout(x, rng):
        x = x.copy()
        for image, top, left in zip(x, *rng.integers(0, x.shape[2] - 8, (2, len(x)))):
            image[:, top : top + 8, left : left + 8] = 0
        return x

It draws from `rng` alone, NumPy's generator of this batch, so that a run can be repeated to the bit. To give one a name
for `foveal train`, write a function here that takes the images' size and returns it, and enter that in AUGMENTATIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.random import Generator

from foveal.data.statistics import Floats
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import shown, takes

# Takes a batch of images, float32 [n, C, H, W] in 0 .. 1 as a rule, before they are normalised, and a random generator
# of this batch alone; returns new images of the same shape. All randomness must come from the generator, so that a run
# can be repeated.
Augment = Callable[[Floats, Generator], Floats]


def shift(size: tuple[int, int]) -> Augment:
    """Move each image by up to 1/12 of its shorter side: 2 pixels of 28."""
    pad = max(1, min(size) // 12)
    return lambda x, rng: random_crop_flip(x, rng, pad, flip=False)


def crop_and_flip(size: tuple[int, int]) -> Augment:
    """Move each image by up to 1/8 of its shorter side, 4 pixels of 32, and mirror half of the images."""
    pad = max(1, min(size) // 8)
    return lambda x, rng: random_crop_flip(x, rng, pad, flip=True)


# By name, as users give it: functions of the images' size (H, W).
AUGMENTATIONS: dict[str, Callable[[tuple[int, int]], Augment]] = {"shift": shift, "crop+flip": crop_and_flip}


def augmentation(name: str | None, size: tuple[int, int]) -> Augment | None:
    """Return the augmentation of this name for images of `size` (H, W); None for no name.

    Raises ShapeError that lists the names if there is none of this name.
    """
    if name is None:
        return None
    if name not in AUGMENTATIONS:
        raise ShapeError(f"augmentation {name!r}: choose from {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name](size)


def combined(given: str | Augment | Sequence[Any] | None) -> Augment | None:
    """Return names and functions, one or a list of them, as one function; None for None.

    Raises ShapeError for a name that there is not, and ArgumentError for what is no function of (x, rng).
    """
    parts = [] if given is None else [given] if isinstance(given, str) or callable(given) else list(given)
    for part in parts:
        if isinstance(part, str):
            augmentation(part, (1, 1))
        elif not takes([0, 0], part):
            raise ArgumentError(f"augment holds {shown(part)}; give names and functions (x, rng) -> x")
    if len(parts) == 1 and not isinstance(parts[0], str):
        return cast(Augment, parts[0])

    def augment(x: Floats, rng: Generator) -> Floats:
        for part in parts:
            # A name stands for a function of the images' size.
            change: Any = augmentation(part, x.shape[2:]) if isinstance(part, str) else part
            x = change(x, rng)
        return x

    return augment if parts else None


def random_crop_flip(x: Floats, rng: Generator, pad: int, flip: bool) -> Floats:
    """Move each image by up to `pad` pixels in both directions, and mirror half of them if `flip`.

    x and result: [n, C, H, W]. This is a random crop after padding with zeros (black), and a horizontal flip with
    probability 1/2.
    """
    if x.ndim != 4 or pad < 0:
        raise ShapeError(
            f"random_crop_flip: images of shape {x.shape} and pad {pad}; [n, C, H, W], and 0 or more pixels"
        )
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    # [n, C, 2 pad + 1, 2 pad + 1, H, W]: all crops of each image, without a copy.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    # One crop of each image, [n, C, H, W].
    down, right = rng.integers(0, 2 * pad + 1, (2, n))
    moved = windows[np.arange(n), :, down, right]
    if flip:
        mirrored = rng.random(n) < 0.5
        moved[mirrored] = moved[mirrored][..., ::-1]
    return moved
