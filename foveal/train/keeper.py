"""What a run leaves on disk while it goes on, and what is said where that fails.

A model, a log or a checkpoint that cannot be written is no end of a run: a warning says what is missing and what there
is, and the next one is tried as if nothing had been. Only where the last epoch cannot be written does the run fail.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from foveal.errors import CallbackError, DataError, NumericsError, warn
from foveal.strides import Ndarray
from foveal.train.checkpoint import ModelDescription, NetworkDescription
from foveal.train.checkpoints import checkpoint_bytes
from foveal.train.run_file import stamps
from foveal.train.run_folder import RunFolder

State = dict[str, Ndarray]
# Seconds between the checkpoints at the ends of short epochs.
SHORT = 10.0
# Seconds between two epochs whose files are waited for until they are on the disk: what is lost by a loss of power.
SYNCHRONISED = 1.0


class Keeper:
    """Writes the files of a run, and its checkpoints when they are due.

    folder: None for a run that writes nothing. minutes: between two checkpoints within an epoch; 0 for one after each
    step. At the end of an epoch there is one if the last is `SHORT` seconds old, or as old as `minutes` says.
    """

    def __init__(self, folder: RunFolder | None, minutes: float, files: Sequence[str]) -> None:
        self.folder, self.minutes = folder, minutes
        # The last epoch whose files are written, and where the last checkpoint is, in words.
        self.saved, self.at = 0, ""
        # Whether the model file may lack the best model so far.
        self.behind = True
        self.written = time.perf_counter()
        self.synchronised = float("-inf")
        self.facts: dict[str, Any] = {}
        # The files that are read while the run goes on, as they were at its start.
        self.stamps = stamps(files)

    def begin(self, facts: dict[str, Any]) -> None:
        """Write run.json. Raises DataError if that cannot be, while nothing is lost yet."""
        self.facts = facts
        if self.folder is not None:
            self.folder.describe(json.dumps(facts, indent=2) + "\n")

    def end(self, status: str) -> None:
        """Say in run.json how the run ended."""
        if self.facts:
            with suppress(DataError):
                self.begin({**self.facts, "status": status})

    def due(self, epoch_ended: bool) -> bool:
        """Return whether it is time for a checkpoint."""
        age, limit = time.perf_counter() - self.written, 60 * self.minutes
        return self.folder is not None and age >= (min(limit, SHORT) if epoch_ended else limit)

    def checkpoint(self, state: Callable[[], State], where: str) -> None:
        """Write a checkpoint. where: the place in the training, in words."""
        if self.folder is None:
            return
        try:
            self.folder.checkpoint(checkpoint_bytes(state(), self.facts["id"]))
            self.at = where
        except DataError as error:
            last = f"the last one was written {self.at}" if self.at else "there is none of this run yet"
            warn(f"no checkpoint {where}: {error}. The training goes on; {last}")
        self.written = time.perf_counter()

    def save(
        self,
        epoch: int,
        state: Mapping[str, Ndarray] | None,
        description: ModelDescription | NetworkDescription,
        lines: Sequence[Mapping[str, Any]],
        metrics: Mapping[str, Any],
        last: bool,
    ) -> None:
        """Write the files of an epoch. lines: of the log, with that of this epoch as the last.

        state: None where the model of an earlier epoch stays. Raises DataError if that cannot be and it is the last.
        """
        if self.folder is None:
            return
        # Waiting for the disk may take longer than a short epoch.
        due = last or time.perf_counter() - self.synchronised >= SYNCHRONISED
        try:
            self.folder.save(state, description, lines[-1], metrics, due)
            self.synchronised = time.perf_counter() if due else self.synchronised
            self.saved, self.behind = epoch, False
        except DataError as error:
            # The next epoch writes this one's line too.
            self.folder.begin(lines)
            self.behind = True
            if last:
                raise
            warn(f"epoch {epoch}: {error}. The training goes on. {self.kept()}")

    def check_files(self) -> None:
        """Warn once of files that are not what they were at the start."""
        now = stamps(self.stamps)
        changed = [path for path, stamp in self.stamps.items() if now[path] != stamp]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            warn(
                f"{changed[0]}{more}: changed or removed since the training began, which goes on with what is there"
                " now: it cannot be repeated, nor gone on with later, to the same result"
            )
            self.stamps = now

    def kept(self) -> str:
        """Return sentences for messages: what there is of this run on disk, and how to go on with it."""
        if self.folder is None:
            return "No model of this run was written yet."
        found = ["No model of this run was written yet."]
        if self.saved:
            found = [f"The model of epoch {self.saved} is kept at {self.folder.model}."]
            if self.folder.earlier is not None:
                found.append(f"The run that was there before: {self.folder.earlier}.")
        if self.at:
            program = self.facts.get("command") is None
            how = f"train.train(..., resume={str(self.folder.path)!r})" if program else f"`{self.command()}`"
            found.append(f"{how} goes on {self.at}.")
        return " ".join(found)

    def explain(self, error: BaseException, epoch: int, step: int, lr: float) -> None:
        """Raise an error of a training anew with what there is of the run on disk, if it is one of those that say so.

        epoch, step: in which it came up. lr: the learning rate of the settings.
        """
        if isinstance(error, NumericsError):
            raise NumericsError(
                f"epoch {epoch}, step {step}: {error}. {self.kept()} Try a lower learning rate than {lr:g}."
            ) from None
        if isinstance(error, DataError):
            raise DataError(f"epoch {epoch}: {error}. {self.kept()}") from None
        if isinstance(error, CallbackError):
            where = f"epoch {epoch}: " if epoch else ""
            raise CallbackError(f"{where}{error}. {self.kept()}") from error.__cause__

    def command(self) -> str:
        """Return the command that goes on with the run."""
        from shlex import join

        assert self.folder is not None
        return f"foveal train --resume {join([str(self.folder.path)])}"
