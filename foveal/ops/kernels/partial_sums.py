"""Sums of chunks that threads have computed, added in a fixed order."""

from typing import Any

from foveal.kernel.lang import lanes, loop, maximum, minimum, parallel, var, vectors
from foveal.ops.op import Lowering


def add_partials(total: Any, partial: Any) -> None:
    """total[i] = the sum over partial[., i], in order."""
    chunks, n = partial.shape
    size = lanes()

    def add(i: Any, width: int) -> None:
        acc = var(0.0, width)
        for g in loop(chunks):
            acc += partial.load((g, i), width)
        total.store((i,), acc, width)

    for (v,) in parallel(n // size):
        add(v * size, size)
    if n % size:
        for _ in parallel(1):
            add(n - n % size, n % size)


def lower_sum(to: Lowering, dw: Any, partial: Any, first: tuple[int, int]) -> None:
    """Add up the chunks' sums [chunks, R, S, C, K] of the kernel positions from `first` on; the others are 0."""
    (K, C, R, S), (chunks, *kernel, _, _) = dw.shape, partial.shape
    if tuple(kernel) == (R, S):
        total = dw.permuted(2, 3, 1, 0).reshaped((R * S * C * K,))
        to.call(add_partials, [total], [partial.reshaped((chunks, R * S * C * K))])
        return
    total = dw.permuted(2, 3, 1, 0).reshaped((R, S, C * K))
    to.call(add_inside, [total], [partial.reshaped((chunks, *kernel, C * K))], first=first)


def add_inside(total: Any, partial: Any, *, first: tuple[int, int]) -> None:
    """total[r, s] = the sum over partial[., r - first, s - first] in order; 0 where there is no such position."""
    chunks, rows, columns, n = partial.shape
    for r, s in parallel(*total.shape[:2]):
        there = within(r, first[0], rows) * within(s, first[1], columns)
        for i, width in vectors(n):
            acc = var(0.0, width)
            for g in loop(there * chunks):
                acc += partial.load((g, r - first[0], s - first[1], i), width)
            total.store((r, s, i), acc, width)


def within(i: Any, first: int, count: int) -> Any:
    """1 if first <= i < first + count, else 0."""
    return minimum(maximum(i - (first - 1), 0), 1) * minimum(maximum(first + count - i, 0), 1)
