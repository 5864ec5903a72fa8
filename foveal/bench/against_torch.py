"""Operators, training steps and inference in PyTorch, with the same meaning. Imported only to compare with it.

Operators find every tensor ready in the memory format that is timed. Steps and inference start from NumPy arrays and
end in them, on both sides: PyTorch takes them as they are, and converts them where they have to be channels last.
PyTorch is used through names of type Any, so that types are checked alike whether it is installed or not.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click
import numpy as np

from foveal.bench.timing import CHANNELS_LAST, COMPILED, CONTIGUOUS, Call, seconds
from foveal.bench.torch_models import MODELS
from foveal.graph import Graph
from foveal.strides import Ndarray

torch: Any = import_module("torch")
F: Any = torch.nn.functional
aten: Any = torch.ops.aten

NAME = "torch"
COMPILE_LIMIT = 240.0  # seconds for torch.compile of one model, forward and backward
FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}
Attributes = Mapping[str, Any]
Build = Callable[..., Call | None]


def version() -> str:
    """PyTorch's own version."""
    return str(torch.__version__)


@contextmanager
def session(threads: int, gradients: bool) -> Iterator[None]:
    """Inside the block PyTorch runs on `threads` threads, and records gradients or does not."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        torch.set_num_threads(before)


def tensor(array: Ndarray, mode: str) -> Any:
    """A tensor of its own; images and filters in the memory format, labels as PyTorch's losses want them."""
    made = torch.from_numpy(np.array(array, order="C"))
    if made.dtype == torch.int32:
        return made.long()
    return made.contiguous(memory_format=FORMATS[mode]) if made.dim() == 4 else made


def modes(arrays: Sequence[Ndarray]) -> tuple[str, ...]:
    """Memory formats that make a difference."""
    return tuple(FORMATS) if any(array.ndim == 4 for array in arrays) else (CONTIGUOUS,)


def operator_calls(op: str, arrays: Sequence[Ndarray], attributes: Attributes) -> dict[str, Call]:
    """Memory format -> call of the operator's counterpart; empty where it has none."""
    if op not in OPERATORS:
        return {}
    calls: dict[str, Call] = {}
    for mode in modes(arrays):
        call = OPERATORS[op](*(tensor(array, mode) for array in arrays), **attributes)
        if call is not None:
            calls[mode] = call
    return calls


