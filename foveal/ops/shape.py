"""Operators that move values without computing with them; those for parts of an array are in concat.py."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, Scalar, loops, parallel
from foveal.kinds import AnyNumber
from foveal.ops.kernels import pointwise
from foveal.ops.op import Case, HasShape, Operator, Tensor, Type
from foveal.strides import Ndarray, Shape, reshaped_strides


def sizes(name: str, shape: Iterable[int]) -> Shape:
    """The sizes of an array. Raise ShapeError, in the name of an operator, where one is below 0."""
    full = tuple(shape)
    if min(full, default=0) < 0:
        raise ShapeError(f"{name}: shape is {full}, sizes have to be 0 or more")
    return full


class Constant(Operator):
    """y = value, of shape []: a number known while tracing

    It becomes an immediate operand of the kernels that use it.
    """

    name, arity, differentiable = "constant", 0, False
    cases = (Case((), {"value": 2.5}, smooth=False),)

    def normalise(self, *, value: AnyNumber) -> dict[str, Any]:
        return {"value": float(value)}

    def shape(self, *, value: float) -> Shape:
        return ()

    def numpy(self, *, value: float) -> Ndarray:
        return np.array(value, np.float32)

    def scalar(self, *, value: float) -> Scalar:
        return value

    def kernel(self, y: Array, *, value: float) -> None:
        y[()] = value


class Reshape(Operator):
    """y = the elements of x, in C order, in another shape, of which one size may be -1; x may be integers

    Raises ShapeError where the number of elements is not the same. A view where x's strides allow it.
    """

    name, arity, view = "reshape", 1, True
    cases = (
        Case(((2, 6),), {"shape": (3, 4)}),
        Case(((2, 3, 4, 5),), {"shape": (2, 60)}),
        Case(((4, 12),), {"shape": (4, 3, 2, 2)}),
        Case(((5,),), {"shape": (1, 5, 1, 1)}),
    )

    def normalise(self, x: HasShape, *, shape: Iterable[int]) -> dict[str, Any]:
        full, size = tuple(int(n) for n in shape), int(np.prod(x.shape))
        if full.count(-1) == 1:
            rest = -int(np.prod(full))
            if rest > 0 and size % rest == 0:
                full = tuple(size // rest if n == -1 else n for n in full)
        return {"shape": full}

    def type(self, *inputs: Type, **attributes: Any) -> Type:
        (x,) = inputs
        return Type(self.shape(x.shape, **attributes), x.dtype)

    def shape(self, x: Shape, *, shape: Shape) -> Shape:
        if min(shape, default=1) < 0 or np.prod(x) != np.prod(shape):
            raise ShapeError(
                f"reshape: {x} has {int(np.prod(x))} elements, {shape} has another number; give sizes with the same"
                f" product"
            )
        return shape

    def view_strides(self, x: Shape, strides: Shape, *, shape: Shape) -> Shape | None:
        return reshaped_strides(x, strides, shape)

    def numpy(self, x: Ndarray, *, shape: Shape) -> Ndarray:
        return x.reshape(shape)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, shape: Shape) -> tuple[Tensor | None, ...]:
        return (reshape(dy, shape=x.shape),)


class Permute(Operator):
    """y = x with its axes in another order: axis a of y, and of its shape, is axis order[a] of x

    Raises ShapeError unless `order` names each axis once; a negative axis counts from the last.
    """

    name, arity = "permute", 1
    cases = (Case(((2, 3, 5),), {"order": (1, 0, 2)}), Case(((2, 3, 4, 5),), {"order": (0, 2, 3, 1)}))

    def normalise(self, x: HasShape, *, order: Iterable[int]) -> dict[str, Any]:
        order, rank = tuple(order), len(x.shape)
        if sorted(a % rank if rank else a for a in order) != list(range(rank)):
            raise ShapeError(f"permute: order {order} has to name each of the {rank} axes of shape {x.shape} once")
        return {"order": tuple(a % rank for a in order)}

    def shape(self, x: Shape, *, order: tuple[int, ...]) -> Shape:
        return tuple(x[a] for a in order)

    def numpy(self, x: Ndarray, *, order: tuple[int, ...]) -> Ndarray:
        return np.transpose(x, order)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, order: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        return (permute(dy, order=tuple(order.index(a) for a in range(len(order)))),)

    def kernel(self, y: Array, x: Array, *, order: tuple[int, ...]) -> None:
        for first in parallel(y.shape[0]):
            for rest in loops(*y.shape[1:]):
                index = (*first, *rest)
                y[index] = x[tuple(index[order.index(a)] for a in range(len(order)))]


class Index(Operator):
    """y = x[i], part i along the first axis: x of shape [n, ...] gives y of shape [...]

    A negative i counts from the last. Raises ShapeError unless -n <= i < n.
    """

    name, arity, view = "index", 1, True
    cases = (Case(((3, 4),), {"i": 1}), Case(((2, 5),), {"i": 0}), Case(((3,),), {"i": -1}))

    def normalise(self, x: HasShape, *, i: int) -> dict[str, Any]:
        return {"i": int(i) + x.shape[0] if i < 0 and x.shape else int(i)}

    def shape(self, x: Shape, *, i: int) -> Shape:
        if not x or not 0 <= i < x[0]:
            where = f"the {x[0]} parts of the first axis of shape {x}" if x else "a scalar, which has no axes"
            raise ShapeError(f"index: there is no part {i} among {where}")
        return x[1:]

    def view_strides(self, x: Shape, strides: Shape, *, i: int) -> Shape:
        return strides[1:]

    def view_offset(self, strides: Shape, *, i: int) -> int:
        return i * strides[0]

    def numpy(self, x: Ndarray, *, i: int) -> Ndarray:
        return x[i]

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, i: int) -> tuple[Tensor | None, ...]:
        return (place(dy, i=i, n=x.shape[0]),)


class Place(Operator):
    """y[i] = x, and 0 elsewhere along a new first axis: x of shape [...] gives y of shape [n, ...]

    The gradient of index.
    """

    name, arity = "place", 1
    cases = (Case(((4,),), {"i": 1, "n": 3}), Case(((2, 5),), {"i": 0, "n": 2}), Case(((),), {"i": 2, "n": 3}))

    def normalise(self, x: HasShape, *, i: int, n: int) -> dict[str, Any]:
        if not 0 <= i < n:
            raise ShapeError(f"place: i is {i} and n is {n}; i has to be one of 0 to n - 1")
        return {"i": i, "n": n}

    def shape(self, x: Shape, *, i: int, n: int) -> Shape:
        return (n, *x)

    def numpy(self, x: Ndarray, *, i: int, n: int) -> Ndarray:
        y = np.zeros((n, *x.shape), x.dtype)
        y[i] = x
        return y

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, i: int, n: int) -> tuple[Tensor | None, ...]:
        return (index(dy, i=i),)

    def kernel(self, y: Array, x: Array, *, i: int, n: int) -> None:
        for position in range(n):
            pointwise.fill_slice(y, x, position, position == i)


constant, reshape, permute, index, place = Constant(), Reshape(), Permute(), Index(), Place()
