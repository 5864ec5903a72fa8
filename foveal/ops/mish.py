"""Mish, an activation."""

import numpy as np

from foveal.kernel import lang, maths
from foveal.kernel.lang import Scalar
from foveal.ops.activation import sigmoid, smooth
from foveal.ops.elementwise import Unary, exp, minimum
from foveal.ops.op import Tensor
from foveal.strides import Ndarray

# From here on the factor of x is 1 in float32, and the square of e^x is still finite.
FLAT = 20.0


class Mish(Unary):
    """y = x tanh(ln(1 + e^x)), pointwise, of x's shape: Misra 2019

    With e = e^x the tanh is t = e (e + 2) / (e (e + 2) + 2), and dy/dx = t + x (1 - t^2) / (1 + e^-x).
    """

    name, cases = "mish", smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * np.tanh(np.logaddexp(0, x))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        e = exp(minimum(x, FLAT))
        n = e * (e + 2.0)
        # 1 - t^2 = 4 (n + 1) / (n + 2)^2, without cancellation
        rest = (n + 1.0) * 4.0 / ((n + 2.0) * (n + 2.0))
        return (dy * (n / (n + 2.0) + x * rest * sigmoid(x)),)

    def scalar(self, x: Scalar) -> Scalar:
        e = maths.exp(lang.minimum(x, FLAT))
        n = e * (e + 2.0)
        return x * (n / (n + 2.0))


mish = Mish()
