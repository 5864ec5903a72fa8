"""Callbacks: what is called with the values of a training while it goes on.

A callback is a function of an epoch's values, or an object of a class derived from Callback:

    def show(values):
        print(values["epoch"], values["validation loss"])

    train.train(data, net, validation=0.1, callbacks=[show, train.EarlyStopping(patience=3)])

The values of an epoch, by name; `monitor` is one of these names:

    epoch                           its number, from 1
    train loss, train accuracy      means over the batches of the epoch, in training mode
    validation loss, ... accuracy   of the validation data after it, in evaluation mode, where there are such data
    test loss, test accuracy        of the test images, where the data are a Dataset
    PART NAME                       for each NAME of `metrics=`, as "train mae" and "validation mae"
    lr                              the learning rate of its last step
    seconds, images per second      since the start; and of the steps of this epoch

and of a step:

    epoch, step                     their numbers, from 1; the steps of an epoch are its batches
    loss                            of its batch
    lr                              the learning rate
    images                          how many the batch has

Accuracy is there where targets are class numbers and outputs have one column for each class. A callback that returns
False, or raises StopTraining, ends the training: at the end of an epoch at once, at a step with the epoch cut short,
which is then measured and written as any other. Any other error ends it as a CallbackError that names the callback.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from foveal.errors import ArgumentError, CallbackError, FovealError, ShapeError
from foveal.files import write_whole
from foveal.kinds import shown, takes
from foveal.strides import Ndarray
from foveal.train.checkpoint import model_bytes
from foveal.train.files import writing

if TYPE_CHECKING:
    from foveal.data.loader import Loader
    from foveal.nn.module import Module
    from foveal.optim.optimizer import UpdateRule
    from foveal.train.checkpoint import ModelDescription, NetworkDescription
    from foveal.train.run_folder import RunFolder

Values = dict[str, Any]
State = dict[str, Ndarray]


class StopTraining(Exception):
    """Raised by a callback to end the training; its text is kept as `history.stopped`."""


class Running(Protocol):
    """The training that a callback belongs to, as `self.run`."""

    #: The network, the optimiser, what is written beside the weights, whether an earlier training goes on, and what
    #: writes the files of the run; None if it writes none.
    net: Module
    optimizer: UpdateRule
    stored: ModelDescription | NetworkDescription
    resumed: bool
    folder: RunFolder | None

    @property
    def held_out(self) -> Loader | None:
        """The validation part of the data that the run is measured by; None if there is none."""

    @property
    def names(self) -> list[str]:
        """The names of the values that epochs have."""

    def weights(self) -> State:
        """Return copies of the network's state as it is measured: with the averages of an optimiser that keeps some."""

    def restore(self, weights: Mapping[str, Ndarray], epoch: int) -> None:
        """Let the network, and the files of the run, hold these weights of an earlier epoch."""

    def state_dict(self) -> State:
        """Return the state of the whole training, from which `train(resume=...)` goes on."""


