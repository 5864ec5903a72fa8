"""The gradient of 3x3 filters by minimal filtering: dw = A_w^T [sum over tiles of (G_w dy G_w^T) * (B^T d B)] A_w.

The algorithm is in winograd_matrices.py. A task owns a block of channels, a block of filters and a chunk of the tiles.
It keeps the transformed sums

    D[class, c, k] = sum over tiles t and points of the class of V[point, t, c] M[point, t, k]

(V: transformed inputs, M: transformed dy) in the second-level cache until its last tile; only 3 x 3 sums leave it.
Those of the chunks are added in order.

How the products come near the peak of ports x lanes x 2 operations per cycle (register_tile.py derives the peak and the
size of the tile); for each point they are a matrix product [channels, T] x [T, filters] over the T tiles of a block:

    registers       the sums of 12 channels x 32 filters on AVX-512 (6 x 16 on AVX2). A step of the inner loop, one
                    tile, loads two vectors of M and broadcasts one number of V for each channel, for 24 (12) FMAs:
                    0.58 (0.67) loads per FMA, so the FMAs and not the loads set the pace.
    second level    D, 576 KiB, and V and M of a block of tiles, 432 KiB (with 64 channels, 64 filters and 36 points).
                    The sums are loaded from D and stored again once per block, so a block has to be long enough to
                    hide that.

Measured on two cores of Zen 4 against a peak of 233 GFLOP/s, counting direct convolution's multiplications: 500
GFLOP/s for 64 and 128 channels (`foveal bench ops 3x3`, rows dw, docs/results.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Array, Index, Value, l2, loop, minimum, parallel, splat, thread, var, vectors
from foveal.ops.kernels.conv.cost_model import Algorithm, channel_block
from foveal.ops.kernels.conv.winograd import PAD, clear_row, tile_rows
from foveal.ops.kernels.conv.winograd_grid import Grid
from foveal.ops.kernels.conv.winograd_input import TileTransform
from foveal.ops.kernels.conv.winograd_transform import ClassRange, transform_2d
from foveal.ops.kernels.partial_sums import lower_sums
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, FLOAT_BYTES, ceil_div, lane_ranges, panels, split, tile_for
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View

# Tiles of a block with 36 points; with more points fewer, so that V and M keep their size: 2 x 36 x 24 x 64 elements,
# 432 KiB, beside 576 KiB of sums. A longer block loads and stores the sums less often, a shorter one leaves more of the
# cache to them. Where channels are so few that both fit, a block has up to twice as many.
BLOCK_TILES = 24
BLOCK_POINTS = 36


@dataclass(frozen=True)
class TileDivision:
    """The sizes of a task's parts."""

    #: tiles of a block
    block: int
    #: channels and filters of a task
    channels: int
    filters: int


