"""The gradient of 3x3 filters by minimal filtering where threads share the transformed tiles: each is computed once.

winograd_weight_grad.py transforms the tiles of x again for each block of filters, and those of dy for each block of
channels. Here a chunk of the tiles is transformed for all, and lies in the last-level cache:

    V[point, t, c]    transformed inputs of the chunk's tiles t
    M[point, t, k]    transformed dy

Then threads share out the sums D[class, c, k] += sum over tiles t and points of the class of V[point, t, c] M[point, t,
k], and after the last chunk D is transformed back. A sum belongs to one task, so no sums of threads are to be added up.
Where all tiles are one chunk and channels are many, a task has all classes of a block of channels and filters, and
transforms its sums back itself, before they leave the second-level cache: D of 512 channels and filters has 36 MiB.

How the products come near the peak of ports x lanes x 2 operations per cycle (register_tile.py derives the peak and the
size of the tile), with 16 registers:

    registers       the sums of 6 or 5 channels x 16 filters over RUN tiles. A step of the inner loop, one tile, loads
                    two vectors of M and broadcasts one number of V for each channel, for 12 or 10 FMAs.
    first level     V and M of a point, of RUN tiles each and 16 channels or filters (a panel): 6 KiB each. Panels are
                    contiguous, so that their rows fall into different sets of the cache.
    second level    V and M of a point, of RUN tiles and BLOCK channels or filters: 24 KiB each, and the sums of these
    last level      V and M of all points and tiles of the chunk. A task reads 2 bytes of them per cycle.

The sums of RUN tiles are added up in registers, and those of runs in D, so that roundings add up over few additions.

Measured on two cores of Zen 3 against a peak of 203 GFLOP/s, counting direct convolution's multiplications: 340 to 390
GFLOP/s for 128 and 256 channels (`foveal bench ops 3x3`, rows dw, docs/results.md).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Array, Index, Value, llc, loop, loops, minimum, parallel, thread, vectors, when
from foveal.ops.kernels.conv.cost_model import Algorithm, in_blocks, shares_tiles
from foveal.ops.kernels.conv.winograd import PAD, clear_row, rounded_up, spec_of_tiles, tile_rows
from foveal.ops.kernels.conv.winograd_grid import Grid, near_equal
from foveal.ops.kernels.conv.winograd_input import TileTransform
from foveal.ops.kernels.conv.winograd_transform import ClassRange, transform_2d
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    accumulators,
    ceil_div,
    lane_ranges,
    multiply_add,
    runs,
    tile_for,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View

# Channels of a panel: a cache line of V holds those of one tile.
CHANNEL_PANEL = 16

# Tiles whose products are summed up in registers: enough to hide that the sums are loaded from D and stored again, and
# few enough for a panel of V and one of M to stay in the first-level cache. Of joined tiles all points of a class are
# summed up at once, so there are as many times fewer.
RUN = 96

# Channels, and filters, of a task that has one class. One that has all classes has BLOCK channels and FILTERS filters:
# its sums, with 36 classes 144 KiB, stay in the second-level cache until they are transformed back.
BLOCK = 64
FILTERS = 16

# Tiles that a task transforms, so that finding the first one costs little.
TASK_TILES = 8


def max_chunk_bytes() -> int:
    """Bytes of V and M of a chunk: a quarter of the last-level cache, beside D and what other cores have there."""
    return llc() // 4


def fits(C: int, K: int, algorithm: Algorithm) -> bool:
    """True if this kernel computes a weight gradient of C channels and K filters.

    Blocks of tiles that were measured to be better belong to tasks that transform their tiles themselves.
    """
    return shares_tiles(C, K) and (algorithm.tile_block is None or not in_blocks(C, K))


@dataclass(frozen=True)
class Part:
    """Neighbouring panels of equally many channels (or filters)."""

    #: number of the first panel, and how many there are
    first: int
    panels: int
    #: channels of each
    size: int
    #: panels that a task takes
    at_once: int

    @property
    def blocks(self) -> int:
        """Tasks that share them."""
        return ceil_div(self.panels, self.at_once)

    def block(self, number: Index) -> tuple[Index, Index]:
        """(first panel, how many) of a task."""
        first = number * self.at_once
        return first + self.first, minimum(self.at_once, self.panels - first)


def parts(n: int, panel: int, block: int) -> tuple[Part, ...]:
    """The panels of n channels, those that are full and the last one, in blocks of so many channels."""
    full, tail = divmod(n, panel)
    found = [Part(0, full, panel, max(1, block // panel)), Part(full, 1, tail, 1)]
    return tuple(part for part in found if part.panels and part.size)


@dataclass(frozen=True)
class PanelDivision:
    """The panels of all channels and filters, and the tasks that take them."""

    channels: tuple[Part, ...]
    filters: tuple[Part, ...]

    @property
    def pairs(self) -> list[tuple[Part, Part]]:
        """Each part of the channels with each part of the filters."""
        return list(itertools.product(self.channels, self.filters))

    @property
    def tasks(self) -> int:
        """Blocks of channels and filters."""
        return sum(channels.blocks * filters.blocks for channels, filters in self.pairs)


def division_of(C: int, K: int, filters: int = BLOCK) -> PanelDivision:
    """Blocks of BLOCK channels and of so many filters."""
    return PanelDivision(parts(C, CHANNEL_PANEL, BLOCK), parts(K, tile_for(K).lanes, filters))


def lower(lowering: Lowering, dw: View, dy: View, x: View, grid: Grid) -> None:
    """dw [K, C, 3, 3] = correlation of x [N, C, H, W] with dy [N, K, P, Q], whose tiles the grid counts."""
    (K, C), lanes = dw.shape[:2], tile_for(dw.shape[0]).lanes
    dy, x, result = dy.permuted(0, 2, 3, 1), x.permuted(0, 2, 3, 1), dw.permuted(2, 3, 1, 0)
    T = near_equal(grid.tiles, max_tiles(grid, C, K))
    # of all panels, shared by all threads
    V, M = (
        tile_rows(lowering, grid.points, T, rounded_up(T), panel, parts=ceil_div(n, panel), per_thread=False)
        for n, panel in ((C, CHANNEL_PANEL), (K, lanes))
    )
    whole = division_of(C, K, FILTERS)
    if grid.tiles == T and whole.tasks >= ENOUGH_TASKS:
        lower_tiles(lowering, V, M, x, dy, grid, 0, T)
        lower_gradient(lowering, result, V, M, grid, whole)
        return
    division, panels = division_of(C, K), ceil_div(K, lanes)
    D = sums_memory(lowering, grid, panels, C * lanes)
    functions = [PanelSums(c.size, k.size, *run_of(grid)).function(D, V, M) for c, k in division.pairs]
    for first in range(0, grid.tiles, T):
        count, sizes = min(T, grid.tiles - first), CallSizes()
        lower_tiles(lowering, V, M, x, dy, grid, first, count)
        specs = [ArraySpec(D.shape, D.strides), *(spec_of_tiles(sizes, view) for view in (V, M))]
        static: dict[str, Any] = {
            "classes": grid.order.ranges,
            "division": division,
            "functions": functions,
            "count": sizes.of(count, "count"),
            "is_first": sizes.of(int(first == 0), "is first"),
        }
        lowering.call(add_products, [D], [V, M], specs=specs, sizes=sizes.values, **static)
    specs = [ArraySpec(view.shape, view.strides) for view in (result, D)]
    lowering.call(store_gradient, [result], [D], specs=specs, grid=grid.of_one_tile, filters=division.filters)


def max_tiles(grid: Grid, C: int, K: int) -> int:
    """Tiles of a chunk at most: whole runs, as many as fit into `max_chunk_bytes`, but one."""
    run, _ = run_of(grid)
    return max(1, max_chunk_bytes() // (FLOAT_BYTES * grid.points * (C + K) * run)) * run


def run_of(grid: Grid) -> tuple[int, bool]:
    """How many tiles are summed up in registers, and whether of all points of a class at once.

    With stride 2 a class has up to 16 points, of which a run would have too few tiles where a class has one.
    """
    if grid.vertical.step != grid.vertical.outputs:
        return RUN, False
    return max(1, RUN // max(part.copies for part in grid.order.ranges)), True


def sums_memory(lowering: Lowering, grid: Grid, panels: int, row: int, per_thread: bool = False) -> View:
    """Scratch memory for D [1, classes, panels, row]: a row has the sums of all channels with a panel of filters."""
    # PAD separates the classes
    size = panels * row + PAD
    memory = lowering.scratch((1, grid.classes * size), per_thread=per_thread)
    return memory.over((1, grid.classes, panels, row), (grid.classes * size, size, row, 1))


def lower_tiles(lowering: Lowering, V: View, M: View, x: View, dy: View, grid: Grid, first: int, count: int) -> None:
    """V and M of `count` tiles from tile `first` on, of the images of x [N, H, W, C] and dy [N, P, Q, K] with them."""
    sizes, of_image = CallSizes(), grid.rows * grid.columns
    start, end = first // of_image, ceil_div(first + count, of_image)
    x, dy = (
        replace(view, shape=(end - start, *view.shape[1:]), offset=view.offset + start * view.strides[0])
        for view in (x, dy)
    )
    zeros = lowering.scratch((1, max(x.shape[3], dy.shape[3])), per_thread=True)
    specs = [*(spec_of_tiles(sizes, view) for view in (V, M)), zeros.spec]
    specs += [sizes.images(x, "inputs"), sizes.images(dy, "gradients")]
    static: dict[str, Any] = {
        "grid": grid.of_one_tile,
        "first": sizes.of(first - start * of_image, "first"),
        "count": sizes.of(count, "count"),
        "functions": [
            TileTransform(grid, x.shape[3], panel=CHANNEL_PANEL).function(V, x),
            TileTransform(grid, dy.shape[3], of_gradients=True, panel=M.shape[3]).function(M, dy),
        ],
    }
    lowering.call(transform_chunk, [V, M, zeros], [x, dy], specs=specs, sizes=sizes.values, **static)


def lower_gradient(lowering: Lowering, dw: View, V: View, M: View, grid: Grid, division: PanelDivision) -> None:
    """dw [3, 3, C, K] from V and M of all tiles, where each task transforms its sums back itself."""
    most, panels = (max(part.at_once for part in found) for found in (division.channels, division.filters))
    D = sums_memory(lowering, grid, panels, most * CHANNEL_PANEL * M.shape[3], per_thread=True)
    sizes = CallSizes()
    specs = [ArraySpec(dw.shape, dw.strides), D.spec, *(spec_of_tiles(sizes, view) for view in (V, M))]
    functions = [PanelSums(c.size, k.size, *run_of(grid)).function(D, V, M) for c, k in division.pairs]
    static: dict[str, Any] = {"grid": grid.of_one_tile, "division": division, "functions": functions}
    lowering.call(gradient_of_chunk, [dw, D], [V, M], specs=specs, sizes=sizes.values, **static)


def transform_chunk(
    V: Array,
    M: Array,
    zeros: Array,
    x: Array,
    dy: Array,
    *,
    grid: Grid,
    first: Index,
    count: Index,
    functions: tuple[Callable[..., None], ...],
) -> None:
    """V and M of the panels [panels, points, tiles, panel] for `count` tiles from tile `first` on.

    x: [N, H, W, C]; dy: [N, P, Q, K]; per thread, of which the first index selects one: zeros [1, the larger of C, K].
    """
    _, P, Q, _ = dy.extents
    counts = grid.counts((P, Q))
    clear_row(zeros)
    for image, rows, of_gradients, transform in zip((x, dy), (V, M), (False, True), functions, strict=True):
        sizes = TileTransform(grid, image.shape[3], of_gradients).sizes(image, counts)
        # a task is neighbouring tiles, all channels of them
        for (i,) in parallel(ceil_div(count, TASK_TILES)):
            start = i * TASK_TILES
            tiles = minimum(TASK_TILES, count - start)
            transform(rows.at(0, 0, start, 0), image, zeros.row(thread()), first + start, tiles, 0, *sizes)


def add_products(
    D: Array,
    V: Array,
    M: Array,
    *,
    classes: tuple[ClassRange, ...],
    division: PanelDivision,
    count: Index,
    is_first: Index,
    functions: tuple[Callable[..., None], ...],
) -> None:
    """D[0, class, panel, c lanes + k] += sum over tiles t and points of the class of V[point, t, c] M[point, t, k].

    It is computed for all channels c and the filters k of each panel. count: tiles. is_first: 1 if D is nothing yet.
    """
    for (channels, filters), add in zip(division.pairs, functions, strict=True):
        for part in classes:
            # a task is a class of a block of channels and of a block of filters
            for n, i, j in parallel(part.classes, channels.blocks, filters.blocks):
                (c, c_panels), (k, k_panels) = channels.block(i), filters.block(j)
                sums, point = D.at(0, n + part.first, k, c * CHANNEL_PANEL * M.shape[3]), n * part.copies + part.start
                left, right = V.at(c, point, 0, 0), M.at(k, point, 0, 0)
                add(sums, left, right, count, part.copies, c_panels, k_panels, is_first)


def gradient_of_chunk(
    dw: Array,
    D: Array,
    V: Array,
    M: Array,
    *,
    grid: Grid,
    division: PanelDivision,
    functions: tuple[Callable[..., None], ...],
) -> None:
    """dw [3, 3, C, K] where V and M have all tiles. Per thread, of which the first index selects one: D, of a task."""
    for (channels, filters), add in zip(division.pairs, functions, strict=True):
        # a task is a block of channels and a block of filters
        for i, j in parallel(channels.blocks, filters.blocks):
            (c, c_panels), (k, k_panels) = channels.block(i), filters.block(j)
            for part in grid.order.ranges:
                for n in loop(part.classes):
                    sums, point = D.at(thread(), n + part.first, 0, 0), n * part.copies + part.start
                    left, right = V.at(c, point, 0, 0), M.at(k, point, 0, 0)
                    add(sums, left, right, V.extents[2], part.copies, c_panels, k_panels, 1)
            for p, channel in loops(k_panels, c_panels * channels.size):
                taps, sums = dw.at(0, 0, c * CHANNEL_PANEL + channel, (k + p) * M.shape[3]), D.at(thread(), 0, p, 0)
                store_taps(taps, sums.at(0, 0, 0, channel * M.shape[3]), grid, filters.size)


def store_gradient(dw: Array, D: Array, *, grid: Grid, filters: tuple[Part, ...]) -> None:
    """dw [3, 3, C, K] from the sums of all tiles. filters: the panels of all filters."""
    C, lanes = dw.shape[2], D.shape[3] // dw.shape[2]
    for part in filters:
        for i, c in parallel(part.panels, C):
            panel = i + part.first
            store_taps(dw.at(0, 0, c, panel * lanes), D.at(0, 0, panel, c * lanes), grid, part.size)


def store_taps(dw: Array, D: Array, grid: Grid, filters: int) -> None:
    """dw[r, s, 0, k] = (A_w^T D A_w)[r, s] for `filters` filters k of one channel; D: [1, classes, 1, filters]."""
    vertical, horizontal, numbers = grid.vertical.AW, grid.horizontal.AW, grid.order.class_

    def store_vector(k: Index, width: int) -> None:
        def element(i: int, j: int) -> Value:
            return D.load((0, numbers[i, j], 0, k), width)

        for r, s, value in transform_2d(vertical, horizontal, element):
            dw.store((r, s, 0, k), value, width)

    for k, width in vectors(filters):
        store_vector(k, width)


@dataclass(frozen=True)
class PanelSums:
    """Sums of products of panels, which a function computes that kernels of the same shapes share."""

    #: channels and filters of each panel
    channels: int
    filters: int
    #: tiles that are summed up in registers at most
    run: int
    #: True if all points of a class are summed up with them, False if one after the other
    at_once: bool

    def function(self, D: View, V: View, M: View) -> Kernel:
        """`add_panels` for arrays with these strides."""
        specs = tuple(ArraySpec((*view.shape[:2], 1, view.shape[3]), view.strides) for view in (D, V, M))
        return Kernel(add_panels, specs, (("sums", self),), indices=5)

    def add(self, arrays: tuple[Array, Array, Array], count: Index, copies: Index, panels: tuple[Index, Index]) -> None:
        """Add to arrays[0] what `add_panels` adds, for panels = (of channels, of filters)."""
        D, V, M = arrays
        lanes = M.shape[3]
        times, points = (1, copies) if self.at_once else (copies, 1)
        for start in loop(count, step=self.run):
            tiles = minimum(self.run, count - start)
            for copy, k in loops(times, panels[1]):
                # the panel of M stays in the first-level cache
                right = M.at(k, copy, start, 0)
                for c in loop(panels[0]):
                    left, sums = V.at(c, copy, start, 0), D.at(0, 0, k, c * CHANNEL_PANEL * lanes)
                    for first, rows in runs(self.channels, tile_for(lanes).rows):
                        tile = sums.at(0, 0, 0, first * lanes), left.at(0, 0, 0, first), right
                        self.add_register_tile(*tile, (points, tiles), rows)

    def add_register_tile(self, D: Array, V: Array, M: Array, steps: tuple[Index, Index], rows: int) -> None:
        """D[0, 0, 0, i lanes + k] += sum over points p, tiles t of V[0, p, t, i] M[0, p, t, k] for `rows` channels i.

        steps: numbers of points and of tiles that are summed over.
        """
        lanes = M.shape[3]
        starts = lane_ranges(self.filters, tile_for(lanes).width)
        acc = accumulators(rows, [width for _, width in starts])
        for point, t in loops(*steps):
            gradients = [M.load((0, point, t, start), width) for start, width in starts]
            multiply_add(acc, (V[0, point, t, i] for i in range(rows)), gradients)
        for (i, s), total in acc.items():
            start, width = starts[s]
            place = (0, 0, 0, i * lanes + start)
            D.store(place, D.load(place, width) + total, width)

    def clear(self, D: Array, lanes: int, panels: tuple[Index, Index]) -> None:
        """Set the sums of panels = (of channels, of filters) to zero."""
        for c, k in loops(*panels):
            for i, width in vectors(self.channels * lanes):
                D.store((0, 0, k, c * CHANNEL_PANEL * lanes + i), 0.0, width)


def add_panels(
    D: Array,
    V: Array,
    M: Array,
    count: Index,
    copies: Index,
    c_panels: Index,
    k_panels: Index,
    is_first: Index,
    *,
    sums: PanelSums,
) -> None:
    """D[0, 0, k, c] += the products of `count` tiles and the points of a class, for so many panels from the origins on.

    copies: the points of the class. is_first: 1 if D is nothing yet.
    """
    for _ in when(is_first == 1):
        sums.clear(D, M.shape[3], (c_panels, k_panels))
    sums.add((D, V, M), count, copies, (c_panels, k_panels))
