"""Tensor: an array in a function that is being traced, with the arithmetic of arrays."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from foveal.errors import ShapeError
from foveal.kinds import SIMPLE, Kind, numbers_array, shown
from foveal.strides import Ndarray, Shape

# Calls of operators by name. The operators enter themselves; op.py has the same dictionary as OPS.
CALLS: dict[str, Callable[..., Any]] = {}


class HasShape(Protocol):
    """Anything with a shape: a Tensor, a Variable, a NumPy array."""

    @property
    def shape(self) -> Shape: ...


# What an operator is called on: traced values and variables while a function is traced, else NumPy arrays; or numbers.
Operand = HasShape | float


class Tensor:
    """An array in a function that is being traced: it has a shape and arithmetic, but no numbers yet.

    Gradients, composites, layers and updates of optimisers are written with Tensors. Each arithmetic operator records
    the operator of the same meaning.
    """

    __array_priority__ = 1000  # NumPy arrays leave `array + tensor` to __radd__

    @property
    def shape(self) -> Shape:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Ndarray:
        raise ShapeError(
            "a traced value has no numbers yet, and NumPy needs them; use the operators of foveal.ops, such as ops.exp"
        )

    def __bool__(self) -> bool:
        raise ShapeError("the truth of a traced value is not known; use where(condition, a, b)")

    def __add__(self, o: Operand) -> "Tensor":
        return CALLS["add"](self, o)

    def __sub__(self, o: Operand) -> "Tensor":
        return CALLS["subtract"](self, o)

    def __rsub__(self, o: Operand) -> "Tensor":
        return CALLS["subtract"](o, self)

    def __mul__(self, o: Operand) -> "Tensor":
        return CALLS["multiply"](self, o)

    def __truediv__(self, o: Operand) -> "Tensor":
        return CALLS["divide"](self, o)

    def __rtruediv__(self, o: Operand) -> "Tensor":
        return CALLS["divide"](o, self)

    def __neg__(self) -> "Tensor":
        return CALLS["multiply"](self, -1.0)

    def __gt__(self, o: Operand) -> "Tensor":
        return CALLS["greater"](self, o)

    def __eq__(self, o: object) -> bool:
        """Return True for the same traced value. Python asks this for `x == y` and `y in x`, too."""
        if isinstance(o, bool | int | float | np.ndarray | np.generic):
            raise ShapeError("whether a traced value equals a number is not known yet; compare with > and ops.where")
        return self is o

    __hash__ = object.__hash__

    def __getitem__(self, key: object) -> "Tensor":
        """Parts of the axes from the first on, as in NumPy: integers, slices in steps of 1, and one Ellipsis."""
        keys = list(key) if isinstance(key, tuple) else [key]
        # by identity, as an array would be compared element by element
        at = next((i for i, part in enumerate(keys) if part is Ellipsis), None)
        if at is not None:
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        if len(keys) > self.ndim:
            raise ShapeError(f"{len(keys)} indices for the {self.ndim} axes of shape {self.shape}")
        y, axis = self, 0
        for part in keys:
            if isinstance(part, slice) and part.step in (None, 1):
                start, stop, _ = part.indices(y.shape[axis])
                if (start, stop) != (0, y.shape[axis]):
                    y = CALLS["narrow"](y, axis=axis, start=start, length=stop - start)
                axis += 1
            elif isinstance(part, int | np.integer) and not isinstance(part, bool):
                y = part_of(y, axis, int(part))
            else:
                taken = "integers and slices in steps of 1"
                raise ShapeError(f"a traced value is indexed with {taken}, not with {shown(part)}")
        return y

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("a traced scalar has no axis, so it has no length and no parts")
        return self.shape[0]

    def __iter__(self) -> "Iterator[Tensor]":
        return (self[i] for i in range(len(self)))

    __radd__, __rmul__ = __add__, __mul__

    def reshape(self, *dims: int) -> "Tensor":
        """ops.reshape: the same elements in another shape."""
        return CALLS["reshape"](self, shape=dims)

    def sum(self, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> "Tensor":
        return CALLS["sum"](self, axes=axes, keepdims=keepdims)

    def mean(self, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> "Tensor":
        return CALLS["mean"](self, axes=axes, keepdims=keepdims)


def tensor_or_array(x: object) -> object:
    """What functions compute with, a Tensor or a Variable as it is and all else as an array of numbers."""
    return x if isinstance(x, Tensor) else numbers_array(x)


# What is written with operators computes with Tensors, and with arrays as well.
SIMPLE[Tensor] = Kind("an array of numbers", "arrays of numbers", tensor_or_array)


def part_of(x: Tensor, axis: int, i: int) -> Tensor:
    """Part i along an axis, which is gone then."""
    if axis == 0:
        return CALLS["index"](x, i=i)
    n, shape = x.shape[axis], x.shape
    if not -n <= i < n:
        raise ShapeError(f"there is no part {i} among the {n} of axis {axis} of shape {shape}")
    part = CALLS["narrow"](x, axis=axis, start=i % n, length=1)
    return CALLS["reshape"](part, shape=(*shape[:axis], *shape[axis + 1 :]))
