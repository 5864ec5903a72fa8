"""Convolutions: with shared filters, transposed, and with filters of their own at each position.

The letters in the equations are those of foveal/ops/op.py: N batch, C input channels, H W input rows and columns, K
output channels (filters), R S kernel rows and columns, P Q output rows and columns, u stride, d dilation, pad the
padding before the first row or column.
"""

import math

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
from foveal.ops.window import Window, check_window, full_padding, pair, sides
from foveal.strides import Ndarray, Shape
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
    cross-correlation, as in all networks; ops.convolve2d is the convolution of the textbooks.

    kernel_size, stride, dilation: an int for rows and columns, or (rows, columns).
    padding: an int, (rows, columns), (top, bottom, left, right), "valid" for none, or "same" for as many outputs as
    inputs, which needs stride 1; where "same" adds an odd number, the bottom and the right get one more.
    groups: channels are divided into as many groups, and the filters of a group read the channels of that group.
    padding_mode: what the border shows, "zeros", "reflect", "replicate" or "circular".

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
    ) -> None:
        # All hyper-parameters are checked before the filters are drawn.
        self.check_groups(in_channels, out_channels, groups)
        size = self.kernel(kernel_size)
        u, d = pair(stride, f"{self.name}: stride"), pair(dilation, f"{self.name}: dilation")
        self.padding = self.full_padding(padding, size, u, d)
        self.padding_mode = padding_mode
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


class Conv1d(Conv2d):
    """y[n,k,q] = bias[k] + sum_cs x[n, c, q u + s d - pad] weight[k,c,s]

    x [N, in_channels, L] -> y [N, out_channels, Q]. The hyper-parameters are Conv2d's, along one axis. padding: an int,
    (before, after), "same" or "valid". weight [out_channels, in_channels/groups, S], bias [out_channels].
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
    right, below the stride or the dilation. weight [in_channels, out_channels/groups, R, S], bias [out_channels].
    Raises ShapeError for what does not fit.
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

    def forward(self, x: Tensor) -> Tensor:
        return self.with_bias(self.transposed(x, self.weight))

    def transposed(self, x: Tensor, weight: HasShape) -> Tensor:
        """x [N, C, P, Q] with filters [C, K/groups, R, S] -> [N, K, H, W], without the bias."""
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
    """y[n,k,v] = bias[k] + sum_cs x[n,c,q] weight[c,k,s] over all q u + s d - pad = v: ConvTranspose2d on sequences

    x [N, in_channels, Q] -> y [N, out_channels, L]. The hyper-parameters are ConvTranspose2d's, along one axis.
    weight [in_channels, out_channels/groups, S], bias [out_channels].
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

    def forward(self, x: Tensor) -> Tensor:
        c, k, s = self.weight.shape
        weight = current().lift(self.weight).reshape(c, k, 1, s)
        return as_sequences(self.with_bias(self.transposed(as_images(self.name, x), weight)))


