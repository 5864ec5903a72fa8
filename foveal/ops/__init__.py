"""What is computed: one class per operator, with its equation, shape rule, gradient, cases and plain kernel.

How it is computed fast is in ops/kernels/, which holds no operator. By file:

    values.py         Type: shape and dtype; Case: sample inputs
    own.py            what operators that users write leave out, and what they return, checked
    op.py             the contract (class Operator), the registry OPS, and the alphabet of shapes (N, C, H, W)
    window.py         Window: size, stride, padding and dilation of what slides over an image
    elementwise.py    arithmetic, comparisons, exp and its relatives, relu, gelu: pointwise operators
    activation.py     further activations; softmax
    mish.py           one more activation
    comparison.py     comparisons and logic, which give 1 or 0
    rounding.py       abs, sign, rounding; float32 and int32 as each other
    power.py          powers and squares
    trigonometric.py  sin, cos, tan, sinh, cosh
    reduce.py         sum, mean, max over axes; broadcast_to
    statistics.py     min, prod, var, std, norm over axes
    scan.py           cumsum, argmax, argmin along an axis
    shape.py          reshape, permute, index, constants
    stop.py           values through which no gradient goes
    concat.py         arrays side by side, and parts of arrays
    parts.py          every n-th part of an array, reversed, at given places; stack, split, roll, repeat, tile
    pad.py            images with borders
    matmul.py         matrix products; linear layers
    product.py        @ and einsum, for arrays of any rank
    conv.py           conv2d and its gradients in x and in w
    conv_transpose.py transposed convolution; true convolution
    im2col.py         windows as columns, and what is a matrix product with them
    pool.py           the base of the poolings, of which each family has a file: pool_max.py, pool_average.py,
                      pool_adaptive.py, pool_lp.py
    pool_window.py    the window of average pooling, with what its mean divides by
    pool_indices.py   pixels at given places, taken and put back
    interpolate.py    images and sequences in another size
    batch_norm.py     batch norm
    between_shards.py messages between the shards of a batch; batch norm over all of them
    norm.py           layer, group and instance norm, RMS norm, local response norm
    group_moments.py  group norm of images that lie channels last
    dropout.py        random masks
    loss.py           cross-entropy, one-hot labels
    finite.py         the largest magnitudes of many arrays, for the check before anything is written

Operators are called on Tensors while a function is traced, and on NumPy arrays elsewhere. One of your own is a class
with two formulas, numpy and vjp: help(ops.Operator), or ops.Pointwise with a kernel; ops.operator makes one of two
functions. A new one of this package needs a class, its instance below it, and a line here that exports the instance.
"""

import typing as _typing
from types import ModuleType as _Module

