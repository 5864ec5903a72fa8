"""PyTorch's counterparts of operators, for timings: functions of tensors that return a call each.

This file is imported only to compare. Every tensor lies in the memory format that is timed before a call is made.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.bench.timing import CHANNELS_LAST, CONTIGUOUS, Contender

aten = torch.ops.aten

# By the name of the mode.
FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}
# (tensors, attributes) -> a call of the operator's counterpart; None if PyTorch has none for these attributes.
Counterpart = Callable[..., Contender | None]

# One number for rows and columns, or (rows, columns); padding may also be (top, bottom, left, right).
Sizes = int | Sequence[int]


class ConvOptions(TypedDict, total=False):
    """Attributes of conv2d and of its gradients."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int


class PoolOptions(TypedDict, total=False):
    """Attributes of poolings."""

    kernel_size: Sizes
    stride: Sizes | None
    padding: Sizes
    dilation: Sizes
    ceil_mode: bool


class AverageOptions(PoolOptions, total=False):
    """Attributes of average pooling."""

    count_include_pad: bool
    divisor_override: int | None
    counted: Sequence[bool] | None


class ConvArguments(NamedTuple):
    """What F.conv2d takes after the bias, in its order."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class PoolArguments(NamedTuple):
    """What F.max_pool2d takes after x, in its order."""

    size: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ceil_mode: bool


class AverageArguments(NamedTuple):
    """What F.avg_pool2d takes after x, in its order."""

    size: list[int]
    stride: list[int]
    padding: list[int]
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None


def pair(value: Sizes) -> list[int]:
    """Return one number for rows and columns, or two, as two."""
    return [value, value] if isinstance(value, int) else list(value)


def symmetric(padding: Sizes) -> list[int] | None:
    """Return the padding of rows and columns; None if opposite sides differ, which PyTorch has no argument for."""
    if isinstance(padding, int) or len(padding) == 2:
        return pair(padding)
    top, bottom, left, right = padding
    return [top, left] if (top, left) == (bottom, right) else None


def conv_arguments(options: ConvOptions) -> ConvArguments | None:
    """Return F.conv2d's arguments; None for padding that PyTorch lacks."""
    padding = symmetric(options.get("padding", 0))
    if padding is None:
        return None
    stride, dilation = pair(options.get("stride", 1)), pair(options.get("dilation", 1))
    return ConvArguments(stride, padding, dilation, options.get("groups", 1))


def conv2d(x: Tensor, w: Tensor, **options: Unpack[ConvOptions]) -> Contender | None:
    """y of x [N, C, H, W] and w [K, C/G, R, S]"""
    arguments = conv_arguments(options)
    return None if arguments is None else lambda: F.conv2d(x, w, None, *arguments)


def conv2d_input_grad(
    dy: Tensor, w: Tensor, *, image_size: Sequence[int], **options: Unpack[ConvOptions]
) -> Contender | None:
    """dx of images of `image_size`, (H, W)"""
    arguments = conv_arguments(options)
    if arguments is None:
        return None
    x = dy.new_empty(dy.shape[0], w.shape[1] * arguments.groups, *image_size)
    x = x.contiguous(memory_format=memory_format(dy))
    return convolution_backward(dy, x, w, arguments, 0)


def conv2d_weight_grad(
    dy: Tensor, x: Tensor, *, kernel_size: Sequence[int], **options: Unpack[ConvOptions]
) -> Contender | None:
    """dw of filters of `kernel_size`, (R, S)"""
    arguments = conv_arguments(options)
    if arguments is None:
        return None
    w = dy.new_empty(dy.shape[1], x.shape[1] // arguments.groups, *kernel_size)
    w = w.contiguous(memory_format=memory_format(x))
    return convolution_backward(dy, x, w, arguments, 1)


def memory_format(t: Tensor) -> torch.memory_format:
    """Return the memory format of a tensor; channels last if one channel or pixel makes both true."""
    return FORMATS[CHANNELS_LAST if t.is_contiguous(memory_format=FORMATS[CHANNELS_LAST]) else CONTIGUOUS]


def convolution_backward(dy: Tensor, x: Tensor, w: Tensor, arguments: ConvArguments, which: int) -> Contender:
    """Return the gradient in x (which = 0) or in w (which = 1) alone."""
    # Not transposed, so without output padding.
    numbers = (arguments.stride, arguments.padding, arguments.dilation, False, [0, 0], arguments.groups)
    mask = [which == 0, which == 1, False]
    return lambda: aten.convolution_backward(dy, x, w, None, *numbers, mask)[which]


def pool_arguments(options: PoolOptions) -> PoolArguments | None:
    """Return F.max_pool2d's arguments; None for padding that PyTorch lacks."""
    padding = symmetric(options.get("padding", 0))
    if padding is None:
        return None
    size, stride = options["kernel_size"], options.get("stride")
    dilation = pair(options.get("dilation", 1))
    return PoolArguments(
        pair(size), pair(size if stride is None else stride), padding, dilation, options.get("ceil_mode", False)
    )


def max_pool2d(x: Tensor, **options: Unpack[PoolOptions]) -> Contender | None:
    """y of x [N, C, H, W]"""
    arguments = pool_arguments(options)
    return None if arguments is None else lambda: F.max_pool2d(x, *arguments)


def max_pool2d_grad(dy: Tensor, x: Tensor, y: Tensor, **options: Unpack[PoolOptions]) -> Contender | None:
    """dx; the indices of the maxima are computed before the timing, as PyTorch keeps them from the forward pass."""
    arguments = pool_arguments(options)
    if arguments is None:
        return None
    _, indices = aten.max_pool2d_with_indices(x, *arguments)
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, *arguments, indices)


