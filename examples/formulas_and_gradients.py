"""Formulas over arrays and parameters, and gradients by name: a loss is written as it stands in a paper.

Parameters and traced values have NumPy's operators and methods: `p ** 2`, `a @ b`, `x[:, ::-1]`, `x.mean(axis=0)`.
Outside of a compiled function a parameter gives NumPy arrays. foveal.grad takes gradients in arguments by position or
name, in parameters, in a whole network, or in a list or dict of these; grad of a grad is the second derivative.
"""

import numpy as np

import foveal
from foveal import nn, ops, optim

nn.seed(0)
net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (64, 2)).astype("float32")
y = np.sin(3 * x[:, :1]) * x[:, 1:]


# Ridge regression of a network: the mean squared error, and the squared norm of all parameters.
def ridge(output, target):
    return ((output - target) ** 2).mean() + 1e-4 * sum((p**2).sum() for p in net.parameters())


step = foveal.compile_step(net, ridge, optim.Adam(net.parameters(), lr=0.02))
losses = [step(x, y).loss for _ in range(200)]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; the largest weight is {np.abs(net[0].weight).max():.2f}")
assert losses[-1] < 0.3 * losses[0]

# Gradients nested as `wrt` is: in the input by name, and in all parameters of the network.
value, slopes = foveal.value_and_grad(lambda x, y: ridge(net(x), y), wrt={"input": "x", "net": net})(x, y)
print("input", slopes["input"].shape, *(f"{name} {slope.shape}" for name, slope in slopes["net"].items()))
assert value < losses[-1] + 1e-3


# Second derivatives: the Laplacian of a function of the plane, as in equations of physics.
def wave(p):
    return (ops.sin(2 * p[:, 0]) * ops.cos(p[:, 1])).sum()


def slope(p, axis):
    return foveal.grad(wave)(p)[:, axis].sum()


laplacian = sum(foveal.grad(slope)(x, axis=axis)[:, axis] for axis in (0, 1))
np.testing.assert_allclose(laplacian, -5 * np.sin(2 * x[:, 0]) * np.cos(x[:, 1]), atol=1e-5)
