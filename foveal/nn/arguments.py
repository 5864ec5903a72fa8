"""The hyper-parameters that many layers take: the types they may have, and the checks of their values.

Layers over windows of images take "one number for rows and columns, or a pair (rows, columns)", as PyTorch's do. These
types name that; `pair` and `sides` of foveal/ops/window.py bring what was given into its full form, a Pair or Sides.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Literal, Protocol, TypeGuard

import numpy as np

from foveal.api import as_argument
from foveal.arguments import checked
from foveal.errors import ShapeError
from foveal.kinds import name_kind
from foveal.ops.op import Tensor
from foveal.ops.window import PaddingArgument
from foveal.ops.window import Pair as Pair
from foveal.ops.window import Sides as Sides
from foveal.strides import Ndarray, Shape
from foveal.trace import Symbol

# kernel_size, stride, dilation and output_padding of layers over images
PairLike = int | Pair
# padding in numbers: for all four sides, (rows, columns), or each side by itself
SidesLike = int | Pair | Sides
# padding of convolutions, which also choose it by name
PaddingLike = SidesLike | Literal["same", "valid"]

# the same for layers over sequences [N, C, L], which have one axis; a padding of two numbers is (before, after)
SingleLike = int | tuple[int]
SequencePadding = SingleLike | Pair | Literal["same", "valid"]

# of the classes that poolings over images and over sequences have in common
AxesLike = PairLike | SingleLike
AxesPadding = SidesLike | SingleLike
# whether a layer has a bias
BiasLike = bool | None
name_kind(BiasLike, "True or False; None is False")
# How many numbers there have to be, and which words there are, says `pair`, `sides` or `one_row`.
for annotation, words in (
    (PairLike, "an int or two ints (rows, columns)"),
    (SidesLike, "an int, (rows, columns) or (top, bottom, left, right)"),
    (PaddingLike, "an int, (rows, columns), (top, bottom, left, right), 'same' or 'valid'"),
    (SingleLike, "an int; sequences have one axis"),
    (SequencePadding, "an int, (before, after), 'same' or 'valid'"),
    (AxesLike, "an int or a tuple of ints, one for each axis"),
    (AxesPadding, "an int or a tuple of ints, one or two for each axis"),
):
    name_kind(annotation, words, PaddingArgument)


def check_positive(layer: str, **values: int) -> None:
    """Raise ShapeError unless each value is a whole number of at least 1; `layer` and the names go into the message."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ShapeError(f"{layer}: {name} is {value!r}, it has to be a whole number of 1 or more")


def is_number(value: object) -> TypeGuard[float]:
    """True for one real number, of Python or NumPy."""
    return isinstance(value, int | float | np.integer | np.floating)


def check_number(layer: str, name: str, value: float, low: float, high: float = math.inf) -> float:
    """Return `value` as a float. Raise ShapeError unless it is finite and lies from `low` to `high`."""
    number = is_number(value)
    if not (number and low <= value <= high and math.isfinite(value)):
        allowed = f"{low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
        raise ShapeError(f"{layer}: {name} is {value if number else repr(value)}, it has to be {allowed}")
    return float(value)


class ChecksTargets(Protocol):
    """What is needed of a loss: its name in messages, and its check of targets."""

    @property
    def name(self) -> str: ...

    def check(self, target: Ndarray, output: Shape) -> None: ...


def checked_loss(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss's `__call__` that takes Tensors and arrays alone; of arrays `check` looks at the targets, as in a step."""

    @wraps(call)
    def loss(self: ChecksTargets, output: Tensor, target: Tensor) -> Tensor:
        if isinstance(output, Tensor) or isinstance(target, Tensor):
            # A step checks its targets with it.
            if isinstance(target, Symbol):
                target.trace.losses.append((self, target, tuple(output.shape)))
            return call(self, output, target)
        self.check(as_argument(target, f"{self.name}: the target", labels=True), tuple(output.shape))
        # What cannot be computed is NaN or infinite, as in programs.
        with np.errstate(all="ignore"):
            return call(self, output, target)

    return checked(loss)
