"""Convolutions."""

from typing import Any

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.init import generator
from foveal.nn.module import Module, Parameter, check_positive
from foveal.nn.norm import BatchNorm2d
from foveal.nn.sequence import as_images, as_sequences
from foveal.ops.batch_norm import per_channel
from foveal.ops.window import pair, sides
from foveal.strides import Shape
from foveal.trace import current

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Convolution(Module):
    """What convolutions share: filters [K, C/groups, R, S] and what they are moved by."""

    def __init__(self, shape: Shape, stride: Pair, dilation: Pair, groups: int, outputs: int, bias: bool) -> None:
        self.stride, self.dilation, self.groups = stride, dilation, groups
        if min(stride) < 1 or min(dilation) < 1:
            raise ShapeError(f"{self.name}: stride {stride} and dilation {dilation} have to be 1 or more")
        self.weight = Parameter(init.kaiming_uniform(generator(), shape))
        inputs = init.fan_in(shape)
        self.bias = Parameter(init.bias_uniform(generator(), (outputs,), inputs)) if bias else None

    @property
    def name(self) -> str:
        return type(self).__name__

    def check_groups(self, in_channels: int, out_channels: int, groups: int) -> None:
        check_positive(self.name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"{self.name}: groups={groups} divides not both in_channels={in_channels} and"
                f" out_channels={out_channels}"
            )

    def kernel(self, kernel_size: Any) -> Pair:
        rows, columns = pair(kernel_size, f"{self.name}: kernel_size")
        check_positive(self.name, kernel_rows=rows, kernel_columns=columns)
        return rows, columns

    def with_bias(self, y: Any) -> Any:
        return y if self.bias is None else y + per_channel(current().lift(self.bias), y)


class Conv2d(Convolution):
    """y[n,k,p,q] = bias[k] + sum_crs x[n, c, p u + r d - pad, q u + s d - pad] weight[k,c,r,s]

    x [N, in_channels, H, W] -> y [N, out_channels, P, Q]: cross-correlation (ops.convolve2d is the convolution of the
    textbooks). padding: int, (rows, columns), (top, bottom, left, right), "valid" for none, or "same" for as many
    outputs as
    inputs (stride 1; where it is odd, the one more is at the bottom and right). padding_mode, what the border shows:
    "zeros", "reflect", "replicate" or "circular".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        self.check_groups(in_channels, out_channels, groups)
        size = self.kernel(kernel_size)
        u, d = pair(stride, f"{self.name}: stride"), pair(dilation, f"{self.name}: dilation")
        self.padding = self.full_padding(padding, size, u, d)
        if padding_mode not in PADDING_MODES:
            raise ShapeError(f"{self.name}: padding_mode is {padding_mode!r}; choose one of {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *size)
        super().__init__(shape, u, d, groups, out_channels, bias)

    def full_padding(self, padding: Any, size: Pair, stride: Pair, dilation: Pair) -> Sides:
        if not isinstance(padding, str):
            full = sides(padding, f"{self.name}: padding")
            if min(full) < 0:
                raise ShapeError(f"{self.name}: padding {full} has to be 0 or more")
            return full
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise ShapeError(
                f"{self.name}: padding is {padding!r}; choose 'same', 'valid' or numbers of rows and columns"
            )
        if stride != (1, 1):
            raise ShapeError(
                f"{self.name}: padding='same' is for stride 1, the stride is {stride}: give the padding in numbers"
            )
        rows, columns = (d * (k - 1) for d, k in zip(dilation, size, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2

    def forward(self, x: Any) -> Any:
        return self.with_bias(self.convolved(x, self.weight))

    def convolved(self, x: Any, weight: Any) -> Any:
        padding = self.padding
        if self.padding_mode != "zeros" and any(padding):
            x = ops.pad(x, padding=padding, mode=self.padding_mode)
            padding = (0, 0, 0, 0)
        return ops.conv2d(x, weight, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups)

    def describe(self) -> str:
        k, c, *size = self.weight.shape
        shown = f"{c * self.groups}, {k}, {tuple(size)}, stride={self.stride}, padding={self.padding}"
        for what, value, usual in (
            ("dilation", self.dilation, (1, 1)),
            ("groups", self.groups, 1),
            ("padding_mode", self.padding_mode, "zeros"),
        ):
            shown += "" if value == usual else f", {what}={value}"
        return shown


def one_row(value: Any, row: int) -> Any:
    """A hyper-parameter of sequences as one of images of one row; words stay."""
    if isinstance(value, str):
        return value
    items = (value,) if isinstance(value, int | np.integer) else tuple(value)
    if len(items) == 2:  # before and after the sequence
        return (row, row, *items)
    if len(items) != 1:
        raise ShapeError(f"sequences have one axis: give one number, not {value!r}")
    return row, items[0]


class Conv1d(Conv2d):
    """y[n,k,q] = bias[k] + sum_cs x[n, c, q u + s d - pad] weight[k,c,s]

    x [N, in_channels, L] -> y [N, out_channels, Q]; hyper-parameters as Conv2d's. padding: int, (before, after) or a
    word.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            one_row(kernel_size, 1),
            one_row(stride, 1),
            one_row(padding, 0),
            one_row(dilation, 1),
            groups,
            bias,
            padding_mode,
        )
        k, c, _, s = self.weight.shape
        self.weight = Parameter(self.weight.data.reshape(k, c, s))

    def forward(self, x: Any) -> Any:
        k, c, s = self.weight.shape
        weight = current().lift(self.weight).reshape(k, c, 1, s)
        return as_sequences(self.with_bias(self.convolved(as_images(self.name, x), weight)))


