"""The files of a run: `model.safetensors`, `log.jsonl`, `metrics.json`, `run.json`, in one folder.

The model file alone is enough to rebuild the network: its metadata says which one, for which images, and how they were
normalised. run_folder.py writes them while a run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.data.classes import class_map
from foveal.data.dataset import UNIT, Dataset, other_scale
from foveal.data.decoding.pixels import BLACK
from foveal.data.decoding.preprocessing import Preprocessing
from foveal.errors import DataError, ShapeError, StateError
from foveal.nn.models.weights import read_file
from foveal.nn.module import Module
from foveal.nn.saving import KEY, entry_or_problem, load
from foveal.strides import Ndarray
from foveal.train import metadata

MODEL, LOG, METRICS, RUN = "model.safetensors", "log.jsonl", "metrics.json", "run.json"
# The folder in a run's folder with files that are complete and on their way to their places; see run_folder.py.
SAVED = ".saved"


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
    #: How a network of the caller's own is built, as `net.save` describes it; None for a model of `nn.models`.
    network: dict[str, Any] | None = None
    #: How image files were read; None for a data set of arrays. `reading` is how they are read in both cases.
    preprocessing: Preprocessing | None = None
    #: What logits are divided by, so that the probabilities agree with how often the network is right.
    temperature: float = 1.0
    #: For each class the least probability, after division by the temperature, with which it is answered; below it the
    #: answer is "none of these". None if every image gets a class.
    thresholds: tuple[float, ...] | None = None
    #: Of the weights, where they are not the user's own: a name such as "bsd-3-clause", or a sentence.
    licence: str | None = None
    #: Test-time augmentation that belongs to the model, a name of `train.views.VIEWS`; None for the image alone.
    tta: str | None = None

    @classmethod
    def of(cls, model: str | None, data: Dataset, net: Module | None = None) -> ModelDescription:
        """Return the description of a model of that name, or of a network of the caller's own, trained on `data`.

        Raises DataError for impossible values.
        """
        shared = {f.name: getattr(data, f.name) for f in fields(cls) if hasattr(data, f.name)}
        shared["preprocessing"] = how_read(data.preprocessing)
        # What could not be read again is refused before it is trained.
        try:
            network = None if net is None else entry_or_problem(net)
            return cls(**metadata.checked({"model": model, "data": data.name, "network": network, **shared}))
        except StateError as error:
            raise DataError(f"{data.name}: a model of this data set could not be stored: {error}") from None

    @property
    def reading(self) -> Preprocessing:
        """How image files are read for this model.

        Raises DataError if it was trained on pixels of another range than image files have.
        """
        low, high = self.value_range
        if (low, high) != UNIT:
            raise DataError(
                f"the model was trained on pixels from {low:g} to {high:g}, image files hold 0 to 1 "
                "(bytes / 255): train it on images scaled to the whole range, uint8 from 0 to 255 or floats from 0 to 1"
            )
        if self.preprocessing is not None:
            return self.preprocessing
        # Where nothing is said, what is transparent is black.
        return Preprocessing(self.channels, self.size, background=BLACK, mean=self.mean, std=self.std)

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
        if (self.value_range == UNIT) != (data.value_range == UNIT) or other_scale(self.value_range, data.value_range):
            low, high = self.value_range
            raise DataError(
                f"the model was trained on pixels from {low:g} to {high:g}, those of {data.name} "
                f"go from {data.value_range[0]:g} to {data.value_range[1]:g}: scale them alike"
            )
        return numbers


@dataclass(frozen=True)
class NetworkDescription:
    """How a network is built, trained on data of which nothing more is known; `foveal.load` builds it."""

    #: as `net.save` describes it
    network: dict[str, Any]


def model_bytes(state: Mapping[str, Ndarray], description: ModelDescription | NetworkDescription) -> bytes:
    """Return the content of a model file: the arrays of a model's state and its description, as safetensors."""
    from safetensors.numpy import save

    # safetensors stores arrays in another order than C's wrongly, without an error; asarray keeps 0-d arrays 0-d.
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    entry = {name: value for name, value in asdict(description).items() if value is not None or name == "model"}
    if isinstance(description, ModelDescription):
        # A field that has its default value is left out, as files without it have that value.
        entry = {name: value for name, value in entry.items() if value != metadata.OPTIONAL.get(name, ...)}
        if description.preprocessing is not None:
            entry["preprocessing"] = how_read(description.preprocessing)
    return save(arrays, metadata={KEY: json.dumps(entry)})


