"""Image sizes at which no layer of a network leaves rows or columns unread."""

from collections.abc import Callable, Sequence

from foveal.errors import ShapeError
from foveal.explain.explainer import batch_shape, explain
from foveal.explain.model import Model
from foveal.explain.rows import Rows
from foveal.strides import Shape

# Sizes up to this many pixels below and above the given one are tried. Strides of all layers together are mostly 32, so
# this is a little more than one step of the last layer.
MAX_DISTANCE = 40

# Returns the model for images of a shape (C, H, W).
Make = Callable[[Shape], Model]


def skipped(summary: Rows) -> list[bool]:
    """Return, for each axis of the image, True if a layer leaves positions unread that no other layer reads."""
    lost = [lost for row in summary.rows for lost in row.unread if not lost.elsewhere]
    return [any(one.positions[axis] for one in lost) for axis in range(len(summary.input) - 2)]


def fitting_sizes(make: Make, input_shape: Sequence[int], near: int = MAX_DISTANCE) -> list[tuple[int, ...]]:
    """Return the next smaller and the next larger image, as (rows, columns), of which every layer reads everything.

    make: returns the model for images of a shape (C, H, W). input_shape: the present shape. near: how many pixels a
    size may differ from it. Each axis is searched by itself and may keep its size. Sizes that the model refuses are
    passed over. The list is empty for sequences and features, and holds one size or none if others are too far away.
    """
    C, *sizes = batch_shape(input_shape, 1)[1:]
    if len(sizes) != 2:
        return []
    nearest = [nearest_size(make, C, sizes, step, near) for step in (-1, 1)]
    distinct = dict.fromkeys(shape for shape in nearest if shape is not None)
    # Each axis was found by itself; both together are tried once more.
    return [shape for shape in distinct if all(axes_read_completely(make, (C, *shape)))]


def nearest_size(make: Make, C: int, sizes: Sequence[int], step: int, near: int) -> tuple[int, ...] | None:
    """Return for each axis the first size that is read completely, going from `sizes` on in steps of 1 or -1."""
    chosen: dict[int, int] = {}
    for i in range(near + 1):
        tried = [n + step * i for n in sizes]
        if min(tried) < 1:
            break
        for axis, complete in enumerate(axes_read_completely(make, (C, *tried))):
            if complete:
                chosen.setdefault(axis, tried[axis])
        if len(chosen) == len(sizes):
            return tuple(chosen[axis] for axis in range(len(sizes)))
    return None


def axes_read_completely(make: Make, shape: Shape) -> list[bool]:
    """Return True for each axis of the image of which every layer reads everything."""
    try:
        return [not lost for lost in skipped(explain(make(shape), shape, memory=False, fields=False))]
    except ShapeError:
        return [False, False]
