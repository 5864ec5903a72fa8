"""The state of a run, beside that of its training: how far it is, its history, and what its callbacks keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from foveal.strides import Ndarray
from foveal.train.callbacks import Callback, State
from foveal.train.state import from_text, to_text
from foveal.train.tally import Tally

if TYPE_CHECKING:
    from foveal.train.loop import Run


class Progress:
    """How far a run is, and its history, as a part of its state."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def state_dict(self) -> State:
        run = self.run
        # An epoch that was cut short goes on where it was, and is no line of the history.
        done = run.epoch - (run.taken > 0)
        lines = [line for line in run.history.lines if line["epoch"] <= done]
        found = {"epoch": done, "taken": run.taken, "tally": run.tally.numbers(), "lines": lines}
        return {"progress": from_text(json.dumps(found))}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        stored = json.loads(to_text(state["progress"]))
        self.run.epoch, self.run.taken = int(stored["epoch"]), int(stored["taken"])
        self.run.tally = Tally(self.run.measures, **stored.get("tally", {}))
        self.run.history.lines[:] = stored["lines"]


class CallbackState:
    """A callback, as a part of the state of a run; its numbers become arrays."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def state_dict(self) -> State:
        return {name: np.array(value, order="C") for name, value in self.callback.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        self.callback.load_state_dict(state)
