"""Findings about classes: how many images each has, in which parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foveal.doctor.findings import Finding, in_words
from foveal.doctor.pictures import Pictures

Counts = NDArray[np.int64]

# Training images of a class below which little can be learned, or little is sure; of a test part, scores by class mean
# little below that: of 20 images one is 5 points.
FEW, TOO_FEW, FEW_TESTED = 20, 5, 20
# How many times as many images the largest class has as the smallest: worth a note, and a remedy.
UNEVEN, IMBALANCED = 3, 10


def counts_of(pictures: Pictures) -> dict[str, Counts]:
    """Return the images of each class [K] by part; parts in the order train, validation, test, as far as there are."""
    parts = [part for part in ("train", "validation", "test") if (pictures.parts == part).any()]
    number = len(pictures.classes)
    return {part: np.bincount(pictures.labels[pictures.parts == part], minlength=number) for part in parts}


def of_classes(pictures: Pictures, counts: dict[str, Counts]) -> Iterator[Finding]:
    """Yield findings about classes that are absent from a part, small, or much larger than others."""
    names, train = pictures.classes, counts.get("train", np.zeros(len(pictures.classes), np.int64))
    for part, of_part in counts.items():
        absent = [names[k] for k in np.flatnonzero(of_part == 0)]
        if absent:
            means = "cannot be learned" if part == "train" else "no score says how well they are recognised"
            yield Finding(
                f"classes absent from {part}",
                "error" if part == "train" else "warning",
                len(absent),
                f"{len(absent)} of {len(names)} classes have no image in the {part} part ({in_words(absent)}):"
                f" {means}.",
                "Add images of them there, or leave the classes out everywhere.",
            )
    few = [k for k in np.argsort(train, kind="stable") if 0 < train[k] < FEW]
    if few:
        listed = in_words([f"{names[k]}: {train[k]}" for k in few])
        yield Finding(
            "classes with few images",
            "warning" if train[few[0]] < TOO_FEW else "note",
            len(few),
            f"{len(few)} of {len(names)} classes have fewer than {FEW} images to train on ({listed}).",
            "Take more photos of them, or start from weights that others have learned (--pretrained, --weights).",
        )
    tested = counts.get("test", np.zeros(0, np.int64))
    # A class without any test image is reported above, as absent.
    if small := [k for k in np.argsort(tested, kind="stable") if 0 < tested[k] < FEW_TESTED]:
        yield Finding(
            "classes with few test images",
            "note",
            len(small),
            f"{len(small)} of {len(names)} classes have fewer than {FEW_TESTED} test images"
            f" ({in_words([f'{names[k]}: {tested[k]}' for k in small])}): one mistake moves their score by points.",
            "Read scores by class with their intervals, or test on more images.",
        )
    yield from imbalance(names, train)


def imbalance(names: tuple[str, ...], train: Counts) -> Iterator[Finding]:
    """Yield a finding if the largest class has many times as many training images as the smallest one."""
    present = np.flatnonzero(train)
    if not len(present):
        return
    low, high = present[train[present].argmin()], present[train[present].argmax()]
    ratio = train[high] / train[low]
    if ratio >= UNEVEN:
        yield Finding(
            "imbalance",
            "warning" if ratio >= IMBALANCED else "note",
            len(present),
            f"The largest class, {names[high]}, has {ratio:.1f} times as many training images as the smallest,"
            f" {names[low]} ({train[high]:,} and {train[low]:,}): the small ones are recognised less often.",
            "`foveal train --balance` weighs classes by their effective number of images (class-balanced focal loss,"
            " Cui et al. 2019); look at the score of each class, not at the accuracy alone.",
        )