class Callback:
    """Base of callbacks with more than one moment, or with a state. All methods may be left out.

    `self.run` is the training: `self.run.net`, `self.run.optimizer`, `self.run.names`, `self.run.weights()`,
    `self.run.state_dict()`. It is set before `on_train_begin`. Values are plain dicts; the module's docstring,
    help(foveal.train.callbacks), has the table of their names.
    """

    run: Running
    #: False for one that never ends the training at a step, so that no rank has to ask.
    ends_at_steps: ClassVar[bool] = True

    def on_train_begin(self) -> object:
        """Called before the first step."""
        return None

    def on_step_end(self, values: Values) -> object:
        """Called after each batch with the values of the step. False ends the training."""
        return None

    def on_epoch_end(self, values: Values) -> object:
        """Called after each epoch, when it is measured and its files are written. False ends the training."""
        return None

    def on_train_end(self) -> object:
        """Called after the last epoch; not after an error or an interruption."""
        return None

    def state_dict(self) -> Mapping[str, Any]:
        """Return what is needed to go on later (`resume`): numbers and arrays by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        """Go on from a `state_dict`, whose numbers are arrays now."""


class Monitor(Callback):
    """Base of callbacks that follow one value: which epoch was the best so far.

    monitor: the name of a value; "validation loss" if there is one, else "test loss", else "train loss". mode: "min" or
    "max", what is better; known for losses and accuracies. min_delta: a smaller improvement is none.
    """

    def __init__(self, monitor: str | None = None, *, mode: str | None = None, min_delta: float = 0.0) -> None:
        if mode not in (None, "min", "max"):
            raise ShapeError(f"{type(self).__name__}: mode is {mode!r}; choose min or max, what is better")
        if min_delta < 0:
            raise ShapeError(f"{type(self).__name__}: min_delta is {min_delta}; it is 0 or more")
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.reset()

    def reset(self) -> None:
        """Know of no epoch."""
        # The best value, and its epoch; 0 before the first.
        self.best, self.best_epoch = float("nan"), 0

    def on_train_begin(self) -> object:
        names = self.run.names
        # A second training with the same callback begins anew.
        if not self.run.resumed:
            self.reset()
        if self.monitor is None:
            self.monitor = next(n for n in ("validation loss", "test loss", "train loss") if n in names)
        if self.monitor not in names:
            raise ArgumentError(f"there is no value {self.monitor!r} to monitor; there are {', '.join(names)}")
        if self.mode is None:
            last = self.monitor.split(" ")[-1]
            if last not in ("loss", "accuracy"):
                raise ArgumentError(f'say whether a small or a large {self.monitor!r} is better, mode="min" or "max"')
            self.mode = "max" if last == "accuracy" else "min"
        return None

    def improved(self, values: Values) -> bool:
        """Return True, and take note, if this epoch is the best so far. An epoch without the value is none."""
        value = float(values.get(str(self.monitor), np.nan))
        gain = self.best - value if self.mode == "min" else value - self.best
        # The first value is the best; what is compared with NaN is not better.
        if (self.best_epoch and not gain > self.min_delta) or np.isnan(value):
            return False
        self.best, self.best_epoch = value, int(values["epoch"])
        return True

    def state_dict(self) -> Mapping[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])


class EarlyStopping(Monitor):
    """Ends the training when a value has not improved for `patience` epochs (Prechelt 1998).

        train.EarlyStopping("validation loss", patience=5, restore_best=True)

    patience: epochs without an improvement after which the training ends. min_delta: an improvement has to be more.
    restore_best: True to let the network, and the model in the run's folder, hold the parameters of the best epoch in
    the end, also where the training was not ended early. monitor, mode: as in Monitor. `best` and `best_epoch` say
    which it was.
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best: bool = False,
    ) -> None:
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        if patience < 0:
            raise ShapeError(f"EarlyStopping: patience is {patience}; it is a number of epochs, 0 or more")
        self.patience, self.restore_best = patience, restore_best

    def reset(self) -> None:
        super().reset()
        # Epochs since the best one, and its parameters.
        self.waited = 0
        self.weights: State = {}

    def on_epoch_end(self, values: Values) -> object:
        if self.improved(values):
            self.waited = 0
            if self.restore_best:
                self.weights = self.run.weights()
            return None
        self.waited += 1
        # With a patience of 0 the first epoch that is no better is the last one.
        if self.waited >= max(1, self.patience):
            epoch = f"epoch {self.best_epoch}" if self.best_epoch else "the start"
            raise StopTraining(f"{self.monitor} has not improved since {epoch}, where it was {self.best:.6g}")
        return None

    def on_train_end(self) -> object:
        if self.weights:
            self.run.restore(self.weights, self.best_epoch)
        return None

    def state_dict(self) -> Mapping[str, Any]:
        weights = {f"weights.{name}": array for name, array in self.weights.items()}
        return {**super().state_dict(), "waited": self.waited, **weights}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        super().load_state_dict(state)
        self.waited, prefix = int(state["waited"]), "weights."
        self.weights = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}


class BestCheckpoint(Monitor):
    """Writes the model of the best epoch so far: safetensors, whole at any moment.

        train.BestCheckpoint("best.safetensors", monitor="validation accuracy")

    `net.load_state_dict(safetensors.numpy.load_file(path))` reads it; where the data were a Dataset, so does
    `train.load_net(path)`. The folder is made if there is none. monitor, mode, min_delta: as in Monitor.
    """

    def __init__(
        self, path: str | Path, monitor: str | None = None, *, mode: str | None = None, min_delta: float = 0.0
    ) -> None:
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        self.path = Path(path)

    def on_train_begin(self) -> object:
        make_folder(self.path)
        return super().on_train_begin()

    def on_epoch_end(self, values: Values) -> object:
        if self.improved(values):
            with writing(self.path):
                write_whole(self.path, model_bytes(self.run.weights(), self.run.stored))
        return None


