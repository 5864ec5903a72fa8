"""1x1 convolution and its gradient in x: a matrix product [N H W, C] x [C, K], which knows neither rows nor columns nor
images.

The register tile is pixels x filters, as direct.py derives it; what differs is that its pixels may lie in any rows and
images, since all of them are one row in memory.
"""

from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import Array, Index, l2, loop, maximum, minimum, parallel
from foveal.ops.kernels.conv.filter_tile import FilterTile
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Tile,
    ceil_div,
    counted,
    part_of_blocks,
    split,
    tile_for,
    unroll_factor,
    unrolled,
)
from foveal.ops.kernels.sizes import CallSizes, spec_of
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
    _, channels, _, pixels = x.shape
    tile = tile_for(filters)
    pieces = split(pixels, tile.rows)
    tasks = sum(int(pixel_blocks_of(size, count, channels)) for size, count in pieces)
    division = Division(
        tile,
        tuple(size for size, _ in pieces),
        tail=filters % tile.lanes,
        unroll=unroll_factor(channels),
        far=tuple(exceeds_l2(extra) for extra in y.extras),
    )
    sizes = CallSizes()
    # by rank: the axes that are known, of partial sums, images and panels
    known = {3: (1,), 4: (0, 1), 6: (0, 2, 3, 5)}
    # lines written past the cache must be whole before others push them out: the code knows where they lie
    is_streamed = any(view.spec.streamed for view in y.outputs)

    def spec(view: View) -> ArraySpec:
        if len(view.shape) == 4:
            # outputs and extras of equal strides share the places of their pixels
            read, count = view is inputs[0], len(sizes.values)
            pixel = view.strides[2] if is_streamed and not read else sizes.stride(view.strides[2], "pixel", read)
            channel = sizes.stride(view.strides[3], count)
            extents = (1, 1, sizes.of(pixels, "pixels"), sizes.of(view.shape[3], "channels", read))
            return spec_of(view, extents, (0, 0, pixel, channel))
        return sizes.spec(view, *known[len(view.shape)], steps=(4,))

    inputs = [x.permuted(0, 2, 3, 1), panels]
    y.call(lowering, correlate_1x1, tasks, [], inputs, spec=spec, sizes=sizes.values, division=division)


@dataclass(frozen=True)
class Division:
    """How the work is divided, as far as code depends on it."""

    tile: Tile
    #: the numbers of pixels of a tile: one, or two of which the second is one less
    pixels: tuple[int, ...]
    #: filters of the last block, if it has fewer than the others, else 0
    tail: int
    #: channels that one iteration takes
    unroll: int
    #: for each extra of the epilogue, if it has to be prefetched
    far: tuple[bool, ...]


def pixel_blocks_of(size: int, count: Index, channels: Index) -> Index:
    """The number of blocks that `count` tiles of `size` pixels are cut into."""
    needed = maximum(ceil_div(count * size * channels, pixel_block_elements()), ENOUGH_TASKS)
    return minimum(count, needed)


def correlate_1x1(*arrays: Array, division: Division, epilogue: Epilogue) -> None:
    """y[pixel, k] = sum_c x[pixel, c] panels[k // lanes, c, k % lanes], a register tile at a time.

    A block of pixels stays in the second-level cache while all panels pass.
    """
    bound = BoundEpilogue(epilogue, arrays, 2, division.far)
    # [1, 1, pixels, C], [1, blocks, 1, 1, C, lanes]
    x, panels = bound.operands
    tile, (_, _, pixels, channels), filters = division.tile, x.extents, bound.outputs[0].extents[3]
    # the pixels as `count` tiles of `size` pixels; the last ones may have one pixel less
    pieces = counted(pixels, division.pixels, tile.rows)
    blocks = [pixel_blocks_of(size, n, channels) for size, n in pieces]
    tasks: Index = sum(blocks)
    parts = minimum(panels.extents[1], ceil_div(ENOUGH_TASKS, tasks))
    first: Index = 0
    done: Index = 0
    for (size, count), pixel_blocks in zip(pieces, blocks, strict=True):
        # each task: the tiles of one block of pixels, for a part of the filters
        for pixel_block, part in parallel(pixel_blocks, parts):
            start, end = pixel_block * count // pixel_blocks, (pixel_block + 1) * count // pixel_blocks
            # each block of filters: its panel stays in the first two cache levels while the block of pixels passes
            for _, b, valid in part_of_blocks(1, filters, tile.lanes, part, parts, division.tail):
                panel, first_filter = panels.at(0, b, 0, 0, 0, 0), b * tile.lanes
                block = RowTile(
                    bound, pixel_block + done, panel, first_filter, valid, tile, x, size, channels, division.unroll
                )
                block.clear_sums()
                for t in loop(end, start=start):
                    block.compute(t * size + first)
        first, done = first + count * size, done + pixel_blocks


@dataclass(frozen=True)
class RowTile(FilterTile):
    """Register tiles of `size` neighbours in x [1, 1, pixels, C] x a block of filters."""

    x: Array
    size: int
    channels: Index
    unroll: int

    def compute(self, pixel: Index) -> None:
        """The outputs of the pixels from `pixel` on, for all filters of the block.

        The next tile's pixels are fetched early: from memory they come in as many short streams as a tile has pixels,
        which the hardware's prefetcher does not follow.
        """
        # [pixels, vectors of filters] in registers
        sums = self.sums(self.size)
        pixels = [(0, 0, pixel + i) for i in range(self.size)]
        self.bound.prefetch(pixels, self.first_filter, self.valid)
        row = self.x.at(0, 0, pixel, 0)
        for c, place in unrolled(self.channels, self.unroll):
            if place == 0 and self.unroll >= MIN_STEPS_TO_PREFETCH:
                for i in range(self.size):
                    row.prefetch((0, 0, i + self.size, c))
            self.multiply(sums, self.panel, c, (row[0, 0, i, c] for i in range(self.size)))
        self.store(sums, pixels)
