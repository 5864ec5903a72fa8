"""RUN/predictions.npz: the probability of each class for each test and validation image, by a run's model.

They are as the network says, with the model's test-time augmentation, and not calibrated.

part          [n] "validation" or "test"
index         [n] the image's place in its part
label         [n] its class, a number of the model's classes
probability   [n, K] float32
model         the SHA-256 of the model file; of another model they say nothing
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal import metrics
from foveal.data.dataset import Dataset
from foveal.data.loader import Loader, even_batch
from foveal.errors import NumericsError
from foveal.files import write_whole
from foveal.nn.module import Module
from foveal.report.record import PREDICTIONS
from foveal.train.checkpoint import ModelDescription, model_path
from foveal.train.evaluate import EVALUATION_BATCH, logits_of
from foveal.train.files import writing
from foveal.train.views import views

# Numbers of a part that are kept at most, 256 MiB; of more images, as many as that are taken at equal distances.
MAX_NUMBERS = 1 << 26
# Below this, float32 has 0.
LEAST = 1e-38
# The same for images in all: what is drawn of more cannot be told apart.
MAX_IMAGES = 200_000


@dataclass(frozen=True)
class Predictions:
    """What a model says about the images of one part."""

    part: str
    #: [n]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    #: [n, K]
    probability: NDArray[np.float32]
    #: Images of the part, of which these may be some.
    images: int

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, [n]."""
        return self.probability.argmax(1)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The probability of that class, [n]."""
        return self.probability.max(1)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether it is the label, [n]."""
        return self.predicted == self.label

    @property
    def loss(self) -> float:
        """The cross-entropy, by `logits`, without an array of them."""
        right = self.probability[np.arange(len(self.label)), self.label].astype(np.float64)
        return float(-np.log(np.maximum(right, LEAST)).mean())

    def thinned(self, numbers: int) -> Predictions:
        """Return as many of the images, at equal distances, as have so many probabilities; all where they are fewer."""
        step = -(-self.probability.size // numbers)
        index, label, probability = self.index[::step], self.label[::step], self.probability[::step]
        return Predictions(self.part, index, label, probability, self.images)

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logarithms of the probabilities, [n, K], which are logits; those that float32 has as 0 are small ones."""
        return np.log(np.maximum(self.probability.astype(np.float64), LEAST))


def parts_of(data: Dataset) -> dict[str, tuple[Any, NDArray[np.int64]]]:
    """Return images and labels of the parts of a data set that a model is measured on."""
    parts: dict[str, tuple[Any, NDArray[np.int64]]] = {}
    if data.images_validation is not None and data.y_validation is not None:
        parts["validation"] = data.images_validation, data.y_validation
    if len(data.images_test):
        parts["test"] = data.images_test, data.y_test
    return parts


def predict_parts(
    net: Module, description: ModelDescription, data: Dataset, held_out: Loader | None, progress: Any
) -> dict[str, Predictions]:
    """Return what the network says about the validation and the test images of a data set.

    held_out: walks through the validation part that a training has held out itself. progress: called on what is walked
    through and its name, and returns the same.
    """
    numbers = description.check(data)
    found = {}
    for part, (images, labels) in parts_of(data).items():
        limit = min(MAX_IMAGES, max(1, MAX_NUMBERS // len(description.classes)))
        index = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), limit)).astype(np.int64))
        how: dict[str, Any] = {"mean": description.mean, "std": description.std, "channels": "first"}
        if len(index) < len(labels):
            how["rows"] = index
        loader = Loader(images, labels, even_batch(len(index), EVALUATION_BATCH), **how)
        probability, _ = probabilities(net, progress(loader.epoch(0), part, len(loader)), description.tta)
        found[part] = Predictions(part, index, numbers[labels[index]], probability, len(labels))
    if held_out is not None and "validation" not in found:
        batches = progress(held_out.epoch(0), "validation", len(held_out))
        probability, labels = probabilities(net, batches, description.tta)
        index = np.arange(len(labels), dtype=np.int64)
        found = {"validation": Predictions("validation", index, labels, probability, len(labels)), **found}
    return found


def probabilities(
    net: Module, batches: Iterable[tuple[Any, Any]], tta: str | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the probabilities [n, K] of batches, and their labels [n]. Raises NumericsError for NaN and infinity.

    tta: the model's test-time augmentation.
    """
    made: list[NDArray[np.float32]] = []
    known: list[NDArray[np.int64]] = []
    seen = views(tta)
    for x, labels in batches:
        # The last batch is filled up to the size of the others.
        logits = seen.mean([logits_of(net(view(x)))[: len(labels)] for view in seen])
        if not np.isfinite(logits).all():
            raise NumericsError("the network's outputs hold NaN or infinity: its parameters are not usable")
        made.append(np.exp(metrics.log_softmax(logits)).astype(np.float32))
        known.append(np.asarray(labels, np.int64))
    return np.concatenate(made), np.concatenate(known)


def digest(run: Path) -> str:
    """Return the SHA-256 of a run's model file."""
    with model_path(run).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_predictions(run: Path, found: Mapping[str, Predictions]) -> None:
    """Write what a run's model says about its images."""
    parts = list(found.values())
    stream = io.BytesIO()
    np.savez(
        stream,
        part=np.concatenate([np.full(len(one.label), one.part) for one in parts]),
        index=np.concatenate([one.index for one in parts]),
        label=np.concatenate([one.label for one in parts]),
        probability=np.concatenate([one.probability for one in parts]),
        images=np.array([one.images for one in parts]),
        model=np.array(digest(run)),
    )
    with writing(run):
        write_whole(run / PREDICTIONS, stream.getvalue())


def read_predictions(run: Path) -> dict[str, Predictions]:
    """Return what was written; nothing if there is none, or what is there is damaged or of another model."""
    try:
        # Opened here, as np.load leaves a damaged file open.
        with (run / PREDICTIONS).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if str(file["model"]) != digest(run):
                return {}
            part, index, label, probability = (file[name] for name in ("part", "index", "label", "probability"))
            counts = file["images"].tolist()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return {}
    if probability.ndim != 2 or not len(part) == len(index) == len(label) == len(probability):
        return {}
    names = [name for name in ("validation", "test") if (part == name).any()]
    rows = {name: part == name for name in names}
    return {
        name: Predictions(name, index[rows[name]], label[rows[name]], probability[rows[name]], int(count))
        for name, count in zip(names, counts, strict=False)
    }
