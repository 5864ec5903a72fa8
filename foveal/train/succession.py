"""Another rank leads a run once rank 0 is gone: what it has to know before, and what it does then.

All ranks of a run hold the same network, optimiser, history and best epoch. What rank 0 alone has is the folder, the
lines for people, and callbacks. The others are told what its callbacks keep whenever these are called, but for those
of a step: these are called again, with the values of the steps since then, by the rank that succeeds it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from foveal import nn
from foveal.distributed.ranks import Ranks
from foveal.errors import DataError, FovealWarning, RankError, StateError
from foveal.train.callbacks import Callbacks, State, Values
from foveal.train.checkpoint import ModelDescription, NetworkDescription
from foveal.train.history import History
from foveal.train.keeper import Keeper
from foveal.train.progress import ProgressDisplay
from foveal.train.run_file import read_facts
from foveal.train.run_folder import RunFolder
from foveal.train.run_state import Best, CallbackState
from foveal.train.settings import Settings, TrainOptions

# The system lets go of the folder of a process that is gone; so many times, at so many seconds from each other, it is
# tried.
TRIES, PAUSE = 20, 0.5


class Led(Protocol):
    """A run that rank 0 leads."""

    net: nn.Module
    settings: Settings
    history: History
    best: Best | None
    callbacks: Callbacks
    folder: RunFolder | None
    keeper: Keeper
    display: ProgressDisplay
    facts: dict[str, Any]
    stored: ModelDescription | NetworkDescription
    resumed: bool
    epoch: int
    step: int

    def weights(self) -> State:
        """Return copies of the network's state as it is measured."""


class Told(NamedTuple):
    """What rank 0 tells the others of its callbacks, once they have been called."""

    stopped: str | None
    states: list[dict[str, Any]]
    #: The network and the numbers at the end, where callbacks may have changed them.
    net: dict[str, Any] | None
    metrics: dict[str, Any] | None


class Succession:
    """Who leads a run of elastic ranks, and what the others know for that.

    options: as rank 0 has them. files: those that are read while the run goes on.
    """

    def __init__(self, run: Led, ranks: Ranks, options: TrainOptions, files: list[str]) -> None:
        self.run, self.ranks, self.options, self.files = run, ranks, options, files
        assert ranks.elastic is not None
        ranks.elastic.where = lambda: f"step {run.step} of epoch {run.epoch}" if run.epoch else "the first epoch"
        # Rank 0 may be gone since it has opened the folder.
        given = None if options.out is None or options.resume is not None else Path(options.out)
        path = given if run.folder is None else run.folder.path
        #: The folder of the run, which all know.
        self.home: Path | None = ranks.broadcast(None if path is None else path.resolve())
        if self.home is None and options.resume is not None:
            raise RankError("rank 0 is gone, and no other one knows the run that is to go on; start the job again")
        # Whether this rank leads; whether callbacks know of the run; and the steps that they have been called for
        # since the others were told what they keep.
        self.leads, self.begun = ranks.first and (run.folder is not None or self.home is None), False
        self.steps: list[Values] = []

    def lead(self, unsaved: bool = False) -> None:
        """Take the place of rank 0 if this rank has become the first. unsaved: its last epoch may not be on disk.

        Raises RankError where the folder of the run cannot be written.
        """
        if self.leads or not self.ranks.first:
            return
        self.leads, run = True, self.run
        # The others are silent.
        warnings.simplefilter("default", FovealWarning)
        run.display = ProgressDisplay(self.options.quiet)
        run.display.epochs = run.settings.epochs
        if self.home is not None:
            try:
                self.take_folder(self.home, unsaved)
            except DataError as error:
                raise RankError(
                    f"{self.ranks.name(0)} takes the place of rank 0, which is gone, and cannot write the folder of the"
                    f" run: {error}. Go on with --resume, on a machine that has it"
                ) from None
        if self.begun:
            run.resumed = True
            run.callbacks.call(run.callbacks.all, "on_train_begin")
            for values in self.steps:
                run.callbacks.call(run.callbacks.at_steps, "on_step_end", values)

    def take_folder(self, home: Path, unsaved: bool) -> None:
        """Go on with the folder of the run; on a disk where it is not, in a new one."""
        run, lines = self.run, self.run.history.lines
        there = is_of(home, run.facts["id"])
        run.folder = opened(home, there)
        if not there:
            run.display.note(
                f"{home} is not there on this machine, or holds another run: this one goes on in a new folder of that"
                " name. What rank 0 has written is on its own disk."
            )
        run.keeper = Keeper(run.folder, run.keeper.minutes, self.files)
        run.keeper.begin(run.facts)
        saves = bool(lines) and (unsaved or (not there and run.best is not None))
        run.folder.begin(lines[:-1] if saves else lines)
        # A checkpoint is written as soon as a step is done.
        run.keeper.written = float("-inf")
        if saves:
            weights = run.weights() if run.best is None else run.best.weights
            run.keeper.save(lines[-1]["epoch"], weights, run.stored, lines, dict(run.history), False)
        elif lines and there:
            run.keeper.saved = lines[-1]["epoch"]

    # Callbacks.

    def called(self, moment: str, values: tuple[Values, ...]) -> str | None:
        """Call a method of all callbacks on the first rank; return on all of them why the run is to end, if it is."""
        run, ending = self.run, moment == "on_train_end"

        def call() -> Told:
            self.lead(unsaved=moment == "on_epoch_end")
            stopped = run.callbacks.call(run.callbacks.all, moment, *values)
            states = [dict(CallbackState(callback).state_dict()) for callback in run.callbacks.all]
            # The best epoch may have been brought back.
            return Told(
                stopped, states, dict(run.net.state_dict()) if ending else None, dict(run.history) if ending else None
            )

        told = self.ranks.computed(call)
        self.begun, self.steps = True, []
        if not self.ranks.first:
            self.learn(told)
        return told.stopped

    def learn(self, told: Told) -> None:
        """Let this rank know what callbacks keep on the first one."""
        run = self.run
        for callback, state in zip(run.callbacks.all, told.states, strict=True):
            CallbackState(callback).load_state_dict(state)
        if told.net is not None and told.metrics is not None:
            run.net.load_state_dict(told.net)
            run.history.update(told.metrics)

    def step_called(self, call: Callable[[], str | None], together: bool, values: Values) -> str | None:
        """Call the callbacks of a step on the first rank, and return why the run is to end, if it is.

        together: whether the others wait for the answer.
        """

        def led() -> str | None:
            self.lead()
            return call()

        stopped = self.ranks.computed(led) if together else led() if self.ranks.first else None
        self.steps.append(values)
        return stopped


def is_of(home: Path, run: str) -> bool:
    """Return whether a folder holds the run of that name."""
    try:
        return bool(read_facts(home)["id"] == run)
    except (DataError, StateError):
        return False


def opened(home: Path, there: bool) -> RunFolder:
    """Return the folder of a run. Raises DataError where it cannot be written."""
    for _ in range(TRIES):
        try:
            return RunFolder(home, there)
        except DataError as error:
            if "another training" not in str(error):
                raise
            time.sleep(PAUSE)
    return RunFolder(home, there)
