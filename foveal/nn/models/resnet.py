"""Residual networks (He, Zhang, Ren, Sun 2016): for small images (section 4.2), and ResNet-18, with torchvision's names."""

from typing import Any

import numpy as np

from foveal import ops
from foveal.nn.container import Identity, Sequential
from foveal.nn.conv import Conv2d, he_start
from foveal.nn.linear import Linear
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import MaxPool2d


class BasicBlock(Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))); where the shape changes the shortcut is a strided 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        self.conv1 = Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(outputs)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.downsample: Module = Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = Sequential(
                Conv2d(inputs, outputs, 1, stride=stride, bias=False), BatchNorm2d(outputs)
            )

    def forward(self, x: Any) -> Any:
        y = ops.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return ops.relu(y + self.downsample(x))


class CifarResNet(Module):
    """6n + 2 layers in three stages of `width`, 2 `width` and 4 `width` channels; images [N, C, H, W] -> logits."""

    def __init__(
        self, depth: int = 20, channels: int = 3, classes: int = 10, width: int = 16
    ) -> None:
        blocks = (depth - 2) // 6
        self.conv1 = Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.layer1 = stage(width, width, blocks, 1)
        self.layer2 = stage(width, 2 * width, blocks, 2)
        self.layer3 = stage(2 * width, 4 * width, blocks, 2)
        self.fc = Linear(4 * width, classes)
        he_start(self)
        self.fc.bias.data = np.zeros(classes, np.float32)  # type: ignore[union-attr]

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.bn1(self.conv1(x)))  # N 16 32 32
        x = self.layer1(x)  # N 16 32 32
        x = self.layer2(x)  # N 32 16 16
        x = self.layer3(x)  # N 64 8 8
        x = ops.global_avg_pool2d(x)
        return self.fc(x.reshape(x.shape[0], -1))


class ResNet18(Module):
    """Four stages of two blocks (table 1, column 18-layer); images [N, C, H, W] -> logits [N, classes].

    small_images: a 3x3 convolution of stride 1 in place of the 7x7 one of stride 2 and the max-pooling after it, as is
    usual for images of 32x32.
    """

    def __init__(self, channels: int = 3, classes: int = 1000, small_images: bool = False) -> None:
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = Conv2d(channels, 64, size, stride=stride, padding=size // 2, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.maxpool = Identity() if small_images else MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(64, 64, 2, 1)
        self.layer2 = stage(64, 128, 2, 2)
        self.layer3 = stage(128, 256, 2, 2)
        self.layer4 = stage(256, 512, 2, 2)
        self.fc = Linear(512, classes)
        he_start(self)

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.bn1(self.conv1(x)))  # N 64 112 112 of 224x224, N 64 32 32 of small images
        x = self.maxpool(x)  # N 64 56 56, N 64 32 32
        x = self.layer2(self.layer1(x))  # N 128 28 28, N 128 16 16
        x = self.layer4(self.layer3(x))  # N 512 7 7, N 512 4 4
        x = ops.global_avg_pool2d(x)
        return self.fc(x.reshape(x.shape[0], -1))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
