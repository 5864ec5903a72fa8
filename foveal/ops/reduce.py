"""Reductions over axes, and repeating along axes, which is their adjoint."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from foveal.arrays.tensor import one_of
from foveal.errors import ShapeError
from foveal.kernel.lang import Array, Scalar, loops, maximum, parallel, var
from foveal.ops.elementwise import equal, where
from foveal.ops.kernels import pointwise
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.shape import reshape, sizes
from foveal.strides import Ndarray, Shape

# One axis, several, or all of them.
Axes = int | Iterable[int] | None


class BroadcastTo(Operator):
    """y = x repeated along new leading axes and axes of size 1, as NumPy does; y has the given shape

    Raises ShapeError where a size of x is neither 1 nor that of `shape`.
    """

    name, arity = "broadcast_to", 1
    cases = (
        Case(((3, 1),), {"shape": (2, 3, 4)}),
        Case(((),), {"shape": (5,)}),
        Case(((1, 5, 1, 1),), {"shape": (2, 5, 3, 3)}),
    )

    def normalise(self, x: HasShape, *, shape: Iterable[int]) -> dict[str, Any]:
        return {"shape": sizes(self.name, shape)}

    def shape(self, x: Shape, *, shape: Shape) -> Shape:
        try:
            if np.broadcast_shapes(x, shape) == shape:
                return shape
        except ValueError:
            pass
        raise ShapeError(f"broadcast_to: {x} cannot be repeated to {shape}; sizes have to be equal or 1")

    def numpy(self, x: Ndarray, *, shape: Shape) -> Ndarray:
        return np.broadcast_to(x, shape)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, shape: Shape) -> tuple[Tensor | None, ...]:
        return (sum_to(dy, x.shape),)

    def scalar(self, x: Scalar, *, shape: Shape) -> Scalar:
        return x

    def kernel(self, y: Array, x: Array, *, shape: Shape) -> None:
        pointwise.pointwise(y, x, outputs=1, steps=(), results=(0,))


def check_elements(name: str, x: Shape, axes: Iterable[int]) -> None:
    """Raise ShapeError, in the name of an operator, where one of the axes has size 0."""
    if any(x[a] == 0 for a in axes):
        raise ShapeError(f"{name}: there is no {name} of no elements, shape {x}, axes {tuple(axes)}")


class Reduction(Operator):
    """Base of what combines all elements along `axis`: one axis, several, or all of them where it is None.

    The axes are gone in the output, or have size 1 with keepdims. A negative axis counts from the last; ShapeError
    where there is no such axis. `axes` is another name of `axis`, under which graphs print it.
    """

    arity = 1
    cases: ClassVar[Sequence[Case]] = (
        Case(((4, 5),), {"axes": (0,)}),
        Case(((4, 35),), {"axes": (1,), "keepdims": True}),
        Case(((3, 5, 6, 7),), {"axes": (0, 2, 3)}),
        Case(((2, 20, 6, 7),), {"axes": (2,)}),
        Case(((2, 70, 3, 3),), {"axes": (2, 3), "keepdims": True}),
        Case(((2, 3, 4, 5),), {"axes": None}),
        Case(((600, 2, 9),), {"axes": (0,)}),
    )

    # the result for no elements
    start = 0.0

    def normalise(self, x: HasShape, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> dict[str, Any]:
        return {"axes": self.full_axes(x, axis, axes), "keepdims": keepdims}

    def full_axes(self, x: HasShape, axis: Axes, axes: Axes) -> tuple[int, ...]:
        """The axes of x that a call names, each once and counted from the front."""
        rank, given = len(x.shape), one_of(self.name, axis, axes)
        chosen = range(rank) if given is None else (given,) if isinstance(given, int) else tuple(given)
        for a in chosen:
            if not -rank <= a < rank:
                raise ShapeError(f"{self.name}: axis {a} is not one of the {rank} axes of shape {x.shape}")
        return tuple(sorted({a % rank for a in chosen}))

    def shape(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool) -> Shape:
        return tuple(1 if a in axes else n for a, n in enumerate(x) if keepdims or a not in axes)

    def keep(self, y: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """y with the reduced axes put back as size 1."""
        return reshape(y, shape=tuple(1 if a in axes else n for a, n in enumerate(x.shape)))

    def combine(self, total: Scalar, value: Scalar) -> Scalar:
        """The result for some elements and one more."""
        raise NotImplementedError

    def kernel(self, y: Array, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> None:
        rank = len(x.shape)
        remaining = [a for a in range(rank) if a not in axes]
        # one output element per index along the remaining axes
        for outer in parallel(*(x.shape[a] for a in remaining)) if remaining else parallel(1):
            place = dict(zip(remaining, outer, strict=False))
            total = var(self.start)
            # the elements that it combines
            for inner in loops(*(x.shape[a] for a in axes)):
                index = {**place, **dict(zip(axes, inner, strict=True))}
                total.set(self.combine(total.get(), x[tuple(index[a] for a in range(rank))]))
            if keepdims:
                y[tuple(place.get(a, 0) for a in range(rank))] = total
            else:
                y[tuple(outer) if remaining else ()] = total


class Sum(Reduction):
    """y = the sum of x over `axis` (one, several, or None for all); y has x's shape without them

    With keepdims they stay, with size 1. dx = dy, repeated along the axes.
    """

    name, channel_reduction = "sum", "sum"

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.sum(x, axis=axes, keepdims=keepdims)

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], keepdims: bool
    ) -> tuple[Tensor | None, ...]:
        return (broadcast_to(self.keep(dy, x, axes), shape=x.shape),)

    def combine(self, total: Scalar, value: Scalar) -> Scalar:
        return total + value


class Max(Reduction):
    """y = the maximum of x over `axis` (one, several, or None for all); y has x's shape without them

    With keepdims they stay, with size 1. Equal maxima share the gradient. Raises ShapeError where an axis has size 0.
    """

    name = "max"
    start = float("-inf")

    def shape(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool) -> Shape:
        check_elements(self.name, x, axes)
        return super().shape(x, axes=axes, keepdims=keepdims)

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.max(x, axis=axes, keepdims=keepdims)

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], keepdims: bool
    ) -> tuple[Tensor | None, ...]:
        is_maximum = equal(x, self.keep(y, x, axes))
        share = self.keep(dy, x, axes) / sum(is_maximum, axes=axes, keepdims=True)
        return (where(is_maximum, share, 0.0),)

    def combine(self, total: Scalar, value: Scalar) -> Scalar:
        return maximum(value, total)


class Mean(Reduction):
    """y = the mean of x over `axis` (one, several, or None for all); y has x's shape without them

    With keepdims they stay, with size 1. dx = dy divided by the number of elements, repeated along the axes. Raises
    ShapeError where an axis has size 0.
    """

    name, composite = "mean", True

    def shape(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool) -> Shape:
        check_elements(self.name, x, axes)
        return super().shape(x, axes=axes, keepdims=keepdims)

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.mean(x, axis=axes, keepdims=keepdims)

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], keepdims: bool
    ) -> tuple[Tensor | None, ...]:
        scale = 1.0 / float(np.prod([x.shape[a] for a in axes]))
        return (broadcast_to(self.keep(dy, x, axes) * scale, shape=x.shape),)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool) -> Tensor:
        count = float(np.prod([x.shape[a] for a in axes]))
        return sum(x, axes=axes, keepdims=keepdims) * (1.0 / count)


sum, max, mean, broadcast_to = Sum(), Max(), Mean(), BroadcastTo()


def sum_to(x: Tensor, shape: Shape) -> Tensor:
    """x summed over the axes along which an array of `shape` was repeated to x's: the gradient of broadcasting."""
    if x.shape == shape:
        return x
    extra = len(x.shape) - len(shape)
    axes = [a for a, n in enumerate(x.shape) if a < extra or (shape[a - extra] == 1 and n != 1)]
    total = sum(x, axes=tuple(axes), keepdims=True) if axes else x
    return reshape(total, shape=shape) if extra else total
