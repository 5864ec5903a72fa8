"""The largest magnitudes of many arrays, in one pass over their memory that reads each element once.

Without its sign bit, a float32 read as an integer is the larger the larger its magnitude is, infinity is above all
numbers, and NaN above infinity. So one integer maximum finds the largest magnitude and keeps NaN as well. A maximum
does not depend on the order in which it is taken, so neither do the bits on the number of threads.
"""

from foveal.kernel.lang import (
    F32,
    I32,
    Array,
    Scalar,
    Value,
    bitcast,
    fold,
    loop,
    maximum,
    minimum,
    parallel,
    splat,
    var,
    where,
)

# Vectors that one iteration reads, so that enough loads are in flight.
UNROLL = 4
# Parts that the work is cut into at most: enough for 16 threads to have two each.
MAX_PARTS = 32
# Elements of all arrays together that make another part worth while.
PART_SIZE = 1 << 14


def part_count(sizes: list[int]) -> int:
    """The number of parts that each array is cut into; by their sizes alone."""
    return max(1, min(MAX_PARTS, sum(sizes) // PART_SIZE))


def larger(a: Scalar, b: Scalar) -> Value:
    """The larger of a, which is no negative number, and |b|; NaN if one is."""
    return bitcast(maximum(bitcast(a, I32), bitcast(b, I32) & 0x7FFFFFFF), F32)


def magnitudes_of_parts(partial: Array, *xs: Array) -> None:
    """partial[i, g] = vectors whose largest lane is the largest |x| of part g of the i-th array; arrays [size]."""
    _, parts, width = partial.shape
    block = UNROLL * width
    # threads share the parts
    for (g,) in parallel(parts):
        for i, x in enumerate(xs):
            (n,) = x.shape
            if n < block:
                single = var(0.0)
                for e in loop((g + 1) * n // parts, start=g * n // parts):
                    single.set(larger(single.get(), x[e]))
                partial.store((i, g, 0), splat(single.get(), width), width)
                continue
            totals, blocks = [var(0.0, width) for _ in range(UNROLL)], -(-n // block)
            for b in loop((g + 1) * blocks // parts, start=g * blocks // parts):
                # the last block ends with the array, and may repeat elements of the one before it
                start = minimum(b * block, n - block)
                for j, total in enumerate(totals):
                    total.set(larger(total.get(), x.load((start + j * width,), width)))
            for total in totals[1:]:
                totals[0].set(larger(totals[0].get(), total.get()))
            partial.store((i, g, 0), totals[0], width)


def merge_magnitudes(y: Array, partial: Array, *, limits: tuple[tuple[int, float], ...]) -> None:
    """y[1 + i] = the largest of partial[i]; y[0] = 1 if all are below their limits.

    limits: pairs (count, limit), for so many arrays after each other.
    """
    _, parts, width = partial.shape
    for _ in parallel(1):
        is_good, first = var(1.0), 0
        for count, limit in limits:
            for i in loop(first + count, start=first):
                total = var(0.0, width)
                for g in loop(parts):
                    total.set(larger(total.get(), partial.load((i, g, 0), width)))
                y[1 + i] = largest = fold(total, larger)
                is_good.set(where(largest < limit, is_good.get(), 0.0))
            first += count
        y[0] = is_good
