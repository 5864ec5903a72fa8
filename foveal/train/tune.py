"""Finding hyper-parameters for a data set by short runs: L. N. Smith's method (arXiv:1803.09820).

They are searched for one after the other:

1. learning rate: a range test (L. N. Smith 2017, section 3.3), then short runs with the rates that it suggests;
2. batch size: the largest that fits into memory, is about as fast in images per second as any, and leaves the training
   enough updates;
3. momentum: short runs with constant values, and with values that are cycled against the rate;
4. weight decay: short runs on a grid, then next to the best of it.

A short run is one cycle of the rate over a fixed number of steps from the same starting values; what is compared is its
loss on images that are held out of the training images. The test images are not looked at. Those short runs of a stage
that do not depend on each other can be made in several processes, side by side (tune_crew.py). Everything depends on
the seed alone but the measured speeds; these decide about the batch size and the length of the short runs, unless both
are given.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.random import Philox

from foveal.arguments import checked
from foveal.data.dataset import Dataset
from foveal.errors import NumericsError, ShapeError
from foveal.files import temporary, write_whole
from foveal.system import available_memory, free_memory
from foveal.train.files import writing
from foveal.train.findings import Candidate, Findings, Trial
from foveal.train.range_test import LOW
from foveal.train.settings import Options, Settings, choose, thread_count
from foveal.train.short_runs import MIN_STEPS, Here, ShortRuns, Task
from foveal.train.tune_crew import BYTES_PER_PROCESS, Crew

# The stream of random numbers that picks the images held out; 1 and 2 are the loader's.
HOLD_OUT_STREAM = 3
# A fifth of the training images is held out, but no more than this: their loss is then known well enough.
MAX_HELD_OUT = 2000

# The values that are compared, as L. N. Smith proposes. SWING: how far a cycled momentum falls.
MOMENTA = (0.99, 0.97, 0.95, 0.9)
SWING = 0.1
DECAYS = (1e-3, 1e-4, 1e-5, 0.0)

BATCHES = (32, 64, 128, 256, 512, 1024)
# A training has at least about so many updates, which limits the batch size.
MIN_UPDATES = 1500
# A batch size is fast enough if it reaches this share of the best speed.
FAST_ENOUGH = 0.9

# How many short runs do not depend on each other, at most: rates; momenta, constant, then cycled; weight decays of the
# grid, then next to the best of it. The budget has to suffice for all of them.
INDEPENDENT = (4, 4, 2, 4, 2)
# A slip of the finger is no number of workers.
MAX_WORKERS = 256
# The share of the memory which a program can get that workers may take.
MEMORY_SHARE = 0.8


@checked
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
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Find learning rate, batch size, momentum and weight decay in about `budget` seconds.

    model, optimizer, batch_size, epochs, seed, threads: as in `train.Options`; a batch size that is given is kept.
    steps: length of a short run; as long as the budget allows if not given. workers: how many processes make short
    runs side by side, each with its share of the threads, or with `threads` if given; range tests and speeds take all
    threads together. report: called with a line of text for each thing that is decided. With `steps` and `batch_size`
    the same seed gives the same findings, with any number of workers and threads. Raises ShapeError as `train` does,
    for a budget of 0, for short runs of too few steps and for less than one worker, NumericsError where all rates make
    the loss NaN or infinite, FovealError where workers cannot be started or one ends before its time.
    """
    if not budget > 0 or (steps is not None and steps < MIN_STEPS):
        raise ShapeError(
            f"tune: a budget of {budget:g} s and short runs of {steps} steps; a budget is more than 0, and runs have at"
            f" least {MIN_STEPS} steps"
        )
    if not 1 <= workers <= MAX_WORKERS:
        raise ShapeError(f"tune: {workers} workers; choose from 1 to {MAX_WORKERS}")
    # More would have nothing to do.
    useful = min(workers, max(INDEPENDENT))
    if useful < workers:
        report(f"{useful} of {workers} workers are used: no more short runs are independent of each other")
    together = None if threads is None else threads * useful
    options = Options(
        model=model, optimizer=optimizer, batch_size=batch_size, epochs=epochs, seed=seed, threads=together
    )
    settings = choose(data, options)
    # Native threads are a setting of the process, restored at the end.
    with thread_count(settings.threads):
        return Search(data, settings, batch_size is not None, steps, budget, useful, report).run()


