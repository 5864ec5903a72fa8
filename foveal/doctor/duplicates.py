"""Copies: images of equal bytes or equal pixels, and images that look alike, without comparing all pairs.

Candidates are images whose hashes agree in one of four bands of 16 bits, so that every pair whose hashes differ in up
to three bits is found (multi-index hashing: Norouzi, Punjani and Fleet 2012, "Fast Search in Hamming Space with
Multi-Index Hashing", section 3), and most of those that differ in a few more. Each candidate is verified: the
thumbnails of a pair, without their mean brightness and scaled to one contrast, have to lie closer together than
images of this data set do by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveal.doctor.looks import Floats, Looks

Rows = NDArray[np.int64]
Group = Rows

BANDS = 4
# Bits that hashes of a pair may differ in: half of 64 do by chance, and 32x32 pixels saved as a JPEG of quality 40, 5.
MOST_BITS = 8
# Images of one value of a band that are compared each with each; of more, each with so many next ones by their hash.
_CROWD, _NEIGHBOURS = 128, 32
# Pairs that are verified at once.
_BLOCK = 1 << 15
# Images that are compared by chance, and the share of their pairs that are closer than what is taken for ordinary.
_SAMPLE, _ORDINARY = 1000, 0.01
# A pair is closer than this share of the square of an ordinary distance; but what is so close is always one, and what
# is so far apart never (0 to 2; images that have nothing in common are sqrt(2) apart). Chosen on CIFAR-10, MNIST and
# Fashion-MNIST, where the pairs that were looked at show the same thing.
_SHARE, _CLOSEST, _FURTHEST = 0.25, 0.02, 0.25
# Contrasts of a pair differ by no more than this factor, means of the luma by no more than so many levels.
_CONTRASTS, _LEVELS = 2.0, 64.0
# A thumbnail with less variation than this (levels of 255) shows nothing that could be recognised.
FLAT = 4.0


@dataclass(frozen=True)
class Copies:
    """Groups of images that are copies of each other; each group has two or more rows, in ascending order."""

    #: Equal bytes or equal pixels.
    exact: list[Group]
    #: Alike, of images that are not all exact copies.
    near: list[Group]
    #: The distance below which two images are alike.
    limit: float
    #: True where images were too many of one kind to compare all candidates.
    cut: bool


def copies(looks: Looks) -> Copies:
    """Return the copies among images that were looked at."""
    exact_of = exact(looks)
    exact_groups = groups_of(exact_of)
    # One image stands for all of its exact copies.
    first = np.unique(exact_of[looks.seen], return_index=True)[1]
    shown = np.flatnonzero(looks.seen)[first]
    shown = np.sort(shown[looks.variation[shown] >= FLAT])
    thumbs = normalised(looks.thumbs[shown])
    limit = ordinary_distance(thumbs)
    pairs, cut = candidates(looks.hashes[shown])
    alike = pairs[:, verified(thumbs, pairs, limit, looks.contrast[shown], looks.brightness[shown])]
    near_of = joined(len(looks.seen), shown[alike[0]], shown[alike[1]], exact_of)
    touched = np.isin(near_of, near_of[shown[alike.ravel()]]) & looks.seen
    near_groups = groups_of(np.where(touched, near_of, -1))
    return Copies(exact_groups, near_groups, limit, cut)


def exact(looks: Looks) -> Rows:
    """Return a number for each image [n], the same for copies of equal bytes or pixels; -1 for what was not seen."""
    count = len(looks.seen)
    number = np.full(count, -1, np.int64)
    seen = np.flatnonzero(looks.seen)
    # Equal bytes have equal pixels.
    number[seen] = np.unique(looks.pixels[seen], axis=0, return_inverse=True)[1].ravel()
    return number


def groups_of(number: Rows) -> list[Group]:
    """Return the rows of each number that stands in several rows; those of -1 are in no group."""
    order = np.argsort(number, kind="stable")
    order = order[np.searchsorted(number[order], 0) :]
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    parts = np.split(order, starts[1:]) if len(order) else []
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def normalised(thumbs: NDArray[np.uint8]) -> Floats:
    """Return thumbnails as vectors [n, THUMB * THUMB * 3] of mean 0 and length 1."""
    vectors = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(lengths, 1e-6)
    return vectors


def ordinary_distance(thumbs: Floats) -> float:
    """Return the distance below which a pair of these thumbnails cannot be one by chance.

    The 1 % quantile of distances between images that are drawn is what is ordinarily close: 0.97 for CIFAR-10, 0.77 for
    MNIST, 0.55 for Fashion-MNIST. The limit falls with its square, as sets of simple shapes have many more pairs that
    are close by chance.
    """
    if len(thumbs) < 2:
        return _SHARE
    rows = np.random.default_rng(0).permutation(len(thumbs))[:_SAMPLE]
    distances = distance(thumbs[rows] @ thumbs[rows].T)[np.triu_indices(len(rows), 1)]
    # In a small set the closest pairs may all be copies.
    close = float(np.quantile(distances, max(_ORDINARY, min(0.5, 2 / len(rows)))))
    return min(_FURTHEST, max(_CLOSEST, _SHARE * close * close))


def distance(products: Floats) -> Floats:
    """Return the distance of vectors of length 1, given their inner products."""
    return np.sqrt(np.maximum(0, 2 - 2 * products))


def candidates(hashes: NDArray[np.uint64]) -> tuple[Rows, bool]:
    """Return pairs [2, m] of images whose hashes share a band and differ in few bits, and whether some were left out.

    Hashes [n]. The first of a pair has the lower number.
    """
    bands = hashes.view(np.uint16).reshape(len(hashes), BANDS)
    found, cut = [np.empty((0, 2), np.int64)], False
    for band in bands.T:
        # Images of one value stand next to each other, by their whole hash.
        order = np.lexsort((hashes, band))
        starts = np.flatnonzero(np.diff(band[order].astype(np.int32), prepend=-1))
        sizes = np.diff([*starts.tolist(), len(order)])
        cut = cut or bool((sizes > _CROWD).any())
        # The place in the order where the neighbours of each image end.
        ends = np.repeat(starts + sizes, sizes)
        reach = np.where(np.repeat(sizes, sizes) > _CROWD, _NEIGHBOURS, _CROWD)
        ends = np.minimum(ends, np.arange(len(order)) + 1 + reach)
        for step in range(1, int(sizes.max(initial=1))):
            places = np.flatnonzero(np.arange(len(order)) + step < ends)
            if not len(places):
                break
            one, other = order[places], order[places + step]
            close = bits_apart(hashes[one], hashes[other]) <= MOST_BITS
            found.append(np.stack([one[close], other[close]], 1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0).T.copy(), cut


_ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1, dtype=np.uint8)


def bits_apart(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of bits in which hashes [n] differ (Hamming distance)."""
    return _ONES[(one ^ other).view(np.uint16).reshape(len(one), 4)].sum(1, dtype=np.int64)


