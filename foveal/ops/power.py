"""Powers, pointwise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveal.kernel import circular, lang
from foveal.kernel.lang import Scalar
from foveal.kinds import unpacked
from foveal.ops.elementwise import BINARY, UNARY, Binary, Pointwise, Unary, drawn, equal, greater, log, positive, where
from foveal.ops.op import Case, Operand, Tensor
from foveal.strides import Ndarray, Shape

# Whole powers up to this one are products; further ones would lose more digits than exp and log do.
MOST_PRODUCTS = 8


def exponents(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers from -3 to 3."""
    return rng.uniform(-3, 3, shape)


class Square(Unary):
    """y = x^2, pointwise, of x's shape; dy/dx = 2 x"""

    name, cases = "square", UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.square(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * (x * 2.0),)

    def scalar(self, x: Scalar) -> Scalar:
        return x * x


class ConstantPower(Pointwise):
    """y = x^exponent for a number, pointwise, of x's shape; dy/dx = exponent x^(exponent - 1)

    Whole exponents from -8 to 8 are products, 0.5 is a root; x^0 is 1 everywhere. NaN for x below 0 unless the exponent
    is whole. `x ** 3` and ops.power(x, 3) come here.
    """

    name, arity = "constant_power", 1
    cases = (
        *(Case(((3, 35),), {"exponent": e}) for e in (2, 3, 0, 1)),
        *(Case(((3, 35),), {"exponent": e}, {0: positive}) for e in (-1, 0.5, 1.7, -2.5, 11)),
    )

    def normalise(self, x: Operand, *, exponent: float) -> dict[str, Any]:
        return {"exponent": float(exponent)}

    def numpy(self, x: Ndarray, *, exponent: float) -> Ndarray:
        return np.power(x, int(exponent) if exponent.is_integer() and exponent >= 0 else exponent)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, exponent: float) -> tuple[Tensor | None, ...]:
        if exponent == 0.0:
            return (None,)
        return (dy * (constant_power(x, exponent=exponent - 1.0) * exponent),)

    def scalar(self, x: Scalar, *, exponent: float) -> Scalar:
        if exponent == 0.5:
            return lang.sqrt(x)
        if not exponent.is_integer() or math.fabs(exponent) > MOST_PRODUCTS:
            return circular.power(x, exponent)
        product: Scalar = 1.0
        left, square = int(math.fabs(exponent)), x
        # by the bits of the exponent, lowest first: x, x^2, x^4, ...
        while left:
            product = product * square if left & 1 else product
            square, left = square * square, left >> 1
        if exponent == 0.0:
            # 1 in as many lanes as x has
            return lang.where(x == x, 1.0, 1.0)
        return 1.0 / product if exponent < 0 else product


class Power(Binary):
    """y = a^b, pointwise; shapes broadcast

    dy/da = b a^(b-1), 0 where b is 0; dy/db = y ln a, 0 where a is 0 and b is not below 0. NaN for a below 0 unless b
    is whole. A number as b is better known: ops.power(x, 2) is a product (constant_power). Computed by exp and log with
    the digits that they lose, to a few ULP.
    """

    name, cases = "power", drawn(BINARY, positive, exponents)

    def apply(self, inputs: Sequence[object], attributes: Mapping[str, object]) -> Any:
        if len(inputs) == 2 and not attributes:
            exponent = unpacked(inputs[1])
            whole = isinstance(exponent, int) and not isinstance(exponent, bool)
            # of whole numbers none is infinite, but there are some that no float holds
            if whole or (isinstance(exponent, float) and math.isfinite(exponent)):
                return constant_power.apply(inputs[:1], {"exponent": exponent})
        return super().apply(inputs, attributes)

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.power(a, b)

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        of_base = where(equal(b, 0.0), 0.0, dy * (b * power(a, b - 1.0)))
        flat = where(equal(a, 0.0), 1.0 - greater(0.0, b), 0.0)
        return of_base, where(flat, 0.0, dy * (y * log(a)))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return circular.power(a, b)


square, constant_power, power = Square(), ConstantPower(), Power()
