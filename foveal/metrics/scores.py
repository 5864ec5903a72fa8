"""Numbers over all images at once, from logits [N, K] and labels [N]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.data.readers import Labels
from foveal.errors import DataError


def accuracy(logits: NDArray[Any], labels: Labels) -> float:
    """The share of rows of logits [N, K] whose largest entry is at the label [N]: 0 .. 1."""
    return float(np.mean(logits.argmax(1) == labels))


def top_k(logits: NDArray[Any], labels: Labels, k: int) -> float:
    """The share of rows whose label is among the k largest entries; of equal entries the first counts as larger."""
    if not 1 <= k <= logits.shape[1]:
        raise DataError(f"top-{k}: there are {logits.shape[1]} classes, k has to be 1 to that many")
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < np.asarray(labels)[:, None]
    rank = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    return float(np.mean(rank < k))


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log probabilities [N, K]; the row's maximum is taken off first, so no logit is too large."""
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    z -= np.log(np.exp(z).sum(1, keepdims=True))
    return z


def cross_entropy(logits: NDArray[Any], labels: Labels) -> float:
    """Mean of -log p[label] over the rows of logits [N, K], in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())
