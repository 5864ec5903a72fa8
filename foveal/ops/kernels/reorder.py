"""Copies of arrays from one memory order to another, at the rate at which memory is copied.

A loop over either order would read or write the other one element by element. These kernels load and store whole
vectors on both sides, and exchange lanes in registers:

strips       along one axis, of arrays whose other axis is short: planes of red, green and blue to pixels of three
             channels, and back; where there is no other axis, a plain copy
squares      squares of a vector's lanes, transposed: planes of many channels to pixels, and back

A copy that is checked finds the largest magnitude of what it reads as well, which costs no access to memory. Of float64
a copy in float32 is made.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from foveal.kernel.lang import (
    Array,
    Index,
    Value,
    fold,
    interleave,
    loop,
    minimum,
    parallel,
    separate,
    transpose,
    var,
    when,
    where,
)
from foveal.ops.kernels.expression import streaming_lanes
from foveal.ops.kernels.magnitudes import larger
from foveal.ops.kernels.register_tile import ceil_div
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View

# Vectors along a strip that one task copies: some KiB, so that threads have many tasks to share and that a task's own
# work does not count.
STRIP = 128
# Elements along the two sides of the part that one task transposes: along the rows of the array whose rows lie farther
# apart, and along those of the other one. Eight of the former are read or written at a time, eight cache lines of each,
# which the prefetcher follows; a part of the latter, 32 KiB, stays in the nearest caches meanwhile.
FAR, NEAR = 128, 64


def lower(lowering: Lowering, y: View, x: View, checked: bool = False) -> bool:
    """Call the kernel that copies x to y. Returns False, and calls none, where there is none for their orders.

    y, x: of one shape, with as few axes as both allow, in the order in which y lies in memory, outermost first.
    checked: float32 is made, and the second output of the kernel is the largest magnitude of each task's part.
    """
    found = arranged(y, x)
    if found is None:
        return False
    body, y, x = found
    outputs, sizes = [y], CallSizes()
    if checked:
        outputs.append(lowering.scratch((*y.shape[:-2], *task_counts(body, y, x))))
    short = len(y.shape) - 2
    known = (short,) if body is strips else ()
    written = sizes.spec(y, *known)
    # a square's rows are parts of lines, which have to meet in the cache
    written = written if body is strips else replace(written, streamed=False)
    specs = [written, *map(sizes.spec, outputs[1:]), sizes.spec(x, *known)]
    static: dict[str, Any] = {} if body is strips else {"along_y": y.strides[-2] > x.strides[-1]}
    lowering.call(body, outputs, [x], specs=specs, sizes=sizes.values, **static)
    return True


def arranged(y: View, x: View) -> tuple[Callable[..., None], View, View] | None:
    """The kernel for a copy of x to y, and both as it takes them; None if there is none."""
    shape, width = y.shape, streaming_lanes()
    same = x.buffer.dtype == y.buffer.dtype or (x.buffer.dtype, y.buffer.dtype) == ("float64", "float32")
    if not shape or y.strides[-1] != 1 or not same:
        return None
    if x.strides[-1] == 1:
        y, x = (with_axes(view, [(1, 0), (shape[-1], 1)]) for view in (y, x))
        return (strips, y, x) if shape[-1] >= width else None
    # the axis along which neighbours are neighbours in x
    across = next((axis for axis, stride in enumerate(x.strides) if stride == 1), None)
    if across is None:
        return None
    n, short = shape[across], shape[-1]
    if min(n, short) >= width:
        y, x = (with_axes(view, [(n, view.strides[across]), (short, view.strides[-1])], across) for view in (y, x))
        return squares, y, x
    if n >= width and y.strides[across] == short:
        pixels = with_axes(y, [(1, 0), (n * short, 1)], across)
        return strips, pixels, with_axes(x, [(short, x.strides[-1]), (n, 1)], across)
    if short >= width and x.strides[-1] == n:
        pixels = with_axes(x, [(1, 0), (n * short, 1)], across)
        return strips, with_axes(y, [(n, y.strides[across]), (short, 1)], across), pixels
    return None


def with_axes(view: View, axes: list[tuple[int, int]], *left_out: int) -> View:
    """The view with these (size, stride) in the place of its last axis and of those that are left out."""
    kept = [axis for axis in range(len(view.shape) - 1) if axis not in left_out]
    pairs = [*((view.shape[axis], view.strides[axis]) for axis in kept), *axes]
    return view.over(tuple(n for n, _ in pairs), tuple(stride for _, stride in pairs))


def task_counts(body: Callable[..., None], y: View, x: View) -> tuple[int, ...]:
    """How many tasks a kernel has for each index of the outer axes."""
    if body is strips:
        return (ceil_div(min(y.shape[-1], x.shape[-1]) // streaming_lanes(), STRIP),)
    sides = sides_of(y.strides[-2] > x.strides[-1])
    return tuple(ceil_div(n, side) for n, side in zip(y.shape[-2:], sides, strict=True))


def sides_of(along_y: bool) -> tuple[int, int]:
    """Rows and columns of the part of y that a task of `squares` writes."""
    return (NEAR, FAR) if along_y else (FAR, NEAR)


def part(n: Index, count: Index, number: Index) -> tuple[Index, Index]:
    """Where a part of n begins and ends, of so many that are about equally large."""
    return number * n // count, (number + 1) * n // count


class Largest:
    """The largest magnitude of what a task has read, if that is asked for."""

    def __init__(self, arrays: tuple[Array, ...], width: int) -> None:
        self.arrays, self.width = arrays, width
        self.found = [var(0.0, width) for _ in arrays]

    def see(self, values: list[Value]) -> None:
        """Take vectors into account."""
        for value in values:
            for found in self.found:
                found.set(larger(found.get(), value))

    def write(self, task: tuple[Index, ...]) -> None:
        """Write it to the task's place."""
        for array, found in zip(self.arrays, self.found, strict=True):
            array[task] = fold(found, larger)


