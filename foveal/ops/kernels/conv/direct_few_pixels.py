"""Direct convolution of few pixels, for filters that are packed once for many runs: threads share filters.

In the inference of one image the last layers of a network have few pixels and many filters, 512 x 512 x 9 weights for
16 pixels, so that reading the filters takes about as long as the products. They are read once, by one thread, in the
order in which they lie in memory, and what comes next is fetched while the products with this run:

    for a block of filters, each tap (r, s) and each part of the channels:      one run of the panel, a few KiB
        for all register tiles of pixels:   sums[pixel, k] += sum_c x[pixel at (r, s), c] panel[r, s, c, k]

The sums of all pixels stay in the first-level cache, from which a register tile loads its own and stores them again. A
run of the panel comes from memory for the first register tile and out of the first-level cache for the others.

Rows of outputs for which a row of taps meets padding alone are left out. Columns are not: each thread first stages x
once for every column of taps, with zeros beside the image, so that pixels that follow each other in y do so in what is
staged, across rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.lang import Array, Index, l2, loop, loops, thread, vectors
from foveal.ops.kernels.conv.winograd import parallel_filter_blocks
from foveal.ops.kernels.conv.winograd_products import store_products
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.register_tile import FLOAT_BYTES, Tile, ceil_div, lane_ranges, runs, split, tile_for
from foveal.ops.kernels.taps import Axes, Taps
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Pixels of all images at most: their sums, 128 x 16 filters on AVX2, take 8 KiB of a first-level cache.
MAX_PIXELS = 128

# Channels of a part at most: 128 x 16 weights take 8 KiB of a first-level cache, beside as many channels of the pixels.
# Loading and storing the sums of a register tile takes a few percent of the time of 128 of its steps.
CHANNEL_PART = 128

# Elements between the channels of two staged pixels, one cache line, so that pixels do not lie a power of two apart,
# which would put them into the same few sets of a cache.
GAP = 16


@dataclass(frozen=True)
class Staging:
    """Where the pixels that outputs read are staged: [1, columns of taps x images x phases, rows x Q, C + GAP].

    A phase holds the rows of an image that have the same remainder, divided by the stride; Q: columns of outputs.
    """

    rows: Taps
    columns: Taps
    #: rows and columns of an image
    size: Pair
    images: int

    @property
    def phases(self) -> list[int]:
        """The remainders of the rows that taps read."""
        return sorted(
            {(self.rows.origin + r * self.rows.tap_step) % self.rows.input_step for r in range(self.rows.taps)}
        )

    def shape(self, channels: int) -> tuple[int, int, int, int]:
        """The shape of one thread's copy."""
        height = ceil_div(self.size[0], self.rows.input_step)
        copies = self.columns.taps * self.images * len(self.phases)
        return (1, copies, height * self.columns.count, channels + GAP)

    def copy(self, s: Index, n: Index, phase: int) -> Index:
        """The place along the second axis of an image's phase for the column of taps s."""
        return (n + s * self.images) * len(self.phases) + phase

    def source(self, r: int, p: int) -> Pair:
        """(phase, place of the first pixel in it) of what the row of outputs p reads through the row of taps r."""
        row, remainder = divmod(self.rows.origin + r * self.rows.tap_step, self.rows.input_step)
        return self.phases.index(remainder), (row + p) * self.columns.count

    def fill(self, staged: Array, x: Array) -> None:
        """Stage x [N, H, W, C] for this thread."""
        (rows, columns), channels = (self.rows, self.columns), x.shape[3]
        for s in range(columns.taps):
            first, end = valid_outputs(columns, s, self.size[1])
            for phase, remainder in enumerate(self.phases):
                for n in loop(self.images):
                    for h in loop(ceil_div(self.size[0] - remainder, rows.input_step)):
                        target = staged.at(thread(), self.copy(s, n, phase), h * columns.count, 0)
                        source = x.at(n, h * rows.input_step + remainder, columns.origin + s * columns.tap_step, 0)
                        for q in (*range(first), *range(end, columns.count)):
                            for c, width in vectors(channels):
                                target.store((0, 0, q, c), 0.0, width)
                        for q in loop(end, start=first):
                            for c, width in vectors(channels):
                                target.store((0, 0, q, c), source.load((0, 0, q * columns.input_step, c), width), width)


def valid_outputs(taps: Taps, t: int, size: int) -> Pair:
    """(first, end) of the outputs for which tap t meets an input of `size` positions."""
    valid = [i for i in range(taps.count) if t in taps.valid(i, size)]
    return (valid[0], valid[-1] + 1) if valid else (0, 0)


