"""Direct convolution and its gradient in x where the rows of a register tile are images: one output pixel of many
images at once.

It is for small images, and wherever padding is a noticeable share: an output pixel visits only the taps that meet the
image, so no product with a zero is computed and no border is staged, and a vector of weights serves all images of the
tile. The images are staged with the same pixel of all of them side by side, so a tile reads one run of memory per tap.
"""

import itertools
import math
from dataclasses import dataclass

from foveal.kernel.lang import Array, Index, l2, lanes, llc, loop, maximum, minimum, parallel, thread
from foveal.ops.kernels.conv.filter_tile import FilterTile
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.halo import stage_batch
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Tile,
    ceil_div,
    counted,
    part_of_blocks,
    pieces_of,
    tile_for,
    unrolled,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes, Taps, rows_read
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.strides import Shape
from foveal.view import View

# Full vectors of sums that a tile needs: fewer leave FMA ports idle while a sum waits for the one before (4 cycles of
# latency x 2 ports).
MIN_SUMS = 8

# Channels of a group below which direct.py is faster: it then makes one loop of a filter row's columns and channels,
# which this kernel cannot, as it skips taps. Its loop over so few channels would restart every few products.
MIN_CHANNELS = 8

# Full vectors of sums with which a tile reaches the peak: with 12 of them the additions to a sum are far enough apart,
# and the weights, which come from the second-level cache, serve enough rows.
ENOUGH_SUMS = 12

# The share of the time that leaving products with padding out has to save, so that it pays for staging.
SAVING = 0.05

# Multiply-adds in the time of an element that outputs or extras have in memory. A tile's pixels lie in as many images,
# which are often a power of two apart: their lines push each other out of the caches, and no prefetcher follows them.
# Measured on Zen 3, where 16 begin in a cycle: 0.5 to 1.2 ns more than with tiles of neighbouring pixels.
SCATTERED = 40

# Elements after each staged pixel of all images, one cache line, so that images do not lie a power of two apart: such
# addresses fall into the same few sets of the first-level cache.
GAP = 16


def band_elements() -> int:
    """Elements that a task stages: half of the second-level cache. They are read once per tap and block of filters."""
    return l2() // 2 // FLOAT_BYTES


