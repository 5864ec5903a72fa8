"""Windows as columns, borders, and layers whose weights are not shared."""

import math
from typing import Any

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.conv import Conv2d
from foveal.nn.init import generator
from foveal.nn.module import Module, Parameter, check_positive
from foveal.ops.window import output_size, pair, sides
from foveal.trace import current


class Unfold(Module):
    """Windows as columns: x [N, C, H, W] -> [N, C R S, P Q], the operator im2col"""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        self.how = {"size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride}

    def forward(self, x: Any) -> Any:
        return ops.im2col(x, **self.how)

    def describe(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.how.items())


class Fold(Unfold):
    """Columns added up to an image of output_size (H, W): [N, C R S, P Q] -> [N, C, H, W], the operator col2im"""

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.how |= {"image": output_size}

    def forward(self, x: Any) -> Any:
        return ops.col2im(x, **self.how)


class Pad2d(Module):
    """A border about images: padding is an int or (left, right, top, bottom), as in PyTorch"""

    mode = "constant"

    def __init__(self, padding: Any, value: float = 0.0) -> None:
        if isinstance(padding, int | np.integer):
            padding = (padding,) * 4
        if len(tuple(padding)) != 4:
            raise ShapeError(
                f"{type(self).__name__}: padding is {padding!r}, it has to be an int or (left, right, top, bottom)"
            )
        left, right, top, bottom = padding
        self.padding, self.value = (top, bottom, left, right), value

    def forward(self, x: Any) -> Any:
        return ops.pad(x, padding=self.padding, mode=self.mode, value=self.value)

    def describe(self) -> str:
        return str(self.padding)


class ConstantPad2d(Pad2d):
    """A border of `value`"""

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding, value)


class ZeroPad2d(Pad2d):
    """A border of zeros"""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding)


class ReflectionPad2d(ZeroPad2d):
    """A border that mirrors the image; the pixel at the edge is not repeated"""

    mode = "reflect"


class ReplicationPad2d(ZeroPad2d):
    """A border that repeats the pixel at the edge"""

    mode = "replicate"


class CircularPad2d(ZeroPad2d):
    """A border that goes on at the other side of the image"""

    mode = "circular"


class LocallyConnected2d(Module):
    """y[n,k,p,q] = bias[k,p,q] + sum_crs x[n, c, p u + r d - pad, q u + s d - pad] weight[(p,q), (c,r,s), k]

    A convolution's receptive fields without shared weights: P Q times its parameters, for images of one size, `image`
    (H, W). x [N, in_channels, H, W] -> y [N, out_channels, P, Q]. With shared_weights=True there is one filter,
    weight [K, C, R, S] and bias [K], used at all positions: the same as Conv2d, so that what sharing does to the number
    of
    parameters and to their gradients can be seen. `from_conv` starts from a convolution's filters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image: Any,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        shared_weights: bool = False,
    ) -> None:
        name = type(self).__name__
        check_positive(name, in_channels=in_channels, out_channels=out_channels)
        self.image, self.size = (pair(image, f"{name}: image"), pair(kernel_size, f"{name}: kernel_size"))
        self.stride, self.dilation = (pair(stride, f"{name}: stride"), pair(dilation, f"{name}: dilation"))
        self.padding, self.shared_weights = sides(padding, f"{name}: padding"), shared_weights
        self.places = output_size(name, self.image, self.size, self.stride, self.padding, self.dilation)
        filters = (out_channels, in_channels, *self.size)
        rows = math.prod(filters[1:])
        weight = init.kaiming_uniform(generator(), filters)
        offset = init.bias_uniform(generator(), (out_channels,), rows)
        if not shared_weights:
            each = (math.prod(self.places), rows, out_channels)
            weight = init.kaiming_uniform(generator(), (1, rows, math.prod(each) // rows)).reshape(each)
            offset = init.bias_uniform(generator(), (out_channels, *self.places), rows)
        self.weight = Parameter(weight)
        self.bias = Parameter(offset) if bias else None

    @classmethod
    def from_conv(cls, conv: Conv2d, image: Any, shared_weights: bool = False) -> "LocallyConnected2d":
        """With the filters of a Conv2d (of one group, with zeros as border) at every position: the same function."""
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ShapeError(f"{cls.__name__}: {conv} has groups or a border that is not zeros")
        k, c, *size = conv.weight.shape
        made = cls(
            c, k, image, tuple(size), conv.stride, conv.padding, conv.dilation, conv.bias is not None, shared_weights
        )
        weight, bias = conv.weight.data, None if conv.bias is None else conv.bias.data
        if not shared_weights:
            weight = np.broadcast_to(weight.reshape(k, -1).T, made.weight.shape)
            bias = None if bias is None else np.broadcast_to(bias[:, None, None], (k, *made.places))
        made.weight.data = weight
        if made.bias is not None:
            made.bias.data = bias
        return made

    def forward(self, x: Any) -> Any:
        how: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if x.shape[2:] != self.image:
            raise ShapeError(
                f"{type(self).__name__}: it is made for images of {self.image[0]}x{self.image[1]}, got shape {x.shape};"
                " weights that are not shared belong to positions"
            )
        if self.shared_weights:
            y = ops.conv2d(x, self.weight, **how)
        else:
            y = ops.locally_connected2d(x, self.weight, size=self.size, **how)
        if self.bias is None:
            return y
        bias = current().lift(self.bias)
        return y + (bias.reshape(1, -1, 1, 1) if self.shared_weights else bias)

    def describe(self) -> str:
        shared = ", shared_weights=True" if self.shared_weights else ""
        return f"image={self.image}, {self.size}, stride={self.stride}, padding={self.padding}{shared}"
