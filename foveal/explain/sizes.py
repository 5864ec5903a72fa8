"""Image sizes at which no layer of a network leaves rows or columns unread."""

from collections.abc import Callable, Sequence
from typing import Any

from foveal.errors import ShapeError
from foveal.explain.rows import Summary
from foveal.explain.summary import explain

NEAR = 40  # pixels around the given size that are tried

Make = Callable[[tuple[int, ...]], Any]


def skipped(summary: Summary) -> list[bool]:
    """By axis of the image, whether a layer leaves positions unread that no other layer reads."""
    lost = [lost for row in summary.rows for lost in row.unread if not lost.elsewhere]
    return [any(one.positions[axis] for one in lost) for axis in range(len(summary.input) - 2)]


def fitting_sizes(make: Make, input_shape: Sequence[int], near: int = NEAR) -> list[tuple[int, ...]]:
    """The next smaller and the next larger image, (rows, columns), at which every layer reads all that it is given.

    make: the model for images of some shape (C, H, W). Each axis is searched by itself and may keep its size; a size
    that
    the model refuses is passed over. Sequences and features have no such sizes.
    """
    C, *sizes = input_shape
    if len(sizes) != 2:
        return []
    found = [nearest(make, C, sizes, step, near) for step in (-1, 1)]
    whole = dict.fromkeys(shape for shape in found if shape is not None)
    return [shape for shape in whole if all(fits(make, (C, *shape)))]


def nearest(make: Make, C: int, sizes: Sequence[int], step: int, near: int) -> tuple[int, ...] | None:
    """The first size of each axis, going by `step`, at which all of it is read."""
    chosen: dict[int, int] = {}
    for i in range(near + 1):
        tried = [n + step * i for n in sizes]
        if min(tried) < 1:
            break
        for axis, good in enumerate(fits(make, (C, *tried))):
            if good:
                chosen.setdefault(axis, tried[axis])
        if len(chosen) == len(sizes):
            return tuple(chosen[axis] for axis in range(len(sizes)))
    return None


def fits(make: Make, shape: tuple[int, ...]) -> list[bool]:
    """By axis, whether all is read."""
    try:
        return [not lost for lost in skipped(explain(make(shape), shape, memory=False))]
    except ShapeError:
        return [False, False]
