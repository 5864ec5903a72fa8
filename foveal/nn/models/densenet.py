"""DenseNet-BC (Huang, Liu, van der Maaten, Weinberger 2017, table 1, and section 3 for CIFAR), with torchvision's
names.
"""

from typing import Any

from foveal import ops
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d, he_start
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import Size, check_size, pooled_features, zero
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import AvgPool2d, MaxPool2d

BLOCKS = (6, 12, 24, 16)  # layers of each block of DenseNet-121
WIDER = 4  # the 1x1 convolution of a layer has this many times the channels that the layer adds
SMALLEST = 29


class DenseLayer(Module):
    """[x, conv3x3(relu(bn(conv1x1(relu(bn(x))))))], side by side: x [N, C, H, W] -> [N, C + growth, H, W]"""

    def __init__(self, inputs: int, growth: int) -> None:
        self.norm1 = BatchNorm2d(inputs)
        self.conv1 = Conv2d(inputs, WIDER * growth, 1, bias=False)
        self.norm2 = BatchNorm2d(WIDER * growth)
        self.conv2 = Conv2d(WIDER * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Any) -> Any:
        y = self.conv1(ops.relu(self.norm1(x)))
        y = self.conv2(ops.relu(self.norm2(y)))
        return ops.concatenate(x, y)


class Named(Sequential):
    """Modules one after another, under names of their own."""

    def __init__(self, **modules: Module) -> None:
        for name, module in modules.items():
            setattr(self, name, module)


def transition(inputs: int, outputs: int) -> Module:
    """Between blocks: half of the channels, and of the rows and columns."""
    conv = Conv2d(inputs, outputs, 1, bias=False)
    return Named(norm=BatchNorm2d(inputs), relu=ReLU(), conv=conv, pool=AvgPool2d(2, stride=2))


def stem(channels: int, outputs: int, small_images: bool) -> dict[str, Module]:
    if small_images:
        return {"conv0": Conv2d(channels, outputs, 3, padding=1, bias=False)}
    return {
        "conv0": Conv2d(channels, outputs, 7, stride=2, padding=3, bias=False),
        "norm0": BatchNorm2d(outputs),
        "relu0": ReLU(),
        "pool0": MaxPool2d(3, stride=2, padding=1),
    }


class DenseNet(Module):
    """Images [N, channels, H, W] of 29x29 and more (224x224 in the paper) -> logits [N, classes].

    growth: channels that each layer adds. blocks: layers of each block. small_images: one 3x3 convolution before the
    first block, and images of 2^(blocks - 1) rows and columns and more, for CIFAR.
    """

    heads = ("classifier",)

    def __init__(
        self,
        channels: int = 3,
        size: Size = (224, 224),
        classes: int = 1000,
        growth: int = 32,
        blocks: tuple[int, ...] = BLOCKS,
        width: int = 64,
        small_images: bool = False,
    ) -> None:
        check_size("densenet", size, 2 ** (len(blocks) - 1) if small_images else SMALLEST)
        parts = stem(channels, width, small_images)
        for i, layers in enumerate(blocks, 1):
            block = {f"denselayer{j + 1}": DenseLayer(width + j * growth, growth) for j in range(layers)}
            parts[f"denseblock{i}"] = Named(**block)
            width += layers * growth
            if i < len(blocks):
                parts[f"transition{i}"] = transition(width, width // 2)
                width //= 2
        self.features = Named(**parts, norm5=BatchNorm2d(width))
        self.classifier = Linear(width, classes)
        he_start(self)
        zero(self.classifier.bias)

    def forward(self, x: Any) -> Any:
        return self.classifier(pooled_features(ops.relu(self.features(x))))
