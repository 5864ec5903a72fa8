"""Losses of a network on images and labels: what is given, checked; in parts; and the loss of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.api import Compiled, as_argument
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.explain.model import Model, modes_restored
from foveal.handover import check_finite
from foveal.kinds import shown
from foveal.strides import Ndarray
from foveal.trace import Symbol, current

# A loss: one of nn, or a function (output, target) written with operators.
LossFunction = Callable[..., Any]
# Images at once: their activations fit into the caches, and a program has to be compiled for few sizes.
BATCH = 256


def checked_pair(what: str, images: ArrayLike, labels: ArrayLike) -> tuple[Ndarray, Ndarray]:
    """Return images [N, ...] and targets [N, ...] as programs take them. Raises DataError where they do not fit."""
    x, y = as_argument(images, f"{what}: images"), as_argument(labels, f"{what}: labels", labels=True)
    if x.ndim < 2 or not x.size:
        raise DataError(f"{what}: images have shape {list(x.shape)}; give a batch of one or more, [N, C, H, W]")
    if y.ndim < 1 or len(y) != len(x):
        raise DataError(f"{what}: {len(x)} images and labels of shape {list(y.shape)}; give a target for each image")
    check_finite(x, f"{what}: images")
    return x, y


def parts(count: int, size: int = BATCH) -> Iterator[slice]:
    """Yield the parts of so many rows, of at most `size` rows, of which all but the last are equally large."""
    number = -(-count // size)
    rows = -(-count // number)
    for first in range(0, count, rows):
        yield slice(first, min(first + rows, count))


class TracedLosses:
    """What the losses that a trace has called say of targets, kept for the arrays that come later."""

    def __init__(self) -> None:
        # the losses that check targets, and the shape of the outputs that they were called on
        self.found: list[tuple[Any, tuple[int, ...]]] = []

    def loss(self, what: str, loss: LossFunction, output: object, target: Symbol) -> Symbol:
        """Return the loss as a scalar. Raises ShapeError for what is none."""
        value = loss(output, target)
        if not isinstance(value, Symbol) or value.shape != ():
            raise ShapeError(
                f"{what}: the loss returned {shown(value)}; it has to be a function of outputs and targets that returns"
                " one number, written with operators, such as nn.CrossEntropyLoss()"
            )
        self.found = [(one, shape) for one, seen, shape in current().losses if seen.node is target.node]
        return value

    def check(self, target: Ndarray) -> None:
        """Raise DataError for targets that the losses do not take, such as the number of a class that is not there."""
        for loss, shape in self.found:
            loss.check(target, (len(target), *shape[1:]))


class MeanLoss:
    """The mean loss of a network on images and labels, compiled once, for the values that its parameters have then.

    The network computes in evaluation mode, and is left in the modes that it was in.
    """

    def __init__(self, what: str, net: Model, loss: LossFunction, images: ArrayLike, labels: ArrayLike) -> None:
        self.what, self.net, self.loss = what, net, loss
        self.x, self.y = checked_pair(what, images, labels)
        self.losses, self.checked = TracedLosses(), False
        self.compiled = Compiled(self.traced)

    def traced(self, x: Symbol, y: Symbol, key: Symbol) -> Symbol:
        """Return the loss of a batch."""
        current().key = key
        return self.losses.loss(self.what, self.loss, self.net(x), y)

    def __call__(self) -> float:
        """Return the loss: the mean over the parts, by their sizes, in float64; NaN where the loss is no number."""
        total, key = 0.0, np.zeros(4, np.int32)
        with modes_restored(self.net), np.errstate(all="ignore"):
            self.net.eval()
            for part in parts(len(self.x)):
                x, y = self.x[part], self.y[part]
                if not self.checked:
                    self.compiled.program(x, y, key)
                    self.losses.check(y)
                total += len(x) * float(self.compiled(x, y, key))
        self.checked = True
        return total / len(self.x)

    def finite(self) -> float:
        """Return the loss. Raises NumericsError where it is NaN or infinite."""
        value = self()
        if not np.isfinite(value):
            raise NumericsError(f"{self.what}: the loss of the network is {value}; its parameters are not usable")
        return value


def grid(what: str, name: str, span: Sequence[float], points: int) -> Ndarray:
    """Return so many numbers from the first of `span` to the second. Raises ShapeError where they are none."""
    if len(span) != 2 or not span[0] < span[1]:
        raise ShapeError(f"{what}: {name} is {shown(span)}; give two numbers, the lower one first")
    if not 2 <= points <= MOST_POINTS:
        raise ShapeError(f"{what}: points is {points}, it has to be from 2 to {MOST_POINTS}")
    return np.linspace(span[0], span[1], points)


# Along an axis; the loss of all images is computed for each.
MOST_POINTS = 1001
