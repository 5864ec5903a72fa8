"""Probabilities of each image from models that were not trained on it: cross-validation, in one of two ways.

    training   the run's network itself, trained anew without each fold
    probe      a linear classifier on the features of the run's network, trained anew without each fold

Trainings see nothing of a fold. The probe takes seconds, but its features come from a network that has seen all labels:
what that has learned by heart, wrong labels too, lies in the features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foveal import nn
from foveal.data.dataset import Dataset, Images
from foveal.data.decoding.image_array import ImageArray
from foveal.errors import DataError
from foveal.metrics import log_softmax
from foveal.train.checkpoint import ModelDescription
from foveal.train.evaluate import predict
from foveal.train.loop import train

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
#: Called with the number of folds that were done since the last call.
Progress = Callable[[int], None]

# Features of more numbers are reduced to so many principal components first, which a linear classifier needs not more.
_FEATURES = 256
# Steps of the solver; probabilities change little after a few dozen.
_STEPS = 100


class Penultimate:
    """A network that returns what its last linear layer gets, [n, F], in place of its logits.

    Of a network without such a layer, features are the logits. Use it in a `with` block.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.last = next((m for _, m in reversed(list(net.named_modules())) if isinstance(m, nn.Linear)), None)
        self.seen: list[Any] = []

    def __enter__(self) -> Self:
        if self.last is not None:
            self.handle = self.last.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0]))
        return self

    def __exit__(self, *raised: object) -> None:
        if self.last is not None:
            self.handle.remove()

    def eval(self) -> nn.Module:
        return self.net.eval()

    def __call__(self, x: Any, /) -> Any:
        self.seen.clear()
        logits = self.net(x)
        return np.array(self.seen[-1]) if self.seen else logits


def features_of(net: nn.Module, images: Images, description: ModelDescription) -> NDArray[np.float32]:
    """Return the features [n, F] of images [n, C, H, W] that are not yet normalised."""
    with Penultimate(net) as penultimate:
        return predict(penultimate, images, mean=description.mean, std=description.std)


def rows_of(images: Images, rows: Labels) -> Images:
    """Return some of the images; of files that are decoded when they are read, so do these."""
    return images.of_rows(rows) if isinstance(images, ImageArray) else images[rows]


def of_size(images: Images, size: tuple[int, int]) -> Images:
    """Return the middle of images that are kept larger than a network takes them, so that they can be cut at random."""
    rows, columns = images.shape[2:]
    if (rows, columns) == size:
        return images
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    return images[:, :, top : top + size[0], left : left + size[1]]


def folds_of(labels: Labels, folds: int, seed: int) -> Labels:
    """Return the fold of each label [n], 0 to folds - 1, each with the same share of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    # Class after class, dealt out like cards.
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def check_folds(labels: Labels, folds: int, names: tuple[str, ...]) -> None:
    """Raise DataError unless each class that occurs has an image to learn from whatever fold is left out."""
    if folds < 2:
        raise DataError(f"label_errors: folds is {folds}; give 2 or more, such as 5")
    counts = np.bincount(labels, minlength=len(names))
    few = np.flatnonzero((counts > 0) & (counts < 2))
    if len(few):
        raise DataError(
            f"label_errors: class {names[few[0]]!r} has one image, which nothing else can judge; leave the class out,"
            " or add images"
        )
    if (counts > 0).sum() < 2:
        raise DataError("label_errors: all labels are of one class; there is no other that one could be")


def by_probe(
    features: NDArray[np.float32], labels: Labels, classes: int, folds: int, seed: int, advance: Progress
) -> Probabilities:
    """Return probabilities [n, K] by linear classifiers (multinomial logistic regression), each without its fold."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    values = np.asarray(features, np.float64)
    values = (values - values.mean(0)) / np.maximum(values.std(0), 1e-6)
    if values.shape[1] > _FEATURES:
        parts = min(_FEATURES, *values.shape)
        values = PCA(parts, random_state=seed, svd_solver="randomized").fit_transform(values)
    fold, found = folds_of(labels, folds, seed), np.zeros((len(labels), classes))
    for number in range(folds):
        inside = fold == number
        # Regularised by the number of images, so that few of them are not learned by heart.
        model = LogisticRegression(C=STRENGTH / max(1, (~inside).sum()), max_iter=_STEPS)
        with quiet():
            model.fit(values[~inside], labels[~inside])
        # A class may lie in this fold alone.
        found[np.ix_(np.flatnonzero(inside), model.classes_)] = model.predict_proba(values[inside])
        advance(1)
    return found


# The inverse strength of regularisation for all images together, chosen on digits with planted errors: with a tenth of
# it a third as many are found.
STRENGTH = 1000.0


def quiet() -> Any:
    """Return a block in which the solver does not warn that it has not converged to the last digit."""
    import warnings

    return warnings.catch_warnings(action="ignore")


def by_training(data: Dataset, model: str, folds: int, seed: int, advance: Progress, **options: Any) -> Probabilities:
    """Return probabilities [n, K] of the training images by networks of that name, each trained without its fold.

    options: of `train`.
    """
    labels, images = data.y_train, data.images_train
    fold, found = folds_of(labels, folds, seed), np.zeros((len(labels), len(data.classes)))
    for number in range(folds):
        inside = np.flatnonzero(fold == number)
        outside = np.flatnonzero(fold != number)
        # The images that are judged stand for test images, which nothing is learned from.
        part = replace(
            data,
            images_train=rows_of(images, outside),
            y_train=labels[outside],
            images_test=of_size(rows_of(images, inside), data.size),
            y_test=labels[inside],
            images_validation=None,
            y_validation=None,
            files=None,
        )
        batch = min(options.get("batch_size", len(outside)), len(outside))
        net = nn.models.build(model, channels=data.channels, size=data.size, classes=len(data.classes), seed=seed)
        train(part, net, seed=seed, quiet=True, **{**options, "batch_size": batch})
        logits = predict(net, part.images_test, mean=data.mean, std=data.std)
        found[inside] = np.exp(log_softmax(logits))
        advance(1)
    return found
