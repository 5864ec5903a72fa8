"""Checkpoints of a run: the state of its whole training in a file, with a checksum.

There are two, RUN/checkpoints/last.safetensors and previous.safetensors. A new one is written beside them, synchronised
with the disk, and renamed, so that one of them is whole at any moment. Both name the run that they belong to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foveal.errors import DataError, StateError
from foveal.files import write_synchronised
from foveal.nn.models.weights import read_file
from foveal.strides import Ndarray
from foveal.train.files import synchronise

CHECKPOINTS, LAST, PREVIOUS, NEW = "checkpoints", "last.safetensors", "previous.safetensors", ".new"
# The entry of the metadata.
_KEY = "checkpoint"


class Stored(NamedTuple):
    """The newest checkpoint of a run that is whole."""

    #: None where the run was ended before its first one.
    state: dict[str, Ndarray] | None
    #: What is wrong with the files that were passed over, a sentence each.
    problems: tuple[str, ...]


def checkpoint_bytes(state: Mapping[str, Ndarray], run: str) -> bytes:
    """Return the content of a checkpoint. run: names the run that it belongs to."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    return save(arrays, metadata={_KEY: json.dumps({"run": run, "sha256": checksum(arrays, run)})})


def checksum(state: Mapping[str, Ndarray], run: str) -> str:
    """Return the SHA-256 of names, types, shapes and contents of arrays, and of the name of the run."""
    found = hashlib.sha256(run.encode())
    for name, array in sorted(state.items()):
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def write_checkpoint(folder: Path, content: bytes) -> None:
    """Let `content` be the last checkpoint in a folder, and what was the last one the previous one. Raises OSError."""
    if not folder.is_dir():
        folder.mkdir()
        synchronise(folder.parent)
    new, last = folder / NEW, folder / LAST
    try:
        write_synchronised(new, content)
        # Where the process is killed between the two, there is the previous one.
        if last.exists():
            last.replace(folder / PREVIOUS)
        new.replace(last)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    synchronise(folder)


def read_checkpoint(path: Path, run: str) -> dict[str, Ndarray]:
    """Return the state that a checkpoint holds. Raises StateError unless it is whole and of this run."""
    texts, state = read_file(path)
    try:
        entry = json.loads(texts[_KEY])
        owner, expected = str(entry["run"]), entry["sha256"]
    except (KeyError, TypeError, ValueError):
        raise StateError(f"{path}: not a checkpoint of a run, it has no checksum") from None
    if owner != run:
        raise StateError(f"{path}: belongs to another run")
    if checksum(state, owner) != expected:
        raise StateError(f"{path}: damaged, its checksum does not fit")
    return state


def newest_checkpoint(folder: Path, run: str) -> Stored:
    """Return the newest checkpoint in a folder that is whole. Raises StateError if there are some and none is."""
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        try:
            return Stored(read_checkpoint(path, run), tuple(problems))
        except (DataError, StateError) as error:
            problems.append(str(error))
    if problems:
        raise StateError(f"{'; '.join(problems)}. Restore one of them from a copy, or train again")
    return Stored(None, ())
