"""The largest magnitudes of many arrays, in one pass over their memory that reads each element once.

Without its sign bit, a float32 read as an integer is the larger the larger its magnitude is, infinity is above all
numbers, and NaN above infinity. So one integer maximum finds the largest magnitude and keeps NaN as well. A maximum
does not depend on the order in which it is taken, so neither do the bits on the number of threads.

A network has hundreds of gradients, of as many sizes. One code serves all of them: a kernel takes GROUP arrays, whose
sizes its call gives, and calls one function for each part of each array.
"""

import math
from collections.abc import Callable, Sequence

from foveal.kernel.compile import ArraySpec, Kernel, Size
from foveal.kernel.lang import (
    F32,
    I32,
    Array,
    Index,
    Scalar,
    Value,
    bitcast,
    fold,
    loop,
    maximum,
    minimum,
    otherwise,
    parallel,
    splat,
    var,
    when,
    where,
)
from foveal.ops.kernels.expression import streaming_lanes
from foveal.ops.kernels.register_tile import ceil_div
from foveal.ops.op import Lowering
from foveal.view import View

# Arrays of a call. Many calls would cost a barrier each; where a call has fewer arrays, the others are empty.
GROUP = 16
# Vectors that one iteration reads, so that enough loads are in flight.
UNROLL = 4
# Parts that the work is cut into at most: enough for 16 threads to have two each.
MAX_PARTS = 32
# Elements of all arrays together that make another part worth while.
PART_SIZE = 1 << 14


def lower(lowering: Lowering, y: View, arrays: Sequence[View], limits: tuple[tuple[int, float], ...]) -> None:
    """y[1 + i] = the largest |x| of the i-th array; y[0] = 1 if all are below their limits; limits: (count, limit)."""
    # the elements of each array as they follow each other in memory, whatever its layout
    flat = [View(x.buffer, (math.prod(x.shape),), (1,), x.offset) for x in arrays]
    groups, width = ceil_div(len(flat), GROUP), streaming_lanes()
    parts = part_count([x.shape[0] for x in flat])
    partial = lowering.scratch((groups, parts, GROUP, width))
    strides = (GROUP * width, width, 1)
    function = Kernel(largest_of_part, (ArraySpec((1, GROUP, width), strides), ArraySpec((1,), (1,))), indices=3)
    rows = ArraySpec((Size(0), GROUP, width), strides)
    specs = [rows, *(ArraySpec((Size(1 + i),), (1,)) for i in range(GROUP))]
    for group in range(groups):
        mine = flat[group * GROUP : (group + 1) * GROUP]
        # empty arrays fill the last group
        mine += [View(mine[0].buffer, (0,), (1,), mine[0].offset)] * (GROUP - len(mine))
        offset = partial.offset + group * parts * GROUP * width
        result = View(partial.buffer, (parts, GROUP, width), strides, offset)
        sizes = [parts, *(x.shape[0] for x in mine)]
        lowering.call(magnitudes_of_parts, [result], mine, specs=specs, sizes=sizes, functions=[function])
    lowering.call(merge_magnitudes, [y], [partial], limits=limits)


def part_count(sizes: list[int]) -> int:
    """The number of parts that each array is cut into; by their sizes alone."""
    return max(1, min(MAX_PARTS, sum(sizes) // PART_SIZE))


def larger(a: Scalar, b: Scalar) -> Value:
    """The larger of a, which is no negative number, and |b|; NaN if one is."""
    return bitcast(maximum(bitcast(a, I32), bitcast(b, I32) & 0x7FFFFFFF), F32)


def magnitudes_of_parts(partial: Array, *xs: Array, functions: tuple[Callable[..., None]]) -> None:
    """partial[g, i] = a vector whose largest lane is the largest |x| of part g of the i-th array; arrays [size]."""
    (largest,) = functions
    (parts, _, width), sizes = partial.extents, [x.extents[0] for x in xs]
    # the blocks of each array that a part has: divided once, and not in each call
    shares = [ceil_div(ceil_div(n, UNROLL * width), parts) for n in sizes]
    # threads share the parts
    for (g,) in parallel(parts):
        for i, (x, n, share) in enumerate(zip(xs, sizes, shares, strict=True)):
            largest(partial.at(g, i, 0), x, n, g, share)


def largest_of_part(partial: Array, x: Array, n: Index, g: Index, share: Index) -> None:
    """partial[0, 0] = a vector whose largest lane is the largest |x| of the g-th part of x [n].

    A part has `share` blocks of UNROLL vectors, as far as there are as many; an array of less than a block is one part.
    """
    width = partial.shape[2]
    block = UNROLL * width
    is_short = n < block
    for _ in when(is_short):
        single = var(0.0)
        for e in loop(where(g == 0, n, 0)):
            single.set(larger(single.get(), x[e]))
        partial.store((0, 0, 0), splat(single.get(), width), width)
    for _ in otherwise(is_short):
        totals, blocks = [var(0.0, width) for _ in range(UNROLL)], (n + (block - 1)) // block
        for b in loop(minimum((g + 1) * share, blocks), start=g * share):
            # the last block ends with the array, and may repeat elements of the one before it
            start = minimum(b * block, n - block)
            for j, total in enumerate(totals):
                total.set(larger(total.get(), x.load((start + j * width,), width)))
        for total in totals[1:]:
            totals[0].set(larger(totals[0].get(), total.get()))
        partial.store((0, 0, 0), totals[0], width)


def merge_magnitudes(y: Array, partial: Array, *, limits: tuple[tuple[int, float], ...]) -> None:
    """y[1 + i] = the largest of partial[i // GROUP, :, i % GROUP]; y[0] = 1 if all are below their limits.

    limits: pairs (count, limit), for so many arrays after each other.
    """
    _, parts, _, width = partial.shape
    for _ in parallel(1):
        is_good, first = var(1.0), 0
        for count, limit in limits:
            for i in loop(first + count, start=first):
                total = var(0.0, width)
                for g in loop(parts):
                    total.set(larger(total.get(), partial.load((i // GROUP, g, i % GROUP, 0), width)))
                y[1 + i] = largest = fold(total, larger)
                is_good.set(where(largest < limit, is_good.get(), 0.0))
            first += count
        y[0] = is_good
