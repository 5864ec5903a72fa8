"""1x1 convolution and its gradient in x: a matrix product [N H W, C] x [C, K], which knows neither rows nor columns nor
images.

The register tile is pixels x filters, as direct.py derives it; what differs is that its pixels may lie in any rows and
images, since all of them are one row in memory.
"""

from dataclasses import dataclass

from foveal.kernel.lang import Array, Index, l2, loop, parallel
from foveal.ops.kernels.conv.filter_tile import FilterTile
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    ceil_div,
    part_of_blocks,
    split,
    tile_for,
    unroll_factor,
    unrolled,
)
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.view import View

# An iteration of the loop over channels prefetches the next tile's pixels if it has at least so many unrolled steps:
# fewer products would not pay for it.
MIN_STEPS_TO_PREFETCH = 4


def pixel_block_elements() -> int:
    """Elements of a block of pixels, which a task reads for every panel: three eighths of the second-level cache.

    The rest is for the panel in use, and for the outputs, which pass through.
    """
    return l2() * 3 // 8 // FLOAT_BYTES


def fits(y: EpilogueOutputs, x: View, w: View, axes: Axes) -> bool:
    """True if each output pixel reads only the input pixel at its own place, and all pixels are one row in memory."""
    is_same_place = all(
        len(phases) == 1 and phases[0].taps == phases[0].input_step == 1 and phases[0].origin == 0 for phases in axes
    )
    images = [*y.outputs, *y.extras, x]
    is_one_group = w.shape[0] == 1 and y.shape[2:] == x.shape[2:]
    return is_same_place and is_one_group and all(evenly_spaced(image) for image in images)


def evenly_spaced(image: View) -> bool:
    """True if the pixels of [N, C, H, W] lie at equal distances, as one row."""
    N, _, H, W = image.shape
    step = image.strides[3]
    return (H == 1 or image.strides[2] == W * step) and (N == 1 or image.strides[0] == H * W * step)


def one_row(image: View) -> View:
    """[N, C, H, W] as [1, C, 1, N H W]."""
    N, C, H, W = image.shape
    return image.permuted(1, 0, 2, 3).reshaped((C, 1, 1, N * H * W)).permuted(1, 0, 2, 3)


def lower(lowering: Lowering, y: EpilogueOutputs, x: View, panels: View, filters: int) -> None:
    """Cut the work into tasks (block of pixels, part of the filters) and call the kernel.

    x: [N, C, H, W]. panels: [1, blocks, 1, 1, C, lanes] (packing.py). filters: K.
    """
    y, x = y.each(one_row), one_row(x)
    pixel_blocks = pixel_blocks_of(x.shape[3], x.shape[1], tile_for(filters).rows)
    tasks = sum(n for _, _, n in pixel_blocks)
    parts = min(panels.shape[1], ceil_div(ENOUGH_TASKS, tasks))
    y.call(lowering, correlate_1x1, tasks, [], [x.permuted(0, 2, 3, 1), panels], filters=filters, parts=parts)


def pixel_blocks_of(pixels: int, channels: int, max_pixels: int) -> list[tuple[int, int, int]]:
    """The pixels as tiles of at most `max_pixels`: (pixels of a tile, tiles, blocks that these tiles are cut into)."""
    sizes = []
    for size, count in split(pixels, max_pixels):
        needed = max(ceil_div(count * size * channels, pixel_block_elements()), ENOUGH_TASKS)
        sizes.append((size, count, min(count, needed)))
    return sizes


def correlate_1x1(*arrays: Array, filters: int, parts: int, epilogue: Epilogue) -> None:
    """y[pixel, k] = sum_c x[pixel, c] panels[k // lanes, c, k % lanes], a register tile at a time.

    A block of pixels stays in the second-level cache while all panels pass. filters: K. parts: how many parts they are
    cut into.
    """
    bound = BoundEpilogue(epilogue, arrays, 2)
    # [1, 1, pixels, C], [1, blocks, 1, 1, C, lanes]
    x, panels = bound.operands
    tile, (_, _, pixels, channels) = tile_for(filters), x.shape
    # the pixels as `count` tiles of `size` pixels; the last ones may have one pixel less
    first, done = 0, 0
    for size, count, pixel_blocks in pixel_blocks_of(pixels, channels, tile.rows):
        # each task: the tiles of one block of pixels, for a part of the filters
        for pixel_block, part in parallel(pixel_blocks, parts):
            start, end = pixel_block * count // pixel_blocks, (pixel_block + 1) * count // pixel_blocks
            # each block of filters: its panel stays in the first two cache levels while the block of pixels passes
            for _, b, valid in part_of_blocks(1, filters, tile.lanes, part, parts):
                panel, first_filter = panels.at(0, b, 0, 0, 0, 0), b * tile.lanes
                block = RowTile(bound, pixel_block + done, panel, first_filter, valid, tile, x, size)
                block.clear_sums()
                for t in loop(end, start=start):
                    block.compute(t * size + first)
        first, done = first + size * count, done + pixel_blocks


@dataclass(frozen=True)
class RowTile(FilterTile):
    """Register tiles of `size` neighbours in x [1, 1, pixels, C] x a block of filters."""

    x: Array
    size: int

    def compute(self, pixel: Index) -> None:
        """The outputs of the pixels from `pixel` on, for all filters of the block.

        The next tile's pixels are fetched early: from memory they come in as many short streams as a tile has pixels,
        which the hardware's prefetcher does not follow.
        """
        # [pixels, vectors of filters] in registers
        sums, channels = self.sums(self.size), self.panel.shape[4]
        pixels = [(0, 0, pixel + i) for i in range(self.size)]
        self.bound.prefetch(pixels, self.first_filter, self.valid)
        row, steps = self.x.at(0, 0, pixel, 0), unroll_factor(channels)
        for c, place in unrolled(channels):
            if place == 0 and steps >= MIN_STEPS_TO_PREFETCH:
                for i in range(self.size):
                    row.prefetch((0, 0, i + self.size, c))
            self.multiply(sums, self.panel, c, (row[0, 0, i, c] for i in range(self.size)))
        self.store(sums, pixels)
