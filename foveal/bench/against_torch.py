"""Operators, training steps and inference in PyTorch, with the same meaning. This file is imported only to compare.

Operators find every tensor ready in the memory format that is timed. Training steps and inference start from NumPy
arrays and end in them, on both sides: PyTorch takes the arrays as they are, and converts them where they have to be
channels last.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple, TypedDict, Unpack

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.bench import torch_models
from foveal.bench.timing import CHANNELS_LAST, COMPILED, CONTIGUOUS, Contender, StepSettings, seconds
from foveal.graph import Graph
from foveal.strides import Ndarray

aten = torch.ops.aten

NAME = "torch"
# Seconds for torch.compile of one model, forward and backward.
COMPILE_LIMIT = 240.0
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


def version() -> str:
    """Return PyTorch's version."""
    return str(torch.__version__)


@contextmanager
def session(threads: int, gradients: bool) -> Iterator[None]:
    """Inside the block PyTorch runs on `threads` threads; it records gradients only if asked to."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        torch.set_num_threads(before)


def tensor(array: Ndarray, mode: str) -> Tensor:
    """Return a copy as a tensor: images and filters in the memory format, labels as int64, as PyTorch's losses need."""
    copied = torch.from_numpy(np.array(array, order="C"))
    if copied.dtype == torch.int32:
        return copied.long()
    return copied.contiguous(memory_format=FORMATS[mode]) if copied.dim() == 4 else copied


def modes(arrays: Sequence[Ndarray]) -> tuple[str, ...]:
    """Return the memory formats that differ for such arrays."""
    return tuple(FORMATS) if any(array.ndim == 4 for array in arrays) else (CONTIGUOUS,)


def operator_calls(op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object]) -> dict[str, Contender]:
    """Return calls of the operator's counterpart by memory format; none if it has no counterpart."""
    if op not in OPERATORS:
        return {}
    calls: dict[str, Contender] = {}
    for mode in modes(arrays):
        call = OPERATORS[op](*(tensor(array, mode) for array in arrays), **attributes)
        if call is not None:
            calls[mode] = call
    return calls


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


# By the name of the operator; "both" is forward and all gradients.
OPERATORS: dict[str, Counterpart] = {
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "max_pool2d": max_pool2d,
    "max_pool2d_grad": max_pool2d_grad,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_grad": avg_pool2d_grad,
    "global_avg_pool2d": lambda x: lambda: F.adaptive_avg_pool2d(x, 1),
    "batch_norm": batch_norm,
    "batch_norm both": batch_norm_both,
    "batch_norm_inference": batch_norm_inference,
    "matmul": matmul,
    "linear": lambda x, w: lambda: F.linear(x, w),
    "softmax_cross_entropy": lambda x, labels: lambda: F.cross_entropy(x, labels),
    "relu": lambda x: lambda: F.relu(x),
    "relu both": relu_both,
    "gelu": lambda x: lambda: F.gelu(x),
    "gelu both": lambda dy, x: lambda: (F.gelu(x), aten.gelu_backward(dy, x)),
    "tanh": lambda x: lambda: torch.tanh(x),
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


class TorchModel:
    """A model in PyTorch with Foveal's parameters, in a memory format.

    model: its name in foveal.nn.models. state: the parameters. x: images of the size that it is for.
    """

    def __init__(self, model: str, state: Mapping[str, Ndarray], x: Ndarray, mode: str) -> None:
        # The last layer's bias or weight has a row per class.
        classes = len(state[list(state)[-1]])
        self.net = torch_models.build(model, channels=x.shape[1], size=x.shape[2:], classes=classes)
        self.state, self.format = state, FORMATS[mode]
        self.load()
        # PyTorch's types lack this argument.
        self.net.to(memory_format=self.format)  # type: ignore[call-overload, unused-ignore]

    def load(self) -> None:
        """Set all parameters to those of `state`."""
        self.net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.state.items()})

    def images(self, x: Ndarray) -> Tensor:
        """Return images in the memory format."""
        return torch.from_numpy(x).contiguous(memory_format=self.format)


def step_calls(settings: StepSettings, modes: Sequence[str]) -> dict[str, Contender]:
    """Return training steps by mode, which return (loss, output); each starts from the same parameters."""

    def build(mode: str, compiled: bool = False) -> Contender:
        twin = TorchModel(settings.model, settings.state, settings.x, mode)
        return training_step(twin, settings, compiled)

    return by_mode(settings.model, build, modes)


def inference_calls(
    model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
) -> dict[str, Contender]:
    """Return calls of the model in evaluation mode by mode."""

    def build(mode: str, compiled: bool = False) -> Contender:
        twin = TorchModel(model, state, x, mode)
        net = twin.net.eval()
        if not compiled:
            return lambda: net(twin.images(x)).numpy()
        compiled_net = torch.compile(net)
        # Its first call compiles.
        with time_limit(COMPILE_LIMIT):
            compiled_net(twin.images(x))
        return lambda: compiled_net(twin.images(x)).numpy()

    return by_mode(model, build, modes)


def by_mode(model: str, build: Callable[..., Contender], modes: Sequence[str]) -> dict[str, Contender]:
    """Return a call for each mode; build: (memory format, compiled) -> call.

    torch.compile gets the memory format that is faster without it. If it fails, that is printed, and it is left out.
    """
    calls = {mode: build(mode) for mode in FORMATS if mode in modes}
    if COMPILED in modes:
        try:
            calls[COMPILED] = build(faster_format(build), compiled=True)
        # The compiler's errors are of many types.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            click.echo(f"{model}: compared without torch.compile, which failed: {reason}", err=True)
    return calls


def faster_format(build: Callable[..., Contender]) -> str:
    """Return the memory format in which a call takes less time: the best of three, after one that is not timed."""

    def best(mode: str) -> float:
        call = build(mode)
        call()
        return min(seconds(call) for _ in range(3))

    return min(FORMATS, key=best)


@contextmanager
def time_limit(limit: float) -> Iterator[None]:
    """Raise TimeoutError inside the block after `limit` seconds, on systems that have alarms."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def training_step(twin: TorchModel, settings: StepSettings, compiled: bool) -> Contender:
    """Return a step of forward, loss, backward and update, as PyTorch's tutorials write it."""
    net = twin.net.train()
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=settings.lr, momentum=settings.momentum)
    target = torch.from_numpy(settings.labels.astype(np.int64))

    def step() -> tuple[float, Ndarray]:
        optimizer.zero_grad(set_to_none=True)
        output = forward(twin.images(settings.x))
        loss = F.cross_entropy(output, target)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
        return loss.item(), output.detach().numpy()

    if compiled:
        # The first step compiles forward and backward; afterwards parameters and momentum are as before it.
        with time_limit(COMPILE_LIMIT):
            step()
        twin.load()
        optimizer.state.clear()
    return step
