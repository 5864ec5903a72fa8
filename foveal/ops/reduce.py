"""Operators that move or repeat values without computing with them."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loops, maximum, parallel, var
from foveal.ops.kernels import pointwise
from foveal.ops.op import Case, Operator
from foveal.ops.shape import reshape
from foveal.strides import Ndarray, Shape


class BroadcastTo(Operator):
    """y repeats x along new axes and axes of size 1, as NumPy does"""

    name, arity = "broadcast_to", 1
    cases = (
        Case(((3, 1),), {"shape": (2, 3, 4)}),
        Case(((),), {"shape": (5,)}),
        Case(((1, 5, 1, 1),), {"shape": (2, 5, 3, 3)}),
    )

    def shape(self, x: Shape, *, shape: Shape) -> Shape:
        try:
            if np.broadcast_shapes(x, shape) == tuple(shape):
                return tuple(shape)
        except ValueError:
            pass
        raise ShapeError(f"broadcast_to: {x} cannot be repeated to {shape}; sizes have to be equal or 1")

    def numpy(self, x: Ndarray, *, shape: Shape) -> Ndarray:
        return np.broadcast_to(x, shape)

    def vjp(self, dy: Any, y: Any, x: Any, *, shape: Shape) -> tuple[Any, ...]:
        return (sum_to(dy, x.shape),)

    def scalar(self, x: Any, *, shape: Shape) -> Any:
        return x

    def kernel(self, y: Any, x: Any, *, shape: Shape) -> None:
        pointwise.pointwise(y, x, outputs=1, steps=(), results=(0,))


class Reduction(Operator):
    """Combines over `axes` (all where None); the axes stay with size 1 if keepdims."""

    arity = 1
    cases = (
        Case(((4, 5),), {"axes": (0,)}),
        Case(((4, 35),), {"axes": (1,), "keepdims": True}),
        Case(((3, 5, 6, 7),), {"axes": (0, 2, 3)}),
        Case(((2, 20, 6, 7),), {"axes": (2,)}),
        Case(((2, 70, 3, 3),), {"axes": (2, 3), "keepdims": True}),
        Case(((2, 3, 4, 5),), {"axes": None}),
        Case(((600, 2, 9),), {"axes": (0,)}),
    )

    def normalise(self, x: Any, *, axes: Any = None, keepdims: bool = False) -> dict[str, Any]:
        rank = len(np.shape(x)) if not hasattr(x, "shape") else len(x.shape)
        chosen = range(rank) if axes is None else (axes,) if isinstance(axes, int) else axes
        for axis in chosen:
            if not -rank <= axis < rank:
                raise ShapeError(f"{self.name}: axis {axis} is not one of the {rank} axes of shape {x.shape}")
        return {"axes": tuple(sorted({a % rank for a in chosen})), "keepdims": keepdims}

    def shape(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool) -> Shape:
        if self.name == "max" and any(x[a] == 0 for a in axes):
            raise ShapeError(f"max: there is no largest of no elements, shape {x}, axes {axes}")
        return tuple(1 if a in axes else n for a, n in enumerate(x) if keepdims or a not in axes)

    def keep(self, y: Any, x: Any, axes: tuple[int, ...]) -> Any:
        """y with the reduced axes put back as size 1."""
        return reshape(y, shape=tuple(1 if a in axes else n for a, n in enumerate(x.shape)))

    start = 0.0

    def combine(self, total: Any, value: Any) -> Any:
        raise NotImplementedError

    def kernel(self, y: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> None:
        kept = [a for a in range(len(x.shape)) if a not in axes]
        for outer in parallel(*(x.shape[a] for a in kept)) if kept else parallel(1):
            total = var(self.start)
            for inner in loops(*(x.shape[a] for a in axes)):
                at = {**dict(zip(kept, outer, strict=False)), **dict(zip(axes, inner, strict=True))}
                total.set(self.combine(total.get(), x[tuple(at[a] for a in range(len(x.shape)))]))
            if keepdims:
                at = dict(zip(kept, outer, strict=False))
                y[tuple(at.get(a, 0) for a in range(len(x.shape)))] = total
            else:
                y[tuple(outer) if kept else ()] = total


class Sum(Reduction):
    """y = sum of x over axes"""

    name = "sum"

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.sum(x, axis=axes, keepdims=keepdims)

    def vjp(self, dy: Any, y: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> tuple[Any, ...]:
        return (broadcast_to(self.keep(dy, x, axes), shape=x.shape),)

    def combine(self, total: Any, value: Any) -> Any:
        return total + value


class Max(Reduction):
    """y = largest of x over axes; the gradient is shared among equal ones"""

    name = "max"
    start = float("-inf")

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.max(x, axis=axes, keepdims=keepdims)

    def vjp(self, dy: Any, y: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> tuple[Any, ...]:
        from foveal.ops.elementwise import equal  # needs the sum below for its own gradients

        largest = equal(x, self.keep(y, x, axes))
        share = self.keep(dy, x, axes) / sum(largest, axes=axes, keepdims=True)
        return (largest * share,)

    def combine(self, total: Any, value: Any) -> Any:
        return maximum(value, total)


class Mean(Reduction):
    """y = mean of x over axes"""

    name, composite = "mean", True

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.mean(x, axis=axes, keepdims=keepdims)

    def vjp(self, dy: Any, y: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> tuple[Any, ...]:
        scale = 1.0 / float(np.prod([x.shape[a] for a in axes]))
        return (broadcast_to(self.keep(dy, x, axes) * scale, shape=x.shape),)

    def expand(self, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> Any:
        count = float(np.prod([x.shape[a] for a in axes]))
        return sum(x, axes=axes, keepdims=keepdims) * (1.0 / count)


sum, max, mean, broadcast_to = Sum(), Max(), Mean(), BroadcastTo()


def sum_to(x: Any, shape: Shape) -> Any:
    """x summed over the axes along which `shape` was repeated to give it: the gradient of broadcasting."""
    if x.shape == shape:
        return x
    extra = len(x.shape) - len(shape)
    axes = [a for a, n in enumerate(x.shape) if a < extra or (shape[a - extra] == 1 and n != 1)]
    total = sum(x, axes=tuple(axes), keepdims=True) if axes else x
    return reshape(total, shape=shape) if extra else total
