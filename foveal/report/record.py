"""What is known of a run from the files in its folder, whole or not."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from foveal.names import printable
from foveal.train.checkpoint import LOG, METRICS, MODEL, model_path
from foveal.train.history import PARTS
from foveal.train.run_folder import LOCK, STARTED

# Written by `Recorder`, by `write`, by the check of the data and by the training.
STEPS, PREDICTIONS, REPORT = "steps.json", "predictions.npz", "report.html"
DOCTOR, RUN = "doctor.json", "run.json"
# Larger numbers are none that a run writes, and drawn they would be infinite.
MAX_NUMBER = 1e300
# How run.json says that a run was ended before its time.
CUT_SHORT = ("interrupted", "failed")
# Bytes of a file of JSON that is read; a run writes much less.
MAX_JSON = 1 << 26


@dataclass
class Record:
    """A run, as its files tell it. What is missing is empty, and what cannot be read stands in `problems`."""

    folder: Path
    #: metrics.json, and the lines of log.jsonl
    metrics: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    #: steps.json: "step", "lr", "momentum" and "loss" as lists
    steps: dict[str, list[Any]] = field(default_factory=dict)
    #: run.json, and what the check of the data found
    run: dict[str, Any] = field(default_factory=dict)
    doctor: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def measured(self) -> str | None:
        """The part that the run is judged by: the test images if there are any, else validation, else training."""
        return next((part for part in ("test", "validation", "train") if part in self.last), None)

    @property
    def last(self) -> Mapping[str, Any]:
        """The numbers at the end: those of metrics.json, or else the last line of the log."""
        return self.metrics or (self.lines[-1] if self.lines else {})

    def value(self, name: str) -> float | None:
        """Return "loss" or "accuracy" of the part that the run is judged by; None if it is not known."""
        part = self.last.get(self.measured or "")
        return numeric(part.get(name)) if isinstance(part, Mapping) else None

    def number(self, name: str) -> float | None:
        """Return a number of metrics.json; None if there is none of that name."""
        return numeric(self.metrics.get(name))

    @property
    def epochs_done(self) -> int:
        """Whole epochs that the run has behind it."""
        return int(self.number("epochs_done") or len(self.lines))

    @property
    def locked(self) -> bool:
        """True while a training writes to the folder; also after one that was killed."""
        return (self.folder / LOCK).exists()

    @property
    def alive(self) -> bool | None:
        """Whether the training that holds the lock goes on; None where that cannot be known, as on another machine."""
        pid, _, host = read_text(self, LOCK).partition(" on ")
        if host != socket.gethostname() or not pid.isdecimal() or sys.platform == "win32":
            return None
        try:
            # Signal 0 is none: this asks whether there is such a process.
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True

    @property
    def status(self) -> str:
        """Whether it has ended, in a word or two."""
        if self.problems:
            return "damaged"
        planned, done = self.number("epochs"), self.epochs_done
        if self.locked:
            return {True: "running", False: "killed", None: "running, or killed"}[self.alive]
        if (told := self.run.get("status")) in CUT_SHORT:
            return str(told)
        if not self.metrics or not (self.folder / MODEL).exists():
            return "unfinished"
        return "done" if planned is None or done >= planned else "stopped early"

    @property
    def date(self) -> str:
        """When its files were last written, by the clock of this machine."""
        times = [os.path.getmtime(path) for name in (METRICS, LOG, MODEL) if (path := self.folder / name).exists()]
        return datetime.fromtimestamp(max(times)).strftime("%Y-%m-%d %H:%M") if times else ""

    @property
    def model_bytes(self) -> int | None:
        """The size of the model file; None if there is none."""
        path = model_path(self.folder)
        return path.stat().st_size if path.is_file() else None

    def part_lines(self, part: str, measure: str) -> list[float | None]:
        """Return a measure of a part by epoch."""
        parts = [line.get(part) for line in self.lines]
        return [numeric(found.get(measure)) if isinstance(found, Mapping) else None for found in parts]

    @property
    def parts(self) -> list[str]:
        """The parts of the data that the log speaks of."""
        return [part for part in PARTS if any(isinstance(line.get(part), Mapping) for line in self.lines)]


def numeric(value: object) -> float | None:
    """Return a finite number as a float, and None for anything else."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    return float(value) if known else None  # type: ignore[arg-type]


def read_record(folder: str | Path) -> Record:
    """Return what the files in a folder tell of a run. Nothing is raised for what is missing or damaged."""
    record = Record(Path(folder))
    # While a new run is in its first epoch, what lies in the folder itself is an older one's.
    if record.locked and (record.folder / STARTED).is_dir():
        record.run, record.doctor, steps = (read_object(record, f"{STARTED}/{name}") for name in (RUN, DOCTOR, STEPS))
        read_steps(record, steps)
        return record
    record.metrics = read_object(record, METRICS)
    for number, text in enumerate(read_text(record, LOG).splitlines(), 1):
        line = parsed(record, f"{LOG}, line {number}", text)
        if numeric(line.get("epoch")) is None:
            record.problems.append(f"{LOG}, line {number}: it has no epoch")
            break
        record.lines.append(line)
    record.run, record.doctor = read_object(record, RUN), read_object(record, DOCTOR)
    read_steps(record, read_object(record, STEPS))
    return record


def read_steps(record: Record, steps: Mapping[str, Any]) -> None:
    """Fill in the steps of a run from what steps.json holds, where they belong to its log."""
    seconds = [numeric(line.get("seconds")) for line in record.lines]
    told = steps.get("seconds")
    told = told if isinstance(told, list) else []
    # The log may be an older run's, as where its folder was no folder of a run. A line of the log is there a moment
    # before the steps of its epoch.
    if "running" in steps and record.locked and not (seconds[: len(told)] == told and len(seconds) <= len(told) + 1):
        record.metrics, record.lines, seconds = {}, [], []
    names = ("step", "lr", "momentum", "loss")
    # The steps of another run are not shown.
    belong = told == seconds[: len(told)] and (record.locked or told == seconds)
    columns = [steps.get(name) for name in names]
    if belong and all(isinstance(column, list) and len(column) == len(steps["step"]) for column in columns):
        record.steps = {name: [numeric(value) for value in steps[name]] for name in names}


def read_text(record: Record, name: str) -> str:
    """Return the text of a file; nothing if there is none."""
    path = record.folder / name
    try:
        if not path.is_file():
            return ""
        if path.stat().st_size > MAX_JSON:
            record.problems.append(f"{name}: it has {path.stat().st_size:,} bytes, which no run writes")
            return ""
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        record.problems.append(printable(f"{name}: it cannot be read ({error})"))
        return ""


def read_object(record: Record, name: str) -> dict[str, Any]:
    """Return the JSON object in a file; nothing if there is none, or another thing."""
    text = read_text(record, name)
    return parsed(record, name, text) if text else {}


def parsed(record: Record, what: str, text: str) -> dict[str, Any]:
    """Return a JSON object from its text, and take note where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    record.problems.append(f"{what}: no JSON object")
    return {}
