"""The state of a run, beside that of its training: how far it is, its history, and what its callbacks keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from foveal.strides import Ndarray
from foveal.train.callbacks import Callback, State
from foveal.train.history import History
from foveal.train.measure import Measures
from foveal.train.state import from_text, to_text
from foveal.train.tally import Clock, Tally

# What names of the best epoch in a checkpoint begin with.
BEST = "best/"


class Going(Protocol):
    """The run whose progress is stored: the epoch under way, its batches that are taken, and what they add up to."""

    epoch: int
    taken: int
    trained: float | None
    stopped: str | None
    tally: Tally
    clock: Clock
    history: History

    @property
    def measures(self) -> Measures: ...


class Progress:
    """How far a run is, and its history, as a part of its state."""

    def __init__(self, run: Going) -> None:
        self.run = run
        # Of the state that was loaded: why the training had ended, and the seconds that it had taken.
        self.stopped: str | None = None
        self.seconds = 0.0

    def state_dict(self) -> State:
        run = self.run
        # An epoch that was cut short goes on where it was, and is no line of the history.
        done = run.epoch - (run.taken > 0)
        lines = [line for line in run.history.lines if line["epoch"] <= done]
        found = {
            "epoch": done,
            "taken": run.taken,
            "trained": run.trained,
            "tally": run.tally.numbers(),
            "lines": lines,
            "stopped": run.stopped,
            "seconds": run.clock.elapsed(),
        }
        return {"progress": from_text(json.dumps(found))}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        stored = json.loads(to_text(state["progress"]))
        self.run.epoch, self.run.taken = int(stored["epoch"]), int(stored["taken"])
        self.run.trained, self.stopped = stored.get("trained"), stored.get("stopped")
        self.seconds = float(stored.get("seconds", 0.0))
        self.run.tally = Tally(self.run.measures, **stored.get("tally", {}))
        self.run.history.lines[:] = stored["lines"]


class Best:
    """The best epoch so far by the validation data: the highest accuracy, where there is one, then the lowest loss."""

    def __init__(self) -> None:
        # Its number, 0 before the first; what was measured after it; and the model.
        self.epoch, self.parts, self.weights = 0, dict[str, Any](), State()

    def take(self, epoch: int, parts: dict[str, Any], weights: Mapping[str, Ndarray]) -> bool:
        """Return True, and keep a copy of the weights, if this epoch is better than those before."""
        if self.epoch and self.rank(parts) <= self.rank(self.parts):
            return False
        self.epoch, self.parts = epoch, parts
        self.weights = {name: np.array(array, order="C") for name, array in weights.items()}
        return True

    def measured(self) -> dict[str, Any]:
        """Return what metrics.json says of the model: the parts that were measured, and the number of the epoch."""
        return {**self.parts, "best_epoch": self.epoch}

    @staticmethod
    def rank(parts: dict[str, Any]) -> tuple[float, float]:
        measured = parts["validation"]
        # What is compared with NaN is never less.
        loss = measured["loss"] if measured["loss"] == measured["loss"] else np.inf
        return measured.get("accuracy", 0.0), -loss

    def state_dict(self) -> State:
        """Return the arrays that a checkpoint holds beside those of the training."""
        weights = {f"{BEST}model/{name}": array for name, array in self.weights.items()}
        return {f"{BEST}epoch": from_text(json.dumps({"epoch": self.epoch, "parts": self.parts})), **weights}

    @staticmethod
    def parted(state: Mapping[str, Ndarray]) -> tuple[State, State]:
        """Return the state of the training in a checkpoint, and that of the best epoch."""
        best = {name: array for name, array in state.items() if name.startswith(BEST)}
        return {name: array for name, array in state.items() if name not in best}, best

    def load(self, state: Mapping[str, Ndarray]) -> None:
        """Go on from a `state_dict`, which is empty where the run had no validation data."""
        if state:
            stored, prefix = json.loads(to_text(state[f"{BEST}epoch"])), f"{BEST}model/"
            self.epoch, self.parts = int(stored["epoch"]), stored["parts"]
            self.weights = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}


class CallbackState:
    """A callback, as a part of the state of a run; its numbers become arrays."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def state_dict(self) -> State:
        return {name: np.array(value, order="C") for name, value in self.callback.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        self.callback.load_state_dict(state)
