"""An optimiser of one's own: Lion (Chen et al. 2023, algorithm 2), which steps by the sign of an interpolated momentum.

An optimiser is one class: the names of what it keeps for each parameter, its hyper-parameters, and `update`, written
with operators like the paper's lines. It becomes part of the native training step; clipping, groups, schedules and
saving work.
"""

import numpy as np

import foveal
from foveal import nn, ops, optim


class Lion(optim.Optimizer):
    """c = b1 m + (1 - b1) g;  p <- p - lr sign(c);  m <- b2 m + (1 - b2) g"""

    state_names = ("momentum",)
    default_lr = 1e-3

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.99), **common):
        self.betas = betas
        super().__init__(parameters, lr, **common)

    def update(self, p, g, state, now, group):
        (b1, b2), m = self.betas, state["momentum"]
        c = m * b1 + g * (1.0 - b1)
        sign = ops.greater(c, 0.0) - ops.greater(0.0, c)
        return p - sign * now["lr"], {"momentum": m * b2 + g * (1.0 - b2)}


nn.seed(0)
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
rng = np.random.default_rng(0)
images, labels = rng.standard_normal((40, 1, 8, 8)).astype("float32"), rng.integers(0, 4, 40)

optimizer = Lion(net.parameters(), lr=5e-3, weight_decay=0.01, decoupled=True)
optimizer.schedule(lr=optim.schedule.cosine(5e-3, 100))
step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer)
losses = [step(images, labels).loss for _ in range(100)]
print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")
assert losses[-1] < 0.1
