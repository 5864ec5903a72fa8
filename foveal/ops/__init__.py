"""One class per operator: equation, shape rule, gradient, kernel and sample cases. op.py has the contract."""

from foveal.ops.activation import (
    elu,
    gelu_tanh,
    hardsigmoid,
    hardswish,
    leaky_relu,
    log_softmax,
    sigmoid,
    silu,
    softmax,
    softplus,
)
from foveal.ops.batch_norm import batch_norm, batch_norm_inference, channel_moments
from foveal.ops.concat import concatenate, narrow, widen
from foveal.ops.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from foveal.ops.conv_transpose import conv_transpose2d, convolve2d, rotate180
from foveal.ops.dropout import dropout_mask
from foveal.ops.elementwise import (
    add,
    clip,
    divide,
    equal,
    erf,
    exp,
    gelu,
    greater,
    is_finite,
    log,
    maximum,
    minimum,
    multiply,
    relu,
    rsqrt,
    sqrt,
    subtract,
    tanh,
    where,
)
from foveal.ops.im2col import col2im, conv2d_im2col, im2col, locally_connected2d
from foveal.ops.loss import one_hot, softmax_cross_entropy
from foveal.ops.matmul import batch_matmul, linear, matmul
from foveal.ops.norm import channel_sums, group_norm, local_response_norm, lp_normalize, rms_norm, standardize
from foveal.ops.op import OPS
from foveal.ops.pad import pad, pad_grad
from foveal.ops.pool_adaptive import (
    adaptive_avg_pool2d,
    adaptive_max_index,
    adaptive_max_pool2d,
    adaptive_mean,
    adaptive_mean_grad,
)
from foveal.ops.pool_average import avg_pool2d, avg_pool2d_grad, global_avg_pool2d
from foveal.ops.pool_indices import max_unpool2d, put_pixels, take_pixels
from foveal.ops.pool_lp import lp_pool2d
from foveal.ops.pool_max import max_pool2d, max_pool2d_grad, max_pool2d_index, max_pool2d_pick
from foveal.ops.reduce import broadcast_to, max, mean, sum
from foveal.ops.shape import constant, index, permute, place, reshape

cross_correlation2d = conv2d  # what networks call convolution, by its proper name

__all__ = [
    "OPS",
    "adaptive_avg_pool2d",
    "adaptive_max_index",
    "adaptive_max_pool2d",
    "adaptive_mean",
    "adaptive_mean_grad",
    "add",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_matmul",
    "batch_norm",
    "batch_norm_inference",
    "broadcast_to",
    "channel_moments",
    "channel_sums",
    "clip",
    "col2im",
    "concatenate",
    "constant",
    "conv2d",
    "conv2d_im2col",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "conv_transpose2d",
    "convolve2d",
    "cross_correlation2d",
    "divide",
    "dropout_mask",
    "elu",
    "equal",
    "erf",
    "exp",
    "gelu",
    "gelu_tanh",
    "global_avg_pool2d",
    "greater",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "im2col",
    "index",
    "is_finite",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "locally_connected2d",
    "log",
    "log_softmax",
    "lp_normalize",
    "lp_pool2d",
    "matmul",
    "max",
    "max_pool2d",
    "max_pool2d_grad",
    "max_pool2d_index",
    "max_pool2d_pick",
    "max_unpool2d",
    "maximum",
    "mean",
    "minimum",
    "multiply",
    "narrow",
    "one_hot",
    "pad",
    "pad_grad",
    "permute",
    "place",
    "put_pixels",
    "relu",
    "reshape",
    "rms_norm",
    "rotate180",
    "rsqrt",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "sqrt",
    "standardize",
    "subtract",
    "sum",
    "take_pixels",
    "tanh",
    "where",
    "widen",
]
