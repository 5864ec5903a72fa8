"""Bands of an image in a zero-bordered buffer of each thread."""

from dataclasses import replace
from typing import Any

from foveal.kernel.lang import loop, maximum, minimum, thread, vectors
from foveal.ops.kernels.taps import Axes


def nhwc(image: Any) -> Any:
    return image.permuted(0, 2, 3, 1)


def bordered(axes: Axes, size: tuple[int, int], band: int) -> tuple[int, int, int, int] | None:
    """(first row, rows, first column, columns) that a band reads from, None if all taps stay inside of the image.

    The first row is that of band 0; `band` is the largest number of output rows per phase.
    """
    lows = [min((t.low for t in taps if t.taps), default=0) for taps in axes]
    highs = [max((t.high for t in taps if t.taps), default=0) for taps in axes]
    if min(lows) >= 0 and all(h < n for h, n in zip(highs, size, strict=True)):
        return None
    left = min(lows[1], 0)
    cut = [replace(t, count=min(t.count, band)) for t in axes[0] if t.taps]
    bottom = max((t.high for t in cut), default=0)
    return lows[0], bottom - lows[0] + 1, left, max(highs[1], size[1] - 1) - left + 1


def clear(halo: Any) -> None:
    """Zero this thread's buffer: what lies beside the image stays zero, tasks write whole rows of the inside."""
    _, rows, columns, channels = halo.shape
    for h in loop(rows):
        for i, width in vectors(columns * channels):
            halo.row(thread(), h).store((i,), 0.0, width)


def copy_band(halo: Any, x: Any, n: Any, top: Any, left: int) -> None:
    """Copy the rows of image n from `top` on into this thread's buffer; those outside of the image are zero."""
    _, rows, _, _ = halo.shape
    _, H, W, C = x.shape
    first = minimum(maximum(0 - top, 0), rows)  # rows above the image
    end = maximum(minimum(H - top, rows), first)

    def zero(h: Any) -> None:
        for i, width in vectors(W * C):
            halo.row(thread(), h).store((i - left * C,), 0.0, width)

    for h in loop(first):
        zero(h)
    for h in loop(end, start=first):
        target, source = halo.row(thread(), h), x.row(n, h + top)
        for i, width in vectors(W * C):
            target.store((i - left * C,), source.load((i,), width), width)
    for h in loop(rows, start=end):
        zero(h)
