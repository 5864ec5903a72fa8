"""Whether a network is right as often as it says.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError

BINS = 15  # the paper's
SLACK = 1e-6  # rounding of probabilities that add up to 1


@dataclass(frozen=True)
class Bin:
    """Images with low < confidence <= high: how many, how sure the network was of them, and how often it was right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The reliability table and what follows from it. Empty bins count nothing, their means are 0.

    ece: sum_m |B_m| / n |acc(B_m) - conf(B_m)| (eq. 3). mce: the largest gap of a bin (eq. 5).
    """

    bins: tuple[Bin, ...]
    ece: float
    mce: float


def checked(probabilities: Any, labels: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(y):
        raise DataError(
            f"calibration: probabilities of shape {p.shape} and labels of shape {y.shape}; give probabilities [N,"
            f" classes] and one label per row"
        )
    if not (p.min() >= -SLACK and p.max() <= 1 + SLACK and np.allclose(p.sum(1), 1, atol=1e-3)):
        raise DataError(
            "calibration: each row of probabilities has to be between 0 and 1 and to add up to 1; apply softmax to"
            " logits"
        )
    return p, y


def calibration(probabilities: Any, labels: Any, bins: int = BINS) -> Calibration:
    """From probabilities [N, K] and labels [N]; confidence is the largest probability, in `bins` bins of equal
    width.
    """
    p, y = checked(probabilities, labels)
    if bins < 1:
        raise DataError(f"calibration: {bins} bins, at least 1 is needed")
    confidence, right = p.max(1), p.argmax(1) == y
    # bin m holds (m / bins, (m + 1) / bins]
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    count = np.maximum(images, 1)
    sure = np.bincount(place, confidence, bins) / count
    correct = np.bincount(place, right, bins) / count
    gaps = abs(correct - sure)
    table = tuple(Bin(m / bins, (m + 1) / bins, int(images[m]), float(sure[m]), float(correct[m])) for m in range(bins))
    return Calibration(table, float((images / len(y) * gaps).sum()), float(gaps.max()))


def brier_score(probabilities: Any, labels: Any) -> float:
    """mean_n sum_k (p[n,k] - [k = label n])^2: 0 .. 2 (Brier 1950)."""
    p, y = checked(probabilities, labels)
    wanted = np.eye(p.shape[1])[y]
    return float(((p - wanted) ** 2).sum(1).mean())