def geometry(stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> dict[str, Any] | None:
    """F.conv2d's keywords; None for padding that differs between opposite sides, which PyTorch lacks."""
    both = symmetric(padding)
    if both is None:
        return None
    return {"stride": two(stride), "padding": both, "dilation": two(dilation), "groups": groups}


def two(value: Any) -> list[int]:
    """One number for rows and columns, or two."""
    return [value, value] if isinstance(value, int) else list(value)


def symmetric(padding: Any) -> list[int] | None:
    """Padding of rows and columns; None where opposite sides differ."""
    if isinstance(padding, int) or len(padding) == 2:
        return two(padding)
    top, bottom, left, right = padding
    return [top, left] if (top, left) == (bottom, right) else None


def conv2d(x: Any, w: Any, **how: Any) -> Call | None:
    found = geometry(**how)
    return None if found is None else lambda: F.conv2d(x, w, **found)


def conv2d_input_grad(dy: Any, w: Any, *, size: Any, **how: Any) -> Call | None:
    found = geometry(**how)
    if found is None:
        return None
    x = dy.new_empty(dy.shape[0], w.shape[1] * found["groups"], *size)
    x = x.contiguous(memory_format=layout(dy))
    return conv2d_backward(dy, x, w, found, 0)


def conv2d_weight_grad(dy: Any, x: Any, *, size: Any, **how: Any) -> Call | None:
    found = geometry(**how)
    if found is None:
        return None
    w = dy.new_empty(dy.shape[1], x.shape[1] // found["groups"], *size)
    w = w.contiguous(memory_format=layout(x))
    return conv2d_backward(dy, x, w, found, 1)


def layout(t: Any) -> Any:
    """The memory format of a tensor; where one channel or pixel makes both true, channels last."""
    return FORMATS[CHANNELS_LAST if t.is_contiguous(memory_format=FORMATS[CHANNELS_LAST]) else CONTIGUOUS]


def conv2d_backward(dy: Any, x: Any, w: Any, how: dict[str, Any], wanted: int) -> Call:
    """The gradient in x (wanted = 0) or in w (wanted = 1) alone."""
    numbers = (how["stride"], how["padding"], how["dilation"], False, [0, 0], how["groups"])
    mask = [wanted == 0, wanted == 1, False]
    return lambda: aten.convolution_backward(dy, x, w, None, *numbers, mask)[wanted]


def window(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Any, ...] | None:
    """Size, stride, padding, dilation, ceil_mode of a pooling; None for padding that PyTorch lacks."""
    both = symmetric(padding)
    if both is None:
        return None
    return two(kernel_size), two(kernel_size if stride is None else stride), both, two(dilation), ceil_mode


def max_pool2d(x: Any, **how: Any) -> Call | None:
    found = window(**how)
    return None if found is None else lambda: F.max_pool2d(x, *found)


def max_pool2d_grad(dy: Any, x: Any, y: Any, **how: Any) -> Call | None:
    found = window(**how)
    if found is None:
        return None
    _, indices = aten.max_pool2d_with_indices(x, *found)
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, *found, indices)


def averages(
    count_include_pad: bool = True, divisor_override: int | None = None, counted: Any = None, **how: Any
) -> tuple[Any, ...] | None:
    """The numbers of an average pooling in aten's order; None where PyTorch has none such."""
    found = window(**how)
    if found is None or found[3] != [1, 1] or counted is not None:
        return None
    size, stride, padding, _, ceil_mode = found
    return size, stride, padding, ceil_mode, count_include_pad, divisor_override


def avg_pool2d(x: Any, **how: Any) -> Call | None:
    found = averages(**how)
    return None if found is None else lambda: F.avg_pool2d(x, *found)


def avg_pool2d_grad(dy: Any, *, image_size: Any, **how: Any) -> Call | None:
    found = averages(**how)
    if found is None:
        return None
    x = dy.new_empty(*dy.shape[:2], *image_size).contiguous(memory_format=layout(dy))
    return lambda: aten.avg_pool2d_backward(dy, x, *found)


def batch_norm(x: Any, gamma: Any, beta: Any, *, eps: float) -> Call:
    return lambda: F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def batch_norm_both(dy: Any, x: Any, gamma: Any, beta: Any, *, eps: float) -> Call:
    """y, dx, dgamma, dbeta"""

    def call() -> Any:
        y, mean, inverse = aten.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
        slopes = aten.native_batch_norm_backward(dy, x, gamma, None, None, mean, inverse, True, eps, [True] * 3)
        return y, *slopes

    return call


def batch_norm_inference(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Call:
    return lambda: F.batch_norm(x, mean, var, gamma, beta, training=False, eps=eps)


def matmul(a: Any, b: Any, *, ta: bool = False, tb: bool = False) -> Call:
    a, b = a.T if ta else a, b.T if tb else b
    return lambda: torch.mm(a, b)


def with_slope(y: Any, slope: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The output, and the input's gradient, which may take the output."""
    return y, slope(y)


OPERATORS: dict[str, Build] = {
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
    "relu both": lambda dy, x: lambda: with_slope(F.relu(x), lambda y: aten.threshold_backward(dy, y, 0)),
    "gelu": lambda x: lambda: F.gelu(x),
    "gelu both": lambda dy, x: lambda: with_slope(F.gelu(x), lambda y: aten.gelu_backward(dy, x)),
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


class Twin:
    """A model from foveal's parameters, in a memory format."""

    def __init__(self, model: str, state: Mapping[str, Ndarray], x: Ndarray, memory: str) -> None:
        classes = len(state[list(state)[-1]])  # of the last layer's bias or weight
        self.net = MODELS[model](x, classes)
        self.state, self.format = state, FORMATS[memory]
        self.load()
        self.net.to(memory_format=self.format)

    def load(self) -> None:
        self.net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.state.items()})

    def images(self, x: Ndarray) -> Any:
        return torch.from_numpy(x).contiguous(memory_format=self.format)


def step_calls(
    model: str,
    state: Mapping[str, Ndarray],
    x: Ndarray,
    labels: Ndarray,
    lr: float,
    momentum: float,
    modes: Sequence[str],
) -> dict[str, Call]:
    """Mode -> one training step, which returns (loss, output); each starts from `state`."""

    def build(memory: str, compiled: bool = False) -> Call:
        twin = Twin(model, state, x, memory)
        return training_step(twin, x, labels, lr, momentum, compiled)

    return by_mode(model, build, modes)


def inference_calls(
    model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
) -> dict[str, Call]:
    """Mode -> the output in evaluation mode."""

    def build(memory: str, compiled: bool = False) -> Call:
        twin = Twin(model, state, x, memory)
        net = twin.net.eval()
        if not compiled:
            return lambda: net(twin.images(x)).numpy()
        made = torch.compile(net)
        with limited(COMPILE_LIMIT):
            made(twin.images(x))
        return lambda: made(twin.images(x)).numpy()

    return by_mode(model, build, modes)


def by_mode(model: str, build: Callable[..., Call], modes: Sequence[str]) -> dict[str, Call]:
    """A call for each mode; torch.compile gets the memory format that is faster without it. Its failure is told."""
    calls = {mode: build(mode) for mode in FORMATS if mode in modes}
    if COMPILED in modes:
        try:
            calls[COMPILED] = build(faster(build), compiled=True)
        except Exception as error:  # the compiler's are of many types
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            click.echo(f"{model}: compared without torch.compile, which failed: {reason}", err=True)
    return calls


def faster(build: Callable[..., Call]) -> str:
    """The memory format in which a call takes less time: the best of three, after one that is not timed."""

    def best(memory: str) -> float:
        call = build(memory)
        call()
        return min(seconds(call) for _ in range(3))

    return min(FORMATS, key=best)


@contextmanager
def limited(most: float) -> Iterator[None]:
    """A TimeoutError inside the block after so many seconds, where the system has alarms."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"it took more than {most:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, most)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def training_step(twin: Twin, x: Ndarray, labels: Ndarray, lr: float, momentum: float, compiled: bool) -> Call:
    """Forward, loss, backward and update, as PyTorch's tutorials have it."""
    net = twin.net.train()
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    target = torch.from_numpy(labels.astype(np.int64))

    def step() -> tuple[float, Any]:
        optimizer.zero_grad(set_to_none=True)
        output = forward(twin.images(x))
        loss = F.cross_entropy(output, target)
        loss.backward()
        optimizer.step()
        return loss.item(), output.detach().numpy()

    if compiled:
        with limited(COMPILE_LIMIT):
            step()  # compiles forward and backward
        twin.load()
        optimizer.state.clear()
    return step
