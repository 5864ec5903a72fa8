"""LeNet-5: foveal.nn.models.lenet."""

from torch import nn

from foveal.bench.torch_models.blocks import sequential
from foveal.nn.models.blocks import Size


def lenet5(channels: int, size: Size, classes: int) -> nn.Module:
    """foveal.nn.models.LeNet5"""
    rows, columns = ((n // 2 - 4) // 2 for n in size)
    return sequential(
        conv1=nn.Conv2d(channels, 6, 5, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * rows * columns, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, classes),
    )
