"""Further reductions over axes: minimum, product, variance, standard deviation, norm, made of other operators."""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kinds import AnyNumber
from foveal.ops.concat import concatenate, narrow
from foveal.ops.elementwise import divide, equal, sqrt, where
from foveal.ops.op import Case, HasShape, Tensor
from foveal.ops.power import constant_power, square
from foveal.ops.reduce import Axes, Reduction, check_elements, max, mean, sum
from foveal.ops.rounding import abs
from foveal.ops.shape import permute, reshape
from foveal.strides import Ndarray, Shape


class Min(Reduction):
    """y = the minimum of x over `axis` (one, several, or None for all); y has x's shape without them

    With keepdims they stay, with size 1. Equal minima share the gradient. Raises ShapeError where an axis has size 0.
    """

    name, composite = "min", True

    def shape(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool) -> Shape:
        check_elements(self.name, x, axes)
        return super().shape(x, axes=axes, keepdims=keepdims)

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.min(x, axis=axes, keepdims=keepdims)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool) -> Tensor:
        return -max(-x, axes=axes, keepdims=keepdims)


class Prod(Reduction):
    """y = the product of x over `axis` (one, several, or None for all); y has x's shape without them

    With keepdims they stay, with size 1. Halves are multiplied with each other until one element is left, so gradients
    of any order are exact, also where elements are 0.
    """

    name, composite = "prod", True
    cases = (*Reduction.cases[:4], Case(((3, 4),), {"axes": None}))

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], keepdims: bool) -> Ndarray:
        return np.prod(x, axis=axes, keepdims=keepdims)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool) -> Tensor:
        y, n, shape = reduced_first(x, axes), math.prod(x.shape[a] for a in axes), self.shape
        if not n:
            return sum(x, axes=axes, keepdims=keepdims) + 1.0
        while n > 1:
            half = n // 2
            low, high = (narrow(y, axis=0, start=start, length=half) for start in (0, half))
            product = low * high
            if n % 2:
                last = narrow(y, axis=0, start=n - 1, length=1)
                first = narrow(product, axis=0, start=0, length=1) * last
                y = (
                    first
                    if half == 1
                    else concatenate(first, narrow(product, axis=0, start=1, length=half - 1), axis=0)
                )
            else:
                y = product
            n = half
        return reshape(y, shape=shape(x.shape, axes=axes, keepdims=keepdims))


