"""What is counted during training: loss and accuracy of an epoch, time and speed of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import numpy as np

from foveal.data.sources import Nest, leaves
from foveal.train.measure import Measures, classified, number


class EpochLog(TypedDict):
    """A line of log.jsonl. train, validation, test: {"accuracy", "loss"} and other measures, where there are such data.

    seconds: since the start of the run.
    """

    epoch: int
    lr: float
    train: dict[str, float]
    validation: NotRequired[dict[str, float]]
    test: NotRequired[dict[str, float]]
    seconds: float
    images_per_second: float


@dataclass
class Tally:
    """Loss, accuracy, other measures and seconds, added up over the training steps of one epoch."""

    #: Functions (outputs, targets) -> number of a batch, by name.
    measures: Measures = field(default_factory=dict)
    loss: float = 0.0
    #: Places where the class is right, of so many; None if one batch has no classes.
    correct: int | None = 0
    places: int = 0
    images: int = 0
    seconds: float = 0.0
    #: Sums of the other measures, by the sizes of the batches.
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, outputs: Nest, targets: Nest, seconds: float) -> int:
        """Add a step: its mean loss, logits [N, K], labels [N] and duration; return N."""
        size = len(leaves(targets)[0])
        self.loss += loss * size
        if self.correct is not None:
            if classified(outputs, targets):
                self.correct += int(np.count_nonzero(outputs.argmax(1) == targets))
                self.places += targets.size
            else:
                self.correct = None
        for name, function in self.measures.items():
            self.sums[name] = self.sums.get(name, 0.0) + size * number(name, function(outputs, targets))
        self.images += size
        self.seconds += seconds
        return size

    # The same in two stages, for a batch in parts: numbers that are added up over the parts, and the whole of them.

    @property
    def numbers_of_batch(self) -> int:
        """How many numbers `counted` returns."""
        return 3 + len(self.measures)

    def counted(self, outputs: Nest, targets: Nest) -> list[float]:
        """Return numbers of a part of a batch that can be added up: what `add` adds but loss, images and seconds."""
        size, known = len(leaves(targets)[0]), classified(outputs, targets)
        correct = int(np.count_nonzero(outputs.argmax(1) == targets)) if known else 0
        sums = [size * number(name, function(outputs, targets)) for name, function in self.measures.items()]
        return [float(not known), float(correct), float(targets.size if known else 0), *sums]

    def add_counts(self, loss: float, images: int, counts: Sequence[float], seconds: float) -> int:
        """Add a step: its mean loss, its images, the sum of what was `counted`, and its duration; return the images."""
        self.loss += loss * images
        if self.correct is not None:
            self.correct = None if counts[0] else self.correct + int(counts[1])
            self.places += int(counts[2])
        for name, total in zip(self.measures, counts[3:], strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.images += images
        self.seconds += seconds
        return images

    def means(self) -> dict[str, float]:
        """Return {"accuracy", "loss"} and the other measures, the means over the images so far."""
        accuracy = {} if self.correct is None else {"accuracy": self.correct / self.places}
        others = {name: total / self.images for name, total in self.sums.items()}
        return {**accuracy, "loss": self.loss / self.images, **others}

    def speed(self) -> float:
        """Return images per second of this epoch's steps."""
        return self.images / self.seconds

    def numbers(self) -> dict[str, Any]:
        """Return what was added up, as JSON can store it; `Tally(measures, **numbers)` goes on from it."""
        return {name: value for name, value in vars(self).items() if name != "measures"}


@dataclass
class Clock:
    """Seconds since the start of a run, and the speed of its training steps without the first, which compiles."""

    started: float = field(default_factory=time.perf_counter)
    images: int = 0
    seconds: float = 0.0
    steps: int = 0
    #: Seconds that steps had to wait for their batches.
    waited: float = 0.0

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches, and count the seconds until each of them is there."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def waiting(self) -> float:
        """Return the share of the time of training that was spent waiting for batches."""
        total = self.waited + self.seconds
        return self.waited / total if total else 0.0

    def step(self, images: int, seconds: float) -> None:
        """Count a step of that many images."""
        # At the second step the counts hold the first one only; from here on they start over without it.
        if self.steps == 1:
            self.images, self.seconds, self.waited = 0, 0.0, 0.0
        self.images += images
        self.seconds += seconds
        self.steps += 1

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.started

    def speed(self) -> float:
        """Return images per second of the training steps; 0 before the first."""
        return self.images / self.seconds if self.seconds else 0.0