def strips(y: Array, *arrays: Array) -> None:
    """y = x, where one of them is [..., C, n] and the other one [..., 1, n C], with its C elements beside each other.

    arrays: x, and before it the array [..., tasks] of largest magnitudes if the copy is checked. Where C is 1 both are
    [..., 1, n].
    """
    *largest, x = arrays
    width, count = streaming_lanes(), max(y.shape[-2], x.shape[-2])
    *outer, _, n = max((y, x), key=lambda array: array.shape[-2]).extents
    blocks = n // width
    tasks = ceil_div(blocks, STRIP)
    # the task that copies what is left after the last whole vector, if there is something left
    with_rest = where(n % width == 0, tasks, tasks - 1)

    def places(array: Array, start: Index) -> list[tuple[Index, Index]]:
        """Where the vectors of one block lie in an array: the last two indices of each."""
        if array.shape[-2] == count:
            return [(c, start) for c in range(count)]
        return [(0, start * count + c * width) for c in range(count)]

    def copy(row: tuple[Index, ...], start: Index, seen: Largest, store: Callable[..., None]) -> None:
        """Copy the block of `count` vectors that begins at `start`."""
        values = [x.load((*row, *place), width) for place in places(x, start)]
        seen.see(values)
        if count > 1:
            values = interleave(values) if x.shape[-2] == count else separate(values)
        for place, value in zip(places(y, start), values, strict=True):
            store((*row, *place), value, width)

    for *row, task in parallel(*outer, tasks):
        at, seen = tuple(row), Largest(tuple(largest), width)
        first, end = part(blocks, tasks, task)
        for block in loop(end, start=first):
            copy(at, block * width, seen, y.store_past_cache)
        for _ in when(task == with_rest):
            # it ends with the strip, and repeats elements of the block before it
            copy(at, n - width, seen, y.store)
        seen.write((*at, task))


def squares(y: Array, *arrays: Array, along_y: bool) -> None:
    """y[..., a, b] = x[..., a, b], where neighbours along b are neighbours in y, and neighbours along a in x.

    arrays: x, and before it the array [..., tasks along a, tasks along b] of largest magnitudes if the copy is checked.
    along_y: True if rows of y lie farther apart than those of x, so that the innermost loop runs along them.
    """
    *largest, x = arrays
    width, (*outer, rows, columns) = streaming_lanes(), y.extents
    sides = sides_of(along_y)
    tasks = ceil_div(rows, sides[0]), ceil_div(columns, sides[1])

    def steps(n: Index, count: Index, task: Index) -> Iterator[Index]:
        """The first elements of a part's vectors. The last vector ends with the part, and may repeat elements."""
        first, end = part(n, count, task)
        for i in loop(ceil_div(end - first, width)):
            yield minimum(first + i * width, end - width)

    def places(of_rows: Index, of_columns: Index) -> Iterator[tuple[Index, Index]]:
        """The first row and column of each square of a task."""
        if along_y:
            for a in steps(rows, tasks[0], of_rows):
                for b in steps(columns, tasks[1], of_columns):
                    yield a, b
        else:
            for b in steps(columns, tasks[1], of_columns):
                for a in steps(rows, tasks[0], of_rows):
                    yield a, b

    for *row, of_rows, of_columns in parallel(*outer, *tasks):
        at, seen = tuple(row), Largest(tuple(largest), width)
        for a, b in places(of_rows, of_columns):
            values = [x.load((*at, a, b + i), width) for i in range(width)]
            seen.see(values)
            for i, value in enumerate(transpose(values)):
                y.store((*at, a + i, b), value, width)
        seen.write((*at, of_rows, of_columns))
