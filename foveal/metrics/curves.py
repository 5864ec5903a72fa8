"""One class against the rest, by threshold: an image is taken for the class where its score is at least the
threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points (x, y) and the threshold of each; the last may have none."""

    x: Floats
    y: Floats
    thresholds: Floats


def checked(positive: Any, scores: Any) -> tuple[NDArray[np.bool_], Floats]:
    """Labels as booleans and scores as numbers, both kinds of labels being there."""
    labels, values = np.asarray(positive), np.asarray(scores, np.float64)
    if labels.shape != values.shape or labels.ndim != 1:
        raise DataError(f"{labels.shape} labels and {values.shape} scores: give one of each per image")
    if not np.isfinite(values).all():
        raise DataError("scores hold NaN or infinity: they cannot be put in an order")
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise DataError("labels have to be True or False (1 or 0): is this image of the class?")
    found = labels.astype(bool)
    if found.all() or not found.any():
        kind = "no image is" if not found.any() else "every image is"
        raise DataError(
            f"{kind} of the class ({len(found)} images): curves and thresholds need images of it and others"
        )
    return found, values


def precision_recall_curve(positive: Any, scores: Any) -> Curve:
    """x recall, y precision, from the lowest threshold to the highest and the point (0, 1) without one."""
    from sklearn import metrics

    precision, recall, thresholds = metrics.precision_recall_curve(*checked(positive, scores))
    return Curve(recall, precision, thresholds)


def roc_curve(positive: Any, scores: Any) -> Curve:
    """x false positive rate, y true positive rate, from (0, 0), where the threshold is infinite, to (1, 1)."""
    from sklearn import metrics

    return Curve(*metrics.roc_curve(*checked(positive, scores), drop_intermediate=False))


def roc_auc(positive: Any, scores: Any) -> float:
    """The area under the ROC curve: how often an image of the class scores above another one, ties counting half."""
    from sklearn import metrics

    return float(metrics.roc_auc_score(*checked(positive, scores)))


def average_precision(positive: Any, scores: Any) -> float:
    """sum_n (R_n - R_{n-1}) P_n over the thresholds: precision by recall, without interpolation."""
    from sklearn import metrics

    return float(metrics.average_precision_score(*checked(positive, scores)))


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it gives on the images that it was picked on. cost: where costs were given."""

    threshold: float
    precision: float
    recall: float
    f1: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    cost: float | None = None


def pick_threshold(
    positive: Any,
    scores: Any,
    *,
    precision: float | None = None,
    recall: float | None = None,
    costs: tuple[float, float] | None = None,
) -> Threshold:
    """The threshold with the best F1; or the one with the most recall at a wanted precision, with the most precision at
    a
    wanted recall, or with the least cost, costs being those of a false positive and of a false negative.

    Thresholds are the scores that occur; with costs also one above them all, which takes nothing for the class. Of
    equally
    good ones the highest is taken. Where all scores are equal there is one: it takes every image for the class.
    """
    labels, values = checked(positive, scores)
    wanted = [w for w in (precision, recall, costs) if w is not None]
    if len(wanted) > 1:
        raise DataError("pick_threshold: give one of precision, recall and costs, or none for the best F1")
    table = counted(labels, values, above=costs is not None)
    if costs is not None:
        return table.cheapest(*costs)
    for what, value in (("precision", precision), ("recall", recall)):
        if value is not None and not 0 < value <= 1:
            raise DataError(f"pick_threshold: {what} is {value}, it has to be above 0 and at most 1")
    if precision is not None:
        return table.at_precision(precision)
    if recall is not None:
        good = table.recall >= recall
        return table.row(best(np.where(good, table.precision, -1.0)))
    return table.row(best(table.f1))


def parse_rule(text: str) -> dict[str, Any]:
    """What `pick_threshold` takes, from f1, precision=0.9, recall=0.9 or cost=1:5."""
    name, _, value = text.partition("=")
    try:
        if name in ("precision", "recall"):
            return {name: float(value)}
        if name == "cost":
            alarm, miss = value.split(":")
            return {"costs": (float(alarm), float(miss))}
        if text == "f1":
            return {}
    except ValueError:
        pass
    raise DataError(
        f"rule {text!r}: give f1, precision=0.9, recall=0.9 or cost=1:5 (of a false positive : of a false negative)"
    )


def best(values: Floats) -> int:
    """The first of the largest; thresholds fall along the table."""
    return int(np.argmax(values))


@dataclass(frozen=True)
class Table:
    """True and false positives at each threshold, from the highest on."""

    thresholds: Floats
    hits: Floats
    alarms: Floats
    positives: int
    negatives: int

    @property
    def precision(self) -> Floats:
        taken = self.hits + self.alarms
        return np.divide(self.hits, taken, out=np.zeros(len(taken)), where=taken > 0)

    @property
    def recall(self) -> Floats:
        return self.hits / self.positives

    @property
    def f1(self) -> Floats:
        return 2 * self.hits / (self.hits + self.alarms + self.positives)

    def row(self, i: int, cost: float | None = None) -> Threshold:
        hits, alarms = int(self.hits[i]), int(self.alarms[i])
        return Threshold(
            float(self.thresholds[i]),
            float(self.precision[i]),
            float(self.recall[i]),
            float(self.f1[i]),
            hits,
            alarms,
            self.positives - hits,
            self.negatives - alarms,
            cost,
        )

    def at_precision(self, wanted: float) -> Threshold:
        good = self.precision >= wanted
        if not good.any():
            raise DataError(
                f"pick_threshold: no threshold gives a precision of {wanted}; the highest is"
                f" {self.precision.max():.4f}, ask for that or less"
            )
        return self.row(best(np.where(good, self.recall, -1.0)))

    def cheapest(self, alarm: float, miss: float) -> Threshold:
        if not (alarm >= 0 and miss >= 0 and 0 < alarm + miss < np.inf):
            raise DataError(
                f"pick_threshold: costs of {alarm} for a false positive and {miss} for a false negative; both have to"
                f" be 0 or more, and one of them above 0"
            )
        costs = alarm * self.alarms + miss * (self.positives - self.hits)
        i = best(-costs)
        return self.row(i, float(costs[i]))


def counted(labels: NDArray[np.bool_], values: Floats, above: bool) -> Table:
    """The table over all scores that occur; `above`: with one more, above them all."""
    order = np.argsort(-values, kind="stable")
    values, labels = values[order], labels[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # of each run of equal ones
    hits, seen = np.cumsum(labels)[last].astype(np.float64), last + 1.0
    thresholds, alarms = values[last], seen - hits
    if above:
        thresholds = np.append(np.nextafter(values[0], np.inf), thresholds)
        hits, alarms = np.append(0.0, hits), np.append(0.0, alarms)
    return Table(thresholds, hits, alarms, int(labels.sum()), int((~labels).sum()))
