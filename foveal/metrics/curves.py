"""One class against the rest, by threshold: an image is predicted as the class if its score reaches the threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.display import Table, Tables, curve, table
from foveal.errors import DataError
from foveal.kinds import shown
from foveal.metrics import checks

Floats = NDArray[np.float64]
# Points of a curve that are printed.
SHOWN = 10


@dataclass(frozen=True, repr=False)
class Curve(Tables):
    """Points (x, y) of a curve, and the threshold of each; printed, some of them are shown."""

    x: Floats
    y: Floats
    # As many as points, or one less if the last point has none.
    thresholds: Floats
    # What x and y are.
    x_name: str = "x"
    y_name: str = "y"

    def tables(self) -> Iterator[Table]:
        """Yield a table of at most SHOWN points."""
        chosen = np.unique(np.linspace(0, len(self.x) - 1, SHOWN).astype(int))
        thresholds = [f"{t:.6g}" for t in self.thresholds] + ["-"]
        rows = [(thresholds[i], f"{self.x[i]:.4f}", f"{self.y[i]:.4f}") for i in chosen]
        heading = f"{len(rows)} of {len(self.x)} points" if len(rows) < len(self.x) else ""
        yield heading, ("threshold", self.x_name, self.y_name), rows

    def _repr_html_(self) -> str:
        return curve(self.x.tolist(), self.y.tolist()) + super()._repr_html_()


def checked(metric: str, positive: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Return labels [N] as booleans and scores [N] as float64.

    positive: True or 1 for images of the class. Raises DataError for other labels, for scores that are not finite, for
    shapes that differ, and if all images are of the class or none is.
    """
    labels, values = checks.column(metric, "labels", positive), checks.finite(metric, "scores", scores)
    if labels.shape != values.shape:
        raise DataError(f"{metric}: {len(labels)} labels and {len(values)} scores: give one of each per image")
    wrong = np.flatnonzero(~np.isin(labels, (0, 1)))
    if len(wrong):
        raise DataError(
            f"{metric}: labels have to be True or False (1 or 0): is this image of the class? It is {labels[wrong[0]]}"
            f" at index {wrong[0]}"
        )
    of_class = labels.astype(bool)
    if of_class.all() or not of_class.any():
        kind = "no image is" if not of_class.any() else "every image is"
        raise DataError(
            f"{metric}: {kind} of the class ({len(of_class)} images): curves and thresholds need images of it and"
            " others"
        )
    return of_class, values


def precision_recall_curve(positive: ArrayLike, scores: ArrayLike) -> Curve:
    """Return precision (y) by recall (x), from the lowest threshold to the highest.

    The last point is (0, 1), which has no threshold.
    """
    from sklearn import metrics

    precision, recall, thresholds = metrics.precision_recall_curve(*checked("precision_recall_curve", positive, scores))
    return Curve(recall, precision, thresholds, "recall", "precision")


def roc_curve(positive: ArrayLike, scores: ArrayLike) -> Curve:
    """Return the true positive rate (y) by the false positive rate (x), from the highest threshold to the lowest.

    The first point is (0, 0), whose threshold is infinite, the last one is (1, 1).
    """
    from sklearn import metrics

    false, true, thresholds = metrics.roc_curve(*checked("roc_curve", positive, scores), drop_intermediate=False)
    return Curve(false, true, thresholds, "false positive rate", "true positive rate")


