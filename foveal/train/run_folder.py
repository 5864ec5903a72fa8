"""Writing the files of a run, so that its folder holds one whole run whatever happens.

All files of an epoch are written to a folder of their own, `.saving`. Renaming that to `.saved` is the one moment at
which the run goes from one epoch, or from an older run, to the next. Then the files move to their places, one after the
other. Whoever comes after a process that was killed in between finishes this: the next run in the folder moves the
files, and `load_run` reads the model from where it is.

An older run is linked into `earlier-1` before that moment, and its log and its metrics are removed before the new model
takes the place of the old one. So files of two runs never lie side by side. What a new run writes before its first
epoch is done, `run.json`, checkpoints, steps and what the check of the data found, lies in `.started` until then if
there is an older run.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from foveal.files import synchronise_file, write_soon, write_synchronised, write_whole
from foveal.strides import Ndarray
from foveal.train.checkpoint import LOG, METRICS, MODEL, RUN, SAVED, ModelDescription, NetworkDescription, model_bytes
from foveal.train.checkpoints import CHECKPOINTS, LAST, NEW, PREVIOUS, write_checkpoint
from foveal.train.files import lock, synchronise, writing

FILES = (MODEL, LOG, METRICS)
STATES = tuple(f"{CHECKPOINTS}/{name}" for name in (LAST, PREVIOUS))
# What is written before the first epoch is done.
BEGUN = (RUN, *STATES, "steps.json", "doctor.json")
# What else belongs to a run: it goes with its files when they move to `earlier-1`.
OTHERS = (*BEGUN, "report.html", "predictions.npz", "MODEL.md")
LOCK, SAVING, LINKING, STARTED = ".lock", ".saving", ".earlier", ".started"
# Names that processes which were killed leave behind, those of version 0.1.0 too.
_LEFT_BEHIND = re.compile(rf"\.(({'|'.join(map(re.escape, (*FILES, *OTHERS)))})\.)?\d+\.tmp")


class RunFolder:
    """Writes the files of one run, after every epoch.

    Nothing of an older run in the same folder is touched before the first epoch is done; then its files move to
    `earlier-1` (`earlier-2`, ...) inside the folder. `close` it in the end. goes_on: True for the run that lies in the
    folder, which is gone on with. Raises DataError when the folder cannot be written, or when another training writes
    to it.
    """

    def __init__(self, path: str | Path, goes_on: bool = False) -> None:
        self.path = Path(path)
        # Where the files of an older run went, if there were any.
        self.earlier: Path | None = None
        # What stands in `run.json`.
        self._description: str | None = None
        # The lines of the log so far, whether the log in its place begins with them, and whether the files in their
        # places are this run's.
        self._log, self._followed, self._begun = "", False, False
        # Whether the files of the last epoch may not be on the disk yet.
        self._loose = False
        # Find out now, before hours of training, that the folder can be written.
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.path / LOCK)
            try:
                self._tidy()
                self._begun = self._place(goes_on)
                (self.path / SAVING).mkdir(exist_ok=True)
            except BaseException:
                self._lock.close()
                raise

    def close(self) -> None:
        """Let other trainings write to the folder; call it when the run has ended, however it did."""
        if self._lock.closed:
            return
        # A run that was interrupted while it wrote leaves no temporary files either.
        with contextlib.suppress(OSError):
            self._tidy()
            for name in FILES if self._loose else ():
                synchronise_file(self.path / name)
            synchronise(self.path)
        # One that wrote no epoch and no checkpoint leaves no file.
        if not self._begun and not _states(self.home):
            _remove(self.home / CHECKPOINTS)
            for name in BEGUN:
                with contextlib.suppress(OSError):
                    (self.home / name).unlink(missing_ok=True)
            _remove(self.path / STARTED)
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink()
        self._lock.close()

    @property
    def model(self) -> Path:
        """The path of the model file."""
        return self.path / MODEL

    @property
    def home(self) -> Path:
        """The folder of what is written at once: `.started` inside of the run's own as long as that is there."""
        started = self.path / STARTED
        return started if started.is_dir() else self.path

    def describe(self, text: str) -> None:
        """Write `run.json`. Raises DataError if that fails."""
        with writing(self.path):
            self._present()
            self._description = text
            write_whole(self.home / RUN, text.encode())

    def checkpoint(self, content: bytes) -> None:
        """Write a checkpoint. Raises DataError if that fails; those that were there before are then still there."""
        with writing(self.path):
            self._present()
            write_checkpoint(self.home / CHECKPOINTS, content)

    def save(
        self,
        state: Mapping[str, Ndarray] | None,
        description: ModelDescription | NetworkDescription,
        line: Mapping[str, object] | None,
        metrics: Mapping[str, object],
        synchronised: bool = True,
    ) -> None:
        """Write the model, add `line` to the log and write the metrics. If that fails, the files are as they were.

        state: None where the model of an earlier epoch stays. line: None where the log stays as it is. synchronised:
        False for files that nothing but a loss of power may damage; `close` waits for them.
        """
        text = "" if line is None else json.dumps(line) + "\n"
        content = {} if state is None else {MODEL: model_bytes(state, description)}
        content |= {LOG: (self._log + text).encode(), METRICS: (json.dumps(metrics, indent=2) + "\n").encode()}
        with writing(self.path):
            self._present()
            self._tidy()
            saving = self.path / SAVING
            try:
                saving.mkdir(exist_ok=True)
                for name, value in content.items():
                    (write_synchronised if synchronised else write_soon)(saving / name, value)
                if synchronised:
                    synchronise(saving)
                # The files of an older run are kept beside those of this one before its first model takes their place.
                if not self._begun:
                    self._keep_earlier()
                # From this rename on, the new files count.
                saving.rename(self.path / SAVED)
            except BaseException:
                _remove(saving)
                raise
            follows, self._followed, self._begun, self._log = self._followed, True, True, self._log + text
            self._loose = not synchronised
            if synchronised:
                synchronise(self.path)
            self._publish(text if follows else None)

    def rehearse(self, content: bytes, synchronised: bool) -> None:
        """Write as much as for an epoch, and remove it again. Raises DataError if that fails."""
        with writing(self.path):
            saving = self.path / SAVING
            saving.mkdir(exist_ok=True)
            for name, value in zip(FILES, (content, b"", b""), strict=True):
                (write_synchronised if synchronised else write_soon)(saving / name, value)
            # Of the folder, of the run's before the files move to their places, and after that.
            for place in (saving, self.path, self.path) if synchronised else ():
                synchronise(place)
            for name in FILES:
                (saving / name).unlink()

    def begin(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Let the log hold these lines, and what is saved from now on: those of the run that this one goes on with."""
        self._log, self._followed = "".join(json.dumps(line) + "\n" for line in lines), False

    def _place(self, goes_on: bool) -> bool:
        """Make the folder for what is written before the first epoch is done; True if files there are this run's."""
        started = self.path / STARTED
        if goes_on:
            return not started.is_dir()
        # A run that has not come to the end of its first epoch.
        if _states(started):
            started.rename(self._next_earlier()[0])
        _remove(started / CHECKPOINTS)
        _remove(started)
        if any((self.path / name).exists() for name in (*FILES, RUN, *STATES)):
            started.mkdir(exist_ok=True)
        return False

    def _present(self) -> None:
        """Make the folder anew if it was removed while the run went on."""
        if self.path.is_dir():
            return
        self.path.mkdir(parents=True)
        self._lock.close()
        self._lock = lock(self.path / LOCK)
        self._begun = self._followed = False
        if self._description is not None:
            write_whole(self.path / RUN, self._description.encode())

    def _publish(self, line: str | None = None) -> None:
        """Move the files from `.saved` to their places.

        line: what they add to the log that is in its place, so that whoever follows it sees the new line; None if that
        may be the log of an older run, or end within a line.
        """
        saved = self.path / SAVED
        if not saved.is_dir():
            return
        started = self.path / STARTED
        # What is in the places may be an older run's, linked into `earlier-1` by now: it goes before the new model
        # comes, so that no kill in between leaves files of two runs beside each other.
        if line is None and (saved / MODEL).exists():
            (self.path / LOG).unlink(missing_ok=True)
            (self.path / METRICS).unlink(missing_ok=True)
            for name in OTHERS if started.is_dir() else ():
                if (self.path / name).exists():
                    (self.path / name).unlink()
        for name in FILES:
            if not (saved / name).exists():
                continue
            if name == LOG and line is not None:
                with (self.path / LOG).open("a", encoding="utf-8") as log:
                    log.write(line)
                (saved / LOG).unlink()
            else:
                (saved / name).replace(self.path / name)
        # What the run wrote before its first epoch was done.
        for name in BEGUN:
            if (started / name).exists():
                (self.path / name).parent.mkdir(exist_ok=True)
                (started / name).replace(self.path / name)
        _remove(started / CHECKPOINTS)
        _remove(started)
        # The folder is on the disk before `.saved` goes: until then whoever comes after a kill finishes the moves.
        if not self._loose:
            synchronise(self.path)
        _remove(saved)

    def _next_earlier(self) -> tuple[Path, Path | None]:
        """Return the first of earlier-1, earlier-2, ... that does not exist, and the one before it."""
        before: Path | None = None
        for number in itertools.count(1):
            place = self.path / f"earlier-{number}"
            if not place.exists():
                break
            before = place
        return place, before

    def _keep_earlier(self) -> None:
        """Link the files of an older run into the first of earlier-1, earlier-2, ... that does not exist."""
        # Without `.started` what lies beside them is this run's own.
        names = (*FILES, *(OTHERS if (self.path / STARTED).is_dir() else ()))
        files = [name for name in names if (self.path / name).exists()]
        if not files:
            return
        place, before = self._next_earlier()
        # A process that was killed right here has linked them before.
        if before is not None and all(_same(self.path / name, before / name) for name in files):
            self.earlier = before
            return
        linking = self.path / LINKING
        linking.mkdir()
        for name in files:
            (linking / name).parent.mkdir(exist_ok=True)
            try:
                (linking / name).hardlink_to(self.path / name)
            except OSError:
                # Not all file systems have links.
                shutil.copy2(self.path / name, linking / name)
        synchronise(linking)
        linking.rename(place)
        self.earlier = place

    def _tidy(self) -> None:
        """Finish what a process that was killed has begun, and remove its temporary files."""
        self._publish()
        for name in (SAVING, f"{LINKING}/{CHECKPOINTS}", LINKING):
            _remove(self.path / name)
        if (new := self.home / CHECKPOINTS / NEW).exists():
            new.unlink()
        for path in {*self.path.iterdir(), *self.home.iterdir()}:
            if _LEFT_BEHIND.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    """True if two files are one file, or have the same content."""
    return other.is_file() and (one.samefile(other) or filecmp.cmp(one, other, shallow=False))


def _states(folder: Path) -> bool:
    """True if there is a checkpoint in the folder of a run."""
    return any((folder / name).exists() for name in STATES)


def _remove(folder: Path) -> None:
    """Remove a folder of a run's files. Where something else lies in it, that stays, and so does the folder."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name in {*FILES, *OTHERS, LAST, PREVIOUS, NEW}:
            with contextlib.suppress(OSError):
                path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
