"""Trigonometric and hyperbolic functions, pointwise; tanh is in elementwise.py. Angles are in radians."""

import numpy as np

from foveal.kernel import circular, lang, maths
from foveal.kernel.lang import Scalar
from foveal.ops.elementwise import UNARY, Unary, drawn, with_edges
from foveal.ops.op import Tensor
from foveal.strides import Ndarray, Shape


def angles(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Angles of up to a thousand turns."""
    return rng.uniform(-6000, 6000, shape)


def slopes_below_five(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Angles at which the tangent is not steep."""
    return rng.uniform(-1.1, 1.1, shape) + np.pi * rng.integers(-3, 4, shape)


ANGLES = (*UNARY, *drawn(UNARY[1:2], angles), *drawn(UNARY[:1], with_edges))


class Sin(Unary):
    """y = sin x, pointwise, of x's shape; dy/dx = cos x"""

    name, cases = "sin", ANGLES

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.sin(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * cos(x),)

    def scalar(self, x: Scalar) -> Scalar:
        return circular.sin(x)


class Cos(Unary):
    """y = cos x, pointwise, of x's shape; dy/dx = -sin x"""

    name, cases = "cos", ANGLES

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.cos(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (-dy * sin(x),)

    def scalar(self, x: Scalar) -> Scalar:
        return circular.cos(x)


class Tan(Unary):
    """y = tan x, pointwise, of x's shape; dy/dx = 1 + y^2"""

    name, cases = "tan", drawn(UNARY, slopes_below_five)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.tan(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * (y * y + 1.0),)

    def scalar(self, x: Scalar) -> Scalar:
        return circular.tan(x)


class Sinh(Unary):
    """y = (e^x - e^-x) / 2, pointwise, of x's shape; dy/dx = cosh x

    Near 0 computed as 2 t / (1 - t^2) with t = tanh(x / 2), which loses no digits.
    """

    name, cases = "sinh", UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.sinh(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * cosh(x),)

    def scalar(self, x: Scalar) -> Scalar:
        magnitude, sign = maths.split_sign(x)
        t = maths.tanh(lang.minimum(magnitude, 1.0) * 0.5)
        # e^x in two factors: it may be infinite where half of it is not
        e = maths.exp(magnitude * 0.5)
        far = e * 0.5 * e - 0.5 / e / e
        return maths.with_sign(lang.where(magnitude < 1.0, t * 2.0 / (1.0 - t * t), far), sign)


class Cosh(Unary):
    """y = (e^x + e^-x) / 2, pointwise, of x's shape; dy/dx = sinh x"""

    name, cases = "cosh", UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.cosh(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * sinh(x),)

    def scalar(self, x: Scalar) -> Scalar:
        magnitude, _ = maths.split_sign(x)
        e = maths.exp(magnitude * 0.5)
        return e * 0.5 * e + 0.5 / e / e


sin, cos, tan, sinh, cosh = Sin(), Cos(), Tan(), Sinh(), Cosh()
