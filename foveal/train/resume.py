"""Going on with a training: from the state that one left, or with the run that lies in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from foveal.errors import ArgumentError, DataError, StateError, warn
from foveal.kinds import shown
from foveal.nn.models.weights import read_file
from foveal.train.callbacks import State
from foveal.train.checkpoint import ModelDescription, NetworkDescription
from foveal.train.checkpoints import CHECKPOINTS, newest_checkpoint
from foveal.train.keeper import Keeper
from foveal.train.progress import ProgressDisplay
from foveal.train.run_file import ENDED, KEPT, check_goes_on, read_facts, run_path
from foveal.train.run_folder import RunFolder
from foveal.train.run_state import Best, Going, Progress
from foveal.train.settings import Settings
from foveal.train.state import Training
from foveal.train.together import Together


class Resumable(Going, Protocol):
    """A run that has not begun, and may go on with an earlier one."""

    settings: Settings
    facts: dict[str, Any]
    folder: RunFolder | None
    display: ProgressDisplay
    keeper: Keeper
    progress: Progress
    best: Best | None
    resumed: bool
    together: Together
    stored: ModelDescription | NetworkDescription

    def training(self) -> Training:
        """Return all that belongs to the state of the run."""

    def weights(self) -> State:
        """Return copies of the network's state as it is measured."""

    def metrics(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of metrics.json."""

    def place(self, epoch: int) -> str:
        """Return where the training is, in words."""


def run_to_resume(resume: object) -> Path | None:
    """Return the folder of the run that is to go on; None if `resume` is none."""
    return Path(resume) if isinstance(resume, str | Path) and Path(resume).is_dir() else None


def unfinished_run(run: Path) -> str | None:
    """Return what to say before a new run in a folder where one has not ended; None if there is none."""
    try:
        facts = read_facts(run)
    except (DataError, StateError):
        return None
    if facts["status"] == ENDED:
        return None
    how = f"foveal train --resume {run}" if facts.get("command") else f"train.train(..., resume={str(run)!r})"
    return (
        f"{run} holds a run that has not ended. This one begins anew, and that one is kept beside it when the first"
        f" epoch is done. To go on with it instead: {how}"
    )


def resume(run: Resumable, stored: Any) -> None:
    """Let a run that has not begun go on from a state, a file that holds one, or the run in a folder.

    Raises StateError and DataError that name what does not fit.
    """
    ranks = run.together.ranks
    if (path := ranks.computed(lambda: run_to_resume(stored))) is not None:
        resume_folder(run, path)
        return
    state = ranks.computed(lambda: read_file(Path(stored))[1] if isinstance(stored, str | Path) else stored)
    if not isinstance(state, Mapping):
        raise ArgumentError(
            f"train: resume is {shown(state)}; give what train.SaveState wrote, or its arrays, or the folder of a run"
        )
    run.training().load_state_dict(state)
    if run.epoch >= run.settings.epochs:
        raise ArgumentError(
            f"train: the training that is resumed has {run.epoch} epochs behind it, and epochs is"
            f" {run.settings.epochs}: give a larger number, which counts from the start"
        )
    begin_after(run)


def resume_folder(run: Resumable, path: Path) -> None:
    """Let a run go on with the one in a folder, from its newest checkpoint that is whole."""
    stored, run.facts = run.together.computed(lambda: (stored_state(run, path), run.facts))
    run.settings = replace(run.settings, minutes=run.facts["settings"]["minutes"])
    if stored is None:
        run.display.note(f"{path}: it has no checkpoint yet, so that it begins anew.")
        return
    state, best = Best.parted(stored)
    if run.best is not None:
        run.best.load(best)
    run.training().load_state_dict(state)
    # It may have been killed between the end of its training and that of the run.
    run.stopped = run.progress.stopped
    if run.together.ranks.first:
        check_not_ended(run, path)
        run.keeper.saved, run.keeper.at = run.epoch, run.place(run.epoch + (run.taken > 0))
    begin_after(run)
    run.display.note(f"{path}: the run goes on {run.keeper.at}.")


def stored_state(run: Resumable, path: Path) -> State | None:
    """Return what the newest checkpoint of a folder holds, whose data and settings are the run's.

    None where there is no checkpoint.
    """
    before = read_facts(path)
    check_goes_on(before, run.facts, path)
    # The time that it was given has decided about epochs, which are given now.
    minutes = before["settings"].get("minutes")
    run.facts["settings"]["minutes"] = minutes
    run.facts = {**run.facts, **{name: before[name] for name in KEPT}}
    stored = newest_checkpoint(run_path(path).parent / CHECKPOINTS, before["id"])
    for problem in stored.problems:
        warn(f"{problem}; the checkpoint before it is used")
    return stored.state


def check_not_ended(run: Resumable, path: Path) -> None:
    """Raise ArgumentError if the run in a folder has nothing left to do."""
    if read_facts(path)["status"] == ENDED and (run.epoch >= run.settings.epochs or run.stopped is not None):
        reason = "" if run.stopped is None else f": {run.stopped}"
        raise ArgumentError(f"train: {path}: the run has ended, after {run.epoch} epochs{reason}; begin another")


def begin_after(run: Resumable) -> None:
    """Let the log and the clock go on where those of the state were."""
    run.resumed = True
    lines = run.history.lines
    if run.folder is not None:
        run.folder.begin(lines)
    run.clock.started -= max(run.progress.seconds, lines[-1]["seconds"] if lines else 0.0)


def finish_resumed(run: Resumable) -> None:
    """Make up for what a run that goes on has not written, where no epoch of it is left."""
    lines = run.history.lines
    if not run.resumed or not lines or (run.epoch < run.settings.epochs and run.stopped is None):
        return
    found: dict[str, Any] = {name: value for name, value in lines[-1].items() if isinstance(value, dict)}
    weights = run.weights()
    if run.best is not None and run.best.epoch:
        found, weights = run.best.measured(), run.best.weights
    run.history.update(run.metrics(found))
    if run.folder is not None and not run.folder.model.exists():
        run.folder.save(weights, run.stored, None, run.history)
