"""The models that are timed, in PyTorch, with the parameter names of foveal.nn.models. Imported only to compare with
it.

Activations overwrite their input where PyTorch's own models let them.
"""

from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any

from foveal.nn.models.airbench import SCALE, WIDTHS
from foveal.nn.models.mobilenet import BLOCKS, LAST, STEM
from foveal.nn.models.vgg import STAGES
from foveal.strides import Ndarray

torch: Any = import_module("torch")
F: Any = torch.nn.functional
nn: Any = torch.nn
Module: Any = torch.nn.Module


def lenet5(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.LeNet5"""
    rows, columns = (((n // 2) - 4) // 2 for n in x.shape[2:])
    parts = [
        ("conv1", nn.Conv2d(x.shape[1], 6, 5, padding=2)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(6, 16, 5)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(16 * rows * columns, 120)),
        ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(120, 84)),
        ("relu4", nn.ReLU()),
        ("fc3", nn.Linear(84, classes)),
    ]
    return nn.Sequential(OrderedDict(parts))


class BasicBlock(Module):  # type: ignore[misc]
    """foveal.nn.models.resnet.BasicBlock"""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


def residual(stem: list[tuple[str, Any]], widths: tuple[int, ...], blocks: int, classes: int) -> Any:
    """A stem, stages of `blocks` blocks which halve the image from the second on, and the classifier."""
    parts, inputs = list(stem), widths[0]
    for i, outputs in enumerate(widths, 1):
        first = BasicBlock(inputs, outputs, 1 if i == 1 else 2)
        rest = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        parts.append((f"layer{i}", nn.Sequential(first, *rest)))
        inputs = outputs
    parts += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    return nn.Sequential(OrderedDict([*parts, ("fc", nn.Linear(inputs, classes))]))


def stem(x: Ndarray, width: int, size: int = 3, stride: int = 1) -> list[tuple[str, Any]]:
    conv = nn.Conv2d(x.shape[1], width, size, stride=stride, padding=size // 2, bias=False)
    return [("conv1", conv), ("bn1", nn.BatchNorm2d(width)), ("relu", nn.ReLU(inplace=True))]


def resnet20(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.CifarResNet of depth 20"""
    return residual(stem(x, 16), (16, 32, 64), 3, classes)


def resnet18(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.ResNet of depth 18"""
    first = [*stem(x, 64, size=7, stride=2), ("maxpool", nn.MaxPool2d(3, stride=2, padding=1))]
    return residual(first, (64, 128, 256, 512), 2, classes)


def resnet18_cifar(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.ResNet of depth 18 for small images"""
    return residual(stem(x, 64), (64, 128, 256, 512), 2, classes)


def vgg16(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.CifarVGG"""
    layers: list[Any] = []
    channels = x.shape[1]
    for widths in STAGES:
        for width in widths:
            conv = nn.Conv2d(channels, width, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    pool = [] if max(x.shape[2:]) < 2 ** (len(STAGES) + 1) else [("pool", nn.AdaptiveAvgPool2d(1))]
    parts = [("features", nn.Sequential(*layers)), *pool, ("flatten", nn.Flatten())]
    return nn.Sequential(OrderedDict([*parts, ("classifier", nn.Linear(channels, classes))]))


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> Any:
    """foveal.nn.models.blocks.conv_norm with relu6"""
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(Module):  # type: ignore[misc]
    """foveal.nn.models.mobilenet.InvertedResidual"""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [convolution(inputs, inner, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def mobilenetv2(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.MobileNetV2 with dropout 0"""
    layers, inputs = [convolution(x.shape[1], STEM, 3, stride=2)], STEM
    for expansion, outputs, repeats, stride in BLOCKS:
        for i in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
            inputs = outputs
    layers.append(convolution(inputs, LAST, 1))
    parts = [
        ("features", nn.Sequential(*layers)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Sequential(nn.Dropout(0.0), nn.Linear(LAST, classes))),
    ]
    return nn.Sequential(OrderedDict(parts))


class ConvGroup(Module):  # type: ignore[misc]
    """foveal.nn.models.airbench.ConvGroup"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Any) -> Any:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Scaled(Module):  # type: ignore[misc]
    """The logits by a constant."""

    def forward(self, x: Any) -> Any:
        return x * SCALE


def airbench94(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.Airbench94"""
    whiten = nn.Conv2d(x.shape[1], 8 * x.shape[1], 2)
    rows, columns = (((n - 1) // 8) // 3 for n in x.shape[2:])
    first, second, third = WIDTHS
    parts = [
        ("whiten", whiten),
        ("gelu", nn.GELU()),
        ("group1", ConvGroup(whiten.out_channels, first)),
        ("group2", ConvGroup(first, second)),
        ("group3", ConvGroup(second, third)),
        ("pool", nn.MaxPool2d(3)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(third * rows * columns, classes, bias=False)),
        ("scale", Scaled()),
    ]
    return nn.Sequential(OrderedDict(parts))


MODELS: dict[str, Callable[[Ndarray, int], Any]] = {
    "lenet5": lenet5,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet18-cifar": resnet18_cifar,
    "vgg16-cifar": vgg16,
    "mobilenet_v2": mobilenetv2,
    "airbench94": airbench94,
}
