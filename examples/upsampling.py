"""A decoder: images are halved twice, and enlarged again by interpolation and by channels that become pixels.

It learns to take noise off the digits. What a pixel of the result reads of the image is in the last row of the table.
"""

import numpy as np
from sklearn.datasets import load_digits

import foveal
from foveal import nn, optim

digits = (load_digits().images / 16).astype("float32")[:, None]
rng = np.random.default_rng(0)

nn.seed(0)
net = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Mish(), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Mish(), nn.MaxPool2d(2)),
    # 2x2 to 4x4 between pixels, then to 8x8 with four channels for each pixel
    nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(32, 16, 3, padding=1), nn.Mish()),
    nn.Sequential(nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2)),
)
print(net.summary((1, 8, 8)))

step = foveal.compile_step(net, nn.MSELoss(), optim.Adam(net.parameters(), lr=0.003))
for _ in range(90):
    clean = digits[rng.choice(1500, 100, replace=False)]
    loss = step(clean + 0.4 * rng.standard_normal(clean.shape, "float32"), clean).loss

unseen = digits[1500:]
noisy = unseen + 0.4 * rng.standard_normal(unseen.shape, "float32")
before, after = np.mean((noisy - unseen) ** 2), np.mean((net.eval()(noisy) - unseen) ** 2)
print(f"mean squared error: noisy {before:.3f}, decoded {after:.3f}")
assert after < before / 2
