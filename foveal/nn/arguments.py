"""The hyper-parameters that many layers take: the types they may have, and the checks of their values.

Layers over windows of images take "one number for rows and columns, or a pair (rows, columns)", as PyTorch's do. These
types name that; `pair` and `sides` of foveal/ops/window.py bring what was given into its full form, a Pair or Sides.
"""

import math
from typing import Literal, TypeGuard

import numpy as np

from foveal.errors import ShapeError
from foveal.ops.window import Pair as Pair
from foveal.ops.window import Sides as Sides

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
