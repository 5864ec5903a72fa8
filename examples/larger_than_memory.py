"""Images from a memory map, of which only the rows of a batch are read, and gradients added up over four batches.

`Loader` takes arrays, memory maps, h5py's data sets, sequences of (image, label) and functions that make generators.
`for` walks through one epoch, the next one in another order; a thread reads the next batches meanwhile.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import foveal
from foveal import nn, optim
from foveal.data import Loader

digits = load_digits()
path = Path(tempfile.mkdtemp()) / "images.bin"
# Bytes [n, H, W], as a program that collects images would leave them; a loader divides them by 255.
(digits.images * (255 / 16)).astype("uint8").tofile(path)
images = np.memmap(path, "uint8", mode="r", shape=(1797, 8, 8))
train, test = np.arange(1500), np.arange(1500, 1797)

loader = Loader(images, digits.target, batch_size=15, rows=train, shuffle=True, augment="shift", prefetch=2)
nn.seed(0)
net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 10))
optimizer = optim.Nesterov(net.parameters(), lr=0.1)
# An update takes four batches of 15, as one of 60 would be, in a quarter of the memory.
step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, accumulate=4)
for epoch in range(6):
    losses = [step(x, y).loss for x, y in loader]
    # Where batches are left over at the end of an epoch, they make an update of their own; here there are none.
    step.flush()
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")
assert (step.steps, optimizer.steps) == (600, 150)

net.eval()
right = [net(x).argmax(axis=1) == y for x, y in Loader(images, digits.target, batch_size=99, rows=test)]
print(f"accuracy on images that were not seen: {np.mean(right):.1%}")
assert np.mean(right) > 0.85
