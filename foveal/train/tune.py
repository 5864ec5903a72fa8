"""Finding hyper-parameters for a data set: L. N. Smith's method (arXiv:1803.09820), one after the other by short runs.

1. learning rate: a range test (L. N. Smith 2017, section 3.3), then short runs with the rates that it suggests;
2. batch size: the largest that fits, is about as fast in images per second as any, and leaves the training enough
updates; 3. momentum: short runs with constant values, and cycled against the rate;
4. weight decay: short runs on a grid, then beside the best of it.

A short run is one cycle of the rate over a fixed number of steps from the same starting values; what is compared is its
loss on images that are held out of the training images. The test images are not looked at. Everything but the measured
speeds depends on the seed alone; they decide about the batch size and the length of the short runs, unless both are
given.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Philox

import foveal
from foveal import optim
from foveal.api import Step
from foveal.data.augment import augmentation
from foveal.data.loader import Loader
from foveal.data.readers import Dataset
from foveal.errors import NumericsError, ShapeError
from foveal.train.checkpoint import writing
from foveal.train.metrics import evaluate
from foveal.train.settings import LOSS, Settings, build_net, choose, make_optimizer, thread_count

HOLD_OUT = 3  # the stream of random numbers that picks the validation images; 1 and 2 are the loader's
MOST_HELD_OUT = 2000
LOW, HIGH, TESTED = 1e-7, 10.0, 100  # the range test: rates, steps
SMOOTHING, CEILING = 0.98, 4.0  # of the losses; stop at this many times the best one
MOMENTA = (0.99, 0.97, 0.95, 0.9)
SWING = 0.1  # how far a cycled momentum goes down
DECAYS = (1e-3, 1e-4, 1e-5, 0.0)
BATCHES = (32, 64, 128, 256, 512, 1024)
UPDATES = 1500  # a training has about that many or more, so batches are not larger
NEARLY = 0.9  # of the best speed is fast enough
FEWEST, RUNS = 30, 16  # steps of a short run; how many runs there are at most


@dataclass(frozen=True)
class RangeTest:
    """rates, losses: of each step, raw and smoothed. valley, steepest, lowest: the rates there (see `suggest`)."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    valley: float
    steepest: float
    lowest: float


def range_test(
    step: Step,
    optimizer: optim.Update,
    batches: Iterable[tuple[Any, Any]],
    low: float = LOW,
    high: float = HIGH,
    steps: int = TESTED,
) -> RangeTest:
    """Train for `steps` steps while the rate grows from `low` to `high`, geometrically, and see how the loss answers.

    Ends where the smoothed loss is 4 times its best, or the loss is no number. The model, the optimiser and the count
    of
    steps are put back afterwards.
    """
    if not 0 < low < high or steps < 10:
        raise ShapeError(
            f"range test: from {low:g} to {high:g} in {steps} steps; rates have to grow from above 0, in 10 steps or"
            f" more"
        )
    rates, losses, smoothed = [], [], []
    mean, best = 0.0, math.inf
    with restored(step, optimizer):
        for i, (x, labels) in zip(range(steps), batches, strict=False):
            optimizer.lr = low * (high / low) ** (i / (steps - 1))
            try:
                loss = step(x, labels).loss
            except NumericsError:
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            rates.append(optimizer.lr)
            losses.append(loss)
            smoothed.append(mean / (1 - SMOOTHING ** (i + 1)))
            best = min(best, smoothed[-1])
            if smoothed[-1] > CEILING * best:
                break
    if len(rates) < 10:
        raise NumericsError(
            f"range test: the loss stopped being a number after {len(rates)} steps at a rate of no more than"
            f" {rates[-1] if rates else low:g}; look at the data and the model"
        )
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), *suggest(rates, smoothed))


@contextmanager
def restored(step: Step, optimizer: optim.Update) -> Iterator[None]:
    """After the block, model, optimiser and count of steps are what they were before."""
    model: Any = step.model
    kept = model.state_dict(), optimizer.state_dict(), step.steps, optimizer.schedules
    optimizer.schedules = {}
    try:
        yield
    finally:
        model.load_state_dict(kept[0])
        optimizer.load_state_dict(kept[1])
        step.steps, optimizer.schedules = kept[2], kept[3]


def suggest(rates: list[float], smoothed: list[float]) -> tuple[float, float, float]:
    """Rates in the middle of the longest fall of the loss ("valley"), where it falls fastest, and where it is lowest.

    The first tenth and the last five steps are left out: there the smoothed loss says little.
    """
    first, last = len(rates) // 10, max(len(rates) - 5, len(rates) // 10 + 4)
    rates, smoothed = rates[first:last], smoothed[first:last]
    slopes = np.gradient(np.array(smoothed), np.log(rates))
    return (rates[valley(smoothed)], rates[int(np.argmin(slopes))], rates[int(np.argmin(smoothed))])


