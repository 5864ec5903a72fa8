"""Images mixed with others of their batch, and labels with them: MixUp, CutMix.

They are for batches: `data.Loader(..., mix="mixup+cutmix")`, or called on images and labels. Whom an image is mixed
with follows from the batch, so that here its size counts; how, from (seed, epoch, index of the batch's first image).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from foveal.arguments import checked
from foveal.data.statistics import Floats, Images
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.transform import draws_of, stored
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray

# The stream of random numbers of a mixture; the one before is that of the transforms.
STREAM = 6


class Mixing:
    """A mixture of each image of a batch with the one before it, and of their labels.

    alpha: of the beta distribution of the share that an image keeps; 1 makes all shares equally probable.
    num_classes: K, for labels that are numbers; a Loader finds it by itself.

        x, y = MixUp(num_classes=10)(images, labels, seed=1)  # y: float32 [n, 10], the shares of the classes

    Images [n, C, H, W] of bytes or floats, labels [n] or shares [n, K]. seed, epoch, index: as of all transforms, index
    [n]. Raises DataError for what are no images and labels of a batch.
    """

    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None) -> None:
        name = type(self).__name__
        if not 0 < alpha < np.inf:
            raise ShapeError(f"{name}: alpha is {alpha}; it has to be above 0")
        if num_classes is not None and num_classes < 1:
            raise ShapeError(f"{name}: num_classes is {num_classes}; it is 1 or more")
        self.alpha, self.num_classes = alpha, num_classes

    @checked
    def __call__(
        self,
        images: Images,
        labels: Ndarray,
        *,
        seed: int = 0,
        epoch: int = 0,
        index: Sequence[int] | Ndarray | None = None,
    ) -> tuple[Images, Floats]:
        x: Ndarray = np.asarray(images)
        y, name = np.asarray(labels), type(self).__name__
        if x.ndim != 4 or (x.dtype != np.uint8 and x.dtype.kind != "f") or y.shape[:1] != x.shape[:1] or not len(x):
            raise DataError(
                f"{name}: images are {shown(images)} and labels {shown(labels)}; give a batch [n, C, H, W] of bytes or"
                " floats, and n labels"
            )
        first = draws_of(name, len(x), seed, epoch, index, STREAM).rows(np.arange(1))
        return self.mixed(x, one_hot(name, y, self.num_classes), first)

    def mixed(self, x: Images, shares: Floats, draws: Draws) -> tuple[Images, Floats]:
        """Return images [n, C, H, W] and shares of classes [n, K], mixed. draws: of one image, for all of the batch."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha}, num_classes={self.num_classes})"


class MixUp(Mixing):
    """Images as weighted means of two, and their labels alike (Zhang et al. 2018).

    alpha: 0.2 is usual for photos, 1 for small images.
    """

    def mixed(self, x: Images, shares: Floats, draws: Draws) -> tuple[Images, Floats]:
        """Return images and shares of classes, each share of an image and of the one before it."""
        share = np.float32(draws.dirichlet(self.alpha, 2)[0, 0])
        pixels = x * share + np.roll(x, 1, 0) * (1 - share)
        return stored(pixels, x) if x.dtype == np.uint8 else pixels, meant(shares, share)


class CutMix(Mixing):
    """A rectangle of each image out of another one, and labels by the areas (Yun et al. 2019)."""

    def mixed(self, x: Images, shares: Floats, draws: Draws) -> tuple[Images, Floats]:
        """Return images with a rectangle of the one before, and shares of classes by their areas."""
        height, width = x.shape[2:]
        half = 0.5 * np.sqrt(1 - draws.dirichlet(self.alpha, 2)[0, 0])
        across, down = int(draws.integers(0, width)[0]), int(draws.integers(0, height)[0])
        left, right = max(0, across - int(half * width)), min(width, across + int(half * width))
        top, bottom = max(0, down - int(half * height)), min(height, down + int(half * height))
        result = x.copy()
        result[:, :, top:bottom, left:right] = np.roll(x, 1, 0)[:, :, top:bottom, left:right]
        return result, meant(shares, np.float32(1 - (right - left) * (bottom - top) / (width * height)))


class MixChoice(Mixing):
    """One of several mixtures for each batch, equally probable."""

    def __init__(self, mixings: Sequence[Mixing]) -> None:
        self.mixings = list(mixings)
        super().__init__(num_classes=next((m.num_classes for m in self.mixings if m.num_classes is not None), None))

    def mixed(self, x: Images, shares: Floats, draws: Draws) -> tuple[Images, Floats]:
        """Return what the mixture that was drawn returns."""
        chosen = int(draws.integers(0, len(self.mixings))[0])
        return self.mixings[chosen].mixed(x, shares, draws.fork(chosen))

    def __repr__(self) -> str:
        return f"MixChoice({self.mixings})"


# By name, as users give it.
MIXINGS: dict[str, Callable[[], Mixing]] = {
    "mixup": lambda: MixUp(),
    "cutmix": lambda: CutMix(),
    "mixup+cutmix": lambda: MixChoice([MixUp(), CutMix()]),
}


def mixing(mix: str | Mixing | None) -> Mixing | None:
    """Return the mixture of that name; None for None and "none".

    Raises ShapeError that lists the names if there is none of this name.
    """
    if mix is None or isinstance(mix, Mixing):
        return mix
    if mix == "none":
        return None
    if mix not in MIXINGS:
        raise ShapeError(f"mix {mix!r}: choose from {', '.join(MIXINGS)}, none; or give MixUp(...) or CutMix(...)")
    return MIXINGS[mix]()


def meant(shares: Floats, share: np.float32) -> Floats:
    """Return shares of classes [n, K] of an image, and of the one before it."""
    result: Floats = shares * share + np.roll(shares, 1, 0) * (1 - share)
    return result


def one_hot(name: str, y: Ndarray, classes: int | None) -> Floats:
    """Return labels [n] as shares of classes, float32 [n, K]; shares [n, K] as they are.

    Raises DataError for other labels, and ArgumentError where numbers come without K.
    """
    shares = y.ndim == 2 and y.dtype.kind == "f" and classes in (None, y.shape[1])
    if shares and ((y >= 0) & (y <= 1)).all():
        return y.astype(np.float32, copy=False)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels are {shown(y)}; give class numbers [n], or shares of the classes from 0 to 1, [n, K]"
        )
    if classes is None:
        raise ArgumentError(f"{name}: num_classes is missing, and labels are numbers; say how many classes there are")
    if len(y) and not 0 <= y.min() <= y.max() < classes:
        raise DataError(f"{name}: labels go from {y.min()} to {y.max()}, and there are {classes} classes")
    return np.eye(classes, dtype=np.float32)[y]
