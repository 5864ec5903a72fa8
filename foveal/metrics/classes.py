"""The confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.display import Table, Tables, table, text_table
from foveal.errors import DataError
from foveal.metrics import checks
from foveal.strides import Ndarray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# With so many classes the matrix takes 8 GB.
MAX_CLASSES = 1 << 15
# A matrix of more classes is printed as other arrays are.
MAX_PRINTED = 60
# Images at most, so that each count is a float64 too.
MAX_IMAGES = 1 << 53


class ConfusionMatrix(np.ndarray[Any, np.dtype[np.int64]]):
    """Counts [K, K] as an array that is printed with the names of its classes: rows are labels, columns predictions.

    It is an array in all else, and what is computed from it is a plain array.
    """

    #: of the K classes; None for what is no whole confusion matrix, such as a part of one
    classes: tuple[str, ...] | None = None

    def __array_finalize__(self, source: object) -> None:
        # A copy is a confusion matrix too, unless rows and columns were exchanged before.
        if isinstance(source, ConfusionMatrix) and source.flags.c_contiguous:
            self.classes = source.classes

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __array_wrap__(self, array: Ndarray, context: object = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def named_rows(self) -> tuple[Sequence[str], list[tuple[str, ...]]] | None:
        """Return columns and rows of the table, with a dot for 0; None where it is printed as an array."""
        names = self.classes
        if names is None or self.shape != 2 * (len(names),) or len(names) > MAX_PRINTED or not self.flags.c_contiguous:
            return None
        counts = self.tolist()
        rows = [(name, *(str(n) if n else "." for n in row)) for name, row in zip(names, counts, strict=True)]
        return ("label \\ prediction", *names), rows

    def __repr__(self) -> str:
        shown = self.named_rows()
        return repr(np.asarray(self)) if shown is None else text_table(*shown)

    def __str__(self) -> str:
        return repr(self) if self.named_rows() else str(np.asarray(self))

    def _repr_html_(self) -> str | None:
        shown = self.named_rows()
        return None if shown is None else table(*shown)


def confusion_matrix(
    labels: ArrayLike, predicted: ArrayLike, classes: int | Sequence[str] | None = None
) -> ConfusionMatrix:
    """Return counts [K, K]: entry [i, j] is the number of images of class i that were predicted as class j.

    labels, predicted: class numbers [N]. classes: how many there are, or their names, with which the matrix is printed
    and plotted; one more than the highest number of both if not given. Raises DataError for shapes that differ, for no
    images, and for what is none of 0 .. K - 1; there may be MAX_CLASSES.
    """
    names: tuple[str, ...] | None = None
    if classes is None:
        both = [
            checks.class_numbers("confusion_matrix", *pair, None, MAX_CLASSES)
            for pair in (("label", labels), ("prediction", predicted))
        ]
        classes = 1 + max(int(numbers.max()) for numbers in both)
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        names = tuple(classes)
    classes = checks.whole("confusion_matrix", "classes", classes if names is None else len(names), 1, MAX_CLASSES)
    truth = checks.class_numbers("confusion_matrix", "label", labels, None, classes)
    prediction = checks.class_numbers("confusion_matrix", "prediction", predicted, None, classes)
    if truth.shape != prediction.shape:
        raise DataError(
            f"confusion_matrix: {len(truth)} labels and {len(prediction)} predictions; give one of each per image"
        )
    # Each pair (i, j) is counted as the number i * classes + j.
    counts = np.bincount(truth * classes + prediction, minlength=classes * classes)
    matrix = counts.reshape(classes, classes).astype(np.int64).view(ConfusionMatrix)
    matrix.classes = tuple(map(str, range(classes))) if names is None else names
    return matrix


@dataclass(frozen=True, repr=False)
class ClassScores(Tables):
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

    def tables(self) -> Iterator[Table]:
        """Yield a table with a row for each class, by its number, and one for each average."""
        rows = [
            [str(k), *(f"{values[k]:.4f}" for values in (self.precision, self.recall, self.f1)), str(images)]
            for k, images in enumerate(self.images)
        ]
        for name, average in self.averages().items():
            rows.append([f"({name})", *(f"{value:.4f}" for value in average.values()), ""])
        yield "", ("class", "precision", "recall", "f1", "images"), rows

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


def checked_counts(confusion: ArrayLike, metric: str = "class_scores") -> Counts:
    """Return a confusion matrix [K, K] of whole numbers of 0 or more, which count at least one image."""
    matrix = checks.class_scores(metric, "counts", confusion)
    if matrix.shape[0] != matrix.shape[1]:
        raise DataError(
            f"{metric}: the counts have shape {matrix.shape}, they have to be [K, K]; confusion_matrix gives them"
        )
    # As floats, in which their sum does not overflow.
    if not ((matrix >= 0) & (np.trunc(matrix) == matrix)).all() or matrix.sum(dtype=np.float64) > MAX_IMAGES:
        raise DataError(
            f"{metric}: counts of images have to be whole numbers of 0 or more, {MAX_IMAGES:,} together at most"
        )
    if not matrix.any():
        raise DataError(f"{metric}: all counts are 0; there has to be at least one image to be measured")
    return matrix.astype(np.int64)


def share(part: Counts, whole: Counts) -> Floats:
    """Return part / whole, element by element; 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