def how_read(preprocessing: Preprocessing | None) -> dict[str, Any] | None:
    """Return what of a preprocessing stands in a model file beside the fields of its description."""
    return None if preprocessing is None else {name: getattr(preprocessing, name) for name in metadata.HOW_READ}


def load_run(folder: str | Path) -> tuple[ModelDescription, dict[str, Ndarray]]:
    """Return the description and the state that the model file of a run holds.

    folder: that of the run, or the file itself. Raises DataError if there is no such file, StateError if it is damaged
    or was not written by a run.
    """
    path, staged = model_path(Path(folder)), Path(folder) / SAVED / MODEL
    if not isfile(path):
        raise DataError(f"{folder}: not a run, there is no {path}; `foveal train DATA --out {folder}` makes one")
    try:
        texts, state = read_file(path)
    except (DataError, StateError):
        # A run that is going on may have moved it to its place meanwhile.
        if path == staged and not isfile(staged):
            return load_run(folder)
        raise
    if KEY not in texts:
        raise StateError(
            f"{path}: holds weights but was not written by `foveal train`; build the network and "
            "use net.load_state_dict(safetensors.numpy.load_file(...))"
        )
    try:
        entry = metadata.parse(texts[KEY])
        if entry.keys() != {metadata.NETWORK}:
            return ModelDescription(**metadata.checked(entry)), state
    except StateError as error:
        raise StateError(
            f"{path}: its description of the model is damaged: {error}; restore the file from a copy, or train again"
        ) from None
    raise StateError(
        f"{path}: its network was trained on arrays of which nothing more is known, such as the names of classes;"
        " foveal.load returns it, and a training on a Dataset (foveal.data.from_arrays) writes all that is needed here"
    )


def model_path(run: Path) -> Path:
    """Return the path of a run's model file; run: its folder, or the file itself."""
    # A run that was killed while it saved has its newest model in a folder of its own. (A name that no file can have is
    # no error of os.path.isfile, but one of Path.is_file.)
    staged = run / SAVED / MODEL
    return run if isfile(run) else staged if isfile(staged) else run / MODEL


def load_net(
    folder: str | Path, net: Module | None = None, cls: type | Sequence[type] = ()
) -> tuple[Module, ModelDescription]:
    """Return the trained network of a run, in evaluation mode, and its description.

    net: a network that is built already, into which the weights are loaded. cls: classes of a network of one's own
    that are not found by their import paths; see foveal.load, which says what is called and that nothing is imported.

    Raises as `load_run` does, and StateError that names the parameters when they do not fit.
    """
    from foveal.nn import models
    from foveal.nn.init import without_values

    description, state = load_run(folder)
    name = description.model
    if name is None or net is not None:
        own = load(model_path(Path(folder)), net, cls=cls)
        return own.eval(), description

    def build() -> Module:
        size, classes = description.size, len(description.classes)
        return models.build(name, channels=description.channels, size=size, classes=classes, seed=0)

    # Two things may not fit: the description of the network, and the weights of the network that is built from it. That
    # is found out by a network without memory, since a wrong description may be one of a network of terabytes.
    try:
        with without_values():
            build().load_state_dict(state, strict=True)
        net = build()
        net.load_state_dict(state, strict=True)
    except ShapeError as error:
        raise StateError(f"{folder}: {error}") from None
    except StateError as error:
        raise StateError(f"{folder}: the weights do not fit {name}: {error}") from None
    net.eval()
    return net, description
