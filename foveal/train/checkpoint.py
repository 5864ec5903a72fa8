"""The files of a run: `model.safetensors`, `log.jsonl`, `metrics.json`, in one folder.

The model file alone is enough to rebuild the network: its metadata says which one, for which
images, and how they were normalised. Each file is written under a temporary name and put in place
in one step, so that a crash leaves the older one whole.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.data.readers import UNIT, Dataset
from foveal.errors import DataError, ShapeError, StateError

MODEL, LOG, METRICS = "model.safetensors", "log.jsonl", "metrics.json"
_KEY = "foveal"  # the one metadata entry: safetensors writes several in an order that varies

State = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """What is needed, beside the weights, to use a trained network.

    model: a name of `nn.models`, or None for a network of the caller's own. size: H, W.
    mean, std, value_range: as in `Dataset`.
    """

    model: str | None
    data: str
    channels: int
    size: tuple[int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]

    @classmethod
    def of(cls, model: str | None, data: Dataset) -> Run:
        shared = {f.name: getattr(data, f.name) for f in fields(cls) if hasattr(data, f.name)}
        return cls(model=model, data=data.name, **shared)

    def check(self, data: Dataset) -> None:
        """Raise DataError unless the images of `data` are such as this run was trained on."""
        ours, theirs = (self.channels, *self.size), (data.channels, *data.size)
        if ours != theirs:
            raise DataError(
                f"the model takes images of {'x'.join(map(str, ours))}, {data.name} holds "
                f"{'x'.join(map(str, theirs))}: evaluate it on data such as {self.data}"
            )
        if len(data.classes) > len(self.classes):
            raise DataError(
                f"the model has {len(self.classes)} classes, {data.name} {len(data.classes)}: "
                f"evaluate it on data such as {self.data}"
            )
        if (self.value_range == UNIT) != (data.value_range == UNIT):
            low, high = self.value_range
            raise DataError(
                f"the model was trained on pixels from {low:g} to {high:g}, those of {data.name} "
                f"go from {data.value_range[0]:g} to {data.value_range[1]:g}: scale them alike"
            )


class RunFolder:
    """Writes the files of one run, after every epoch.

    Nothing of an older run in the same folder is touched before the first epoch is done; then its
    files move to `earlier-1` (`earlier-2`, ...) inside the folder. Raises DataError when the folder
    cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.earlier: Path | None = None
        self._started = False
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".{os.getpid()}.tmp"
            probe.touch()
            probe.unlink()

    @property
    def model(self) -> Path:
        return self.path / MODEL

    def save(
        self, state: Mapping[str, NDArray[Any]], run: Run, line: Mapping[str, Any], metrics: Mapping[str, Any]
    ) -> None:
        """Write the model, add `line` to the log and write the metrics."""
        with writing(self.path):
            if not self._started:
                self._move_earlier()
                self._started = True
            save_model(self.model, state, run)
            with (self.path / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            text = json.dumps(metrics, indent=2) + "\n"
            _replace(self.path / METRICS, text.encode())

    def _move_earlier(self) -> None:
        there = [self.path / name for name in (MODEL, LOG, METRICS) if (self.path / name).exists()]
        if not there:
            return
        names = (self.path / f"earlier-{number}" for number in itertools.count(1))
        self.earlier = next(path for path in names if not path.exists())
        self.earlier.mkdir()
        for path in there:
            path.rename(self.earlier / path.name)


def save_model(path: Path, state: Mapping[str, NDArray[Any]], run: Run) -> None:
    """Write the arrays of `state` and `run` as one safetensors file."""
    from safetensors.numpy import save

    # safetensors stores other layouts wrongly without a word; asarray keeps 0-d arrays 0-d.
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    _replace(path, save(arrays, metadata={_KEY: json.dumps(asdict(run))}))


def load_run(folder: str | Path) -> tuple[Run, State]:
    """What the model file of a run holds. `folder` may also be the file itself.

    Raises DataError when there is none, StateError when it is torn or was not written by a run.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder)
    path = path if path.is_file() else path / MODEL
    if not path.is_file():
        raise DataError(f"{folder}: not a run, there is no {path}; `foveal train DATA --out {folder}` makes one")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path}: torn or not a safetensors file ({error})") from None
    if _KEY not in metadata:
        raise StateError(
            f"{path}: holds weights but was not written by `foveal train`; build the network and "
            "use net.load_state_dict(safetensors.numpy.load_file(...))"
        )
    return _parse(metadata[_KEY], path), state


def load_net(folder: str | Path) -> tuple[Any, Run]:
    """The trained network of a run, in evaluation mode, and what it was trained on.

    Raises as `load_run` does, and StateError that names the parameters when they do not fit.
    """
    from foveal.nn import models

    run, state = load_run(folder)
    if run.model is None:
        raise StateError(f"{folder}: was trained with a network of its own, build that and use load_state_dict")
    try:
        net = models.build(run.model, channels=run.channels, size=run.size, classes=len(run.classes), seed=0)
    except ShapeError as error:
        raise StateError(f"{folder}: {error}") from None
    try:
        net.load_state_dict(state, strict=True)
    except StateError as error:
        raise StateError(f"{folder}: the weights do not fit {run.model}: {error}") from None
    net.eval()
    return net, run


def _parse(text: str, path: Path) -> Run:
    try:
        entry = json.loads(text)
        return Run(
            model=None if entry["model"] is None else str(entry["model"]),
            data=str(entry["data"]),
            channels=int(entry["channels"]),
            size=(int(entry["size"][0]), int(entry["size"][1])),
            classes=tuple(map(str, entry["classes"])),
            mean=tuple(map(float, entry["mean"])),
            std=tuple(map(float, entry["std"])),
            value_range=(float(entry["value_range"][0]), float(entry["value_range"][1])),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StateError(f"{path}: its description of the model is damaged ({error!r})") from None


def _replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: whoever opens it sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from None
