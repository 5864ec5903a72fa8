"""Findings about what images look like: blank and outlying ones, their sizes and shapes, grey among colour.

An outlier is what a robust z-score says is one: 0.6745 (x - median) / MAD, where MAD is the median distance from the
median (Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers"). Their limit of 3.5 is for a few numbers; a
data set has thousands.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foveal.doctor.findings import Finding
from foveal.doctor.leaks import example
from foveal.doctor.looks import Floats, Looks
from foveal.doctor.pictures import Pictures

Numbers = NDArray[np.float64]

# Levels (of 255) that every channel of a blank image varies by at most, as a standard deviation.
BLANK = 2.0
# Robust z-scores from which on an image is an outlier: of one number, and of the distance among features.
FAR, FAR_FEATURES = 6.0, 5.0
# Sizes are outliers only if sides differ from the usual ones by this factor, shapes by this factor of their ratio.
SIDES, SHAPES = 4.0, 2.0
# Images of an ordinary set whose principal components are taken, and how many of these.
_SAMPLE, _COMPONENTS = 20_000, 16
# Widest and narrowest shape between which stretching to one size does little harm.
_STRETCHED = 1.5
# Sides from which on there is something to see.
_TINY = 16
# A share of grey images between these is mixed: of one class against another, that can give the class away.
_MIXED, _GIVEN_AWAY = 0.005, 0.5
# Examples of outliers that are kept.
_KEPT = 200


def robust_z(values: Numbers | Floats) -> Numbers:
    """Return the robust z-scores of values [n]; where more than half are equal, by the mean distance instead."""
    values = np.asarray(values, np.float64)
    away = values - np.median(values)
    scale = float(np.median(abs(away))) / 0.6745
    # Of normally distributed numbers the standard deviation is 1.2533 times the mean distance.
    scale = scale or 1.2533 * float(abs(away).mean())
    return away / scale if scale else np.zeros_like(away)


def features(looks: Looks, rows: NDArray[np.int64]) -> Numbers:
    """Return features of these images [m, 16]: whitened principal components of 8x8 pixels of colour.

    The same number of images less one where there are fewer.
    """
    thumbs = looks.thumbs[rows].astype(np.float32)
    half = thumbs.shape[1] // 2
    # [m, 8 * 8 * 3]
    small = thumbs.reshape(len(rows), half, 2, half, 2, 3).mean((2, 4)).reshape(len(rows), -1)
    drawn = small[np.random.default_rng(0).permutation(len(rows))[:_SAMPLE]]
    centre = np.median(drawn, axis=0)
    values, vectors = np.linalg.eigh(np.cov((drawn - centre).T))
    kept = slice(-min(_COMPONENTS, max(1, len(rows) - 1)), None)
    scales = np.sqrt(np.maximum(values[kept], 1e-3 * values[-1] + 1e-9))
    projected: Numbers = (small - centre) @ vectors[:, kept] / scales
    return projected


def of_oddities(pictures: Pictures, looks: Looks) -> Iterator[Finding]:
    """Yield findings about blank images and outliers."""
    seen = np.flatnonzero(looks.seen)
    if not len(seen):
        return
    is_blank = looks.variation[seen] < BLANK
    if is_blank.any():
        groups = [(example(pictures, int(row), f"brightness {looks.brightness[row]:.0f}"),) for row in seen[is_blank]]
        yield Finding(
            "blank images",
            "warning",
            len(groups),
            f"Blank images: {len(groups):,}, all of whose pixels have nearly one colour.",
            "Delete them; a lens cap, an empty frame or a failed conversion leaves such images.",
            tuple(groups),
        )
    rows = seen[~is_blank]
    # Of a handful of images nothing is an outlier.
    if len(rows) < 20:
        return
    found = outliers(pictures, looks, rows)
    if found:
        order = sorted(found, key=lambda row: -max(abs(z) for _, z in found[row]))
        groups = [(example(pictures, row, ", ".join(f"{what} ({z:+.1f})" for what, z in found[row])),) for row in order]
        yield Finding(
            "outliers",
            "note",
            len(groups),
            f"Unlike all others: {len(groups):,}, by the robust z-score that is named with each.",
            "Look at them: a wrong crop, a damaged scan or an image of something else stands out like this; what is"
            " only rare should stay.",
            tuple(groups[:_KEPT]),
        )


def outliers(pictures: Pictures, looks: Looks, rows: NDArray[np.int64]) -> dict[int, list[tuple[str, float]]]:
    """Return what makes images outliers, by row: names and z-scores."""
    width, height = pictures.sizes[rows].astype(np.float64).T
    sides, shapes = np.log2(width * height) / 2, np.log2(width / height)
    far_sides = abs(sides - np.median(sides)) >= np.log2(SIDES)
    far_shapes = abs(shapes - np.median(shapes)) >= np.log2(SHAPES)
    always = np.ones(len(rows), bool)
    away = np.log(np.linalg.norm(features(looks, rows), axis=1) + 1e-6)
    # By name: the number, which of them may be outliers, the limit, and whether small ones are any.
    measures = {
        "brightness": (looks.brightness[rows], always, FAR, True),
        "contrast": (np.log(looks.contrast[rows] + 1.0), always, FAR, True),
        "detail": (np.log(looks.detail[rows] + 1.0), always, FAR, True),
        "size": (sides, far_sides, FAR, True),
        "shape": (shapes, far_shapes, FAR, True),
        "appearance": (away, always, FAR_FEATURES, False),
    }
    found: dict[int, list[tuple[str, float]]] = {}
    for name, (values, possible, limit, both) in measures.items():
        scores = robust_z(values)
        for place in np.flatnonzero(possible & ((abs(scores) if both else scores) > limit)):
            found.setdefault(int(rows[place]), []).append((name, float(scores[place])))
    return found


def size_in_words(sizes: NDArray[np.int64]) -> str:
    """Return the sizes of images [n, 2] (width, height) in a few words."""
    if not len(sizes):
        return "no sizes"
    if (sizes == sizes[0]).all():
        return f"all {sizes[0][0]}x{sizes[0][1]}"
    order = np.argsort(sizes.prod(1), kind="stable")
    low, middle, high = (sizes[order[place]] for place in (0, len(order) // 2, -1))
    return "from {}x{} to {}x{}, the median {}x{}".format(*low, *high, *middle)


def of_shapes(pictures: Pictures, looks: Looks) -> Iterator[Finding]:
    """Yield findings about sizes, aspect ratios and channels."""
    width, height = pictures.sizes.T
    if len(width) and (tiny := np.flatnonzero(np.minimum(width, height) < _TINY)).size and tiny.size < len(width):
        yield Finding(
            "tiny images",
            "note",
            tiny.size,
            f"Images with a side of fewer than {_TINY} pixels, while others are larger: {tiny.size:,}.",
            "They are enlarged, and blurred by that: delete icons and previews.",
            tuple((example(pictures, int(row), f"{width[row]}x{height[row]}"),) for row in tiny[:_KEPT]),
        )
    # The usual shape is the median one, so that a few panoramas do not make all others odd.
    ratio = width / np.maximum(1, height)
    if len(ratio) and ratio.max() / ratio.min() > _STRETCHED:
        usual = float(np.median(ratio))
        odd = np.flatnonzero(np.maximum(ratio / usual, usual / ratio) > _STRETCHED)
        yield Finding(
            "mixed shapes",
            "note",
            odd.size,
            f"Aspect ratios go from {ratio.min():.2f} to {ratio.max():.2f} (width / height), and {odd.size:,} images"
            f" are more than {_STRETCHED} times as wide or as high as the usual {usual:.2f}: resized to one size,"
            " they are distorted.",
            "`foveal train` stretches them: cut them to what is to be recognised, or add borders to make them alike.",
            tuple((example(pictures, int(row), f"{width[row]}x{height[row]}"),) for row in odd[:_KEPT]),
        )
    yield from channels(pictures, looks)


def channels(pictures: Pictures, looks: Looks) -> Iterator[Finding]:
    """Yield a finding if grey images are mixed with colour; a graver one if that tells classes apart."""
    seen = looks.seen
    share = float(looks.grey[seen].mean()) if seen.any() else 0.0
    rows = np.flatnonzero(looks.grey & seen)
    if not len(rows) or len(rows) == seen.sum():
        return
    # The share of grey images in each class [K]: where it differs widely, colour alone tells classes apart.
    number = len(pictures.classes)
    total = np.maximum(1, np.bincount(pictures.labels[seen], minlength=number))
    shares = np.bincount(pictures.labels[rows], minlength=number) / total
    high, low = int(shares.argmax()), int(shares.argmin())
    tells = shares[high] - shares[low] > _GIVEN_AWAY
    if share < _MIXED and not tells:
        return
    text = f"{len(rows):,} of {seen.sum():,} images are grey, the others have colours"
    if tells:
        text += (
            f", and that gives classes away: of {pictures.classes[high]} {shares[high]:.0%} are grey, of"
            f" {pictures.classes[low]} {shares[low]:.0%}"
        )
    yield Finding(
        "grey and colour mixed",
        "warning" if tells else "note",
        len(rows),
        f"{text}.",
        "A network may learn the colour in place of the thing: make all grey, or add images of the other kind."
        if tells
        else "Grey images are read as RGB with three equal channels; nothing has to be done.",
        tuple((example(pictures, int(row)),) for row in rows[:_KEPT]),
    )
