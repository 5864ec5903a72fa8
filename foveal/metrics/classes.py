"""Which classes are taken for which, and precision, recall and F1 of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def confusion_matrix(labels: Any, predicted: Any, classes: int) -> Counts:
    """counts[i, j]: images of class i that were taken for class j."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 1 or not len(labels):
        raise DataError(
            f"confusion_matrix: {labels.shape} labels and {predicted.shape} predictions; give one of each per image, at"
            " least one"
        )
    for what, values in (("label", labels), ("prediction", predicted)):
        if values.min() < 0 or values.max() >= classes:
            wrong = values[(values < 0) | (values >= classes)][0]
            raise DataError(f"confusion_matrix: {what} {wrong} is none of the {classes} classes, 0 to {classes - 1}")
    counts = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True)
class ClassScores:
    """By class: precision TP / (TP + FP), recall TP / (TP + FN), F1 2 TP / (2 TP + FP + FN), and how many images it
    has.

    What would be 0 / 0 (a class that was never predicted, or has no images) is 0.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    images: Counts
    micro: float

    def averages(self) -> dict[str, dict[str, float]]:
        """macro: the mean over classes; weighted: by their images; micro: over images, the accuracy for all three."""
        found = {"micro": dict.fromkeys(("precision", "recall", "f1"), self.micro)}
        for name, weights in (("macro", np.ones_like(self.f1)), ("weighted", self.images)):
            found[name] = {
                what: float(np.average(getattr(self, what), weights=weights)) for what in ("precision", "recall", "f1")
            }
        return found


def class_scores(confusion: Counts) -> ClassScores:
    """From a confusion matrix, rows being labels."""
    right, of_class, taken = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return ClassScores(
        share(right, taken),
        share(right, of_class),
        share(2 * right, taken + of_class),
        of_class,
        float(right.sum() / confusion.sum()),
    )


def share(part: Counts, whole: Counts) -> Floats:
    """part / whole, 0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
