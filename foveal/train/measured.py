"""What a run finds out before its first step: whether it fits into memory, its rate, and how many epochs it can do.

Steps that are done for this are undone: the run is the same as one that is given what was found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any, Protocol

from foveal import nn, optim
from foveal.arena import mib
from foveal.data.loader import Loader
from foveal.errors import ArgumentError, ShapeError
from foveal.explain.costs import planned_memory
from foveal.explain.model import modes_restored
from foveal.ops.op import Type
from foveal.optim import UpdateRule
from foveal.step import Step
from foveal.system import available_memory
from foveal.train.checkpoint import ModelDescription, NetworkDescription, model_bytes
from foveal.train.feed import Feed
from foveal.train.keeper import SYNCHRONISED
from foveal.train.measure import called
from foveal.train.range_test import range_test, restored
from foveal.train.recipes import MOST
from foveal.train.repeating import in_place_of_minutes
from foveal.train.run_folder import RunFolder
from foveal.train.settings import Settings, TrainOptions
from foveal.train.tally import Clock
from foveal.train.together import Together
from foveal.train.views import views

# A training step of few networks holds more than this multiple of its batch of images. Where that fits, the memory is
# not planned beforehand.
SURELY = 2000
# Parameters, their gradients, and what an optimiser and an average keep of each.
PER_PARAMETER = 4 * 5
# The share of the rate at which the loss falls fastest that a run gets.
OF_STEEPEST = 0.5
# The weight of the last parameters in the shortest average: half, as over two steps.
SHORTEST = 0.5
# Steps whose time is measured, after some that compile and fill caches: so many at least, and for this share of the
# time that is given, up to some seconds.
MEASURED_STEPS, FIRST_STEPS, MEASURED_SHARE, MEASURED_SECONDS = 8, 2, 0.02, 2.0
# Batches of each part whose time is measured.
MEASURED_BATCHES = 4
# What an epoch takes beyond what is measured: counting, callbacks, lines for people, a log that grows.
MORE = 1.08
# Seconds that a command takes after its run, beside looking at all images twice: calibration, model card and report. On
# a machine that does other things too they are more, and at most so many times as many.
FINISHING, SLOWEST = 3.0, 6.0


class Run(Protocol):
    """A training before its first step."""

    net: nn.Module
    optimizer: UpdateRule
    train_step: Step
    settings: Settings
    feed: Feed
    loader: Loader
    clock: Clock
    folder: RunFolder | None
    stored: ModelDescription | NetworkDescription
    #: How many numbers are trained.
    parameters: int
    #: What was found out, in sentences for people.
    findings: list[str]
    together: Together

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
    # Of each the activations are held.
    shards = run.together.at_once

    def needed(images: int) -> int:
        return kept + shards * (planned_memory(run.net, Type((images, *x.shape[1:]), "float32")).training or 0)

    size, found = len(x), needed(len(x))
    if found <= available:
        return
    smaller = size
    while smaller > 1 and needed(smaller) > available:
        smaller = -(-smaller // 2)
    parts = f" in each of {shards} shards" if shards > 1 else ""
    words = f"a training step of {size} images{parts} needs about {mib(found)}, and {mib(int(available))} are available"
    if shards > 1:
        raise ShapeError(
            f"{words}: leave out --sync-batch-norm, which holds all shards of a rank at once, or share them among more"
            " ranks, on machines of their own"
        )
    if needed(smaller) > available:
        raise ShapeError(f"{words}; a single image needs too much already: choose a smaller network or smaller images")
    times = run.settings.accumulate * -(-size // smaller)
    if run.settings.shards is not None:
        more = run.settings.shards * -(-size // smaller)
        raise ShapeError(f"{words}: --shards {more} takes {smaller} at a time, in about {mib(needed(smaller))}")
    raise ShapeError(
        f"{words}: --batch-size {smaller} --accumulate {times} makes updates of as many images in about"
        f" {mib(needed(smaller))} (batch norm then sees {smaller} at a time)"
    )


def with_measured(run: Run, options: TrainOptions) -> Settings:
    """Return the settings with the learning rate and the number of epochs that were asked to be found.

    The recipe's average of the parameters is that of a run of so many epochs. What was found is added to
    `run.findings`. Raises ArgumentError for options that do not go together.
    """
    settings = run.settings
    if options.lr == "auto":
        settings = with_rate(run, settings)
    if options.minutes is not None:
        settings = with_epochs(run, settings, options, options.minutes)
    return settings if options.ema is not None else with_average(run, settings)


def with_average(run: Run, settings: Settings) -> Settings:
    """Return the settings with the recipe's average over no larger a share of the updates than in the recipe's run.

    In a short run the average of a long one would hold the starting values still.
    """
    if settings.ema is None or not run.feed.steps:
        return settings
    updates = settings.epochs * -(-len(run.loader) // settings.accumulate)
    if updates >= run.feed.steps:
        return settings
    assert isinstance(run.optimizer, optim.EMA)
    share = (1 - settings.ema) * run.feed.steps / updates
    run.optimizer.decay = round(1 - min(SHORTEST, share), 4)
    return replace(settings, ema=run.optimizer.decay)


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
    used = run.clock.elapsed() if options.began is None else time.perf_counter() - options.began
    # How much longer everything takes than it computes, with one thread.
    slow = min(SLOWEST, max(1.0, used / max(time.process_time(), 1e-3)))
    ending = ending_seconds(run, options, slow)
    left = 60 * minutes - used - ending
    # More epochs than that are not worth their time.
    most = max(1, round(MOST * settings.epochs))
    epochs = min(max(1, int(left / seconds)), most)
    model = f"{settings.model}, " if settings.model and options.model is None else ""
    repeat = in_place_of_minutes(settings.model, epochs, options.command) if settings.model else f"epochs={epochs}"
    unit = "minute" if minutes == 1 else "minutes"
    words = f"{minutes:g} {unit}: {model}{epochs} epoch{'s' * (epochs > 1)} of about {seconds:.2g} s, as measured"
    if left < seconds:
        words += (
            f"; {used:.0f} s were over before the first step, by reading, checking and compiling, and the end needs"
            f" {ending:.0f} s: give more minutes, or the same again, as what was compiled and decoded is kept"
        )
    elif epochs == most:
        words += f"; more than {MOST:g} times the usual {settings.epochs} would gain little"
    run.findings.append(f"{words} ({repeat} in place of the time repeats the run to the bit)")
    return replace(settings, epochs=epochs)


def epoch_seconds(run: Run) -> float:
    """Return the seconds that an epoch takes, with its measuring and its files. Nothing is trained in the end.

    Steps are done and undone, with the batches that they wait for, and files are written and removed.
    """
    given, done = min(MEASURED_SECONDS, MEASURED_SHARE * 60 * (run.settings.minutes or 0.0)), 0
    with restored(run.train_step, run.optimizer):
        source = batches(run)
        for _ in range(FIRST_STEPS):
            run.train_step(*next(source))
        started = time.perf_counter()
        while done < MEASURED_STEPS or time.perf_counter() - started < given:
            run.train_step(*next(source))
            done += 1
        step = (time.perf_counter() - started) / done
    seconds = step * len(run.loader) + measuring_seconds(run)
    short, synchronised = (writing_seconds(run, waited) for waited in (False, True))
    # The files of short epochs are not waited for each time.
    seconds += short + max(0.0, synchronised - short) * min(1.0, (seconds + short) / SYNCHRONISED)
    return MORE * seconds


def measuring_seconds(run: Run) -> float:
    """Return the seconds that the parts take that the network is measured by, by some batches of each."""
    seconds = 0.0
    with modes_restored(run.net):
        run.net.eval()
        for loader in run.feed.parts.values():
            # Without the first one, which compiles; of a single batch, again.
            called(run.net, next(loader.epoch(0))[0])
            started, done = time.perf_counter(), 0
            for x, _ in islice(loader.epoch(0), MEASURED_BATCHES):
                called(run.net, x)
                done += 1
            count = done if loader.count is None else len(loader)
            seconds += (time.perf_counter() - started) / done * count
    return seconds


def writing_seconds(run: Run, synchronised: bool) -> float:
    """Return the seconds that the files of an epoch take; 0 for a run without a folder."""
    if run.folder is None:
        return 0.0
    started = time.perf_counter()
    run.folder.rehearse(model_bytes(run.net.state_dict(), run.stored), synchronised)
    return time.perf_counter() - started


def ending_seconds(run: Run, options: TrainOptions, slow: float) -> float:
    """Return the seconds that are needed after the last epoch, for test-time augmentation and what a command does.

    slow: how many times as long as on an idle machine it takes to draw the report.
    """
    # The model card and the report look at images as the model is used.
    times = (run.settings.tta is not None) + (0 if options.command is None else 2)
    seconds = times * len(views(run.settings.tta)) * measuring_seconds(run) if times else 0.0
    return seconds if options.command is None else seconds + slow * FINISHING


def batches(run: Run) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of epoch after epoch, without an end."""
    run.net.train()
    for epoch in count():
        yield from run.loader.epoch(epoch, fill=False)
