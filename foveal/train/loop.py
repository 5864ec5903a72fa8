"""The training loop: predict, loss, backward, step; then measure, write, report.

The first three and the update are one native program (`foveal.compile_step`); what is left here is
the order of things, and that nothing written is ever lost.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import foveal
from foveal import nn, optim
from foveal.arena import Footprint
from foveal.data.augment import augmentation
from foveal.data.loader import Loader
from foveal.data.readers import Dataset
from foveal.errors import NumericsError
from foveal.passes.recompute import FAST
from foveal.train.checkpoint import Run, RunFolder
from foveal.train.metrics import evaluate
from foveal.train.progress import Report
from foveal.train.settings import LOSS, Settings, build_net, choose, make_optimizer, make_schedules, thread_count


def train(
    data: Dataset,
    *,
    model: str | nn.Module | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    schedule: str | None = None,
    momentum: float | None = None,
    momentum_low: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    memory: str = FAST,
    out: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network on `data` and return its metrics, the content of `metrics.json`.

    `model` is a name of `nn.models.NAMES` or a Module of your own; what is None comes from the
    recipe for this image size (`nn.models.default`). `schedule` is a name of `optim.schedule.NAMES`;
    unless given, the rate rises and falls once over the run (one cycle, with `lr` at its peak).
    `momentum` is Adam's first beta where that is the optimizer; with `momentum_low` it is cycled
    against the rate and has that value at the peak. `clip_norm` is the largest norm of all gradients
    together. With `ema`, a decay such as 0.999, the moving average of the parameters is what is
    tested and kept. `threads` holds for this run only. `memory` is "fast", or "low" to
    compute cheap values again instead of keeping them. With `out`, the folder
    gets `model.safetensors`, `log.jsonl` and `metrics.json` after every epoch; files of an older
    run in it move to `out/earlier-1`. `metrics["seconds"]` is all of it, with compiling and
    testing; `images_per_second` counts training steps only, without the first, which compiles.

    Raises FovealError before the first step if something does not fit, NumericsError when the loss
    stops being a number, and KeyboardInterrupt (whose text says what was kept) on Ctrl-C.
    """
    settings = choose(
        data,
        model,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        momentum=momentum,
        momentum_low=momentum_low,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        ema=ema,
        seed=seed,
        threads=threads,
        memory=memory,
    )
    folder = RunFolder(out) if out is not None else None
    with thread_count(settings.threads):
        return Training(data, model, settings, folder, Report(quiet)).run()


