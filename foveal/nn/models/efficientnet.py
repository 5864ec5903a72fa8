"""EfficientNet-B0 (Tan and Le 2019, table 1), with torchvision's names."""

import math

from foveal.nn.activation import SiLU
from foveal.nn.blocks import SqueezeExcitation
from foveal.nn.container import Sequential
from foveal.nn.dropout import Dropout, StochasticDepth
from foveal.nn.init import generator
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import conv_norm, fan_out_start, pooled_features, zero
from foveal.nn.module import Module
from foveal.ops.op import Tensor

# channels of the first convolution (table 1)
STEM = 32
# expansion, kernel size, stride of the first block, channels, number of blocks
Stage = tuple[int, int, int, int, int]
# table 1, stages 2 to 8
STAGES: tuple[Stage, ...] = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(Module):
    """A 1x1 convolution to `expansion` times the channels, kernel x kernel on each by itself, squeeze and excitation,
    and 1x1 to `outputs` channels: x [N, inputs, H, W] -> [N, outputs, H / stride, W / stride], rounded up.

    Where the shapes agree x is added, and in training the branch is dropped for an image with probability `drop`
    (Huang et al. 2016).
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, drop: float) -> None:
        # channels between the two 1x1 convolutions
        inner = inputs * expansion
        expand = [conv_norm(inputs, inner, 1, activation=SiLU)] if expansion != 1 else []
        self.block = Sequential(
            *expand,
            conv_norm(inner, inner, kernel, stride, groups=inner, activation=SiLU),
            SqueezeExcitation(inner, max(1, inputs // 4), activation=SiLU),
            conv_norm(inner, outputs, 1, activation=None),
        )
        self.stochastic_depth = StochasticDepth(drop, "row")
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return self.stochastic_depth(y) + x if self.shortcut else y


class EfficientNet(Module):
    """Images [N, channels, H, W] of any size (224x224 in the paper) -> logits [N, classes].

    stages: rows of STAGES. dropout: the probability before the classifier. drop: the probability with which a residual
    branch is dropped rises linearly from 0 at the first block towards this one.
    """

    heads = ("classifier.1",)

    def __init__(
        self,
        channels: int = 3,
        classes: int = 1000,
        stages: tuple[Stage, ...] = STAGES,
        dropout: float = 0.2,
        drop: float = 0.2,
    ) -> None:
        layers: list[Module] = [conv_norm(channels, STEM, 3, stride=2, activation=SiLU)]
        # before: the number of blocks so far, of `count` in all
        inputs, before, count = STEM, 0, sum(repeats for *_, repeats in stages)
        for expansion, kernel, stride, outputs, repeats in stages:
            blocks = []
            for i in range(repeats):
                rate = drop * before / count
                blocks.append(MBConv(inputs, outputs, expansion, kernel, stride if i == 0 else 1, rate))
                inputs, before = outputs, before + 1
            layers.append(Sequential(*blocks))
        layers.append(conv_norm(inputs, 4 * inputs, 1, activation=SiLU))
        self.features = Sequential(*layers)
        head = Linear(4 * inputs, classes)
        self.classifier = Sequential(Dropout(dropout), head)
        fan_out_start(self)
        # torchvision's start of the classifier
        bound = 1 / math.sqrt(classes)
        head.weight.data = generator().uniform(-bound, bound, head.weight.shape)
        zero(head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(pooled_features(self.features(x)))
