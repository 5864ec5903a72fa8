"""An operator of one's own: the Mish activation (Misra 2019), y = x tanh(log(1 + e^x)), fused into its neighbours.

A pointwise operator is one class: name, arity, cases, `numpy` (the equation, which is the oracle), `vjp` (the gradient,
written with operators) and `scalar` (one element in the kernel language). Making an instance registers it. The checks
that every operator of Foveal passes are derived from `cases`; tests/support/checks.py has them.
"""

import numpy as np

import foveal
from foveal import ops
from foveal.kernel import maths
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import Case


class Mish(Pointwise):
    """y = x tanh(softplus(x)), of any shape"""

    name, arity = "mish", 1
    cases = (Case(((4, 5),)), Case(((2, 19, 3, 3),)))

    def numpy(self, x):
        return x * np.tanh(np.log1p(np.exp(x)))

    def vjp(self, dy, y, x):
        gate = ops.tanh(ops.softplus(x))
        return (dy * (gate + x * (1.0 - gate * gate) * ops.sigmoid(x)),)

    def scalar(self, x):
        return x * maths.tanh(maths.log(1.0 + maths.exp(x)))


mish = Mish()

x = np.linspace(-3, 3, 7, dtype="float32")
print("NumPy   ", mish(x).round(4))
print("native  ", foveal.compile(mish)(x).round(4))
# The gradient by the rule above is compared with central differences in float64.
slope = foveal.grad(lambda x: ops.sum(mish(x)))(x)
step = 1e-6
measured = (mish(x.astype("float64") + step) - mish(x.astype("float64") - step)) / (2 * step)
print("gradient", slope.round(4))
np.testing.assert_allclose(slope, measured, rtol=1e-4, atol=1e-6)
