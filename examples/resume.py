"""A training that is stopped and goes on later, to the same bits: dropout, augmentation, averages and all.

Here in a loop of one's own; foveal.train.train has the callback SaveState and the option resume for the same.
"""

import tempfile
from pathlib import Path

import numpy as np

import foveal
from foveal import nn, optim
from foveal.data import Loader

rng = np.random.default_rng(0)
images, labels = rng.random((60, 1, 8, 8), np.float32), rng.integers(0, 4, 60)


def build():
    """Everything as it is at the start; the network's first values do not matter if a state is loaded."""
    nn.seed(0)
    convolution = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)
    net = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(288, 4))
    optimizer = optim.EMA(optim.AdamW(net.parameters()), decay=0.9)
    optimizer.schedule(lr=optim.schedule.one_cycle(0.01, 20))
    loader = Loader(images, labels, 10, mean=[0.5], std=[0.3], shuffle=True, augment="crop+flip")
    return foveal.train.Training(foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer), loader=loader)


path = Path(tempfile.mkdtemp()) / "training.safetensors"
training = build()
for x, y in training.batches(epochs=3):
    training.step(x, y)
    if training.step.steps == 11:
        training.save(path)

# This could be another process: it goes on with the last batch of the second epoch.
later = build()
later.load(path)
for x, y in later.batches(epochs=3):
    later.step(x, y)
for name, array in training.state_dict().items():
    assert np.array_equal(array, later.state_dict()[name]), name
print(f"18 steps, and 11 steps and 7 later: the same bits, {path.stat().st_size:,} bytes")