class Log(Callback):
    """Writes the values of each epoch into a file: a table if its name ends in .csv, else a line of JSON for each.

    A new training begins the file anew; one that is resumed goes on with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # What the file holds.
        self.text = ""

    def on_train_begin(self) -> object:
        make_folder(self.path)
        goes_on = self.run.resumed and self.path.is_file()
        self.text = self.path.read_text(encoding="utf-8") if goes_on else ""
        return None

    def on_epoch_end(self, values: Values) -> object:
        # A training that goes on may do an epoch again, which was written before its process was killed.
        lines = self.text.splitlines(keepends=True)
        self.text = "".join(line for line in lines if logged_epoch(line) < values["epoch"])
        if self.path.suffix.lower() == ".csv":
            line = StringIO()
            table = csv.DictWriter(line, list(values), lineterminator="\n")
            if not self.text:
                table.writeheader()
            table.writerow(values)
            self.text += line.getvalue()
        else:
            self.text += json.dumps(values) + "\n"
        with writing(self.path):
            write_whole(self.path, self.text.encode())
        return None


def logged_epoch(line: str) -> int:
    """Return the epoch of a line of a log, a row of a table or JSON; 0 for the names of the columns."""
    if line.startswith("{"):
        return int(json.loads(line)["epoch"])
    first = line.split(",")[0].strip()
    return int(first) if first.isdigit() else 0


class SaveState(Callback):
    """Writes the state of the whole training after every epoch, or every few, for `train(..., resume=path)` to go on.

    Model, optimiser, schedules, the order of the images, the history and the other callbacks are in it, so that the
    training that goes on gives the same bits. The file is safetensors, whole at any moment.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        if every < 1:
            raise ShapeError(f"SaveState: every is {every}; it is a number of epochs, 1 or more")
        self.path, self.every = Path(path), every

    def on_train_begin(self) -> object:
        make_folder(self.path)
        return None

    def on_epoch_end(self, values: Values) -> object:
        if values["epoch"] % self.every == 0:
            from safetensors.numpy import save

            with writing(self.path):
                write_whole(self.path, save(self.run.state_dict()))
        return None


def make_folder(path: Path) -> None:
    """Make the folder of a file. Raises DataError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


class FunctionCallback(Callback):
    """A plain function of the epoch's values, as a callback."""

    def __init__(self, function: Callable[[Values], object]) -> None:
        self.function = function

    def on_epoch_end(self, values: Values) -> object:
        return self.function(values)


class Callbacks:
    """All callbacks of a training, called in order."""

    def __init__(self, given: Any, run: Running) -> None:
        """Raise ArgumentError for what is no callback."""
        listed = list(given) if isinstance(given, list | tuple) else [given]
        self.all: list[Callback] = []
        for callback in listed:
            if not isinstance(callback, Callback) and (isinstance(callback, type) or not takes([0], callback)):
                made = f"; make one first: {callback.__name__}(...)" if isinstance(callback, type) else ""
                raise ArgumentError(
                    f"train: callbacks holds {shown(callback)}; give functions of the epoch's values, or objects of"
                    f" train.Callback{made}"
                )
            self.all.append(callback if isinstance(callback, Callback) else FunctionCallback(callback))
        # Only those that want it are called after each step.
        self.at_steps = [c for c in self.all if type(c).on_step_end is not Callback.on_step_end]
        for callback in self.all:
            callback.run = run

    def call(self, callbacks: list[Callback], moment: str, *values: Values) -> str | None:
        """Call a method of each; return why the training is to end, if it is. Raises CallbackError."""
        stopped: str | None = None
        for callback in callbacks:
            try:
                # Each has a dict of its own.
                result = getattr(callback, moment)(*(dict(v) for v in values))
                if isinstance(result, bool | np.bool_) and not result:
                    stopped = stopped or f"{name_of(callback)} returned False"
            except StopTraining as reason:
                stopped = stopped or str(reason) or f"{name_of(callback)} stopped the training"
            except Exception as error:
                kind = "" if isinstance(error, FovealError) else f"{type(error).__name__}: "
                raise CallbackError(f"the callback {name_of(callback)}, {moment}: {kind}{error}") from error
        return stopped


def name_of(callback: Callback) -> str:
    """Return the name of a callback for messages."""
    named = callback.function if isinstance(callback, FunctionCallback) else type(callback)
    return str(getattr(named, "__qualname__", type(named).__name__)).replace("<locals>.", "")
