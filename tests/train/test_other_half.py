"""Weights that PyTorch has trained on the digits 0 to 4, under torchvision's names, make 5 to 9 easy.

MNIST at half its size; 25 images to learn from. Without PyTorch the weights are trained here.
"""

from importlib.util import find_spec

import numpy as np
import pytest
from safetensors.numpy import save_file
from shared import DATA

from foveal import data, nn, train
from foveal.nn.models.resnet import CifarResNet

MNIST = DATA / "mnist"
pytestmark = pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not in the shared folder")

# how much better it has to be than from scratch: a tenth of all images
MARGIN = 0.1
STATISTICS = {"mean": 0.13, "std": 0.25}


@pytest.fixture(scope="module")
def digits():
    """Images uint8 [n, 1, 14, 14] and digits: the first 6000 of training and 1500 of testing."""
    whole = data.load(MNIST)

    def halved(x):
        return x.reshape(len(x), 1, 14, 2, 14, 2).mean((3, 5)).round().astype("uint8")

    train_part = halved(whole.images_train[:6000]), whole.y_train[:6000]
    return train_part, (halved(whole.images_test[:1500]), whole.y_test[:1500])


def half(part, first, count=None):
    """The images of five digits from `first` on, and their classes 0 to 4."""
    x, y = part
    wanted = (y >= first) & (y < first + 5)
    return x[wanted][:count], y[wanted][:count] - first


def net(seed):
    nn.seed(seed)
    return CifarResNet(8, channels=1, classes=5)


def trained_by_torch(images, labels):
    """The state of a residual network of torchvision's names that torch has trained, as arrays."""
    import torch
    from torch import nn as tnn

    class Block(tnn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = tnn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = tnn.BatchNorm2d(outputs)
            self.conv2 = tnn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = tnn.BatchNorm2d(outputs)
            self.downsample = None
            if stride > 1:
                self.downsample = tnn.Sequential(
                    tnn.Conv2d(inputs, outputs, 1, stride, bias=False), tnn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class Net(tnn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = tnn.Conv2d(1, 16, 3, 1, 1, bias=False), tnn.BatchNorm2d(16)
            self.layer1 = tnn.Sequential(Block(16, 16, 1))
            self.layer2 = tnn.Sequential(Block(16, 32, 2))
            self.layer3 = tnn.Sequential(Block(32, 64, 2))
            self.fc = tnn.Linear(64, 5)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    torch.manual_seed(0)
    made, rng = Net(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    x = torch.from_numpy((images / np.float32(255) - STATISTICS["mean"]) / STATISTICS["std"])
    y = torch.from_numpy(labels)
    # of such small batches, threads would only wait for each other
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(4):
        for rows in rng.permutation(len(x))[: len(x) // 50 * 50].reshape(-1, 50):
            optimizer.zero_grad()
            tnn.functional.cross_entropy(made(x[rows]), y[rows]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return {name: value.numpy() for name, value in made.state_dict().items()}


def trained_here(digits):
    """The state of the same network that this library has trained."""
    made = net(0)
    base = data.from_arrays("0-4", *half(digits[0], 0, 1500), *half(digits[1], 0, 100))
    train.train(base, made, epochs=4, batch_size=50, lr=5e-3, optimizer="adamw", quiet=True)
    return made.state_dict()


@pytest.mark.long
def test_weights_of_one_half_of_the_classes_help_with_the_other(digits, tmp_path):
    with_torch = find_spec("torch") is not None
    state = trained_by_torch(*half(digits[0], 0, 1500)) if with_torch else trained_here(digits)
    save_file(state, tmp_path / "low.safetensors")
    high = data.from_arrays("5-9", *half(digits[0], 5, 25), *half(digits[1], 5, 400))
    how = {"epochs": 16, "batch_size": 25, "lr": 0.01, "optimizer": "adamw", "seed": 1, "quiet": True}
    scratch = train.train(high, net(1), **how)
    tuned = train.train(high, net(1), weights=tmp_path / "low.safetensors", **how)
    assert tuned["freeze_epochs"] == 4
    assert tuned["test"]["accuracy"] > scratch["test"]["accuracy"] + MARGIN
    if not with_torch:
        pytest.skip("PyTorch is not installed: it passed with weights that were trained here")
