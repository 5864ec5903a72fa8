"""3x3 convolution with stride 1 or 2, and its gradient in x, by Winograd's minimal filtering, fused per block of tiles.

The algorithm and its matrices are in winograd_matrices.py (Lavin and Gray 2016). A block of tiles is transformed,
multiplied and transformed back while it stays in the second-level cache:

    V[pos, t, c] = (B^T d B)[pos]                     for the tiles t of the block and all channels c
    M[pos, t, k] = sum_c V[pos, t, c] U[pos, c, k]    for one block of filters k
    y            = A^T M A                            through the epilogue

where U[pos, c, k] = (G g G^T)[pos] are the transformed filters. The positions of a tile are numbered in the order of
winograd_transform.position_order; positions of one class have the same transformed filters, which U holds once.

The products are where the time goes: for each position a matrix product [T, C] x [C, K]. Peak of one core = FMA ports x
lanes x 2 operations = 2 x 8 x 2 = 32 a cycle on Zen 4, which executes a vector of 16 lanes in two halves: one such FMA
a cycle, and one load of such a vector or two loads of scalars. The inner loop adds one channel to a register tile of
`rows` tiles x `vectors` vectors of filters: rows x vectors FMAs for vectors + rows loads. With 32 registers the tile
is 12 x 2: 0.6 loads per FMA, so the multipliers set the pace; the 24 sums also cover the FMA's latency of 4 cycles.
While one position is computed its operands are in the first-level cache: C x columns numbers of U, 8 KiB for 64
channels, and T x C of V, 12 KiB for 48 tiles. V stays in the second-level cache for all blocks of filters; U streams
from the last-level cache, or from the second-level cache where it fits in beside V and M.

Measured on two cores of Zen 4 against a peak of 233 GFLOP/s, counted as direct convolution does: 615 to 705 GFLOP/s for
64 to 256 channels (`foveal bench ops 3x3`, docs/results.md).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.lang import (
    LINE,
    Array,
    Index,
    Scalar,
    Value,
    l2,
    lanes,
    llc,
    loop,
    minimum,
    otherwise,
    parallel,
    thread,
    var,
    vectors,
    when,
)
from foveal.ops.kernels import expression
from foveal.ops.kernels.conv.cost_model import Algorithm
from foveal.ops.kernels.conv.winograd_grid import Grid, near_equal
from foveal.ops.kernels.conv.winograd_input import Pixel, TileTransform, prefetch_pixels
from foveal.ops.kernels.conv.winograd_transform import transform_2d
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.packing import outputs_last
from foveal.ops.kernels.register_tile import Tile, lane_ranges, multiply_add, split, tile_for
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Tiles of a block at most: four register tiles of 12 rows with 32 registers, eight of 6 with 16. Every block reads all
# transformed filters once, so larger blocks read them more rarely; but V and M grow with the block, and leave less of
# the cache to the filters.
MAX_TILES = 48

# Blocks at least, where there are as many tiles: several for each thread, so that threads end at nearly the same time.
MIN_TASKS = 8

# Channels per iteration of the inner loop. That hides the loop's own instructions; more only lengthens compilation.
UNROLL = 4

# Tiles between the one that is stored and the one whose epilogue operands are prefetched. Closer, the lines arrive too
# late; further, more lines wait in the cache.
AHEAD = 2

# Channels whose filters are transformed at once where threads share filters: with 36 classes and 32 filters 288 KiB,
# little more than a quarter of a second-level cache of 1 MiB.
CHANNEL_PART = 64

# Outputs of a tile that pass the epilogue together: all of a 4 x 4 tile. Tiles of the transposed scheme have up to 64,
# and values of all of those at a time would not fit into the registers.
GROUP = 16

# Elements between positions in V and M beyond their own, one cache line: without them the rows of all positions of a
# tile would be a power of two apart and fall into the same sets of the cache.
PAD = LINE


def max_block_bytes() -> int:
    """Bytes of the transformed inputs V of a block at most: half of the second-level cache, which M and U share."""
    return l2() // 2


def max_shared_positions() -> int:
    """Positions of all tiles up to which threads may share filters: with 32 filters M is 9/8 of the second-level cache.

    More tiles would push M out of it between the parts of the channels, which all add to M.
    """
    return l2() * 9 // 8 // (4 * 32)


def max_filter_bytes() -> int:
    """Bytes of transformed filters that the last-level cache holds beside what else is in use: 3/8 of it."""
    return llc() * 3 // 8


def lower(
    lowering: Lowering, y: EpilogueOutputs, x: View, w: View, grid: Grid, algorithm: Algorithm, rotate: bool
) -> None:
    """y [N, K, P, Q] = correlation of x [N, C, H, W] with w [K, C, 3, 3], tiled by the grid.

    rotate: the filters are rotated by 180 degrees, as the gradient in x needs them.
    """
    _, K, P, Q = y.shape
    C, tile = x.shape[1], tile_for(K)
    # a tile at the edge, before its valid outputs are stored, and a row of zeros in place of padding
    edge = lowering.scratch((1, grid.outputs, lanes()), per_thread=True)
    zeros = lowering.scratch((1, C), per_thread=True)
    x, blocks = x.permuted(0, 2, 3, 1), -(-K // tile.columns)
    w = outputs_last(lowering, w)
    over_filters = few_tiles(grid, C, K) if algorithm.parallel_over is None else algorithm.parallel_over == "filters"
    if over_filters:
        V = lowering.scratch((1, grid.positions, grid.tiles * row_of(C) + PAD))
        lowering.call(transform_inputs, [V, zeros], [x], grid=grid)
        U = lowering.scratch((1, grid.classes, min(C, CHANNEL_PART), tile.columns), per_thread=True)
        M = lowering.scratch((1, grid.positions, grid.tiles * tile.columns + PAD), per_thread=True)
        y.call(lowering, winograd_by_filters, 1, [U, M, edge], [V, w], rotate=rotate, grid=grid, size=(P, Q), filters=K)
        return
    U = lowering.scratch((blocks, grid.classes, C, tile.columns))
    lowering.call(transform_filters, [U], [w], grid=grid, rotate=rotate)
    T = block_size(grid, C, tile, algorithm)
    V = lowering.scratch((1, grid.positions, T * row_of(C) + PAD), per_thread=True)
    M = lowering.scratch((1, grid.positions, T * tile.columns + PAD), per_thread=True)
    tasks = -(-grid.tiles // T)
    y.call(lowering, winograd, tasks, [V, M, edge, zeros], [x, U], T=T, grid=grid, size=(P, Q), filters=K)


def block_size(grid: Grid, C: int, tile: Tile, algorithm: Algorithm) -> int:
    """Tiles of a block: what the algorithm says, else as many as the cache holds, but enough blocks for all threads."""
    fitting = max(tile.rows, max_block_bytes() // (4 * grid.positions * C))
    max_tiles = algorithm.tile_block or min(MAX_TILES, fitting)
    return near_equal(grid.tiles, min(max_tiles, -(-grid.tiles // MIN_TASKS)))


def few_tiles(grid: Grid, C: int, K: int) -> bool:
    """True if threads should share blocks of filters, each with all tiles, instead of blocks of tiles.

    Then each thread transforms its filters just before it uses them. Transformed they are 4 times as large, and where
    they do not fit into the last-level cache, writing them and reading them again takes longer than the products.
    """
    # positions that read the same transformed filters, one after the other
    repeats = grid.positions / grid.classes
    few = grid.tiles * grid.positions * repeats <= max_shared_positions()
    return few and 4 * grid.classes * C * K > max_filter_bytes()


def row_of(channels: int) -> int:
    """Elements from one tile's row of V to the next: an odd number of vectors, against conflicts in the cache."""
    return (-(-channels // lanes()) | 1) * lanes() if channels >= 8 * lanes() else channels


def transform_filters(U: Array, w: Array, *, grid: Grid, rotate: bool) -> None:
    """U[block, class, c, lane] = (G g G^T)[class] for filter number block * columns + lane of w [K, C, 3, 3].

    The lanes after the last filter are 0.
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
        """U[0, class, 0, lane] for `valid` filters from k on and channel c; 0 in the other lanes."""
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
        """U[0, class, 0, start ... start + width]: lanes run over filters."""

        def tap(r: int, s: int) -> Value:
            index = (0, 2 - r, 2 - s, start) if self.rotate else (0, r, s, start)
            value: Value = expression.load(filters, index, width)
            return value

        for i, j, value in transform_2d(self.grid.vertical.G, self.grid.horizontal.G, tap):
            U.store((0, self.grid.order.class_[i, j], 0, start), value, width)


@dataclass(frozen=True)
class TileBlock:
    """The tiles that a task works on."""

    # number of the task, for partial sums of the epilogue
    task: Index
    # number of the first tile
    first: Index
    # how many tiles there are
    count: Index


def winograd(*arrays: Array, grid: Grid, T: int, size: Pair, filters: int, epilogue: Epilogue) -> None:
    """y = A^T [sum_c (G g G^T) * (B^T d B)] A, threads share blocks of T tiles.

    The last block may have fewer tiles. Its products are computed for T, and what is left over is not used.
    """
    bound = BoundEpilogue(epilogue, arrays, 6)
    # per thread V [1, positions, T row + PAD], M [1, positions, T columns + PAD], edge, zeros; x [N, H, W, C],
    # U [blocks, classes, C, columns]
    V, M, edge, zeros, x, U = bound.operands
    C, tile = x.shape[3], tile_for(filters)
    products = PositionProducts(grid, T, C, row_of(C), tile)
    inputs, outputs = TileTransform.of_inputs(grid, x, zeros), OutputTransform(bound, edge, grid, size, tile)
    clear_row(zeros)
    # a task is a block of tiles
    for (number,) in parallel(-(-grid.tiles // T)):
        first = number * T
        block = TileBlock(number, first, T if grid.tiles % T == 0 else minimum(T, grid.tiles - first))
        # the tiles of the block, one after the other: all channels
        for t in loop(block.count):
            V_tile = V.at(thread(), 0, t * row_of(C))
            inputs.store(V_tile, grid.first_input(first + t), 0, C)
        # the blocks of filters: V stays in the second-level cache, M is used up before the next block
        for b, valid in filter_blocks(filters, tile.columns):
            outputs.prefetch(block, b * tile.columns, valid)
            U_block, V_thread, M_thread = U.at(b, 0, 0, 0), V.at(thread(), 0, 0), M.at(thread(), 0, 0)
            products.store(M_thread, V_thread, U_block)
            outputs.store(M_thread, block, b, valid)


def transform_inputs(V: Array, zeros: Array, x: Array, *, grid: Grid) -> None:
    """V[0, pos, t row + c] = (B^T d B)[pos] of every tile t and channel c of x [N, H, W, C]."""
    C, row = x.shape[3], row_of(x.shape[3])
    inputs = TileTransform.of_inputs(grid, x, zeros)
    clear_row(zeros)
    for channels, count, start in channel_parts(C):
        # a task is a part of the channels of a tile
        for t, part in parallel(grid.tiles, count):
            c = part * channels + start
            pixel = grid.first_input(t)
            inputs.store(V.at(0, 0, t * row + c), pixel, c, channels)


def winograd_by_filters(*arrays: Array, grid: Grid, size: Pair, filters: int, rotate: bool, epilogue: Epilogue) -> None:
    """The same, threads share blocks of filters, each for all tiles, whose inputs are transformed already.

    The filters of a block are transformed a part of the channels at a time and used at once, while they are in the
    second-level cache. M holds the sums over the parts so far.
    """
    bound = BoundEpilogue(epilogue, arrays, 5)
    # per thread U [1, classes, CHANNEL_PART, columns], M [1, positions, tiles columns + PAD], edge;
    # V [1, positions, tiles row + PAD], w [K, C, 3, 3]
    U, M, edge, V, w = bound.operands
    C, tile = w.shape[1], tile_for(filters)
    transform, outputs = FilterTransform(grid, w, rotate), OutputTransform(bound, edge, grid, size, tile)
    # a task is a block of filters
    for b, valid in parallel_filter_blocks(filters, tile.columns):
        U_thread, M_thread = U.at(thread(), 0, 0, 0), M.at(thread(), 0, 0)
        for pos in loop(grid.positions):
            for i, width in vectors(grid.tiles * tile.columns):
                M_thread.store((0, pos, i), 0.0, width)
        # parts of the channels
        for channels, count, start in channel_parts(C):
            products = PositionProducts(grid, grid.tiles, channels, row_of(C), tile, add=True)
            for i in loop(count):
                c = i * channels + start
                for j in loop(channels):
                    transform.store(U_thread.at(0, 0, j, 0), b * tile.columns, c + j, valid)
                products.store(M_thread, V.at(0, 0, c), U_thread)
        outputs.store(M_thread, TileBlock(0, 0, grid.tiles), b, valid)


def channel_parts(channels: int) -> list[tuple[int, int, int]]:
    """Parts of at most CHANNEL_PART channels: (size, how many of that size, where they begin)."""
    count, rest = divmod(channels, CHANNEL_PART)
    parts = [(CHANNEL_PART, count, 0), (rest, 1, channels - rest)]
    return [part for part in parts if part[0] and part[1]]


def filter_blocks(filters: int, columns: int) -> Iterator[tuple[Index, int]]:
    """Loop over the blocks of `columns` filters: (block, valid filters in it)."""
    full, tail = divmod(filters, columns)
    for b in loop(full):
        yield b, columns
    if tail:
        yield full, tail


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


@dataclass(frozen=True)
class PositionProducts:
    """The products of a block of tiles with a block of filters, one matrix product per position of a tile."""

    grid: Grid
    # tiles of the block
    tiles: int
    # channels to sum over
    channels: int
    # elements from one tile to the next in V
    row: int
    # the register tile: tiles x filters
    tile: Tile
    # whether to add to what is in M
    add: bool = False

    def store(self, M: Array, V: Array, U: Array) -> None:
        """M[0, pos, t columns + k] = (or +=) sum_c V[0, pos, t row + c] U[0, class of pos, c, k].

        For all positions, all tiles t of the block and one block of filters k.
        """
        for classes in self.grid.order.ranges:
            for n in loop(classes.classes):
                # [C, columns] of this class: about 8 KiB for 64 channels, in the first-level cache from here on
                u = U.at(0, n + classes.first, 0, 0)
                # the positions of the class
                for copy in loop(classes.copies):
                    pos, first = n * classes.copies + copy + classes.start, 0
                    # near-equal register tiles over the tiles of the block
                    for rows, count in split(self.tiles, self.tile.rows):
                        for i in loop(count):
                            t = i * rows + first
                            M_tile, v = M.at(0, pos, t * self.tile.columns), V.at(0, pos, t * self.row)
                            self.store_register_tile(M_tile, v, u, rows)
                        first += rows * count

    def store_register_tile(self, M: Array, v: Array, u: Array, rows: int) -> None:
        """The same for `rows` tiles and one position, from the origins of the arrays on, in registers."""
        tile = self.tile
        starts, step = lane_ranges(tile.columns, tile.width), min(UNROLL, self.channels)
        # where each accumulator, (row, vector), lies in M
        places = {(i, s): i * tile.columns + start for i in range(rows) for s, (start, _) in enumerate(starts)}
        acc = {
            key: var(M.load((0, 0, place), tile.width) if self.add else 0.0, tile.width)
            for key, place in places.items()
        }

        def add_channel(c: Index) -> None:
            """One vector of u per vector of the tile, one scalar of v per row."""
            weights = [u.load((0, 0, c, start), tile.width) for start, _ in starts]
            multiply_add(acc, (v[0, 0, i * self.row + c] for i in range(rows)), weights)

        for c in loop(self.channels // step):
            for e in range(step):
                add_channel(c * step + e)
        for c in range(self.channels - self.channels % step, self.channels):
            add_channel(c)
        for key, place in places.items():
            M.store((0, 0, place), acc[key], tile.width)


@dataclass(frozen=True)
class OutputTransform:
    """The transform back, A^T M A, whose results pass the epilogue."""

    bound: BoundEpilogue
    # [threads, outputs of a tile, lanes]: where a tile at the edge waits, of which some outputs are not stored
    edge: Array
    grid: Grid
    # (P, Q)
    size: Pair
    # the register tile, whose columns are the filters of a block
    tile: Tile

    def store(self, M: Array, block: TileBlock, b: Index, valid: int) -> None:
        """Store the outputs of a block of tiles for the `valid` filters of filter block b."""
        # vectors of filters
        for start, width in lane_ranges(valid, self.tile.width):
            k = b * self.tile.columns + start
            if self.bound.epilogue.rows:
                self.bound.zero_sums(block.task, k, width)
            # tiles
            for t in loop(block.count):
                M_tile = M.at(0, 0, t * self.tile.columns + start)
                self.bound.prefetch(self.grid.output_pixels(block.first + t + AHEAD), k, width)
                self.store_tile(M_tile, block.task, self.grid.first_output(block.first + t), k, width)

    def store_tile(self, M: Array, task: Index, pixel: Pixel, k: Index, width: int) -> None:
        """Store the outputs of one tile, which begins at `pixel`, for `width` filters from k on.

        A tile that reaches over the edge is written into a buffer first; then the outputs that are inside are stored
        one by one.
        """
        (n, p, q), (rows, columns) = pixel, (self.grid.vertical.outputs, self.grid.horizontal.outputs)
        whole = self.is_whole(p, q)

        def product(i: int, j: int) -> Value:
            return M.load((0, self.grid.order.position[i, j], 0), width)

        def results() -> Iterator[tuple[int, int, Value]]:
            return transform_2d(self.grid.vertical.AT, self.grid.horizontal.AT, product)

        for _ in when(whole):
            values = results()
            # as many outputs at a time as registers hold
            while group := list(itertools.islice(values, GROUP)):
                pixels = [(n, p + i, q + j) for i, j, _ in group]
                self.bound.store(task, pixels, [value for *_, value in group], k, width)
        for _ in otherwise(whole):
            for i, j, value in results():
                self.edge.store((thread(), i * columns + j, 0), value, width)
            for y in loop(minimum(rows, self.size[0] - p)):
                for x in loop(minimum(columns, self.size[1] - q)):
                    value = self.edge.load((thread(), y * columns + x, 0), width)
                    self.bound.store(task, [(n, p + y, q + x)], [value], k, width)

    def is_whole(self, p: Index, q: Index) -> Scalar:
        """True if all outputs of the tile that begins at (p, q) exist; known here where tiles divide the axis."""
        tile = (self.grid.vertical.outputs, self.grid.horizontal.outputs)
        tests = [at + m <= n for at, n, m in zip((p, q), self.size, tile, strict=True) if n % m]
        return tests[0] & tests[1] if len(tests) == 2 else tests[0] if tests else True

    def prefetch(self, block: TileBlock, k: Index, valid: int) -> None:
        """Fetch the lines where the results of a block go, so that they are in the cache when its products are done.

        Outputs that are written past the cache are left out, and small ones, which are in the cache.
        """
        grid = self.grid
        for image in (y for y in self.bound.outputs if not y.streamed):
            for t in loop(block.count if exceeds_l2(image) else 0):
                first = image.at(*grid.first_output(block.first + t), k)
                prefetch_pixels(first, grid.vertical.outputs, grid.horizontal.outputs, valid)
