"""Copies of arrays from one memory order to another, at the rate at which memory is copied.

A loop over either order would read or write the other one element by element. These kernels load and store whole
vectors on both sides, and exchange lanes in registers:

strips       along one axis, of arrays whose other axis is short: planes of red, green and blue to pixels of three
             channels, and back; where there is no other axis, a plain copy
squares      squares of a vector's lanes, transposed: planes of many channels to pixels, and back

A copy that is checked finds the largest magnitude of what it reads as well, which costs no access to memory.
"""

from collections.abc import Callable, Iterator
from typing import Any

from foveal.kernel.lang import (
    LINE,
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
# Cache lines along the rows of that array whose rows lie closer together, and elements along the rows of the other one,
# in the part that a task of `squares` copies. For each of the lines as many of the other rows are read or written as
# it has elements: the line is read or written at once, and the rows are so long that the prefetcher follows them.
NEAR, FAR = 4, 512


def lower(lowering: Lowering, y: View, x: View, checked: bool = False) -> bool:
    """Call the kernel that copies x to y. Returns False, and calls none, where there is none for their orders.

    y, x: of one shape, with as few axes as both allow, in the order in which y lies in memory, outermost first.
    checked: float32 is copied, and the second output of the kernel is the largest magnitude of each task's part.
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
    specs = [sizes.spec(y, *known), *map(sizes.spec, outputs[1:]), sizes.spec(x, *known)]
    static: dict[str, Any] = {}
    if body is squares:
        along_y = y.strides[-2] > x.strides[-1]
        static = {"along_y": along_y, "whole": y.shape[-2 if along_y else -1] % LINE == 0}
    lowering.call(body, outputs, [x], specs=specs, sizes=sizes.values, **static)
    return True


def arranged(y: View, x: View) -> tuple[Callable[..., None], View, View] | None:
    """The kernel for a copy of x to y, and both as it takes them; None if there is none."""
    shape, width = y.shape, streaming_lanes()
    if not shape or y.strides[-1] != 1 or x.buffer.dtype != y.buffer.dtype:
        return None
    if x.strides[-1] == 1:
        y, x = (with_axes(view, [(1, 0), (shape[-1], 1)]) for view in (y, x))
        return (strips, y, x) if shape[-1] >= width else None
    # the axis along which neighbours are neighbours in x
    across = next((axis for axis, stride in enumerate(x.strides) if stride == 1), None)
    if across is None:
        return None
    n, short = shape[across], shape[-1]
    near, far = (n, short) if y.strides[across] > x.strides[-1] else (short, n)
    if near >= LINE and far >= width:
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
    near, far = y.shape[-2:] if y.strides[-2] > x.strides[-1] else y.shape[:-3:-1]
    return ceil_div(near // LINE, NEAR), ceil_div(far, FAR)


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


def squares(y: Array, *arrays: Array, along_y: bool, whole: bool) -> None:
    """y[..., a, b] = x[..., a, b], where neighbours along b are neighbours in y, and neighbours along a in x.

    arrays: x, and before it the array [..., tasks, tasks] of largest magnitudes if the copy is checked. along_y: True
    if rows of y lie farther apart than those of x, so that the innermost loop runs along them, else along rows of x.
    whole: True if the other axis is whole cache lines; y may then be written past the cache.
    """
    *largest, x = arrays
    width, outer, shape = streaming_lanes(), y.extents[:-2], y.extents[-2:]
    near, far = shape if along_y else shape[::-1]
    lines = near // LINE
    tasks = ceil_div(lines, NEAR), ceil_div(far, FAR)
    store = y.store_past_cache if whole and not along_y else y.store

    def starts(line: Index) -> Iterator[list[Index]]:
        """The first elements of the vectors of a line; behind the last one, of those that end with the axis, too."""
        if whole:
            yield [line * LINE + i for i in range(0, LINE, width)]
            return
        for turn in loop(where(line == lines - 1, 2, 1)):
            first = where(turn == 0, line * LINE, near - LINE)
            yield [first + i for i in range(0, LINE, width)]

    def copy(at: tuple[Index, ...], a: Index, b: Index, seen: Largest) -> None:
        """Copy the square whose first row and column these are."""
        values = [x.load((*at, a, b + i), width) for i in range(width)]
        seen.see(values)
        for i, value in enumerate(transpose(values)):
            store((*at, a + i, b), value, width)

    for *row, across, along in parallel(*outer, *tasks):
        at, seen = tuple(row), Largest(tuple(largest), width)
        first, end = part(lines, tasks[0], across)
        start, stop = part(far, tasks[1], along)
        for line in loop(end, start=first):
            for vectors in starts(line):
                for i in loop(ceil_div(stop - start, width)):
                    # the last vector ends with the part, and may repeat elements of the one before it
                    place = minimum(start + i * width, stop - width)
                    for vector in vectors:
                        a, b = (vector, place) if along_y else (place, vector)
                        copy(at, a, b, seen)
        seen.write((*at, across, along))
