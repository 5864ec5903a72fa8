"""The confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.errors import DataError
from foveal.metrics import checks

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# With so many classes the matrix takes 8 GB.
MAX_CLASSES = 1 << 15
# Images at most, so that each count is a float64 too.
MAX_IMAGES = 1 << 53


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> Counts:
    """Return counts [classes, classes]: entry [i, j] is the number of images of class i that were predicted as class j.

    labels, predicted: class numbers [N]. Raises DataError for shapes that differ, for no images, and for what is none
    of 0 .. classes - 1; there may be MAX_CLASSES.
    """
    classes = checks.whole("confusion_matrix", "classes", classes, 1, MAX_CLASSES)
    truth = checks.class_numbers("confusion_matrix", "label", labels, None, classes)
    prediction = checks.class_numbers("confusion_matrix", "prediction", predicted, None, classes)
    if truth.shape != prediction.shape:
        raise DataError(
            f"confusion_matrix: {len(truth)} labels and {len(prediction)} predictions; give one of each per image"
        )
    # Each pair (i, j) is counted as the number i * classes + j.
    counts = np.bincount(truth * classes + prediction, minlength=classes * classes)
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


def class_scores(confusion: ArrayLike) -> ClassScores:
    """Return the scores of each class from a confusion matrix [K, K] whose rows are labels.

    Raises DataError for what is no matrix of counts, and for one without images.
    """
    counts = checked_counts(confusion)
    true_positives, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    return ClassScores(
        precision=share(true_positives, predicted),
        recall=share(true_positives, labelled),
        f1=share(2 * true_positives, predicted + labelled),
        images=labelled,
        micro=float(true_positives.sum() / counts.sum()),
    )


def checked_counts(confusion: ArrayLike) -> Counts:
    """Return a confusion matrix [K, K] of whole numbers of 0 or more, which count at least one image."""
    matrix = checks.class_scores("class_scores", "counts", confusion)
    if matrix.shape[0] != matrix.shape[1]:
        raise DataError(
            f"class_scores: the counts have shape {matrix.shape}, they have to be [K, K]; confusion_matrix gives them"
        )
    # As floats, in which their sum does not overflow.
    if not ((matrix >= 0) & (np.trunc(matrix) == matrix)).all() or matrix.sum(dtype=np.float64) > MAX_IMAGES:
        raise DataError(
            f"class_scores: counts of images have to be whole numbers of 0 or more, {MAX_IMAGES:,} together at most"
        )
    if not matrix.any():
        raise DataError("class_scores: all counts are 0; there has to be at least one image to be measured")
    return matrix.astype(np.int64)


def share(part: Counts, whole: Counts) -> Floats:
    """Return part / whole, element by element; 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
