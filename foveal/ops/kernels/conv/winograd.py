"""Kernels for 3x3 convolutions with stride 1 or 2 by minimal filtering (ops/transforms.py), fused per block of tiles.

A block of tiles is transformed, multiplied and transformed back while it is in the cache:

    V[pos, t, c] = (B^T d B)[pos]            for the block's tiles t, all channels c
    M[pos, t, k] = sum_c V[pos, t, c] U[pos, c, k]    for one block of filters k
    y            = A^T M A, through the epilogue

where U[pos, c, k] = (G g G^T)[pos] are the transformed filters. pos counts the positions of a tile in the order of
transforms.order; those of one class have the same filters, which U holds once.
"""

import itertools
from functools import partial
from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, thread, unflatten, var, vectors, when, where
from foveal.ops.kernels import expression
from foveal.ops.kernels.conv.select import Choice
from foveal.ops.kernels.conv.winograd_grid import Grid, near_equal
from foveal.ops.kernels.conv.winograd_input import prefetch_pixels, transform_tile
from foveal.ops.kernels.conv.winograd_transform import both_sides
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.packing import outputs_last
from foveal.ops.kernels.register_tile import Tile, multiply_add, pieces, split, tile_for
from foveal.ops.op import Lowering

BLOCK_BYTES = 1 << 19  # of a block's transformed inputs: half of a 1 MiB L2


MOST_TILES, LEAST_TASKS = 48, 8


UNROLL = 4


MOST_SHARED = 256 * 36  # positions of all tiles: with 32 filters 1.2 MB


FILTER_BYTES = 12 << 20  # of transformed filters, from which on reading them from memory tells


AHEAD = 2  # tiles: how early what an epilogue reads is fetched


PART = 64  # channels whose filters are transformed at once: with 36 x 32 filters 288 KiB


GROUP = 16  # outputs of a tile that are finished together


PAD = 16  # elements between positions, so that their rows do not all fall into the same sets of the cache


