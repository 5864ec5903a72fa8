"""Depthwise."""

import itertools
from collections.abc import Iterator
from typing import Any
from foveal.kernel.lang import lanes, loop, loops, parallel, thread, var, vectors
from foveal.ops import nest
from foveal.ops.epilogue import Ending, Epilogue, Results
from foveal.ops.geometry import Taps
from foveal.ops.op import Lowering
from foveal.ops.tile import split, tile_for

Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


def clear(halo: Any) -> None:
    """Zero this thread's buffer: what lies outside of the image stays zero, tasks write the inside only."""
    _, rows, columns, channels = halo.shape
    for h in loop(rows):
        for i, width in vectors(columns * channels):
            halo.row(thread(), h).store((i,), 0.0, width)


def copy_image(halo: Any, x: Any, n: Any, border: Any) -> None:
    """Copy image n into this thread's zero-bordered buffer."""
    top, rows, left, columns = border
    _, H, W, C = x.shape
    inside = min(W, columns + left)
    for h in loop(min(H, rows + top)):
        target, source = halo.row(thread(), h - top), x.row(n, h)
        for i, width in vectors(inside * C):
            target.store((i - left * C,), source.load((i,), width), width)


def source_of(halo: Any, x: Any, n: Any, border: Any) -> Any:
    """Where tile loads of image n start: the image, or its copy with the origin moved to the image's corner."""
    if border is None:
        return x.at(n, 0, 0, 0)
    copy_image(halo, x, n, border)
    return halo.at(thread(), -border[0], -border[2], 0)


def bordered(axes: Axes, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(first row, rows, first column, columns) that the taps reach over, None if they stay inside of the image."""
    lows = [min((t.low for t in taps if t.taps), default=0) for taps in axes]
    highs = [max((t.high for t in taps if t.taps), default=0) for taps in axes]
    if min(lows) >= 0 and all(h < n for h, n in zip(highs, size, strict=True)):
        return None
    lows = [min(low, 0) for low in lows]
    return lows[0], highs[0] - lows[0] + 1, lows[1], highs[1] - lows[1] + 1


def tile_positions(
    rows: int, columns: int, most: int
) -> Iterator[tuple[Any, Any, list[tuple[int, int]]]]:
    """Cover rows x columns with tiles of at most `most` pixels: (row, column, offsets within the tile)."""
    if columns >= most:
        first = 0
        for size, count in split(columns, most):
            for i, j in loops(rows, count):
                yield i, j * size + first, [(0, q) for q in range(size)]
            first += size * count
        return
    first = 0
    for size, count in split(rows, max(1, most // columns)):
        for i in loop(count):
            yield i * size + first, 0, [(p, q) for p in range(size) for q in range(columns)]
        first += size * count


def output_pixels(
    n: Any, i: Any, j: Any, offsets: list[tuple[int, int]], rows: Taps, columns: Taps
) -> list[tuple[Any, Any, Any]]:
    """(n, p, q) of the outputs of the tile at (i, j)."""
    return [
        (n, (i + p) * rows.step + rows.start, (j + q) * columns.step + columns.start)
        for p, q in offsets
    ]


def lower(to, y, x, w, axes):
    border = bordered(axes, x.shape[1:3])
    halo = to.scratch((1, *border[1::2], x.shape[3]) if border else (1, 1, 1, 1), per_thread=True)
    y.call(to, depthwise, x.shape[0], [halo], [x, w], axes=axes, border=border)


def lower_weight_grad(to, dw, dy, x, axes):
    from foveal.ops.tile import add_partials

    K, C, R, S = dw.shape
    border = bordered(axes, x.shape[1:3])
    halo = to.scratch((1, *border[1::2], x.shape[3]) if border else (1, 1, 1, 1), per_thread=True)
    chunks = max(1, min(x.shape[0], 32))
    partial = to.scratch((chunks, R, S, C, K))
    to.call(weight_grad_depthwise, [partial, halo], [dy, x], axes=axes, border=border)
    to.call(
        add_partials,
        [dw.permuted(2, 3, 1, 0).reshaped((R * S * C * K,))],
        [partial.reshaped((chunks, R * S * C * K))],
    )


def open_all(ending: Ending, task: Any, channels: int) -> None:
    """Start a task's sums."""
    for k, width in vectors(channels) if ending.epilogue.rows else ():
        ending.open(task, k, width)


def depthwise(*arrays: Any, axes: Axes, border: Any, epilogue: Epilogue) -> None:
    """One filter per channel: lanes run over channels, for images and weights alike."""
    ending = Ending(epilogue, arrays, 3)
    halo, x, w = ending.own
    if border:
        clear(halo)
    filters = w.permuted(1, 2, 3, 4, 0)
    for (n,) in parallel(x.shape[0]):
        open_all(ending, n, x.shape[3])
        source = source_of(halo, x, n, border)
        for rows, columns in itertools.product(*axes):
            for g, width in vectors(x.shape[3]):
                depthwise_block(ending, n, g, width, source, filters, rows, columns)


def depthwise_block(
    ending: Ending, n: Any, g: Any, width: int, source: Any, filters: Any, rows: Taps, columns: Taps
) -> None:  # fmt: skip
    """All pixels of image n for `width` channels from g on."""
    most = tile_for(lanes()).rows // 2
    for i, j, offsets in tile_positions(rows.count, columns.count, most):
        at = source.at(
            0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, g
        )
        acc = [var(0.0, width) for _ in offsets]
        for r, s in loops(rows.taps, columns.taps):
            r_at, s_at = (
                rows.kernel + r * rows.kernel_step,
                columns.kernel + s * columns.kernel_step,
            )
            weight = nest.load(filters, (0, 0, r_at, s_at, g), width)
            pixels = at.at(0, r * rows.tap_step, s * columns.tap_step, 0)
            for total, (p, q) in zip(acc, offsets, strict=True):
                place = (0, p * rows.input_step, q * columns.input_step, 0)
                total.fma(pixels.load(place, width), weight)
        pixels = output_pixels(n, i, j, offsets, rows, columns)
        ending.store(n, pixels, [total.get() for total in acc], g, width)


def chunk_of_images(N: int, chunks: int, g: Any) -> Iterator[Any]:
    yield from loop((g + 1) * N // chunks, start=g * N // chunks)


def weight_grad_depthwise(
    partial: Any, halo: Any, dy: Any, x: Any, *, axes: Axes, border: Any
) -> None:
    """partial[g, r, s, 0, c] = sum over the g-th chunk of images, and over pixels, of x * dy, lanes over channels."""
    chunks, R, S, _, channels = partial.shape
    N, (rows,), (columns,) = x.shape[0], axes[0], axes[1]
    if border:
        clear(halo)
    for (g,) in parallel(chunks):
        for r, s in loops(R, S):
            for c, width in vectors(channels):
                partial.store((g, r, s, 0, c), 0.0, width)
        for n in chunk_of_images(N, chunks, g):
            source = source_of(halo, x, n, border)
            for c, width in vectors(channels):
                for r in loop(R):
                    acc = [var(partial.load((g, r, s, 0, c), width), width) for s in range(S)]
                    for p, q in loops(rows.count, columns.count):
                        gradient = dy.load((n, p, q, c), width)
                        at = source.at(0, rows.origin + p * rows.input_step + r * rows.tap_step,
                                       columns.origin + q * columns.input_step, c)  # fmt: skip
                        for s in range(S):
                            acc[s].fma(at.load((0, 0, s * columns.tap_step, 0), width), gradient)
                    for s in range(S):
                        partial.store((g, r, s, 0, c), acc[s], width)
