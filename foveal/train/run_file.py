"""run.json: what a run was started with, so that it can be gone on with, repeated, and shown."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

import foveal
from foveal.data.dataset import Dataset
from foveal.data.decoding.members import file_of
from foveal.data.loader import Loader
from foveal.data.scanning.membership import Division
from foveal.data.sources import Arrays, leaves
from foveal.errors import ArgumentError, DataError, StateError, warn
from foveal.files import write_whole
from foveal.kernel import target
from foveal.optim.schedule import NAMES
from foveal.train.checkpoint import RUN
from foveal.train.feed import Feed
from foveal.train.files import writing
from foveal.train.run_folder import STARTED
from foveal.train.settings import Settings
from foveal.train.state import plain

# Of the names in run.json and what they hold.
VERSION = 1
# What a run can be: going on (or killed), interrupted, ended by an error, or at its end.
RUNNING, INTERRUPTED, FAILED, ENDED = "running", "interrupted", "failed", "ended"
PACKAGES = ("numpy", "llvmlite", "safetensors", "pillow")
# Settings that change no bits; what was found for `minutes` is compared. And schedules that are the same for any number
# of epochs.
HARMLESS = ("threads", "minutes")
ENDLESS = ("constant", "plateau", "cosine-restarts", "triangular", "triangular2")
# What a run that goes on keeps of what it was started with.
KEPT = ("id", "started", "command")
# Of larger arrays, rows of so many bytes in all are compared, spread evenly, so that no run has to wait for long.
COMPARED_BYTES = 1 << 28


def facts(
    settings: Settings,
    loaders: Mapping[str, Loader],
    feed: Feed,
    files: Iterable[str],
    command: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of run.json at the start of a run.

    loaders: of the training data and of the parts that are measured, by name. feed: what is known of the data. files:
    of the images, where they are files that are read while the run goes on. command: what `foveal train` was called
    with; None for a program's run.
    """
    return {
        "version": VERSION,
        "id": uuid4().hex,
        "status": RUNNING,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "data": {
            "name": feed.name,
            "parts": {part: contents(loader) for part, loader in loaders.items()},
            # Which files are trained on, so that none of them is taken for a test image later.
            "files": feed.files,
            # With the seed it says which training images are held out.
            "share": feed.share,
        },
        "files": digest(f"{Path(path).name} {size}" for path, (size, _) in stamps(files).items()),
        "settings": {key: value for key, value in asdict_of(settings).items() if plain(value)},
        "seed": settings.seed,
        "versions": versions(),
    }


def asdict_of(settings: Settings) -> dict[str, Any]:
    """Return the settings by name, without a copy of what is no number and no text."""
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def versions() -> dict[str, str]:
    """Return what the bits of a result depend on beside data, options and seed: packages, the CPU, its vectors."""
    found = {"foveal": foveal.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    here = target.used()
    system = f"{platform.system()} {platform.machine()}"
    return {**found, "cpu": here.name, "target": here.vectors, "system": system}


def run_path(run: Path) -> Path:
    """Return the path of the run.json of the newest run in a folder: one whose first epoch is not done lies apart."""
    started = run / STARTED / RUN
    return started if started.is_file() else run / RUN


def read_facts(run: Path) -> dict[str, Any]:
    """Return what a run was started with. Raises DataError where there is no run, StateError for a damaged file."""
    path = run_path(run)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"{run}: there is no run to go on with, no {path.name} in it; `foveal train DATA --out {run}` begins one"
        ) from None
    except ValueError as error:
        raise StateError(f"{path}: damaged, it is no JSON ({error}); restore it from a copy, or train again") from None
    kinds = {"id": str, "status": str, "data": dict, "settings": dict, "versions": dict}
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise StateError(
            f"{path}: not the run.json of this Foveal, {foveal.__version__}, which reads version {VERSION}"
        )
    if wrong := [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]:
        raise StateError(f"{path}: damaged, {wrong[0]} is missing in it; restore it from a copy, or train again")
    return found


