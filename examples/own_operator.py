"""An operator of one's own: the Squareplus activation (Barron 2021), y = (x + sqrt(x^2 + 4)) / 2, fused like others.

A pointwise operator is one class: name, arity, cases, `numpy` (the equation, which is the oracle), `vjp` (the gradient,
written with operators) and `scalar` (one element in the kernel language). Making an instance registers it. The checks
that every operator of Foveal passes are derived from `cases`; tests/support/checks.py has them.
"""

import numpy as np

import foveal
from foveal import ops
from foveal.kernel import lang
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import Case


class Squareplus(Pointwise):
    """y = (x + sqrt(x^2 + 4)) / 2, of any shape"""

    name, arity = "squareplus", 1
    cases = (Case(((4, 5),)), Case(((2, 19, 3, 3),)))

    def numpy(self, x):
        return (x + np.sqrt(x * x + 4)) / 2

    def vjp(self, dy, y, x):
        return (dy * (x / ops.sqrt(x * x + 4.0) + 1.0) * 0.5,)

    def scalar(self, x):
        return (x + lang.sqrt(x * x + 4.0)) * 0.5


squareplus = Squareplus()

x = np.linspace(-3, 3, 7, dtype="float32")
print("NumPy   ", squareplus(x).round(4))
print("native  ", foveal.compile(squareplus)(x).round(4))
# The gradient by the rule above is compared with central differences in float64.
slope = foveal.grad(lambda x: ops.sum(squareplus(x)))(x)
step = 1e-6
measured = (squareplus(x.astype("float64") + step) - squareplus(x.astype("float64") - step)) / (2 * step)
print("gradient", slope.round(4))
np.testing.assert_allclose(slope, measured, rtol=1e-4, atol=1e-6)
