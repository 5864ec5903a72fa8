"""A network on a set of images: its logits, and what they are worth (foveal.metrics)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveal import metrics
from foveal.data.loader import Loader, even_batch
from foveal.data.readers import Floats, Labels
from foveal.errors import DataError, NumericsError

EVALUATION_BATCH = 256  # images; large enough to keep the threads busy, small enough for the cache
TOP = (3, 5)  # the k of top-k accuracies


class Network(Protocol):
    """What evaluation needs of a `foveal.nn.Module`."""

    def eval(self) -> Any: ...

    def __call__(self, x: Floats, /) -> Any: ...


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


def check_labels(logits: NDArray[Any], y: Labels) -> None:
    """Raise DataError for a label the network has no output for."""
    if y.max() >= logits.shape[1]:
        raise DataError(
            f"label {y.max()} at index {y.argmax()}: the network has {logits.shape[1]} classes, "
            f"numbered 0 to {logits.shape[1] - 1}"
        )


def evaluate(net: Network, x: Floats, y: Labels, *, mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """{"accuracy", "loss"} of the network on images x [n, C, H, W], labels y [n].

    Raises DataError for a label the network has no output for, and as `predict` does.
    """
    logits = predict(net, x, mean=mean, std=std)
    check_labels(logits, y)
    return {"accuracy": metrics.accuracy(logits, y), "loss": metrics.cross_entropy(logits, y)}


def report(logits: NDArray[Any], y: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Everything there is to say about logits [n, K] of images with labels y [n], ready for JSON.

    accuracy, loss; top_k by k; per class precision, recall, F1, images and, where the class has images and is not the
    only
    one, AUC and average precision against the rest; their averages; the confusion matrix, rows being labels;
    calibration.
    """
    check_labels(logits, y)
    probability = np.exp(metrics.log_softmax(logits))
    confusion = metrics.confusion_matrix(y, logits.argmax(1), logits.shape[1])
    scores, told = metrics.class_scores(confusion), metrics.calibration(probability, y)
    return {
        "accuracy": metrics.accuracy(logits, y),
        "loss": metrics.cross_entropy(logits, y),
        "top_k": {str(k): metrics.top_k(logits, y, k) for k in TOP if k < logits.shape[1]},
        "classes": [
            {
                "class": name,
                "images": int(scores.images[k]),
                "precision": float(scores.precision[k]),
                "recall": float(scores.recall[k]),
                "f1": float(scores.f1[k]),
                **against_the_rest(y == k, probability[:, k]),
            }
            for k, name in enumerate(classes)
        ],
        "averages": scores.averages(),
        "confusion": confusion.tolist(),
        "calibration": {
            "ece": told.ece,
            "mce": told.mce,
            "brier": metrics.brier_score(probability, y),
            "bins": [asdict(one) for one in told.bins],
        },
    }


def against_the_rest(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, Any]:
    """AUC and average precision, None where there are no images on one side."""
    if positive.all() or not positive.any():
        return {"auc": None, "average_precision": None}
    return {"auc": metrics.roc_auc(positive, scores), "average_precision": metrics.average_precision(positive, scores)}


def threshold_report(logits: NDArray[Any], y: Labels, chosen: int, rule: dict[str, Any]) -> dict[str, Any]:
    """The threshold of class `chosen`'s probability that `metrics.pick_threshold` finds by `rule`, and what it gives.

    With the curves that it lies on, as points; a threshold of None lies above all scores.
    """
    scores = np.exp(metrics.log_softmax(logits))[:, chosen]
    picked = metrics.pick_threshold(y == chosen, scores, **rule)
    recall = metrics.precision_recall_curve(y == chosen, scores)
    roc = metrics.roc_curve(y == chosen, scores)
    return {
        **asdict(picked),
        "precision_recall_curve": {
            "recall": recall.x.tolist(),
            "precision": recall.y.tolist(),
            "threshold": [*recall.thresholds.tolist(), None],
        },
        "roc_curve": {
            "false_positive_rate": roc.x.tolist(),
            "true_positive_rate": roc.y.tolist(),
            "threshold": [None, *roc.thresholds[1:].tolist()],
        },
    }
