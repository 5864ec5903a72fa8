"""A network in a file, and what its layers compute: save and load, forward hooks, activations, a feature extractor."""

import tempfile
from pathlib import Path

import numpy as np

import foveal
from foveal import nn


class Classifier(nn.Module):
    def __init__(self, channels, classes, act=nn.ReLU):
        self.body = nn.Sequential(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), act(), nn.MaxPool2d(2))
        self.head = nn.Linear(channels * 9, classes)

    def forward(self, x):
        x = self.body(x)
        return self.head(x.reshape(x.shape[0], -1))


nn.seed(0)
net = Classifier(4, classes=10, act=nn.SiLU).eval()
# What is changed afterwards is stored as well: here a last layer for other classes, on frozen features.
net.head = nn.Linear(4 * 9, 3)
net.body.requires_grad_(False)
images = np.random.default_rng(0).standard_normal((5, 1, 8, 8), "float32")

path = Path(tempfile.mkdtemp()) / "net.safetensors"
net.save(path)
loaded = foveal.load(path)
assert np.array_equal(loaded(images), net(images))
assert [p.trainable for p in loaded.parameters()] == [False] * 4 + [True] * 2
print(f"{path.stat().st_size:,} bytes hold {type(loaded).__name__}: the same outputs, to the last bit")

# A hook sees arrays, after each call of its layer, until it is removed.
means = []
with loaded.body[2].register_forward_hook(lambda module, inputs, output: means.append(output.mean())):
    loaded(images)
loaded(images)
print(f"after {type(loaded.body[2]).__name__} the mean is {means[0]:.3f}; the hook was called {len(means)} time")
assert len(means) == 1

# All inner results by name; and one of them as the input of something else.
found = loaded.activations(images)
print({name: array.shape for name, array in found.items()})
assert np.isclose(found["body.2"].mean(), means[0])


class Features(nn.Module):
    def __init__(self, net):
        self.net = net

    def forward(self, x):
        return self.net.activations(x, ["body"])["body"].mean(axes=(2, 3))


print("features:", Features(loaded)(images).shape)
assert np.allclose(Features(loaded)(images), found["body"].mean(axis=(2, 3)), atol=1e-6)