class ConvTranspose2d(Convolution):
    """y[n,k,h,v] = bias[k] + sum_crs x[n,c,p,q] weight[c,k,r,s] over all p u + r d - pad = h, q u + s d - pad = v

    x [N, in_channels, P, Q] -> y [N, out_channels, H, W], H = (P - 1) u - pads + d (R - 1) + 1 + output_padding: what
    the
    gradient of Conv2d with these filters does to an image. weight [in_channels, out_channels/groups, R, S].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
    ) -> None:
        self.check_groups(in_channels, out_channels, groups)
        size = self.kernel(kernel_size)
        u, d = pair(stride, f"{self.name}: stride"), pair(dilation, f"{self.name}: dilation")
        self.padding = sides(padding, f"{self.name}: padding")
        self.output_padding = pair(output_padding, f"{self.name}: output_padding")
        super().__init__((in_channels, out_channels // groups, *size), u, d, groups, out_channels, bias)

    def forward(self, x: Any) -> Any:
        return self.with_bias(self.spread(x, self.weight))

    def spread(self, x: Any, weight: Any) -> Any:
        return ops.conv_transpose2d(
            x,
            weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def describe(self) -> str:
        c, k, *size = self.weight.shape
        return (
            f"{c}, {k * self.groups}, {tuple(size)}, stride={self.stride}, padding={self.padding},"
            f" output_padding={self.output_padding}"
        )


class ConvTranspose1d(ConvTranspose2d):
    """y[n,k,v] = bias[k] + sum_cs x[n,c,q] weight[c,k,s] over all q u + s d - pad = v; ConvTranspose2d on sequences

    x [N, in_channels, Q] -> y [N, out_channels, L]. weight [in_channels, out_channels/groups, S].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            one_row(kernel_size, 1),
            one_row(stride, 1),
            one_row(padding, 0),
            one_row(output_padding, 0),
            groups,
            bias,
            one_row(dilation, 1),
        )
        c, k, _, s = self.weight.shape
        self.weight = Parameter(self.weight.data.reshape(c, k, s))

    def forward(self, x: Any) -> Any:
        c, k, s = self.weight.shape
        weight = current().lift(self.weight).reshape(c, k, 1, s)
        return as_sequences(self.with_bias(self.spread(as_images(self.name, x), weight)))


class DepthwiseSeparableConv2d(Sequential):
    """A filter for each channel, then 1x1 filters across channels, each followed by batch norm and relu

    Howard et al. 2017 (MobileNet), section 3.1: R S + K multiplications for each input value where a convolution has R
    S K.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any = 3, stride: Any = 1, padding: Any = None
    ) -> None:
        rows, columns = pair(kernel_size, f"{type(self).__name__}: kernel_size")
        around = (rows // 2, columns // 2) if padding is None else padding
        depthwise = Conv2d(in_channels, in_channels, kernel_size, stride, around, groups=in_channels, bias=False)
        pointwise = Conv2d(in_channels, out_channels, 1, bias=False)
        super().__init__(depthwise, BatchNorm2d(in_channels), ReLU(), pointwise, BatchNorm2d(out_channels), ReLU())


def he_start(model: Module) -> None:
    """Draw the filters of all convolutions of `model` anew, as He et al. 2015 have it for relu."""
    for _, module in model.named_modules():
        if isinstance(module, Conv2d):
            module.weight.data = init.kaiming_normal(generator(), module.weight.shape)
