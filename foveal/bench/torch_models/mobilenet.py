"""MobileNets: V1 of the paper, V2 and V3 of torchvision."""

from collections.abc import Sequence

from torch import Tensor, nn

from foveal.bench.torch_models.blocks import Head, Shortcut, SqueezeExcitation, conv_norm, sequential
from foveal.nn.models.mobilenet import BLOCKS, LAST, STEM

# V1: (outputs, stride) of each depthwise separable convolution.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# V3: inputs, kernel, expanded, outputs, squeeze and excitation, hard swish, stride of each block.
Rows = Sequence[tuple[int, int, int, int, int, int, int]]
V3_LARGE: Rows = (
    (16, 3, 16, 16, 0, 0, 1),
    (16, 3, 64, 24, 0, 0, 2),
    (24, 3, 72, 24, 0, 0, 1),
    (24, 5, 72, 40, 1, 0, 2),
    (40, 5, 120, 40, 1, 0, 1),
    (40, 5, 120, 40, 1, 0, 1),
    (40, 3, 240, 80, 0, 1, 2),
    (80, 3, 200, 80, 0, 1, 1),
    (80, 3, 184, 80, 0, 1, 1),
    (80, 3, 184, 80, 0, 1, 1),
    (80, 3, 480, 112, 1, 1, 1),
    (112, 3, 672, 112, 1, 1, 1),
    (112, 5, 672, 160, 1, 1, 2),
    (160, 5, 960, 160, 1, 1, 1),
    (160, 5, 960, 160, 1, 1, 1),
)
V3_SMALL: Rows = (
    (16, 3, 16, 16, 1, 0, 2),
    (16, 3, 72, 24, 0, 0, 2),
    (24, 3, 88, 24, 0, 0, 1),
    (24, 5, 96, 40, 1, 1, 2),
    (40, 5, 240, 40, 1, 1, 1),
    (40, 5, 240, 40, 1, 1, 1),
    (40, 5, 120, 48, 1, 1, 1),
    (48, 5, 144, 48, 1, 1, 1),
    (48, 5, 288, 96, 1, 1, 2),
    (96, 5, 576, 96, 1, 1, 1),
    (96, 5, 576, 96, 1, 1, 1),
)


def mobilenet_v1(channels: int, classes: int) -> nn.Module:
    """foveal.nn.models.MobileNetV1"""
    layers: list[nn.Module] = [conv_norm(channels, 32, 3, 2)]
    inputs = 32
    for outputs, stride in V1:
        depthwise = conv_norm(inputs, inputs, 3, stride, inputs)
        layers.append(nn.Sequential(depthwise, conv_norm(inputs, outputs, 1)))
        inputs = outputs
    return Head(nn.Sequential(*layers), nn.Linear(inputs, classes))


class InvertedResidual(nn.Module):  # type: ignore[misc, unused-ignore]
    """torchvision's InvertedResidual of MobileNetV2"""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [conv_norm(inputs, inner, 1, act=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_norm(inner, inner, 3, stride, groups=inner, act=nn.ReLU6),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def mobilenet_v2(channels: int, classes: int) -> nn.Module:
    """foveal.nn.models.MobileNetV2 with dropout 0"""
    layers: list[nn.Module] = [conv_norm(channels, STEM, 3, stride=2, act=nn.ReLU6)]
    inputs = STEM
    for expansion, outputs, repeats, stride in BLOCKS:
        for i in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
            inputs = outputs
    layers.append(conv_norm(inputs, LAST, 1, act=nn.ReLU6))
    return sequential(
        features=nn.Sequential(*layers),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(nn.Dropout(0.0), nn.Linear(LAST, classes)),
    )


def make_divisible(value: float, divisor: int = 8) -> int:
    """Return the nearest multiple of `divisor` that is not below 0.9 of the value, as torchvision rounds channels."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def mobilenet_v3(channels: int, classes: int, rows: Rows, last: int) -> nn.Module:
    """foveal.nn.models.MobileNetV3 with dropout 0; `last` are the channels of the hidden linear layer"""
    eps, momentum = 0.001, 0.01
    layers: list[nn.Module] = [conv_norm(channels, 16, 3, 2, act=nn.Hardswish, eps=eps, momentum=momentum)]
    for inputs, kernel, inner, outputs, squeeze, hard_swish, stride in rows:
        act = nn.Hardswish if hard_swish else nn.ReLU
        # Expand, filter each channel, weigh channels, project.
        block: list[nn.Module] = []
        if inner != inputs:
            block.append(conv_norm(inputs, inner, 1, act=act, eps=eps, momentum=momentum))
        block.append(conv_norm(inner, inner, kernel, stride, inner, act=act, eps=eps, momentum=momentum))
        if squeeze:
            block.append(SqueezeExcitation(inner, make_divisible(inner // 4), nn.ReLU, nn.Hardsigmoid))
        block.append(conv_norm(inner, outputs, 1, act=None, eps=eps, momentum=momentum))
        layers.append(Shortcut(block, stride == 1 and inputs == outputs))
    outputs = rows[-1][3]
    layers.append(conv_norm(outputs, 6 * outputs, 1, act=nn.Hardswish, eps=eps, momentum=momentum))
    classifier = nn.Sequential(nn.Linear(6 * outputs, last), nn.Hardswish(), nn.Dropout(0.0), nn.Linear(last, classes))
    return Head(nn.Sequential(*layers), classifier)