def lower(to: Lowering, y: EpilogueOutputs, x: Any, w: Any, grid: Grid, how: Choice, flip: bool) -> None:
    """y = correlation of x [N, C, H, W] with w [K, C, 3, 3] on the grid; flip: w is turned by 180 degrees."""
    _, K, P, Q = y.shape
    C, tile = x.shape[1], tile_for(K)
    outside = [to.scratch((1, grid.outputs, lanes()), per_thread=True), to.scratch((1, C), per_thread=True)]
    x, blocks = x.permuted(0, 2, 3, 1), -(-K // tile.columns)
    w = outputs_last(to, w)
    static: dict[str, Any] = {"grid": grid, "size": (P, Q), "filters": K}
    if few_tiles(grid, C, K) if how.shared is None else how.shared:
        V = to.scratch((1, grid.positions, grid.tiles * row_of(C) + PAD))
        to.call(transform_inputs, [V, outside[1]], [x], grid=grid)
        part = min(C, PART)
        U = to.scratch((1, grid.classes, part, tile.columns), per_thread=True)
        M = to.scratch((1, grid.positions, grid.tiles * tile.columns + PAD), per_thread=True)
        y.call(to, winograd_by_filters, 1, [U, M, outside[0]], [V, w], flip=flip, **static)
        return
    U = to.scratch((blocks, grid.classes, C, tile.columns))
    to.call(transform_filters, [U], [w], grid=grid, flip=flip)
    most = how.tiles or min(MOST_TILES, max(tile.rows, BLOCK_BYTES // (4 * grid.positions * C)))
    T = near_equal(grid.tiles, min(most, -(-grid.tiles // LEAST_TASKS)))
    V = to.scratch((1, grid.positions, T * row_of(C) + PAD), per_thread=True)
    M = to.scratch((1, grid.positions, T * tile.columns + PAD), per_thread=True)
    y.call(to, winograd, -(-grid.tiles // T), [V, M, *outside], [x, U], T=T, **static)


def few_tiles(grid: Grid, C: int, K: int) -> bool:
    """Whether to share blocks of filters among the threads, each with all tiles, instead of blocks of tiles.

    Then transformed filters, 4 times the filters' size, are used where they are made and never leave the cache.
    """
    again = grid.positions / grid.classes  # each filter is read by so many positions in turn
    few = grid.tiles * grid.positions * again <= MOST_SHARED
    return few and 4 * grid.classes * C * K > FILTER_BYTES


def row_of(channels: int) -> int:
    """Elements from one tile's row of V to the next: an odd number of vectors, against conflicts in the cache."""
    return (-(-channels // lanes()) | 1) * lanes() if channels >= 8 * lanes() else channels


def transform_filters(U: Any, w: Any, *, grid: Grid, flip: bool) -> None:
    """U[block, class, c, lane] = (G g G^T)[class] for filter block * columns + lane of w [K, C, 3, 3], 0 behind the
    last.

    flip: the filters are turned by 180 degrees, as the gradient in x needs them.
    """
    _, _, C, columns = U.shape
    full, tail = divmod(w.shape[0], columns)
    for b, c in parallel(full, C) if full else ():
        transform_filter(U.at(b, 0, c, 0), w, b * columns, c, columns, grid, flip)
    if tail:
        for (c,) in parallel(C):
            transform_filter(U.at(full, 0, c, 0), w, full * columns, c, tail, grid, flip)


def transform_filter(U: Any, w: Any, k: Any, c: Any, valid: int, grid: Grid, flip: bool) -> None:
    """U[0, class, 0, lane] for `valid` filters from k on, channel c; 0 in the lanes behind them."""
    columns = U.shape[3]
    last = w.permuted(1, 2, 3, 0).at(c, 0, 0, k)

    def tap(r: int, s: int, start: int) -> tuple[int, int, int, int]:
        return (0, 2 - r, 2 - s, start) if flip else (0, r, s, start)

    for start in range(valid, columns) if valid % lanes() else range(valid, columns, lanes()):
        width = 1 if valid % lanes() else min(lanes(), columns - start)
        for pos in loop(U.shape[1]):
            U.store((0, pos, 0, start), 0.0, width)
    for start, width in pieces(valid, lanes()):
        g = partial(lambda start, width, r, s: expression.load(last, tap(r, s, start), width), start, width)
        for i, j, value in both_sides(grid.down.G, grid.across.G, g):
            U.store((0, grid.order.class_[i, j], 0, start), value, width)


def winograd(*arrays: Any, grid: Grid, T: int, size: tuple[int, int], filters: int, epilogue: Epilogue) -> None:
    """A task is a block of T tiles; the last block may have fewer, then what is multiplied behind them is not used."""
    ending = BoundEpilogue(epilogue, arrays, 6)
    V, M, outputs, zeros, x, U = ending.own
    C, tile = x.shape[3], tile_for(filters)
    clear(zeros)
    for (block,) in parallel(-(-grid.tiles // T)):
        first = block * T
        count = T if grid.tiles % T == 0 else smaller(T, grid.tiles - first)
        for t in loop(count):
            into = V.at(thread(), 0, t * row_of(C))
            transform_tile(into, x, zeros, grid, inputs_at(grid, first + t, 0), C)
        for b, valid in filter_blocks(filters, tile.columns):
            prefetch_outputs(ending, grid, first, count, b * tile.columns, valid)
            U_b, V_t, M_t = U.at(b, 0, 0, 0), V.at(thread(), 0, 0), M.at(thread(), 0, 0)
            multiply(M_t, V_t, U_b, grid, T, row_of(C), C, tile)
            transform_back(ending, M_t, outputs, grid, block, first, count, size, b, valid, tile)


def transform_inputs(V: Any, zeros: Any, x: Any, *, grid: Grid) -> None:
    """V[0, pos, t row + c] of every tile t."""
    C, row = x.shape[3], row_of(x.shape[3])
    clear(zeros)
    for channels, count, start in parts_of(C):
        for t, part in parallel(grid.tiles, count):
            c = part * channels + start
            at = inputs_at(grid, t, c)
            transform_tile(V.at(0, 0, t * row + c), x, zeros, grid, at, channels)


def winograd_by_filters(
    *arrays: Any, grid: Grid, size: tuple[int, int], filters: int, flip: bool, epilogue: Epilogue
) -> None:
    """A task is a block of filters for all tiles: its transformed filters are made and used part by part of the
    channels.
    """
    ending = BoundEpilogue(epilogue, arrays, 5)
    U, M, outputs, V, w = ending.own
    C, tile = w.shape[1], tile_for(filters)
    full, tail = divmod(filters, tile.columns)

    def task(b: Any, valid: int) -> None:
        U_t, M_t = U.at(thread(), 0, 0, 0), M.at(thread(), 0, 0)
        for pos in loop(grid.positions):
            for i, width in vectors(grid.tiles * tile.columns):
                M_t.store((0, pos, i), 0.0, width)
        for channels, count, start in parts_of(C):
            for i in loop(count):
                c = i * channels + start
                for j in loop(channels):
                    into = U_t.at(0, 0, j, 0)
                    transform_filter(into, w, b * tile.columns, c + j, valid, grid, flip)
                v = V.at(0, 0, c)
                multiply(M_t, v, U_t, grid, grid.tiles, row_of(C), channels, tile, add=True)
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
    ending: BoundEpilogue,
    M: Any,
    outputs: Any,
    grid: Grid,
    task: Any,
    first: Any,
    count: Any,
    size: tuple[int, int],
    b: Any,
    valid: int,
    tile: Tile,
) -> None:
    """The outputs of `count` tiles from `first` on, for the `valid` filters of block b, through the epilogue."""
    for start, width in pieces(valid, tile.width):
        k = b * tile.columns + start
        if ending.epilogue.rows:
            ending.open(task, k, width)
        for t in loop(count):
            at = M.at(0, 0, t * tile.columns + start)
            ending.prefetch(pixels_of(grid, corner(grid, first + t + AHEAD)), k, width)
            put(ending, outputs, task, at, grid, corner(grid, first + t), size, k, width)


def prefetch_outputs(ending: BoundEpilogue, grid: Grid, first: Any, count: Any, k: Any, valid: int) -> None:
    """Where a block's results go, so that the lines are there when its products are done."""
    for image in (y for y in ending.outputs if not y.streamed):
        for t in loop(count if exceeds_l2(image) else 0):
            prefetch_pixels(image.at(*corner(grid, first + t), k), grid.down.outputs, grid.across.outputs, valid)


def smaller(a: int, b: Any) -> Any:
    return where(b < a, b, a)


def clear(zeros: Any) -> None:
    for c, width in vectors(zeros.shape[1]):
        zeros.store((thread(), c), 0.0, width)


def pixels_of(grid: Grid, at: tuple[Any, Any, Any]) -> list[tuple[Any, Any, Any]]:
    """The output pixels of a tile, row by row."""
    n, p, q = at
    return [(n, p + i, q + j) for i in range(grid.down.outputs) for j in range(grid.across.outputs)]


def corner(grid: Grid, tile: Any) -> tuple[Any, Any, Any]:
    """Image, and first output row and column, of a tile."""
    n, i, j = unflatten(tile, (grid.images, grid.rows, grid.columns))
    return n, i * grid.down.outputs, j * grid.across.outputs


def inputs_at(grid: Grid, tile: Any, channel: Any) -> tuple[Any, Any, Any, Any]:
    """Where the inputs of a tile begin: image, row, column, channel."""
    n, i, j = unflatten(tile, (grid.images, grid.rows, grid.columns))
    return n, i * grid.down.step - grid.top, j * grid.across.step - grid.left, channel


def filter_blocks(filters: int, columns: int) -> Any:
    """(block, valid columns)"""
    full, tail = divmod(filters, columns)
    for b in loop(full):
        yield b, columns
    if tail:
        yield full, tail


def multiply(
    M: Any, V: Any, U: Any, grid: Grid, T: int, row: int, channels: int, tile: Tile, add: bool = False
) -> None:
    """M[0, pos, t, k] = sum_c V[0, pos, t row + c] U[0, class of pos, c, k] for all positions and T tiles; or added to
    M.
    """
    for run in grid.order.runs:
        for n in loop(run.classes):
            u = U.at(0, n + run.first, 0, 0)
            for copy in loop(run.copies):
                pos, first = n * run.copies + copy + run.start, 0
                for rows, count in split(T, tile.rows):
                    for i in loop(count):
                        t = i * rows + first
                        into, v = M.at(0, pos, t * tile.columns), V.at(0, pos, t * row)
                        multiply_tile(into, v, u, rows, row, channels, tile, add)
                    first += rows * count


def multiply_tile(M: Any, v: Any, u: Any, rows: int, row: int, channels: int, tile: Tile, add: bool) -> None:
    """The sums of `rows` tiles and one block of filters, in registers."""
    starts, step = pieces(tile.columns, tile.width), min(UNROLL, channels)
    places = {(i, s): i * tile.columns + start for i in range(rows) for s, (start, _) in enumerate(starts)}
    acc = {key: var(M.load((0, 0, place), tile.width) if add else 0.0, tile.width) for key, place in places.items()}

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
    ending: BoundEpilogue,
    outputs: Any,
    task: Any,
    M: Any,
    grid: Grid,
    at: tuple[Any, Any, Any],
    size: tuple[int, int],
    k: Any,
    width: int,
) -> None:
    """Transform a tile back and store it; of one that reaches over the edge, pixel by pixel those that are inside."""
    (n, p, q), down, across = at, grid.down, grid.across
    reach = down.outputs, across.outputs

    def load(i: int, j: int) -> Any:
        return M.load((0, grid.order.position[i, j], 0), width)

    cut = [at + m <= n for at, n, m in zip((p, q), size, reach, strict=True) if n % m]
    whole = cut[0] & cut[1] if len(cut) == 2 else cut[0] if cut else True
    for _ in when(whole):
        values = both_sides(down.AT, across.AT, load)
        while group := list(itertools.islice(values, GROUP)):
            pixels = [(n, p + i, q + j) for i, j, _ in group]
            ending.store(task, pixels, [value for *_, value in group], k, width)
    if whole is True:
        return
    for _ in when(whole == False):  # noqa: E712
        for i, j, value in both_sides(down.AT, across.AT, load):
            outputs.store((thread(), i * reach[1] + j, 0), value, width)
        for y in loop(smaller(reach[0], size[0] - p)):
            for x in loop(smaller(reach[1], size[1] - q)):
                value = outputs.load((thread(), y * reach[1] + x, 0), width)
                ending.store(task, [(n, p + y, q + x)], [value], k, width)
