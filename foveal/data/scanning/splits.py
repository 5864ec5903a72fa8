"""Dividing a data set into parts: by the seed, with the same share of each class, whole groups where there are some.

Nothing depends on the order of the files: within a class they are drawn by Philox from the seed and their place in the
order of their paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from foveal.data.dataset import Labels
from foveal.data.scanning.listing import TEST, TRAIN, VALIDATION
from foveal.errors import DataError

#: The shares for validation and for testing where nothing else is said.
SHARES = 0.1, 0.2
# The stream of random numbers; 1 to 4 are the loader's and that of `train`.
SPLIT_STREAM = 5

Parts = NDArray[np.str_]


def group_names(group_by: str, names: Sequence[str]) -> list[str]:
    """Return the group of each file: what the pattern's brackets match in its name, or the whole match without any.

    A pattern with a / is looked for in the path below the data set's folder, another one in the file's name alone.
    Raises DataError for what is no regular expression, and for a file in which nothing matches.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise DataError(f"group_by {group_by!r}: is no regular expression ({error}); such as '^(.*?)_'") from None
    found: list[str] = []
    for name in names:
        match = pattern.search(name if "/" in group_by else name.rpartition("/")[2])
        if match is None:
            raise DataError(
                f"group_by {group_by!r}: matches nothing in {name!r}; give a pattern that matches every file's name"
            )
        found.append("\0".join(text or "" for text in match.groups()) if match.groups() else match[0])
    return found


def divide(
    labels: Labels, given: Sequence[str | None], groups: Sequence[str] | None, shares: tuple[float, float], seed: int
) -> Parts:
    """Return the part of each image.

    labels [n]: the class of each; given: its part, where that is known; groups: its group, all images of which come
    into one part. Images whose part is not known are for training, and if there is no validation or test part, that is
    taken from the training part, shares of which are for (validation, test). A class always keeps images for training,
    and where there are groups, one of these. Raises DataError where the same group is in two parts
    that are given, or where there are too few groups.
    """
    parts = np.array([part or TRAIN for part in given], dtype="<U10")
    numbers = None if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    if groups is not None and numbers is not None:
        check_groups(parts, groups)
    wanted = [(part, share) for part, share in zip((VALIDATION, TEST), shares, strict=True) if part not in parts]
    free = np.flatnonzero(parts == TRAIN)
    words = Philox(key=[seed, SPLIT_STREAM]).random_raw(len(labels))
    # The largest part first, of which the other is not to take more than its share.
    left = 1.0
    for part, share in sorted(wanted, key=lambda pair: -pair[1]):
        if share > 0:
            rate = share / left
            rows = (
                drawn(labels[free], words[free], rate)
                if numbers is None
                else whole_groups(labels[free], numbers[free], words, rate)
            )
            parts[free[rows]] = part
            free = np.delete(free, rows)
            left -= share
    return parts


def drawn(labels: Labels, words: NDArray[np.uint64], share: float) -> Labels:
    """Return the places of a share of the images, the same share of each class; a class keeps one image at least."""
    counts = np.bincount(labels)
    order = np.argsort(words, kind="stable")
    # The first image of each class in random order stays; classes with one image alone have no others.
    first = np.zeros(len(labels), bool)
    first[order[np.unique(labels[order], return_index=True)[1]]] = True
    order = order[~first[order]]
    # Class after class, in random order within each; every so-and-so-many-th image is taken.
    order = order[np.argsort(labels[order], kind="stable")]
    size = min(len(order), round(share * int(counts.sum())))
    if size == 0:
        return order[:0]
    return np.sort(order[((np.arange(size) + 0.5) * (len(order) / size)).astype(np.int64)])


def whole_groups(labels: Labels, groups: Labels, words: NDArray[np.uint64], share: float) -> Labels:
    """Return the places of the images of some groups, about that share of each class.

    Groups come in random order; one is taken if that brings the numbers of images by class nearer to what is wanted,
    and if all its classes keep another group.
    """
    names = np.unique(groups)
    # [groups, K]
    table = np.zeros((len(names), int(labels.max()) + 1), np.int64)
    np.add.at(table, (np.searchsorted(names, groups), labels), 1)
    # How many groups each class has left.
    left = (table > 0).sum(0)
    lack = share * table.sum(0)
    taken: list[int] = []
    for place in np.argsort(words[names], kind="stable"):
        row = table[place]
        keeps = (left[row > 0] > 1).all()
        if keeps and np.square(lack - row).sum() < np.square(lack).sum():
            taken.append(int(names[place]))
            lack, left = lack - row, left - (row > 0)
    if not taken:
        raise DataError(
            f"there are {len(names)} groups, too few or too large ones to keep {share:.0%} of the images apart; give"
            " another pattern, or say which images are for testing in folders train and test"
        )
    return np.flatnonzero(np.isin(groups, taken))


def check_groups(parts: Parts, groups: Sequence[str]) -> None:
    """Raise DataError if images of one group are in two parts."""
    seen: dict[str, str] = {}
    for part, group in zip(parts.tolist(), groups, strict=True):
        if seen.setdefault(group, part) != part:
            shown = group.replace("\0", " ")
            raise DataError(
                f"the group {shown!r} is in the {seen[group]} part and in the {part} part; put all its images into one"
            )
