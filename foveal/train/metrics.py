"""What a network's outputs are worth: accuracy and mean cross-entropy, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveal.data.loader import Loader, even_batch
from foveal.data.readers import Floats, Labels
from foveal.errors import DataError, NumericsError

EVALUATION_BATCH = 256  # images; large enough to keep the threads busy, small enough for the cache


class Network(Protocol):
    """What evaluation needs of a `foveal.nn.Module`."""

    def eval(self) -> Any: ...

    def __call__(self, x: Floats, /) -> Any: ...


def accuracy(logits: NDArray[Any], labels: Labels) -> float:
    """The share of rows of logits [N, K] whose largest entry is at the label [N]: 0 .. 1."""
    return float(np.mean(logits.argmax(1) == labels))


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log probabilities [N, K]; the row's maximum is taken off first, so no logit is too large."""
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    z -= np.log(np.exp(z).sum(1, keepdims=True))
    return z


def cross_entropy(logits: NDArray[Any], labels: Labels) -> float:
    """Mean of -log p[label] over the rows of logits [N, K], in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def predict(net: Network, x: Floats, *, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Logits [n, K] of the images x [n, C, H, W], which are not yet normalised.

    Sets the network to evaluation mode and leaves it there. Raises NumericsError when an output is
    NaN or infinite.
    """
    net.eval()
    batch_size = even_batch(len(x), EVALUATION_BATCH)
    loader = Loader(x, np.zeros(len(x), np.int64), batch_size, mean=mean, std=std)
    logits = np.concatenate([np.array(net(batch))[: len(rows)] for batch, rows in loader.epoch(0)])
    wrong = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(wrong):
        raise NumericsError(
            f"the network's outputs hold NaN or infinity for {len(wrong)} of {len(x)} images, "
            f"first for image {wrong[0]}: its parameters are not usable"
        )
    return logits


def evaluate(
    net: Network, x: Floats, y: Labels, *, mean: Sequence[float], std: Sequence[float]
) -> dict[str, float]:
    """{"accuracy", "loss"} of the network on images x [n, C, H, W], labels y [n].

    Raises DataError for a label the network has no output for, and as `predict` does.
    """
    logits = predict(net, x, mean=mean, std=std)
    if y.max() >= logits.shape[1]:
        raise DataError(
            f"label {y.max()} at index {y.argmax()}: the network has {logits.shape[1]} classes, "
            f"numbered 0 to {logits.shape[1] - 1}"
        )
    return {"accuracy": accuracy(logits, y), "loss": cross_entropy(logits, y)}
