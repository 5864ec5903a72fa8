"""Winograd convolution of few tiles, for filters that are transformed once for many runs: threads share filters.

In the inference of one image a layer has fewer tiles than winograd.py needs to give each thread several blocks of full
register tiles, and each block would read all transformed filters, which are more than a second-level cache holds. Here
a task is a block of filters, or that and a part of the tiles:

    V[point, t, c] = (B^T d B)[point]                         of all tiles, by all threads, in a call before
    M[point, t, k] = sum_c V[point, t, c] U[class, c, k]      for one block of filters k and the tiles of the part
    y              = A^T M A                                  through the epilogue

So a transformed filter is read once, by one thread, in the order in which it lies in memory, and a register tile has as
many tiles as there are. U of the next class is fetched while the products with this one run: it comes from memory, or
from the last-level cache, at less than the pace of the products where tiles are few.
"""

from collections.abc import Callable, Iterator
from typing import Any

from foveal.kernel.lang import Array, Index, l2, minimum, parallel, thread
from foveal.ops.kernels.conv.cost_model import Algorithm
from foveal.ops.kernels.conv.winograd import (
    MIN_TASKS,
    block_sizes,
    lower_inputs,
    rounded_up,
    spec_for,
    tile_rows,
    transform_filters,
)
from foveal.ops.kernels.conv.winograd_grid import Grid
from foveal.ops.kernels.conv.winograd_output import OutputTransform, TileBlock, is_cut
from foveal.ops.kernels.conv.winograd_products import PointProducts
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.packing import outputs_last
from foveal.ops.kernels.register_tile import FLOAT_BYTES, Tile, ceil_div, pieces_of, tile_for
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View

# Register tiles that a part of the tiles has at least: U is read once for each part, and from the second register tile
# on out of the caches.
MIN_REGISTER_TILES = 2

# Channels before whose products U is fetched: 128 steps of a register tile take longer than memory takes to answer.
AHEAD = 128


def fits(grid: Grid, C: int, K: int, algorithm: Algorithm) -> bool:
    """True if sharing filters is expected to be faster than sharing blocks of tiles.

    It is where such a block would be less than MIN_REGISTER_TILES register tiles and there are filters to share, and
    while V, which each block of filters reads, is not larger than U, which each block of tiles would read, or stays in
    the second-level cache.
    """
    tile = tile_for(K)
    block, _ = block_sizes(grid, C, tile, algorithm)
    has_few_tiles = block < MIN_REGISTER_TILES * tile.rows or block == grid.tiles
    max_points = max(grid.classes * K, l2() // 2 // FLOAT_BYTES // C)
    return tile.lanes < K and has_few_tiles and grid.points * grid.tiles <= max_points


def lower(lowering: Lowering, y: EpilogueOutputs, x: View, w: View, grid: Grid) -> None:
    """y [N, K, P, Q] = correlation of x [N, C, H, W] with w [K, C, 3, 3], tiled by the grid."""
    K, C, tile = y.shape[1], x.shape[1], tile_for(y.shape[1])
    half = lowering.scratch((1, grid.vertical.outputs * grid.horizontal.points, tile.lanes), per_thread=True)
    zeros = lowering.scratch((1, C), per_thread=True)
    x, w, blocks = x.permuted(0, 2, 3, 1), outputs_last(lowering, w), ceil_div(K, tile.lanes)
    U = lowering.scratch((blocks, grid.classes, C, tile.lanes))
    lowering.call(transform_filters, [U], [w], grid=grid.of_one_tile, rotate=False)
    # several parts of the tiles only where blocks of filters are too few tasks; all but the last have T tiles
    parts = max(1, min(ceil_div(MIN_TASKS, blocks), grid.tiles // (MIN_REGISTER_TILES * tile.rows)))
    T = ceil_div(grid.tiles, parts)
    parts = ceil_div(grid.tiles, T)
    V = lower_inputs(lowering, x, zeros, grid, rounded_up(parts * T))
    M = tile_rows(lowering, grid.points, T, rounded_up(T), tile.lanes)
    products = PointProducts(grid.order.ranges, pieces_of(T, tile.rows), C, tile, ahead=min(C, AHEAD))
    sizes = CallSizes()
    static: dict[str, Any] = {"grid": grid.of_one_tile, "filters": K, "cut": is_cut(grid, y.shape[2:])}
    static["functions"] = [products.function(M, V, U)]
    spec = spec_for(sizes, x, [V, M], [half, U])
    y.call(lowering, winograd_few_tiles, parts, [M, half], [V, U], spec=spec, sizes=sizes.values, **static)


def winograd_few_tiles(
    *arrays: Array, grid: Grid, filters: int, cut: bool, epilogue: Epilogue, functions: tuple[Callable[..., None], ...]
) -> None:
    """y = A^T [sum_c (G g G^T) * (B^T d B)] A for V of all tiles, computed before; see the top of this file.

    The last part may have fewer tiles. Its products are computed for all, beside what is used.
    """
    bound = BoundEpilogue(epilogue, arrays, 4, far=True)
    # V [1, points, tiles, row] of all threads, U [blocks, classes, C, columns]. The shape of one thread's copy, of
    # which the first index selects the thread: M [1, points, T, columns], half [1, rows x points, columns]
    M, half, V, U = bound.operands
    (multiply_points,) = functions
    tile, tiles, T = tile_for(filters), V.extents[2], M.extents[2]
    outputs = OutputTransform(bound, half, grid, tile, cut)
    for b, valid, part, first, count in tasks(filters, tile, tiles, T):
        M_thread = M.at(thread(), 0, 0, 0)
        multiply_points(M_thread, V.at(0, 0, first, 0), U.at(b, 0, 0, 0), T)
        outputs.store(M_thread, TileBlock(part, first, count), b, valid)


def tasks(filters: int, tile: Tile, tiles: Index, T: Index) -> Iterator[tuple[Index, int, Index, Index, Index]]:
    """Loops over blocks of filters and parts of T tiles, shared out among the threads.

    Yields (block, valid filters in it, part, its first tile, its tiles). The parts of a block of filters follow each
    other, so that one thread has them, and its caches the block's filters.
    """
    full, tail = divmod(filters, tile.lanes)
    parts = ceil_div(tiles, T)
    for b, part in parallel(full, parts):
        yield b, tile.lanes, part, part * T, minimum(T, tiles - part * T)
    if tail:
        for (part,) in parallel(parts):
            yield full, tail, part, part * T, minimum(T, tiles - part * T)