@dataclass
class Tally:
    """Loss, accuracy and speed over the steps of one epoch."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0
    steps: int = 0
    seconds: float = 0.0

    def add(self, loss: float, logits: Any, labels: Any, seconds: float) -> None:
        self.loss += loss * len(labels)
        self.correct += int(np.count_nonzero(logits.argmax(1) == labels))
        self.images += len(labels)
        self.steps += 1
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        return {"accuracy": self.correct / self.images, "loss": self.loss / self.images}


@dataclass
class Clock:
    """Seconds since the start, and the speed of the training steps after the first one."""

    started: float = field(default_factory=time.perf_counter)
    images: int = 0
    seconds: float = 0.0
    steps: int = 0

    def step(self, images: int, seconds: float) -> None:
        if self.steps == 1:  # so far it holds the first step only, which compiled the program
            self.images, self.seconds = 0, 0.0
        self.images += images
        self.seconds += seconds
        self.steps += 1

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def speed(self) -> float:
        return self.images / self.seconds


class Training:
    """One run: the network, its program, and where the results go."""

    def __init__(
        self, data: Dataset, model: str | nn.Module | None, settings: Settings, folder: RunFolder | None, report: Report
    ) -> None:
        self.clock = Clock()
        self.data, self.settings, self.folder, self.report = data, settings, folder, report
        self.epoch = self.step = 0  # the epoch and the step in it that are under way, from 1
        self.saved = 0  # the last epoch whose files are written
        s = settings
        self.loader = Loader(
            data.x_train,
            data.y_train,
            s.batch_size,
            mean=data.mean,
            std=data.std,
            seed=s.seed,
            shuffle=True,
            drop_last=True,
            augment=augmentation(s.augment, data.size),
        )
        self.net = model if isinstance(model, nn.Module) else build_net(s, data)
        self.parameters = sum(parameter.size for parameter in self.net.parameters())
        self.optimizer = make_optimizer(self.net, s)
        steps = len(self.loader)
        self.schedules = make_schedules(self.optimizer, s, s.epochs * steps, steps)
        self.optimizer.schedule(**self.schedules)
        self.train_step = foveal.compile_step(
            self.net, LOSS, self.optimizer, threads=s.threads, seed=s.seed, memory=s.memory
        )

    @cached_property
    def footprint(self) -> Footprint:
        """Bytes that a training step holds, before the first one."""
        x = np.zeros((self.settings.batch_size, *self.data.x_train.shape[1:]), np.float32)
        labels = np.zeros(self.settings.batch_size, np.int32)
        return self.train_step.program(x, labels).footprint()

    def run(self) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        self.report.begin(self)
        try:
            with self.report:
                for epoch in range(self.settings.epochs):
                    metrics = self._one_epoch(epoch)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted in epoch {self.epoch}. {self._kept()}") from None
        except NumericsError as error:
            raise NumericsError(
                f"epoch {self.epoch}, step {self.step}: {error}. {self._kept()} "
                f"Try a lower --lr than {self.settings.lr:g}."
            ) from None
        self.report.end(metrics, self.folder)
        return metrics

    def _one_epoch(self, epoch: int) -> dict[str, Any]:
        tally = Tally()
        self.epoch, self.step = epoch + 1, 0
        self.net.train()
        for x, labels in self.loader.epoch(epoch):
            started = time.perf_counter()
            self.step += 1
            result = self.train_step(x, labels)
            seconds = time.perf_counter() - started
            tally.add(result.loss, result.output, labels, seconds)
            self.clock.step(len(labels), seconds)
            self.report.step(self, tally)
        plateau = self.schedules["lr"]
        lr = self.optimizer.lr
        if isinstance(plateau, optim.schedule.Plateau):
            plateau.update(tally.means()["loss"])
        with self._averaged():
            return self._finish_epoch(tally, lr)

    def _averaged(self) -> AbstractContextManager[None]:
        """Where there is an average of the parameters, the network has it inside of the block."""
        average = self.optimizer
        return average.averaged() if isinstance(average, optim.EMA) else nullcontext()

    def _finish_epoch(self, tally: Tally, lr: float) -> dict[str, Any]:
        data = self.data
        test = evaluate(self.net, data.x_test, data.y_test, mean=data.mean, std=data.std)
        line = {
            "epoch": self.epoch,
            "lr": lr,
            "train": tally.means(),
            "test": test,
            "seconds": self.clock.elapsed(),
            "images_per_second": tally.images / tally.seconds,
        }
        metrics = self._metrics(tally.means(), test)
        if self.folder is not None:
            run = Run.of(self.settings.model, data)
            self.folder.save(self.net.state_dict(), run, line, metrics)
            self.saved = self.epoch
        self.report.epoch(line)
        return metrics

    def _metrics(self, train: dict[str, float], test: dict[str, float]) -> dict[str, Any]:
        return {
            "data": self.data.name,
            **asdict(self.settings),
            "epochs_done": self.epoch,
            "train_images": len(self.data.x_train),
            "test_images": len(self.data.x_test),
            "parameters": self.parameters,
            "memory_bytes": asdict(self.footprint),
            "train": train,
            "test": test,
            "seconds": self.clock.elapsed(),
            "images_per_second": self.clock.speed(),
            "foveal": foveal.__version__,
        }

    def _kept(self) -> str:
        """What there is of this run, for messages."""
        if self.folder is None or self.saved == 0:
            return "No model of this run was written yet."
        kept = f"The model of epoch {self.saved} is kept at {self.folder.model}."
        earlier = self.folder.earlier
        return kept if earlier is None else f"{kept} The run that was there before: {earlier}."
