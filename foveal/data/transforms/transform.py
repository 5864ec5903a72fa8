"""What all transforms have in common, and those that are made of others.

A transform of one's own derives from Transform: `make_params` draws numbers for each image, `transform` changes images
by them. What one image gets may depend on its own numbers alone:

    class Dim(Transform):
        def make_params(self, draws, shape):
            return {"factor": draws.uniform(0.5, 1.0)}

        def transform(self, x, factor):
            return (x * factor[:, None, None, None]).astype(x.dtype)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foveal.arguments import checked
from foveal.data.statistics import Images
from foveal.data.transforms.draws import STREAM, Draws
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray

Shape = tuple[int, int, int, int]
# Of seeds and epochs.
LARGEST_NUMBER = 1 << 62
# Pixels of a side; Pillow's pictures are not much larger.
LARGEST_SIDE = 1 << 16


class Transform:
    """Changes images, each by its own random numbers.

    Called on one image [C, H, W] or a batch [n, C, H, W], of bytes or of floats, it returns a new array of the same
    dtype; arrays that it is given stay as they are. The numbers follow from seed, epoch and index alone, so an image
    gets the same whatever batch it is in.

        flipped = RandomHorizontalFlip()(images, seed=1, epoch=3, index=[17, 4, 20])

    seed, epoch: 0 if not given. index: the number of the image in the data set, or of each image of the batch; 0, 1,
    2 ... if not given. A Loader gives all of them. Raises DataError for what are no images, and for images that the
    transform has no meaning for.
    """

    @checked
    def __call__(
        self, images: Images, *, seed: int = 0, epoch: int = 0, index: int | Sequence[int] | Ndarray | None = None
    ) -> Images:
        name, x = type(self).__name__, np.asarray(images)
        if x.ndim not in (3, 4) or (x.dtype != np.uint8 and x.dtype.kind != "f"):
            raise DataError(
                f"{name}: images are {shown(images)}; give [C, H, W] or [n, C, H, W], uint8 (0 to 255) or floats"
            )
        batch: Ndarray = x if x.ndim == 4 else x[None]
        batch = batch if batch.dtype == np.uint8 else batch.astype(np.float32, copy=False)
        result = self.apply(batch, draws_of(name, len(batch), seed, epoch, index))
        return result if x.ndim == 4 else result[0]

    def apply(self, x: Images, draws: Draws) -> Images:
        """Return images x [n, C, H, W] changed by random numbers of these n images."""
        return self.transform(x, **self.make_params(draws, as_shape(x)))

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return what `transform` takes by name, drawn for images of this shape."""
        return {}

    def transform(self, *images: Any, **params: Any) -> Images:
        """Return images, x [n, C, H, W], changed by these numbers."""
        raise NotImplementedError(f"{type(self).__name__} has to define transform(x, ...)")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({values})"


class RandomTransform(Transform):
    """A transform that is applied with probability p, to each image for itself."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(self, p)

    def apply(self, x: Images, draws: Draws) -> Images:
        """Return the images, some of them changed."""
        rows = np.flatnonzero(draws.uniform() < self.p)
        return changed(self, x, rows, lambda part, own: Transform.apply(self, part, own), draws)


class Compose(Transform):
    """Several transforms, one after the other.

    transforms: a list. An image's random numbers for one of them depend on its place in the list.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = listed(self, transforms)

    def apply(self, x: Images, draws: Draws) -> Images:
        """Return the images changed by all transforms in order."""
        for place, part in enumerate(self.transforms):
            x = part.apply(x, draws.fork(place))
        return x


class RandomApply(Transform):
    """Several transforms, all of them with probability p, or none, for each image.

    Raises DataError where they would give images of another shape or dtype, as a batch has one of each.
    """

    def __init__(self, transforms: Sequence[Any], p: float = 0.5) -> None:
        self.transforms, self.p = listed(self, transforms), probability(self, p)
        self._all = Compose(self.transforms)

    def apply(self, x: Images, draws: Draws) -> Images:
        """Return the images, some of them changed."""
        rows = np.flatnonzero(draws.uniform() < self.p)
        return changed(self, x, rows, self._all.apply, draws)


