"""Embeddings: what a network makes of an image before its last layer, and how well simple classifiers do on them.

The input of the last layer is a short description of an image, in which similar images lie near each other. How well
the nearest neighbours, or a linear classifier, do on it tells in seconds what a network's weights are worth for data
that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal import nn
from foveal.data.dataset import Floats, Images, Labels
from foveal.data.loader import Loader, even_batch
from foveal.errors import ArgumentError, DataError, NumericsError
from foveal.explain.model import modes_restored
from foveal.strides import Ndarray
from foveal.train.evaluate import EVALUATION_BATCH
from foveal.train.phases import heads_of

KNN, LINEAR = "knn", "linear"
PROBES = (KNN, LINEAR)
# Neighbours that vote. Of cross-validation: its parts, and the images of a class that it needs at least.
NEIGHBOURS, FOLDS, LEAST = 5, 5, 2
# Steps of the linear classifier at most; more change its accuracy little.
STEPS = 1000


def features(
    net: nn.Module, x: Images, *, mean: Sequence[float], std: Sequence[float], layer: str | None = None
) -> Floats:
    """Return the embeddings [n, D] of images x [n, C, H, W], not yet normalised; bytes stand for value / 255.

        net, trained = train.load_net("runs/fashion")
        embeddings = train.features(net, images, mean=trained.mean, std=trained.std)

    An embedding is the input of the network's last layer, or what the `layer` of that name returns (one of
    net.named_modules()), of images [N, K, P, Q] its means over rows and columns. The network computes in evaluation
    mode, and is afterwards in the modes that it was in.

    Raises DataError if there are no images, ArgumentError for a name of no layer, NumericsError for NaN or infinity.
    """
    if np.ndim(x) != 4 or not len(x):
        raise DataError(f"features: images of shape {np.shape(x)}; give images [n, C, H, W], one or more")
    batch = even_batch(len(x), EVALUATION_BATCH)
    loader = Loader(x, np.zeros(len(x), np.int64), batch, mean=mean, std=std, channels="first")
    last = dict(net.named_modules())[heads_of(net)[0]]
    seen: list[Ndarray] = []
    found: list[Floats] = []
    # What a layer is called on is seen once a batch is computed.
    look = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])) if layer is None else None
    with modes_restored(net), look or nullcontext():
        net.eval()
        for images, rows in loader.epoch(0):
            if layer is None:
                seen.clear()
                net(images)
                output = seen[-1]
            else:
                output = net.activations(images, [layer])[layer]
            found.append(vectors(output, layer)[: len(rows)])
    embeddings = np.concatenate(found)
    if wrong := int((~np.isfinite(embeddings).all(1)).sum()):
        raise NumericsError(f"features: the embeddings of {wrong} of {len(x)} images hold NaN or infinity")
    return embeddings


def vectors(output: Any, layer: str | None) -> Floats:
    """Return what a layer made of a batch as vectors [N, D]: of images [N, K, P, Q] the means over rows and columns."""
    if isinstance(output, list | tuple | dict) or np.ndim(output) not in (2, 4):
        what = type(output).__name__ if isinstance(output, list | tuple | dict) else f"shape {np.shape(output)}"
        raise ArgumentError(f"features: {layer or 'the last layer'} has {what}; name a layer of vectors or images")
    array = np.array(output, np.float32)
    return array if array.ndim == 2 else array.mean((2, 3))


@dataclass(frozen=True)
class Probe:
    """How well a simple classifier does on embeddings; `str` says it in a line."""

    #: "knn" or "linear".
    kind: str
    #: Of the images that were not learned from.
    accuracy: float
    #: How many these are.
    images: int
    #: 0 where they were given; else the parts of a cross-validation, in which each image is left out once.
    folds: int
    #: The standard deviation of the accuracies of the parts; 0 without parts.
    deviation: float = 0.0

    def __str__(self) -> str:
        name = f"{NEIGHBOURS} nearest neighbours" if self.kind == KNN else "linear classifier"
        if self.folds == 0:
            return f"{name}: {self.accuracy:.2%} on {self.images:,} images not learned from"
        parts = f"cross-validation in {self.folds} parts"
        return f"{name}: {self.accuracy:.2%} on {self.images:,} images, {parts} ({self.deviation:.2%} between them)"


def probe(
    kind: str, x: Ndarray, y: Labels, x_test: Ndarray | None = None, y_test: Labels | None = None, *, seed: int = 0
) -> Probe:
    """Return the accuracy of a simple classifier on embeddings x [n, D] with labels y [n].

        print(train.probe("linear", x, y))  # linear classifier: 93.40% on 1,000 images, cross-validation in 5 parts ...

    kind: "knn", a vote of the 5 nearest by the cosine of the angle between them; "linear", logistic regression on
    embeddings of which each number has mean 0 and deviation 1 (C = 1), both of scikit-learn. x_test, y_test: what is
    classified; without them x is divided into 5 parts, stratified, by the seed, and each is classified by the others.

    Raises ArgumentError for another kind, DataError for arrays that do not fit together, fewer than 2 classes, and
    classes with one image where x is divided.
    """
    if kind not in PROBES:
        raise ArgumentError(f"probe: kind is {kind!r}; choose from {', '.join(PROBES)}")
    x, y = checked_pair(x, y, "x", "y")
    counts = np.unique(y, return_counts=True)[1]
    if len(counts) < 2:
        raise DataError(f"probe: y holds {len(counts)} class; a classifier needs 2 or more")
    if (x_test is None) != (y_test is None):
        raise ArgumentError("probe: give both x_test and y_test, or neither")
    if x_test is not None and y_test is not None:
        x_test, y_test = checked_pair(x_test, y_test, "x_test", "y_test")
        if x_test.shape[1] != x.shape[1]:
            raise DataError(f"probe: x has vectors of {x.shape[1]} numbers, x_test of {x_test.shape[1]}")
        right = classifier(kind, len(x)).fit(x, y).predict(x_test) == y_test
        return Probe(kind, float(right.mean()), len(y_test), 0)
    if counts.min() < LEAST:
        raise DataError(f"probe: a class has {counts.min()} image; cross-validation needs {LEAST} of each, or x_test")
    from sklearn.model_selection import StratifiedKFold

    # Each part has an image of each class, and each image is classified once, by what was fitted to the other parts.
    folds = int(min(FOLDS, counts.min()))
    scores = []
    right = np.zeros(len(y), bool)
    for kept, left in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        right[left] = classifier(kind, len(kept)).fit(x[kept], y[kept]).predict(x[left]) == y[left]
        scores.append(right[left].mean())
    return Probe(kind, float(right.mean()), len(y), folds, float(np.std(scores)))


def classifier(kind: str, count: int) -> Any:
    """Return scikit-learn's classifier for a probe that learns from so many images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == KNN:
        return KNeighborsClassifier(min(NEIGHBOURS, count), metric="cosine")
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS, tol=1e-3))


def checked_pair(x: Ndarray, y: Labels, of_x: str, of_y: str) -> tuple[Ndarray, Labels]:
    """Return embeddings [n, D] and labels [n]. Raises DataError for others."""
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or x.dtype.kind not in "fiu" or not len(x) or not np.isfinite(x).all():
        raise DataError(f"probe: {of_x} is {x.dtype} of shape {list(x.shape)}; give finite numbers [n, D]")
    if y.shape != (len(x),):
        raise DataError(f"probe: {of_y} has shape {list(y.shape)}, and {of_x} holds {len(x)} embeddings")
    return x, y
