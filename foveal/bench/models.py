"""Whole training steps: forward, loss, backward and the update by SGD with momentum."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveal import nn, optim
from foveal.api import Step, compile_step
from foveal.bench.timing import Bench, Call, Row, check_same, operations, turns
from foveal.errors import FovealError
from foveal.nn import models
from foveal.optim.optimizer import Optimizer
from foveal.strides import Ndarray

LR = 0.001  # small, so that hundreds of steps on one batch stay finite
MOMENTUM = 0.9
CLASSES = 10
TOLERANCE = 1e-3  # of the largest value; rounding grows over 20 layers and two steps
STEEP = 3e-2  # after an update of networks that magnify rounding: PyTorch's own two formats differ by 1e-2 then
STEPS_COMPARED = 2  # the second one's loss depends on every gradient and on the update


@dataclass(frozen=True)
class Work:
    """A model on images [batch, channels, size, size]; `model` is its name in foveal.nn.models.

    updated: how far results may differ after an update, as a share of the largest value.
    Dropout is off: what it drops differs between frameworks, and outputs could not be compared.
    """

    model: str
    batch: int
    channels: int
    size: int
    updated: float = TOLERANCE

    def data(self) -> tuple[Ndarray, Ndarray]:
        """A batch of random images and labels."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.channels, self.size, self.size)
        x = rng.standard_normal(shape).astype(np.float32)
        return x, rng.integers(0, CLASSES, self.batch).astype(np.int32)

    def build(self) -> nn.Module:
        size = (self.size, self.size)
        net = models.build(self.model, channels=self.channels, size=size, classes=CLASSES)
        for _, module in net.named_modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return net


WORKS = {
    "lenet": Work("lenet5", batch=64, channels=1, size=28),
    "resnet20": Work("resnet20", batch=128, channels=3, size=32),
    "resnet18-cifar": Work("resnet18-cifar", batch=64, channels=3, size=32),
    "vgg16": Work("vgg16-cifar", batch=64, channels=3, size=32, updated=STEEP),
    "airbench94": Work("airbench94", batch=250, channels=3, size=32),
    "mobilenetv2": Work("mobilenet_v2", batch=32, channels=3, size=96, updated=STEEP),
    "resnet18-224": Work("resnet18", batch=8, channels=3, size=224),
}


def select(names: Sequence[str]) -> dict[str, Work]:
    """The models of these names; all where none is given."""
    for name in names:
        if name not in WORKS:
            raise FovealError(f"bench: there is no model {name!r}; choose from {', '.join(WORKS)}")
    return {name: work for name, work in WORKS.items() if not names or name in names}


def descent(net: nn.Module) -> Optimizer:
    """The optimiser of every step that is timed."""
    return optim.Momentum(net.parameters(), lr=LR, momentum=MOMENTUM)


def rows(works: dict[str, Work], bench: Bench, starting: Callable[[str], None]) -> Iterator[Row]:
    """Time each model. `starting` is told what comes next."""
    for name, work in works.items():
        starting(f"{name} step")
        yield row(name, work, bench)


def row(name: str, work: Work, bench: Bench) -> Row:
    """One training step against the other framework's, from the same parameters on the same batch."""
    x, labels = work.data()
    net = work.build()
    start = net.state_dict()
    step = compile_step(net, nn.CrossEntropyLoss(), descent(net), threads=bench.threads)
    with bench.session(gradients=True):
        theirs: dict[str, Call] = {}
        if bench.against:
            theirs = bench.against.step_calls(work.model, start, x, labels, LR, MOMENTUM, bench.modes)
        compare(name, work, step, theirs)
        times = turns({"ours": lambda: step(x, labels), **theirs}, bench.repeats)
    graph = step.program(x, labels).graph
    return Row(name, "step", work.batch, bench, operations(graph), times.pop("ours"), times)


def compare(name: str, work: Work, step: Step, theirs: Mapping[str, Call]) -> None:
    """Outputs and losses of the first steps are the same."""
    ours = [step(*work.data()) for _ in range(STEPS_COMPARED)]
    for mode, call in theirs.items():
        for number, mine in enumerate(ours, 1):
            loss, output = call()
            most = TOLERANCE if number == 1 else work.updated
            check_same(f"{name}, {mode}, output of step {number}", mine.output, output, most)
            check_same(f"{name}, {mode}, loss of step {number}", mine.loss, loss, most)
