"""What a run finds out before its first step: whether it fits into memory, its rate, and how many epochs it can do.

Steps that are done for this are undone: the run is the same as one that is given what was found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

import numpy as np

from foveal import nn
from foveal.arena import mib
from foveal.data.loader import Loader
from foveal.errors import ArgumentError, ShapeError
from foveal.explain.costs import planned_memory
from foveal.ops.op import Type
from foveal.optim import UpdateRule
from foveal.step import Step
from foveal.system import available_memory
from foveal.train.feed import Feed
from foveal.train.range_test import range_test, restored
from foveal.train.recipes import MOST
from foveal.train.settings import Settings, TrainOptions
from foveal.train.tally import Clock

# A training step of few networks holds more than this multiple of its batch of images. Where that fits, the memory is
# not planned beforehand.
SURELY = 2000
# Parameters, their gradients, and what an optimiser and an average keep of each.
PER_PARAMETER = 4 * 5
# The share of the rate at which the loss falls fastest that a run gets.
OF_STEEPEST = 0.5
# Steps whose time is measured, after some that compile and fill caches.
MEASURED_STEPS, FIRST_STEPS = 8, 2
# The share of the time of a training step per image that a forward pass takes.
FORWARD = 1 / 3


class Run(Protocol):
    """A training before its first step."""

    net: nn.Module
    optimizer: UpdateRule
    train_step: Step
    settings: Settings
    feed: Feed
    loader: Loader
    clock: Clock
    #: How many numbers are trained.
    parameters: int
    #: What was found out, in sentences for people.
    findings: list[str]

    def example(self) -> tuple[Any, Any] | None:
        """Return a batch to learn shapes from; None where that would use one up."""


def check_memory(run: Run) -> None:
    """Raise ShapeError where a training step does not fit into the memory that is available, and propose what does.

    Nothing is compiled or allocated for this.
    """
    # Of other data the shapes are known when a batch was read, which may be the only one.
    batch = None if run.feed.description is None else run.example()
    if batch is None:
        return
    available, kept, x = available_memory(), PER_PARAMETER * run.parameters, batch[0]
    if SURELY * x.nbytes + kept < available:
        return

    def needed(images: int) -> int:
        return kept + (planned_memory(run.net, Type((images, *x.shape[1:]), "float32")).training or 0)

    size, found = len(x), needed(len(x))
    if found <= available:
        return
    smaller = size
    while smaller > 1 and needed(smaller) > available:
        smaller = -(-smaller // 2)
    words = f"a training step of {size} images needs about {mib(found)}, and {mib(int(available))} are available"
    if needed(smaller) > available:
        raise ShapeError(f"{words}; a single image needs too much already: choose a smaller network or smaller images")
    times = run.settings.accumulate * -(-size // smaller)
    raise ShapeError(
        f"{words}: --batch-size {smaller} --accumulate {times} makes updates of as many images in about"
        f" {mib(needed(smaller))} (batch norm then sees {smaller} at a time)"
    )


def with_measured(run: Run, options: TrainOptions) -> Settings:
    """Return the settings with the learning rate and the number of epochs that were asked to be found.

    What was found is added to `run.findings`. Raises ArgumentError for options that do not go together.
    """
    settings = run.settings
    if options.lr == "auto":
        settings = with_rate(run, settings)
    if options.minutes is not None:
        settings = with_epochs(run, settings, options, options.minutes)
    return settings


def with_rate(run: Run, settings: Settings) -> Settings:
    """Return the settings with the learning rate that a range test suggests."""
    found = range_test(run.train_step, run.optimizer, batches(run))
    # The smoothed loss lags behind, and falls fastest where the rate is too high already. Two digits are as many as the
    # test is good for.
    rate = float(f"{found.steepest * OF_STEEPEST:.2g}")
    run.optimizer.lr = rate
    run.findings.append(f"learning rate {rate:g}, half of where the loss falls fastest in a range test")
    return replace(settings, lr=rate)


def with_epochs(run: Run, settings: Settings, options: TrainOptions, minutes: float) -> Settings:
    """Return the settings with as many epochs as fit into the time, by steps that are measured and undone."""
    if options.epochs is not None:
        raise ArgumentError("train: epochs and minutes are both given, and minutes chooses the epochs; leave one out")
    if options.resume is not None:
        raise ArgumentError(
            "train: minutes is given for a training that is resumed, whose length is decided: give its epochs, as they"
            " stand in metrics.json"
        )
    if run.loader.count is None:
        raise ArgumentError(
            "train: minutes is given, and how long an epoch of this generator is, is not known; give epochs"
        )
    seconds = epoch_seconds(run)
    left = 60 * minutes - run.clock.elapsed()
    # More epochs than that are not worth their time.
    most = max(1, round(MOST * settings.epochs))
    epochs = min(max(1, int(left / seconds)), most)
    model = f"{settings.model}, " if settings.model and options.model is None else ""
    repeat = f"--model {settings.model} --epochs {epochs}" if settings.model else f"epochs={epochs}"
    unit = "minute" if minutes == 1 else "minutes"
    words = f"{minutes:g} {unit}: {model}{epochs} epoch{'s' * (epochs > 1)} of about {seconds:.2g} s, as measured"
    if left < seconds:
        words += f"; one epoch takes longer than that, which leaves {max(0.0, left):.0f} s"
    elif epochs == most:
        words += f"; more than {MOST:g} times the usual {settings.epochs} would gain little"
    run.findings.append(f"{words} ({repeat} in place of the time repeats the run to the bit)")
    return replace(settings, epochs=epochs)


def epoch_seconds(run: Run) -> float:
    """Return the seconds that an epoch takes, with its measuring; compiles the step. Nothing is trained in the end."""
    seconds: list[float] = []
    with restored(run.train_step, run.optimizer):
        source = batches(run)
        for _ in range(FIRST_STEPS + MEASURED_STEPS):
            started = time.perf_counter()
            run.train_step(*next(source))
            seconds.append(time.perf_counter() - started)
    step = float(np.median(seconds[FIRST_STEPS:]))
    measured = sum(loader.count or 0 for loader in run.feed.parts.values())
    return step * (len(run.loader) + FORWARD * measured / (run.settings.batch_size or 1))


def batches(run: Run) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of epoch after epoch, without an end."""
    run.net.train()
    for epoch in count():
        yield from run.loader.epoch(epoch, fill=False)
