"""Scores over all images at once, from logits [N, K] and labels [N].

Each raises DataError for what cannot be measured; see checks.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.errors import DataError
from foveal.metrics import checks


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of rows of logits [N, K] whose largest entry is at the label [N]: 0 .. 1."""
    values, classes = checks.scores_and_labels("accuracy", logits, labels, "logits")
    return float(np.mean(values.argmax(1) == classes))


def top_k(logits: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Return the share of rows of logits [N, K] whose label [N] is among the k largest entries: 0 .. 1.

    Of equal entries the first counts as larger. Raises DataError unless 1 <= k <= K.
    """
    values, classes = checks.scores_and_labels("top_k", logits, labels, "logits")
    count = values.shape[1]
    k = checks.whole("top_k", f"k (there are {count} classes)", k, 1, count)
    of_label = values[np.arange(len(classes)), classes][:, None]
    earlier = np.arange(count) < classes[:, None]
    # How many entries of the row are larger than the label's.
    rank = (values > of_label).sum(1) + ((values == of_label) & earlier).sum(1)
    return float(np.mean(rank < k))


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Return log probabilities [N, K]. Each row's maximum is subtracted first, so that no logit is too large.

    A logit of -infinity has probability 0. Raises DataError for rows that hold infinity, or -infinity alone.
    """
    return log_probabilities("log_softmax", checks.class_scores("log_softmax", "logits", logits))


def log_probabilities(metric: str, logits: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return log probabilities of logits [N, K] without NaN, as `log_softmax` does, for the metric of that name."""
    z = np.array(logits, np.float64)
    largest = z.max(1, keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(largest[:, 0]))
    if len(wrong):
        raise DataError(
            f"{metric}: the largest logit of row {wrong[0]} is {largest[wrong[0], 0]}, so the row has no"
            " probabilities; a network that gives infinity cannot be measured by them"
        )
    # The distance of two logits may overflow; its exponential is 0 either way.
    with np.errstate(over="ignore"):
        z -= largest
    z -= np.log(np.exp(z).sum(1, keepdims=True))
    return z


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of -log p[label] over the rows of logits [N, K], in nats; infinity if a label has p = 0.

    Raises DataError as `log_softmax` does.
    """
    values, classes = checks.scores_and_labels("cross_entropy", logits, labels, "logits")
    # 0 - x, as -x of a perfect network is -0.
    return float(0 - log_probabilities("cross_entropy", values)[np.arange(len(classes)), classes].mean())