def valley(losses: list[float]) -> int:
    """The middle of the longest fall.

    Where a sequence of ever lower losses, not necessarily neighbours, that ends at i has at most n(i) members: the fall
    ends
    at the i with the largest n, and is taken to have begun n steps before. The idea is fastai's.
    """
    lengths = [1] * len(losses)
    for i, loss in enumerate(losses):
        lengths[i] = 1 + max((lengths[j] for j in range(i) if loss < losses[j]), default=0)
    end = int(np.argmax(lengths))
    begin = max(0, end - lengths[end])
    return begin + (end - begin) // 2


@dataclass(frozen=True)
class Trial:
    """One short run: what it was made with, and the loss and the accuracy on the images held out."""

    lr: float
    momentum: float | None
    momentum_low: float | None
    weight_decay: float
    loss: float | None  # None where the run diverged
    accuracy: float

    def order(self) -> float:
        return math.inf if self.loss is None else self.loss


@dataclass
class Findings:
    """What was found, and why: the content of `tune.json`."""

    data: str
    model: str
    optimizer: str
    seed: int
    epochs: int
    steps: int = 0  # of a short run
    lr: float = 0.0
    batch_size: int = 0
    momentum: float | None = None
    momentum_low: float | None = None
    weight_decay: float = 0.0
    range_test: RangeTest | None = None
    speeds: dict[int, float] = field(default_factory=dict)  # images per second by batch size
    rates: list[Trial] = field(default_factory=list)
    momenta: list[Trial] = field(default_factory=list)
    decays: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    def command(self, data: str) -> str:
        """What trains with these hyper-parameters."""
        words = ["foveal", "train", shlex.quote(data), f"--model {self.model}"]
        words += [f"--optimizer {self.optimizer}", f"--batch-size {self.batch_size}"]
        words += [f"--lr {self.lr:g}"]
        if self.momentum is not None:
            words.append(f"--momentum {self.momentum:g}")
        if self.momentum_low is not None:
            words.append(f"--momentum-low {self.momentum_low:g}")
        words += [f"--weight-decay {self.weight_decay:g}", f"--epochs {self.epochs}"]
        return " ".join([*words, f"--seed {self.seed}"])


