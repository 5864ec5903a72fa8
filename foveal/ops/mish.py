"""Mish, an activation."""

import numpy as np

from foveal.kernel import lang, maths
from foveal.kernel.lang import Scalar
from foveal.ops.activation import smooth
from foveal.ops.elementwise import Unary, exp, minimum
from foveal.ops.op import Tensor
from foveal.strides import Ndarray

# From here on the factor of x is 1 in float32, and the square of e^x is still finite.
FLAT = 20.0


class Mish(Unary):
    """y = x tanh(ln(1 + e^x)), pointwise, of x's shape: Misra 2019

    With e = e^x and n = e (e + 2) the tanh is n / (n + 2), and dy/dx = n / (n + 2) + 4 x e (e + 1) / (n + 2)^2.
    """

    name, cases = "mish", smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * np.tanh(np.logaddexp(0, x))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        e = exp(minimum(x, FLAT))
        n = e * (e + 2.0)
        share = 1.0 / (n + 2.0)
        return (dy * (n + x * (e * (e + 1.0) * 4.0 * share)) * share,)

    def scalar(self, x: Scalar) -> Scalar:
        e = maths.exp(lang.minimum(x, FLAT))
        n = e * (e + 2.0)
        return x * (n / (n + 2.0))


mish = Mish()
