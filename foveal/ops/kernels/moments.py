"""Means and variances of channels, merged pairwise."""

from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, var
from foveal.ops.kernels import pointwise, reduction


def moment_chunks(rows: int, channels: int) -> int:
    """Enough chunks for any number of threads, each small enough (64 KiB) to be read twice from the cache."""
    return max(1, min(rows // 8, max(16, rows * channels // 16384)))


def moments_of_chunks(partial: Any, x: Any) -> None:
    """partial[0, g] = mean, partial[1, g] = sum of squared deviations of the g-th chunk of rows of x [rows, C]."""
    (_, chunks, C), rows = partial.shape, x.shape[0]
    size, block = lanes(), pointwise.BLOCK * lanes()
    for (g,) in parallel(chunks):
        first, last = g * rows // chunks, (g + 1) * rows // chunks
        for b in loop(C // block):
            moments_of_columns(partial, x, g, first, last, [(b * block + i, size) for i in range(0, block, size)])
        rest = [(i, min(size, C - i)) for i in range(C - C % block, C, size)]
        if rest:
            moments_of_columns(partial, x, g, first, last, rest)


def moments_of_columns(partial: Any, x: Any, g: Any, first: Any, last: Any, columns: list[tuple[Any, int]]) -> None:
    """For neighbouring vectors of channels, so that whole cache lines of a row are read at once."""
    totals = [var(0.0, width) for _, width in columns]
    squares = [var(0.0, width) for _, width in columns]
    for r in loop(last, start=first):
        for total, (c, width) in zip(totals, columns, strict=True):
            total += x.load((r, c), width)
    means = [
        total.get() / reduction.as_float(last - first, width) for total, (_, width) in zip(totals, columns, strict=True)
    ]
    for r in loop(last, start=first):
        for mean, square, (c, width) in zip(means, squares, columns, strict=True):
            d = x.load((r, c), width) - mean
            square.fma(d, d)
    for mean, square, (c, width) in zip(means, squares, columns, strict=True):
        partial.store((0, g, c), mean, width)
        partial.store((1, g, c), square, width)


def merge_moments(y: Any, partial: Any, *, rows: int) -> None:
    """The moments of all rows from those of the chunks, merged in order."""
    _, chunks, C = partial.shape

    def merge(c: Any, width: int) -> None:
        mean, squares = var(0.0, width), var(0.0, width)
        for g in loop(chunks):
            first, last = g * rows // chunks, (g + 1) * rows // chunks
            size, before = reduction.as_float(last - first, width), reduction.as_float(first, width)
            delta = partial.load((0, g, c), width) - mean.get()
            share = size / (size + before)
            mean += delta * share
            squares += partial.load((1, g, c), width) + delta * delta * before * share
        y.store((0, c), mean, width)
        y.store((1, c), squares.get() * (1.0 / rows), width)

    for (b,) in parallel(C // lanes()):
        merge(b * lanes(), lanes())
    if C % lanes():
        for _ in parallel(1):
            merge(C - C % lanes(), C % lanes())
