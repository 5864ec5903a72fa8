"""The gradient of 3x3 filters by minimal filtering: dw = A_w^T [sum over tiles of (G_w dy G_w^T) * (B^T d B)] A_w.

A task owns a group of input channels, a group of filters and a chunk of the tiles, and keeps its transformed sums

    D[pos, c, k] = sum_t V[pos, t, c] M[pos, t, k]

in the cache until the last tile; 3x3 sums leave it. The chunks' are added in order.
"""

from typing import Any

from foveal.kernel.lang import loop, parallel, splat, thread, var, vectors
from foveal.ops.choice import Choice, group_of
from foveal.ops.op import Lowering
from foveal.ops.tile import add_partials, pieces, split, tile_for
from foveal.ops.transforms import both_sides, scheme
from foveal.ops.winograd import PAD, Grid, clear, corner, smaller, transform_tile

BLOCK = 24  # tiles transformed at once
TASKS = 16


def lower(to: Lowering, dw: Any, dy: Any, x: Any, padding: tuple[int, int], how: Choice) -> None:
    """dw[k, c] = correlation of x [N, C, H, W] with dy [N, K, P, Q] at padding (top, left)."""
    (K, C), (N, _, P, Q) = dw.shape[:2], dy.shape
    grid = Grid(how.m, N, -(-P // how.m), -(-Q // how.m), *padding)
    channels, filters = group_of(C), group_of(K)
    assert channels is not None
    assert filters is not None
    groups, block = (C // channels) * (K // filters), how.tiles or BLOCK
    chunks = max(1, min(-(-TASKS // groups), grid.tiles // BLOCK))
    V, M = (
        to.scratch((1, grid.n**2, block * n + PAD), per_thread=True) for n in (channels, filters)
    )
    D = to.scratch((1, grid.n**2, channels * filters + PAD), per_thread=True)
    zeros = to.scratch((1, max(C, K)), per_thread=True)
    result = dw.permuted(2, 3, 1, 0)
    partial = to.scratch((chunks, 3, 3, C, K))
    to.call(winograd_weight, [partial, V, M, D, zeros], [dy.permuted(0, 2, 3, 1), x.permuted(0, 2, 3, 1)],
            grid=grid, block=block, channels=channels, filters=filters)  # fmt: skip
    to.call(add_partials, [result.reshaped((9 * C * K,))], [partial.reshaped((chunks, 9 * C * K))])


def winograd_weight(
    partial: Any, V: Any, M: Any, D: Any, zeros: Any, dy: Any, x: Any, *, grid: Grid, block: int,
    channels: int, filters: int,
) -> None:  # fmt: skip
    """partial[g, r, s, c, k]: the gradient from the g-th chunk of tiles."""
    chunks, _, _, C, K = partial.shape
    matrices = scheme(grid.m)
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
                n, h, v = corner(grid, first + t)
                inputs = (n, h - grid.top, v - grid.left, c)
                transform_tile(
                    V.at(thread(), 0, t * channels), x, zeros, matrices.BT, inputs, channels
                )
            for t in loop(count):
                n, h, v = corner(grid, first + t)
                transform_tile(
                    M.at(thread(), 0, t * filters), dy, zeros, matrices.GW, (n, h, v, k), filters
                )
            add_products(D, V, M, count, channels, filters)
        transform_sums(partial.at(g, 0, 0, c, k), D, matrices.AW, channels, filters)


def add_products(D: Any, V: Any, M: Any, count: Any, channels: int, filters: int) -> None:
    """D[pos, c, k] += sum over `count` tiles of V[pos, t, c] M[pos, t, k]"""
    tile = tile_for(filters)
    full, tail = divmod(filters, tile.columns)

    def block(pos: Any, k: Any, valid: int) -> None:
        first = 0
        for size, times in split(channels, tile.rows):
            for i in loop(times):
                c = i * size + first
                add_tile(
                    D, V, M, pos, c, k, size, pieces(valid, tile.width), count, channels, filters
                )
            first += size * times

    for pos in loop(D.shape[1]):
        for b in loop(full):
            block(pos, b * tile.columns, tile.columns)
        if tail:
            block(pos, full * tile.columns, tail)


def add_tile(
    D: Any, V: Any, M: Any, pos: Any, c: Any, k: Any, size: int, starts: list[tuple[int, int]], count: Any,
    channels: int, filters: int,
) -> None:  # fmt: skip
    into = D.at(thread(), pos, c * filters + k)
    acc = {
        (i, s): var(into.load((0, 0, i * filters + start), width), width)
        for i in range(size)
        for s, (start, width) in enumerate(starts)
    }
    left, right = V.at(thread(), pos, c), M.at(thread(), pos, k)
    for t in loop(count):
        ws = [right.load((0, 0, t * filters + start), width) for start, width in starts]
        for i in range(size):
            x = left[0, 0, t * channels + i]
            for s, w in enumerate(ws):
                acc[i, s].fma(splat(x, starts[s][1]), w)
    for (i, s), total in acc.items():
        start, width = starts[s]
        into.store((0, 0, i * filters + start), total, width)


def transform_sums(dw: Any, D: Any, AW: Any, channels: int, filters: int) -> None:
    """dw[0, r, s, c, k] = (AW D AW^T)[r, s] for the task's channels and filters."""
    n = len(AW[0])
    for c in loop(channels):
        for k, width in vectors(filters):
            at = D.at(thread(), 0, c * filters + k)
            values = [[at.load((0, i * n + j, 0), width) for j in range(n)] for i in range(n)]
            for r, row in enumerate(both_sides(AW, values)):
                for s, value in enumerate(row):
                    dw.store((0, r, s, c, k), value, width)
