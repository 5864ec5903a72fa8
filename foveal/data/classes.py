"""The classes of a data set: their names, and which classes of one data set are which of a model's.

Labels are numbers, and the same number may stand for another class in another data set; names decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError
from foveal.strides import Ndarray

# Names that a message lists at most.
_LISTED = 5


def name_classes(
    y_train: Ndarray, y_test: Ndarray, source: str, given: Sequence[str] | None
) -> tuple[int, tuple[str, ...]]:
    """Return the label of the first class and the names of all classes, of labels y_train [n] and y_test [m].

    given: the names, if there are any; labels then count from 0. Else the numbers from the lowest of all labels to the
    highest of the training labels are classes. source: of y_train, for messages. Raises DataError where there are less
    than two classes, where a name stands twice, and where less than half of the numbers occur.
    """
    present = np.unique(y_train)
    if len(present) == 1:
        raise DataError(f"{source}: every label is {present[0]}; at least two classes are needed")
    if given is not None:
        names = tuple(map(str, given))
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{source}: two classes have the name {twice[0]!r}; give each class a name of its own")
        return 0, names
    low, high = int(min(present[0], y_test.min())), int(present[-1])
    if low < 0:
        # Numbers below 0 mark what has no class, as a rule.
        where, of = (y_train, source) if present[0] < 0 else (y_test, "the test labels")
        wrong = np.flatnonzero(where < 0)
        raise DataError(
            f"{of}: label {where[wrong[0]]} at index {wrong[0]} is outside 0 to {high} ({len(wrong)} such labels); "
            "leave out images without a class, and number the classes from 0"
        )
    count = high - low + 1
    # A stray label such as 255 would make 256 classes of ten without a message.
    if 2 * len(present) < count:
        raise DataError(
            f"{source}: labels go from {low} up to {high}, but only {len(present)} different ones occur; "
            "number the classes from 0 without gaps, or name them all in `classes`"
        )
    return low, tuple(map(str, range(low, high + 1)))


def class_map(ours: Sequence[str], theirs: Sequence[str], data: str) -> NDArray[np.int64]:
    """Return the number in `ours`, the classes of a model, of each class in `theirs`, those of the data set `data`.

    Classes of one name are the same, in any order, and the data may lack some of the model's. If the classes of one of
    them were never named but numbered ("0", "1", ...), and there are as many in both, they are the same in their
    order. Raises DataError for anything else.
    """
    position = {name: number for number, name in enumerate(ours)}
    if tuple(ours) == tuple(theirs):
        return np.arange(len(ours))
    unique = len(position) == len(ours) and len(set(theirs)) == len(theirs)
    if unique and set(theirs) <= set(ours):
        return np.array([position[name] for name in theirs], np.int64)
    # Names that are numbers, such as "0", "2", of some classes, are names.
    if numbered(ours) != numbered(theirs) and not all(map(str.isdecimal, (*ours, *theirs))):
        if len(ours) == len(theirs):
            return np.arange(len(ours))
        raise DataError(
            f"the model has {len(ours)} classes, {data} {len(theirs)}, and only one of them has names: name the classes"
            f" of both, or take data with {len(ours)} classes"
        )
    unknown = [name for name in theirs if name not in position]
    absent = [name for name in ours if name not in set(theirs)]
    raise DataError(
        f"the model has {len(ours)} classes, {data} {len(theirs)}, and {data} has {listed(unknown)}, which the model "
        f"does not know"
        + (f", while the model has {listed(absent)}, which {data} lacks" if absent else "")
        + ": name the classes alike, or leave out images of other classes"
    )


def numbered(names: Sequence[str]) -> bool:
    """Return True if the names are consecutive numbers, as classes without names have."""
    # The highest label has 19 digits.
    if not names or not names[0].isdecimal() or len(names[0]) > 19:
        return False
    return all(name == str(int(names[0]) + i) for i, name in enumerate(names))


def listed(names: Sequence[str]) -> str:
    """Return the first few names, quoted, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"{name!r}" for name in names[:_LISTED]) + more
