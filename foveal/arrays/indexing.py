"""Parts of traced arrays, x[...], by NumPy's rules.

Taken are integers, slices in steps of any size and sign, None for a new axis, one Ellipsis, and one list or array of
integers, or one traced integer array. Masks have no place here: the shape of their result depends on values.
"""

from typing import Any

import numpy as np

from foveal.arrays.calls import CALLS, HasShape
from foveal.errors import ShapeError
from foveal.kinds import no_array, shown

TAKEN = "integers, slices, None, ... and one list of integers"

# Runs of neighbours that a list of integers may consist of: each becomes an operator.
MOST_RUNS = 256


def is_integer(part: object) -> bool:
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def is_list(part: object) -> bool:
    """True for a list, an array or a traced array of places."""
    return isinstance(part, list) or (hasattr(part, "shape") and not is_integer(part))


def parts(x: HasShape, key: object) -> Any:
    """x[key]. Raises ShapeError for what is no index, and for places that x does not have."""
    keys: list[Any] = list(key) if isinstance(key, tuple) else [key]
    # by identity, as an array would be compared element by element
    dots = [i for i, part in enumerate(keys) if part is Ellipsis]
    rank, named = len(x.shape), len([part for part in keys if part is not None and part is not Ellipsis])
    if len(dots) > 1:
        raise ShapeError("an index has more than one Ellipsis; give one")
    if named > rank:
        raise ShapeError(f"{named} indices for the {rank} axes of shape {x.shape}")
    for at in dots:
        keys[at : at + 1] = [slice(None)] * (rank - named)
    check_lists(keys)
    y: Any = x
    axis = 0
    for part in keys:
        if part is None:
            y = CALLS["reshape"](y, shape=(*y.shape[:axis], 1, *y.shape[axis:]))
            axis += 1
        elif isinstance(part, slice):
            y = sliced(y, axis, part)
            axis += 1
        elif is_integer(part):
            y = part_of(y, axis, int(part))
        else:
            y = listed(y, axis, part)
            axis += np.ndim(part) if isinstance(part, list) else len(part.shape)
    return y


def check_lists(keys: list[Any]) -> None:
    """Raise ShapeError for parts that are no indices, for several lists, and for a list apart from an integer."""
    for part in keys:
        if not (part is None or isinstance(part, slice) or is_integer(part) or is_list(part)):
            raise ShapeError(f"a traced value is indexed with {TAKEN}, not with {shown(part)}")
    lists = [i for i, part in enumerate(keys) if is_list(part)]
    if len(lists) > 1:
        raise ShapeError(f"a traced value is indexed with {TAKEN}; it has {len(lists)} lists here: index step by step")
    # NumPy counts integers as lists here: if anything stands between, the list's axis would come first in the result.
    together = [i for i, part in enumerate(keys) if is_list(part) or is_integer(part)]
    if lists and together[-1] - together[0] >= len(together):
        raise ShapeError("an index has an integer and a list with other axes between them; index in two steps")


def sliced(x: HasShape, axis: int, part: slice) -> Any:
    """The part of one axis that a slice names."""
    n = x.shape[axis]
    try:
        places = range(n)[part]
    except (TypeError, ValueError) as error:
        raise ShapeError(f"axis {axis} is indexed with {shown(part)}: {error}") from None
    step = places.step
    if step == 1 or len(places) == 1:
        return x if len(places) == n else CALLS["narrow"](x, axis=axis, start=places.start, length=len(places))
    if not places:
        raise ShapeError(f"{shown(part)} takes nothing of the {n} parts of axis {axis} of shape {x.shape}")
    first = min(places[0], places[-1])
    if abs(step) > 1:
        x = CALLS["strided"](x, axis=axis, start=first, step=abs(step), length=len(places))
    elif len(places) < n:
        x = CALLS["narrow"](x, axis=axis, start=first, length=len(places))
    return CALLS["flip"](x, axis=axis) if step < 0 else x


def part_of(x: HasShape, axis: int, i: int) -> Any:
    """Part i along an axis, which is gone then."""
    if axis == 0:
        return CALLS["index"](x, i=i)
    n, shape = x.shape[axis], x.shape
    if not -n <= i < n:
        raise ShapeError(f"there is no part {i} among the {n} of axis {axis} of shape {shape}")
    part = CALLS["narrow"](x, axis=axis, start=i % n, length=1)
    return CALLS["reshape"](part, shape=(*shape[:axis], *shape[axis + 1 :]))


def listed(x: HasShape, axis: int, places: Any) -> Any:
    """The parts at several places of an axis: those of a list or an array, or of a traced array."""
    if not isinstance(places, list | np.ndarray):
        if np.dtype(places.dtype).kind == "f":
            raise ShapeError(
                f"a traced value is indexed with {TAKEN}, not with a traced float32, which comparisons give too; for"
                " masks use ops.where(condition, a, b), for integers convert it with astype"
            )
        return CALLS["take"](x, places, axis=axis)
    try:
        array, n = np.asarray(places), x.shape[axis]
    except ValueError:
        raise ShapeError(
            f"a traced value is indexed with {TAKEN}, not with {shown(places)}, {no_array(places)}, or index with one"
            " list after the other"
        ) from None
    if array.dtype.kind == "b":
        raise ShapeError(
            f"a traced value is indexed with {TAKEN}, not with {shown(places)}; for masks use"
            " ops.where(condition, a, b)"
        )
    if array.dtype.kind not in "iu" or not array.size:
        raise ShapeError(f"a traced value is indexed with {TAKEN}, not with {shown(places)}")
    if array.min() < -n or array.max() >= n:
        raise ShapeError(f"{shown(places)} names parts that the {n} of axis {axis} of shape {x.shape} do not have")
    flat = array.ravel() % n
    # neighbours are taken together
    runs = np.split(flat, np.flatnonzero(np.diff(flat) != 1) + 1)
    if len(runs) > MOST_RUNS:
        raise ShapeError(
            f"a list of {len(flat)} places that are apart would become as many operators; pass it in as an argument,"
            " int32, and use ops.take"
        )
    taken = [CALLS["narrow"](x, axis=axis, start=int(run[0]), length=len(run)) for run in runs]
    y = taken[0] if len(taken) == 1 else CALLS["concatenate"](*taken, axis=axis)
    if array.ndim == 1:
        return y
    return CALLS["reshape"](y, shape=(*x.shape[:axis], *array.shape, *x.shape[axis + 1 :]))
