"""Means and variances per channel, in one pass over memory and without losing digits to a large mean.

The values of a channel are taken in parts, and each part has a mean and a sum of squared deviations from it. Two parts
with n_a and n_b values are merged by the pairwise method of Chan, Golub and LeVeque 1979:

    delta = mean_b - mean_a
    mean = mean_a + delta n_b / (n_a + n_b)
    squares = squares_a + squares_b + delta^2 n_a n_b / (n_a + n_b)

Parts are merged in order of their numbers, so the bits do not depend on the number of threads. They come about in two
ways: `chunk_moments` reads chunks of an array twice, the second time from the cache; an epilogue sees each value once,
while it is in a register, and `accumulate` adds up its deviation from a pivot near the mean. In both, what is added up
are distances from a value of the channel: a sum's error is a share of them and not of a large mean, and a constant
channel has exactly its value as mean.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from foveal.kernel.lang import (
    Array,
    Index,
    Scalar,
    Var,
    fold,
    l2,
    lanes,
    loop,
    maximum,
    minimum,
    parallel,
    parallel_vectors,
    splat,
    var,
    vectors,
    where,
    width_of,
)
from foveal.ops.kernels.expression import float_lanes
from foveal.ops.kernels.reduction import BLOCK, COLUMN_VECTORS, COMBINE, tree_sum
from foveal.ops.kernels.register_tile import FLOAT_BYTES, ceil_div
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View

# A chunk of rows takes this part of the second-level cache, 64 KiB of 1 MiB, as it is read twice: the second time from
# the cache. Smaller chunks would cost more merging, larger ones fall out of the cache.
CHUNKS_IN_CACHE = 16
# Chunks that a small array is cut into, so that up to 16 threads have one each.
MIN_CHUNKS = 16
# Rows of a chunk. Merging a chunk takes about ten operations per channel and each of its rows three, so that with 8
# rows merging is less than a third of the work.
MIN_CHUNK_ROWS = 8

# The rows of an epilogue's partial moments: the pivot, the sums of d and of d^2 where d is the distance of a value from
# the pivot, and the number of values.
PIVOT, SUM, SQUARES, COUNT = range(4)
PARTIAL_ROWS = 4


class RunningMoments:
    """The mean and the sum of squared deviations, in registers, of the parts that have been merged so far."""

    def __init__(self, width: int) -> None:
        self.mean, self.squares = var(0.0, width), var(0.0, width)

    def merge(self, before: Scalar, count: Scalar, mean: Scalar, squares: Scalar) -> None:
        """Merge a part of `count` values with the `before` values so far.

        mean, squares: the part's mean and its sum of squared deviations from it.
        """
        delta = mean - self.mean
        share = count / (count + before)
        self.mean += delta * share
        self.squares += squares + delta * delta * before * share


def moment_chunks(rows: int, channels: int) -> int:
    """The number of chunks that an array [rows, channels] is cut into; by shape and target alone."""
    chunk_elements = l2() // CHUNKS_IN_CACHE // FLOAT_BYTES
    return max(1, min(rows // MIN_CHUNK_ROWS, max(MIN_CHUNKS, rows * channels // chunk_elements)))


def lower(lowering: Lowering, y: View, x: View) -> None:
    """y [2, C] = mean and biased variance of the rows of x [rows, C], which kernels of all such shapes compute."""
    rows, C = x.shape
    partial = lowering.scratch((2, moment_chunks(rows, C), C))
    sizes, block = CallSizes(), COLUMN_VECTORS * lanes()
    specs = [sizes.spec(partial, 0), sizes.spec(x)]
    lowering.call(chunk_moments, [partial], [x], specs=specs, sizes=sizes.values, rest=C % block)
    sizes = CallSizes()
    specs = [sizes.spec(y, 0), sizes.spec(partial, 0), sizes.spec(x)]
    share, tail = 1.0 / rows, C % lanes()
    lowering.call(merge_chunks, [y], [partial, x], specs=specs, sizes=sizes.values, numbers=(share,), tail=tail)


def chunk_moments(partial: Array, x: Array, *, rest: int) -> None:
    """The moments of chunks of rows: x [rows, C] -> partial [2, chunks, C].

    partial[0, g] is the mean of the g-th chunk, and partial[1, g] its sum of squared deviations. rest: how many
    channels are left by whole blocks of them.
    """
    (_, chunks, C), rows = partial.extents, x.extents[0]
    size, block = lanes(), COLUMN_VECTORS * lanes()
    # threads share the chunks
    for (g,) in parallel(chunks):
        first, last = g * rows // chunks, (g + 1) * rows // chunks
        # blocks of neighbouring channels, whose totals fit the registers; then the channels that are left
        for b in loop(C // block):
            column_moments(partial, x, g, first, last, [(b * block + i, size) for i in range(0, block, size)])
        if rest:
            columns: list[tuple[Index, int]] = [(C - rest + i, min(size, rest - i)) for i in range(0, rest, size)]
            column_moments(partial, x, g, first, last, columns)


def column_moments(
    partial: Array, x: Array, g: Index, first: Index, last: Index, columns: list[tuple[Index, int]]
) -> None:
    """The moments of chunk g, which has the rows first ... last, for the vectors (channel, lanes) in `columns`.

    They are neighbours, so that whole cache lines of a row are read at once.
    """
    totals = [var(0.0, width) for _, width in columns]
    rests = [var(0.0, width) for _, width in columns]
    squares = [var(0.0, width) for _, width in columns]
    counts = [float_lanes(last - first, width) for _, width in columns]
    # first pass over the rows: the means, as distances from the first row, of which those of a constant are exactly 0
    pivots = [x.load((first, c), width) for c, width in columns]
    for inner, r in rows_in_blocks([totals], first, last):
        for total, pivot, (c, width) in zip(*inner, pivots, columns, strict=True):
            total += x.load((r, c), width) - pivot
    means = [pivot + total.get() / n for pivot, total, n in zip(pivots, totals, counts, strict=True)]
    # second pass, from the cache: squared deviations from them, and their sum, which is what the means are wrong by
    for inner, r in rows_in_blocks([rests, squares], first, last):
        for rest, square, mean, (c, width) in zip(*inner, means, columns, strict=True):
            d = x.load((r, c), width) - mean
            rest += d
            square.fma(d, d)
    for mean, rest, square, n, (c, width) in zip(means, rests, squares, counts, columns, strict=True):
        correction = rest.get() / n
        partial.store((0, g, c), mean + correction, width)
        partial.store((1, g, c), maximum(square.get() - correction * rest.get(), 0.0), width)


def rows_in_blocks(
    totals: Sequence[Sequence[Var]], first: Index, last: Index
) -> Iterator[tuple[Sequence[Sequence[Var]], Index]]:
    """Loop over the rows first ... last in blocks with totals of their own, which are added to `totals` after each.

    Yields the totals that take a row, and the row. As in sums (reduction.BLOCK), errors grow with the blocks' length
    and number and not with that of the rows.
    """
    for start in loop(last, start=first, step=BLOCK):
        inner = [[var(0.0, width_of(total)) for total in row] for row in totals]
        for r in loop(minimum(start + BLOCK, last), start=start):
            yield inner, r
        for row, more in zip(totals, inner, strict=True):
            for total, value in zip(row, more, strict=True):
                total += value.get()


def merge_chunks(y: Array, partial: Array, x: Array, *, tail: int, numbers: tuple[Scalar]) -> None:
    """y [2, C] = mean and biased variance of the rows of x from those of their chunks, partial [2, chunks, C].

    tail: how many channels are left by whole vectors of them. numbers: the share of a row in a mean.
    """
    (share,) = numbers
    (_, chunks, C), rows = partial.extents, x.extents[0]
    each, more = rows // chunks, rows % chunks
    # threads share the channels; the chunks are merged in order
    for c, width in parallel_vectors(C, tail=tail):
        running = RunningMoments(width)
        # chunk g ends before row (g + 1) rows // chunks; `over` is what this division leaves. The next end follows by
        # additions, which take a small part of a division's time
        size, end, over = var(each), var(each), var(more)
        for g in loop(chunks):
            count, before = float_lanes(size.get(), width), float_lanes(end.get() - size.get(), width)
            running.merge(before, count, partial.load((0, g, c), width), partial.load((1, g, c), width))
            left = over.get() + more
            longer = where(left < chunks, 0, 1)
            over.set(left - longer * chunks)
            size.set(each + longer)
            end += size.get()
        y.store((0, c), running.mean, width)
        y.store((1, c), running.squares.get() * share, width)


def image_chunks(images: int, pixels: int, channels: int) -> int:
    """The number of chunks that each image [pixels, channels] is cut into; by shape and target alone."""
    chunk_elements = l2() // CHUNKS_IN_CACHE // FLOAT_BYTES
    wanted = max(ceil_div(MIN_CHUNKS, images), pixels * channels // chunk_elements)
    return max(1, min(pixels // MIN_CHUNK_ROWS, wanted))


def lower_groups(lowering: Lowering, y: View, x: View, groups: int) -> None:
    """y [2, N, C] = mean and biased variance of each channel's group, of x [N, C, ...] that lies channels last."""
    (N, C), rows = x.shape[:2], x.channels_last_rows()
    pixels = rows.shape[0] // N
    chunks = image_chunks(N, pixels, C)
    # the chunks of `chunk_moments` are equal shares of all rows, so each image is a whole number of them
    partial = lowering.scratch((2, N * chunks, C))
    sizes, block = CallSizes(), COLUMN_VECTORS * lanes()
    specs = [sizes.spec(partial, 0), sizes.spec(rows)]
    lowering.call(chunk_moments, [partial], [rows], specs=specs, sizes=sizes.values, rest=C % block)
    sizes = CallSizes()
    specs = [sizes.spec(view, 0, 2, steps=(1, 2)) for view in (y, partial)]
    static: dict[str, Any] = {"chunks": chunks, "pixels": pixels, "groups": groups}
    lowering.call(merge_groups, [y], [partial], specs=specs, sizes=sizes.values, **static)


