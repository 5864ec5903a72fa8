"""VGG (Simonyan and Zisserman 2015, table 1, column D) with batch norm, with torchvision's parameter names for the features.

For small images, as is usual for CIFAR: one linear layer on 512 features in place of the three of 4096.
"""

from typing import Any

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d, he_start
from foveal.nn.linear import Linear
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import MaxPool2d

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # VGG-16


class VGG(Module):
    """Stages of 3x3 convolutions, each followed by batch norm and relu, and a pooling by 2 after each stage.

    Images [N, channels, H, W] of 32x32 and more -> logits [N, classes].
    """

    def __init__(
        self,
        channels: int = 3,
        size: tuple[int, int] = (32, 32),
        classes: int = 10,
        stages: tuple[tuple[int, ...], ...] = STAGES,
    ) -> None:
        smallest = 2 ** len(stages)
        if min(size) < smallest:
            raise ShapeError(
                f"vgg: images of {size[0]}x{size[1]} are too small, it needs {smallest}x{smallest};"
                " use --model small"
            )
        layers: list[Module] = []
        for widths in stages:
            for width in widths:
                layers += [Conv2d(channels, width, 3, padding=1), BatchNorm2d(width), ReLU()]
                channels = width
            layers.append(MaxPool2d(2))
        self.features = Sequential(*layers)
        self.classifier = Linear(channels, classes)
        he_start(self)

    def forward(self, x: Any) -> Any:
        x = self.features(x)  # N 512 1 1 of 32x32
        if x.shape[2:] != (1, 1):
            x = ops.global_avg_pool2d(x)
        return self.classifier(x.reshape(x.shape[0], -1))