def max_pool2d_put(
    dy: Tensor, place: Tensor, *, image_size: tuple[int, int], **options: Unpack[PoolOptions]
) -> Contender | None:
    """dx from the places of the maxima, which are PyTorch's indices"""
    arguments = pool_arguments(options)
    if arguments is None:
        return None
    form = memory_format(dy)
    x = dy.new_empty(*dy.shape[:2], *image_size).contiguous(memory_format=form)
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, *arguments, place)


def max_pool2d_both(dy: Tensor, x: Tensor, **options: Unpack[PoolOptions]) -> Contender | None:
    """y, dx"""
    arguments = pool_arguments(options)
    if arguments is None:
        return None

    def call() -> tuple[Tensor, Tensor]:
        y, indices = aten.max_pool2d_with_indices(x, *arguments)
        return y, aten.max_pool2d_with_indices_backward(dy, x, *arguments, indices)

    return call


def average_arguments(options: AverageOptions) -> AverageArguments | None:
    """Return F.avg_pool2d's arguments; None for options that PyTorch lacks."""
    arguments = pool_arguments(options)
    if arguments is None or arguments.dilation != [1, 1] or options.get("counted") is not None:
        return None
    size, stride, padding, _, ceil_mode = arguments
    include_pad, divisor = options.get("count_include_pad", True), options.get("divisor_override")
    return AverageArguments(size, stride, padding, ceil_mode, include_pad, divisor)


def avg_pool2d(x: Tensor, **options: Unpack[AverageOptions]) -> Contender | None:
    """y of x [N, C, H, W]"""
    arguments = average_arguments(options)
    return None if arguments is None else lambda: F.avg_pool2d(x, *arguments)


