"""Walks along an axis: cumulative sums, and the places of maxima and minima."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import I32, Array, Index, cast, loop, loops, parallel, var, where
from foveal.ops.concat import axis_from_front
from foveal.ops.kernels.expression import float_lanes
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.reduce import check_elements
from foveal.strides import Ndarray, Shape

# Kernels count places in float32, which is exact up to here.
MOST_PLACES = 1 << 24


def at_place(index: tuple[Index, ...], axis: int, i: Index) -> tuple[Index, ...]:
    """The index with place i along the axis."""
    return (*index[:axis], i, *index[axis + 1 :])


class CumSum(Operator):
    """y[..., i, ...] = sum of x[..., j, ...] over j <= i along `axis`, of x's shape; over j >= i with reverse

    axis: counted from the end where negative; ShapeError where there is no such axis. x.cumsum() without an axis is
    that of x.flatten().
    """

    name, arity = "cumsum", 1
    cases = (
        Case(((5, 7),), {"axis": 0}),
        Case(((3, 40),), {"axis": -1}),
        Case(((2, 5, 3, 4),), {"axis": 1, "reverse": True}),
        Case(((9,),), {"axis": 0}),
    )

    def normalise(self, x: HasShape, *, axis: int, reverse: bool = False) -> dict[str, Any]:
        return {"axis": axis_from_front(self.name, axis, len(x.shape)), "reverse": reverse}

    def shape(self, x: Shape, *, axis: int, reverse: bool) -> Shape:
        return x

    def numpy(self, x: Ndarray, *, axis: int, reverse: bool) -> Ndarray:
        return np.flip(np.cumsum(np.flip(x, axis), axis), axis) if reverse else np.cumsum(x, axis)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int, reverse: bool) -> tuple[Tensor | None, ...]:
        return (cumsum(dy, axis=axis, reverse=not reverse),)

    def kernel(self, y: Array, x: Array, *, axis: int, reverse: bool) -> None:
        n = x.shape[axis]
        # threads share the lines along the axis
        for index in parallel(*(1 if a == axis else size for a, size in enumerate(x.shape))):
            total = var()
            for i in loop(n):
                place = at_place(index, axis, n - 1 - i if reverse else i)
                total += x[place]
                y[place] = total


class ArgMax(Operator):
    """y = the place along `axis` of the first maximum of x, or of its first NaN: int32; no gradient

    y has x's shape without the axis; with keepdims it stays, with size 1. Without an axis the place is that in C order
    among all elements. Raises ShapeError where there is no such axis or element, or more than 2^24.
    """

    name, arity, dtype, differentiable = "argmax", 1, "int32", False
    cases = (
        Case(((5, 7),), {"axis": 0}, smooth=False),
        Case(((3, 40),), {"axis": -1, "keepdims": True}, smooth=False),
        Case(((2, 5, 3, 4),), {"axis": 1}, smooth=False),
        Case(((4, 6),), {"axis": None}, {0: lambda r, s: r.integers(0, 3, s).astype("f4")}, smooth=False),
    )

    def normalise(self, x: HasShape, *, axis: int | None = None, keepdims: bool = False) -> dict[str, Any]:
        if axis is not None:
            axis = axis_from_front(self.name, axis, len(x.shape))
        return {"axis": axis, "keepdims": keepdims}

    def shape(self, x: Shape, *, axis: int | None, keepdims: bool) -> Shape:
        axes = range(len(x)) if axis is None else (axis,)
        check_elements(self.name, x, axes)
        if np.prod([x[a] for a in axes]) > MOST_PLACES:
            raise ShapeError(f"{self.name}: more than 2^24 elements along axis {axis} of shape {x}; take parts of it")
        return tuple(1 if a in axes else n for a, n in enumerate(x) if keepdims or a not in axes)

    def numpy(self, x: Ndarray, *, axis: int | None, keepdims: bool) -> Ndarray:
        return np.asarray(np.argmax(x, axis, keepdims=keepdims)).astype(np.int32)

    def kernel(self, y: Array, x: Array, *, axis: int | None, keepdims: bool) -> None:
        rank = len(x.shape)
        axes = list(range(rank)) if axis is None else [axis]
        remaining = [a for a in range(rank) if a not in axes]
        for outer in parallel(*(x.shape[a] for a in remaining)) if remaining else parallel(1):
            kept = dict(zip(remaining, outer, strict=False))
            best, best_place = var(float("-inf")), var()
            for inner in loops(*(x.shape[a] for a in axes)):
                at = kept | dict(zip(axes, inner, strict=True))
                value = x[tuple(at[a] for a in range(rank))]
                # the first NaN is kept as well, so that a fault is not hidden
                better = (value > best.get()) | ((value != value) & (best.get() == best.get()))
                best.set(where(better, value, best.get()))
                place: Index = 0
                for a, i in zip(axes, inner, strict=True):
                    place = place * x.shape[a] + i
                best_place.set(where(better, float_lanes(place, 1), best_place.get()))
            index = tuple(kept.get(a, 0) for a in range(rank) if keepdims or a in kept)
            y[index] = cast(best_place.get(), I32)


class ArgMin(ArgMax):
    """y = the place along `axis` of the first minimum of x, or of its first NaN: int32; no gradient

    y has x's shape without the axis. Arguments and errors are those of argmax.
    """

    name, composite = "argmin", True

    def numpy(self, x: Ndarray, *, axis: int | None, keepdims: bool) -> Ndarray:
        return np.asarray(np.argmin(x, axis, keepdims=keepdims)).astype(np.int32)

    def expand(self, x: Tensor, *, axis: int | None, keepdims: bool) -> Tensor:
        return argmax(-x, axis=axis, keepdims=keepdims)


cumsum, argmax, argmin = CumSum(), ArgMax(), ArgMin()
