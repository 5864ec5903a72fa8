"""Kernels for 3x3 convolutions with stride 1 by minimal filtering (ops/transforms.py), fused per block of tiles.

A block of tiles is transformed, multiplied and transformed back while it is in the cache:

    V[pos, t, c] = (B^T d B)[pos]            for the block's tiles t, all channels c
    M[pos, t, k] = sum_c V[pos, t, c] U[pos, c, k]    for one block of filters k
    y            = A^T M A, through the epilogue

where U[pos, c, k] = (G g G^T)[pos] are the transformed filters. pos counts the n x n positions of a tile.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import (
    LINE,
    choose,
    lanes,
    loop,
    parallel,
    thread,
    unflatten,
    var,
    vectors,
    when,
    where,
)
from foveal.ops import nest
from foveal.ops.choice import Choice
from foveal.ops.epilogue import FAR, Ending, Epilogue, Results
from foveal.ops.op import Lowering
from foveal.ops.tile import Tile, multiply_add, pieces, split, tile_for
from foveal.ops.transforms import Matrix, both_sides, scheme
from foveal.ops.turn import outputs_last

BLOCK_BYTES = 1 << 19  # of a block's transformed inputs: half of a 1 MiB L2
MOST_TILES, LEAST_TASKS = 48, 8
UNROLL = 4
MOST_SHARED = 256  # tiles
FILTER_BYTES = 12 << 20  # of transformed filters, from which on reading them from memory tells
AHEAD = 2  # tiles: how early what an epilogue reads is fetched
PART = 64  # channels whose filters are transformed at once: with 36 x 32 filters 288 KiB
PAD = 16  # elements between positions, so that their rows do not all fall into the same sets of the cache


@dataclass(frozen=True)
class Grid:
    """The tiles of N images: `rows` x `columns` of m x m outputs in each; the inputs of tile (i, j) begin at row
    i m - top, column j m - left.
    """

    m: int
    images: int
    rows: int
    columns: int
    top: int
    left: int

    @property
    def n(self) -> int:
        return self.m + 2

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns


def near_equal(n: int, most: int) -> int:
    """The size of near-equal blocks of at most `most`."""
    blocks = -(-n // most)
    return -(-n // blocks)


def lower(
    to: Lowering, y: Results, x: Any, w: Any, padding: tuple[int, int], how: Choice, flip: bool
) -> None:
    """y = correlation of x [N, C, H, W] with w [K, C, 3, 3] at padding (top, left); flip: w is turned by 180 degrees."""
    (N, K, P, Q), m = y.shape, how.m
    C, tile = x.shape[1], tile_for(K)
    grid = Grid(m, N, -(-P // m), -(-Q // m), *padding)
    outside = [
        to.scratch((1, m * m, lanes()), per_thread=True),
        to.scratch((1, C), per_thread=True),
    ]
    x, blocks = x.permuted(0, 2, 3, 1), -(-K // tile.columns)
    w = outputs_last(to, w)
    static: dict[str, Any] = {"grid": grid, "size": (P, Q), "filters": K}
    if few_tiles(grid, C, K) if how.shared is None else how.shared:
        V = to.scratch((1, grid.n**2, grid.tiles * row_of(C) + PAD))
        to.call(transform_inputs, [V, outside[1]], [x], grid=grid)
        part = min(C, PART)
        U = to.scratch((1, grid.n**2, part, tile.columns), per_thread=True)
        M = to.scratch((1, grid.n**2, grid.tiles * tile.columns + PAD), per_thread=True)
        y.call(to, winograd_by_filters, 1, [U, M, outside[0]], [V, w], flip=flip, **static)
        return
    U = to.scratch((blocks, grid.n**2, C, tile.columns))
    to.call(transform_filters, [U], [w], m=m, flip=flip)
    most = how.tiles or min(MOST_TILES, max(tile.rows, BLOCK_BYTES // (4 * grid.n**2 * C)))
    T = near_equal(grid.tiles, min(most, -(-grid.tiles // LEAST_TASKS)))
    V = to.scratch((1, grid.n**2, T * row_of(C) + PAD), per_thread=True)
    M = to.scratch((1, grid.n**2, T * tile.columns + PAD), per_thread=True)
    y.call(to, winograd, -(-grid.tiles // T), [V, M, *outside], [x, U], T=T, **static)


def few_tiles(grid: Grid, C: int, K: int) -> bool:
    """Whether to share blocks of filters among the threads, each with all tiles, instead of blocks of tiles.

    Then transformed filters, 4 times the filters' size, are used where they are made and never leave the cache.
    """
    return grid.tiles <= MOST_SHARED and 4 * grid.n**2 * C * K > FILTER_BYTES


def row_of(channels: int) -> int:
    """Elements from one tile's row of V to the next: an odd number of vectors, against conflicts in the cache."""
    return (-(-channels // lanes()) | 1) * lanes() if channels >= 8 * lanes() else channels


def transform_filters(U: Any, w: Any, *, m: int, flip: bool) -> None:
    """U[block, pos, c, lane] = (G g G^T)[pos] for filter block * columns + lane of w [K, C, 3, 3], 0 behind the last.

    flip: the filters are turned by 180 degrees, as the gradient in x needs them.
    """
    _, _, C, columns = U.shape
    full, tail = divmod(w.shape[0], columns)
    for b, c in parallel(full, C) if full else ():
        transform_filter(U.at(b, 0, c, 0), w, b * columns, c, columns, m, flip)
    if tail:
        for (c,) in parallel(C):
            transform_filter(U.at(full, 0, c, 0), w, full * columns, c, tail, m, flip)


def transform_filter(U: Any, w: Any, k: Any, c: Any, valid: int, m: int, flip: bool) -> None:
    """U[0, pos, 0, lane] for `valid` filters from k on, channel c; 0 in the lanes behind them."""
    columns, G = U.shape[3], scheme(m).G
    last = w.permuted(1, 2, 3, 0).at(c, 0, 0, k)

    def tap(r: int, s: int, start: int) -> tuple[int, int, int, int]:
        return (0, 2 - r, 2 - s, start) if flip else (0, r, s, start)

    for start in range(valid, columns) if valid % lanes() else range(valid, columns, lanes()):
        width = 1 if valid % lanes() else min(lanes(), columns - start)
        for pos in loop(U.shape[1]):
            U.store((0, pos, 0, start), 0.0, width)
    for start, width in pieces(valid, lanes()):
        g = [[nest.load(last, tap(r, s, start), width) for s in range(3)] for r in range(3)]
        for pos, value in enumerate(v for row in both_sides(G, g) for v in row):
            U.store((0, pos, 0, start), value, width)


def winograd(
    *arrays: Any, grid: Grid, T: int, size: tuple[int, int], filters: int, epilogue: Epilogue
) -> None:
    """A task is a block of T tiles; the last block may have fewer, then what is multiplied behind them is not used."""
    ending = Ending(epilogue, arrays, 6)
    V, M, outputs, zeros, x, U = ending.own
    C, tile = x.shape[3], tile_for(filters)
    clear(zeros)
    for (block,) in parallel(-(-grid.tiles // T)):
        first = block * T
        count = T if grid.tiles % T == 0 else smaller(T, grid.tiles - first)
        for t in loop(count):
            n, h, v = corner(grid, first + t)
            into = V.at(thread(), 0, t * row_of(C))
            at = (n, h - grid.top, v - grid.left, 0)
            transform_tile(into, x, zeros, scheme(grid.m).BT, at, C)
        for b, valid in filter_blocks(filters, tile.columns):
            prefetch_outputs(ending, grid, first, count, b * tile.columns, valid)
            U_b, V_t, M_t = U.at(b, 0, 0, 0), V.at(thread(), 0, 0), M.at(thread(), 0, 0)
            multiply(M_t, V_t, U_b, T, row_of(C), C, tile)
            transform_back(ending, M_t, outputs, grid, block, first, count, size, b, valid, tile)


def transform_inputs(V: Any, zeros: Any, x: Any, *, grid: Grid) -> None:
    """V[0, pos, t row + c] of every tile t."""
    C, row = x.shape[3], row_of(x.shape[3])
    clear(zeros)
    for channels, count, start in parts_of(C):
        for t, part in parallel(grid.tiles, count):
            n, h, v = corner(grid, t)
            c = part * channels + start
            at = (n, h - grid.top, v - grid.left, c)
            transform_tile(V.at(0, 0, t * row + c), x, zeros, scheme(grid.m).BT, at, channels)


def winograd_by_filters(
    *arrays: Any, grid: Grid, size: tuple[int, int], filters: int, flip: bool, epilogue: Epilogue
) -> None:
    """A task is a block of filters for all tiles: its transformed filters are made and used part by part of the channels."""
    ending = Ending(epilogue, arrays, 5)
    U, M, outputs, V, w = ending.own
    C, tile = w.shape[1], tile_for(filters)
    full, tail = divmod(filters, tile.columns)

    def task(b: Any, valid: int) -> None:
        U_t, M_t = U.at(thread(), 0, 0, 0), M.at(thread(), 0, 0)
        for pos in loop(grid.n**2):
            for i, width in vectors(grid.tiles * tile.columns):
                M_t.store((0, pos, i), 0.0, width)
        for channels, count, start in parts_of(C):
            for i in loop(count):
                c = i * channels + start
                for j in loop(channels):
                    into = U_t.at(0, 0, j, 0)
                    transform_filter(into, w, b * tile.columns, c + j, valid, grid.m, flip)
                v = V.at(0, 0, c)
                multiply(M_t, v, U_t, grid.tiles, row_of(C), channels, tile, add=True)
        transform_back(ending, M_t, outputs, grid, 0, 0, grid.tiles, size, b, valid, tile)

    for (b,) in parallel(full) if full else ():
        task(b, tile.columns)
    if tail:
        for _ in parallel(1):
            task(full, tail)


def parts_of(channels: int) -> list[tuple[int, int, int]]:
    """Parts of at most PART channels: (size, how many of it, where they begin)."""
    count, rest = divmod(channels, PART)
    parts = [(PART, count, 0), (rest, 1, channels - rest)]
    return [part for part in parts if part[0] and part[1]]


def transform_back(
    ending: Ending, M: Any, outputs: Any, grid: Grid, task: Any, first: Any, count: Any, size: tuple[int, int],
    b: Any, valid: int, tile: Tile,
) -> None:  # fmt: skip
    """The outputs of `count` tiles from `first` on, for the `valid` filters of block b, through the epilogue."""
    for start, width in pieces(valid, tile.width):
        k = b * tile.columns + start
        if ending.epilogue.rows:
            ending.open(task, k, width)
        for t in loop(count):
            at = M.at(0, 0, t * tile.columns + start)
            values = [[at.load((0, i * grid.n + j, 0), width) for j in range(grid.n)]
                      for i in range(grid.n)]  # fmt: skip
            ahead = pixels_of(grid, corner(grid, first + t + AHEAD))
            ending.prefetch(ahead, k, width)
            y = both_sides(scheme(grid.m).AT, values)
            put(ending, outputs, task, y, corner(grid, first + t), size, k, width)


def prefetch_outputs(
    ending: Ending, grid: Grid, first: Any, count: Any, k: Any, valid: int
) -> None:
    """Where a block's results go, so that the lines are there when its products are done."""
    for image in (y for y in ending.outputs if not y.streamed):
        for t in loop(count if math.prod(image.shape) > FAR else 0):
            prefetch_pixels(image.at(*corner(grid, first + t), k), grid.m, valid)


def smaller(a: int, b: Any) -> Any:
    return where(b < a, b, a)


def clear(zeros: Any) -> None:
    for c, width in vectors(zeros.shape[1]):
        zeros.store((thread(), c), 0.0, width)


def pixels_of(grid: Grid, at: tuple[Any, Any, Any]) -> list[tuple[Any, Any, Any]]:
    """The output pixels of a tile, row by row."""
    n, p, q = at
    return [(n, p + i, q + j) for i in range(grid.m) for j in range(grid.m)]


def corner(grid: Grid, tile: Any) -> tuple[Any, Any, Any]:
    """Image, and first output row and column, of a tile."""
    n, i, j = unflatten(tile, (grid.images, grid.rows, grid.columns))
    return n, i * grid.m, j * grid.m


def filter_blocks(filters: int, columns: int) -> Any:
    """(block, valid columns)"""
    full, tail = divmod(filters, columns)
    for b in loop(full):
        yield b, columns
    if tail:
        yield full, tail


def within(first: Any, last: Any, n: int) -> Any:
    return (first >= 0) & (last < n)


def transform_tile(
    V: Any, x: Any, zeros: Any, matrix: Matrix, at: tuple[Any, Any, Any, Any], channels: int
) -> None:
    """V[0, pos, c] = (matrix d matrix^T)[pos] where d[i, j] = x[n, h+i, v+j, c], 0 outside of the image; at = (n, h, v, c).

    At the border each of the tile's pixels has its address chosen: in the image, or in a row of zeros.
    """
    (n, h, v, first), size = at, len(matrix[0])
    _, height, width, _ = x.shape
    if math.prod(x.shape) > FAR:
        prefetch_pixels(x.at(n, h + size, v, first), len(matrix) - 2, channels)
    inside = within(h, h + (size - 1), height) & within(v, v + (size - 1), width)
    pixels: dict[tuple[int, int], Any] = {}
    area = list(itertools.product(range(size), range(size)))
    for _ in when(inside):
        pixels = {(i, j): x.row(n, h + i, v + j) for i, j in area}
        transform_pixels(V, pixels, first, channels, matrix)
    for _ in when(inside == False):  # noqa: E712
        rows, columns = (
            [clamped(h + i, height) for i in range(size)],
            [clamped(v + j, width) for j in range(size)],
        )
        for i, j in area:
            (row, in_row), (column, in_column) = rows[i], columns[j]
            nothing = zeros.row(thread())
            pixels[i, j] = choose(in_row & in_column, x.row(n, row, column), nothing)
        transform_pixels(V, pixels, first, channels, matrix)


def prefetch_pixels(x: Any, size: int, channels: int) -> None:
    """A tile that is needed soon: rows as short as a tile's the hardware does not foresee."""
    for i in range(size):
        for j in range(size):
            for c in loop(-(-channels // LINE)):
                x.prefetch((0, i, j, c * LINE))


def clamped(i: Any, n: int) -> tuple[Any, Any]:
    """An index kept inside of n, and whether it was there before."""
    valid = within(i, i, n)
    return where(valid, i, 0), valid


def transform_pixels(
    V: Any, pixels: dict[tuple[int, int], Any], first: Any, channels: int, matrix: Matrix
) -> None:
    """V[0, pos, c] from pixels[i, j], each one's row of channels, for c from `first` on."""
    size = range(len(matrix[0]))
    for c, width in vectors(channels):
        d = [[pixels[i, j].load((first + c,), width) for j in size] for i in size]
        for pos, value in enumerate(v for row in both_sides(matrix, d) for v in row):
            V.store((0, pos, c), value, width)


def multiply(
    M: Any, V: Any, U: Any, T: int, row: int, channels: int, tile: Tile, add: bool = False
) -> None:
    """M[0, pos, t, k] = sum_c V[0, pos, t row + c] U[0, pos, c, k] for all positions and T tiles; or added to M."""
    for pos in loop(U.shape[1]):
        first = 0
        for rows, count in split(T, tile.rows):
            for i in loop(count):
                t = i * rows + first
                into, v = M.at(0, pos, t * tile.columns), V.at(0, pos, t * row)
                multiply_tile(into, v, U.at(0, pos, 0, 0), rows, row, channels, tile, add)
            first += rows * count


def multiply_tile(
    M: Any, v: Any, u: Any, rows: int, row: int, channels: int, tile: Tile, add: bool
) -> None:
    """The sums of `rows` tiles and one block of filters, in registers."""
    starts, step = pieces(tile.columns, tile.width), min(UNROLL, channels)
    places = {
        (i, s): i * tile.columns + start for i in range(rows) for s, (start, _) in enumerate(starts)
    }
    acc = {
        key: var(M.load((0, 0, place), tile.width) if add else 0.0, tile.width)
        for key, place in places.items()
    }

    def step_of(c: Any) -> None:
        ws = [u.load((0, 0, c, start), tile.width) for start, _ in starts]
        multiply_add(acc, (v[0, 0, i * row + c] for i in range(rows)), ws)

    for c in loop(channels // step):
        for e in range(step):
            step_of(c * step + e)
    for c in range(channels - channels % step, channels):
        step_of(c)
    for key, place in places.items():
        M.store((0, 0, place), acc[key], tile.width)


def put(
    ending: Ending, outputs: Any, task: Any, y: list[list[Any]], at: tuple[Any, Any, Any], size: tuple[int, int],
    k: Any, width: int,
) -> None:  # fmt: skip
    """Store a tile's outputs; of one that reaches over the edge, pixel by pixel those that are inside."""
    (n, p, q), m = at, len(y)
    flat = [value for row in y for value in row]
    cut = [at + m <= n for at, n in ((p, size[0]), (q, size[1])) if n % m]
    whole = cut[0] & cut[1] if len(cut) == 2 else cut[0] if cut else True
    for _ in when(whole):
        ending.store(task, [(n, p + i, q + j) for i in range(m) for j in range(m)], flat, k, width)
    if whole is True:
        return
    for _ in when(whole == False):  # noqa: E712
        for i, value in enumerate(flat):
            outputs.store((thread(), i, 0), value, width)
        for i in loop(smaller(m, size[0] - p)):
            for j in loop(smaller(m, size[1] - q)):
                value = outputs.load((thread(), i * m + j, 0), width)
                ending.store(task, [(n, p + i, q + j)], [value], k, width)
