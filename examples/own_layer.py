"""A layer of one's own: squeeze and excitation (Hu, Shen, Sun 2018, equations 2 to 4), written with operators.

A layer derives from nn.Module, sets its parts as attributes and defines forward(x). Its gradient follows by itself.
"""

import numpy as np

import foveal
from foveal import nn, ops, optim


class SqueezeExcite(nn.Module):
    """y = x * sigmoid(W2 relu(W1 mean(x))): each channel is scaled by what all channels hold. [N, C, H, W] -> the
    same.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x):
        # [N, C, H, W] -> [N, C]
        mean = ops.mean(x, axes=(2, 3))
        scale = ops.sigmoid(self.excite(ops.relu(self.squeeze(mean))))
        return x * scale.reshape(*scale.shape, 1, 1)


nn.seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), SqueezeExcite(8, 4), nn.Flatten(), nn.Linear(8 * 6 * 6, 2))
print(net)
print(net.summary((3, 8, 8)))

rng = np.random.default_rng(0)
images, labels = rng.standard_normal((32, 3, 8, 8)).astype("float32"), rng.integers(0, 2, 32)
step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.01))
losses = [step(images, labels).loss for _ in range(30)]
print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")
assert losses[-1] < 0.1