def reduced_first(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x as [elements along the axes, all others]."""
    kept = [a for a in range(len(x.shape)) if a not in axes]
    order = (*axes, *kept)
    y = x if order == tuple(range(len(order))) else permute(x, order=order)
    return reshape(y, shape=(math.prod(x.shape[a] for a in axes), math.prod(x.shape[a] for a in kept)))


class Var(Reduction):
    """y = sum (x - mean x)^2 / (n - ddof) over `axis` (one, several, or None for all); y has x's shape without them

    n elements go into each result. ddof is 0, as in NumPy; PyTorch's default is 1. With keepdims the axes stay, with
    size 1. Raises ShapeError unless n is above ddof.
    """

    name, composite = "var", True
    cases = (*Reduction.cases[:6], Case(((4, 35),), {"axes": 1, "ddof": 1}))

    def normalise(
        self, x: HasShape, *, axis: Axes = None, ddof: float = 0, keepdims: bool = False, axes: Axes = None
    ) -> dict[str, Any]:
        return {"axes": self.full_axes(x, axis, axes), "ddof": float(ddof), "keepdims": keepdims}

    def shape(self, x: Shape, *, axes: tuple[int, ...], ddof: float, keepdims: bool) -> Shape:  # type: ignore[override]
        check_elements(self.name, x, axes)
        n = math.prod(x[a] for a in axes)
        if not n > ddof:
            raise ShapeError(
                f"{self.name}: {n} elements of shape {x}, axes {axes}, and ddof={ddof}; give more, or less"
            )
        return super().shape(x, axes=axes, keepdims=keepdims)

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], ddof: float, keepdims: bool) -> Ndarray:
        return np.var(x, axis=axes, ddof=ddof, keepdims=keepdims)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], ddof: float, keepdims: bool) -> Tensor:
        n = math.prod(x.shape[a] for a in axes)
        centred = x - mean(x, axes=axes, keepdims=True)
        return sum(square(centred), axes=axes, keepdims=keepdims) * (1.0 / (n - ddof))


class Std(Var):
    """y = the standard deviation of x over `axis` (one, several, or None for all): the root of var, with its arguments

    y has x's shape without the axes. Where all elements are equal the gradient is 0, as in PyTorch.
    """

    name = "std"

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], ddof: float, keepdims: bool) -> Ndarray:
        return np.std(x, axis=axes, ddof=ddof, keepdims=keepdims)

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], ddof: float, keepdims: bool
    ) -> tuple[Tensor | None, ...]:
        n = math.prod(x.shape[a] for a in axes)
        y, dy = self.keep(y, x, axes), self.keep(dy, x, axes)
        slope = where(equal(y, 0.0), 0.0, divide(dy, y)) * (1.0 / (n - ddof))
        return (slope * (x - mean(x, axes=axes, keepdims=True)),)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], ddof: float, keepdims: bool) -> Tensor:
        return sqrt(super().expand(x, axes=axes, ddof=ddof, keepdims=keepdims))


class Norm(Reduction):
    """y = (sum |x|^ord)^(1/ord) over `axis` (one, several, or None for all): vectors' norms, of matrices Frobenius's

    y has x's shape without the axes; with keepdims they stay, with size 1. ord: above 0; inf is the largest magnitude.
    It is that of vectors, as in torch.linalg.vector_norm, for matrices too. Where y is 0 the gradient is 0, as in
    PyTorch. Raises ShapeError for another ord.
    """

    name, composite = "norm", True
    cases = (
        *Reduction.cases[:6],
        Case(((4, 35),), {"axes": 1, "ord": 1}),
        Case(((4, 35),), {"axes": 1, "ord": 3.0}),
        Case(((4, 35),), {"axes": 1, "ord": math.inf}),
    )

    def normalise(
        self, x: HasShape, *, ord: AnyNumber = 2, axis: Axes = None, keepdims: bool = False, axes: Axes = None
    ) -> dict[str, Any]:
        if not ord > 0:
            raise ShapeError(f"norm: ord is {ord}, it has to be above 0; inf gives the largest magnitude")
        return {"axes": self.full_axes(x, axis, axes), "ord": float(ord), "keepdims": keepdims}

    def shape(self, x: Shape, *, axes: tuple[int, ...], ord: float, keepdims: bool) -> Shape:  # type: ignore[override]
        if math.isinf(ord):
            check_elements(self.name, x, axes)
        return super().shape(x, axes=axes, keepdims=keepdims)

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], ord: float, keepdims: bool) -> Ndarray:
        if math.isinf(ord):
            return np.max(np.abs(x), axis=axes, keepdims=keepdims)
        total: Ndarray = np.asarray(np.sum(np.abs(x) ** ord, axis=axes, keepdims=keepdims) ** (1 / ord))
        return total

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], ord: float, keepdims: bool
    ) -> tuple[Tensor | None, ...]:
        y, dy, zero = self.keep(y, x, axes), self.keep(dy, x, axes), equal(self.keep(y, x, axes), 0.0)
        if math.isinf(ord):
            # what an equal largest magnitude shares is the gradient of `max`
            magnitude = abs(x)
            hit = equal(magnitude, y)
            slope = where(hit, dy / sum(hit, axes=axes, keepdims=True), 0.0)
            return (where(x, slope, -slope) * (1.0 - equal(x, 0.0)),)
        if ord == 2.0:
            return (where(zero, 0.0, dy / y) * x,)
        # dy |x|^(ord-1) sign(x) / y^(ord-1)
        ratio = where(zero, 0.0, abs(x) / y)
        powered = constant_power(ratio, exponent=ord - 1.0) if ord != 1.0 else 1.0
        return (dy * powered * (where(x, 1.0, -1.0) * (1.0 - equal(x, 0.0))),)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], ord: float, keepdims: bool) -> Tensor:
        if math.isinf(ord):
            return max(abs(x), axes=axes, keepdims=keepdims)
        powers = square(x) if ord == 2.0 else constant_power(abs(x), exponent=ord)
        return constant_power(sum(powers, axes=axes, keepdims=keepdims), exponent=1.0 / ord)


min, prod, var, std, norm = Min(), Prod(), Var(), Std(), Norm()
