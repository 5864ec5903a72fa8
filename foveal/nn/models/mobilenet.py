"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen 2018, table 2), with torchvision's parameter names."""

from typing import Any

from foveal import ops
from foveal.nn.activation import ReLU6
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d, he_start
from foveal.nn.dropout import Dropout
from foveal.nn.linear import Linear
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d

STEM, LAST = 32, 1280
BLOCKS = (  # expansion t, channels c, repeats n, stride s of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> Module:
    """Convolution that keeps the image's size but for the stride, batch norm, relu6."""
    conv = Conv2d(
        inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False
    )
    return Sequential(conv, BatchNorm2d(outputs), ReLU6())


class InvertedResidual(Module):
    """1x1 to t times the channels, 3x3 on each channel by itself, 1x1 back without relu6; x is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        inner = inputs * expansion
        expand = [convolution(inputs, inner, 1)] if expansion != 1 else []
        self.conv = Sequential(
            *expand,
            convolution(inner, inner, 3, stride, groups=inner),
            Conv2d(inner, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Module):
    """Images [N, channels, H, W] of any size -> logits [N, classes]; H and W are divided by 32, rounded up."""

    def __init__(self, channels: int = 3, classes: int = 1000, dropout: float = 0.2) -> None:
        layers, inputs = [convolution(channels, STEM, 3, stride=2)], STEM
        for expansion, outputs, repeats, stride in BLOCKS:
            for i in range(repeats):
                block = InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion)
                layers.append(block)
                inputs = outputs
        self.features = Sequential(*layers, convolution(inputs, LAST, 1))
        self.classifier = Sequential(Dropout(dropout), Linear(LAST, classes))
        he_start(self)

    def forward(self, x: Any) -> Any:
        x = ops.global_avg_pool2d(self.features(x))  # N 1280 1 1
        return self.classifier(x.reshape(x.shape[0], -1))
