"""Absolute value, sign and rounding, pointwise; conversions between float32 and int32."""

import numpy as np

from foveal.kernel import lang, maths
from foveal.kernel.lang import F32, I32, Scalar
from foveal.ops.elementwise import UNARY, Pointwise, Unary, drawn, with_edges
from foveal.ops.op import Case, Operand, Tensor
from foveal.strides import Ndarray, Shape


def halves(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Halves, which lie between two whole numbers, and large numbers."""
    return rng.choice([*np.arange(-4, 4.5, 0.5), 0.49999997, -0.49999997, 8388609.0, -3e38], shape)


def whole_numbers(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Whole numbers of both signs."""
    return rng.integers(-1000, 1000, shape)


ROUNDED = tuple(Case(c.shapes, draw=c.draw, smooth=False) for c in (*UNARY, *drawn(UNARY[:2], halves)))


class Abs(Unary):
    """y = |x|, pointwise, of x's shape; dy/dx is the sign of x, 0 at 0"""

    name, cases = "abs", (*UNARY, Case(((5, 23),), draw={0: with_edges}, smooth=False))

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.abs(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * sign(x),)

    def scalar(self, x: Scalar) -> Scalar:
        magnitude, _ = maths.split_sign(x)
        return magnitude


class Sign(Unary):
    """y = 1 where x > 0, -1 where x < 0, 0 at 0, NaN for NaN, pointwise, of x's shape; no gradient"""

    name, differentiable = "sign", False
    cases = tuple(Case(c.shapes, draw={0: with_edges}, smooth=False) for c in UNARY)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.sign(x)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.where(x > 0.0, 1.0, lang.where(x < 0.0, -1.0, lang.where(x == x, 0.0, x)))


class Rounding(Unary):
    """Base of roundings to whole numbers, which are flat but for their steps: they have no gradient."""

    differentiable = False
    cases = ROUNDED


class Floor(Rounding):
    """y = the largest whole number that is not above x, pointwise, of x's shape; no gradient"""

    name = "floor"

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.floor(x)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.floor(x)


class Ceil(Rounding):
    """y = the smallest whole number that is not below x, pointwise, of x's shape; no gradient"""

    name = "ceil"

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.ceil(x)

    def scalar(self, x: Scalar) -> Scalar:
        return -lang.floor(-x)


class Round(Rounding):
    """y = the nearest whole number, the even one where two are equally near, pointwise, of x's shape; no gradient"""

    name = "round"

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.round(x)

    def scalar(self, x: Scalar) -> Scalar:
        magnitude, bit = maths.split_sign(x)
        below = lang.floor(magnitude)
        rest, half = magnitude - below, below * 0.5
        # of a whole number and a half, the even neighbour is the upper one if the lower one is odd
        up = (rest > 0.5) | ((rest == 0.5) & (lang.floor(half) != half))
        return maths.with_sign(lang.where(up, below + 1.0, below), bit)


class AsFloat(Pointwise):
    """y = x as float32, pointwise, of x's shape: labels and places are int32; no gradient"""

    name, arity, integers, differentiable = "as_float", 1, (0,), False
    cases = tuple(Case(c.shapes, draw={0: whole_numbers}, smooth=False) for c in UNARY)

    def normalise(self, x: Operand) -> dict[str, object]:
        return {}

    def numpy(self, x: Ndarray) -> Ndarray:
        return x.astype(np.float32)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.cast(x, F32)


class AsInteger(Unary):
    """y = x as int32, what stands after the point cut off, pointwise, of x's shape; no gradient

    Numbers beyond int32, and NaN, have no defined result.
    """

    name, dtype, differentiable = "as_integer", "int32", False
    cases = tuple(Case(c.shapes, draw={0: lambda r, s: 100 * r.standard_normal(s)}, smooth=False) for c in UNARY)

    def numpy(self, x: Ndarray) -> Ndarray:
        return x.astype(np.int32)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.cast(x, I32)


abs, sign, floor, ceil, round = Abs(), Sign(), Floor(), Ceil(), Round()
as_float, as_integer = AsFloat(), AsInteger()
