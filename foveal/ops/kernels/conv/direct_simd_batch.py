"""Convolution and its gradient in x with lanes over images, for so few filters that they would leave lanes empty.

A vector holds one element of as many images as it has lanes, and a weight is a scalar that multiplies it: the register
tile is filters x vectors of images, or of neighbouring columns of one vector of images. The images of a task are staged
in this order first; results are transposed back in registers and stored channels last.

As in direct.py, a step of the inner loop loads as many vectors (of pixels) as the tile has and broadcasts a scalar (a
weight) per filter, so a tile of 12 filters x 2 vectors needs 0.58 loads per FMA. Staging and transposing are the price,
which `fits` weighs against empty lanes. As there, `filters` and `c_group` are the K/G filters and C/G channels of a
group.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveal.kernel.lang import (
    Array,
    Index,
    Value,
    Var,
    head,
    l2,
    lanes,
    loop,
    maximum,
    minimum,
    parallel,
    part,
    registers,
    thread,
    transpose,
    var,
)
from foveal.ops.kernels.conv.direct import FEW_CHANNELS
from foveal.ops.kernels.conv.filter_tile import Pixel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.halo import stage_lanes, zero_sides
from foveal.ops.kernels.packing import lower_panels
from foveal.ops.kernels.register_tile import (
    FLOAT_BYTES,
    accumulators,
    ceil_div,
    lane_ranges,
    multiply_add,
    part_of_blocks,
    runs,
    split,
    tile_for,
    unrolled,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes, Taps, rows_read
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Filters of a tile: with 32 registers 12 x 2 accumulators, as in a tile whose lanes run over filters; with 16, 12 x 1.
MAX_FILTERS = 12

# Output rows of a band, at the least: two neighbouring bands both stage R - 1 rows.
MIN_BAND_ROWS = 3

# Tasks to aim at, where there are as many rows: fewer than ENOUGH_TASKS, since each further band stages R - 1 more rows
# than it computes.
MIN_TASKS = 8

# The share of a filter row's taps that meet the image, below which each pixel skips the others. Skipping them saves
# products, but a tile then has one column, and a loop with bounds known only at run time.
MIN_MEETING = 0.85

# Lanes below which a narrower vector saves no time: an FMA of 4 lanes takes as long as one of 8.
HALF = 8

# The share of the peak that lanes over filters reach: with full vectors, and with narrower ones, whose tiles have only
# one vector and so one load per FMA. So have tiles of images with 16 registers, unless filters are few: with two
# vectors of images their products count as running at the peak. With 32 registers tiles of images are as large as those
# of filters, and reach as much.
SPEED, SPEED_OF_HALF = 0.93, 0.85

# What this kernel costs beside its products, in multiply-adds. The numbers trade staging and transposing against empty
# lanes: larger ones leave more shapes to the kernels with lanes over filters.
# Staging one element of one image.
STAGING = 8
# Transposing one element of the result, if all filters of a pixel are in one tile and so in one run of memory.
STORING_WHOLE = 5
# Transposing one element of the result, if the filters of a pixel are in several tiles.
STORING_PARTS = 13


def band_elements() -> int:
    """Elements that a task stages: half of the second-level cache. They are read once per tap and tile of filters."""
    return l2() // 2 // FLOAT_BYTES


def fits(x: View, c_group: int, filters: int, axes: Axes) -> bool:
    """True if this kernel is expected to take less time than one with lanes over filters, for x [N, H, W, C]."""
    over_filters, over_images = costs(x, c_group, filters, axes)
    return over_images < over_filters


def costs(x: View, c_group: int, filters: int, axes: Axes) -> tuple[float, float]:
    """The times with lanes over filters and over images, for x [N, H, W, C].

    Both are counted in multiply-adds per pixel of one image: products, and with lanes over images also what is staged
    and transposed back; infinite where this kernel cannot compute it.
    """
    N, H, W, C = x.shape
    row, height_read, step = W * C * lanes(), rows_read(axes[0]), axes[0][0].input_step
    height = band_rows(row, height_read, step)
    # how often an input row is staged, on average
    repeats = (height_read + (height - 1) * step) / (height * step)
    # the mean number of taps of an output, along rows and along columns
    rows, columns = (sum(t.taps * t.count for t in phases) / max(sum(t.count for t in phases), 1) for phases in axes)
    products, width = rows * columns * c_group, tile_for(filters).width
    # lanes over filters: all lanes of the vectors count, empty ones too
    lanes_over_filters = ceil_div(filters, width) * max(width, min(HALF, lanes())) * products
    lanes_over_filters /= SPEED if width == lanes() else SPEED_OF_HALF
    # lanes over images: those of the last block's vectors count too
    storing = STORING_WHOLE if filters <= MAX_FILTERS else STORING_PARTS
    speed = SPEED if registers() >= 32 else 1.0 if lane_tile(filters)[1] > 1 else SPEED_OF_HALF
    lanes_over_images = filters * (products / speed + storing) * padded(N) / N + STAGING * repeats * c_group
    # a row of outputs may read more than half of the second-level cache, but at most twice all of it
    if x.strides[2:] != (C, 1) or min(H, height_read) * row > 4 * band_elements():
        return lanes_over_filters, math.inf
    return lanes_over_filters, lanes_over_images


def band_rows(row: int, height_read: int, step: int) -> int:
    """Output rows of a band whose input rows, of `row` elements each, fit the cache; 1 if none does.

    height_read: input rows that one output row reads. step: input rows from one output row to the next.
    """
    return max(1, (band_elements() // row - height_read) // step + 1)


def lane_tile(filters: int) -> Pair:
    """(filters, vectors of images or columns) of a tile, for `filters` in all: three quarters of the registers."""
    size = split(filters, MAX_FILTERS)[0][0]
    return size, max(1, registers() * 3 // 4 // size)


def padded(images: int) -> int:
    """The number of images, rounded up to whole vectors."""
    return ceil_div(images, lanes()) * lanes()


def blocks_of(N: int, max_vectors: int) -> list[Pair]:
    """N images as blocks of at most `max_vectors` vectors: (images, blocks); the last block may have fewer images."""
    count = ceil_div(N, lanes())
    size = ceil_div(count, ceil_div(count, max_vectors)) * lanes()
    full, rest = divmod(N, size)
    return [(size, full)] * bool(full) + [(rest, 1)] * bool(rest)


def lower(lowering: Lowering, y: EpilogueOutputs, x: View, w: View, axes: Axes, first: Pair, kernel: Pair) -> None:
    """Cut the work into tasks (block of images, band of rows), pack the weights and call the kernel.

    x: [N, H, W, C]. w: [G, K/G, C/G, R, S], whose window is used from position `first` (row, column) on, in a part of
    size `kernel` (see taps.used_kernel).
    """
    (N, H, W, C), (groups, filters, c_group, *_) = x.shape, w.shape
    rows, columns = axes
    tile_filters, max_vectors = lane_tile(filters)
    panels = lowering.scratch((groups, ceil_div(filters, tile_filters), *kernel, c_group, tile_filters))
    lower_panels(lowering, panels, w, first)
    # if many taps meet padding, each pixel visits only those that do not; else the staged rows get zeros at both sides
    meeting = sum(t.valid_share(W) * t.count * t.taps for t in columns)
    exact = meeting < MIN_MEETING * sum(t.count * t.taps for t in columns)
    left = 0 if exact else -min(0, *(t.low for t in columns), 0)
    right = 0 if exact else max(0, *(t.high - W + 1 for t in columns), 0)
    if not exact and groups == len(columns) == 1 and C < FEW_CHANNELS and columns[0].tap_step == 1:
        # in memory the columns of a filter row and their C channels are one range, in the staged rows as in the panels:
        # one tap
        panels = panels.reshaped((1, panels.shape[1], kernel[0], 1, kernel[1] * C, tile_filters))
        axes = (rows, (replace(columns[0], taps=1),))
    # bands of output rows whose input rows fit the cache, and that make enough tasks
    blocks = blocks_of(N, max_vectors if exact else 1)
    count, tasks, size = max(t.count for t in rows), sum(n for _, n in blocks), padded(blocks[0][0])
    height_read, step = rows_read(rows), rows[0].input_step
    height = band_rows(size * W * C, height_read, step)
    bands = max(ceil_div(count, height), min(ceil_div(MIN_TASKS, tasks), count // MIN_BAND_ROWS), 1)
    max_rows = min(H, (ceil_div(count, bands) - 1) * step + height_read)
    staged = lowering.scratch((1, max_rows, (left + W + right) * C, size), per_thread=True)
    sizes = CallSizes()
    y.call(
        lowering,
        correlate_simd_batch,
        tasks * bands,
        [staged],
        [x, panels],
        spec=sizes.batch_specs(staged, [panels]),
        axes=axes,
        filters=filters,
        images=tuple(size for size, _ in blocks),
        blocks=sizes.of(blocks[0][1], "blocks"),
        bands=sizes.of(bands, "bands"),
        left=left,
        exact=exact,
        sizes=sizes.values,
        reads_far=exceeds_l2(y.outputs[0]),
    )


def correlate_simd_batch(
    *arrays: Array,
    axes: Axes,
    filters: int,
    images: tuple[int, ...],
    blocks: Index,
    bands: Index,
    left: int,
    exact: bool,
    reads_far: bool,
    epilogue: Epilogue,
) -> None:
    """y[n, p, q, k] = sum over the taps that meet the image, and over channels, of x * panels.

    A tile is some filters of one pixel of several vectors of images (exact: taps in the padding are left out), or of
    several columns of one vector of images, whose results are one range in memory. filters: those of a group. images:
    of a block, of which there are `blocks`, and of one more if it has fewer. bands: how many bands the output rows are
    cut into. left: zero columns before the image. reads_far: what the epilogue reads is in memory and fetched early.
    """
    bound = BoundEpilogue(epilogue, arrays, 3, reads_far)
    # [1, rows, columns C, images] per thread, [N, H, W, C], [G, blocks, R, S, C/G, filters of a tile]
    staged, x, panels = bound.operands
    bound.aligned = False
    count, (tile_filters, max_vectors) = max(t.count for t in axes[0]), lane_tile(filters)
    max_columns = 1 if exact else max_vectors
    low = min((t.low for t in axes[0] if t.taps), default=0)
    zero_sides(staged, left * x.shape[3], x.shape[2] * x.shape[3])
    first: Index = 0
    done: Index = 0
    # for each size of block
    for block_size, count_of_size in zip(images, (blocks, 1), strict=False):
        # each task: a band of output rows of a block of images
        for block, band in parallel(count_of_size, bands):
            n, task = block * block_size + first, (block + done) * bands + band
            start, end = band * count // bands, (band + 1) * count // bands
            # the band's first input row; the last bands stage as many rows as the others
            top = maximum(start * axes[0][0].input_step + low, 0)
            top = minimum(top, x.shape[1] - staged.extents[1])
            stage_lanes(staged, x, n, block_size, top, left * x.shape[3])
            # [., H, W C, images], the staged rows shifted so that the indices of the image address them
            source = staged.at(thread(), -top, left * x.shape[3], 0)
            # each tile's filters: their weights stay in the first-level cache while the band's pixels pass
            for g, b, valid in part_of_blocks(panels.shape[0], filters, tile_filters, 0, 1):
                first_filter = g * filters + b * tile_filters
                bound.zero_sums(task, first_filter, valid)
                group, panel = source.at(0, 0, g * panels.shape[4], 0), panels.at(g, b, 0, 0, 0, 0)
                tile = LaneTile(bound, task, group, panel, x.shape[1:], block_size, first_filter, valid, exact)
                # each phase of rows and columns, each of its output rows, each run of columns
                for rows, columns in itertools.product(*axes):
                    last = end if rows.count == count else minimum(end, rows.count)
                    for i in loop(last, start=start):
                        for j, size in runs(columns.count, max_columns):
                            tile.compute(n, i, j, size, rows, columns)
        first, done = first + count_of_size * block_size, done + count_of_size


def columns_of(rows: Sequence[Value | Var]) -> list[Value]:
    """The transpose of full vectors: for each lane, a vector with that lane of each of the rows."""
    size, number, count = lanes(), len(rows), 1
    # rows of zeros up to a power of two, `count`; then squares of count x count side by side
    while count < number:
        count *= 2
    rows = [*rows, *[var(0.0, size)] * (count - number)]
    squares = [[part(row, start, count) for row in rows] for start in range(0, size, count)]
    transposed = [transpose(square) if count > 1 else square for square in squares]
    # a square that is wider than the rows has columns of nothing behind those of their lanes
    return [head(column, number) for square in transposed for column in square][:size]


@dataclass(frozen=True)
class LaneTile:
    """Register tiles of `filters` filters from `first_filter` on x `images` images, at one pixel or a run of columns.

    source: [., H, W C, images], staged, from the group's first channel on. panel: [., ., R, S, C/G, filters].
    size: H, W and C of the images. exact: the taps in the padding are left out.
    """

    bound: BoundEpilogue
    task: Index
    source: Array
    panel: Array
    size: tuple[int, ...]
    images: int
    first_filter: Index
    filters: int
    exact: bool

    def compute(self, n: Index, i: Index, j: Index, count: int, rows: Taps, columns: Taps) -> None:
        """Outputs (i, j) ... (i, j + count) of the phase (rows, columns), of the images from n on."""
        (H, W, C), c_group = self.size, self.panel.shape[4]
        # the tile's vectors: (column of the run, first image); [filters, vectors] sums in registers
        spots = [(q, m) for q in range(count) for m in range(0, self.images, lanes())]
        acc = accumulators(self.filters, [lanes()] * len(spots))
        # the input position at tap (0, 0), and the taps to visit
        h, v = rows.input_position(i), columns.input_position(j)
        top, bottom = rows.valid_range(i, H)
        left, right = columns.valid_range(j, W) if self.exact else (0, columns.taps)
        for r in loop(bottom, start=top):
            for s in loop(right, start=left):
                weights = self.panel.at(0, 0, rows.kernel_position(r), columns.kernel_position(s), 0, 0)
                element = (v + s * columns.tap_step) * C
                source = self.source.at(0, h + r * rows.tap_step, element, 0)
                # each channel: a vector per column and vector of images, times a weight per filter
                for c, _ in unrolled(c_group):
                    places = [(0, 0, q * columns.input_step * C + c, m) for q, m in spots]
                    xs = [source.load(place, lanes()) for place in places]
                    multiply_add(acc, (weights[0, 0, 0, 0, c, f] for f in range(self.filters)), xs)
        sums = [[acc[f, spot].get() for f in range(self.filters)] for spot in range(len(spots))]
        pixel = (n, rows.output_position(i), columns.output_position(j))
        self.store(pixel, spots, sums, columns.step)

    def store(self, pixel: Pixel, spots: list[Pair], sums: list[list[Value]], step: int) -> None:
        """Store the sums by spot (column, first image) and filter; the first column and image are those of `pixel`.

        step: distance of the run's columns in the output.
        """
        n, p, q = pixel
        K = self.filters
        # a run of columns with all their channels is one range in memory, if the tile has all channels
        is_one_run = step == 1 and all(y.shape[3] == K and y.strides[2:] == (K, 1) for y in self.bound.outputs)
        if self.bound.pixelwise or not is_one_run:
            for (column, m), totals in zip(spots, sums, strict=True):
                # for each image of the vector, its filters' sums
                by_image = columns_of(totals)[: self.images - m]
                pixels = [(n + m + lane, p, q + column * step) for lane in range(len(by_image))]
                self.bound.store(self.task, pixels, by_image, self.first_filter, self.filters)
            return
        for m in dict.fromkeys(m for _, m in spots):
            # all columns of one vector of images: the epilogue's pointwise steps first, with lanes still over images
            chosen = [totals for (_, first), totals in zip(spots, sums, strict=True) if first == m]
            values = [self.bound.finish(total, k) for totals in chosen for k, total in enumerate(totals)]
            for number, y in enumerate(self.bound.outputs):
                self.store_run(y, (n + m, p, q), [value[number] for value in values], self.images - m)

    def store_run(self, y: Array, pixel: Pixel, run: list[Value], images: int) -> None:
        """y[n + lane, p, q ...] = the lanes of `run`: all channels of one column, then of the next."""
        n, p, q = pixel
        for start, width in lane_ranges(len(run), lanes()):
            for m, of_image in enumerate(columns_of(run[start : start + width])[:images]):
                y.row(n + m, p).store((q * y.shape[3] + start,), of_image, width)
