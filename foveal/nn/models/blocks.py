"""What models share: blocks of convolution, batch norm and activation; starting values; checks of image sizes."""

import math
from collections.abc import Callable

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.init import generator
from foveal.nn.linear import Linear
from foveal.nn.module import Module, Parameter
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Tensor

# (rows, columns) of images
Size = tuple[int, int]
# a class of layers, or anything that builds one
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
    """A convolution, batch norm, and the activation unless it is None: [N, inputs, H, W] -> [N, outputs, P, Q]

    size: of the kernel, odd; the padding is such that P = ceil(H / stride). eps, momentum: of the batch norm.
    """
    conv = Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    last = [activation()] if activation else []
    return Sequential(conv, BatchNorm2d(outputs, eps=eps, momentum=momentum), *last)


def pooled_features(x: Tensor) -> Tensor:
    """The mean of each channel: [N, C, H, W] -> [N, C]"""
    x = ops.global_avg_pool2d(x)
    return x.reshape(x.shape[0], -1)


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, at most a tenth smaller: the rule of the code of Howard et al. 2017, and
    torchvision's.
    """
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def check_size(name: str, size: Size, smallest: int) -> None:
    """Raise ShapeError for images of fewer rows or columns: none would be left before the last layer."""
    if min(size) < smallest:
        raise ShapeError(
            f"{name}: images of {size[0]}x{size[1]} are too small, it needs {smallest}x{smallest}; enlarge them, or use"
            " --model small"
        )


def normal(parameter: Parameter, std: float) -> None:
    """Draw a parameter again, from a normal distribution around 0; in float32, as torchvision does."""
    values = generator().standard_normal(parameter.shape, dtype=np.float32)
    parameter.data = np.multiply(values, np.float32(std), out=values)


def zero(parameter: Parameter | None) -> None:
    """Set a parameter to 0, if there is one."""
    if parameter is not None:
        parameter.data = np.zeros(parameter.shape, np.float32)


def he_start(model: Module) -> None:
    """Draw the filters of all convolutions again: normal with variance 2 / (C R S) (He et al. 2015, eq. 10)."""
    for _, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Conv2d):
            module.weight.data = init.kaiming_normal(generator(), module.weight.shape)


def fan_out_start(model: Module) -> None:
    """Draw the filters of all convolutions again: normal with variance 2 / (K R S), which keeps that of the gradients
    (He et al. 2015, eq. 14); set their biases to 0.

    As torchvision starts its networks; it counts all K of a grouped convolution.
    """
    for _, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Conv2d):
            k, _, r, s = module.weight.shape
            normal(module.weight, math.sqrt(2 / (k * r * s)))
            zero(module.bias)


def linear_start(model: Module, std: float = 0.01) -> None:
    """Draw the weights of all fully connected layers again, normal with this deviation; set their biases to 0."""
    for _, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Linear):
            normal(module.weight, std)
            zero(module.bias)