class RandomChoice(Transform):
    """One of several transforms for each image.

    transforms: a list; p: how probable each of them is, in any unit; equal if not given. Raises DataError where they
    would give images of different shapes or dtypes, and ShapeError for p that does not fit.
    """

    def __init__(self, transforms: Sequence[Any], p: Sequence[float] | None = None) -> None:
        self.transforms = listed(self, transforms)
        count = len(self.transforms)
        weights = np.ones(count) if p is None else np.asarray(p, np.float64)
        if weights.shape != (count,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
            raise ShapeError(
                f"RandomChoice: p is {shown(p)}; give {count} numbers of 0 or more, one for each transform"
            )
        self.p = tuple((weights / weights.sum()).tolist())

    def apply(self, x: Images, draws: Draws) -> Images:
        """Return the images, each changed by the transform that was drawn for it."""
        chosen = np.searchsorted(np.cumsum(self.p), draws.uniform(), side="right")
        # Rounding may leave the sum below 1.
        chosen = np.minimum(chosen, len(self.p) - 1)
        result: Images | None = None
        for place, part in enumerate(self.transforms):
            rows = np.flatnonzero(chosen == place)
            if len(rows):
                own = part.apply(x[rows], draws.rows(rows).fork(place))
                if result is None:
                    result = np.empty((len(x), *own.shape[1:]), own.dtype)
                check_alike(self, own, result)
                result[rows] = own
        return x if result is None else result


def changed(
    transform: Transform, x: Images, rows: Ndarray, change: Callable[[Images, Draws], Images], draws: Draws
) -> Images:
    """Return a copy of the images with some rows changed; the images themselves if there are none to change."""
    if not len(rows):
        return x
    own = change(x[rows], draws.rows(rows).fork(0))
    check_alike(transform, own, x)
    result = x.copy()
    result[rows] = own
    return result


def check_alike(transform: Transform, own: Images, others: Images) -> None:
    """Raise DataError unless images have the shape and dtype of the others in their batch."""
    if own.shape[1:] != others.shape[1:] or own.dtype != others.dtype:
        raise DataError(
            f"{type(transform).__name__}: some images of a batch would be {own.dtype} {list(own.shape[1:])} and others"
            f" {others.dtype} {list(others.shape[1:])}; what changes size or dtype has to be applied to all"
        )


def draws_of(
    name: str, count: int, seed: int, epoch: int, index: int | Sequence[int] | Ndarray | None, stream: int = STREAM
) -> Draws:
    """Return random numbers of so many images. Raises ArgumentError where index is not one number for each."""
    places = np.arange(count) if index is None else np.atleast_1d(np.asarray(index))
    if places.shape != (count,) or places.dtype.kind not in "iu" or (count and places.min() < 0):
        raise ArgumentError(
            f"{name}: index is {shown(index)} for {count} images; give a number of 0 or more for each image"
        )
    if not 0 <= seed <= LARGEST_NUMBER or not 0 <= epoch <= LARGEST_NUMBER:
        raise ArgumentError(f"{name}: seed is {seed} and epoch {epoch}; both are from 0 to 2^62")
    return Draws(seed, epoch, places, stream)


def as_shape(x: Images) -> Shape:
    """Return the shape of images, (n, C, H, W)."""
    n, channels, height, width = x.shape
    return n, channels, height, width


def bound(x: Images) -> float:
    """Return what stands for full brightness: 255 of bytes, 1 of floats."""
    return 255.0 if x.dtype == np.uint8 else 1.0


def per_image(values: Ndarray) -> Ndarray:
    """Return numbers [n] as float32 [n, 1, 1, 1], which meet the pixels of their images."""
    return np.asarray(values, np.float32)[:, None, None, None]


def stored(x: Ndarray, like: Images) -> Images:
    """Return pixels cut to the range of `like`, in its dtype; fractions of a byte are cut off, as in torchvision.

    x: float32, an array that nothing else needs, since it is changed.
    """
    result: Ndarray = np.clip(x, 0, bound(like), out=x).astype(like.dtype, copy=False)
    return result


def listed(transform: Transform, transforms: Sequence[Any]) -> list[Transform]:
    """Return transforms as a list. Raises ArgumentError unless there are some."""
    name = type(transform).__name__
    found = list(transforms)
    if not found:
        raise ArgumentError(f"{name}: transforms is {shown(transforms)}; give a list of one transform or more")
    for part in found:
        if not isinstance(part, Transform):
            raise ArgumentError(
                f"{name}: transforms holds {shown(part)}; give objects of foveal.data.transforms. A function"
                " (x, rng) -> x stands beside them in augment=[...], or is a class derived from Transform"
            )
    return found


def probability(transform: Transform, p: float) -> float:
    """Return a probability. Raises ShapeError for a number that is none."""
    if not 0 <= p <= 1:
        raise ShapeError(f"{type(transform).__name__}: p is {p}; a probability lies from 0 to 1")
    return p


def bounds(transform: Transform, name: str, value: Sequence[float], lowest: float = -np.inf) -> tuple[float, float]:
    """Return a range (low, high). Raises ShapeError unless it is one, at or above `lowest`."""
    if len(value) != 2 or not lowest <= value[0] <= value[1] < np.inf or value[0] == -np.inf:
        above = "" if lowest == -np.inf else f", {lowest:g} or more"
        raise ShapeError(
            f"{type(transform).__name__}: {name} is {shown(value)}; give two numbers (low, high), low not above"
            f" high{above}"
        )
    return float(value[0]), float(value[1])


def sides(transform: Transform, size: int | Sequence[int]) -> tuple[int, int]:
    """Return (rows, columns); one number stands for both. Raises ShapeError for what is no size."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    pair = pair * 2 if len(pair) == 1 else pair
    if len(pair) != 2 or not 1 <= min(pair) <= max(pair) <= LARGEST_SIDE:
        raise ShapeError(
            f"{type(transform).__name__}: size is {shown(size)}; give rows and columns, from 1 to {LARGEST_SIDE}, or"
            " one number for both"
        )
    return pair[0], pair[1]
