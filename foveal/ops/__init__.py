"""One class per operator: equation, shape rule, gradient, kernel and sample cases. op.py has the contract."""

from foveal.ops.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from foveal.ops.elementwise import (
    add,
    divide,
    equal,
    exp,
    greater,
    is_finite,
    log,
    maximum,
    multiply,
    relu,
    sqrt,
    subtract,
    where,
)
from foveal.ops.linear import linear, matmul
from foveal.ops.loss import one_hot, softmax_cross_entropy
from foveal.ops.norm import batch_norm, batch_norm_inference, channel_moments, dropout_mask
from foveal.ops.op import OPS
from foveal.ops.pool import (
    avg_pool2d,
    avg_pool2d_grad,
    global_avg_pool2d,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_pick,
)
from foveal.ops.reduce import max, mean, sum
from foveal.ops.shape import broadcast_to, constant, index, place, reshape

__all__ = [
    "OPS",
    "add",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_norm",
    "batch_norm_inference",
    "broadcast_to",
    "channel_moments",
    "constant",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "divide",
    "dropout_mask",
    "equal",
    "exp",
    "global_avg_pool2d",
    "greater",
    "index",
    "is_finite",
    "linear",
    "log",
    "matmul",
    "max",
    "max_pool2d",
    "max_pool2d_grad",
    "max_pool2d_pick",
    "maximum",
    "mean",
    "multiply",
    "one_hot",
    "place",
    "relu",
    "reshape",
    "softmax_cross_entropy",
    "sqrt",
    "subtract",
    "sum",
    "where",
]