def merge_groups(y: Array, partial: Array, *, chunks: int, pixels: int, groups: int) -> None:
    """y [2, N, C] = mean and biased variance of each channel's group from those of an image's chunks, partial
    [2, N chunks, C].

    Those of a group follow from its channels': its variance is the mean of their variances and of the squared distances
    of their means from its own.
    """
    _, N, C = y.extents
    of_group = C // groups
    share = 1.0 / (pixels * of_group)

    def merge_channels(n: Index, c: Index, width: int) -> None:
        running = RunningMoments(width)
        for chunk in loop(chunks):
            before, end = chunk * pixels // chunks, (chunk + 1) * pixels // chunks
            place = n * chunks + chunk
            part = (partial.load((row, place, c), width) for row in range(2))
            running.merge(float_lanes(before, width), float_lanes(end - before, width), *part)
        y.store((0, n, c), running.mean, width)
        # a group of several channels needs the sums first
        y.store((1, n, c), running.squares.get() * (share if of_group == 1 else 1.0), width)

    def merge_group(n: Index, first: Index) -> None:
        # distances from the first channel's mean: those of a constant are exactly 0
        pivot, total, squares = y[0, n, first], var(), var()
        for c, width in vectors(of_group):
            total += fold(y.load((0, n, first + c), width) - pivot, COMBINE["sum"][1])
        mean = pivot + total.get() * (1.0 / of_group)
        for c, width in vectors(of_group):
            distance = y.load((0, n, first + c), width) - mean
            deviations = y.load((1, n, first + c), width) + distance * distance * float(pixels)
            squares += fold(deviations, COMBINE["sum"][1])
        for row, value in enumerate((mean, squares.get() * share)):
            for c, width in vectors(of_group):
                y.store((row, n, first + c), splat(value, width), width)

    # threads share the images
    for (n,) in parallel(N):
        for c, width in vectors(C):
            merge_channels(n, c, width)
        if of_group > 1:
            for group in loop(groups):
                merge_group(n, group * of_group)


