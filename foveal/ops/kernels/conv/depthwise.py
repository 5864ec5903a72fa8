"""Depthwise convolution, one filter per channel, and its two gradients: lanes run over channels.

A register tile is some neighbouring output pixels of a vector of channels. An input vector is loaded once for all
pixels and taps that meet it, in the tile; taps that would meet padding are left out where the kernel is built, at the
edges, so nothing is copied. What is read once and used nine times is limited by memory more than by multiplications.
"""

import math
from collections.abc import Iterator
from typing import Any

from foveal.kernel.lang import loop, minimum, parallel, registers, var, vectors
from foveal.ops.kernels import expression
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, split
from foveal.ops.kernels.taps import Taps
from foveal.ops.op import Lowering

Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


Uses = dict[tuple[int, int], list[tuple[int, tuple[int, int]]]]


SMALL = 64  # pixels up to which all of an image is unrolled


CACHED = 1 << 20  # elements of x that the last cache is sure to hold; more are `far`: fetched early


LEAST_ROWS = 4  # of a band: neighbouring bands read some rows both


def lower(to: Lowering, y: EpilogueOutputs, x: Any, w: Any, axes: Axes) -> None:
    """Views x [N, H, W, G] and w [G, 1, 1, R, S]. Tasks are (image, band of rows)."""
    rows, columns = (max(t.count for t in taps) for taps in axes)
    small = rows * columns <= SMALL
    bands = 1 if small else max(1, min(-(-ENOUGH_TASKS // x.shape[0]), rows // LEAST_ROWS))
    y.call(
        to,
        depthwise,
        x.shape[0] * bands,
        [],
        [x, w.permuted(1, 2, 3, 4, 0)],
        axes=axes,
        bands=bands,
        small=small,
        far=is_far(x),
    )


def is_far(x: Any) -> bool:
    """Whether the images come from memory and not from a cache."""
    return math.prod(x.shape) > CACHED


def depthwise(*arrays: Any, axes: Axes, bands: int, small: bool, far: bool, epilogue: Epilogue) -> None:
    """y[n, p, q, g] = sum over taps of x[n, ., ., g] w[., ., g]"""
    ending = BoundEpilogue(epilogue, arrays, 2)
    x, w = ending.own
    count = max(t.count for t in axes[0])
    for n, band in parallel(x.shape[0], bands):
        for g, width in vectors(x.shape[3]) if epilogue.rows else ():
            ending.open(n * bands + band, g, width)
        for rows in axes[0]:
            if small:
                for g, width in vectors(x.shape[3]):
                    for columns in axes[1]:
                        whole_image(ending, n, g, width, rows, columns)
                continue
            start, end = band * count // bands, (band + 1) * count // bands
            last = end if rows.count == count else minimum(end, rows.count)
            for i in loop(last, start=start):
                for columns in axes[1]:
                    for j, taps in tiles(columns, x.shape[2], registers() * 3 // 8):
                        pixels, below = (
                            [output(n, row, j + q, rows, columns) for q in range(len(taps))] for row in (i, i + 1)
                        )
                        for g, width in vectors(x.shape[3]):  # innermost: memory is read and written in long runs
                            at, weights = x.at(n, 0, 0, g), w.at(0, 0, 0, 0, g)
                            ending.prefetch(below, g, width)
                            totals = row_tile(at, weights, i, j, taps, rows, columns, width, far)
                            ending.store(n * bands + band, pixels, totals, g, width)


def output(n: Any, i: Any, j: Any, rows: Taps, columns: Taps) -> tuple[Any, Any, Any]:
    """(n, p, q) of a phase's output (i, j)."""
    return n, i * rows.step + rows.start, j * columns.step + columns.start


def tiles(taps: Taps, size: int, most: int) -> Iterator[tuple[Any, list[list[int]]]]:
    """Cover an axis with tiles of at most `most` outputs: (first output, taps of each that meet the input).

    Tiles at the edges, where some taps do not, are unrolled; those between are a loop.
    """
    first = 0
    for width, count in split(taps.count, most):
        starts = [first + t * width for t in range(count)]
        found = {at: [taps.inside(at + i, size) for i in range(width)] for at in starts}
        full = [at for at in starts if all(len(one) == taps.taps for one in found[at])]
        for at in starts:
            if at not in full:
                yield at, found[at]
        for t in loop(len(full)):
            yield t * width + full[0], [list(range(taps.taps))] * width
        first += width * count


def row_tile(
    x: Any, w: Any, i: Any, j: Any, taps: list[list[int]], rows: Taps, columns: Taps, width: int, far: bool
) -> list[Any]:
    """Sums of neighbouring outputs of row i, from column j on."""
    acc = [var(0.0, width) for _ in taps]
    uses: Uses = {}
    for q, ones in enumerate(taps):
        for s in ones:
            at = q * columns.input_step + s * columns.tap_step
            uses.setdefault((0, at), []).append((q, (0, s)))
    first, end = rows.meeting(i, x.shape[1])
    if far:
        fetch(x, i + 1, j, len(taps), rows, columns)
    for r in loop(end, start=first):
        above = rows.origin + i * rows.input_step + r * rows.tap_step
        row = w.at(0, 0, rows.kernel + r * rows.kernel_step, columns.kernel, 0)
        weights = {
            (0, s): expression.load(row, (0, 0, 0, s * columns.kernel_step, 0), width) for s in range(columns.taps)
        }
        add_products(acc, x.at(0, above, columns.origin + j * columns.input_step, 0), uses, weights, width)
    return [total.get() for total in acc]


def fetch(x: Any, i: Any, j: Any, count: int, rows: Taps, columns: Taps) -> None:
    """Bring the input row early that output row i is the first to read, for `count` outputs from j on."""
    row = rows.origin + i * rows.input_step + max(0, (rows.taps - 1) * rows.tap_step)
    for q in range(count * columns.input_step):
        x.prefetch((0, row, columns.origin + j * columns.input_step + q, 0))


def add_products(acc: list[Any], x: Any, uses: Uses, weights: dict[tuple[int, int], Any], width: int) -> None:
    """acc[pixel] += x[place] * weights[tap] for the (pixel, tap) pairs that use a place, each place loaded once."""
    for h, v in sorted(uses):
        value = x.load((0, h, v, 0), width)
        for pixel, tap in uses[h, v]:
            acc[pixel].fma(value, weights[tap])


def whole_image(ending: BoundEpilogue, n: Any, g: Any, width: int, rows: Taps, columns: Taps) -> None:
    """All pixels of a small image, unrolled."""
    x, w = ending.own
    places = [(i, j) for i in range(rows.count) for j in range(columns.count)]
    weights = {
        (r, s): expression.load(
            w, (0, 0, rows.kernel + r * rows.kernel_step, columns.kernel + s * columns.kernel_step, g), width
        )
        for r in range(rows.taps)
        for s in range(columns.taps)
    }
    done = 0
    for size, count in split(len(places), registers() // 2):
        for t in range(count):
            tile = places[done + t * size : done + (t + 1) * size]
            acc = [var(0.0, width) for _ in tile]
            add_products(acc, x.at(n, 0, 0, g), uses_of(tile, rows, columns, x.shape), weights, width)
            pixels = [output(n, i, j, rows, columns) for i, j in tile]
            ending.prefetch(pixels, g + width, width)
            ending.store(n, pixels, [total.get() for total in acc], g, width)
        done += size * count


def uses_of(outputs: list[tuple[int, int]], rows: Taps, columns: Taps, shape: tuple[int, ...]) -> Uses:
    """Input place -> the (output, tap) pairs that read it; shape: [N, H, W, G]."""
    uses: Uses = {}
    for index, (i, j) in enumerate(outputs):
        for r in rows.inside(i, shape[1]):
            for s in columns.inside(j, shape[2]):
                h = rows.origin + i * rows.input_step + r * rows.tap_step
                v = columns.origin + j * columns.input_step + s * columns.tap_step
                uses.setdefault((h, v), []).append((index, (r, s)))
    return uses
