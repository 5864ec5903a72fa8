"""Compile before it is needed: a service that answers its first request at once, and what is said about compiling.

The first call on a new shape compiles kernels, for seconds in a large network; a terminal shows how many of how many,
and where they are kept. warm_up does that beforehand, for the shapes that will come, and changes no bit of the network.
"""

import numpy as np

import foveal
from foveal import nn, optim

nn.seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 100, 10))
before = net.state_dict()
optimizer = optim.Momentum(net.parameters(), lr=0.01)
ready = foveal.warm_up(net, [(1, 3, 12, 12), (16, 3, 12, 12)], loss=nn.CrossEntropyLoss(), optimizer=optimizer)
print(ready)  # a row for each program: how many kernels, how many were compiled, how many came from the cache
assert all(np.array_equal(before[name], value) for name, value in net.state_dict().items())

# The same shapes again: everything is in memory.
again = foveal.warm_up(net, [(1, 3, 12, 12), (16, 3, 12, 12)], step=ready.step)
assert (again.compiled, again.from_cache) == (0, 0)
loss = ready.step(np.zeros((16, 3, 12, 12), "float32"), np.arange(16) % 10).loss
print(f"first step: loss {loss:.3f}")

# Another shape is another program; at this level a line says so: "argument 0 is float32 [5, ...], was ...".
with foveal.debug.at(foveal.debug.PROGRAM):
    net.eval()(np.zeros((5, 3, 12, 12), "float32"))
