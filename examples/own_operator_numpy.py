"""An operator of one's own from two formulas: `numpy` computes it, `vjp` is its gradient. A kernel may come later.

Without a kernel it runs in networks all the same: native code stops there and calls `numpy`, and a warning says once
what that takes. Then the class is defined again under its name, as in a notebook cell, with a kernel for one element;
what was compiled with the first definition is compiled anew.
"""

import warnings

import numpy as np

import foveal
from foveal import nn, ops, optim
from foveal.kernel import lang


class SoftThreshold(ops.Operator):
    """y = sign(x) max(|x| - 1, 0): shrinkage, as in sparse coding"""

    def numpy(self, x):
        return np.sign(x) * np.maximum(abs(x) - 1, 0)

    def vjp(self, dy, y, x):
        return (ops.where(y * y, dy, 0.0),)


shrink = SoftThreshold()
rng = np.random.default_rng(0)
x, labels = (3 * rng.standard_normal((64, 10))).astype("float32"), rng.integers(0, 3, 64)
print(foveal.gradcheck(shrink, x))


class Shrinking(nn.Module):
    def __init__(self):
        self.first, self.last = nn.Linear(10, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.last(shrink(self.first(x)))


nn.seed(0)
net = Shrinking()
step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.03))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    losses = [step(x, labels).loss for _ in range(60)]
print(told[0].message)
print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")
assert losses[-1] < losses[0] / 2
before = net(x)


class SoftThreshold(SoftThreshold, ops.Pointwise):
    def scalar(self, x):
        return x - lang.maximum(-1.0, 0.0 - lang.maximum(0.0 - x, -1.0))


shrink = SoftThreshold()
np.testing.assert_allclose(net(x), before, rtol=1e-4, atol=1e-4)
print("the same with a kernel")
