"""DenseNet-BC (Huang, Liu, van der Maaten, Weinberger 2017, table 1, and section 3 for CIFAR), with torchvision's
names.
"""

from foveal import ops
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import Size, check_size, he_start, pooled_features, zero
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import AvgPool2d, MaxPool2d
from foveal.ops.op import Tensor

# layers of each block of DenseNet-121 (table 1)
BLOCKS = (6, 12, 24, 16)
# the 1x1 convolution of a layer has this many times the channels that the layer adds ("4k", section 3)
BOTTLENECK = 4
# the smallest image of which the last transition leaves a pixel
SMALLEST = 29


class DenseLayer(Module):
    """x and conv3x3(relu(bn(conv1x1(relu(bn(x)))))) side by side: x [N, C, H, W] -> [N, C + growth, H, W]"""

    def __init__(self, inputs: int, growth: int) -> None:
        self.norm1 = BatchNorm2d(inputs)
        self.conv1 = Conv2d(inputs, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(ops.relu(self.norm1(x)))
        y = self.conv2(ops.relu(self.norm2(y)))
        return ops.concatenate(x, y)


def transition(inputs: int, outputs: int) -> Module:
    """Between blocks: [N, inputs, H, W] -> [N, outputs, H/2, W/2], by a 1x1 convolution and a mean of 2x2."""
    conv = Conv2d(inputs, outputs, 1, bias=False)
    return Sequential({"norm": BatchNorm2d(inputs), "relu": ReLU(), "conv": conv, "pool": AvgPool2d(2, stride=2)})


def stem(channels: int, outputs: int, small_images: bool) -> dict[str, Module]:
    """The layers before the first block, by name; for small images they keep the image's size, else divide it by 4."""
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

    growth: channels that each layer adds. blocks: layers of each block. width: channels before the first block.
    small_images: one 3x3 convolution before the first block, for CIFAR; images then need 2^(blocks - 1) rows and
    columns or more.
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
        # width: the channels so far; every layer adds `growth`, every transition halves them
        for i, layers in enumerate(blocks, 1):
            block = {f"denselayer{j + 1}": DenseLayer(width + j * growth, growth) for j in range(layers)}
            parts[f"denseblock{i}"] = Sequential(block)
            width += layers * growth
            if i < len(blocks):
                parts[f"transition{i}"] = transition(width, width // 2)
                width //= 2
        self.features = Sequential({**parts, "norm5": BatchNorm2d(width)})
        self.classifier = Linear(width, classes)
        he_start(self)
        zero(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(pooled_features(ops.relu(self.features(x))))