def verified(thumbs: Floats, pairs: Rows, limit: float, contrast: Floats, brightness: Floats) -> NDArray[np.bool_]:
    """Return which pairs [2, m] are alike [m]; thumbs, contrast and brightness are of the images, by their numbers."""
    alike = np.zeros(pairs.shape[1], bool)
    for start in range(0, pairs.shape[1], _BLOCK):
        one, other = pairs[:, start : start + _BLOCK]
        near = distance(np.einsum("nd,nd->n", thumbs[one], thumbs[other])) < limit
        factor = contrast[one] / np.maximum(contrast[other], 1e-3)
        near &= (factor < _CONTRASTS) & (factor > 1 / _CONTRASTS)
        alike[start : start + _BLOCK] = near & (abs(brightness[one] - brightness[other]) < _LEVELS)
    return alike


def joined(count: int, one: Rows, other: Rows, number: Rows) -> Rows:
    """Return a number for each of so many images [n], the same for all that pairs, and equal numbers, lead to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Each image is tied to the first of its number.
    seen = np.flatnonzero(number >= 0)
    first = seen[np.unique(number[seen], return_index=True)[1]]
    one, other = np.concatenate([one, seen]), np.concatenate([other, first[number[seen]]])
    edges = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    components: Rows = connected_components(edges, directed=False)[1].astype(np.int64)
    return components
