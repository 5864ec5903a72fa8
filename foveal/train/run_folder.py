"""Writing the files of a run, so that its folder holds one whole run whatever happens.

All files of an epoch are written to a folder of their own, `.saving`. Renaming that to `.saved` is the one moment at
which the run goes from one epoch, or from an older run, to the next. Then the files move to their places, one after the
other. Whoever comes after a process that was killed in between finishes this: the next run in the folder moves the
files, and `load_run` reads the model from where it is.

An older run is linked into `earlier-1` before that moment, and its log and its metrics are removed before the new model
takes the place of the old one. So files of two runs never lie side by side.
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

from foveal.files import write_synchronised
from foveal.strides import Ndarray
from foveal.train.checkpoint import LOG, METRICS, MODEL, SAVED, ModelDescription, NetworkDescription, model_bytes
from foveal.train.files import lock, synchronise, writing

FILES = (MODEL, LOG, METRICS)
LOCK, SAVING, LINKING = ".lock", ".saving", ".earlier"
# Names that processes which were killed leave behind, those of version 0.1.0 too.
_LEFT_BEHIND = re.compile(rf"\.(({'|'.join(map(re.escape, FILES))})\.)?\d+\.tmp")


class RunFolder:
    """Writes the files of one run, after every epoch.

    Nothing of an older run in the same folder is touched before the first epoch is done; then its files move to
    `earlier-1` (`earlier-2`, ...) inside the folder. `close` it in the end. Raises DataError when the folder cannot be
    written, or when another training writes to it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Where the files of an older run went, if there were any.
        self.earlier: Path | None = None
        # The lines of the log so far, and whether this run has written any of them.
        self._log, self._begun = "", False
        # Find out now, before hours of training, that the folder can be written.
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.path / LOCK)
            try:
                self._tidy()
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
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink()
        self._lock.close()

    @property
    def model(self) -> Path:
        """The path of the model file."""
        return self.path / MODEL

    def save(
        self,
        state: Mapping[str, Ndarray],
        description: ModelDescription | NetworkDescription,
        line: Mapping[str, object] | None,
        metrics: Mapping[str, object],
    ) -> None:
        """Write the model, add `line` to the log and write the metrics. If that fails, the files are as they were.

        line: None where the log stays as it is, as for the model of an earlier epoch.
        """
        text = "" if line is None else json.dumps(line) + "\n"
        content = {
            MODEL: model_bytes(state, description),
            LOG: (self._log + text).encode(),
            METRICS: (json.dumps(metrics, indent=2) + "\n").encode(),
        }
        with writing(self.path):
            self._tidy()
            saving = self.path / SAVING
            try:
                saving.mkdir(exist_ok=True)
                for name, value in content.items():
                    write_synchronised(saving / name, value)
                synchronise(saving)
                # The files of an older run are kept beside those of this one before its first model takes their place.
                if not self._begun:
                    self._keep_earlier()
                # From this rename on, the new files count.
                saving.rename(self.path / SAVED)
            except BaseException:
                _remove(saving)
                raise
            first, self._begun, self._log = not self._begun, True, self._log + text
            synchronise(self.path)
            self._publish(None if first else text)

    def begin(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Let the log begin with the lines of the run that this one goes on with."""
        self._log = "".join(json.dumps(line) + "\n" for line in lines)

    def _publish(self, line: str | None = None) -> None:
        """Move the files from `.saved` to their places.

        line: what they add to the log that is in its place, so that whoever follows it sees the new line; None if that
        may be the log of an older run, or end within a line.
        """
        saved = self.path / SAVED
        if not saved.is_dir():
            return
        if line is None and (saved / MODEL).exists():
            for name in (LOG, METRICS):
                (self.path / name).unlink(missing_ok=True)
        for name in FILES:
            if not (saved / name).exists():
                continue
            if name == LOG and line is not None:
                with (self.path / LOG).open("a", encoding="utf-8") as log:
                    log.write(line)
                (saved / LOG).unlink()
            else:
                (saved / name).replace(self.path / name)
        synchronise(self.path)
        _remove(saved)

    def _keep_earlier(self) -> None:
        """Link the files of an older run into the first of earlier-1, earlier-2, ... that does not exist."""
        files = [self.path / name for name in FILES if (self.path / name).exists()]
        if not files:
            return
        before: Path | None = None
        for number in itertools.count(1):
            place = self.path / f"earlier-{number}"
            if not place.exists():
                break
            before = place
        # A process that was killed right here has linked them before.
        if before is not None and all(_same(path, before / path.name) for path in files):
            self.earlier = before
            return
        linking = self.path / LINKING
        linking.mkdir()
        for path in files:
            try:
                (linking / path.name).hardlink_to(path)
            except OSError:
                # Not all file systems have links.
                shutil.copy2(path, linking / path.name)
        synchronise(linking)
        linking.rename(place)
        self.earlier = place

    def _tidy(self) -> None:
        """Finish what a process that was killed has begun, and remove its temporary files."""
        self._publish()
        for name in (SAVING, LINKING):
            _remove(self.path / name)
        for path in self.path.iterdir():
            if _LEFT_BEHIND.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    """True if two files are one file, or have the same content."""
    return other.is_file() and (one.samefile(other) or filecmp.cmp(one, other, shallow=False))


def _remove(folder: Path) -> None:
    """Remove a folder of a run's files. Where something else lies in it, that stays, and so does the folder."""
    for name in FILES:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
