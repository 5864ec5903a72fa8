"""Losses of a classifier, with their gradients."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64, and one of whole numbers.
Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def softmax_cross_entropy(logits: Array, labels: Integers) -> tuple[float, Array]:
    """Return (loss, dlogits): the mean over the images of -ln softmax(logits)[label], and its gradient.

    logits: [N, K], of any size: those of 1000 and more must not overflow. labels: [N], from 0 to K - 1. loss is a
    number, and dlogits is [N, K].
    """
    N = len(labels)
    log_p = _log_softmax(logits)
    dlogits = np.exp(log_p)
    dlogits[np.arange(N), labels] -= 1
    return float(-log_p[np.arange(N), labels].mean()), dlogits / N


def class_balanced_focal_loss(
    logits: Array, labels: Integers, counts: Integers, beta: float, gamma: float
) -> tuple[float, Array]:
    """Return (loss, dlogits): the class-balanced focal loss, a mean over the images, and its gradient.

        loss = mean over n of -weight[label] (1 - p)^gamma ln p, with p = softmax(logits[n])[label]

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples": weight[k] is proportional to
    (1 - beta) / (1 - beta^counts[k]), and the weights of all classes sum to K.

    logits: [N, K]. labels: [N], from 0 to K - 1. counts: [K], how many training images each class has, at least 1.
    beta: from 0 to below 1. gamma: 0, or 1 and more. loss is a number, and dlogits is [N, K].
    """
    (N, K), rows = logits.shape, np.arange(len(labels))
    weight = (1 - beta) / (1 - np.power(beta, counts))
    weight = weight * (K / weight.sum())
    log_p = _log_softmax(logits)
    ln = log_p[rows, labels]
    p, w = np.exp(ln), weight[labels]
    loss = -w * (1 - p) ** gamma * ln
    # The slope of (1 - p)^gamma ln p in ln p, where dp / dln p = p; a focal factor of 1 has none of its own.
    bend = gamma * (1 - p) ** (gamma - 1) * p * ln if gamma else 0.0
    slope = -w * ((1 - p) ** gamma - bend)
    # ln p in the logits: 1 at the label, minus the probabilities.
    dlogits = -np.exp(log_p)
    dlogits[rows, labels] += 1
    return float(loss.mean()), slope[:, None] * dlogits / N


def _log_softmax(logits: Array) -> Array:
    """Return ln softmax of each row; the largest logit is subtracted, so that no exponential overflows."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