def lower(lowering: Lowering, dw: View, dy: View, x: View, grid: Grid, algorithm: Algorithm) -> None:
    """dw [K, C, 3, 3] = correlation of x [N, C, H, W] with dy [N, K, P, Q], whose tiles the grid counts."""
    K, C = dw.shape[:2]
    channels, filters = channel_block(C), channel_block(K)
    # else threads share tiles (winograd_weight_grad_shared.py)
    assert channels is not None
    assert filters is not None
    # tasks per chunk: pairs of a block of channels and a block of filters
    pairs = (C // channels) * (K // filters)
    # as few chunks as give enough tasks, for each has sums of its own that are added up; at least a block of tiles each
    wanted = ceil_div(ENOUGH_TASKS, pairs)
    block = algorithm.tile_block or block_tiles(grid, channels, filters, wanted)
    chunks = max(1, min(wanted, grid.tiles // block))
    # one copy per thread; in the kernel the first index selects the thread
    V, M = (tile_rows(lowering, grid.points, block, block, n) for n in (channels, filters))
    D = lowering.scratch((1, grid.classes, channels * filters + PAD), per_thread=True)
    zeros = lowering.scratch((1, max(C, K)), per_thread=True)
    result = dw.permuted(2, 3, 1, 0)
    partial = lowering.scratch((chunks, 3, 3, C, K))
    dy, x = dy.permuted(0, 2, 3, 1), x.permuted(0, 2, 3, 1)
    functions = [
        TileTransform(grid, channels).function(V, x),
        TileTransform(grid, filters, of_gradients=True).function(M, dy),
        TransformedSums(grid.order.ranges, channels, filters).function(D, V, M),
    ]
    scratch, sizes = [V, M, D, zeros], CallSizes()
    specs = [
        # nothing is written past the cache
        ArraySpec((sizes.of(chunks, "chunks"), *partial.shape[1:]), partial.strides),
        *(view.spec for view in scratch),
        sizes.images(dy, "gradients"),
        sizes.images(x, "inputs"),
    ]
    static: dict[str, Any] = {
        "grid": grid.of_one_tile,
        "division": TileDivision(block, channels, filters),
        "functions": functions,
    }
    lowering.call(winograd_weight_grad, [partial, *scratch], [dy, x], specs=specs, sizes=sizes.values, **static)
    lower_sums(lowering, result.reshaped((9 * C * K,)), partial)


def block_tiles(grid: Grid, channels: int, filters: int, chunks: int) -> int:
    """Tiles of a block: one of two numbers, so that other batches share code.

    chunks: how many the tiles should be cut into.
    """
    few = min(BLOCK_TILES, BLOCK_TILES * BLOCK_POINTS // grid.points)
    # V, M and D in three eighths of the second-level cache, of which some of its class have but half (target.py)
    elements = l2() * 3 // 8 // FLOAT_BYTES - grid.classes * channels * filters
    many = max(few, min(2 * few, elements // (grid.points * (channels + filters))))
    return many if grid.tiles >= chunks * many else few


def winograd_weight_grad(
    partial: Array,
    V: Array,
    M: Array,
    D: Array,
    zeros: Array,
    dy: Array,
    x: Array,
    *,
    grid: Grid,
    division: TileDivision,
    functions: tuple[Callable[..., None], ...],
) -> None:
    """partial[chunk, r, s, c, k] = the gradient from a chunk of the tiles.

    partial: [chunks, 3, 3, C, K]; dy: [N, P, Q, K]; x: [N, H, W, C]. Per thread, of which the
    first index selects one: V [1, points, block, channels], M [1, points, block, filters], D [1, classes,
    channels filters + PAD], zeros [1, the larger of C and K].
    """
    chunks, _, _, C, K = partial.extents
    N, P, Q, _ = dy.extents
    block, channels, filters = division.block, division.channels, division.filters
    transform_inputs, transform_gradients, add_block = functions
    rows, columns = counts = grid.counts((P, Q))
    input_sizes = TileTransform(grid, channels).sizes(x, counts)
    gradient_sizes = TileTransform(grid, filters, of_gradients=True).sizes(dy, counts)
    tiles = N * rows * columns
    clear_row(zeros)
    # a task is a chunk of the tiles, a block of channels and a block of filters
    for chunk, c_block, k_block in parallel(chunks, C // channels, K // filters):
        c, k = c_block * channels, k_block * filters
        start, end = chunk * tiles // chunks, (chunk + 1) * tiles // chunks
        for class_ in loop(D.shape[1]):
            for i, width in vectors(channels * filters):
                D.store((thread(), class_, i), 0.0, width)
        # blocks of the chunk's tiles, the last of which may be shorter
        for first in loop(end, start=start, step=block):
            count = minimum(block, end - first)
            # the tiles of the block: V and M are written into the second-level cache
            V_thread, M_thread, padding = V.at(thread(), 0, 0, 0), M.at(thread(), 0, 0, 0), zeros.row(thread())
            transform_inputs(V_thread, x, padding, first, count, c, *input_sizes)
            transform_gradients(M_thread, dy, padding, first, count, k, *gradient_sizes)
            add_block(D.at(thread(), 0, 0), V_thread, M_thread, count)
        store_gradient(partial.at(chunk, 0, 0, c, k), D.at(thread(), 0, 0), grid, division)


@dataclass(frozen=True)
class TransformedSums:
    """The transformed sums D of a task, to which a function that kernels of the same shapes share adds its tiles."""

    #: the classes of the points
    classes: tuple[ClassRange, ...]
    #: channels and filters of the task
    channels: int
    filters: int

    def function(self, D: View, V: View, M: View) -> Kernel:
        """`add_block` for arrays with these strides."""
        specs = tuple(ArraySpec(view.shape, view.strides) for view in (D, V, M))
        return Kernel(add_block, specs, (("sums", self),), indices=1)

    def add_block(self, D: Array, V: Array, M: Array, count: Index) -> None:
        """D[class, c, k] += sum over `count` tiles t and the points of the class of V[point, t, c] M[point, t, k]."""
        for classes in self.classes:
            for n in loop(classes.classes):
                for block in self.filter_blocks():
                    self.add_filters(D, V, M, count, (classes, n), block)

    def filter_blocks(self) -> Iterator[tuple[Index, int]]:
        """Loop over the blocks of filters, as wide as a register tile: (first filter, how many)."""
        columns = tile_for(self.filters).lanes
        for b, valid in panels(self.filters, columns):
            yield b * columns, valid

    def place(self, c: Index, block: tuple[Index, int]) -> Index:
        """Where the sums of channel c for a block of filters begin among those of a class.

        The sums of a block stand together, a row for each channel, so that a class is one stream in memory: where they
        do not stay in the second-level cache, they are fetched ahead.
        """
        first, valid = block
        return first * self.channels + c * valid

    def add_filters(
        self, D: Array, V: Array, M: Array, count: Index, class_: tuple[ClassRange, Index], block: tuple[Index, int]
    ) -> None:
        """`add_block` for one class, the n-th of class_ = (range, n), and for block = (first filter, how many)."""
        (classes, n), (k, valid) = class_, block
        tile = tile_for(self.filters)
        starts, first = lane_ranges(valid, tile.width), 0
        # near-equal register tiles over the channels
        for rows, times in split(self.channels, tile.rows):
            for i in loop(times):
                c = i * rows + first
                sums = D.at(0, n + classes.first, self.place(c, block))
                point = n * classes.copies + classes.start
                left, right = V.at(0, point, 0, c), M.at(0, point, 0, k)
                self.add_register_tile(sums, left, right, (classes.copies, count), rows, starts)
            first += rows * times

    def add_register_tile(
        self, D: Array, V: Array, M: Array, steps: tuple[int, Index], rows: int, starts: list[tuple[int, int]]
    ) -> None:
        """One register tile of `add_block`: `rows` channels x the vectors of filters `starts`, (first filter, lanes).

        D, V and M begin at its first channel and filter, V and M at the first point of the class. steps: numbers of
        points and of tiles that are summed over.
        """
        by_channel = starts[-1][0] + starts[-1][1]
        acc = {
            (i, s): var(D.load((0, 0, i * by_channel + start), width), width)
            for i in range(rows)
            for s, (start, width) in enumerate(starts)
        }
        # points of the class, then tiles of the block
        for point in loop(steps[0]):
            for t in loop(steps[1]):
                gradients = [M.load((0, point, t, start), width) for start, width in starts]
                for i in range(rows):
                    x = V[0, point, t, i]
                    for s, gradient in enumerate(gradients):
                        acc[i, s].fma(splat(x, starts[s][1]), gradient)
        for (i, s), total in acc.items():
            start, width = starts[s]
            D.store((0, 0, i * by_channel + start), total, width)


def add_block(D: Array, V: Array, M: Array, count: Index, *, sums: TransformedSums) -> None:
    """`TransformedSums.add_block` as a function."""
    sums.add_block(D, V, M, count)


def store_gradient(dw: Array, D: Array, grid: Grid, division: TileDivision) -> None:
    """dw[0, r, s, c, k] = (A_w^T D A_w)[r, s] for the task's channels and filters."""
    vertical, horizontal, numbers = grid.vertical.AW, grid.horizontal.AW, grid.order.class_

    def store_vector(c: Index, k: Index, sums: Array, width: int) -> None:
        def element(i: int, j: int) -> Value:
            return sums.load((0, numbers[i, j], 0), width)

        for r, s, value in transform_2d(vertical, horizontal, element):
            dw.store((0, r, s, c, k), value, width)

    layout = TransformedSums(grid.order.ranges, division.channels, division.filters)
    for first, valid in layout.filter_blocks():
        for c in loop(division.channels):
            for start, width in vectors(valid):
                sums = D.at(0, 0, layout.place(c, (first, valid)) + start)
                store_vector(c, first + start, sums, width)
