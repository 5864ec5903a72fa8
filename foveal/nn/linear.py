"""Fully connected layers."""

from foveal import ops
from foveal.nn import init
from foveal.nn.arguments import BiasLike, check_positive
from foveal.nn.init import generator
from foveal.nn.module import Module, Parameter
from foveal.ops.op import Tensor


class Linear(Module):
    """y[n,o] = bias[o] + sum_i x[n,i] weight[o,i]; x [N, in_features] -> y [N, out_features]

    weight [out_features, in_features], bias [out_features]; both start as PyTorch's. Raises ShapeError for numbers of
    features below 1, and for x of another shape.
    """

    required = ("weight",)

    def __init__(self, in_features: int, out_features: int, bias: BiasLike = True) -> None:
        check_positive("Linear", in_features=in_features, out_features=out_features)
        shape = (out_features, in_features)
        self.weight = Parameter(init.kaiming_uniform(generator(), shape))
        self.bias = Parameter(init.bias_uniform(generator(), (out_features,), in_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = ops.linear(x, self.weight)
        return y if self.bias is None else y + self.bias

    def describe(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"