def roc_auc(positive: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: 0 .. 1.

    It is the probability that an image of the class scores above one of another class, where ties count half.
    """
    # a training reports it, and scikit-learn takes longer to import than this to compute
    counts = count_by_threshold(*checked("roc_auc", positive, scores), above=True)
    true, false = counts.true_positives, counts.false_positives
    area = np.sum(np.diff(false) * (true[1:] + true[:-1])) / 2
    return float(area / (counts.positives * counts.negatives))


def average_precision(positive: ArrayLike, scores: ArrayLike) -> float:
    """Return sum_n (R_n - R_{n-1}) P_n over the thresholds: precision by recall, without interpolation."""
    counts = count_by_threshold(*checked("average_precision", positive, scores), above=True)
    # from the lowest threshold to the highest, as scikit-learn adds, so that the sum is the same in its last bit
    recall, precision = counts.recall[::-1], counts.precision[::-1]
    return float(-np.sum(np.diff(recall) * precision[:-1]))


@dataclass(frozen=True)
class Threshold:
    """A threshold and the scores that it gives on the images that it was picked on."""

    threshold: float
    precision: float
    recall: float
    f1: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    # The total cost, if costs were given.
    cost: float | None = None

    def _repr_html_(self) -> str:
        values = {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}
        rows = [(k, f"{v:.6g}" if isinstance(v, float) else v) for k, v in values.items() if v is not None]
        return table(("", ""), rows)


def pick_threshold(
    positive: ArrayLike,
    scores: ArrayLike,
    *,
    precision: float | None = None,
    recall: float | None = None,
    costs: tuple[float, float] | None = None,
) -> Threshold:
    """Return the best threshold for scores [N] of images that are of the class or not, `positive` [N].

    At most one aim may be given; without one the best F1 is picked. precision: the highest recall among thresholds that
    reach this precision. recall: the highest precision among thresholds that reach this recall. costs: the lowest total
    cost, for the cost of a false positive and that of a false negative.

    Thresholds are the scores that occur; with costs also one above them all, for which no image is predicted as the
    class. Of equally good ones the highest is picked. Raises DataError for aims that mean nothing or cannot be reached.
    """
    labels, values = checked("pick_threshold", positive, scores)
    aims = [aim for aim in (precision, recall, costs) if aim is not None]
    if len(aims) > 1:
        raise DataError("pick_threshold: give one of precision, recall and costs, or none for the best F1")
    counts = count_by_threshold(labels, values, above=costs is not None)
    if costs is not None:
        return counts.cheapest(*checked_costs(costs))
    for what, value in (("precision", precision), ("recall", recall)):
        if value is not None and not 0 < checks.number("pick_threshold", what, value) <= 1:
            raise DataError(f"pick_threshold: {what} is {value}, it has to be above 0 and at most 1")
    if precision is not None:
        return counts.at_precision(precision)
    # Thresholds that do not reach the recall lose against every one that does.
    if recall is not None:
        return counts.threshold(highest(np.where(counts.recall >= recall, counts.precision, -1.0)))
    return counts.threshold(highest(counts.f1))


def checked_costs(costs: Sequence[float]) -> tuple[float, float]:
    """Return the costs of a false positive and of a false negative. Raises DataError unless they are two numbers."""
    if not isinstance(costs, Sequence | np.ndarray) or isinstance(costs, str) or len(costs) != 2:
        raise DataError(
            f"pick_threshold: costs is {shown(costs)}; give two numbers, the cost of a false positive and that of a"
            " false negative"
        )
    of_false_positive, of_false_negative = (checks.number("pick_threshold", "a cost", cost) for cost in costs)
    return of_false_positive, of_false_negative


def parse_rule(text: str) -> dict[str, Any]:
    """Return the aim of `pick_threshold` as keyword arguments, from f1, precision=0.9, recall=0.9 or cost=1:5.

    Raises DataError for any other text.
    """
    name, _, value = text.partition("=")
    try:
        if name in ("precision", "recall"):
            return {name: float(value)}
        if name == "cost":
            of_false_positive, of_false_negative = value.split(":")
            return {"costs": (float(of_false_positive), float(of_false_negative))}
        if text == "f1":
            return {}
    except ValueError:
        pass
    raise DataError(
        f"rule {text!r}: give f1, precision=0.9, recall=0.9 or cost=1:5 (of a false positive : of a false negative)"
    )


def highest(values: Floats) -> int:
    """Return the index of the largest value; of equal ones the first, which has the highest threshold."""
    return int(np.argmax(values))


@dataclass(frozen=True)
class CountsByThreshold:
    """True and false positives at each of T thresholds, from the highest on."""

    # Arrays [T].
    thresholds: Floats
    true_positives: Floats
    false_positives: Floats
    # Images of the class, and all others.
    positives: int
    negatives: int

    @property
    def precision(self) -> Floats:
        """Precision at each threshold, [T]; 0 where no image is predicted as the class."""
        predicted = self.true_positives + self.false_positives
        return np.divide(self.true_positives, predicted, out=np.zeros(len(predicted)), where=predicted > 0)

    @property
    def recall(self) -> Floats:
        """Recall at each threshold, [T]."""
        return self.true_positives / self.positives

    @property
    def f1(self) -> Floats:
        """F1 at each threshold, [T]."""
        return 2 * self.true_positives / (self.true_positives + self.false_positives + self.positives)

    def threshold(self, i: int, cost: float | None = None) -> Threshold:
        """Return the i-th threshold with all its scores."""
        true_positives, false_positives = int(self.true_positives[i]), int(self.false_positives[i])
        return Threshold(
            threshold=float(self.thresholds[i]),
            precision=float(self.precision[i]),
            recall=float(self.recall[i]),
            f1=float(self.f1[i]),
            true_positives=true_positives,
            false_positives=false_positives,
            false_negatives=self.positives - true_positives,
            true_negatives=self.negatives - false_positives,
            cost=cost,
        )

    def at_precision(self, aim: float) -> Threshold:
        """Return the threshold with the highest recall among those that reach a precision."""
        reached = self.precision >= aim
        if not reached.any():
            raise DataError(
                f"pick_threshold: no threshold gives a precision of {aim}; the highest is"
                f" {self.precision.max():.4f}, ask for that or less"
            )
        return self.threshold(highest(np.where(reached, self.recall, -1.0)))

    def cheapest(self, of_false_positive: float, of_false_negative: float) -> Threshold:
        """Return the threshold with the lowest total cost."""
        sum_of_costs = of_false_positive + of_false_negative
        if not (of_false_positive >= 0 and of_false_negative >= 0 and 0 < sum_of_costs < np.inf):
            raise DataError(
                f"pick_threshold: costs of {of_false_positive:g} for a false positive and {of_false_negative:g} for a"
                f" false negative; both have to be 0 or more, and one of them above 0"
            )
        false_negatives = self.positives - self.true_positives
        costs = of_false_positive * self.false_positives + of_false_negative * false_negatives
        i = highest(-costs)
        return self.threshold(i, float(costs[i]))


def count_by_threshold(labels: NDArray[np.bool_], values: Floats, above: bool) -> CountsByThreshold:
    """Count true and false positives at every score that occurs; `above` adds one threshold above them all.

    labels [N] are True for images of the class, values [N] are the scores.
    """
    # From the highest score on: at each threshold the images up to there are predicted as the class.
    order = np.argsort(-values, kind="stable")
    values, labels = values[order], labels[order]
    # Equal scores are one threshold, whose counts are those at the last of them.
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    true_positives, predicted = np.cumsum(labels)[last].astype(np.float64), last + 1.0
    thresholds, false_positives = values[last], predicted - true_positives
    if above:
        thresholds = np.append(np.nextafter(values[0], np.inf), thresholds)
        true_positives, false_positives = np.append(0.0, true_positives), np.append(0.0, false_positives)
    return CountsByThreshold(thresholds, true_positives, false_positives, int(labels.sum()), int((~labels).sum()))
