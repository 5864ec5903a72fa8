"""Direct convolution and its gradient in x, for any stride, padding, dilation and groups, on channels-last images.

Both are one loop nest over register tiles of pixels x filters; `Taps` say which inputs an output reads. By shape one of
five kernels runs it: `correlate` here, whose tiles are pixels of an image; `batch_tiles`, whose tiles are one pixel of
many images; `image_lanes` for few filters; `pixels` for 1x1 filters; `depthwise`. All take packed panels of weights and
end in an epilogue.

Padding is no branch in an inner loop: where taps reach outside of the image, the rows that a task reads are first
copied into a zero-bordered buffer, one per thread.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from foveal.kernel.lang import head, loop, minimum, parallel, thread
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.halo import bordered, clear, copy_band
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    Tile,
    accumulators,
    multiply_add,
    part_of_blocks,
    pieces,
    split,
    tile_for,
    unrolling,
)
from foveal.ops.kernels.taps import Axes, Taps
from foveal.ops.op import Lowering

BAND = 64 << 10  # elements of the rows that a task reads: a quarter of a second-level cache of 1 MB


LEAST_ROWS = 4  # of a band: neighbouring bands read some rows both


FEW = 8  # input channels below which a filter row's columns and channels are one loop


def lower_correlate(to: Lowering, y: EpilogueOutputs, x: Any, panels: Any, axes: Axes, outputs: int) -> None:
    """Tasks are (image, band of rows, part of the filters)."""
    N, H, W, C = x.shape
    rows, (columns, *others) = axes
    count, reach = max(t.count for t in rows), rows[0].input_step
    bands = 1
    if min(t.count for t in axes[1]) >= tile_for(outputs).rows:
        wanted = max(-(-count * reach * W * C // BAND), -(-ENOUGH_TASKS // N))
        bands = max(1, min(wanted, count // LEAST_ROWS))
    blocks = panels.shape[0] * panels.shape[1]
    parts = 1 if N * bands >= ENOUGH_TASKS else min(blocks, -(-ENOUGH_TASKS // (N * bands)))
    border = bordered(axes, (H, W), -(-count // bands))
    halo = to.scratch((1, *border[1::2], C) if border else (1, 1, 1, 1), per_thread=True)
    if panels.shape[0] == 1 and C < FEW and not others and columns.tap_step == 1 < columns.taps:
        # in memory a filter row's columns and channels are one range, in the image as in the panels
        G, B, R, S, _, lanes = panels.shape
        panels = panels.reshaped((G, B, R, 1, S * C, lanes))
        axes = (rows, (replace(columns, taps=1),))
    y.call(
        to,
        correlate,
        N * bands,
        [halo],
        [x, panels],
        axes=axes,
        border=border,
        outputs=outputs,
        bands=bands,
        parts=parts,
    )


def correlate(*arrays: Any, axes: Axes, border: Any, outputs: int, bands: int, parts: int, epilogue: Epilogue) -> None:
    """y[n, ., ., k] = sum over taps and inputs of x * panels; tiles of pixels x filters stay in registers.

    Per step of the inner loop one row of a panel is loaded and each pixel's input broadcast: rows * vectors fused
    multiply-adds for vectors + rows loads, so the multipliers and not the load ports set the pace: 94-99 % of the peak
    on one core of Zen 4 (`foveal bench ops conv2d --threads 1`). A band's rows stay in the second-level cache while all
    panels pass.
    """
    ending = BoundEpilogue(epilogue, arrays, 3)
    halo, x, panels = ending.own
    groups = panels.shape[0]
    ending.aligned = groups == 1
    tile, count = tile_for(outputs), max(t.count for t in axes[0])
    inputs = x.shape[3] // groups
    if border:
        clear(halo)
    for n, band, part in parallel(x.shape[0], bands, parts):
        start, end = band * count // bands, (band + 1) * count // bands
        source = x.at(n, 0, 0, 0)
        if border:
            top = start * axes[0][0].input_step + border[0]
            copy_band(halo, x, n, top, border[2])
            source = halo.at(thread(), 0 - top, -border[2], 0)
        for g, b, valid in part_of_blocks(groups, outputs, tile.columns, part, parts):
            first = g * outputs + b * tile.columns
            for lane, width in pieces(valid, tile.width):
                ending.open(n * bands + band, first + lane, width)
            image, panel = source.at(0, 0, 0, g * inputs), panels.at(g, b, 0, 0, 0, 0)
            for rows, columns in itertools.product(*axes):
                last = end if rows.count == count else minimum(end, rows.count)
                for i, j, offsets in tile_positions(start, last, rows.count, columns.count, tile.rows, bands):
                    at = image.at(0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, 0)
                    where = output_pixels(n, i, j, offsets, rows, columns)
                    ending.prefetch(where, first, valid)
                    totals = product(at, panel, rows, columns, offsets, valid, tile)
                    for v, (lane, width) in enumerate(pieces(valid, tile.width)):
                        sums = [head(totals[pixel, v], width) for pixel in range(len(offsets))]
                        ending.store(n * bands + band, where, sums, first + lane, width)


def tile_positions(
    start: Any, end: Any, rows: int, columns: int, most: int, bands: int
) -> Iterator[tuple[Any, Any, list[tuple[int, int]]]]:
    """Cover rows start ... end, all of them if there is one band, with tiles of at most `most` pixels: (row, column,
    offsets within the tile).
    """
    if columns >= most or bands > 1:
        first = 0
        for size, count in split(columns, most):
            for i in loop(end, start=start):
                for j in loop(count):
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
    return [(n, (i + p) * rows.step + rows.start, (j + q) * columns.step + columns.start) for p, q in offsets]


def product(
    at: Any, panel: Any, rows: Taps, columns: Taps, offsets: list[tuple[int, int]], valid: int, tile: Tile
) -> dict[tuple[int, int], Any]:
    """The register tile of the pixels at `offsets`: sums over the taps and the inputs."""
    starts, inputs = pieces(valid, tile.width), panel.shape[4]
    acc = accumulators(len(offsets), [tile.width] * len(starts))
    step = unrolling(inputs)
    places = [p * rows.input_step * at.strides[1] + q * columns.input_step * at.strides[2] for p, q in offsets]
    for r in loop(rows.taps):
        for s in loop(columns.taps):
            weights = panel.at(0, 0, rows.kernel + r * rows.kernel_step, columns.kernel + s * columns.kernel_step, 0, 0)
            pixels = at.at(0, r * rows.tap_step, s * columns.tap_step, 0)
            for c in loop(inputs // step):
                for u in range(step):
                    ws = [weights.load((0, 0, 0, 0, c * step + u, start), tile.width) for start, _ in starts]
                    here = pixels.opaque() if u and columns.taps == 1 < inputs else pixels
                    xs = (here.neighbour(c * step + u + place) for place in places)
                    multiply_add(acc, xs, ws)
    return acc
