"""Convolutions."""

from typing import Any

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn import init
from foveal.nn.init import generator
from foveal.nn.module import Module, Parameter, check_positive
from foveal.ops.norm import per_channel
from foveal.ops.op import pair, sides
from foveal.trace import current


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


def he_start(model: Module) -> None:
    """Draw the filters of all convolutions of `model` anew, as He et al. 2015 have it for relu."""
    for _, module in model.named_modules():
        if isinstance(module, Conv2d):
            module.weight.data = init.kaiming_normal(generator(), module.weight.shape)
