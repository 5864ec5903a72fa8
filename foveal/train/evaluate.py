"""Evaluation: the logits of a network on a set of images, and the metrics of these (foveal.metrics)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveal import metrics
from foveal.data.dataset import Floats, Images, Labels
from foveal.data.loader import Loader, even_batch
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.explain.model import modes_restored
from foveal.metrics import checks
from foveal.nn.module import Module
from foveal.strides import Ndarray
from foveal.train.views import views

# Images at once: enough to keep the threads busy, few enough for their activations to stay in the cache.
EVALUATION_BATCH = 256
# The k of the top-k accuracies that are reported.
TOP = (3, 5)


class Network(Protocol):
    """What evaluation needs of a `foveal.nn.Module`."""

    def eval(self) -> Any: ...

    def __call__(self, x: Floats, /) -> Any: ...


def predict(net: Network, x: Images, *, mean: Sequence[float], std: Sequence[float], tta: str | None = None) -> Floats:
    """Return the logits [n, K] of images x [n, C, H, W], which are not yet normalised; bytes stand for value / 255.

    The network computes in evaluation mode, and its layers are afterwards in the modes that they were in. tta: what is
    averaged over, test-time augmentation: "flip" (the image and its mirror image), "crops" (the image, and moved by
    1/16 to four sides) or "crops+flip"; the result is then the logarithm of the mean probability of each class, which
    are logits as well. Or "shifts+flip": the image, and moved by 1/32 to two sides, which counts as much, and their
    mirror images, of whose logits this is the mean. It takes as many times as long as there are views. Raises DataError
    if there are no images, NumericsError if an output is NaN or infinite, and ShapeError for another tta.
    """
    if np.ndim(x) != 4 or not len(x):
        raise DataError(f"images of shape {np.shape(x)} cannot be classified: give images [n, C, H, W], one or more")
    # All batches have one size, as each is compiled; the last one is filled up, and its logits are cut off.
    batch_size = even_batch(len(x), EVALUATION_BATCH)
    loader = Loader(x, np.zeros(len(x), np.int64), batch_size, mean=mean, std=std, channels="first")
    return predicted(net, loader, tta)[0]


def predicted(net: Network, loader: Loader, tta: str | None = None) -> tuple[Floats, Labels]:
    """Return the logits [n, K] of all images that a loader walks through, and their labels [n]; else as `predict`."""
    seen, made, known = views(tta), list[Floats](), list[Labels]()
    # A network of another kind is left as its eval() leaves it.
    with modes_restored(net) if isinstance(net, Module) else nullcontext():
        net.eval()
        for batch, labels in loader.epoch(0):
            made.append(seen.mean([logits_of(net(view(batch)))[: len(labels)] for view in seen]))
            known.append(np.asarray(labels, np.int64))
    if not made:
        raise DataError("there are no images to classify; give one or more")
    logits = np.concatenate(made)
    wrong = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(wrong):
        raise NumericsError(
            f"the network's outputs hold NaN or infinity for {len(wrong)} of {len(logits)} images, "
            f"first for image {wrong[0]}: its parameters are not usable"
        )
    return logits, np.concatenate(known)


def logits_of(output: Any) -> Floats:
    """Return what a network returned for a batch, as an array. Raises ShapeError unless it is one array [n, K]."""
    if isinstance(output, list | tuple | dict) or np.ndim(output) != 2:
        found = type(output).__name__ if isinstance(output, list | tuple | dict) else f"shape {np.shape(output)}"
        raise ShapeError(
            f"the network returned {found} for a batch of images; what is evaluated are logits [n, classes]: return"
            " them alone in evaluation mode, where self.training is False"
        )
    return np.array(output)


def evaluate(net: Network, x: Images, y: Labels, *, mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """Return {"accuracy", "loss"} of the network on images x [n, C, H, W] with labels y [n].

    Raises DataError for labels that are none of the network's classes, or not one per image, and as `predict` does.
    """
    logits = predict(net, x, mean=mean, std=std)
    return {"accuracy": metrics.accuracy(logits, y), "loss": metrics.cross_entropy(logits, y)}


def classification_report(
    logits: checks.Measured, y: checks.Measured, classes: Sequence[str]
) -> metrics.ClassificationReport:
    """Return all metrics of logits [n, K] of images with labels y [n]: a dict, ready for JSON, that prints as tables.

    accuracy, loss; top_k by k; per class precision, recall, F1, number of images and, if some images but not all are of
    the class, AUC and average precision against the other classes; their averages; the confusion matrix, whose rows are
    labels; calibration. Raises DataError for labels that are none of the network's classes, or not one per row, and
    unless there is a name for each class.
    """
    logits, y = checks.scores_and_labels("classification_report", logits, y, "logits")
    if len(classes) != logits.shape[1]:
        raise DataError(
            f"classification_report: {len(classes)} names of classes and logits of {logits.shape[1]}; give one name per"
            " column of the logits"
        )
    # [n, K]
    probability = np.exp(metrics.log_softmax(logits))
    confusion = metrics.confusion_matrix(y, logits.argmax(1), logits.shape[1])
    scores, calibration = metrics.class_scores(confusion), metrics.calibration(probability, y)
    report = {
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
            "ece": calibration.ece,
            "mce": calibration.mce,
            "brier": metrics.brier_score(probability, y),
            "bins": [asdict(bin) for bin in calibration.bins],
        },
    }
    return metrics.ClassificationReport(report)


def calibrated_scores(logits: Ndarray, y: Labels, temperature: float) -> dict[str, float] | None:
    """Return "temperature", "loss", "ece" and "brier" of logits [n, K] divided by a model's temperature; None for 1.

    y: labels [n].
    """
    if temperature == 1:
        return None
    probability = np.exp(metrics.log_softmax(logits / temperature))
    return {
        "temperature": temperature,
        "loss": metrics.cross_entropy(logits / temperature, y),
        "ece": metrics.calibration(probability, y).ece,
        "brier": metrics.brier_score(probability, y),
    }


def against_the_rest(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return AUC and average precision of scores [n]; None if all images are positive, or none."""
    if positive.all() or not positive.any():
        return {"auc": None, "average_precision": None}
    return {"auc": metrics.roc_auc(positive, scores), "average_precision": metrics.average_precision(positive, scores)}


def threshold_report(logits: Ndarray, y: Labels, chosen: int, rule: dict[str, Any]) -> dict[str, Any]:
    """Return a threshold of the probability of class number `chosen`, what it achieves, and the curves it lies on.

    logits [n, K], labels y [n]. rule: keyword arguments of `metrics.pick_threshold`, which picks it. The curves are
    lists of points; a threshold of None lies above all scores. Raises DataError as metrics.pick_threshold does.
    """
    logits, y = checks.scores_and_labels("threshold_report", logits, y, "logits")
    chosen = checks.whole("threshold_report", "the class", chosen, 0, logits.shape[1] - 1)
    # [n]: the probability of the class for each image.
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
