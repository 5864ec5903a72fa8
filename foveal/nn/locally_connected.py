"""Layers with the receptive fields of a convolution, and filters of their own at each position.

The letters in the equations are those of foveal/ops/op.py, as in nn/conv.py.
"""

import math

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.arguments import BiasLike, Pair, PairLike, SidesLike, SingleLike, check_positive
from foveal.nn.conv import Conv2d
from foveal.nn.init import Layout, generator
from foveal.nn.module import Module, Parameter
from foveal.nn.one_dimensional import as_images, as_sequences, one_row, one_row_padding
from foveal.ops.op import Tensor
from foveal.ops.window import Window, check_window, pair, sides
from foveal.strides import Ndarray
from foveal.trace import current


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
        # of sequences, hyper-parameters are those of images of one row
        axes = len(kernel)
        layer = cls(
            c,
            k,
            image,
            tuple(kernel),  # type: ignore[arg-type]
            conv.stride[-axes:],  # type: ignore[arg-type]
            conv.padding[-2 * axes :],  # type: ignore[arg-type]
            conv.dilation[-axes:],  # type: ignore[arg-type]
            bias=conv.bias is not None,
            shared_weights=shared_weights,
        )
        weight: Ndarray = np.flip(conv.weight.data, tuple(range(2, 2 + axes))) if conv.flip else conv.weight.data
        bias: Ndarray | None = None if conv.bias is None else conv.bias.data
        if not shared_weights:
            # [K, C, R, S] -> [C R S, K], repeated at each of P Q positions; [K] -> [K, P, Q]
            weight = np.broadcast_to(weight.reshape(k, -1).T, layer.weight.shape)
            bias = None if bias is None else np.repeat(bias, math.prod(layer.places))
        weight = weight.reshape(layer.weight.shape)
        layer.weight.data = weight
        if layer.bias is not None and bias is not None:
            layer.bias.data = bias.reshape(layer.bias.shape)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return self.connected(x)

    def connected(self, x: Tensor) -> Tensor:
        """The layer on images [N, C, H, W]."""
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
        return y + (bias.reshape(1, -1, 1, 1) if self.shared_weights else bias.reshape(*y.shape[1:]))

    def describe(self) -> str:
        shared = ", shared_weights=True" if self.shared_weights else ""
        return f"image={self.image}, {self.kernel_size}, stride={self.stride}, padding={self.padding}{shared}"


class LocallyConnected1d(LocallyConnected2d):
    """y[n,k,q] = bias[k,q] + sum_cs x[n, c, q u + s d - pad] weight[q, (c,s), k]: LocallyConnected2d on sequences

    x [N, in_channels, length] -> y [N, out_channels, Q]. length: that of the sequences. The hyper-parameters are
    LocallyConnected2d's, along one axis. weight [Q, C S, K], bias [K, Q]; with shared_weights [K, C, 1, S] and [K].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        length: SingleLike,
        kernel_size: SingleLike,
        stride: SingleLike = 1,
        padding: SingleLike | Pair = 0,
        dilation: SingleLike = 1,
        bias: BiasLike = True,
        shared_weights: bool = False,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            in_channels,
            out_channels,
            one_row(length, 1, f"{name}: length"),
            one_row(kernel_size, 1, f"{name}: kernel_size"),
            one_row(stride, 1, f"{name}: stride"),
            one_row_padding(padding, f"{name}: padding"),
            one_row(dilation, 1, f"{name}: dilation"),
            bias,
            shared_weights,
        )
        if self.bias is not None and not shared_weights:
            self.bias = Parameter(self.bias.data.reshape(out_channels, -1))

    def forward(self, x: Tensor) -> Tensor:
        return as_sequences(self.connected(as_images(type(self).__name__, x)))
