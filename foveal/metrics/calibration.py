"""How well a network's confidence agrees with its accuracy.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.display import Table, Tables
from foveal.errors import DataError
from foveal.metrics import checks

# The paper's number of bins.
BINS = 15
# With more bins than that, few images fall into any of them.
MAX_BINS = 1 << 16
# Rounding may put a probability below 0 or above 1 by this much.
SLACK = 1e-6
# Rounding of float32 may put the sum of a row of probabilities off 1 by this much.
SUM_SLACK = 1e-3
# Temperatures that are tried: beyond these, confidences are all alike, or all 1.
COLDEST, HOTTEST = 0.01, 100.0
# Halvings of the range between them: the temperature is then known to a millionth.
HALVINGS = 24


@dataclass(frozen=True)
class Bin:
    """The images with low < confidence <= high."""

    low: float
    high: float
    # How many images there are.
    images: int
    # The mean confidence of the network, and how often it was right; both 0 without images.
    confidence: float
    accuracy: float


@dataclass(frozen=True, repr=False)
class Calibration(Tables):
    """The reliability table and the errors that follow from it; empty bins do not count."""

    bins: tuple[Bin, ...]
    # Expected calibration error: sum_m |B_m| / n |acc(B_m) - conf(B_m)| (eq. 3).
    ece: float
    # Maximum calibration error: the largest |acc(B_m) - conf(B_m)| (eq. 5).
    mce: float

    def tables(self) -> Iterator[Table]:
        """Yield a table with a row for each bin that holds images."""
        rows = [
            (f"{one.low:.3f} - {one.high:.3f}", f"{one.images:,}", f"{one.confidence:.4f}", f"{one.accuracy:.4f}")
            for one in self.bins
            if one.images
        ]
        heading = f"expected calibration error {self.ece:.4f}, maximum {self.mce:.4f}"
        yield heading, ("confidence", "images", "mean", "accuracy"), rows


def checked(metric: str, probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return both as arrays. Raises DataError unless each row of probabilities is a distribution and has a label."""
    values, y = checks.scores_and_labels(metric, probabilities, labels, "probabilities")
    p = values.astype(np.float64)
    if not (p.min() >= -SLACK and p.max() <= 1 + SLACK and np.allclose(p.sum(1), 1, atol=SUM_SLACK)):
        raise DataError(
            f"{metric}: each row of probabilities has to be between 0 and 1 and to add up to 1; apply softmax to logits"
        )
    return p, y


def calibration(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Calibration:
    """Compare confidence with accuracy for probabilities [N, K] and labels [N].

    The confidence of an image is its largest probability; images are put into `bins` bins of equal width. Raises
    DataError for rows that are no distributions, for less than one bin or more than MAX_BINS, and as checks.py says.
    """
    p, y = checked("calibration", probabilities, labels)
    bins = checks.whole("calibration", "bins", bins, 1, MAX_BINS)
    confidence, right = p.max(1), p.argmax(1) == y
    # Bin m holds the confidences in (m / bins, (m + 1) / bins].
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    count = np.maximum(images, 1)
    # Means over the images of each bin, [bins].
    mean_confidence = np.bincount(place, confidence, bins) / count
    mean_accuracy = np.bincount(place, right, bins) / count
    gaps = abs(mean_accuracy - mean_confidence)
    table = tuple(
        Bin(m / bins, (m + 1) / bins, int(images[m]), float(mean_confidence[m]), float(mean_accuracy[m]))
        for m in range(bins)
    )
    return Calibration(table, float((images / len(y) * gaps).sum()), float(gaps.max()))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return mean_n sum_k (p[n,k] - [k = label n])^2 for probabilities [N, K] and labels [N]: 0 .. 2.

    Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    p, y = checked("brier_score", probabilities, labels)
    p[np.arange(len(y)), y] -= 1
    return float((p**2).sum(1).mean())


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature T that makes softmax(logits / T) agree best with the labels: temperature scaling.

    logits [N, K] and labels [N] of a validation part, which was neither trained on nor is what the result is tested
    on. T is above 1 for a network that is surer than it is right; it changes no prediction. It minimises the
    cross-entropy (Guo et al. 2017, section 4.2), which is convex in 1 / T. Logarithms of probabilities are logits too.
    T is from 0.01 to 100; it is at an end where all images are classified right, for example, as the network then
    could always be surer. Raises DataError as checks.py says.

        T = metrics.fit_temperature(validation_logits, y_validation)
        probabilities = np.exp(metrics.log_softmax(test_logits / T))
    """
    values, y = checks.scores_and_labels("fit_temperature", logits, labels, "logits")
    z = values.astype(np.float64)
    if not np.isfinite(z).all():
        raise DataError("fit_temperature: the logits hold infinity; clip logarithms of probabilities, such as at -100")
    z = z - z.max(1, keepdims=True)
    rows = np.arange(len(y))

    def slope(inverse: float) -> float:
        """The derivative of the mean cross-entropy in 1 / T: the mean of E_softmax[z] - z_label."""
        # The largest is 0, so that no exponential overflows.
        weights = np.exp(inverse * z)
        return float((np.einsum("nk,nk->n", weights, z) / weights.sum(1) - z[rows, y]).mean())

    # The derivative grows with 1 / T, so that halving finds where it is 0, or the end that is nearest to that.
    low, high = log(COLDEST), log(HOTTEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(exp(-middle)) < 0 else (middle, high)
    return exp((low + high) / 2)
