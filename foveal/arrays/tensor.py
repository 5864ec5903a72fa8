"""Tensor: an array in a function that is being traced; ArrayMethods: what arrays can do, shared with Variable."""

from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from foveal.arguments import checked
from foveal.arrays.calls import CALLS, Operand
from foveal.arrays.indexing import parts
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import SIMPLE, AnyNumber, Kind, numbers_array, shown
from foveal.strides import Ndarray, Shape

# Axes, in one form or another.
A = TypeVar("A")
# One axis, several, or all of them.
Axes = int | Sequence[int] | None


def is_operand(value: object) -> bool:
    """True for what arrays are computed with: arrays, traced values, variables, numbers and lists."""
    return hasattr(value, "shape") or isinstance(value, int | float | list | tuple)


class Count(int):
    """A number of elements, which is no method as PyTorch's `size` is."""

    def __call__(self, axis: object = None) -> int:
        raise ArgumentError("x.size is the number of elements, as in NumPy; write x.shape, or x.shape[0] for one axis")


class ArrayMethods:
    """The operators and methods of arrays, by NumPy's names and rules (PyTorch's where NumPy has none).

    Each is the operator of foveal.ops of the same meaning. Comparisons, == and != as well, compare elements; `is` asks
    for the same object, and sets and dictionaries go by identity.
    """

    #: NumPy arrays leave `array + tensor` to __radd__
    __array_priority__ = 1000

    __hash__ = object.__hash__

    @property
    def shape(self) -> Shape:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return Count(np.prod(self.shape))

    def numel(self) -> int:
        """The number of elements, PyTorch's name of `size`."""
        return self.size

    def detach(self) -> "Tensor":
        """The same values, through which no gradient goes."""
        return self.operate("stop_gradient", self)

    def operate(self, name: str, *operands: Any, **attributes: Any) -> "Tensor":
        """The result of the operator of that name."""
        raise NotImplementedError

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = function.__name__
        other = f"ops.{name}" if name in CALLS else "the operators of foveal.ops, such as ops.exp"
        raise ShapeError(f"np.{name}: a traced value has no numbers yet, and NumPy needs them; use {other}")

    def binary(self, name: str, a: object, b: object) -> Any:
        """The result of an operator of two operands. Raises ArgumentError where one is no array and no number."""
        for x in (a, b):
            if not is_operand(x):
                raise ArgumentError(f"{name}: {shown(x)} is no array and no number")
        return self.operate(name, a, b)

    def __add__(self, o: Operand) -> "Tensor":
        return self.binary("add", self, o)

    def __radd__(self, o: Operand) -> "Tensor":
        return self.binary("add", self, o)

    def __sub__(self, o: Operand) -> "Tensor":
        return self.binary("subtract", self, o)

    def __rsub__(self, o: Operand) -> "Tensor":
        return self.binary("subtract", o, self)

    def __mul__(self, o: Operand) -> "Tensor":
        return self.binary("multiply", self, o)

    def __rmul__(self, o: Operand) -> "Tensor":
        return self.binary("multiply", self, o)

    def __truediv__(self, o: Operand) -> "Tensor":
        return self.binary("divide", self, o)

    def __rtruediv__(self, o: Operand) -> "Tensor":
        return self.binary("divide", o, self)

    def __pow__(self, o: Operand) -> "Tensor":
        return self.binary("power", self, o)

    def __rpow__(self, o: Operand) -> "Tensor":
        return self.binary("power", o, self)

    def __matmul__(self, o: Operand) -> "Tensor":
        return self.binary("array_matmul", self, o)

    def __rmatmul__(self, o: Operand) -> "Tensor":
        return self.binary("array_matmul", o, self)

    def __neg__(self) -> "Tensor":
        return self.operate("multiply", self, -1.0)

    def __abs__(self) -> "Tensor":
        return self.operate("abs", self)

    def __lt__(self, o: Operand) -> "Tensor":
        return self.binary("less", self, o)

    def __le__(self, o: Operand) -> "Tensor":
        return self.binary("less_equal", self, o)

    def __gt__(self, o: Operand) -> "Tensor":
        return self.binary("greater", self, o)

    def __ge__(self, o: Operand) -> "Tensor":
        return self.binary("greater_equal", self, o)

    # Of what is no array and no number, Python says itself that it is not equal.
    def __eq__(self, o: Operand) -> "Tensor":  # type: ignore[override]
        return self.binary("equal", self, o) if is_operand(o) else NotImplemented

    def __ne__(self, o: Operand) -> "Tensor":  # type: ignore[override]
        return self.binary("not_equal", self, o) if is_operand(o) else NotImplemented

    def __and__(self, o: Operand) -> "Tensor":
        return self.binary("logical_and", self, o)

    def __or__(self, o: Operand) -> "Tensor":
        return self.binary("logical_or", self, o)

    def __xor__(self, o: Operand) -> "Tensor":
        return self.binary("logical_xor", self, o)

    def __invert__(self) -> "Tensor":
        return self.operate("logical_not", self)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __floordiv__(self, o: object) -> "Tensor":
        raise ArgumentError("a // b has no gradient, so it is not defined here; write ops.floor(a / b)")

    def __mod__(self, o: object) -> "Tensor":
        raise ArgumentError("a % b is not defined here; write a - b * ops.floor(a / b)")

    __rfloordiv__, __rmod__ = __floordiv__, __mod__

    def __divmod__(self, o: object) -> "Tensor":
        return self // o

    def __getitem__(self, key: object) -> "Tensor":
        """Parts of the axes from the first on, as in NumPy: integers, slices, None, Ellipsis, a list of integers."""
        part: Tensor = parts(self, key)
        return part

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("a scalar has no axis, so it has no length and no parts")
        return self.shape[0]

    def __iter__(self) -> "Iterator[Tensor]":
        return (self[i] for i in range(len(self)))

    # Shapes.

    @property
    def T(self) -> "Tensor":
        """The transpose: the axes in reverse order."""
        return self.permute(*reversed(range(self.ndim)))

    def reshape(self, *shape: int | Sequence[int]) -> "Tensor":
        """The same elements in C order in another shape, x.reshape(2, -1) or x.reshape((2, -1)); one size may be -1."""
        return self.operate("reshape", self, shape=sizes_of("reshape", shape))

    def permute(self, *order: int | Sequence[int]) -> "Tensor":
        """Axis a of the result is axis order[a]: x.permute(0, 2, 1)."""
        return self.operate("permute", self, order=sizes_of("permute", order))

    def transpose(self, *axes: int | Sequence[int]) -> "Tensor":
        """The axes in this order, or in reverse order where there are none: NumPy's transpose.

        Of more than two axes, two exchange these, as in PyTorch; NumPy has no meaning for that.
        """
        order = sizes_of("transpose", axes)
        if len(order) == 2 and self.ndim > 2:
            return self.swapaxes(*order)
        return self.permute(*order) if order else self.T

    @checked
    def swapaxes(self, axis1: int, axis2: int) -> "Tensor":
        """Two axes exchanged."""
        order = list(range(self.ndim))
        a, b = (axis_of("swapaxes", axis, self.ndim) for axis in (axis1, axis2))
        order[a], order[b] = b, a
        return self.permute(*order)

    @checked
    def flatten(self, start: int = 0) -> "Tensor":
        """One axis of all elements; from axis `start` on, as PyTorch's flatten(1), where it is given."""
        start = axis_of("flatten", start, max(self.ndim, 1))
        return self.reshape(*self.shape[:start], int(np.prod(self.shape[start:])))

    def ravel(self) -> "Tensor":
        """One axis of all elements."""
        return self.flatten()

    @checked
    def squeeze(self, axis: Axes = None) -> "Tensor":
        """Without axes of size 1: all of them, or those given. Raises ShapeError where one has another size."""
        given = [axis] if isinstance(axis, int) else axis
        gone = range(self.ndim) if given is None else [axis_of("squeeze", a, self.ndim) for a in given]
        if given is not None and any(self.shape[a] != 1 for a in gone):
            raise ShapeError(f"squeeze: axis {axis} of shape {self.shape} has to have size 1")
        return self.reshape(tuple(n for a, n in enumerate(self.shape) if a not in gone or n != 1))

    @checked
    def unsqueeze(self, axis: int) -> "Tensor":
        """With a new axis of size 1, which is axis `axis` of the result: PyTorch's unsqueeze, NumPy's expand_dims."""
        at = axis_of("unsqueeze", axis, self.ndim + 1)
        return self.reshape(*self.shape[:at], 1, *self.shape[at:])

    # Reductions. axis: one, several, or all where it is None; `axes` is another name for it.

    @checked
    def sum(self, axis: Axes = None, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The sum over axes. With keepdims they stay, with size 1."""
        return self.operate("sum", self, axis=one_of("sum", axis, axes), keepdims=keepdims)

    @checked
    def mean(self, axis: Axes = None, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The mean over axes. With keepdims they stay, with size 1."""
        return self.operate("mean", self, axis=one_of("mean", axis, axes), keepdims=keepdims)

    @checked
    def max(self, axis: Axes = None, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The maximum over axes; equal maxima share the gradient."""
        return self.operate("max", self, axis=one_of("max", axis, axes), keepdims=keepdims)

    @checked
    def min(self, axis: Axes = None, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The minimum over axes; equal minima share the gradient."""
        return self.operate("min", self, axis=one_of("min", axis, axes), keepdims=keepdims)

    @checked
    def prod(self, axis: Axes = None, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The product over axes."""
        return self.operate("prod", self, axis=one_of("prod", axis, axes), keepdims=keepdims)

    @checked
    def var(self, axis: Axes = None, ddof: float = 0, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The variance over axes: the sum of squared distances from the mean, divided by n - ddof.

        ddof is 0 as in NumPy; PyTorch divides by n - 1 unless told otherwise.
        """
        return self.operate("var", self, axis=one_of("var", axis, axes), ddof=ddof, keepdims=keepdims)

    @checked
    def std(self, axis: Axes = None, ddof: float = 0, keepdims: bool = False, *, axes: Axes = None) -> "Tensor":
        """The standard deviation over axes, the root of `var`."""
        return self.operate("std", self, axis=one_of("std", axis, axes), ddof=ddof, keepdims=keepdims)

    @checked
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        """The place of the first maximum along an axis, int32; in x.flatten() where there is no axis. No gradient."""
        return self.operate("argmax", self, axis=axis, keepdims=keepdims)

    @checked
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        """The place of the first minimum along an axis, int32; in x.flatten() where there is no axis. No gradient."""
        return self.operate("argmin", self, axis=axis, keepdims=keepdims)

    @checked
    def cumsum(self, axis: int | None = None) -> "Tensor":
        """The sums of the elements up to each one along an axis; of x.flatten() where there is no axis."""
        x, along = (self.flatten(), 0) if axis is None else (self, axis)
        return self.operate("cumsum", x, axis=along)

    @checked
    def clip(self, min: AnyNumber, max: AnyNumber) -> "Tensor":
        """Each element, or the nearer bound where it is outside of [min, max]."""
        return self.operate("clip", self, low=min, high=max)

    @checked
    def round(self) -> "Tensor":
        """The nearest whole numbers, even ones where two are equally near. No gradient."""
        return self.operate("round", self)

    __round__ = round


def sizes_of(name: str, given: Sequence[Any]) -> Shape:
    """Sizes or axes that are given one by one or as one list. Raises ShapeError for what is no whole number."""
    values = given[0] if len(given) == 1 and not isinstance(given[0], int | np.integer) else given
    try:
        sizes = tuple(values)
    except TypeError:
        sizes = (values,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise ShapeError(f"{name}: {shown(size)} has to be a whole number")
    return tuple(int(size) for size in sizes)


def axis_of(name: str, axis: int, rank: int) -> int:
    """The axis counted from the front. Raises ShapeError where an array of that rank does not have it."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{name}: there is no axis {axis} among {rank}")
    return axis % rank


def one_of(name: str, axis: A, axes: A) -> A:
    """The axes of a call, of whose two names for them one may be used."""
    if axis is not None and axes is not None:
        raise ShapeError(f"{name}: axis and axes are two names of one argument; give one of them")
    return axis if axes is None else axes


class Tensor(ArrayMethods):
    """An array in a function that is being traced: it has a shape and arithmetic, but no numbers yet.

    Gradients, composites, layers, losses and updates of optimisers are written with Tensors. Each arithmetic operator
    and each method records the operator of the same meaning, so `x ** 2`, `a @ b`, `x[:, ::-1]`, `x.mean(axis=0)` and
    `0.5 * x` mean what they mean for NumPy arrays. A comparison is 1 where it holds, else 0: `(x > 0) & (x < 1)` is a
    condition for ops.where. Integers that a comparison or an argmax needs are int32, all else is float32.
    """

    def operate(self, name: str, *operands: Any, **attributes: Any) -> "Tensor":
        return CALLS[name](*operands, **attributes)

    def binary(self, name: str, a: object, b: object) -> Any:
        # Labels and places are compared and computed with as float32, which holds whole numbers up to 2^24 exactly.
        a, b = (CALLS["as_float"](x) if isinstance(x, Tensor) and x.dtype == np.int32 else x for x in (a, b))
        return super().binary(name, a, b)

    def astype(self, dtype: DTypeLike) -> "Tensor":
        """As float32, or as int32, which cuts off what stands after the point. Raises ShapeError for other types."""
        wanted = np.dtype(dtype)
        if wanted not in (np.float32, np.int32):
            raise ShapeError(f"a traced value is float32 or int32, it cannot be {wanted}")
        if wanted == self.dtype:
            return self
        return CALLS["as_float" if wanted == np.float32 else "as_integer"](self)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or int32 for labels and places."""
        return np.dtype(np.float32)

    def __pos__(self) -> Self:
        return self

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Ndarray:
        raise ShapeError(
            "a traced value has no numbers yet, and NumPy needs them; use the operators of foveal.ops, such as ops.exp"
        )

    def __bool__(self) -> bool:
        raise ShapeError("the truth of a traced value is not known; use where(condition, a, b)")

    def __contains__(self, value: object) -> bool:
        raise ShapeError("whether a traced value holds a number is not known yet; (x == number).max() is 1 if it does")

    def __setitem__(self, key: object, value: object) -> None:
        raise ShapeError(
            "a traced value cannot be changed in place; compute a new one, by ops.where or ops.concatenate"
        )

    def item(self) -> float:
        """Refused: a traced value has no number yet."""
        raise ShapeError(
            "a traced value has no number yet; return it from the function, whose result is an array of numbers"
        )

    def __float__(self) -> float:
        return self.item()

    def __int__(self) -> int:
        return int(self.item())

    def tolist(self) -> list[Any]:
        """Refused: a traced value has no numbers yet."""
        return [self.item()]

    def numpy(self) -> Ndarray:
        """Refused: a traced value has no numbers yet."""
        return np.asarray(self.item())


def tensor_or_array(x: object) -> object:
    """What functions compute with, a Tensor or a Variable as it is and all else as an array of numbers."""
    return x if isinstance(x, Tensor) else numbers_array(x)


# What is written with operators computes with Tensors, and with arrays as well.
SIMPLE[Tensor] = Kind("an array of numbers", "arrays of numbers", tensor_or_array)
