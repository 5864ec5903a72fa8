"""Test-time augmentation: a network sees each image several times, changed a little, and its answers are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foveal import metrics
from foveal.data.statistics import Floats
from foveal.errors import ShapeError
from foveal.strides import Ndarray

#: Stands for the image alone.
NONE = "none"
View = Callable[[Floats], Floats]
# Images are moved by this part of a side, a pixel at least: 2 pixels of 32, 14 of 224.
PART = 16
# Or by this part, a pixel of 32.
SMALL_PART = 32


def as_it_is(x: Floats) -> Floats:
    """Return images [n, C, H, W] as they are."""
    return x


def mirrored(x: Floats) -> Floats:
    """Return images [n, C, H, W] with left and right exchanged."""
    return np.ascontiguousarray(x[..., ::-1])


def moved(down: int, right: int) -> View:
    """Return a function that moves images by 1/16 of a side, down or up (-1), right or left (-1)."""

    def view(x: Floats) -> Floats:
        # What comes in from beyond an edge is the pixel at the edge, whatever black is after normalisation.
        rows, columns = (
            np.clip(np.arange(side) - sign * max(1, side // PART), 0, side - 1)
            for side, sign in zip(x.shape[2:], (down, right), strict=True)
        )
        return x[:, :, rows[:, None], columns]

    return view


def shifted(down: int, right: int) -> View:
    """Return a function that moves images by 1/32 of a side; what comes in mirrors the image at its edge."""

    def view(x: Floats) -> Floats:
        rows, columns = (
            reflected(np.arange(side) - sign * max(1, side // SMALL_PART), side)
            for side, sign in zip(x.shape[2:], (down, right), strict=True)
        )
        return x[:, :, rows[:, None], columns]

    return view


def reflected(places: Ndarray, side: int) -> Ndarray:
    """Return places beyond the edges of a side as their mirror images: -1 is 1."""
    last = max(1, side - 1)
    return np.minimum(last - abs(last - abs(places) % (2 * last)), side - 1)


def then(first: View, second: View) -> View:
    """Return a function that does one after the other."""
    return lambda x: second(first(x))


@dataclass(frozen=True)
class Views:
    """What is seen of each image, and how the answers become one."""

    functions: tuple[View, ...]
    #: The share of each in the mean; all the same if there are none.
    weights: tuple[float, ...] = ()
    #: Whether the mean is of the logits, and not of the probabilities.
    of_logits: bool = False

    def __len__(self) -> int:
        return len(self.functions)

    def __iter__(self) -> Iterator[View]:
        return iter(self.functions)

    def mean(self, logits: Sequence[Floats]) -> Floats:
        """Return the mean of what the network says of each view, [N, K]; a single one as it is.

        That is the mean of the logits, or the logarithm of the mean of the probabilities.
        """
        if len(logits) == 1:
            return logits[0]
        if self.of_logits:
            return self.weighted(np.stack(logits)).astype(np.float32)
        parts = np.stack([metrics.log_softmax(part) for part in logits])
        highest = parts.max(0)
        mean: Floats = (highest + np.log(self.weighted(np.exp(parts - highest)))).astype(np.float32)
        return mean

    def weighted(self, parts: Floats) -> Floats:
        """Return the mean of numbers [views, N, K] over the views, by their weights."""
        mean: Floats = np.average(parts, 0, self.weights) if self.weights else parts.mean(0)
        return mean


CROPS = tuple(moved(down, right) for down in (-1, 1) for right in (-1, 1))
SHIFTS = (as_it_is, shifted(-1, -1), shifted(1, 1))
# By name, as users give it.
VIEWS: dict[str, Views] = {
    "flip": Views((as_it_is, mirrored)),
    "crops": Views((as_it_is, *CROPS)),
    "crops+flip": Views((as_it_is, *CROPS, mirrored, *(then(mirrored, move) for move in CROPS))),
    # The image counts as much as both shifts do (K. Jordan 2024, section 3.5).
    "shifts+flip": Views(
        (*SHIFTS, *(then(move, mirrored) for move in SHIFTS)), 2 * (1 / 4, 1 / 8, 1 / 8), of_logits=True
    ),
}


def views(tta: str | None) -> Views:
    """Return what is seen of each image; the image alone for None and "none".

    Raises ShapeError that lists the names if there is none of this name.
    """
    if tta is None or tta == NONE:
        return Views((as_it_is,))
    if tta not in VIEWS:
        raise ShapeError(f"tta {tta!r}: choose from {', '.join(VIEWS)}, {NONE}")
    return VIEWS[tta]
