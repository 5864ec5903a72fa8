"""The confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> Counts:
    """Return counts [classes, classes]: entry [i, j] is the number of images of class i that were predicted as class j.

    labels, predicted: class numbers [N]. Raises DataError for shapes that differ, for no images, and for numbers
    outside of 0 .. classes - 1.
    """
    truth, prediction = np.asarray(labels), np.asarray(predicted)
    if truth.shape != prediction.shape or truth.ndim != 1 or not len(truth):
        raise DataError(
            f"confusion_matrix: {truth.shape} labels and {prediction.shape} predictions; give one of each per image, at"
            " least one"
        )
    for what, values in (("label", truth), ("prediction", prediction)):
        if values.min() < 0 or values.max() >= classes:
            wrong = values[(values < 0) | (values >= classes)][0]
            raise DataError(f"confusion_matrix: {what} {wrong} is none of the {classes} classes, 0 to {classes - 1}")
    # Each pair (i, j) is counted as the number i * classes + j.
    counts = np.bincount(truth.astype(np.int64) * classes + prediction, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class, arrays [K]. What would be 0 / 0 (a class never predicted, or without images) is 0."""

    # TP / (TP + FP)
    precision: Floats
    # TP / (TP + FN)
    recall: Floats
    # 2 TP / (2 TP + FP + FN)
    f1: Floats
    # How many images the class has.
    images: Counts
    # The accuracy over all images.
    micro: float

    def averages(self) -> dict[str, dict[str, float]]:
        """Return averages of precision, recall and f1, by the name of the average.

        "macro" is the mean over classes. "weighted" weighs classes by their images. "micro" counts over all images,
        which gives the accuracy for all three scores.
        """
        averages = {"micro": dict.fromkeys(("precision", "recall", "f1"), self.micro)}
        for name, weights in (("macro", np.ones_like(self.f1)), ("weighted", self.images)):
            averages[name] = {
                what: float(np.average(getattr(self, what), weights=weights)) for what in ("precision", "recall", "f1")
            }
        return averages


def class_scores(confusion: Counts) -> ClassScores:
    """Return the scores of each class from a confusion matrix [K, K] whose rows are labels."""
    true_positives, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return ClassScores(
        precision=share(true_positives, predicted),
        recall=share(true_positives, labelled),
        f1=share(2 * true_positives, predicted + labelled),
        images=labelled,
        micro=float(true_positives.sum() / confusion.sum()),
    )


def share(part: Counts, whole: Counts) -> Floats:
    """Return part / whole, element by element; 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
