"""Convolutions and transposed convolutions.

The letters in the equations are those of foveal/ops/op.py: N batch, C input channels, H W input rows and columns, K
output channels (filters), R S kernel rows and columns, P Q output rows and columns, u stride, d dilation, pad the
padding before the first row or column.
"""

import math
from collections.abc import Sequence

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.arguments import (
    BiasLike,
    PaddingLike,
    Pair,
    PairLike,
    SequencePadding,
    Sides,
    SidesLike,
    SingleLike,
    check_positive,
)
from foveal.nn.init import Layout, generator
from foveal.nn.module import Module, Parameter
from foveal.nn.one_dimensional import as_images, as_sequences, one_row, one_row_padding
from foveal.ops.batch_norm import per_channel
from foveal.ops.op import HasShape, Tensor
from foveal.ops.window import Window, full_padding, pair, sides
from foveal.strides import Shape
from foveal.trace import current

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Convolution(Module):
    """Base of the convolutions, which have filters [K, C/groups, R, S], a bias [K], and a stride and dilation with
    which the filters move over the image.

    shape: of the filters. stride, dilation: (rows, columns). outputs: the number of output channels. Filters and bias
    start as PyTorch's (init.kaiming_uniform, init.bias_uniform).
    """

    required = ("weight",)

    def __init__(self, shape: Shape, stride: Pair, dilation: Pair, groups: int, outputs: int, bias: BiasLike) -> None:
        self.stride, self.dilation, self.groups = stride, dilation, groups
        if min(stride) < 1 or min(dilation) < 1:
            raise ShapeError(f"{self.name}: stride {stride} and dilation {dilation} have to be 1 or more")
        self.weight = Parameter(init.kaiming_uniform(generator(), shape))
        inputs = init.fan_in(shape)
        self.bias = Parameter(init.bias_uniform(generator(), (outputs,), inputs)) if bias else None

    @property
    def name(self) -> str:
        """The name of the layer in messages."""
        return type(self).__name__

    @property
    def weight_layout(self) -> Layout:
        """How the weight holds the filters; `init.apply` asks for it."""
        return Layout.plain(self.weight.shape, self.groups)

    def check_groups(self, in_channels: int, out_channels: int, groups: int) -> None:
        """Raise ShapeError for numbers of channels that are not positive or that the groups do not divide."""
        check_positive(self.name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"{self.name}: groups={groups} does not divide both in_channels={in_channels} and"
                f" out_channels={out_channels}; choose a divisor of {math.gcd(in_channels, out_channels)}"
            )

    def kernel(self, kernel_size: PairLike) -> Pair:
        """The rows and columns of a filter. Raise ShapeError where they are no positive numbers."""
        rows, columns = pair(kernel_size, f"{self.name}: kernel_size")
        check_positive(self.name, kernel_rows=rows, kernel_columns=columns)
        return rows, columns

    def with_bias(self, y: Tensor) -> Tensor:
        """y [N, K, P, Q] plus the bias of each channel, if the layer has one."""
        return y if self.bias is None else y + per_channel(current().lift(self.bias), y)


