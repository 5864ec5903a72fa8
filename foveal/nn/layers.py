"""Layers with PyTorch's names, hyper-parameters and defaults."""

from typing import Any

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.module import Buffer, Module, Parameter, check_positive
from foveal.ops.norm import per_channel
from foveal.ops.op import pair, sides
from foveal.trace import current


def generator() -> np.random.Generator:
    """The generator that layers draw their starting values from; `seed` sets it."""
    return _generator[0]


_generator = [np.random.Generator(np.random.Philox(0))]


def seed(value: int) -> None:
    """Make the starting values of layers built from now on a function of `value`."""
    _generator[0] = np.random.Generator(np.random.Philox(key=value))


class Conv2d(Module):
    """y[n,k,p,q] = bias[k] + sum_crs x[n, c, p u + r d - pad, q u + s d - pad] weight[k,c,r,s]

    x [N, in_channels, H, W] -> y [N, out_channels, P, Q]. padding: int, (rows, columns) or (top, bottom, left, right).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        check_positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"Conv2d: groups={groups} divides not both in_channels={in_channels} and out_channels={out_channels}"
            )
        rows, columns = pair(kernel_size, "Conv2d: kernel_size")
        check_positive("Conv2d", kernel_rows=rows, kernel_columns=columns)
        self.stride, self.dilation = (
            pair(stride, "Conv2d: stride"),
            pair(dilation, "Conv2d: dilation"),
        )
        self.padding, self.groups = sides(padding, "Conv2d: padding"), groups
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding) < 0:
            raise ShapeError(
                f"Conv2d: stride {self.stride} and dilation {self.dilation} have to be 1 or more, padding"
                f" {self.padding} 0 or more"
            )
        shape = (out_channels, in_channels // groups, rows, columns)
        self.weight = Parameter(init.kaiming_uniform(generator(), shape))
        inputs = init.fan_in(shape)
        self.bias = (
            Parameter(init.bias_uniform(generator(), (out_channels,), inputs)) if bias else None
        )

    def forward(self, x: Any) -> Any:
        y = ops.conv2d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + per_channel(current().lift(self.bias), y)

    def describe(self) -> str:
        k, c, r, s = self.weight.shape
        return f"{c * self.groups}, {k}, {(r, s)}, stride={self.stride}, padding={self.padding}"


class Linear(Module):
    """y[n,o] = bias[o] + sum_i x[n,i] weight[o,i]; x [N, in_features] -> y [N, out_features]"""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        check_positive("Linear", in_features=in_features, out_features=out_features)
        shape = (out_features, in_features)
        self.weight = Parameter(init.kaiming_uniform(generator(), shape))
        self.bias = (
            Parameter(init.bias_uniform(generator(), (out_features,), in_features))
            if bias
            else None
        )

    def forward(self, x: Any) -> Any:
        y = ops.linear(x, self.weight)
        return y if self.bias is None else y + self.bias

    def describe(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class BatchNorm2d(Module):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel; statistics of the batch in training, running ones else

    running = (1 - momentum) running + momentum batch, with the unbiased variance, as PyTorch does. x [N, C, ...].
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        check_positive("BatchNorm2d", num_features=num_features)
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = Buffer(np.zeros(num_features, np.float32))
        self.running_var = Buffer(np.ones(num_features, np.float32))
        self.num_batches_tracked = Buffer(np.zeros((), np.int64))

    def forward(self, x: Any) -> Any:
        if not self.training:
            return ops.batch_norm_inference(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        y = ops.batch_norm(x, self.weight, self.bias, eps=self.eps)
        moments, count = ops.channel_moments(x), float(np.prod(x.shape) / x.shape[1])
        self.follow(self.running_mean, moments[0])
        self.follow(self.running_var, moments[1] * (count / (count - 1.0)))
        return y

    def follow(self, running: Buffer, value: Any) -> None:
        recording = current()
        old = recording.lift(running)
        recording.assign(running, old * (1.0 - self.momentum) + value * self.momentum)

    def describe(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"


class ReLU(Module):
    """y = max(x, 0)"""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class ReLU6(Module):
    """y = min(max(x, 0), 6)"""

    def forward(self, x: Any) -> Any:
        return ops.clip(x, low=0.0, high=6.0)


class GELU(Module):
    """y = x/2 (1 + erf(x / sqrt 2)), PyTorch's default form"""

    def forward(self, x: Any) -> Any:
        return ops.gelu(x)


class Tanh(Module):
    """y = tanh x"""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class MaxPool2d(Module):
    """The largest of each window; x [N, C, H, W] -> [N, C, P, Q]"""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Any) -> Any:
        return ops.max_pool2d(x, size=self.kernel_size, stride=self.stride, padding=self.padding)

    def describe(self) -> str:
        return (
            f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}"
        )


class AvgPool2d(MaxPool2d):
    """The mean of each window, padding counted as zeros; x [N, C, H, W] -> [N, C, P, Q]"""

    def forward(self, x: Any) -> Any:
        return ops.avg_pool2d(x, size=self.kernel_size, stride=self.stride, padding=self.padding)


class GlobalAvgPool2d(Module):
    """The mean of each channel; x [N, C, H, W] -> [N, C, 1, 1], as PyTorch's AdaptiveAvgPool2d(1)"""

    def forward(self, x: Any) -> Any:
        return ops.global_avg_pool2d(x)


class Flatten(Module):
    """x [N, ...] -> [N, features], in C order"""

    def forward(self, x: Any) -> Any:
        return x.reshape(x.shape[0], -1)


class Dropout(Module):
    """In training each element is 0 with probability p, else divided by 1 - p; the identity else."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p < 1.0:
            raise ShapeError(f"Dropout: p is {p}, it has to be at least 0 and below 1")
        self.p = p

    def forward(self, x: Any) -> Any:
        if not self.training or self.p == 0.0:
            return x
        recording = current()
        if recording.key is None:
            raise ShapeError(
                "Dropout in training mode inside of foveal.compile has no random numbers to draw from; call the model"
                " itself, use foveal.compile_step, or model.eval() for inference"
            )
        return x * ops.dropout_mask(recording.key, to=x.shape, p=self.p, stream=recording.stream())

    def describe(self) -> str:
        return str(self.p)


class Sequential(Module):
    """Modules one after another, named 0, 1, 2, ... as in PyTorch"""

    def __init__(self, *modules: Module) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def forward(self, x: Any) -> Any:
        for _, module in self.children():
            x = module(x)
        return x


class Identity(Module):
    """y = x"""

    def forward(self, x: Any) -> Any:
        return x


def he_start(model: Module) -> None:
    """Draw the filters of all convolutions of `model` anew, as He et al. 2015 have it for relu."""
    for _, module in model.named_modules():
        if isinstance(module, Conv2d):
            module.weight.data = init.kaiming_normal(generator(), module.weight.shape)


class CrossEntropyLoss:
    """Mean over the batch of -ln softmax(logits)[label]; logits [N, classes], labels [N] integers"""

    def __call__(self, logits: Any, labels: Any) -> Any:
        return ops.softmax_cross_entropy(logits, labels)
