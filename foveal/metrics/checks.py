"""What every metric asks of the scores and labels that it is given: one rule for all.

Scores are [N, K] or, for one class against the rest, [N]; labels are class numbers [N]. A column [N, 1] counts as [N].
Labels may have any type that holds whole numbers: integers, booleans (of two classes) and floats such as 2.0. Anything
else is refused: no rows, other shapes, numbers of rows that differ, text and other objects, NaN, labels that are no
class. Each error names the metric, the value and its index.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal import kinds
from foveal.errors import DataError
from foveal.kinds import Refused, name_kind, shown
from foveal.strides import Ndarray

# Scores and labels of a function that leaves all checks of them to this file, in other words than those of calls.
Measured = Annotated[ArrayLike, "checked as metrics are"]

name_kind(Measured, "an array of numbers", object)


def numbers(metric: str, what: str, values: ArrayLike) -> Ndarray:
    """Return `values`, which `what` names in messages, as an array of real numbers with at least one row."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{metric}: the {what} are no array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{metric}: the {what} have dtype {array.dtype}; give an array of numbers")
    if np.ma.is_masked(values):
        raise DataError(f"{metric}: some {what} are masked; leave these rows out before")
    if array.size == 0:
        raise DataError(
            f"{metric}: the {what} have shape {array.shape}; there has to be at least one row to be measured"
        )
    return array


def column(metric: str, what: str, values: ArrayLike) -> Ndarray:
    """Return one number per row, [N]; a column [N, 1] counts as that."""
    array = numbers(metric, what, values)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{metric}: the {what} have shape {array.shape}, they have to be [N], one per row; for a matrix with a"
            " column per class take .argmax(1), or the column of one class"
        )
    return array


def class_scores(metric: str, what: str, values: ArrayLike) -> Ndarray:
    """Return scores [N, K] without NaN. They may be infinite."""
    array = numbers(metric, what, values)
    if array.ndim != 2:
        raise DataError(
            f"{metric}: the {what} have shape {array.shape}, they have to be [N, K], a row for each image and a column"
            " for each class; move the classes to the last axis and reshape to [-1, K]"
        )
    wrong = np.flatnonzero(np.isnan(array).any(1))
    if len(wrong):
        raise DataError(
            f"{metric}: the {what} of row {wrong[0]} hold NaN ({len(wrong)} of {len(array)} rows do); a network that"
            " gives NaN cannot be measured"
        )
    return array


def class_numbers(metric: str, what: str, values: ArrayLike, rows: int | None, classes: int) -> NDArray[np.int64]:
    """Return class numbers [N] from 0 to classes - 1. rows: how many there have to be; None for any number."""
    array = column(metric, f"{what}s", values)
    if rows is not None and len(array) != rows:
        raise DataError(f"{metric}: {len(array)} {what}s and {rows} rows of scores; give one {what} per row")
    # NaN is no whole number, and infinity is none of the classes.
    as_float = array.astype(np.float64)
    wrong = np.flatnonzero(np.trunc(as_float) != as_float)
    if len(wrong):
        raise DataError(
            f"{metric}: {what} {array[wrong[0]]} at index {wrong[0]} is no whole number; {what}s are the numbers of"
            " classes"
        )
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise DataError(
            f"{metric}: {what} {array[wrong[0]]} at index {wrong[0]} is none of the {classes} classes, 0 to"
            f" {classes - 1} ({len(wrong)} such {what}s); leave these rows out, or correct them"
        )
    return array.astype(np.int64)


def scores_and_labels(
    metric: str, scores: ArrayLike, labels: ArrayLike, what: str = "scores"
) -> tuple[Ndarray, NDArray[np.int64]]:
    """Return scores [N, K] without NaN, and labels [N] from 0 to K-1."""
    values = class_scores(metric, what, scores)
    return values, class_numbers(metric, "label", labels, len(values), values.shape[1])


def finite(metric: str, what: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return one finite number per row, [N], as float64."""
    array = column(metric, what, values).astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise DataError(
            f"{metric}: the {what} hold NaN or infinity, first {array[wrong[0]]} at index {wrong[0]}: they cannot be"
            " put in an order"
        )
    return array


def whole(metric: str, what: str, value: object, low: int, high: int | None = None) -> int:
    """Return a whole number from `low` to `high`, such as the k of a top-k accuracy."""
    try:
        given = kinds.whole(value)
        if low <= given and (high is None or given <= high):
            return given
    except Refused:
        pass
    allowed = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    raise DataError(f"{metric}: {what} is {shown(value)}, it has to be {allowed}")


def number(metric: str, what: str, value: object) -> float:
    """Return a number that a metric is called with. Numbers that it has no use for, such as NaN, it refuses itself."""
    try:
        return float(kinds.any_real(value))
    except Refused:
        raise DataError(f"{metric}: {what} is {shown(value)}, it has to be a number") from None
