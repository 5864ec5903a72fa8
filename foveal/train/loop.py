"""The training loop: predict, loss, backward, step; then test, write the files, show the results.

The first four are one native program (`foveal.compile_step`). This module orders epochs, tests and files, and sees to
it that a run that is cut short leaves its last whole epoch on disk.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

import foveal
from foveal import nn
from foveal.arena import Footprint
from foveal.data.augment import augmentation
from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.errors import DataError, NumericsError
from foveal.train.checkpoint import ModelDescription
from foveal.train.evaluate import evaluate
from foveal.train.progress import ProgressDisplay
from foveal.train.run_folder import RunFolder
from foveal.train.settings import (
    LOSS,
    RunOptions,
    Settings,
    build_net,
    choose,
    make_optimizer,
    make_schedules,
    takes_options,
    thread_count,
)
from foveal.train.tally import Clock, EpochLog, Tally


@takes_options(RunOptions)
def train(data: Dataset, options: RunOptions) -> dict[str, Any]:
    """Train a network on `data` and return its metrics, the content of `metrics.json`.

        train(data, epochs=3, seed=1, out="runs/mine")

    The options are the fields of `foveal.train.RunOptions`, which says what each does; what is not given comes from the
    recipe for this image size (`train.recipes`). Unless a schedule is given, the rate rises and falls once over the run
    (one cycle, with `lr` at its peak).

    With `out`, the folder gets `model.safetensors`, `log.jsonl` and `metrics.json` after every epoch; files of an older
    run in it move to `out/earlier-1`. A second training into the same folder is refused meanwhile. `metrics["seconds"]`
    is the duration of the whole run, with compiling and testing; `images_per_second` counts training steps only,
    without the first, which compiles.

    Raises FovealError before the first step if something does not fit, TypeError for an option that there is not,
    NumericsError when the loss is NaN or infinite, and KeyboardInterrupt (whose text says what was kept) on Ctrl-C.
    """
    settings = choose(data, options)
    net = options.model if isinstance(options.model, nn.Module) else None
    folder = RunFolder(options.out) if options.out is not None else None
    try:
        with thread_count(settings.threads):
            return Training(data, settings, net, folder, ProgressDisplay(options.quiet)).run()
    finally:
        if folder is not None:
            folder.close()


class Training:
    """One run: the network, its program, and where the results go."""

    def __init__(
        self,
        data: Dataset,
        settings: Settings,
        net: nn.Module | None,
        folder: RunFolder | None,
        display: ProgressDisplay,
    ) -> None:
        """net: None to build the network that the settings name."""
        self.clock = Clock()
        self.data, self.settings, self.folder, self.display = data, settings, folder, display
        # What is written beside the weights; made here, since it refuses what could not be read again.
        self.description = ModelDescription.of(settings.model, data, net if folder else None)
        # The epoch, and the step in it, that are under way; 0 before the first.
        self.epoch = self.step = 0
        # The last epoch whose files are written.
        self.saved = 0
        s = settings
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
        )
        self.net = build_net(s, data) if net is None else net
        self.parameters = sum(parameter.size for parameter in self.net.parameters())
        self.optimizer = make_optimizer(self.net, s)
        # Schedules count steps, of which an epoch has as many as there are batches.
        steps = len(self.loader)
        self.schedules = make_schedules(self.optimizer, s, s.epochs * steps, steps)
        self.optimizer.schedule(**self.schedules)
        self.train_step = foveal.compile_step(
            self.net, LOSS, self.optimizer, threads=s.threads, seed=s.seed, memory=s.memory
        )

    @cached_property
    def footprint(self) -> Footprint:
        """The memory that a training step takes. Asking for it compiles the step."""
        x = np.zeros((self.settings.batch_size, *self.data.images_train.shape[1:]), np.float32)
        labels = np.zeros(self.settings.batch_size, np.int32)
        return self.train_step.program(x, labels).footprint()

    def run(self) -> dict[str, Any]:
        """Train all epochs and return the metrics; an interruption or a failed step reports what is on disk."""
        metrics: dict[str, Any] = {}
        name = self.settings.model or type(self.net).__name__
        network = f"{name}: {self.parameters:,} parameters"
        self.display.begin(self.data, self.settings, network, len(self.loader), lambda: self.footprint)
        try:
            with self.display:
                for epoch in range(self.settings.epochs):
                    metrics = self._one_epoch(epoch)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted in epoch {self.epoch}. {self._kept()}") from None
        except NumericsError as error:
            raise NumericsError(
                f"epoch {self.epoch}, step {self.step}: {error}. {self._kept()} "
                f"Try a lower learning rate than {self.settings.lr:g}."
            ) from None
        except DataError as error:
            raise DataError(f"epoch {self.epoch}: {error}. {self._kept()}") from None
        self.display.end(metrics, self.folder)
        return metrics

    def _one_epoch(self, epoch: int) -> dict[str, Any]:
        """Train on all batches once (epoch counts from 0), then test, write and show."""
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
            self.display.step(self.epoch, tally, self.clock.speed())
        # The log shows the rate of the last step, before a schedule reacts to the loss.
        lr = self.optimizer.lr
        for schedule in self.schedules.values():
            schedule.observe(tally.means()["loss"])
        # If the optimiser keeps an average of the parameters, that is what is tested and written.
        with self.optimizer.averaged():
            return self._finish_epoch(tally, lr)

    def _finish_epoch(self, tally: Tally, lr: float) -> dict[str, Any]:
        """Test the network, write the files and show a line; return the metrics."""
        data = self.data
        test = evaluate(self.net, data.images_test, data.y_test, mean=data.mean, std=data.std)
        line: EpochLog = {
            "epoch": self.epoch,
            "lr": lr,
            "train": tally.means(),
            "test": test,
            "seconds": self.clock.elapsed(),
            "images_per_second": tally.speed(),
        }
        metrics = self._metrics(tally.means(), test)
        if self.folder is not None:
            self.folder.save(self.net.state_dict(), self.description, line, metrics)
            self.saved = self.epoch
        self.display.epoch(line)
        return metrics

    def _metrics(self, train: dict[str, float], test: dict[str, float]) -> dict[str, Any]:
        """Return the content of metrics.json."""
        return {
            "data": self.data.name,
            **asdict(self.settings),
            "epochs_done": self.epoch,
            "train_images": len(self.data.images_train),
            "test_images": len(self.data.images_test),
            "parameters": self.parameters,
            "memory_bytes": asdict(self.footprint),
            "train": train,
            "test": test,
            "seconds": self.clock.elapsed(),
            "images_per_second": self.clock.speed(),
            "foveal": foveal.__version__,
        }

    def _kept(self) -> str:
        """Return a sentence for messages: what there is of this run on disk."""
        if self.folder is None or self.saved == 0:
            return "No model of this run was written yet."
        kept = f"The model of epoch {self.saved} is kept at {self.folder.model}."
        earlier = self.folder.earlier
        return kept if earlier is None else f"{kept} The run that was there before: {earlier}."