def tune(
    data: Dataset,
    *,
    model: str | None = None,
    optimizer: str | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    budget: float = 120.0,
    steps: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Find learning rate, batch size, momentum and weight decay in about `budget` seconds.

    `steps` is the length of a short run; unless it is given, it is what the budget allows. With `steps` and
    `batch_size`
    the same seed gives the same findings. `tell` gets a line for each thing that is found.
    """
    if not budget > 0 or (steps is not None and steps < FEWEST):
        raise ShapeError(
            f"tune: a budget of {budget:g} s and short runs of {steps} steps; a budget is more than 0, and runs have at"
            f" least {FEWEST} steps"
        )
    settings = choose(
        data, model, optimizer=optimizer, batch_size=batch_size, epochs=epochs, seed=seed, threads=threads
    )
    with thread_count(settings.threads):
        return _Tuning(data, settings, batch_size is not None, steps, budget, tell).run()


class _Tuning:
    """The four stages, which share the images, the network and the short runs that were made."""

    def __init__(
        self,
        data: Dataset,
        settings: Settings,
        fixed_batch: bool,
        steps: int | None,
        budget: float,
        tell: Callable[[str], None],
    ) -> None:
        self.started, self.budget, self.tell = time.perf_counter(), budget, tell
        self.data, self.fixed_batch, self.given_steps = data, fixed_batch, steps
        order = np.argsort(Philox(key=[settings.seed, HOLD_OUT]).random_raw(len(data.x_train)), kind="stable")
        held = min(max(1, len(order) // 5), MOST_HELD_OUT)
        self.held, self.rows = np.sort(order[:held]), np.sort(order[held:])
        batch = min(settings.batch_size, len(self.rows))
        self.settings = replace(settings, batch_size=batch)
        assert settings.model is not None
        self.found = Findings(data.name, settings.model, settings.optimizer, settings.seed, settings.epochs)
        self.trials: dict[tuple[Any, ...], Trial] = {}

    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.perf_counter() - self.started)

    def run(self) -> Findings:
        found = self.found
        self.tell(f"{self.data}; {len(self.held):,} of the training images are held out to compare by")
        self.prepare(self.settings.batch_size)
        self.test_rates()
        if not self.fixed_batch and self.choose_batch():
            self.test_rates()
        self.choose_steps()
        self.choose_rate()
        self.choose_momentum()
        self.choose_decay()
        found.seconds = time.perf_counter() - self.started
        return found

    def prepare(self, batch_size: int) -> None:
        """A network, its optimiser and its step for batches of that size."""
        s = self.settings = replace(self.settings, batch_size=batch_size)
        self.found.batch_size = batch_size
        self.net = build_net(s, self.data)
        self.optimizer = make_optimizer(self.net, s)
        self.momentum: float | None = getattr(self.optimizer, "momentum", None)
        self.step = foveal.compile_step(self.net, LOSS, self.optimizer, threads=s.threads, seed=s.seed)
        self.loader = self.make_loader(batch_size)

    def make_loader(self, batch_size: int) -> Loader:
        data, s = self.data, self.settings
        return Loader(
            data.x_train[self.rows],
            data.y_train[self.rows],
            batch_size,
            mean=data.mean,
            std=data.std,
            seed=s.seed,
            shuffle=True,
            drop_last=True,
            augment=augmentation(s.augment, data.size),
        )

    def batches(self) -> Iterator[tuple[Any, Any]]:
        for epoch in count():
            yield from self.loader.epoch(epoch)

    def test_rates(self) -> None:
        self.net.train()
        test = self.found.range_test = range_test(self.step, self.optimizer, self.batches())
        self.tell(
            f"learning rate: with batches of {self.settings.batch_size} the loss falls longest about"
            f" {test.valley:.2g}, fastest at {test.steepest:.2g}, and is lowest at {test.lowest:.2g}"
            f" ({len(test.rates)} steps from {LOW:g} to {test.rates[-1]:.2g})"
        )

    def choose_batch(self) -> bool:
        """Measure; whether the batch size is another one now."""
        before, speeds = self.settings.batch_size, self.found.speeds
        until = time.perf_counter() + 0.3 * self.left()
        images = self.settings.epochs * len(self.rows)
        most = min(len(self.rows), max(BATCHES[0], images // UPDATES))
        for size in (size for size in BATCHES if size <= most):
            speed = self.speed(size) if not speeds or time.perf_counter() < until else None
            if speed is None:
                break
            speeds[size] = speed
        enough = NEARLY * max(speeds.values(), default=0.0)
        size = max((size for size, speed in speeds.items() if speed >= enough), default=before)
        measured = ", ".join(f"{size}: {speed:,.0f}" for size, speed in speeds.items())
        self.tell(
            f"batch size: {size}, the largest with at least {NEARLY:.0%} of the best speed (images/s measured:"
            f" {measured}; larger ones leave less than {UPDATES} updates in {self.settings.epochs} epochs, or take too"
            " much memory or time)"
        )
        self.prepare(size)
        return size != before

    def speed(self, size: int) -> float | None:
        """Images per second; None where a step would take more than half of the memory that is free."""
        if size != self.settings.batch_size:
            self.prepare(size)
        self.net.train()
        x, labels = next(iter(self.loader.epoch(0)))
        held = self.step.program(x, labels).footprint()
        if held.variables + held.values + held.prepared + held.batch > 0.5 * free_memory():
            return None
        with restored(self.step, self.optimizer):
            self.optimizer.lr = LOW
            self.step(x, labels)
            seconds: list[float] = []
            while len(seconds) < 5 or (sum(seconds) < 0.3 and len(seconds) < 200):
                started = time.perf_counter()
                self.step(x, labels)
                seconds.append(time.perf_counter() - started)
        return size / float(np.median(seconds))

    def choose_steps(self) -> None:
        """How long short runs may be: what is left of the budget, shared out, after one that is measured."""
        whole = self.settings.epochs * len(self.loader)
        if self.given_steps is not None:
            self.found.steps = self.given_steps
            return
        started = time.perf_counter()
        with restored(self.step, self.optimizer):
            self.optimizer.lr = LOW
            for _, (x, labels) in zip(range(FEWEST), self.batches(), strict=False):
                self.step(x, labels)
            trained = time.perf_counter()
            self.validate()
        tested = time.perf_counter() - trained  # compiles the forward pass, so it is too much
        each = self.left() / RUNS - tested / 2
        steps = each / ((trained - started) / FEWEST)
        rounded = int(float(f"{max(FEWEST, min(steps, whole)):.1e}"))
        self.found.steps = rounded
        self.tell(f"short runs have {rounded} steps, {rounded / len(self.loader):.1f} epochs")

    def validate(self) -> dict[str, float]:
        data = self.data
        x, y = data.x_train[self.held], data.y_train[self.held]
        return evaluate(self.net, x, y, mean=data.mean, std=data.std)

    def trial(self, lr: float, momentum: float | None, low: float | None, decay: float) -> Trial:
        """A short run; one that was made before is remembered."""
        key = lr, momentum, low, decay
        if key not in self.trials:
            try:
                test: dict[str, Any] = self.short_run(*key)
            except NumericsError:
                test = {"loss": None, "accuracy": 0.0}
            self.trials[key] = Trial(*key, **test)
        return self.trials[key]

    def short_run(self, lr: float, momentum: float | None, low: float | None, decay: float) -> dict[str, float]:
        steps, optimizer = self.found.steps, self.optimizer
        with restored(self.step, optimizer):
            optimizer.weight_decay = decay
            optimizer.schedule(lr=optim.schedule.one_cycle(lr, steps))
            if momentum is not None:
                optimizer.momentum = momentum
            if momentum is not None and low is not None:
                cycle = optim.schedule.one_cycle_momentum(steps, low, momentum)
                optimizer.schedule(momentum=cycle)
            self.net.train()
            for _, (x, labels) in zip(range(steps), self.batches(), strict=False):
                self.step(x, labels)
            return self.validate()

    def compare(self, candidates: Iterable[tuple[Any, ...]], trials: list[Trial]) -> Trial:
        """Short runs of the candidates as long as the budget lasts; the best of all in `trials`."""
        for key in candidates:
            if trials and self.left() < 0 and self.given_steps is None and key not in self.trials:
                self.tell(f"the budget is used up; {len(trials)} short runs are compared")
                break
            trial = self.trial(*key)
            if trial not in trials:
                trials.append(trial)
        return min(trials, key=Trial.order)

    def choose_rate(self) -> None:
        test, decay = self.found.range_test, self.settings.weight_decay
        assert test is not None
        suggested = sorted({test.valley, test.steepest, test.lowest / 10, test.lowest / 3})
        rates: list[float] = []
        for rate in map(round_off, suggested):
            if not rates or rate > 1.4 * rates[-1]:
                rates.append(rate)
        best = self.compare(((rate, self.momentum, None, decay) for rate in rates), self.found.rates)
        self.found.lr = best.lr
        self.tell(f"learning rate: {best.lr:g} of {listed(self.found.rates, lambda t: f'{t.lr:g}')}")

    def choose_momentum(self) -> None:
        lr, decay, trials = self.found.lr, self.settings.weight_decay, self.found.momenta
        if self.momentum is None:
            self.tell(f"momentum: {self.found.optimizer} has none")
            return
        values = dict.fromkeys((self.momentum, *reversed(MOMENTA)))
        best = self.compare(((lr, m, None, decay) for m in values), trials)
        assert best.momentum is not None
        low = round(best.momentum - SWING, 4)
        cycled = ((lr, m, round(m - SWING, 4), decay) for m in (best.momentum, 0.95) if low > 0)
        best = self.compare(dict.fromkeys(cycled), trials)
        self.found.momentum, self.found.momentum_low = best.momentum, best.momentum_low
        self.tell(f"momentum: {span(best)} of {listed(trials, span)}")

    def choose_decay(self) -> None:
        found = self.found
        key = found.lr, found.momentum if found.momentum is not None else self.momentum
        known = [self.trial(*key, found.momentum_low, self.settings.weight_decay)]
        trials = found.decays = known
        best = self.compare(((*key, found.momentum_low, d) for d in DECAYS), trials)
        if best.weight_decay:
            beside = (round_off(best.weight_decay * factor) for factor in (3.0, 1 / 3))
            best = self.compare(((*key, found.momentum_low, d) for d in beside), trials)
        found.weight_decay = best.weight_decay
        self.tell(f"weight decay: {best.weight_decay:g} of {listed(trials, lambda t: f'{t.weight_decay:g}')}")


def round_off(value: float) -> float:
    """To two significant digits."""
    return float(f"{value:.1e}")


def span(trial: Trial) -> str:
    if trial.momentum_low is None:
        return f"{trial.momentum:g}"
    return f"{trial.momentum:g} down to {trial.momentum_low:g}"


def listed(trials: list[Trial], what: Callable[[Trial], Any]) -> str:
    """What was compared, with the losses."""
    ordered = sorted(trials, key=lambda t: (t.momentum or 0, t.momentum_low or 0, t.lr, t.weight_decay))
    pairs = (f"{what(t)}: {'diverged' if t.loss is None else format(t.loss, '.4f')}" for t in ordered)
    return f"({', '.join(pairs)})"


def free_memory() -> float:
    """Bytes that can be had, where the system tells; else no limit."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def save(found: Findings, folder: str | Path, command: str) -> list[Path]:
    """Write `tune.json`, and `tune.png` where matplotlib is installed; the files that were written."""
    folder = Path(folder)
    written = [folder / "tune.json"]
    text = json.dumps({"command": command, **asdict(found)}, indent=2, allow_nan=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        written[0].write_text(text + "\n", encoding="utf-8")
        if importlib.util.find_spec("matplotlib") is not None:
            from foveal.train.tune_plot import plot

            written.append(folder / "tune.png")
            plot(found, written[1])
    return written
