"""EfficientNet-B0 (Tan and Le 2019, table 1), with torchvision's names."""

import math
from typing import Any

from foveal.nn.activation import SiLU
from foveal.nn.container import Sequential
from foveal.nn.dropout import Dropout, StochasticDepth
from foveal.nn.init import generator
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import conv_norm, fan_out_start, pooled_features, zero
from foveal.nn.module import Module
from foveal.nn.squeeze import SqueezeExcitation

STEM = 32
Stage = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (  # expansion, kernel, stride of the first, channels, repeats
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(Module):
    """1x1 to `expansion` times the channels, k x k on each by itself, squeeze and excitation, 1x1 back.

    Where shapes agree x is added, and in training the branch is dropped for an image with probability `drop`.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, drop: float) -> None:
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

    def forward(self, x: Any) -> Any:
        y = self.block(x)
        return self.stochastic_depth(y) + x if self.shortcut else y


class EfficientNet(Module):
    """Images [N, channels, H, W] of any size (224x224 in the paper) -> logits [N, classes].

    drop: the probability that a branch is dropped rises from 0 at the first block towards this.
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
        bound = 1 / math.sqrt(classes)
        head.weight.data = generator().uniform(-bound, bound, head.weight.shape)
        zero(head.bias)

    def forward(self, x: Any) -> Any:
        return self.classifier(pooled_features(self.features(x)))
