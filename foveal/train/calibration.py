"""How far a trained network's probabilities can be trusted: temperature and thresholds, kept in its model file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal import metrics
from foveal.data.dataset import Dataset, Images, Labels
from foveal.data.loader import Loader, even_batch
from foveal.display import Table, Tables
from foveal.errors import DataError, warn
from foveal.files import write_whole
from foveal.strides import Ndarray
from foveal.train.checkpoint import load_net, load_run, model_bytes, model_path
from foveal.train.evaluate import EVALUATION_BATCH, predicted
from foveal.train.files import lock, writing
from foveal.train.run_folder import LOCK

# How far probabilities of one image may be apart, as they are rounded in batches of different sizes.
ROUNDING = 1e-5
# A threshold above every probability, for a class whose answers are not right often enough.
NEVER = 1.0
#: With fewer images a temperature says more of chance than of the network.
FEW_IMAGES = 50


@dataclass(frozen=True, repr=False)
class Calibrated(Tables):
    """What `calibrate` found, and stored in the model file."""

    #: The data set and its part, "validation" or "test", and how many images that has.
    data: str
    part: str
    images: int
    #: What logits are divided by.
    temperature: float
    #: Expected calibration error and cross-entropy on these images, without the temperature and with it.
    ece_before: float
    ece: float
    loss_before: float
    loss: float
    #: By class, the least probability of an answer; None if every image gets a class.
    thresholds: dict[str, float] | None = None
    #: The share of the images that are answered, and how many of the answers are right.
    answered: float = 1.0
    accuracy: float = 0.0

    def tables(self) -> Iterator[Table]:
        """Yield the numbers, and the thresholds if there are some."""
        rows = [
            ("temperature", "1", f"{self.temperature:.3f}"),
            ("expected calibration error", f"{self.ece_before:.4f}", f"{self.ece:.4f}"),
            ("cross-entropy", f"{self.loss_before:.4f}", f"{self.loss:.4f}"),
        ]
        yield f"{self.data}, {self.images:,} {self.part} images:", ("", "before", "calibrated"), rows
        if self.thresholds is not None:
            heading = f"{self.answered:.1%} of the images are answered, {self.accuracy:.1%} of these rightly:"
            yield heading, ("class", "answered from"), [(n, f"{v:.4f}") for n, v in self.thresholds.items()]


def calibrate(
    run: str | Path,
    data: Dataset,
    *,
    none_below: float | None = None,
    precision: float | None = None,
    validation: Loader | None = None,
    cls: type | Sequence[type] = (),
) -> Calibrated:
    """Fit the temperature of a run's model, choose its thresholds, store both in its model file, and return them.

        train.calibrate("runs/flowers", data.load("photos"), precision=0.95)

    data: its validation images are taken, or its test images where there are none; they should not be images that the
    network was trained on, of which it is too certain. Probabilities are softmax(logits / temperature), and the
    temperature is that of the lowest cross-entropy (`metrics.fit_temperature`); it stays 1 if all images are classified
    rightly, as nothing is known of its mistakes then. No temperature changes which class is the most probable one.

    none_below: an image whose most probable class has a lower probability is answered "none of these". precision:
    instead, for each class the lowest threshold with which at least this share of its answers is right on these images;
    a class that never is gets the threshold 1. Without both there are no thresholds. validation: walks through the
    images that a training held out itself, with the model's numbers of classes; they are taken then. run: the folder of
    a run, or its model file. cls: as in `foveal.load`.

    Raises as `load_net` does, DataError for data that do not fit the model, for numbers beyond 0 to 1, and when the
    file cannot be written, or a training writes to the folder.
    """
    for name, value in (("none_below", none_below), ("precision", precision)):
        if value is not None and not 0 < value <= 1:
            raise DataError(f"calibrate: {name} is {value:g}; give a number above 0, up to 1")
    if none_below is not None and precision is not None:
        raise DataError("calibrate: none_below and precision are both given; choose one")
    net, description = load_net(run, cls=cls)
    numbers = description.check(data)
    part = "test" if validation is None and data.images_validation is None else "validation"
    if validation is None:
        x, y = held_out(data)
        mean, std, size = description.mean, description.std, even_batch(len(y), EVALUATION_BATCH)
        validation = Loader(x, numbers[y], size, mean=mean, std=std, channels="first")
    logits, labels = predicted(net, validation, description.tta)
    if len(labels) < FEW_IMAGES:
        warn(f"calibrate: {len(labels)} images say little of how far probabilities can be trusted; give {FEW_IMAGES}")
    temperature = fitted(logits, labels)
    before, after = (np.exp(metrics.log_softmax(logits / value)) for value in (1.0, temperature))
    count = len(description.classes)
    thresholds = None if none_below is None else np.full(count, none_below)
    if precision is not None:
        thresholds = for_precision(after, labels, precision)
    store(run, temperature, None if thresholds is None else tuple(map(float, thresholds)))
    # An answer stands if it reaches the threshold of its own class; the others are "none of these".
    right, certain = after.argmax(1) == labels, np.ones(len(labels), bool)
    if thresholds is not None:
        certain = after.max(1) >= thresholds[after.argmax(1)]
    return Calibrated(
        data=data.name,
        part=part,
        images=len(labels),
        temperature=temperature,
        ece_before=metrics.calibration(before, labels).ece,
        ece=metrics.calibration(after, labels).ece,
        loss_before=metrics.cross_entropy(logits, labels),
        loss=metrics.cross_entropy(logits / temperature, labels),
        thresholds=None if thresholds is None else dict(zip(description.classes, thresholds.tolist(), strict=True)),
        answered=float(certain.mean()),
        accuracy=float(right[certain].mean()) if certain.any() else 0.0,
    )


def held_out(data: Dataset) -> tuple[Images, Labels]:
    """Return the images and the labels of the part that a temperature is fitted on."""
    if data.images_validation is not None and data.y_validation is not None:
        return data.images_validation, data.y_validation
    return data.images_test, data.y_test


def fitted(logits: Ndarray, labels: Labels) -> float:
    """Return the temperature of logits [n, K] with labels [n]; 1 if all are classified rightly."""
    return 1.0 if (logits.argmax(1) == labels).all() else metrics.fit_temperature(logits, labels)


def below(score: float, next_score: float) -> float:
    """A threshold that `score` passes and `next_score` does not, also if kernels of another batch size round it."""
    return score - min(ROUNDING, (score - next_score) / 2)


def for_precision(probability: NDArray[np.float64], labels: Labels, precision: float) -> NDArray[np.float64]:
    """Return for each class [K] the lowest threshold with which that share of its answers is right.

    probability [n, K], labels [n].
    """
    answer, score = probability.argmax(1), probability.max(1)
    found = np.full(probability.shape[1], NEVER)
    for k in range(len(found)):
        rows = np.flatnonzero(answer == k)
        # The most certain ones first, and how many of the first so many are right.
        rows = rows[np.argsort(-score[rows], kind="stable")]
        enough = np.cumsum(labels[rows] == k) >= precision * np.arange(1, len(rows) + 1)
        # Equal scores are answered together.
        last = np.append(score[rows][1:] != score[rows][:-1], True) if len(rows) else enough
        if (enough & last).any():
            place = int(np.flatnonzero(enough & last)[-1])
            # Where all answers together are right often enough, no threshold is needed.
            found[k] = 0.0 if place == len(rows) - 1 else below(*score[rows[place : place + 2]])
    return found


def store(run: str | Path, temperature: float, thresholds: tuple[float, ...] | None) -> None:
    """Write temperature and thresholds into a model file; whoever reads it meanwhile sees the old file or the new."""
    path = model_path(Path(run))
    with writing(path):
        held = lock(path.parent / LOCK)
        try:
            description, state = load_run(run)
            changed = replace(description, temperature=temperature, thresholds=thresholds)
            write_whole(path, model_bytes(state, changed))
        finally:
            with contextlib.suppress(OSError):
                (path.parent / LOCK).unlink()
            held.close()