def fits(y: EpilogueOutputs, x: Shape, c_group: int, tile: Tile, axes: Axes) -> bool:
    """True if this kernel is expected to be faster than tiles of pixels.

    x: its shape [N, C, H, W]. c_group: C/G, the channels of a group. tile: the register tile for a group's filters.
    """
    N, C, H, W = x
    # where taps do not overlap, staging would read what no tap does, or what is read once
    if N * tile.lanes < MIN_SUMS * lanes() or c_group < MIN_CHANNELS or not any(overlap(t) for t in axes):
        return False
    # what one row of outputs reads, of the images of a tile, has to fit the cache
    if min(N, tile.rows) * min(rows_read(axes[0]), H) * W * C > band_elements():
        return False
    # the share of the taps that meet the image and not padding, along rows and along columns
    meeting = [
        sum(t.valid_share(n) * t.count * t.taps for t in phases) / max(sum(t.count * t.taps for t in phases), 1)
        for phases, n in zip(axes, (H, W), strict=True)
    ]
    # rows so short that tiles of pixels would be less than half full
    columns = max(t.count for t in axes[1])
    if columns < tile.rows // 2:
        return True
    # rows shorter than a tile: several of them are one
    pixels = max(columns, tile.rows // columns * columns)
    # multiply-adds per output: its taps on average
    products = c_group * math.prod(sum(t.taps * t.count for t in p) / max(sum(t.count for t in p), 1) for p in axes)
    # all taps meet padding only
    if not products:
        return False
    over_images = meeting[0] * meeting[1] / speed(N, tile) + SCATTERED * arrays_in_memory(y) / products
    return over_images < (1 - SAVING) / speed(pixels, tile)


def overlap(phases: tuple[Taps, ...]) -> bool:
    """True if neighbouring outputs of a phase read the same inputs."""
    return any(t.taps * abs(t.tap_step) > t.input_step for t in phases)


def arrays_in_memory(y: EpilogueOutputs) -> int:
    """The number of outputs and extras if together they take an eighth of the last-level cache or more, else 0.

    So large an output is written past the cache (view.min_streamed_bytes), and a pass over the network has many.
    """
    arrays = [view for view in (*y.outputs, *y.extras) if 0 not in view.strides]
    return len(arrays) if FLOAT_BYTES * sum(math.prod(view.shape) for view in arrays) >= llc() // 8 else 0


def speed(rows: int, tile: Tile) -> float:
    """The share of the peak that tiles of near-equal numbers of rows reach, for as many images or pixels in all."""
    sums = rows / ceil_div(rows, tile.rows) * tile.vectors
    return min(1.0, sums / ENOUGH_SUMS)


def lower(lowering: Lowering, y: EpilogueOutputs, x: View, panels: View, axes: Axes, filters: int) -> None:
    """Cut the work into tasks (block of images, band of rows, part of the filters) and call the kernel.

    x: [N, H, W, C]. panels: [G, blocks, R, S, C/G, lanes] (packing.py). filters: K/G, those of a group.
    """
    N, H, W, C = x.shape
    rows, count = tile_for(filters).rows, max(t.count for t in axes[0])
    blocks, largest = ceil_div(N, rows), ceil_div(N, ceil_div(N, rows))
    images = pieces_of(N, rows)
    step = axes[0][0].input_step
    # output rows of a band, so that the rows which it reads of a block of images fit the cache
    row = largest * W * C
    height = max(1, (band_elements() // row - rows_read(axes[0])) // step + 1)
    bands = ceil_div(count, height)
    # input rows that any band reads
    max_rows = min(H, (ceil_div(count, bands) - 1) * step + rows_read(axes[0]))
    parts = max(1, min(panels.shape[0] * panels.shape[1], ceil_div(ENOUGH_TASKS, blocks * bands)))
    staged = lowering.scratch((1, max_rows, W, images[0], C + GAP), per_thread=True)
    sizes = CallSizes()
    y.call(
        lowering,
        correlate_batch,
        blocks * bands,
        [staged],
        [x, panels],
        spec=sizes.batch_specs(staged, [panels]),
        axes=axes,
        filters=filters,
        images=images,
        bands=sizes.of(bands, "bands"),
        parts=sizes.of(parts, "parts"),
        sizes=sizes.values,
        reads_far=exceeds_l2(y.outputs[0]),
    )


def correlate_batch(
    *arrays: Array,
    axes: Axes,
    filters: int,
    images: tuple[int, ...],
    bands: Index,
    parts: Index,
    reads_far: bool,
    epilogue: Epilogue,
) -> None:
    """y[n, p, q, k] = sum over the taps that meet the image, and over channels, of x * panels.

    images: the numbers of images of a block. Other arguments as in direct.correlate.
    """
    bound = BoundEpilogue(epilogue, arrays, 3, reads_far)
    # [1, rows, W, images, C + GAP] per thread, [N, H, W, C], [G, blocks, R, S, C/G, lanes]
    staged, x, panels = bound.operands
    bound.aligned = panels.shape[0] == 1
    count, used = max(t.count for t in axes[0]), [t for t in axes[0] if t.taps]
    low = min((t.low for t in used), default=0)
    tile = tile_for(filters)
    # the N images as `blocks` blocks of `block_size` images, for each size of block
    first: Index = 0
    done: Index = 0
    for block_size, blocks in counted(x.extents[0], images, tile.rows):
        # each task: a band of output rows of a block of images, for a part of the filters
        for block, band, part in parallel(blocks, bands, parts):
            n, task = block * block_size + first, (block + done) * bands + band
            start, end = band * count // bands, (band + 1) * count // bands
            # the band's first input row; the last bands stage as many rows as the others
            top = maximum(start * axes[0][0].input_step + low, 0)
            top = minimum(top, x.shape[1] - staged.extents[1])
            stage_batch(staged, x, n, block_size, top)
            # [., H, W, images, C], the staged rows shifted so that the indices of the image address them
            source = staged.at(thread(), -top, 0, 0, 0)
            # each block of filters: its panel passes once per pixel of the band
            for g, b, valid in part_of_blocks(panels.shape[0], filters, tile.lanes, part, parts):
                panel, first_filter = panels.at(g, b, 0, 0, 0, 0), g * filters + b * tile.lanes
                group, size = source.at(0, 0, 0, 0, g * panels.shape[4]), (x.shape[1], x.shape[2])
                tiles = ImageTile(bound, task, panel, first_filter, valid, tile, group, size, block_size)
                tiles.clear_sums()
                # each phase of rows and columns, each of its output rows and columns
                for rows, columns in itertools.product(*axes):
                    last = end if rows.count == count else minimum(end, rows.count)
                    for i in loop(last, start=start):
                        for j in loop(columns.count):
                            tiles.compute(n, i, j, rows, columns)
        first, done = first + blocks * block_size, done + blocks


@dataclass(frozen=True)
class ImageTile(FilterTile):
    """Register tiles of one output pixel of `images` images x a block of filters.

    source: [., H, W, images, C], the staged images, from the group's first channel on. size: (H, W).
    """

    source: Array
    size: Pair
    images: int

    def compute(self, n: Index, i: Index, j: Index, rows: Taps, columns: Taps) -> None:
        """Output (i, j) of the phase (rows, columns), of the images from n on, for all filters of the block."""
        # [images, vectors of filters] in registers
        sums, c_group = self.sums(self.images), self.panel.shape[4]
        p, q = rows.output_position(i), columns.output_position(j)
        pixels = [(n + m, p, q) for m in range(self.images)]
        self.bound.prefetch(pixels, self.first_filter, self.valid)
        # the input position at tap (0, 0), and the taps that meet the image
        h, v = rows.input_position(i), columns.input_position(j)
        (top, bottom), (left, right) = rows.valid_range(i, self.size[0]), columns.valid_range(j, self.size[1])
        # each row of the window, each column, each channel
        for r in loop(bottom, start=top):
            for s in loop(right, start=left):
                panel = self.panel_of(r, s, rows, columns)
                # [images, C] of one input pixel
                source = self.source.at(0, h + r * rows.tap_step, v + s * columns.tap_step, 0, 0)
                for c, _ in unrolled(c_group):
                    self.multiply(sums, panel, c, (source[0, 0, 0, m, c] for m in range(self.images)))
        self.store(sums, pixels)