class Search:
    """The four stages of the search, which share the images, the network and the results of short runs.

    fixed_batch: True if the batch size of the settings is kept. steps: of a short run; None to derive it from what is
    left of the budget, in seconds. workers: how many processes make short runs, with as many threads in all as the
    settings say.
    """

    def __init__(
        self,
        data: Dataset,
        settings: Settings,
        fixed_batch: bool,
        steps: int | None,
        budget: float,
        workers: int,
        report: Callable[[str], None],
    ) -> None:
        self.started, self.budget, self.workers, self.report = time.perf_counter(), budget, workers, report
        self.data, self.fixed_batch, self.fixed_steps = data, fixed_batch, steps
        # A random order of the training images; the first of them are held out, and `rows` are trained on.
        order = np.argsort(
            Philox(key=[settings.seed, HOLD_OUT_STREAM]).random_raw(len(data.images_train)), kind="stable"
        )
        held_out = min(max(1, len(order) // 5), MAX_HELD_OUT)
        self.held_out, self.rows = np.sort(order[:held_out]), np.sort(order[held_out:])
        batch = min(settings.batch_size, len(self.rows))
        self.settings = replace(settings, batch_size=batch)
        assert settings.model is not None
        self.findings = Findings(data.name, settings.model, settings.optimizer, settings.seed, settings.epochs)
        # The results of all short runs, so that none is repeated.
        self.trials: dict[Candidate, Trial] = {}

    def left(self) -> float:
        """Return the seconds that are left of the budget; below 0 when it is used up."""
        return self.budget - (time.perf_counter() - self.started)

    def run(self) -> Findings:
        """Go through the stages in order and return the findings."""
        self.report(f"{self.data}; {len(self.held_out):,} of the training images are held out to compare by")
        self.prepare(self.settings.batch_size)
        self.test_rates()
        # Another batch size has another best rate, so the range test is repeated.
        if not self.fixed_batch and self.choose_batch():
            self.test_rates()
        with self.makers() as self.made_by:
            self.choose_steps()
            self.choose_rate()
            self.choose_momentum()
            self.choose_decay()
        self.findings.seconds = time.perf_counter() - self.started
        return self.findings

    def prepare(self, batch_size: int) -> None:
        """Make the network, its optimiser and its training step for batches of that size."""
        self.settings = replace(self.settings, batch_size=batch_size)
        self.findings.batch_size = batch_size
        self.runs = ShortRuns(Task(self.data, self.settings, self.held_out, self.rows))

    def makers(self) -> AbstractContextManager[Here | Crew]:
        """Return what makes the short runs: this process, or as many as memory suffices for."""
        wanted = self.workers
        if wanted > 1:
            each = self.runs.memory() + BYTES_PER_PROCESS
            fitting = max(1, int(min(wanted, MEMORY_SHARE * available_memory() // each)))
            if fitting < wanted:
                self.report(f"{fitting} of {wanted} workers are used: each takes {each / 2**20:,.0f} MiB of memory")
                wanted = fitting
        if wanted == 1:
            return nullcontext(Here(self.runs))
        threads = max(1, self.settings.threads // wanted)
        self.report(f"{wanted} workers make the short runs, with {threads} thread{'s' * (threads > 1)} each")
        task = replace(self.runs.task, settings=replace(self.settings, threads=threads))
        return Crew(task, wanted, self.runs.prepare)

    def test_rates(self) -> None:
        """Make the range test."""
        test = self.findings.range_test = self.runs.test_rates()
        self.report(
            f"learning rate: with batches of {self.settings.batch_size} the loss falls longest about"
            f" {test.valley:.2g}, fastest at {test.steepest:.2g}, and is lowest at {test.lowest:.2g}"
            f" ({len(test.rates)} steps from {LOW:g} to {test.rates[-1]:.2g})"
        )

    def choose_batch(self) -> bool:
        """Measure the speed of batch sizes and choose one; return True if it is not the one before."""
        before, speeds = self.settings.batch_size, self.findings.speeds
        # At most 30 % of the time that is left goes into measuring.
        until = time.perf_counter() + 0.3 * self.left()
        images = self.settings.epochs * len(self.rows)
        max_size = min(len(self.rows), max(BATCHES[0], images // MIN_UPDATES))
        # From the smallest batch up, until one takes too much memory or the time is over; one at least is measured.
        for size in (size for size in BATCHES if size <= max_size):
            speed = self.speed(size) if not speeds or time.perf_counter() < until else None
            if speed is None:
                break
            speeds[size] = speed
        enough = FAST_ENOUGH * max(speeds.values(), default=0.0)
        size = max((size for size, speed in speeds.items() if speed >= enough), default=before)
        measured = ", ".join(f"{size}: {speed:,.0f}" for size, speed in speeds.items())
        self.report(
            f"batch size: {size}, the largest with at least {FAST_ENOUGH:.0%} of the best speed (images/s measured:"
            f" {measured}; larger ones leave less than {MIN_UPDATES} updates in {self.settings.epochs} epochs, or take"
            " too much memory or time)"
        )
        self.prepare(size)
        return size != before

    def speed(self, size: int) -> float | None:
        """Return images per second with batches of that size; None if a step would take half of the free memory."""
        if size != self.settings.batch_size:
            self.prepare(size)
        if self.runs.memory() > 0.5 * free_memory():
            return None
        return self.runs.speed()

    def choose_steps(self) -> None:
        """Choose the length of short runs: as many steps as the budget allows, by the measured time of some."""
        if self.fixed_steps is not None:
            self.findings.steps = self.fixed_steps
            return
        each, validation = self.made_by.measure()
        # Workers make the runs of a stage in so many rounds.
        rounds = sum(-(-runs // self.made_by.count) for runs in INDEPENDENT)
        steps = (self.left() / rounds - validation) / each
        # No longer than the whole training, and rounded to two digits.
        epoch = len(self.runs.loader)
        rounded = int(round_off(max(MIN_STEPS, min(steps, self.settings.epochs * epoch))))
        self.findings.steps = rounded
        self.report(f"short runs have {rounded} steps, {rounded / epoch:.1f} epochs")

    def compare(self, candidates: Iterable[Candidate], trials: list[Trial]) -> Trial:
        """Add short runs of the candidates to `trials`, as long as the budget lasts; return the best of `trials`.

        A run that was made before costs nothing, and is not repeated.
        """
        wanted = list(dict.fromkeys(candidates))
        fresh = [candidate for candidate in wanted if candidate not in self.trials]
        # At least one run is needed to choose from.
        needed = not trials and len(fresh) == len(wanted)

        def goes_on(number: int) -> bool:
            return self.fixed_steps is not None or self.left() > 0 or (needed and number == 0)

        for trial in self.made_by.trials(fresh, self.findings.steps, goes_on):
            self.trials[trial.candidate] = trial
        known = [self.trials[candidate] for candidate in wanted if candidate in self.trials]
        trials += [trial for trial in known if trial not in trials]
        if len(known) < len(wanted):
            self.report(f"the budget is used up; {len(trials)} short runs are compared")
        return min(trials, key=Trial.order)

    def choose_rate(self) -> None:
        """Compare the rates that the range test suggests."""
        test, decay = self.findings.range_test, self.settings.weight_decay
        assert test is not None
        # Rates a third and a tenth below the lowest loss are common choices; neighbours closer than 1.4 are dropped.
        suggested = sorted({test.valley, test.steepest, test.lowest / 10, test.lowest / 3})
        rates: list[float] = []
        for rate in map(round_off, suggested):
            if not rates or rate > 1.4 * rates[-1]:
                rates.append(rate)
        best = self.compare(((rate, self.runs.momentum, None, decay) for rate in rates), self.findings.rates)
        if best.loss is None:
            tried = ", ".join(f"{trial.lr:g}" for trial in self.findings.rates)
            raise NumericsError(
                f"tune: the loss stopped being a number in all short runs, at rates of {tried}; look at the data, or"
                " choose another optimizer, model or number of steps"
            )
        self.findings.lr = best.lr
        self.report(f"learning rate: {best.lr:g} of {listed(self.findings.rates, lambda t: f'{t.lr:g}')}")

    def choose_momentum(self) -> None:
        """Compare constant values of the momentum, then cycles down from the best of them and from 0.95."""
        lr, decay, trials = self.findings.lr, self.settings.weight_decay, self.findings.momenta
        own = self.runs.momentum
        if own is None:
            self.report(f"momentum: {self.findings.optimizer} has none")
            return
        # The optimiser's own value comes first, which was already tried with this rate.
        values = dict.fromkeys((own, *reversed(MOMENTA)))
        best = self.compare(((lr, m, None, decay) for m in values), trials)
        assert best.momentum is not None
        low = round(best.momentum - SWING, 4)
        cycled = ((lr, m, round(m - SWING, 4), decay) for m in (best.momentum, 0.95) if low > 0)
        best = self.compare(cycled, trials)
        self.findings.momentum, self.findings.momentum_low = best.momentum, best.momentum_low
        self.report(f"momentum: {span(best)} of {listed(trials, span)}")

    def choose_decay(self) -> None:
        """Compare the weight decays of the grid, then a third and three times the best."""
        f = self.findings
        momentum = f.momentum if f.momentum is not None else self.runs.momentum

        def candidate(decay: float) -> Candidate:
            return f.lr, momentum, f.momentum_low, decay

        # The weight decay of the settings was used so far, so its run is known.
        f.decays = [self.trials[candidate(self.settings.weight_decay)]]
        best = self.compare(map(candidate, DECAYS), f.decays)
        if best.weight_decay:
            neighbours = (round_off(best.weight_decay * factor) for factor in (3.0, 1 / 3))
            best = self.compare(map(candidate, neighbours), f.decays)
        f.weight_decay = best.weight_decay
        self.report(f"weight decay: {best.weight_decay:g} of {listed(f.decays, lambda t: f'{t.weight_decay:g}')}")


def round_off(value: float) -> float:
    """Return the value rounded to two significant digits."""
    return float(f"{value:.1e}")


def span(trial: Trial) -> str:
    """Return the momentum of a trial as text: a value, or the two ends of a cycle."""
    if trial.momentum_low is None:
        return f"{trial.momentum:g}"
    return f"{trial.momentum:g} down to {trial.momentum_low:g}"


def listed(trials: list[Trial], label: Callable[[Trial], str]) -> str:
    """Return the trials with their losses as text; label: what to show of each."""
    ordered = sorted(trials, key=lambda t: (t.momentum or 0, t.momentum_low or 0, t.lr, t.weight_decay))
    pairs = (f"{label(t)}: {'diverged' if t.loss is None else format(t.loss, '.4f')}" for t in ordered)
    return f"({', '.join(pairs)})"


def save(findings: Findings, folder: str | Path, command: str) -> list[Path]:
    """Write `tune.json`, and `tune.png` if matplotlib is installed; return the paths of what was written.

    command: as `Findings.command` returns it. Raises DataError if the folder cannot be written.
    """
    folder = Path(folder)
    written = [folder / "tune.json"]
    text = json.dumps({"command": command, **asdict(findings)}, indent=2, allow_nan=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # What processes left behind that were killed right here.
        for left in folder.glob(".tune.*.tmp"):
            left.unlink(missing_ok=True)
        write_whole(written[0], (text + "\n").encode())
        if importlib.util.find_spec("matplotlib") is not None:
            # Imported here, since that module needs matplotlib.
            from foveal.train.tune_plot import plot

            written.append(folder / "tune.png")
            try:
                plot(findings, temporary(written[1]))
                temporary(written[1]).replace(written[1])
            finally:
                temporary(written[1]).unlink(missing_ok=True)
    return written