class Conv2d(Convolution):
    """y[n,k,p,q] = bias[k] + sum_crs x[n, c, p u + r d - pad, q u + s d - pad] weight[k,c,r,s]

    x [N, in_channels, H, W] -> y [N, out_channels, P, Q], P = floor((H + pads - d (R - 1) - 1) / u) + 1. This is
    cross-correlation, as in all networks; with flip=True it is the convolution of the textbooks.

    kernel_size, stride, dilation: an int for rows and columns, or (rows, columns).
    padding: an int, (rows, columns), (top, bottom, left, right), "valid" for none, or "same" for as many outputs as
    inputs, which needs stride 1; where "same" adds an odd number, the bottom and the right get one more.
    groups: channels are divided into as many groups, and the filters of a group read the channels of that group.
    padding_mode: what the border shows, "zeros", "reflect", "replicate" or "circular".
    flip: True turns the filters by 180 degrees, weight[k, c, R-1-r, S-1-s] in place of weight[k,c,r,s]. The weight, and
    the state dict, hold the filters of the textbook's equation, before they are turned; windows, padding and all shapes
    stay. With padding R - 1 and S - 1 y is the full convolution, as numpy.convolve has it.

    weight [out_channels, in_channels/groups, R, S], bias [out_channels]. Raises ShapeError for hyper-parameters that
    have no meaning, and for images that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: PaddingLike = 0,
        dilation: PairLike = 1,
        groups: int = 1,
        bias: BiasLike = True,
        padding_mode: str = "zeros",
        flip: bool = False,
    ) -> None:
        # All hyper-parameters are checked before the filters are drawn.
        self.check_groups(in_channels, out_channels, groups)
        size = self.kernel(kernel_size)
        u, d = pair(stride, f"{self.name}: stride"), pair(dilation, f"{self.name}: dilation")
        self.padding = self.full_padding(padding, size, u, d)
        self.padding_mode, self.flip = padding_mode, flip
        shape = (out_channels, in_channels // groups, *size)
        super().__init__(shape, u, d, groups, out_channels, bias)

    def check_attribute(self, name: str, value: object) -> None:
        if name == "padding_mode" and (not isinstance(value, str) or value not in PADDING_MODES):
            raise ShapeError(f"{self.name}: padding_mode is {value!r}; choose one of {', '.join(PADDING_MODES)}")

    def full_padding(self, padding: PaddingLike, size: Pair, stride: Pair, dilation: Pair) -> Sides:
        """The padding as (top, bottom, left, right), from numbers or the words "same" and "valid"."""
        full = full_padding(self.name, padding, size, stride, dilation)
        if min(full) < 0:
            raise ShapeError(f"{self.name}: padding {full} has to be 0 or more")
        return full

    def forward(self, x: Tensor) -> Tensor:
        return self.with_bias(self.convolved(x, self.weight))

    def convolved(self, x: Tensor, weight: HasShape) -> Tensor:
        """x [N, C, H, W] with filters [K, C/groups, R, S], without the bias; a border that is not zeros comes first."""
        padding = self.padding
        if self.padding_mode != "zeros" and any(padding):
            x = ops.pad(x, padding=padding, mode=self.padding_mode)
            padding = (0, 0, 0, 0)
        operator = ops.convolve2d if self.flip else ops.conv2d
        return operator(x, weight, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups)

    def describe(self) -> str:
        k, c, *size = self.weight.shape
        shown = f"{c * self.groups}, {k}, {tuple(size)}, stride={self.stride}, padding={self.padding}"
        for what, value, usual in (
            ("dilation", self.dilation, (1, 1)),
            ("groups", self.groups, 1),
            ("padding_mode", self.padding_mode, "zeros"),
            ("flip", self.flip, False),
        ):
            shown += "" if value == usual else f", {what}={value}"
        return shown


class Conv1d(Conv2d):
    """y[n,k,q] = bias[k] + sum_cs x[n, c, q u + s d - pad] weight[k,c,s]

    x [N, in_channels, L] -> y [N, out_channels, Q]. The hyper-parameters are Conv2d's, along one axis. padding: an int,
    (before, after), "same" or "valid". weight [out_channels, in_channels/groups, S], bias [out_channels]. With
    flip=True it is the textbook's convolution: Conv1d(1, 1, S, padding=S - 1, bias=False, flip=True) is numpy.convolve.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: SingleLike,
        stride: SingleLike = 1,
        padding: SequencePadding = 0,
        dilation: SingleLike = 1,
        groups: int = 1,
        bias: BiasLike = True,
        padding_mode: str = "zeros",
        flip: bool = False,
    ) -> None:
        around: PaddingLike = padding if isinstance(padding, str) else one_row_padding(padding, f"{self.name}: padding")
        super().__init__(
            in_channels,
            out_channels,
            one_row(kernel_size, 1, f"{self.name}: kernel_size"),
            one_row(stride, 1, f"{self.name}: stride"),
            around,
            one_row(dilation, 1, f"{self.name}: dilation"),
            groups,
            bias,
            padding_mode,
            flip,
        )
        # [K, C/groups, 1, S] as PyTorch stores it, [K, C/groups, S]
        k, c, _, s = self.weight.shape
        self.weight = Parameter(self.weight.data.reshape(k, c, s))

    def forward(self, x: Tensor) -> Tensor:
        k, c, s = self.weight.shape
        weight = current().lift(self.weight).reshape(k, c, 1, s)
        return as_sequences(self.with_bias(self.convolved(as_images(self.name, x), weight)))


