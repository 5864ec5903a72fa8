"""Test-time augmentation: a network sees each image several times, changed a little, and its answers are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from foveal import metrics
from foveal.data.statistics import Floats
from foveal.errors import ShapeError

#: Stands for the image alone.
NONE = "none"
View = Callable[[Floats], Floats]
# Images are moved by this part of a side, a pixel at least: 2 pixels of 32, 14 of 224.
PART = 16


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


CROPS = [moved(down, right) for down in (-1, 1) for right in (-1, 1)]
# By name, as users give it: what is seen of each image.
VIEWS: dict[str, Sequence[View]] = {
    "flip": (as_it_is, mirrored),
    "crops": (as_it_is, *CROPS),
    "crops+flip": (as_it_is, *CROPS, mirrored, *(lambda x, move=move: move(mirrored(x)) for move in CROPS)),
}


def views(tta: str | None) -> Sequence[View]:
    """Return what is seen of each image; the image alone for None and "none".

    Raises ShapeError that lists the names if there is none of this name.
    """
    if tta is None or tta == NONE:
        return (as_it_is,)
    if tta not in VIEWS:
        raise ShapeError(f"tta {tta!r}: choose from {', '.join(VIEWS)}, {NONE}")
    return VIEWS[tta]


def mean_of_views(logits: Sequence[Floats]) -> Floats:
    """Return the logarithm of the mean of softmax(logits) over several views, [n, K]; a single view as it is."""
    if len(logits) == 1:
        return logits[0]
    parts = np.stack([metrics.log_softmax(part) for part in logits])
    highest = parts.max(0)
    mean: Floats = (highest + np.log(np.exp(parts - highest).mean(0))).astype(np.float32)
    return mean