def division_of(run: Path) -> Division:
    """Return how the run of a model had divided its image files; without any file where nothing is known of them.

    run: its folder or its model file. A run that has begun in the same folder and has no model yet is another one.
    """
    folder = run if run.is_dir() else run.parent
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
        command = found["command"] or {}
        return Division.read(found["data"].get("files"), command.get("options", {}).get("group_by"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Division()


def end(run: Path) -> None:
    """Say in run.json that nothing of a run is left to do. Raises DataError and StateError as `read_facts` does."""
    text = json.dumps({**read_facts(run), "status": ENDED}, indent=2) + "\n"
    with writing(run):
        write_whole(run_path(run), text.encode())


def check_goes_on(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    """Raise DataError if the data are others than those that a run was started with; warn of other versions.

    before, now: the content of run.json, as it was written and as it would be.
    """
    for part in {**before["data"].get("parts", {}), **now["data"]["parts"]}:
        was, found = (entry["data"].get("parts", {}).get(part) for entry in (before, now))
        if was != found:
            counts = [None if entry is None else entry["items"] for entry in (was, found)]
            change = f"{counts[0]} then, {counts[1]} now" if counts[0] != counts[1] else "their contents have changed"
            raise DataError(
                f"{run}: the data are not those that it was trained on ({part} items: {change}), so that it cannot go"
                " on to the same result. Restore them, or begin anew in another folder"
            )
    check_settings(before["settings"], now["settings"], run)
    if before.get("files") != now["files"]:
        raise DataError(
            f"{run}: the files of the images are others than those that it was trained on, by names and sizes. Restore"
            " them, or begin anew in another folder"
        )
    changed = [
        f"{name} was {before['versions'][name]} and is {value}"
        for name, value in now["versions"].items()
        # What is not written there has not been asked.
        if before["versions"].get(name, value) != value
    ]
    if changed:
        warn(f"{run}: {', '.join(changed)}: the last bits of the result may be others than without the interruption")


def check_settings(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    """Raise ArgumentError if settings are others, and the bits with them; a longer run may be the same up to here."""
    for name, value in now.items():
        # A run that began before there was an option has gone without it.
        was = before.get(name, getattr(Settings, name, None))
        if was == value or name in HARMLESS:
            continue
        why = ""
        if name == "shards" and was is None:
            why = ": its batches are taken whole, by one process; go on without mpiexec"
        if name == "epochs" and was is not None and value > was:
            if now["schedule"] in ENDLESS or now["schedule"] not in NAMES:
                continue
            why = (
                f": the schedule {now['schedule']} is laid over all epochs, and would have been another from the start"
            )
        raise ArgumentError(
            f"{run}: {name} was {was} and is {value}, which cannot change in a run that goes on{why}. Leave it out, or"
            " begin anew in another folder"
        )


# What the data are.


def contents(loader: Loader) -> dict[str, Any]:
    """Return the number of a loader's items, and a checksum of arrays; None for what cannot be read twice."""
    checksum = None
    if isinstance(loader.source, Arrays):
        found = hashlib.sha256()
        for array in (*leaves(loader.source.x), *leaves(loader.source.y)):
            found.update(json.dumps([list(map(int, array.shape)), str(array.dtype)]).encode())
            if array.dtype == object:
                found.update(json.dumps(np.asarray(array).tolist(), default=str).encode())
            elif isinstance(array, np.ndarray):
                every = max(1, -(-array.nbytes // COMPARED_BYTES))
                found.update(np.ascontiguousarray(array[::every]).reshape(-1).view(np.uint8).data)
        if loader.rows is not None:
            found.update(loader.rows.tobytes())
        checksum = found.hexdigest()
    return {"items": loader.count, "sha256": checksum}


def digest(lines: Iterable[str]) -> str | None:
    """Return a checksum of lines; None if there are none."""
    text = "\n".join(lines)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if text else None


def stamps(files: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of files, in nanoseconds; (-1, 0) for one that is not there.

    For images inside of other files these are the files that they lie in.
    """
    found: dict[str, tuple[int, int]] = {}
    for path in dict.fromkeys(str(file_of(file)) for file in files):
        try:
            seen = os.stat(path)
            found[path] = seen.st_size, seen.st_mtime_ns
        except OSError:
            found[path] = -1, 0
    return found


def files_read(data: object) -> list[str]:
    """Return the files of images that a data set reads while it is trained on; none where all are in memory."""
    if not isinstance(data, Dataset) or isinstance(data.images_train, np.ndarray):
        return []
    return [path for paths in (data.files or {}).values() for path in paths]