from foveal.kernel.sources import finish_import as _finish_import
from foveal.names import missing_in as _missing_in
from foveal.ops.activation import elu as elu
from foveal.ops.activation import gelu_tanh as gelu_tanh
from foveal.ops.activation import hardsigmoid as hardsigmoid
from foveal.ops.activation import hardswish as hardswish
from foveal.ops.activation import leaky_relu as leaky_relu
from foveal.ops.activation import log_softmax as log_softmax
from foveal.ops.activation import sigmoid as sigmoid
from foveal.ops.activation import silu as silu
from foveal.ops.activation import softmax as softmax
from foveal.ops.activation import softplus as softplus
from foveal.ops.batch_norm import batch_norm as batch_norm
from foveal.ops.batch_norm import batch_norm_inference as batch_norm_inference
from foveal.ops.batch_norm import channel_moments as channel_moments
from foveal.ops.between_shards import batch_norm_over_shards as batch_norm_over_shards
from foveal.ops.between_shards import shard_moments as shard_moments
from foveal.ops.between_shards import shard_sums as shard_sums
from foveal.ops.comparison import greater_equal as greater_equal
from foveal.ops.comparison import less as less
from foveal.ops.comparison import less_equal as less_equal
from foveal.ops.comparison import logical_and as logical_and
from foveal.ops.comparison import logical_not as logical_not
from foveal.ops.comparison import logical_or as logical_or
from foveal.ops.comparison import logical_xor as logical_xor
from foveal.ops.comparison import not_equal as not_equal
from foveal.ops.concat import concat as concat
from foveal.ops.concat import concatenate as concatenate
from foveal.ops.concat import narrow as narrow
from foveal.ops.concat import widen as widen
from foveal.ops.conv import conv2d as conv2d
from foveal.ops.conv import conv2d_input_grad as conv2d_input_grad
from foveal.ops.conv import conv2d_weight_grad as conv2d_weight_grad
from foveal.ops.conv_transpose import conv_transpose2d as conv_transpose2d
from foveal.ops.conv_transpose import convolve2d as convolve2d
from foveal.ops.conv_transpose import rotate180 as rotate180
from foveal.ops.dropout import dropout_mask as dropout_mask
from foveal.ops.elementwise import Pointwise as Pointwise
from foveal.ops.elementwise import add as add
from foveal.ops.elementwise import clip as clip
from foveal.ops.elementwise import divide as divide
from foveal.ops.elementwise import equal as equal
from foveal.ops.elementwise import erf as erf
from foveal.ops.elementwise import exp as exp
from foveal.ops.elementwise import exp_to_zero as exp_to_zero
from foveal.ops.elementwise import gelu as gelu
from foveal.ops.elementwise import gelu_slope as gelu_slope
from foveal.ops.elementwise import greater as greater
from foveal.ops.elementwise import is_finite as is_finite
from foveal.ops.elementwise import log as log
from foveal.ops.elementwise import maximum as maximum
from foveal.ops.elementwise import minimum as minimum
from foveal.ops.elementwise import multiply as multiply
from foveal.ops.elementwise import relu as relu
from foveal.ops.elementwise import rsqrt as rsqrt
from foveal.ops.elementwise import sqrt as sqrt
from foveal.ops.elementwise import subtract as subtract
from foveal.ops.elementwise import tanh as tanh
from foveal.ops.elementwise import where as where
from foveal.ops.finite import magnitudes as magnitudes
from foveal.ops.group_moments import group_moments as group_moments
from foveal.ops.im2col import col2im as col2im
from foveal.ops.im2col import conv2d_im2col as conv2d_im2col
from foveal.ops.im2col import im2col as im2col
from foveal.ops.im2col import locally_connected2d as locally_connected2d
from foveal.ops.interpolate import interpolate as interpolate
from foveal.ops.interpolate import resample as resample
from foveal.ops.interpolate import resample_grad as resample_grad
from foveal.ops.kernels import reorder as _reorder
from foveal.ops.kernels import rows as _rows
from foveal.ops.loss import one_hot as one_hot
from foveal.ops.loss import softmax_cross_entropy as softmax_cross_entropy
from foveal.ops.matmul import batch_matmul as batch_matmul
from foveal.ops.matmul import linear as linear
from foveal.ops.matmul import matmul as matmul
from foveal.ops.mish import mish as mish
from foveal.ops.norm import channel_sums as channel_sums
from foveal.ops.norm import group_norm as group_norm
from foveal.ops.norm import group_norm_grad as group_norm_grad
from foveal.ops.norm import local_response_norm as local_response_norm
from foveal.ops.norm import lp_normalize as lp_normalize
from foveal.ops.norm import rms_norm as rms_norm
from foveal.ops.norm import standardize as standardize
from foveal.ops.norm import standardize_grad as standardize_grad
from foveal.ops.op import OPS as OPS
from foveal.ops.op import Case as Case
from foveal.ops.op import Operator as Operator
from foveal.ops.op import operator as operator
from foveal.ops.pad import pad as pad
from foveal.ops.pad import pad_grad as pad_grad
from foveal.ops.parts import add_parts as add_parts
from foveal.ops.parts import flip as flip
from foveal.ops.parts import repeat as repeat
from foveal.ops.parts import roll as roll
from foveal.ops.parts import split as split
from foveal.ops.parts import spread as spread
from foveal.ops.parts import stack as stack
from foveal.ops.parts import strided as strided
from foveal.ops.parts import take as take
from foveal.ops.parts import tile as tile
from foveal.ops.pool_adaptive import adaptive_avg_pool2d as adaptive_avg_pool2d
from foveal.ops.pool_adaptive import adaptive_max_index as adaptive_max_index
from foveal.ops.pool_adaptive import adaptive_max_pool2d as adaptive_max_pool2d
from foveal.ops.pool_adaptive import adaptive_mean as adaptive_mean
from foveal.ops.pool_adaptive import adaptive_mean_grad as adaptive_mean_grad
from foveal.ops.pool_average import avg_pool2d as avg_pool2d
from foveal.ops.pool_average import avg_pool2d_grad as avg_pool2d_grad
from foveal.ops.pool_average import global_avg_pool2d as global_avg_pool2d
from foveal.ops.pool_indices import max_unpool2d as max_unpool2d
from foveal.ops.pool_indices import put_pixels as put_pixels
from foveal.ops.pool_indices import take_pixels as take_pixels
from foveal.ops.pool_lp import lp_pool2d as lp_pool2d
from foveal.ops.pool_max import max_pool2d as max_pool2d
from foveal.ops.pool_max import max_pool2d_grad as max_pool2d_grad
from foveal.ops.pool_max import max_pool2d_index as max_pool2d_index
from foveal.ops.pool_max import max_pool2d_pick as max_pool2d_pick
from foveal.ops.pool_max import max_pool2d_place as max_pool2d_place
from foveal.ops.pool_max import max_pool2d_put as max_pool2d_put
from foveal.ops.power import constant_power as constant_power
from foveal.ops.power import power as power
from foveal.ops.power import square as square
from foveal.ops.product import array_matmul as array_matmul
from foveal.ops.product import einsum as einsum
from foveal.ops.reduce import broadcast_to as broadcast_to
from foveal.ops.reduce import max as max
from foveal.ops.reduce import mean as mean
from foveal.ops.reduce import sum as sum
from foveal.ops.rounding import abs as abs
from foveal.ops.rounding import as_float as as_float
from foveal.ops.rounding import as_integer as as_integer
from foveal.ops.rounding import ceil as ceil
from foveal.ops.rounding import floor as floor
from foveal.ops.rounding import round as round
from foveal.ops.rounding import sign as sign
from foveal.ops.scan import argmax as argmax
from foveal.ops.scan import argmin as argmin
from foveal.ops.scan import cumsum as cumsum
from foveal.ops.shape import constant as constant
from foveal.ops.shape import index as index
from foveal.ops.shape import permute as permute
from foveal.ops.shape import place as place
from foveal.ops.shape import reshape as reshape
from foveal.ops.statistics import min as min
from foveal.ops.statistics import norm as norm
from foveal.ops.statistics import prod as prod
from foveal.ops.statistics import std as std
from foveal.ops.statistics import var as var
from foveal.ops.stop import stop_gradient as stop_gradient
from foveal.ops.trigonometric import cos as cos
from foveal.ops.trigonometric import cosh as cosh
from foveal.ops.trigonometric import sin as sin
from foveal.ops.trigonometric import sinh as sinh
from foveal.ops.trigonometric import tan as tan

# what networks call convolution, by its proper name
cross_correlation2d = conv2d

# every module that decides generated code is imported now
# kernels that no operator calls, but lower.py, are imported by then, too
assert _reorder
assert _rows
_finish_import()


def __dir__() -> list[str]:
    return [name for name, value in globals().items() if not name.startswith("_") and not isinstance(value, _Module)]


# Type checkers would take every name for one that exists.
if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> _typing.NoReturn:
        raise AttributeError(_missing_in("foveal.ops", name, __dir__()), name=name)