def accumulate(
    partial: Array, task: Index, first_row: int, values: Sequence[Scalar], channel: Index, width: int
) -> None:
    """Add values of the same `width` channels, one vector for each pixel, to the partial moments of a task.

    partial: [tasks, rows, channels]; the moments stand in PARTIAL_ROWS rows from `first_row` on. The pivot is the mean
    of the first values that the task has. As it is near the mean of all, d^2 loses no digits, as x^2 would where the
    mean is large.
    """

    def load(row: int) -> Scalar:
        return partial.load((task, first_row + row, channel), width)

    count = load(COUNT)
    # 0 before the first values. An addition and no choice: where a choice is stored to where one of its values is from,
    # LLVM makes a store of some lanes of it, which takes AVX2 as long as twelve others
    pivot = load(PIVOT) + where(count == 0.0, tree_sum(values) * (1.0 / len(values)), 0.0)
    # one value after the other, as few registers are free beside the values
    total = values[0] - pivot
    squares = total * total
    for value in values[1:]:
        distance = value - pivot
        total += distance
        squares += distance * distance
    total, squares = load(SUM) + total, load(SQUARES) + squares
    for row, value in enumerate((pivot, total, squares, count + float(len(values)))):
        partial.store((task, first_row + row, channel), value, width)


def merge_tasks(y: Array, partial: Array, first_row: int, channel: Index, width: int) -> None:
    """y[:, channel ...] = mean and biased variance from the tasks' partial moments; arguments as in `accumulate`."""
    running, before = RunningMoments(width), var(0.0, width)
    for task in loop(partial.extents[0]):
        pivot, total, squares, count = (
            partial.load((task, first_row + row, channel), width) for row in (PIVOT, SUM, SQUARES, COUNT)
        )
        # the task's mean is pivot + shift, and moving the deviations there takes shift^2 count = shift total off
        shift = total / count
        running.merge(before, count, pivot + shift, maximum(squares - shift * total, 0.0))
        before += count
    y.store((0, channel), running.mean, width)
    y.store((1, channel), running.squares.get() / before.get(), width)
