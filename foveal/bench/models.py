"""Whole training steps are timed: forward, loss, backward and the update by SGD with momentum."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from foveal import nn, optim
from foveal.bench.timing import Bench, Contender, Measurement, Starting, StepSettings, alternate, check_same, operations
from foveal.errors import FovealError
from foveal.names import meant
from foveal.nn import models
from foveal.optim.optimizer import Optimizer
from foveal.step import Step, compile_step
from foveal.strides import Ndarray

# A small rate, so that hundreds of steps on one batch stay finite.
LR = 0.001
MOMENTUM = 0.9
CLASSES = 10
# How far results may differ, as a share of the largest value: rounding grows over 20 layers and two steps.
TOLERANCE = 1e-3
# The same after an update of networks that magnify rounding: PyTorch's own two memory formats differ by 1e-2 then.
STEEP_TOLERANCE = 3e-2
# The same of ResNet-50, GoogLeNet and MobileNet v1 on 16 images of 96x96: there PyTorch's two formats differ by 0.29,
# 0.15 and 0.04, and those of ResNet-50 from PyTorch's float64 by 0.25 and 0.31. Their first step is compared as closely
# as that of all.
ILL_CONDITIONED_TOLERANCE = 0.5
ILL_CONDITIONED = ("resnet50", "googlenet", "mobilenet_v1")
# The second step's loss depends on every gradient and on the update.
STEPS_COMPARED = 2


@dataclass(frozen=True)
class ModelWork:
    """A model to time on images [batch, channels, size, size]."""

    # Its name in foveal.nn.models.
    model: str
    batch: int
    channels: int
    size: int
    # How far results may differ after an update, as a share of the largest value.
    tolerance_after_update: float = TOLERANCE

    def data(self) -> tuple[Ndarray, Ndarray]:
        """Return a batch of random images, float32 [N, C, H, W], and labels, int32 [N]."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.channels, self.size, self.size)
        x = rng.standard_normal(shape).astype(np.float32)
        return x, rng.integers(0, CLASSES, self.batch).astype(np.int32)

    def build(self) -> nn.Module:
        """Return the model. Dropout is off: frameworks drop different values, so outputs could not be compared."""
        size = (self.size, self.size)
        net = models.build(self.model, channels=self.channels, size=size, classes=CLASSES)
        for _, module in net.named_modules():
            if isinstance(module, nn.Dropout | nn.StochasticDepth):
                module.p = 0.0
        return net


WORKS = {
    "lenet": ModelWork("lenet5", batch=64, channels=1, size=28),
    "resnet20": ModelWork("resnet20", batch=128, channels=3, size=32),
    "resnet18-cifar": ModelWork("resnet18-cifar", batch=64, channels=3, size=32),
    "vgg16": ModelWork("vgg16-cifar", batch=64, channels=3, size=32, tolerance_after_update=STEEP_TOLERANCE),
    "airbench94": ModelWork("airbench94", batch=250, channels=3, size=32),
    "mobilenetv2": ModelWork("mobilenet_v2", batch=32, channels=3, size=96, tolerance_after_update=STEEP_TOLERANCE),
    "resnet18-224": ModelWork("resnet18", batch=8, channels=3, size=224),
}

# Networks that are measured only if they are named.
NAMED_ONLY = {
    name: ModelWork(
        name,
        batch=16,
        channels=3,
        size=96,
        tolerance_after_update=ILL_CONDITIONED_TOLERANCE if name in ILL_CONDITIONED else STEEP_TOLERANCE,
    )
    for name in (
        "resnet34",
        "resnet50",
        "googlenet",
        "mobilenet_v1",
        "mobilenet_v3_large",
        "densenet121",
        "efficientnet_b0",
        "alexnet",
    )
}


def select(names: Sequence[str]) -> dict[str, ModelWork]:
    """Return the works of these names, or WORKS without names. Raises FovealError for a name that there is not."""
    known = WORKS | NAMED_ONLY
    for name in names:
        if name not in known:
            raise FovealError(f"bench: there is no model {name!r}{meant(name, known)}; choose from {', '.join(known)}")
    return {name: work for name, work in known.items() if name in names} if names else dict(WORKS)


def make_optimizer(net: nn.Module) -> Optimizer:
    """Return the optimiser of every step that is timed."""
    return optim.Momentum(net.parameters(), lr=LR, momentum=MOMENTUM)


def rows(works: dict[str, ModelWork], bench: Bench, starting: Starting) -> Iterator[Measurement]:
    """Time each model."""
    for name, work in works.items():
        starting(f"{name} step")
        yield row(name, work, bench)


def row(name: str, work: ModelWork, bench: Bench) -> Measurement:
    """Time a training step against the other framework's, from the same parameters on the same batch."""
    with contenders(name, work, bench) as (calls, count):
        times = alternate(calls, bench.repeats)
    return Measurement(name, "step", work.batch, bench, count, times.pop("ours"), times)


@contextmanager
def contenders(name: str, work: ModelWork, bench: Bench) -> Iterator[tuple[dict[str, Contender], int]]:
    """Inside of the block steps of the same model by all frameworks, ours as "ours", and the operations of a step."""
    x, labels = work.data()
    net = work.build()
    # Taken before the first step changes the parameters.
    settings = StepSettings(work.model, net.state_dict(), x, labels, LR, MOMENTUM)
    step = compile_step(net, nn.CrossEntropyLoss(), make_optimizer(net), threads=bench.threads)
    with bench.session(gradients=True):
        theirs: dict[str, Contender] = {}
        if bench.against:
            theirs = bench.against.step_calls(settings, bench.modes)
        compare(name, work, step, theirs)
        yield {"ours": lambda: step(x, labels), **theirs}, operations(step.program(x, labels).graph)


def compare(name: str, work: ModelWork, step: Step, theirs: Mapping[str, Contender]) -> None:
    """Check that outputs and losses of the first steps are the same. Raises FovealError if they are not."""
    ours = [step(*work.data()) for _ in range(STEPS_COMPARED)]
    for mode, call in theirs.items():
        for number, mine in enumerate(ours, 1):
            loss, output = call()
            tolerance = TOLERANCE if number == 1 else work.tolerance_after_update
            check_same(f"{name}, {mode}, output of step {number}", mine.output, output, tolerance)
            check_same(f"{name}, {mode}, loss of step {number}", mine.loss, loss, tolerance)
