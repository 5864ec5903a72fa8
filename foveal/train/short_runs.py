"""Short runs of `foveal tune`: one cycle of the rate from the same starting values, and the loss on images held out.

What a short run gives follows from the seed, the batch size, the number of steps and the candidate alone: not from the
runs before it, and not from the process that it is made in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

import foveal
from foveal import optim
from foveal.data.augment import augmentation
from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.errors import NumericsError
from foveal.strides import Ndarray
from foveal.train.evaluate import evaluate
from foveal.train.findings import Candidate, RangeTest, Trial
from foveal.train.range_test import LOW, range_test, restored
from foveal.train.settings import LOSS, Settings, build_net
from foveal.train.updates import make_optimizer

# The minimum number of steps of a short run.
MIN_STEPS = 30


@dataclass(frozen=True)
class Task:
    """What short runs are made of, wherever they are made."""

    data: Dataset
    settings: Settings
    # The places of the training images that are held out, and of those that are trained on.
    held_out: Ndarray
    rows: Ndarray


class ShortRuns:
    """A network, its optimiser and its training step for batches of one size, which each short run starts from."""

    def __init__(self, task: Task) -> None:
        data, s = task.data, task.settings
        self.task = task
        self.net = build_net(s, data)
        self.optimizer = make_optimizer(self.net, s)
        self.momentum = self.optimizer.momentum
        self.step = foveal.compile_step(self.net, LOSS, self.optimizer, threads=s.threads, seed=s.seed)
        # Rows of the data, and no copy of them: several processes may share the memory that these lie in.
        self.loader = Loader(
            data.images_train,
            data.y_train,
            s.batch_size,
            mean=data.mean,
            std=data.std,
            seed=s.seed,
            shuffle=True,
            drop_last=True,
            augment=augmentation(s.augment, data.size),
            channels="first",
            rows=task.rows,
        )

    def batches(self) -> Iterator[tuple[Ndarray, Ndarray]]:
        """Yield batches (images, labels) of one epoch after the other, without end."""
        for epoch in count():
            yield from self.loader.epoch(epoch)

    def test_rates(self) -> RangeTest:
        """Return the range test of the learning rate."""
        self.net.train()
        return range_test(self.step, self.optimizer, self.batches())

    def memory(self) -> int:
        """Return the bytes that a training step takes."""
        self.net.train()
        memory = self.step.program(*next(iter(self.loader.epoch(0)))).footprint()
        return memory.variables + memory.values + memory.prepared + memory.batch

    def speed(self) -> float:
        """Return images per second of training steps."""
        self.net.train()
        x, labels = next(iter(self.loader.epoch(0)))
        with restored(self.step, self.optimizer):
            self.optimizer.lr = LOW
            # The first step is slower than the others. Then the median of 5 to 200 steps, or of 0.3 s.
            self.step(x, labels)
            seconds: list[float] = []
            while len(seconds) < 5 or (sum(seconds) < 0.3 and len(seconds) < 200):
                started = time.perf_counter()
                self.step(x, labels)
                seconds.append(time.perf_counter() - started)
        return self.task.settings.batch_size / float(np.median(seconds))

    def prepare(self) -> None:
        """Compile what short runs need: a step, and the network as it is validated."""
        self.train_shortly(1)
        self.validate()

    def train_shortly(self, steps: int) -> None:
        """Make so many steps at the lowest rate, as a short run does; then the network is what it was before."""
        self.net.train()
        with restored(self.step, self.optimizer):
            self.optimizer.lr = LOW
            for _, (x, labels) in zip(range(steps), self.batches(), strict=False):
                self.step(x, labels)

    def measure(self) -> tuple[float, float]:
        """Return the seconds that a step takes, with its batch, and that a validation takes; after `prepare`."""
        started = time.perf_counter()
        self.train_shortly(MIN_STEPS)
        trained = time.perf_counter()
        self.validate()
        return (trained - started) / MIN_STEPS, time.perf_counter() - trained

    def validate(self) -> dict[str, float]:
        """Return {"accuracy", "loss"} on the images that are held out."""
        data, held_out = self.task.data, self.task.held_out
        return evaluate(self.net, data.images_train[held_out], data.y_train[held_out], mean=data.mean, std=data.std)

    def trial(self, candidate: Candidate, steps: int) -> Trial:
        """Return the result of a candidate's short run."""
        try:
            test = self.run(*candidate, steps)
        except NumericsError:
            return Trial(*candidate, loss=None, accuracy=0.0)
        return Trial(*candidate, loss=test["loss"], accuracy=test["accuracy"])

    def run(self, lr: float, momentum: float | None, low: float | None, decay: float, steps: int) -> dict[str, float]:
        """Train for one cycle of the rate and validate; then the network is what it was before.

        momentum: None if the optimiser has none. low: the momentum is cycled down to this value; None for constant.
        """
        optimizer = self.optimizer
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


class Here:
    """Short runs in this process, one after the other."""

    def __init__(self, runs: ShortRuns) -> None:
        self.runs, self.count = runs, 1

    def measure(self) -> tuple[float, float]:
        """Return the seconds of a step and of a validation."""
        self.runs.prepare()
        return self.runs.measure()

    def trials(self, candidates: Iterable[Candidate], steps: int, goes_on: Callable[[int], bool]) -> Iterator[Trial]:
        """Yield the results of short runs in the order of the candidates, as long as goes_on(number of the run)."""
        for number, candidate in enumerate(candidates):
            if not goes_on(number):
                return
            yield self.runs.trial(candidate, steps)