def avg_pool2d_grad(dy: Tensor, *, image_size: Sequence[int], **options: Unpack[AverageOptions]) -> Contender | None:
    """dx of images of `image_size`, (H, W)"""
    arguments = average_arguments(options)
    if arguments is None:
        return None
    x = dy.new_empty(*dy.shape[:2], *image_size).contiguous(memory_format=memory_format(dy))
    return lambda: aten.avg_pool2d_backward(dy, x, *arguments)


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> Contender:
    """y with the statistics of the batch"""
    return lambda: F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def batch_norm_both(dy: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> Contender:
    """y, dx, dgamma, dbeta"""

    def call() -> tuple[Tensor, ...]:
        y, mean, inverse = aten.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
        slopes = aten.native_batch_norm_backward(dy, x, gamma, None, None, mean, inverse, True, eps, [True] * 3)
        return y, *slopes

    return call


def batch_norm_inference(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> Contender:
    """y with known statistics"""
    return lambda: F.batch_norm(x, mean, var, gamma, beta, training=False, eps=eps)


def matmul(a: Tensor, b: Tensor, *, ta: bool = False, tb: bool = False) -> Contender:
    """a b, of which ta and tb transpose a and b"""
    a, b = a.T if ta else a, b.T if tb else b
    return lambda: torch.mm(a, b)


def relu_both(dy: Tensor, x: Tensor) -> Contender:
    """y, dx"""

    def call() -> tuple[Tensor, Tensor]:
        y = F.relu(x)
        return y, aten.threshold_backward(dy, y, 0)

    return call


def softmax_both(dy: Tensor, x: Tensor, *, axis: int) -> Contender:
    """y, dx"""

    def call() -> tuple[Tensor, Tensor]:
        y = F.softmax(x, axis)
        return y, aten._softmax_backward_data(dy, y, axis, x.dtype)

    return call


def log_softmax_both(dy: Tensor, x: Tensor, *, axis: int) -> Contender:
    """y, dx"""

    def call() -> tuple[Tensor, Tensor]:
        y = F.log_softmax(x, axis)
        return y, aten._log_softmax_backward_data(dy, y, axis, x.dtype)

    return call


def cross_entropy_both(dy: Tensor, x: Tensor, labels: Tensor) -> Contender:
    """y, dx"""

    def call() -> tuple[Tensor, Tensor]:
        z = F.log_softmax(x, 1)
        y, weight = aten.nll_loss_forward(z, labels, None, 1, -100)
        dz = aten.nll_loss_backward(dy, z, labels, None, 1, -100, weight)
        return y, aten._log_softmax_backward_data(dz, z, 1, x.dtype)

    return call


def tanh_both(dy: Tensor, x: Tensor) -> Contender:
    """y, dx"""

    def call() -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        return y, aten.tanh_backward(dy, y)

    return call


def standardize(x: Tensor, *, axes: int, eps: float = 1e-5) -> Contender | None:
    """y, standardised along the last axis"""
    return None if axes != -1 else lambda: F.layer_norm(x, x.shape[-1:], eps=eps)


def standardize_both(dy: Tensor, x: Tensor, *, axes: int, eps: float = 1e-5) -> Contender | None:
    """y, dx"""
    size, mask = x.shape[-1:], [True, False, False]

    def call() -> tuple[Tensor, Tensor]:
        y, mean, inverse = aten.native_layer_norm(x, size, None, None, eps)
        return y, aten.native_layer_norm_backward(dy, x, size, mean, inverse, None, None, mask)[0]

    return None if axes != -1 else call


def group_norm_both(dy: Tensor, x: Tensor, *, groups: int, eps: float = 1e-5) -> Contender:
    """y, dx"""
    N, C = x.shape[:2]
    sizes, mask = (N, C, x[0, 0].numel(), groups), [True, False, False]

    def call() -> tuple[Tensor, Tensor]:
        y, mean, inverse = aten.native_group_norm(x, None, None, *sizes, eps)
        return y, aten.native_group_norm_backward(dy, x, mean, inverse, None, *sizes, mask)[0]

    return call


# By the name of the operator; "both" is forward and all gradients.
OPERATORS: dict[str, Counterpart] = {
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "max_pool2d": max_pool2d,
    "max_pool2d both": max_pool2d_both,
    "max_pool2d_grad": max_pool2d_grad,
    "max_pool2d_put": max_pool2d_put,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_grad": avg_pool2d_grad,
    "global_avg_pool2d": lambda x: lambda: F.adaptive_avg_pool2d(x, 1),
    "batch_norm": batch_norm,
    "batch_norm both": batch_norm_both,
    "batch_norm_inference": batch_norm_inference,
    "matmul": matmul,
    "linear": lambda x, w: lambda: F.linear(x, w),
    "softmax_cross_entropy": lambda x, labels: lambda: F.cross_entropy(x, labels),
    "softmax_cross_entropy both": cross_entropy_both,
    "relu": lambda x: lambda: F.relu(x),
    "relu both": relu_both,
    "gelu": lambda x: lambda: F.gelu(x),
    "gelu both": lambda dy, x: lambda: (F.gelu(x), aten.gelu_backward(dy, x)),
    "silu": lambda x: lambda: F.silu(x),
    "silu both": lambda dy, x: lambda: (F.silu(x), aten.silu_backward(dy, x)),
    "softplus": lambda x, beta=1.0, threshold=20.0: lambda: F.softplus(x, beta, threshold),
    "softplus both": lambda dy, x: lambda: (F.softplus(x), aten.softplus_backward(dy, x, 1.0, 20.0)),
    "hardswish": lambda x: lambda: F.hardswish(x),
    "hardswish both": lambda dy, x: lambda: (F.hardswish(x), aten.hardswish_backward(dy, x)),
    "tanh": lambda x: lambda: torch.tanh(x),
    "tanh both": tanh_both,
    "softmax": lambda x, axis: lambda: F.softmax(x, axis),
    "softmax both": softmax_both,
    "log_softmax": lambda x, axis: lambda: F.log_softmax(x, axis),
    "log_softmax both": log_softmax_both,
    "standardize": standardize,
    "standardize both": standardize_both,
    "group_norm": lambda x, groups, eps=1e-5: lambda: F.group_norm(x, groups, eps=eps),
    "group_norm both": group_norm_both,
    "adaptive_avg_pool2d": lambda x, output_size: lambda: F.adaptive_avg_pool2d(x, output_size),
    "concatenate": lambda *parts, axis: lambda: torch.cat(parts, axis),
    "erf": lambda x: lambda: torch.erf(x),
    "rsqrt": lambda x: lambda: torch.rsqrt(x),
    "clip": lambda x, low, high: lambda: torch.clamp(x, low, high),
    "minimum": lambda a, b: lambda: torch.minimum(a, b),
    "maximum": lambda a, b: lambda: torch.maximum(a, b),
    "exp": lambda x: lambda: torch.exp(x),
    "log": lambda x: lambda: torch.log(x),
    "sqrt": lambda x: lambda: torch.sqrt(x),
    "add": lambda a, b: lambda: torch.add(a, b),
    "subtract": lambda a, b: lambda: torch.subtract(a, b),
    "multiply": lambda a, b: lambda: torch.multiply(a, b),
    "divide": lambda a, b: lambda: torch.divide(a, b),
}
