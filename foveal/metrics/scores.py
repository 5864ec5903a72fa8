"""Scores over all images at once, from logits [N, K] and labels [N]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.errors import DataError


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of rows of logits [N, K] whose largest entry is at the label [N]: 0 .. 1."""
    return float(np.mean(np.asarray(logits).argmax(1) == np.asarray(labels)))


def top_k(logits: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Return the share of rows of logits [N, K] whose label [N] is among the k largest entries: 0 .. 1.

    Of equal entries the first counts as larger. Raises DataError unless 1 <= k <= K.
    """
    values, classes = np.asarray(logits), np.asarray(labels)
    count = values.shape[1]
    if not 1 <= k <= count:
        raise DataError(f"top-{k}: there are {count} classes, k has to be 1 to that many")
    of_label = values[np.arange(len(classes)), classes][:, None]
    earlier = np.arange(count) < classes[:, None]
    # How many entries of the row are larger than the label's.
    rank = (values > of_label).sum(1) + ((values == of_label) & earlier).sum(1)
    return float(np.mean(rank < k))


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Return log probabilities [N, K]. Each row's maximum is subtracted first, so that no logit is too large."""
    z = np.array(logits, np.float64)
    z -= z.max(1, keepdims=True)
    z -= np.log(np.exp(z).sum(1, keepdims=True))
    return z


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of -log p[label] over the rows of logits [N, K], in nats."""
    classes = np.asarray(labels)
    return float(-log_softmax(logits)[np.arange(len(classes)), classes].mean())