class ConvTranspose2d(Convolution):
    """y[n,k,h,v] = bias[k] + sum_crs x[n,c,p,q] weight[c,k,r,s] over all p u + r d - pad = h, q u + s d - pad = v

    x [N, in_channels, P, Q] -> y [N, out_channels, H, W], H = (P - 1) u - pads + d (R - 1) + 1 + output_padding: the
    gradient of a Conv2d with these filters in its input, applied to x (Dumoulin and Visin 2016, section 4).

    kernel_size, stride, dilation: an int or (rows, columns). padding: an int, (rows, columns) or (top, bottom, left,
    right), what Conv2d would add and this layer takes away. output_padding: rows and columns more at the bottom and the
    right, below the stride or the dilation. Called with output_size=(H, W), or [N, C, H, W], it is what leads to that
    size, in place of output_padding. weight [in_channels, out_channels/groups, R, S], bias [out_channels]. Raises
    ShapeError for what does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: SidesLike = 0,
        output_padding: PairLike = 0,
        groups: int = 1,
        bias: BiasLike = True,
        dilation: PairLike = 1,
    ) -> None:
        self.check_groups(in_channels, out_channels, groups)
        size = self.kernel(kernel_size)
        u, d = pair(stride, f"{self.name}: stride"), pair(dilation, f"{self.name}: dilation")
        if isinstance(padding, str):
            raise ShapeError(f"{self.name}: padding is {padding!r}; a transposed convolution takes it in numbers")
        self.padding = sides(padding, f"{self.name}: padding")
        self.output_padding = pair(output_padding, f"{self.name}: output_padding")
        super().__init__((in_channels, out_channels // groups, *size), u, d, groups, out_channels, bias)

    @property
    def weight_layout(self) -> Layout:
        return Layout.transposed(self.weight.shape, self.groups)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        size = None if output_size is None else self.last_axes(output_size, 2)
        return self.with_bias(self.transposed(x, self.weight, size))

    def last_axes(self, output_size: Sequence[int], count: int) -> Shape:
        """The sizes of the last axes of an output size, of these alone or of all axes; else ShapeError."""
        sizes = tuple(output_size) if isinstance(output_size, list | tuple) else (output_size,)
        whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes)
        if not whole or len(sizes) not in (count, count + 2):
            words = "(H, W) or (N, C, H, W)" if count == 2 else "(L,) or (N, C, L)"
            raise ShapeError(f"{self.name}: output_size is {output_size!r}, it has to be {words}")
        return sizes[-count:]

    def extra(self, x: Shape, window: Window, size: Shape | None) -> Pair:
        """The output_padding that leads to a size (H, W); the layer's own where none is given."""
        if size is None or len(x) != 4:
            return self.output_padding
        smallest = ops.conv_transpose2d.image_size(x, window, (0, 0))
        largest = tuple(n + u - 1 for n, u in zip(smallest, self.stride, strict=True))
        if not all(low <= n <= high for low, n, high in zip(smallest, size, largest, strict=True)):
            raise ShapeError(
                f"{self.name}: output_size {size} cannot be had of an input of shape {x}; with stride {self.stride} it"
                f" has to be from {smallest} to {largest}"
            )
        return size[0] - smallest[0], size[1] - smallest[1]

    def transposed(self, x: Tensor, weight: HasShape, size: Shape | None) -> Tensor:
        """x [N, C, P, Q] with filters [C, K/groups, R, S] -> [N, K, H, W], without the bias. size: (H, W) or None."""
        window = Window((weight.shape[2], weight.shape[3]), self.stride, self.padding, self.dilation)
        return ops.conv_transpose2d(
            x,
            weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.extra(x.shape, window, size),
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
    """y[n,k,v] = bias[k] + sum_cs x[n,c,q] weight[c,k,s] over all q u + s d - pad = v: ConvTranspose2d on sequences

    x [N, in_channels, Q] -> y [N, out_channels, L]. The hyper-parameters are ConvTranspose2d's, along one axis, as is
    output_size, (L,) or [N, C, L]. weight [in_channels, out_channels/groups, S], bias [out_channels].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: SingleLike,
        stride: SingleLike = 1,
        padding: SingleLike | Pair = 0,
        output_padding: SingleLike = 0,
        groups: int = 1,
        bias: BiasLike = True,
        dilation: SingleLike = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            one_row(kernel_size, 1, f"{self.name}: kernel_size"),
            one_row(stride, 1, f"{self.name}: stride"),
            one_row_padding(padding, f"{self.name}: padding"),
            one_row(output_padding, 0, f"{self.name}: output_padding"),
            groups,
            bias,
            one_row(dilation, 1, f"{self.name}: dilation"),
        )
        # [C, K/groups, 1, S] as PyTorch stores it, [C, K/groups, S]
        c, k, _, s = self.weight.shape
        self.weight = Parameter(self.weight.data.reshape(c, k, s))

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        c, k, s = self.weight.shape
        weight = current().lift(self.weight).reshape(c, k, 1, s)
        size = None if output_size is None else (1, *self.last_axes(output_size, 1))
        return as_sequences(self.with_bias(self.transposed(as_images(self.name, x), weight, size)))
