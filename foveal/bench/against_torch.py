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

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.bench import torch_models
from foveal.bench.timing import COMPILED, CONTIGUOUS, Contender, StepSettings, seconds
from foveal.bench.torch_operators import FORMATS, OPERATORS
from foveal.graph import Graph
from foveal.strides import Ndarray

NAME = "torch"
# Seconds for torch.compile of one model, forward and backward.
COMPILE_LIMIT = 240.0


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


def formats(arrays: Sequence[Ndarray], modes: Sequence[str]) -> list[str]:
    """Return those of the modes that are memory formats and differ for such arrays."""
    alike = all(array.ndim != 4 for array in arrays)
    return [CONTIGUOUS] if alike else [mode for mode in FORMATS if mode in modes]


def operator_calls(
    op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object], modes: Sequence[str]
) -> dict[str, Contender]:
    """Return calls of the operator's counterpart by memory format; none if it has no counterpart."""
    if op not in OPERATORS:
        return {}
    calls: dict[str, Contender] = {}
    for mode in formats(arrays, modes):
        call = OPERATORS[op](*(tensor(array, mode) for array in arrays), **attributes)
        if call is not None:
            calls[mode] = call
    return calls


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
