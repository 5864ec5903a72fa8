"""Kernels for 3x3 convolutions with stride 1 by minimal filtering (ops/transforms.py), fused per block of tiles.

A block of tiles is transformed, multiplied and transformed back while it is in the cache:

    V[pos, t, c] = (B^T d B)[pos]            for the block's tiles t, all channels c
    M[pos, t, k] = sum_c V[pos, t, c] U[pos, c, k]    for one block of filters k
    y            = A^T M A, through the epilogue

where U[pos, c, k] = (G g G^T)[pos] are the transformed filters. pos counts the n x n positions of a tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import (
    choose,
    lanes,
    loop,
    parallel,
    thread,
    unflatten,
    vectors,
    when,
    where,
)
from foveal.ops import nest
from foveal.ops.epilogue import Ending, Epilogue, Results
from foveal.ops.op import Lowering
from foveal.ops.tile import Tile, accumulators, multiply_add, pieces, split, tile_for
from foveal.ops.transforms import Matrix, both_sides, scheme

BLOCK_BYTES = 1 << 19  # of a block's transformed inputs: half of a 1 MiB L2
MOST_TILES, LEAST_TASKS = 48, 8
UNROLL = 4
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


def lower_winograd(to: Lowering, y: Results, x: Any, w: Any, top: int, left: int, m: int, flip: bool) -> None:
    """y = correlation of x [N, C, H, W] with w [K, C, 3, 3] at padding (top, left)."""
    N, K, P, Q = y.shape
    C = x.shape[1]
    grid = Grid(m, N, -(-P // m), -(-Q // m), top, left)
    tile = tile_for(K)
    blocks = -(-K // tile.columns)
    U = to.scratch((blocks, grid.n**2, C, tile.columns))
    to.call(transform_filters, [U], [w], m=m, flip=flip)
    most = min(MOST_TILES, max(tile.rows, BLOCK_BYTES // (4 * grid.n**2 * C)))
    T = near_equal(grid.tiles, min(most, -(-grid.tiles // LEAST_TASKS)))
    V = to.scratch((1, grid.n**2, T * row_of(C) + PAD), per_thread=True)
    M = to.scratch((1, grid.n**2, T * tile.columns + PAD), per_thread=True)
    tile_out = to.scratch((1, m * m, lanes()), per_thread=True)
    zeros = to.scratch((1, C), per_thread=True)
    y.call(to, winograd, -(-grid.tiles // T), [V, M, tile_out, zeros], [x.permuted(0, 2, 3, 1), U],
           grid=grid, T=T, size=(P, Q), filters=K)  # fmt: skip


def row_of(channels: int) -> int:
    """Elements from one tile's row of V to the next: an odd number of vectors, against conflicts in the cache."""
    return (-(-channels // lanes()) | 1) * lanes() if channels >= 8 * lanes() else channels


def transform_filters(U: Any, w: Any, *, m: int, flip: bool) -> None:
    """U[block, pos, c, lane] = (G g G^T)[pos] for filter block * columns + lane of w [K, C, 3, 3], 0 behind the last.

    flip: the filters are turned by 180 degrees, as the gradient in x needs them.
    """
    _, positions, C, columns = U.shape
    K, width, G = w.shape[0], min(columns, lanes()), scheme(m).G
    last = w.permuted(1, 2, 3, 0)

    def fill(b: Any, c: Any, start: int, count: int) -> None:
        index = (c, 0, 0, b * columns + start)
        g = [[nest.load(last.at(*index), tap(r, s), count) for s in range(3)] for r in range(3)]
        for pos, value in enumerate(v for row in both_sides(G, g) for v in row):
            U.store((b, pos, c, start), value, count)

    def tap(r: int, s: int) -> tuple[int, int, int, int]:
        return (0, 2 - r, 2 - s, 0) if flip else (0, r, s, 0)

    full, tail = divmod(K, columns)
    for b, c in parallel(full, C) if full else ():
        for start in range(0, columns, width):
            fill(b, c, start, width)
    if tail:
        for (c,) in parallel(C):
            for pos in loop(positions):
                for start in range(0, columns, width):
                    U.store((full, pos, c, start), 0.0, width)
            for start, count in pieces(tail, width):
                fill(full, c, start, count)


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
            multiply(M, V, U, b, T, C, tile)
            for start, width in pieces(valid, tile.width):
                k = b * tile.columns + start
                if epilogue.rows:
                    ending.open(block, k, width)
                for t in loop(count):
                    at = M.at(thread(), 0, t * tile.columns + start)
                    values = [[at.load((0, i * grid.n + j, 0), width) for j in range(grid.n)]
                              for i in range(grid.n)]  # fmt: skip
                    y = both_sides(scheme(grid.m).AT, values)
                    put(ending, outputs, block, y, corner(grid, first + t), size, k, width)


def smaller(a: int, b: Any) -> Any:
    return where(b < a, b, a)


def clear(zeros: Any) -> None:
    for c, width in vectors(zeros.shape[1]):
        zeros.store((thread(), c), 0.0, width)


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
    inside = within(h, h + (size - 1), height) & within(v, v + (size - 1), width)
    for _ in when(inside):
        tile = x.at(n, h, v, first)
        transform_pixels(V, lambda i, j, c, lanes: tile.load((0, i, j, c), lanes), channels, matrix)
    for _ in when(inside == False):  # noqa: E712
        rows = [clamped(h + i, height) for i in range(size)]
        columns = [clamped(v + j, width) for j in range(size)]
        pixels = {
            (i, j): choose(in_row & in_column, x.row(n, row, column), zeros.row(thread()))
            for i, (row, in_row) in enumerate(rows)
            for j, (column, in_column) in enumerate(columns)
        }
        transform_pixels(
            V, lambda i, j, c, lanes: pixels[i, j].load((first + c,), lanes), channels, matrix
        )


def clamped(i: Any, n: int) -> tuple[Any, Any]:
    """An index kept inside of n, and whether it was there before."""
    valid = within(i, i, n)
    return where(valid, i, 0), valid


def transform_pixels(V: Any, load: Callable[..., Any], channels: int, matrix: Matrix) -> None:
    size = range(len(matrix[0]))
    for c, width in vectors(channels):
        d = [[load(i, j, c, width) for j in size] for i in size]
        for pos, value in enumerate(v for row in both_sides(matrix, d) for v in row):
            V.store((0, pos, c), value, width)


def multiply(M: Any, V: Any, U: Any, b: Any, T: int, C: int, tile: Tile) -> None:
    """M[pos, t, k] = sum_c V[pos, t, c] U[b, pos, c, k] for all positions and tiles."""
    starts = pieces(tile.columns, tile.width)
    step = min(UNROLL, C)
    for pos in loop(U.shape[1]):
        first = 0
        for rows, count in split(T, tile.rows):
            for i in loop(count):
                t = i * rows + first
                v, u = V.at(thread(), pos, t * row_of(C)), U.at(b, pos, 0, 0)
                acc = accumulators(rows, starts, tile.width)

                def add(c: Any, acc: Any = acc, v: Any = v, u: Any = u, rows: int = rows) -> None:
                    ws = [u.load((0, 0, c, start), tile.width) for start, _ in starts]
                    multiply_add(acc, [v[0, 0, i * row_of(C) + c] for i in range(rows)], ws)

                for c in loop(C // step):
                    for e in range(step):
                        add(c * step + e)
                for c in range(C - C % step, C):
                    add(c)
                into = M.at(thread(), pos, t * tile.columns)
                for (row, part), total in acc.items():
                    into.store((0, 0, row * tile.columns + starts[part][0]), total, tile.width)
            first += rows * count


def put(
    ending: Ending, outputs: Any, task: Any, y: list[list[Any]], at: tuple[Any, Any, Any], size: tuple[int, int],
    k: Any, width: int,
) -> None:  # fmt: skip
    """Store a tile's outputs; of one that reaches over the edge, pixel by pixel those that are inside."""
    (n, p, q), m = at, len(y)
    flat = [value for row in y for value in row]
    whole = (size[0] % m == 0 or p + m <= size[0]) & (size[1] % m == 0 or q + m <= size[1])
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
