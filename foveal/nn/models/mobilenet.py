"""MobileNets: V1 (Howard et al. 2017, table 1), V2 (Sandler et al. 2018, table 2), V3 (Howard et al. 2019, tables 1 and
2).

V2 and V3 have torchvision's parameter names.
"""

from functools import partial

from foveal.nn.activation import Hardsigmoid, Hardswish, ReLU, ReLU6
from foveal.nn.blocks import SqueezeExcitation
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import (
    Activation,
    conv_norm,
    divisible,
    fan_out_start,
    he_start,
    linear_start,
    pooled_features,
)
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Tensor

# channels of the first convolution of V1 and V2, and of V2's last
STEM, LAST = 32, 1280
# V2, table 2: expansion t, channels c, repeats n, stride s of the first block
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# V1, table 1: channels and stride of each depthwise separable convolution
SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
# the column "NL" of V3's tables
RELU, HSWISH = False, True
# V3, tables 1 and 2: kernel size, expanded channels, channels, squeeze and excitation, activation, stride
LARGE = (
    (3, 16, 16, False, RELU, 1),
    (3, 64, 24, False, RELU, 2),
    (3, 72, 24, False, RELU, 1),
    (5, 72, 40, True, RELU, 2),
    (5, 120, 40, True, RELU, 1),
    (5, 120, 40, True, RELU, 1),
    (3, 240, 80, False, HSWISH, 2),
    (3, 200, 80, False, HSWISH, 1),
    (3, 184, 80, False, HSWISH, 1),
    (3, 184, 80, False, HSWISH, 1),
    (3, 480, 112, True, HSWISH, 1),
    (3, 672, 112, True, HSWISH, 1),
    (5, 672, 160, True, HSWISH, 2),
    (5, 960, 160, True, HSWISH, 1),
    (5, 960, 160, True, HSWISH, 1),
)
SMALL = (
    (3, 16, 16, True, RELU, 2),
    (3, 72, 24, False, RELU, 2),
    (3, 88, 24, False, RELU, 1),
    (5, 96, 40, True, HSWISH, 2),
    (5, 240, 40, True, HSWISH, 1),
    (5, 240, 40, True, HSWISH, 1),
    (5, 120, 48, True, HSWISH, 1),
    (5, 144, 48, True, HSWISH, 1),
    (5, 288, 96, True, HSWISH, 2),
    (5, 576, 96, True, HSWISH, 1),
    (5, 576, 96, True, HSWISH, 1),
)
# the type of LARGE and SMALL
Rows = tuple[tuple[int, int, int, bool, bool, int], ...]
# of V3's batch norm, as in TensorFlow
V3_EPS = 1e-3
v3_norm = partial(conv_norm, eps=V3_EPS, momentum=0.01)


class MobileNetV1(Module):
    """Images [N, channels, H, W] of any size -> logits [N, classes]; H and W are divided by 32, rounded up.

    After the first convolution come pairs of a 3x3 convolution of each channel by itself and a 1x1 one, each with batch
    norm and relu. width: the multiplier alpha of section 3.3.
    """

    heads = ("classifier",)

    def __init__(self, channels: int = 3, classes: int = 1000, width: float = 1.0) -> None:
        inputs = divisible(STEM * width)
        layers: list[Module] = [conv_norm(channels, inputs, 3, stride=2)]
        for wide, stride in SEPARABLE:
            outputs = divisible(wide * width)
            layers.append(
                Sequential(conv_norm(inputs, inputs, 3, stride, groups=inputs), conv_norm(inputs, outputs, 1))
            )
            inputs = outputs
        self.features = Sequential(*layers)
        self.classifier = Linear(inputs, classes)
        fan_out_start(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(pooled_features(self.features(x)))


class InvertedResidual(Module):
    """A 1x1 convolution to `expansion` times the channels, 3x3 on each by itself, 1x1 to `outputs` without activation

    x [N, inputs, H, W] -> [N, outputs, H / stride, W / stride], rounded up; x is added where the shapes agree.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        inner = inputs * expansion
        expand = [conv_norm(inputs, inner, 1, activation=ReLU6)] if expansion != 1 else []
        self.conv = Sequential(
            *expand,
            conv_norm(inner, inner, 3, stride, groups=inner, activation=ReLU6),
            Conv2d(inner, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Module):
    """Images [N, channels, H, W] of any size -> logits [N, classes]; H and W are divided by 32, rounded up."""

    heads = ("classifier.1",)

    def __init__(self, channels: int = 3, classes: int = 1000, dropout: float = 0.2) -> None:
        first = conv_norm(channels, STEM, 3, stride=2, activation=ReLU6)
        layers, inputs = list[Module]([first]), STEM
        for expansion, outputs, repeats, stride in BLOCKS:
            for i in range(repeats):
                block = InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion)
                layers.append(block)
                inputs = outputs
        self.features = Sequential(*layers, conv_norm(inputs, LAST, 1, activation=ReLU6))
        self.classifier = Sequential(Dropout(dropout), Linear(LAST, classes))
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(pooled_features(self.features(x)))


class InvertedResidualV3(Module):
    """V2's block with kernels of other sizes, and squeeze and excitation or hard swish where they are asked for

    inner: the channels between the 1x1 convolutions. squeeze: True has squeeze and excitation. swish: True has hard
    swish, False relu. x [N, inputs, H, W] -> [N, outputs, H / stride, W / stride]; x is added where the shapes agree.
    """

    def __init__(
        self, inputs: int, kernel: int, inner: int, outputs: int, squeeze: bool, swish: bool, stride: int
    ) -> None:
        activation: Activation = Hardswish if swish else ReLU
        layers: list[Module] = []
        if inner != inputs:
            layers.append(v3_norm(inputs, inner, 1, activation=activation))
        layers.append(v3_norm(inner, inner, kernel, stride, groups=inner, activation=activation))
        if squeeze:
            layers.append(SqueezeExcitation(inner, divisible(inner // 4), scale_activation=Hardsigmoid))
        layers.append(v3_norm(inner, outputs, 1, activation=None))
        self.block = Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


class MobileNetV3(Module):
    """Images [N, channels, H, W] of any size -> logits [N, classes]; H and W are divided by 32, rounded up.

    rows: LARGE or SMALL. last: the width of the layer before the classifier's last. dropout: the probability before
    that.
    """

    heads = ("classifier.3",)

    def __init__(
        self, rows: Rows = LARGE, last: int = 1280, channels: int = 3, classes: int = 1000, dropout: float = 0.2
    ) -> None:
        # channels of the first convolution
        inputs = 16
        layers: list[Module] = [v3_norm(channels, inputs, 3, stride=2, activation=Hardswish)]
        for kernel, inner, outputs, squeeze, swish, stride in rows:
            layers.append(InvertedResidualV3(inputs, kernel, inner, outputs, squeeze, swish, stride))
            inputs = outputs
        layers.append(v3_norm(inputs, 6 * inputs, 1, activation=Hardswish))
        self.features = Sequential(*layers)
        self.classifier = Sequential(Linear(6 * inputs, last), Hardswish(), Dropout(dropout), Linear(last, classes))
        fan_out_start(self)
        linear_start(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(pooled_features(self.features(x)))
