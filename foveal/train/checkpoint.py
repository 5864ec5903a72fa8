"""The files of a run: `model.safetensors`, `log.jsonl`, `metrics.json`, in one folder.

The model file alone is enough to rebuild the network: its metadata says which one, for which images, and how they were
normalised. Each file is written under a temporary name and then renamed, so that a crash leaves the older one whole.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.data.classes import class_map
from foveal.data.dataset import UNIT, Dataset
from foveal.errors import DataError, ShapeError, StateError
from foveal.nn.module import Module
from foveal.strides import Ndarray

MODEL, LOG, METRICS = "model.safetensors", "log.jsonl", "metrics.json"
# The only metadata entry, since safetensors writes several in an order that varies.
_KEY = "foveal"


@dataclass(frozen=True)
class ModelDescription:
    """All that is needed, beside the weights, to use a trained network."""

    #: A name of `nn.models`, or None for a network of the caller's own.
    model: str | None
    #: The name of the data set it was trained on.
    data: str
    #: Channels and (rows, columns) of an image.
    channels: int
    size: tuple[int, int]
    classes: tuple[str, ...]
    #: As in `Dataset`: per channel, and the range of the pixels before they were normalised.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]

    @classmethod
    def of(cls, model: str | None, data: Dataset) -> ModelDescription:
        """Return the description of a model of that name, trained on `data`."""
        shared = {f.name: getattr(data, f.name) for f in fields(cls) if hasattr(data, f.name)}
        return cls(model=model, data=data.name, **shared)

    def check(self, data: Dataset) -> NDArray[np.int64]:
        """Return the model's number of each class of `data`.

        Raises DataError unless the images and classes of `data` are such as the model was trained on.
        """
        ours, theirs = (self.channels, *self.size), (data.channels, *data.size)
        if ours != theirs:
            raise DataError(
                f"the model takes images of {'x'.join(map(str, ours))}, {data.name} holds "
                f"{'x'.join(map(str, theirs))}: evaluate it on data such as {self.data}"
            )
        numbers = class_map(self.classes, data.classes, data.name)
        if (self.value_range == UNIT) != (data.value_range == UNIT):
            low, high = self.value_range
            raise DataError(
                f"the model was trained on pixels from {low:g} to {high:g}, those of {data.name} "
                f"go from {data.value_range[0]:g} to {data.value_range[1]:g}: scale them alike"
            )
        return numbers


class RunFolder:
    """Writes the files of one run, after every epoch.

    Nothing of an older run in the same folder is touched before the first epoch is done; then its files move to
    `earlier-1` (`earlier-2`, ...) inside the folder. Raises DataError when the folder cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Where the files of an older run went, if there were any.
        self.earlier: Path | None = None
        self._started = False
        # Find out now, before hours of training, that the folder can be written.
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".{os.getpid()}.tmp"
            probe.touch()
            probe.unlink()

    @property
    def model(self) -> Path:
        """The path of the model file."""
        return self.path / MODEL

    def save(
        self,
        state: Mapping[str, Ndarray],
        description: ModelDescription,
        line: Mapping[str, object],
        metrics: Mapping[str, object],
    ) -> None:
        """Write the model, add `line` to the log and write the metrics."""
        with writing(self.path):
            if not self._started:
                self._move_earlier()
                self._started = True
            save_model(self.model, state, description)
            with (self.path / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            text = json.dumps(metrics, indent=2) + "\n"
            _replace(self.path / METRICS, text.encode())

    def _move_earlier(self) -> None:
        """Move the files of an older run to the first of earlier-1, earlier-2, ... that does not exist."""
        files = [self.path / name for name in (MODEL, LOG, METRICS) if (self.path / name).exists()]
        if not files:
            return
        names = (self.path / f"earlier-{number}" for number in itertools.count(1))
        self.earlier = next(path for path in names if not path.exists())
        self.earlier.mkdir()
        for path in files:
            path.rename(self.earlier / path.name)


def save_model(path: Path, state: Mapping[str, Ndarray], description: ModelDescription) -> None:
    """Write the arrays of a model's state and its description as one safetensors file."""
    from safetensors.numpy import save

    # safetensors stores arrays in another order than C's wrongly, without an error; asarray keeps 0-d arrays 0-d.
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    _replace(path, save(arrays, metadata={_KEY: json.dumps(asdict(description))}))


def load_run(folder: str | Path) -> tuple[ModelDescription, dict[str, Ndarray]]:
    """Return the description and the state that the model file of a run holds.

    folder: that of the run, or the file itself. Raises DataError if there is no such file, StateError if it is damaged
    or was not written by a run.
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


def load_net(folder: str | Path) -> tuple[Module, ModelDescription]:
    """Return the trained network of a run, in evaluation mode, and its description.

    Raises as `load_run` does, and StateError that names the parameters when they do not fit.
    """
    from foveal.nn import models

    description, state = load_run(folder)
    if description.model is None:
        raise StateError(f"{folder}: was trained with a network of its own, build that and use load_state_dict")
    # Two things may not fit: the description of the network, and the weights of the network that is built from it.
    try:
        net = models.build(
            description.model,
            channels=description.channels,
            size=description.size,
            classes=len(description.classes),
            seed=0,
        )
    except ShapeError as error:
        raise StateError(f"{folder}: {error}") from None
    try:
        net.load_state_dict(state, strict=True)
    except StateError as error:
        raise StateError(f"{folder}: the weights do not fit {description.model}: {error}") from None
    net.eval()
    return net, description


def _parse(text: str, path: Path) -> ModelDescription:
    """Return the description from its JSON; `path` is for the message of the StateError if it is damaged."""
    try:
        entry = json.loads(text)
        return ModelDescription(
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
    """Write a file so that whoever opens it sees the old content or the new one, and never a part."""
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
    """Convert an OSError inside of the block into a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from None
