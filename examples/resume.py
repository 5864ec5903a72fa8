"""A training that is stopped and goes on later, to the same bits: dropout, augmentation, averages and all."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import foveal
from foveal import nn, optim
from foveal.data.augment import crop_and_flip
from foveal.data.loader import Loader

rng = np.random.default_rng(0)
images, labels = rng.random((60, 1, 8, 8), np.float32), rng.integers(0, 4, 60)


def build():
    """Everything as it is at the start; the network's first values do not matter if a state is loaded."""
    nn.seed(0)
    convolution = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)
    net = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(288, 4))
    optimizer = optim.EMA(optim.AdamW(net.parameters()), decay=0.9)
    optimizer.schedule(lr=optim.schedule.one_cycle(0.01, 20))
    augment = crop_and_flip((8, 8))
    loader = Loader(images, labels, 10, mean=[0.5], std=[0.3], shuffle=True, drop_last=True, augment=augment)
    return foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer), loader


def train(step, loader, until):
    """Train up to a step, from wherever the training is."""
    while step.steps < until:
        epoch, batch = divmod(step.steps, len(loader))
        for x, y in itertools.islice(loader.epoch(epoch), batch, batch + until - step.steps):
            step(x, y)


path = Path(tempfile.mkdtemp()) / "training.safetensors"
step, loader = build()
train(step, loader, until=11)
save_file(foveal.train.state_dict(step, loader=loader), path)
train(step, loader, until=20)

# This could be another process.
later, loader = build()
foveal.train.load_state_dict(later, load_file(path), loader=loader)
train(later, loader, until=20)
for name, array in foveal.train.state_dict(step).items():
    assert np.array_equal(array, foveal.train.state_dict(later)[name]), name
print(f"20 steps, and 11 steps and 9 later: the same bits, {path.stat().st_size:,} bytes")
