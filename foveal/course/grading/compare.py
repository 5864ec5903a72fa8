"""Results beside what is right: whether they agree, and the first difference in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foveal.course.grading.worker import Other

# Relative to the largest element. Results are computed in float64; those in float32 agree as well.
TOLERANCE = 1e-5
# Arrays of more elements are not shown in full.
SHOWN = 60


class Difference(NamedTuple):
    """How a result differs from what is right."""

    #: as a sentence; empty if it does not
    text: str
    #: True if its shape, or its number of parts, is wrong
    of_shape: bool = False


def difference(name: str, own: object, right: object) -> Difference:
    """Return how a result differs from what is right. name: what the text calls it."""
    try:
        if own is None or isinstance(own, str | dict | Other):
            raise TypeError
        ours, theirs = np.asarray(own, np.float64), np.asarray(right, np.float64)
    except (TypeError, ValueError):
        kind = repr(own) if isinstance(own, Other) else f"{type(own).__name__} ({str(own)[:60]})"
        return Difference(f"{name} is {'None' if own is None else kind}; {described(right)} is right.", True)
    if ours.shape != theirs.shape:
        return Difference(f"{name} has the shape {ours.shape}; {theirs.shape} is right.", True)
    error = np.abs(ours - theirs)
    wrong = ~(error <= TOLERANCE * max(1e-6, float(np.abs(theirs).max(initial=0.0))))
    if not wrong.any():
        return Difference("")
    if not theirs.shape:
        return Difference(f"{name} is {number(ours)}; {number(theirs)} is right." + hint(ours, theirs))
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = ", ".join(map(str, at))
    text = (
        f"{name} differs in {int(wrong.sum())} of {wrong.size} elements; the first is {name}[{place}]:"
        f" it is {number(ours[at])}, {number(theirs[at])} is right."
    )
    return Difference(text + hint(ours, theirs))


def hint(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return what a difference of a whole array looks like, if it looks like something."""
    if not np.isfinite(ours).all():
        return " There are infinities or NaNs, as of an exponential of a large number, of 1 / 0 or of 0 / 0."
    if not ours.shape:
        return ""
    for factor, text in ((-1.0, "The sign is wrong."), (0.0, "All of it is zero.")):
        if np.allclose(ours, factor * theirs, rtol=TOLERANCE):
            return f" {text}"
    size = float(np.sum(theirs * theirs))
    ratio = float(np.sum(ours * theirs)) / size if size else 0.0
    if ratio and ours.size > 2 and np.allclose(ours, ratio * theirs, rtol=TOLERANCE):
        return f" All of it is {number(ratio)} times what is right."
    return ""


def number(value: object) -> str:
    """Return a number with the digits that matter."""
    return f"{float(np.asarray(value)):.7g}"


def described(right: object) -> str:
    """Return what kind of value is right."""
    shape = np.shape(np.asarray(right))
    return f"an array of the shape {shape}" if shape else "a number"


def shown(value: object, name: str = "") -> str:
    """Return a value as Python code, arrays of many elements by their shape alone. name: what it is assigned to."""
    if not isinstance(value, np.ndarray):
        return repr(value)[:400]
    if value.size > SHOWN:
        return f"...  # an array of the shape {value.shape}, which is too long to be shown"
    # Its lines stand below each other in the code.
    prefix = f"{name} = np.array("
    text = np.array2string(value, separator=", ", max_line_width=76, precision=7, suppress_small=True, prefix=prefix)
    return f"np.array({text})" if value.size else f"np.zeros({value.shape})"
