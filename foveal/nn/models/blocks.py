"""What models share: blocks of convolution, batch norm and activation; starting values; checks of sizes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.init import generator
from foveal.nn.linear import Linear
from foveal.nn.module import Module, Parameter
from foveal.nn.norm import BatchNorm2d

Size = tuple[int, int]
Activation = Callable[[], Module]


def conv_norm(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> Sequential:
    """Convolution that keeps the image's size but for the stride, batch norm, and the activation, if any."""
    conv = Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    last = [activation()] if activation else []
    return Sequential(conv, BatchNorm2d(outputs, eps=eps, momentum=momentum), *last)


def pooled_features(x: Any) -> Any:
    """The mean of each channel: [N, C, H, W] -> [N, C]"""
    x = ops.global_avg_pool2d(x)
    return x.reshape(x.shape[0], -1)


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, at most a tenth smaller (Howard et al. 2017's reference code; torchvision's
    too).
    """
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def check_size(name: str, size: Size, smallest: int) -> None:
    """Images of fewer rows or columns would have none left before the last layer."""
    if min(size) < smallest:
        raise ShapeError(
            f"{name}: images of {size[0]}x{size[1]} are too small, it needs {smallest}x{smallest}; enlarge them, or use"
            " --model small"
        )


def normal(parameter: Parameter, std: float) -> None:
    """Draw a parameter anew from a normal distribution around 0."""
    drawn = generator().standard_normal(parameter.shape, dtype=np.float32)
    parameter.data = np.multiply(drawn, np.float32(std), out=drawn)


def zero(parameter: Parameter | None) -> None:
    if parameter is not None:
        parameter.data = np.zeros(parameter.shape, np.float32)


def fan_out_start(model: Module) -> None:
    """Filters normal with variance 2 / (K R S), which keeps the gradients' (He et al. 2015, eq. 14); biases 0.

    As torchvision starts its networks; it counts all K of a grouped convolution.
    """
    for _, module in model.named_modules():
        if isinstance(module, Conv2d):
            k, _, r, s = module.weight.shape
            normal(module.weight, math.sqrt(2 / (k * r * s)))
            zero(module.bias)


def linear_start(model: Module, std: float = 0.01) -> None:
    """Weights of fully connected layers normal with this deviation, biases 0."""
    for _, module in model.named_modules():
        if isinstance(module, Linear):
            normal(module.weight, std)
            zero(module.bias)