class LocallyConnected2d(Module):
    """y[n,k,p,q] = bias[k,p,q] + sum_crs x[n, c, p u + r d - pad, q u + s d - pad] weight[(p,q), (c,r,s), k]

    x [N, in_channels, H, W] -> y [N, out_channels, P, Q]: the receptive fields of a convolution without shared weights,
    so it has P Q times the parameters and is made for images of one size.

    image: that size, an int or (H, W). kernel_size, stride, dilation: an int or (rows, columns). padding: zeros about
    the image, an int, (rows, columns) or (top, bottom, left, right). shared_weights: True uses one filter at all
    positions, weight [K, C, R, S] and bias [K], which is Conv2d; it shows what sharing does to the number of parameters
    and to their gradients. `from_conv` starts from a convolution's filters.

    weight [P Q, C R S, K], bias [K, P, Q]. Raises ShapeError where the kernel does not fit into the image.
    """

    required = ("weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image: PairLike,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: SidesLike = 0,
        dilation: PairLike = 1,
        bias: BiasLike = True,
        shared_weights: bool = False,
    ) -> None:
        name = type(self).__name__
        check_positive(name, in_channels=in_channels, out_channels=out_channels)
        self.image, self.kernel_size = pair(image, f"{name}: image"), pair(kernel_size, f"{name}: kernel_size")
        self.stride, self.dilation = pair(stride, f"{name}: stride"), pair(dilation, f"{name}: dilation")
        self.padding, self.shared_weights = sides(padding, f"{name}: padding"), shared_weights
        # (P, Q)
        check_window(name, self.kernel_size, self.stride, self.padding, self.dilation)
        window = Window(self.kernel_size, self.stride, self.padding, self.dilation)
        self.places = window.outputs(name, self.image)
        filters = (out_channels, in_channels, *self.kernel_size)
        inputs = init.fan_in(filters)
        weight = init.kaiming_uniform(generator(), filters)
        offset = init.bias_uniform(generator(), (out_channels,), inputs)
        if not shared_weights:
            # [P Q, C R S, K], drawn as one row of filters so that each has the fan-in of one window
            each = (math.prod(self.places), inputs, out_channels)
            weight = init.kaiming_uniform(generator(), (1, inputs, math.prod(each) // inputs)).reshape(each)
            offset = init.bias_uniform(generator(), (out_channels, *self.places), inputs)
        self.weight = Parameter(weight)
        self.bias = Parameter(offset) if bias else None

    @property
    def weight_layout(self) -> Layout:
        """How the weight holds the filters: each position has its own, and each input is read at R S positions."""
        if self.shared_weights:
            return Layout.plain(self.weight.shape)
        places, inputs, outputs = self.weight.shape
        taps = math.prod(self.kernel_size)
        filters = (places * outputs, inputs // taps, *self.kernel_size)
        # [(p,q), k, (c,r,s)] -> [(p,q), (c,r,s), k]
        return Layout(
            filters, places, (inputs, outputs * taps), lambda w: w.reshape(places, outputs, inputs).swapaxes(1, 2)
        )

    @classmethod
    def from_conv(cls, conv: Conv2d, image: PairLike, shared_weights: bool = False) -> "LocallyConnected2d":
        """Return a layer that computes the same as `conv` on images of this size: its filters at every position.

        Raises ShapeError for a convolution with groups, or with a border that is not zeros.
        """
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ShapeError(
                f"{cls.__name__}: {conv} has groups or a border that is not zeros; give a convolution with groups=1 and"
                " padding_mode='zeros'"
            )
        k, c, *kernel = conv.weight.shape
        size, with_bias = pair(tuple(kernel), f"{cls.__name__}: kernel_size"), conv.bias is not None
        layer = cls(c, k, image, size, conv.stride, conv.padding, conv.dilation, with_bias, shared_weights)
        weight: Ndarray = conv.weight.data
        bias: Ndarray | None = None if conv.bias is None else conv.bias.data
        if not shared_weights:
            # [K, C, R, S] -> [C R S, K], repeated at each of P Q positions; [K] -> [K, P, Q]
            weight = np.broadcast_to(weight.reshape(k, -1).T, layer.weight.shape)
            bias = None if bias is None else np.broadcast_to(bias[:, None, None], (k, *layer.places))
        layer.weight.data = weight
        if layer.bias is not None and bias is not None:
            layer.bias.data = bias
        return layer

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.image:
            raise ShapeError(
                f"{type(self).__name__}: it is made for images of {self.image[0]}x{self.image[1]}, got shape {x.shape};"
                " weights that are not shared belong to positions"
            )
        operator = ops.conv2d if self.shared_weights else ops.locally_connected2d
        size = {} if self.shared_weights else {"kernel_size": self.kernel_size}
        y = operator.apply(
            (x, self.weight), {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, **size}
        )
        if self.bias is None:
            return y
        bias = current().lift(self.bias)
        return y + (bias.reshape(1, -1, 1, 1) if self.shared_weights else bias)

    def describe(self) -> str:
        shared = ", shared_weights=True" if self.shared_weights else ""
        return f"image={self.image}, {self.kernel_size}, stride={self.stride}, padding={self.padding}{shared}"