def fits(x: View, filters: int, groups: int, axes: Axes) -> bool:
    """True if this kernel can be used for x [N, H, W, C] and is expected to be the fastest of the direct ones."""
    N, H, W, C = x.shape
    rows, columns = axes
    if len(rows) > 1 or len(columns) > 1 or groups > 1 or filters <= tile_for(filters).lanes:
        return False
    # what a thread stages is read once for every block of filters and has to stay in the second-level cache
    staged = Staging(rows[0], columns[0], (H, W), N).shape(C)
    is_small = FLOAT_BYTES * staged[1] * staged[2] * staged[3] <= l2() * 3 // 8
    return is_small and 0 < N * rows[0].count * columns[0].count <= MAX_PIXELS and rows[0].taps * columns[0].taps > 0


def lower(lowering: Lowering, y: EpilogueOutputs, x: View, panels: View, axes: Axes, filters: int) -> None:
    """Call the kernel for x [N, H, W, C] and panels [1, blocks, R, S, C, lanes] (packing.py)."""
    N, H, W, C = x.shape
    _, blocks, R, S, _, columns = panels.shape
    staging = Staging(axes[0][0], axes[1][0], (H, W), N)
    staged = lowering.scratch(staging.shape(C), per_thread=True)
    sums = lowering.scratch((1, 1, N * y.shape[2] * y.shape[3], columns), per_thread=True)
    inputs = [x, panels.reshaped((blocks, R * S, C, columns))]
    # each filter belongs to one task, so one row of partial sums is enough
    y.call(lowering, correlate_few_pixels, 1, [staged, sums], inputs, staging=staging, filters=filters, width=S)


def correlate_few_pixels(*arrays: Array, staging: Staging, filters: int, width: int, epilogue: Epilogue) -> None:
    """y[n, p, q, k] = sum over taps and channels of x * panels, a block of filters at a time.

    width: S, columns of the panels' window.
    """
    bound = BoundEpilogue(epilogue, arrays, 4)
    # [1, copies, pixels, C + GAP] and [1, 1, pixels, lanes] per thread, [N, H, W, C], [blocks, R S, C, lanes]
    staged, sums, x, panels = bound.operands
    tile, own = tile_for(filters), sums.at(thread(), 0, 0, 0)
    staging.fill(staged, x)
    for b, valid in parallel_filter_blocks(filters, tile.lanes):
        for pixel in loop(sums.shape[2]):
            for k, lanes in vectors(tile.lanes, tile.width):
                own.store((0, 0, pixel, k), 0.0, lanes)
        for r in range(staging.rows.taps):
            for s in loop(staging.columns.taps):
                tap = staging.columns.kernel_position(s) + staging.rows.kernel_position(r) * width
                add_products(own, staged.at(thread(), 0, 0, 0), panels.at(b, tap, 0, 0), tile, staging, r, s)
        store_sums(bound, own, staging, b * tile.lanes, valid, tile)


def add_products(own: Array, staged: Array, panel: Array, tile: Tile, staging: Staging, r: int, s: Index) -> None:
    """own[0, 0, pixel, k] += sum_c of the products at tap (r, s), whose panel this is, for a block of filters."""
    rows, columns, channels = staging.rows, staging.columns.count, panel.shape[2]
    first, end = valid_outputs(rows, r, staging.size[0])
    phase, source = staging.source(r, first)
    for start, size, count in parts_of(channels, CHANNEL_PART):
        # each part of the channels, each image, each register tile of pixels
        for i, n in loops(count, staging.images):
            c = i * size + start
            pixels = staged.at(0, staging.copy(s, n, phase), source, c)
            totals = own.at(0, 0, (n * rows.count + first) * columns, 0)
            for pixel, length, tiles in parts_of((end - first) * columns, tile.rows):
                for t in loop(tiles):
                    place = t * length + pixel
                    v, M = pixels.at(0, 0, place, 0), totals.at(0, 0, place, 0)
                    store_products(M, v, panel.at(0, 0, c, 0), length, size, tile, add=True, ahead=CHANNEL_PART)


def parts_of(n: int, max_size: int) -> Iterator[tuple[int, int, int]]:
    """n as near-equal parts: (start of the first one of a size, size, how many of it)."""
    start = 0
    for size, count in split(n, max_size):
        yield start, size, count
        start += size * count


def store_sums(bound: BoundEpilogue, own: Array, staging: Staging, first: Index, valid: int, tile: Tile) -> None:
    """End the sums of a block of `valid` filters from number `first` on with the epilogue, and store what it gives."""
    rows, columns = staging.rows.count, staging.columns.count
    for start, lanes in lane_ranges(valid, tile.width):
        bound.zero_sums(0, first + start, lanes)
        for n, p in loops(staging.images, rows):
            for q, length in runs(columns, tile.rows):
                pixel = (n * rows + p) * columns + q
                totals = [own.load((0, 0, pixel + i, start), lanes) for i in range(length)]
                bound.store(0, [(n, p, q + i) for i in range(length)], totals, first + start, lanes)
