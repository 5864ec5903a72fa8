"""The gradient of 3x3 filters by minimal filtering: dw = A_w^T [sum over tiles of (G_w dy G_w^T) * (B^T d B)] A_w.

A task owns a group of input channels, a group of filters and a chunk of the tiles, and keeps its transformed sums

    D[pos, c, k] = sum_t V[pos, t, c] M[pos, t, k]

in the cache until the last tile; 3x3 sums leave it. The chunks' are added in order.
"""

import functools
from typing import Any

from foveal.kernel.lang import loop, parallel, splat, thread, var, vectors
from foveal.ops.kernels.conv.select import Choice, group_of
from foveal.ops.kernels.conv.winograd import PAD, clear, corner, inputs_at, smaller
from foveal.ops.kernels.conv.winograd_grid import Grid
from foveal.ops.kernels.conv.winograd_input import transform_tile
from foveal.ops.kernels.conv.winograd_transform import Run, both_sides
from foveal.ops.kernels.partial_sums import add_chunks
from foveal.ops.kernels.register_tile import lane_ranges, split, tile_for
from foveal.ops.op import Lowering

BLOCK = 24  # tiles transformed at once


TASKS = 16


def lower(to: Lowering, dw: Any, dy: Any, x: Any, grid: Grid, how: Choice) -> None:
    """dw[k, c] = correlation of x [N, C, H, W] with dy [N, K, P, Q], whose tiles the grid counts."""
    K, C = dw.shape[:2]
    channels, filters = group_of(C), group_of(K)
    assert channels is not None
    assert filters is not None
    groups, block = ((C // channels) * (K // filters), how.tiles or min(BLOCK, BLOCK * 36 // grid.positions))
    chunks = max(1, min(-(-TASKS // groups), grid.tiles // block))
    V, M = (to.scratch((1, grid.positions, block * n + PAD), per_thread=True) for n in (channels, filters))
    D = to.scratch((1, grid.classes, channels * filters + PAD), per_thread=True)
    zeros = to.scratch((1, max(C, K)), per_thread=True)
    result = dw.permuted(2, 3, 1, 0)
    partial = to.scratch((chunks, 3, 3, C, K))
    to.call(
        winograd_weight,
        [partial, V, M, D, zeros],
        [dy.permuted(0, 2, 3, 1), x.permuted(0, 2, 3, 1)],
        grid=grid,
        block=block,
        channels=channels,
        filters=filters,
    )
    to.call(add_chunks, [result.reshaped((9 * C * K,))], [partial.reshaped((chunks, 9 * C * K))])


def winograd_weight(
    partial: Any,
    V: Any,
    M: Any,
    D: Any,
    zeros: Any,
    dy: Any,
    x: Any,
    *,
    grid: Grid,
    block: int,
    channels: int,
    filters: int,
) -> None:
    """partial[g, r, s, c, k]: the gradient from the g-th chunk of tiles."""
    chunks, _, _, C, K = partial.shape
    clear(zeros)
    for g, cg, kg in parallel(chunks, C // channels, K // filters):
        c, k = cg * channels, kg * filters
        start, end = g * grid.tiles // chunks, (g + 1) * grid.tiles // chunks
        for pos in loop(D.shape[1]):
            for i, width in vectors(channels * filters):
                D.store((thread(), pos, i), 0.0, width)
        for first in loop(end, start=start, step=block):
            count = smaller(block, end - first)
            for t in loop(count):
                into = V.at(thread(), 0, t * channels)
                transform_tile(into, x, zeros, grid, inputs_at(grid, first + t, c), channels)
            for t in loop(count):
                into, at = M.at(thread(), 0, t * filters), (*corner(grid, first + t), k)
                transform_tile(into, dy, zeros, grid, at, filters, of_outputs=True)
            add_products(D, V, M, grid, count, channels, filters)
        transform_sums(partial.at(g, 0, 0, c, k), D, grid, channels, filters)


def add_products(D: Any, V: Any, M: Any, grid: Grid, count: Any, channels: int, filters: int) -> None:
    """D[class, c, k] += sum over `count` tiles and the positions of the class of V[pos, t, c] M[pos, t, k]"""
    tile = tile_for(filters)
    full, tail = divmod(filters, tile.columns)

    def block(run: Run, n: Any, k: Any, valid: int) -> None:
        first, starts = 0, lane_ranges(valid, tile.width)
        for size, times in split(channels, tile.rows):
            for i in loop(times):
                c = i * size + first
                into = D.at(thread(), n + run.first, c * filters + k)
                pos = n * run.copies + run.start
                left, right = V.at(thread(), pos, c), M.at(thread(), pos, k)
                sizes = (run.copies, count, channels, filters)
                add_tile(into, left, right, size, starts, sizes)
            first += size * times

    for run in grid.order.runs:
        for n in loop(run.classes):
            for b in loop(full):
                block(run, n, b * tile.columns, tile.columns)
            if tail:
                block(run, n, full * tile.columns, tail)


def add_tile(
    D: Any, V: Any, M: Any, rows: int, starts: list[tuple[int, int]], sizes: tuple[int, Any, int, int]
) -> None:
    """The sums of `rows` channels and a few vectors of filters in registers; sizes: positions, tiles, channels,
    filters.
    """
    copies, count, channels, filters = sizes
    acc = {
        (i, s): var(D.load((0, 0, i * filters + start), width), width)
        for i in range(rows)
        for s, (start, width) in enumerate(starts)
    }
    for copy in loop(copies):
        for t in loop(count):
            ws = [M.load((0, copy, t * filters + start), width) for start, width in starts]
            for i in range(rows):
                x = V[0, copy, t * channels + i]
                for s, w in enumerate(ws):
                    acc[i, s].fma(splat(x, starts[s][1]), w)
    for (i, s), total in acc.items():
        start, width = starts[s]
        D.store((0, 0, i * filters + start), total, width)


def transform_sums(dw: Any, D: Any, grid: Grid, channels: int, filters: int) -> None:
    """dw[0, r, s, c, k] = (A_w^T D A_w)[r, s] for the task's channels and filters."""
    places = grid.order.class_
    for c in loop(channels):
        for k, width in vectors(filters):
            at = D.at(thread(), 0, c * filters + k)
            d = functools.partial(lambda at, width, i, j: at.load((0, places[i, j], 0), width), at, width)
            for r, s, value in both_sides(grid.down.AW, grid.across.AW, d):
                dw.store((0, r, s, c, k), value, width)
