"""All that knows PyTorch: operators, models and training steps with the same meaning. Imported only to compare with it.

Every tensor lies ready in the memory format that is timed; no copies and no conversions are timed. PyTorch is used through
names of type Any, so that types are checked alike whether it is installed or not.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from foveal.bench.timing import Call
from foveal.ops.op import Ndarray

torch: Any = import_module("torch")
F: Any = torch.nn.functional
aten: Any = torch.ops.aten
Module: Any = torch.nn.Module

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
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


def geometry(
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> dict[str, Any] | None:
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
    return FORMATS[
        CHANNELS_LAST if t.is_contiguous(memory_format=FORMATS[CHANNELS_LAST]) else CONTIGUOUS
    ]


def conv2d_backward(dy: Any, x: Any, w: Any, how: dict[str, Any], wanted: int) -> Call:
    """The gradient in x (wanted = 0) or in w (wanted = 1) alone."""
    numbers = (how["stride"], how["padding"], how["dilation"], False, [0, 0], how["groups"])
    mask = [wanted == 0, wanted == 1, False]
    return lambda: aten.convolution_backward(dy, x, w, None, *numbers, mask)[wanted]


def window(size: Any, stride: Any = None, padding: Any = 0) -> tuple[Any, Any, Any] | None:
    """Size, stride and padding of a pooling; None for padding that PyTorch lacks."""
    both = symmetric(padding)
    return None if both is None else (two(size), two(size if stride is None else stride), both)


def max_pool2d(x: Any, **how: Any) -> Call | None:
    found = window(**how)
    return None if found is None else lambda: F.max_pool2d(x, *found)


def max_pool2d_grad(dy: Any, x: Any, y: Any, **how: Any) -> Call | None:
    found = window(**how)
    if found is None:
        return None
    _, indices = aten.max_pool2d_with_indices(x, *found)
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, *found, [1, 1], False, indices)


def avg_pool2d(x: Any, **how: Any) -> Call | None:
    found = window(**how)
    return None if found is None else lambda: F.avg_pool2d(x, *found)


def avg_pool2d_grad(dy: Any, *, image: Any, **how: Any) -> Call | None:
    found = window(**how)
    if found is None:
        return None
    x = dy.new_empty(*dy.shape[:2], *image).contiguous(memory_format=layout(dy))
    return lambda: aten.avg_pool2d_backward(dy, x, *found, False, True, None)


def batch_norm(x: Any, gamma: Any, beta: Any, *, eps: float) -> Call:
    return lambda: F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def batch_norm_both(dy: Any, x: Any, gamma: Any, beta: Any, *, eps: float) -> Call:
    """y, dx, dgamma, dbeta"""

    def call() -> Any:
        y, mean, inverse = aten.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
        slopes = aten.native_batch_norm_backward(
            dy, x, gamma, None, None, mean, inverse, True, eps, [True] * 3
        )
        return y, *slopes

    return call


def batch_norm_inference(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Call:
    return lambda: F.batch_norm(x, mean, var, gamma, beta, training=False, eps=eps)


def matmul(a: Any, b: Any, *, ta: bool = False, tb: bool = False) -> Call:
    a, b = a.T if ta else a, b.T if tb else b
    return lambda: torch.mm(a, b)


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
    "exp": lambda x: lambda: torch.exp(x),
    "log": lambda x: lambda: torch.log(x),
    "sqrt": lambda x: lambda: torch.sqrt(x),
    "add": lambda a, b: lambda: torch.add(a, b),
    "subtract": lambda a, b: lambda: torch.subtract(a, b),
    "multiply": lambda a, b: lambda: torch.multiply(a, b),
    "divide": lambda a, b: lambda: torch.divide(a, b),
}


def lenet5(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.LeNet5 with the same parameter names."""
    nn = torch.nn
    rows, columns = (((n // 2) - 4) // 2 for n in x.shape[2:])
    parts = [
        ("conv1", nn.Conv2d(x.shape[1], 6, 5, padding=2)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(6, 16, 5)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(16 * rows * columns, 120)), ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(120, 84)), ("relu4", nn.ReLU()),
        ("fc3", nn.Linear(84, classes)),
    ]  # fmt: skip
    return nn.Sequential(OrderedDict(parts))


class BasicBlock(Module):  # type: ignore[misc]
    """foveal.nn.models.resnet.BasicBlock with the same parameter names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        nn = torch.nn
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


def resnet20(x: Ndarray, classes: int) -> Any:
    """foveal.nn.models.CifarResNet of depth 20 with the same parameter names."""
    nn = torch.nn

    def stage(inputs: int, outputs: int, stride: int) -> Any:
        rest = (BasicBlock(outputs, outputs, 1) for _ in range(2))
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    parts = [
        ("conv1", nn.Conv2d(x.shape[1], 16, 3, padding=1, bias=False)),
        ("bn1", nn.BatchNorm2d(16)), ("relu", nn.ReLU(inplace=True)),
        ("layer1", stage(16, 16, 1)), ("layer2", stage(16, 32, 2)), ("layer3", stage(32, 64, 2)),
        ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()),
        ("fc", nn.Linear(64, classes)),
    ]  # fmt: skip
    return nn.Sequential(OrderedDict(parts))


MODELS: dict[str, Callable[[Ndarray, int], Any]] = {"lenet5": lenet5, "resnet20": resnet20}


def step_calls(
    model: str,
    state: Mapping[str, Ndarray],
    x: Ndarray,
    labels: Ndarray,
    lr: float,
    momentum: float,
) -> dict[str, Call]:
    """Memory format -> one training step, which returns (loss, output); each starts from `state`."""
    classes = len(state[list(state)[-1]])  # the last layer's bias
    return {
        mode: training_step(MODELS[model](x, classes), state, x, labels, lr, momentum, mode)
        for mode in FORMATS
    }


def training_step(
    net: Any,
    state: Mapping[str, Ndarray],
    x: Ndarray,
    labels: Ndarray,
    lr: float,
    momentum: float,
    mode: str,
) -> Call:
    """Forward, loss, backward and update, as PyTorch's tutorials have it."""
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    net = net.train().to(memory_format=FORMATS[mode])
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    images, target = tensor(x, mode), tensor(labels, mode)

    def step() -> tuple[Any, Any]:
        optimizer.zero_grad(set_to_none=True)
        output = net(images)
        loss = F.cross_entropy(output, target)
        loss.backward()
        optimizer.step()
        return loss.detach(), output.detach()

    return step
