"""What is written while a run goes on, beside its log: rate, momentum and loss step by step; TensorBoard's files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from foveal.errors import PackageError
from foveal.files import write_whole
from foveal.report.record import DOCTOR, STEPS
from foveal.strides import Ndarray
from foveal.train.callbacks import Callback, Values
from foveal.train.files import writing

# Steps that are kept; of more, every second one, then every fourth, and so on.
MAX_STEPS = 2048
# Seconds between two writings of the file within an epoch, for whoever watches.
PAUSE = 2.0


class Recorder(Callback):
    """Writes the rate, the momentum and the loss by step into RUN/steps.json, for the report.

        train.train(data, net, out="runs/mine", callbacks=[report.Recorder("runs/mine")])

    Of a long run some thousand steps are kept, at equal distances, and the loss is the mean since the one before. It
    goes on where a training is resumed. folder: that of the run. findings: what the check of the data found, as
    JSON has it, for RUN/doctor.json; that of a run that is resumed stays.
    """

    ends_at_steps = False

    def __init__(self, folder: str | Path, findings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.findings = Path(folder), findings
        self.clear()

    def clear(self) -> None:
        """Know of no step."""
        #: steps so far, and how many of them make one row
        self.step, self.every = 0, 1
        #: the loss added up since the last row, over so many steps
        self.sum, self.summed = 0.0, 0
        #: rows: step, rate, momentum (NaN if there is none), loss
        self.rows: list[tuple[float, float, float, float]] = []
        #: of the log, by which the steps are known to belong to it
        self.seconds: list[float] = []
        self.written = 0.0

    def on_train_begin(self) -> object:
        if not self.run.resumed:
            self.clear()
        self.write(running=True)
        if self.findings is not None:
            with writing(self.folder):
                write_whole(self.home / DOCTOR, (json.dumps(self.findings, indent=2) + "\n").encode())
        return None

    @property
    def home(self) -> Path:
        """Where files of the run are now: not beside those of an older run, before its first epoch is done."""
        own = self.run.folder
        return own.home if own is not None and own.path.resolve() == self.folder.resolve() else self.folder

    def on_step_end(self, values: Values) -> object:
        self.step += 1
        self.sum, self.summed = self.sum + values["loss"], self.summed + 1
        if self.step % self.every == 0:
            momentum = self.run.optimizer.momentum
            row = self.step, values["lr"], np.nan if momentum is None else float(momentum), self.sum / self.summed
            self.rows.append(row)
            self.sum, self.summed = 0.0, 0
            if len(self.rows) >= MAX_STEPS:
                self.halve()
            if time.monotonic() - self.written > PAUSE:
                self.write(running=True)
        return None

    def halve(self) -> None:
        """Keep every second row; its loss is the mean of two."""
        pairs = zip(self.rows[::2], self.rows[1::2], strict=False)
        self.rows = [(*second[:3], (first[3] + second[3]) / 2) for first, second in pairs]
        self.every *= 2

    def on_epoch_end(self, values: Values) -> object:
        self.seconds.append(values["seconds"])
        self.write(running=True)
        return None

    def on_train_end(self) -> object:
        self.write(running=False)
        return None

    def write(self, running: bool) -> None:
        """Write the file; whoever reads it meanwhile sees the old one or the new one."""
        columns = [[None if np.isnan(v) else v for v in column] for column in zip(*self.rows, strict=True)] or [[]] * 4
        found: dict[str, Any] = dict(zip(("step", "lr", "momentum", "loss"), columns, strict=True))
        found |= {"seconds": self.seconds} | ({"running": True} if running else {})
        with writing(self.folder):
            # It is for whoever watches as long as the run goes on, and is written at its end.
            write_whole(self.home / STEPS, json.dumps(found).encode(), synchronised=not running)
        self.written = time.monotonic()

    def state_dict(self) -> Mapping[str, Any]:
        numbers = [self.step, self.every, self.sum, self.summed]
        return {"rows": np.array(self.rows).reshape(-1, 4), "seconds": np.array(self.seconds), "numbers": numbers}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        step, every, self.sum, summed = state["numbers"].tolist()
        self.step, self.every, self.summed = int(step), int(every), int(summed)
        self.rows = [(row[0], row[1], row[2], row[3]) for row in state["rows"].tolist()]
        self.seconds = state["seconds"].tolist()


class TensorBoard(Callback):
    """Writes TensorBoard's event files: the loss and the rate by step, and all values of an epoch by epoch.

        train.train(data, net, callbacks=[report.TensorBoard("runs/mine/tensorboard")])

    Look at them with `tensorboard --logdir runs`. folder: for the files; a new training moves event files that are
    there to earlier-1 (earlier-2, ...) in it, one that is resumed goes on with them. Raises PackageError, before a
    training begins, where tensorboardX is not installed.
    """

    ends_at_steps = False

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise PackageError(
                f"TensorBoard's files are written by tensorboardX, which cannot be imported here ({error}): pip install"
                " 'foveal[tensorboard]', or pip install tensorboardX"
            ) from None
        self.folder, self.make, self.writer = Path(folder), SummaryWriter, None
        #: steps so far
        self.step = 0

    def on_train_begin(self) -> object:
        if not self.run.resumed:
            self.step = 0
        with writing(self.folder):
            older = [] if self.run.resumed else sorted(self.folder.glob("events.out.tfevents.*"))
            if older:
                place = next(p for i in count(1) if not (p := self.folder / f"earlier-{i}").exists())
                place.mkdir()
            for path in older:
                path.rename(place / path.name)
            # What a run that is resumed wrote after its checkpoint is written again, and hidden by the reader.
            self.writer = self.make(str(self.folder), purge_step=self.step or None)
        return None

    def on_step_end(self, values: Values) -> object:
        self.step += 1
        assert self.writer is not None
        self.writer.add_scalar("step/loss", values["loss"], self.step)
        self.writer.add_scalar("step/lr", values["lr"], self.step)
        return None

    def on_epoch_end(self, values: Values) -> object:
        assert self.writer is not None
        for name, value in values.items():
            if name != "epoch":
                part, _, measure = name.partition(" ")
                # "loss/train" and "loss/test" are drawn into one figure each.
                tag = (
                    f"{measure}/{part}" if part in ("train", "validation", "test") else f"run/{name.replace(' ', '_')}"
                )
                self.writer.add_scalar(tag, value, values["epoch"])
        self.writer.flush()
        return None

    def on_train_end(self) -> object:
        if self.writer is not None:
            self.writer.close()
        return None

    def state_dict(self) -> Mapping[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        self.step = int(state["step"])
