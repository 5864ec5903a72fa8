"""Confident learning: which labels are likely wrong, from probabilities of models that were not trained on them.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 70). An image
counts as one of class j if its probability of j reaches the mean of those of the images that are labelled j, and is
the highest of those that do. What is counted as another class than its label is likely labelled wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Confident:
    """What confident learning makes of n labels and probabilities of K classes."""

    #: The mean self-confidence of each class [K]: from there on an image counts as one of it (section 3.1).
    thresholds: Probabilities
    #: How many images of each label count as each class [K, K]: the confident joint (equation 1).
    joint: NDArray[np.int64]
    #: The class that each image counts as [n], -1 where it reaches no threshold.
    counted: Labels
    #: Rows whose label is likely wrong, the most likely first: by the margin of their label's probability.
    wrong: Labels
    #: The share of wrong labels that the joint distribution of labels and classes comes to (equation 3).
    share: float


def confident(labels: Labels, probabilities: Probabilities) -> Confident:
    """Return which of the labels [n] are likely wrong, by probabilities [n, K] of models that did not see them.

    Raises DataError unless there is a row of probabilities for each label.
    """
    count, classes = probabilities.shape
    if len(labels) != count or not count:
        raise DataError(f"confident: {len(labels)} labels and {count} rows of probabilities; give one row per label")
    own = probabilities[np.arange(count), labels]
    per_class = np.bincount(labels, minlength=classes)
    # A class without images has no threshold that could be reached.
    thresholds = np.bincount(labels, own, minlength=classes) / np.maximum(1, per_class)
    thresholds[per_class == 0] = np.inf
    # A probability that is its class's mean but for rounding reaches it.
    reached = probabilities >= thresholds - 1e-12
    among = np.where(reached, probabilities, -1.0)
    counted = np.where(reached.any(1), among.argmax(1), -1)
    joint = np.zeros((classes, classes), np.int64)
    sure = counted >= 0
    np.add.at(joint, (labels[sure], counted[sure]), 1)
    off = np.flatnonzero(sure & (counted != labels))
    margin = own[off] - probabilities[off, counted[off]]
    return Confident(thresholds, joint, counted, off[np.argsort(margin, kind="stable")], off_diagonal(joint, per_class))


def off_diagonal(joint: NDArray[np.int64], per_class: NDArray[np.int64]) -> float:
    """Return the share of labels that are wrong: each row of the joint is scaled to the images of its label."""
    rows = joint.sum(1)
    # A label none of whose images reaches a threshold is taken to be right.
    scaled = np.where(rows[:, None] > 0, joint / np.maximum(1, rows)[:, None], np.eye(len(joint))) * per_class[:, None]
    return float(1 - np.trace(scaled) / max(1, per_class.sum()))
