"""3x3 convolution with stride 1 or 2, and its gradient in x, by Winograd's minimal filtering, fused per block of tiles.

The algorithm and its matrices are in winograd_matrices.py (Lavin and Gray 2016). An element (row, column) of a
transformed tile is called a point. A block of tiles is transformed, multiplied and transformed back while it stays in
the second-level cache:

    V[point, t, c] = (B^T d B)[point]                         for the tiles t of the block and all channels c
    M[point, t, k] = sum_c V[point, t, c] U[class, c, k]      for some filters k and the class of the point
    y              = A^T M A                                  through the epilogue

where U[class, c, k] = (G g G^T)[class] are the transformed filters. With stride 1 and m up to 4 each point is a class.
With stride 2 the points of an axis that belong to the phase with one tap share one transformed filter, so they form one
class, which U holds once. So do those of a joined tile that belong to the same interpolation points. Points and classes
are numbered by winograd_transform.point_order.

How the products come near the peak of ports x lanes x 2 operations per cycle (register_tile.py derives the peak and the
size of the tile); for each point they are a matrix product [T, C] x [C, K]:

    registers       the sums of 12 tiles x 32 filters on AVX-512 (6 x 16 on AVX2), over all channels. A step of the
                    inner loop, one channel, loads two vectors of U and broadcasts one number of V for each tile, for
                    24 (12) FMAs: 0.58 (0.67) loads per FMA, so the FMAs and not the loads set the pace.
    first level     the operands of one point: C x 32 numbers of U, 8 KiB for 64 channels, and T x C of V, 12 KiB for
                    48 tiles of 64 channels; on AVX2 V stays for 4 blocks of 16 filters
    second level    V of the block while all filters pass, M of those whose products are computed at once
                    (`filters_at_once`), and U where it fits in beside them
    last level      U otherwise, read once per block of tiles

Measured on two cores of Zen 4 against a peak of 233 GFLOP/s, counting direct convolution's multiplications: 615 to 705
GFLOP/s for 64 to 256 channels (`foveal bench ops 3x3`, docs/results.md).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import (
    LINE,
    Array,
    Index,
    Value,
    l2,
    lanes,
    llc,
    loop,
    loops,
    minimum,
    parallel,
    registers,
    thread,
    vectors,
)
from foveal.ops.kernels import expression
from foveal.ops.kernels.conv.cost_model import Algorithm
from foveal.ops.kernels.conv.winograd_grid import Grid, near_equal, rows_of_tiles
from foveal.ops.kernels.conv.winograd_input import TileTransform
from foveal.ops.kernels.conv.winograd_output import OutputTransform, TileBlock, is_cut
from foveal.ops.kernels.conv.winograd_products import PointProducts
from foveal.ops.kernels.conv.winograd_transform import transform_2d
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.packing import outputs_last
from foveal.ops.kernels.register_tile import FLOAT_BYTES, Tile, ceil_div, lane_ranges, pieces_of, tile_for
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View

# Tiles of a block at most: four register tiles of 12 rows with 32 registers, eight of 6 with 16. Every block reads all
# transformed filters once, so larger blocks read them less often; but V and M grow with the block, and leave less of
# the cache to the filters.
MAX_TILES = 48

# Blocks at least, where there are as many tiles: several for each thread, so that threads end at nearly the same time.
# Half of ENOUGH_TASKS in register_tile.py, since each block reads all transformed filters, and more blocks, which are
# smaller, would read them more often.
MIN_TASKS = 8

# Filters whose products are computed at once where a register tile has fewer; see `filters_at_once`.
MAX_FILTERS = 64

# Channels whose filters are transformed at once where threads share filters: with 36 classes and 32 filters 288 KiB,
# little more than a quarter of a second-level cache of 1 MiB.
CHANNEL_PART = 64

# Unused elements, one cache line, between the numbers of one point and those of the next in V and M. Without them the
# points of a tile would often be a power of two apart, and fall into the same sets of the cache.
PAD = LINE


def max_block_bytes() -> int:
    """Bytes of V of a block at most, or of V and M where M has MAX_FILTERS: half of the second-level cache.

    The other half is for M and U.
    """
    return l2() // 2


def max_shared_points() -> int:
    """Points of all tiles together up to which threads may share blocks of filters.

    256 tiles of 36 points where the second-level cache has 1 MiB. A thread's M of so many points and 32 filters takes
    9/8 of the cache (half of that on AVX2, where a block has 16 filters). M is read and written once per part of the
    channels: the more of it does not stay in the cache, the less is gained by not writing U to memory.
    """
    max_bytes, filters = l2() * 9 // 8, 32
    return max_bytes // (FLOAT_BYTES * filters)


def max_filter_bytes() -> int:
    """Bytes of transformed filters that stay in the last-level cache beside images and results: 3/8 of it."""
    return llc() * 3 // 8


def lower(
    lowering: Lowering, y: EpilogueOutputs, x: View, w: View, grid: Grid, algorithm: Algorithm, rotate: bool
) -> None:
    """y [N, K, P, Q] = correlation of x [N, C, H, W] with w [K, C, 3, 3], tiled by the grid.

    rotate: the filters are rotated by 180 degrees, as the gradient in x needs them.
    """
    K, C = y.shape[1], x.shape[1]
    # The shape of an array per thread is that of one thread's copy; in a kernel its first index selects the thread.
    # half: a tile that is transformed back along its columns only. zeros: read in place of padding.
    half = lowering.scratch((1, grid.vertical.outputs * grid.horizontal.points, tile_for(K).lanes), per_thread=True)
    zeros = lowering.scratch((1, C), per_thread=True)
    x, w = x.permuted(0, 2, 3, 1), outputs_last(lowering, w)
    parallel_over = algorithm.parallel_over or ("filters" if threads_share_filters(grid, C, K) else "tiles")
    if parallel_over == "filters":
        lower_by_filters(lowering, y, x, w, grid, (half, zeros), rotate)
        return
    tile, sizes = tile_for(K), CallSizes()
    # U of all filters; V and M of the block of tiles that a thread works on
    U = lowering.scratch((ceil_div(K, tile.lanes), grid.classes, C, tile.lanes))
    lowering.call(transform_filters, [U], [w], grid=grid.of_one_tile, rotate=rotate)
    T, places = block_sizes(grid, C, K, algorithm)
    V = tile_rows(lowering, grid.points, T, places, row_of(C))
    M = tile_rows(lowering, grid.points, T, places, filters_at_once(K, tile))
    functions = [
        TileTransform(grid, C).function(V, x),
        PointProducts(grid.order.ranges, pieces_of(T, tile.rows), C, tile).function(M, V, U),
    ]
    tasks, scratch = ceil_div(grid.tiles, T), [V, M, half, zeros]
    spec = spec_for(sizes, x, [V, M], [half, zeros, U])
    cut = is_cut(grid, y.shape[2:])
    static: dict[str, Any] = {"functions": functions, "grid": grid.of_one_tile, "filters": K, "cut": cut}
    y.call(lowering, winograd, tasks, scratch, [x, U], spec=spec, sizes=sizes.values, **static)


def lower_by_filters(
    lowering: Lowering, y: EpilogueOutputs, x: View, w: View, grid: Grid, scratch: tuple[View, View], rotate: bool
) -> None:
    """`lower` where threads share blocks of filters, for x [N, H, W, C] and w [K, C, 3, 3] as kernels read them.

    scratch: half and zeros.
    """
    (half, zeros), K, C = scratch, y.shape[1], x.shape[3]
    tile, places = tile_for(K), rounded_up(grid.tiles)
    # V of all tiles, a part of the channels after the other; U and M of the block of filters that a thread works on
    V = lower_inputs(lowering, x, zeros, grid, places, min(C, CHANNEL_PART), ceil_div(C, CHANNEL_PART))
    U = lowering.scratch((1, grid.classes, min(C, CHANNEL_PART), tile.lanes), per_thread=True)
    M = tile_rows(lowering, grid.points, grid.tiles, places, tile.lanes)
    # of the parts of the channels
    classes, pieces = grid.order.ranges, pieces_of(grid.tiles, tile.rows)
    products = [PointProducts(classes, pieces, n, tile, add=True) for n, *_ in channel_parts(C)]
    functions = [part.function(M, V, U) for part in products]
    sizes = CallSizes()
    spec = spec_for(sizes, x, [V, M], [U, half, w])
    static: dict[str, Any] = {"functions": functions, "rotate": rotate, "grid": grid.of_one_tile, "filters": K}
    static["cut"] = is_cut(grid, y.shape[2:])
    # each filter belongs to one task, so one row of partial sums is enough
    y.call(lowering, winograd_by_filters, 1, [U, M, half], [V, w], spec=spec, sizes=sizes.values, **static)


def lower_inputs(lowering: Lowering, x: View, zeros: View, grid: Grid, places: int, row: int, parts: int = 1) -> View:
    """V [parts, points, tiles, row] of all tiles of x [N, H, W, C], which threads share: see `transform_inputs`."""
    C, sizes = x.shape[3], CallSizes()
    V = tile_rows(lowering, grid.points, grid.tiles, places, row, parts=parts, per_thread=False)
    functions = [TileTransform(grid, channels).function(V, x) for channels, *_ in channel_parts(C)]
    specs = [spec_of_tiles(sizes, V), zeros.spec, sizes.images(x, "input")]
    counts = {"rows": sizes.of(grid.rows, "tiles", 0), "columns": sizes.of(grid.columns, "tiles", 1)}
    static: dict[str, Any] = {"grid": grid.of_one_tile, "functions": functions, **counts}
    lowering.call(transform_inputs, [V, zeros], [x], specs=specs, sizes=sizes.values, **static)
    return V


def tile_rows(
    lowering: Lowering, points: int, tiles: int, places: int, row: int, *, parts: int = 1, per_thread: bool = True
) -> View:
    """Scratch memory [parts, points, tiles, row].

    It has places for more tiles, since the distance of points is part of code.
    """
    # PAD separates the points
    stride = places * row + PAD
    memory = lowering.scratch((parts, points, stride), per_thread=per_thread)
    return memory.over((parts, points, tiles, row), (points * stride, stride, row, 1))


def spec_of_tiles(sizes: CallSizes, rows: View) -> ArraySpec:
    """What a kernel is specialised to for [parts, points, tiles, row]: all but the number of tiles."""
    parts, points, tiles, row = rows.shape
    return ArraySpec((parts, points, sizes.of(tiles, "tiles"), row), rows.strides)


def rounded_up(tiles: int) -> int:
    """A number of tiles rounded up to a power of two, or to three quarters of one, so that other numbers share code."""
    step = 1 << max(0, (tiles - 1).bit_length() - 2)
    return ceil_div(tiles, step) * step


def spec_for(sizes: CallSizes, x: View, of_tiles: list[View], known: list[View]) -> Callable[[View], ArraySpec]:
    """What `winograd` and `winograd_by_filters` are specialised to for a view: images without their numbers and sizes.

    x: the input. of_tiles: V and M. known: the views whose sizes do not depend on the images.
    """

    def spec(view: View) -> ArraySpec:
        if any(view is other for other in of_tiles):
            return spec_of_tiles(sizes, view)
        if any(view is other for other in known):
            return view.spec
        if len(view.shape) == 3:
            # partial sums [tasks, rows, K]
            return ArraySpec((sizes.of(view.shape[0], "tasks"), *view.shape[1:]), view.strides)
        return sizes.images(view, "input" if view is x else "output")

    return spec


def filters_at_once(K: int, tile: Tile) -> int:
    """Filters whose products with a block of tiles are computed before they are transformed back: whole register tiles.

    The tiles of a point are read from the second-level cache, or the last-level one, once for all of them. A register
    tile of 32 filters leaves time for that. One of 16 filters, as on AVX2, does not: there it would be 4 bytes of V per
    cycle, so MAX_FILTERS are taken.
    """
    columns = tile.lanes
    return columns if registers() >= 32 else min(ceil_div(K, columns) * columns, max(columns, MAX_FILTERS))


def block_sizes(grid: Grid, C: int, K: int, algorithm: Algorithm) -> tuple[int, int]:
    """Tiles of a block, and how many it has place for: one of two numbers, so that other batches share code.

    Its tiles are at most `algorithm.tile_block`, else as many as fit into the cache; fewer if blocks would be few. With
    more unused places the points would spread over more pages than the processor keeps the addresses of.
    """
    tile = tile_for(K)
    columns = filters_at_once(K, tile)
    row = C + columns if columns > tile.lanes else C
    fitting = max(tile.rows, max_block_bytes() // (FLOAT_BYTES * grid.points * row))
    max_tiles = algorithm.tile_block or min(MAX_TILES, fitting)
    tiles, half = near_equal(grid.tiles, min(max_tiles, ceil_div(grid.tiles, MIN_TASKS))), ceil_div(max_tiles, 2)
    return tiles, max_tiles if tiles > half else half


def threads_share_filters(grid: Grid, C: int, K: int) -> bool:
    """True if threads should share blocks of filters, each with all tiles, instead of blocks of tiles.

    That is better for few tiles and large filters: each thread transforms its filters just before it uses them, so
    that they stay in its second-level cache. A transformed filter has `grid.classes` elements for 9 weights (36 with
    m = 4, so 4 times as many). Where the transformed filters do not fit into the last-level cache, writing them and
    reading them again would take longer than the products with few tiles.
    """
    # points that share an element of a transformed filter, on average: it serves as many more products each time it is
    # read, so writing and reading the filters takes less of the time, and pays with as many times fewer tiles
    points_per_class = grid.points / grid.classes
    has_few_tiles = grid.tiles * grid.points * points_per_class <= max_shared_points()
    return has_few_tiles and FLOAT_BYTES * grid.classes * C * K > max_filter_bytes()


def row_of(channels: int) -> int:
    """Elements from the channels of one tile to those of the next in V.

    With many channels they are an odd number of vectors, so that the tiles do not fall into the same sets of the cache.
    """
    return (ceil_div(channels, lanes()) | 1) * lanes() if channels >= 8 * lanes() else channels


def transform_filters(U: Array, w: Array, *, grid: Grid, rotate: bool) -> None:
    """U[block, class, c, filter] = (G g G^T)[class] for filter block * columns + filter of w [K, C, 3, 3].

    The places after the last filter are 0.
    """
    _, _, C, columns = U.shape
    full, tail = divmod(w.shape[0], columns)
    transform = FilterTransform(grid, w, rotate)
    # a task is one channel of a block of filters
    for b, c in parallel(full, C):
        transform.store(U.at(b, 0, c, 0), b * columns, c, columns)
    if tail:
        for (c,) in parallel(C):
            transform.store(U.at(full, 0, c, 0), full * columns, c, tail)


@dataclass(frozen=True)
class FilterTransform:
    """The transform G g G^T of filters w [K, C, 3, 3]; rotate: of the filters rotated by 180 degrees."""

    grid: Grid
    w: Array
    rotate: bool

    def store(self, U: Array, k: Index, c: Index, valid: int) -> None:
        """U[0, class, 0, filter] for `valid` filters from k on and channel c; 0 for the other filters of the block."""
        columns = U.shape[3]
        # [C, 3, 3, K] from this channel and filter on
        filters = self.w.permuted(1, 2, 3, 0).at(c, 0, 0, k)
        # zeros, in whole vectors where they begin at one
        step = 1 if valid % lanes() else lanes()
        for start in range(valid, columns, step):
            for class_ in loop(U.shape[1]):
                U.store((0, class_, 0, start), 0.0, min(step, columns - start))
        for start, width in lane_ranges(valid, lanes()):
            self.store_vector(U, filters, start, width)

    def store_vector(self, U: Array, filters: Array, start: int, width: int) -> None:
        """U[0, class, 0, start ... start + width]: one vector, whose lanes are filters."""

        def tap(r: int, s: int) -> Value:
            index = (0, 2 - r, 2 - s, start) if self.rotate else (0, r, s, start)
            value: Value = expression.load(filters, index, width)
            return value

        for i, j, value in transform_2d(self.grid.vertical.G, self.grid.horizontal.G, tap):
            U.store((0, self.grid.order.class_[i, j], 0, start), value, width)


def winograd(
    *arrays: Array, grid: Grid, filters: int, cut: bool, epilogue: Epilogue, functions: tuple[Callable[..., None], ...]
) -> None:
    """y = A^T [sum_c (G g G^T) * (B^T d B)] A, threads share blocks of tiles.

    The last block may have fewer tiles. Its products are computed for all, and what is left over is not used.
    """
    bound = BoundEpilogue(epilogue, arrays, 6, far=True)
    # x [N, H, W, C], U [blocks, classes, C, columns]. The shape of one thread's copy, of which the first index selects
    # the thread: V [1, points, T, row], M [1, points, T, columns], half [1, rows x points, columns], zeros
    # [1, C]
    V, M, half, zeros, x, U = bound.operands
    transform_tiles, multiply_points = functions
    tile, T = tile_for(filters), V.extents[2]
    outputs = OutputTransform(bound, half, grid, tile, cut)
    sizes = TileTransform(grid, x.shape[3]).sizes(x, outputs.counts)
    tiles = x.extents[0] * math.prod(outputs.counts)
    clear_row(zeros)
    # a task is a block of tiles
    for (number,) in parallel(ceil_div(tiles, T)):
        first = number * T
        block = TileBlock(number, first, minimum(T, tiles - first))
        # the divisions of both loops, written before the one over blocks of filters
        rows_of_tiles(first, block.count, *outputs.counts)
        V_thread, M_thread = V.at(thread(), 0, 0, 0), M.at(thread(), 0, 0, 0)
        # the tiles of the block, one after the other: all channels
        transform_tiles(V_thread, x, zeros.row(thread()), first, block.count, 0, *sizes)
        # blocks of filters: V stays in the second-level cache, M is used up before the next ones
        for b, blocks, valid in filter_groups(filters, tile.lanes, M.shape[3]):
            outputs.prefetch(block, b * tile.lanes, blocks * valid)
            multiply_points(M_thread, V_thread, U.at(b, 0, 0, 0), T, blocks)
            outputs.store(M_thread, block, b, blocks, valid)


def transform_inputs(
    V: Array,
    zeros: Array,
    x: Array,
    *,
    grid: Grid,
    rows: Index,
    columns: Index,
    functions: tuple[Callable[..., None], ...],
) -> None:
    """V[part, point, t, c] = (B^T d B)[point] of every tile t and channel c of each part of x [N, H, W, C].

    V may also have one part, whose rows hold all channels.

    functions: for each part of the channels. rows, columns: those of the tiles of an image.
    """
    C = x.shape[3]
    clear_row(zeros)
    for (channels, count, first), transform_tiles in zip(channel_parts(C), functions, strict=True):
        sizes = TileTransform(grid, channels).sizes(x, (rows, columns))
        # a task is a part of the channels of a tile
        for t, i in parallel(V.extents[2], count):
            part = first + i
            c = part * CHANNEL_PART
            tiles = V.at(0, 0, t, c) if V.shape[0] == 1 else V.at(part, 0, t, 0)
            transform_tiles(tiles, x, zeros.row(thread()), t, 1, c, *sizes)


def winograd_by_filters(
    *arrays: Array,
    grid: Grid,
    filters: int,
    rotate: bool,
    cut: bool,
    epilogue: Epilogue,
    functions: tuple[Callable[..., None], ...],
) -> None:
    """As `winograd`, but threads share blocks of filters; V of all tiles is computed before.

    The filters of a block are transformed a part of the channels at a time and used at once, while they are in the
    second-level cache. M holds the sums over the parts so far. V, which may be too large for that cache, is read as one
    stream for each part: its tiles of one point and part are neighbours.
    """
    bound = BoundEpilogue(epilogue, arrays, 5, far=True)
    # V [parts, points, tiles, row] of all threads, w [K, C, 3, 3]. The shape of one thread's copy, of which the first
    # index selects the thread: U [1, classes, CHANNEL_PART, columns], M [1, points, tiles, columns], half [1, rows x
    # points, columns]
    U, M, half, V, w = bound.operands
    C, tile, tiles = w.shape[1], tile_for(filters), V.extents[2]
    parts = channel_parts(C)
    transform = FilterTransform(grid, w, rotate)
    outputs = OutputTransform(bound, half, grid, tile, cut)
    # a task is a block of filters
    for b, valid in parallel_filter_blocks(filters, tile.lanes):
        U_thread, M_thread = U.at(thread(), 0, 0, 0), M.at(thread(), 0, 0, 0)
        for point, t in loops(grid.points, tiles):
            for i, width in vectors(tile.lanes):
                M_thread.store((0, point, t, i), 0.0, width)
        # parts of the channels
        for (channels, count, first), multiply_points in zip(parts, functions, strict=True):
            for i in loop(count):
                part = first + i
                for j in loop(channels):
                    transform.store(U_thread.at(0, 0, j, 0), b * tile.lanes, part * CHANNEL_PART + j, valid)
                multiply_points(M_thread, V.at(part, 0, 0, 0), U_thread, tiles, 1)
        outputs.store(M_thread, TileBlock(0, 0, tiles), b, 1, valid)


def channel_parts(channels: int) -> list[tuple[int, int, int]]:
    """Parts of at most CHANNEL_PART channels: (size, how many of that size, the number of the first of them)."""
    count, rest = divmod(channels, CHANNEL_PART)
    parts = [(CHANNEL_PART, count, 0), (rest, 1, count)]
    return [part for part in parts if part[0] and part[1]]


def filter_groups(filters: int, columns: int, at_once: int) -> Iterator[tuple[Index, Index, int]]:
    """Loop over groups of blocks of filters: (first block, how many, valid filters in each).

    `at_once` filters at most are in a group. A last block of fewer than `columns` filters is a group of its own.
    """
    full, tail = divmod(filters, columns)
    size = at_once // columns
    for g in loop(ceil_div(full, size)):
        yield g * size, size if full % size == 0 else minimum(size, full - g * size), columns
    if tail:
        yield full, 1, tail


def parallel_filter_blocks(filters: int, columns: int) -> Iterator[tuple[Index, int]]:
    """`filter_blocks`, shared out among the threads."""
    full, tail = divmod(filters, columns)
    for (b,) in parallel(full):
        yield b, columns
    if tail:
        for _ in parallel(1):
            yield full, tail


def clear_row(zeros: Array) -> None:
    """Set this thread's row of an array [threads, n] to zero."""
    for c, width in vectors(zeros.shape[1]):
        zeros.store((thread(), c), 0.0, width)
