"""What is counted during training: loss and accuracy of an epoch, time and speed of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from foveal.data.dataset import Labels
from foveal.strides import Ndarray


class EpochLog(TypedDict):
    """A line of log.jsonl. train, test: {"accuracy", "loss"}. seconds: since the start of the run."""

    epoch: int
    lr: float
    train: dict[str, float]
    test: dict[str, float]
    seconds: float
    images_per_second: float


@dataclass
class Tally:
    """Loss, accuracy and seconds, added up over the training steps of one epoch."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0

    def add(self, loss: float, logits: Ndarray, labels: Labels, seconds: float) -> None:
        """Add a step: its mean loss, logits [N, K], labels [N] and duration."""
        self.loss += loss * len(labels)
        self.correct += int(np.count_nonzero(logits.argmax(1) == labels))
        self.images += len(labels)
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """Return {"accuracy", "loss"}, the means over the images so far."""
        return {"accuracy": self.correct / self.images, "loss": self.loss / self.images}

    def speed(self) -> float:
        """Return images per second of this epoch's steps."""
        return self.images / self.seconds


@dataclass
class Clock:
    """Seconds since the start of a run, and the speed of its training steps without the first, which compiles."""

    started: float = field(default_factory=time.perf_counter)
    images: int = 0
    seconds: float = 0.0
    steps: int = 0

    def step(self, images: int, seconds: float) -> None:
        """Count a step of that many images."""
        # At the second step the counts hold the first one only; from here on they start over without it.
        if self.steps == 1:
            self.images, self.seconds = 0, 0.0
        self.images += images
        self.seconds += seconds
        self.steps += 1

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.started

    def speed(self) -> float:
        """Return images per second of the training steps."""
        return self.images / self.seconds
