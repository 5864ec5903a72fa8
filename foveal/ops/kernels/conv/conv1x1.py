"""1x1 convolution and its gradient in x: a matrix product [N H W, C] x [C, K], which knows neither rows nor columns nor
images.

The register tile is pixels x filters, as direct.py derives it; what differs is that its pixels may lie in any rows and
images, since all of them are one row in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import Array, Index, Scalar, l1, l2, lanes, loop, maximum, minimum, parallel, thread, var, where
from foveal.ops.kernels.conv.filter_tile import FilterTile, Pixel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Accumulators,
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
from foveal.ops.window import Pair
from foveal.view import View

# An iteration of the loop over channels prefetches the next tile's pixels if it has at least so many unrolled steps:
# fewer products would not pay for it.
MIN_STEPS_TO_PREFETCH = 4


def pixel_block_elements() -> int:
    """Elements of a block of pixels, which a task reads for every panel: three sixteenths of the second-level cache.

    The rest is for the panel in use, and for the outputs, which pass through; and the cache may have half of the size
    that kernels plan with (see kernel/target.py).
    """
    return l2() * 3 // 16 // FLOAT_BYTES


def max_channels() -> int:
    """Channels of a panel that fit into half of the first-level cache; more are summed up in cuts of so many."""
    return l1() // 2 // (FLOAT_BYTES * 2 * lanes())


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
    blocks, parts = blocks_and_parts(pixels, channels, panels.shape[1], tile)
    division = Division(
        tile,
        tuple(size for size, _ in split(pixels, tile.rows)),
        tail=filters % tile.lanes,
        unroll=unroll_factor(channels),
        far=tuple(exceeds_l2(extra) for extra in y.extras),
        cut=channels > max_channels() * 3 // 2,
    )
    most = ceil_div(ceil_div(pixels, tile.rows), blocks) * tile.rows if division.cut else 1
    sums = lowering.scratch((1, most, tile.lanes), per_thread=True)
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
        if view is sums:
            return ArraySpec(
                (1, sizes.of(most, "sums"), tile.lanes), (sizes.of(view.strides[0], "stride"), tile.lanes, 1)
            )
        return sizes.spec(view, *known[len(view.shape)], steps=(4,))

    inputs = [x.permuted(0, 2, 3, 1), panels]
    given = {"blocks": sizes.of(blocks, "blocks"), "parts": sizes.of(parts, "parts")}
    y.call(lowering, correlate_1x1, blocks, [sums], inputs, spec=spec, sizes=sizes.values, division=division, **given)


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
    #: True if the channels are summed up in cuts, whose sums pass through a buffer
    cut: bool


def blocks_and_parts(pixels: int, channels: int, panels: int, tile: Tile) -> Pair:
    """Blocks of pixels and parts of the filters: enough tasks, blocks that fit the cache, and the least that is read.

    Each block of pixels reads all panels, and each part of the filters all pixels.
    """
    tiles = ceil_div(pixels, tile.rows)
    needed = min(tiles, ceil_div(pixels * channels, pixel_block_elements()))
    pairs = [(max(needed, min(tiles, ceil_div(ENOUGH_TASKS, n))), n) for n in range(1, min(panels, ENOUGH_TASKS) + 1)]
    most = min(ENOUGH_TASKS, max(blocks * parts for blocks, parts in pairs))
    enough = [(blocks, parts) for blocks, parts in pairs if blocks * parts >= most]
    return min(enough, key=lambda pair: pair[0] * panels * tile.lanes + pair[1] * pixels)


def correlate_1x1(*arrays: Array, division: Division, blocks: Index, parts: Index, epilogue: Epilogue) -> None:
    """y[pixel, k] = sum_c x[pixel, c] panels[k // lanes, c, k % lanes], a register tile at a time.

    A block of pixels stays in the second-level cache while all panels pass. blocks: of pixels. parts: of the filters.
    """
    bound = BoundEpilogue(epilogue, arrays, 3, division.far)
    # [1, pixels, lanes] per thread, [1, 1, pixels, C], [1, blocks, 1, 1, C, lanes]
    buffer, x, panels = bound.operands
    tile, (_, _, pixels, channels), filters = division.tile, x.extents, bound.outputs[0].extents[3]
    tiles = ceil_div(pixels, tile.rows)
    # each task: the tiles of one block of pixels, for a part of the filters
    for block, part in parallel(blocks, parts):
        start, end = block * tiles // blocks, (block + 1) * tiles // blocks
        # each block of filters: its panel stays in the first two cache levels while the block of pixels passes
        for _, b, valid in part_of_blocks(1, filters, tile.lanes, part, parts, division.tail):
            panel, first_filter = panels.at(0, b, 0, 0, 0, 0), b * tile.lanes
            rows = RowTile(bound, block, panel, first_filter, valid, tile, x, division.unroll)
            rows.clear_sums()
            if not division.cut:
                for _, pixel, size in tile_positions(pixels, division, start, end):
                    rows.store(rows.products(rows.sums(size), pixel, size, 0, channels), rows.pixels(pixel, size))
                continue
            # cuts of the channels: their part of the panel stays in the first-level cache
            cuts, steps = ceil_div(channels, max_channels()), channels // division.unroll
            for cut in loop(cuts):
                first, last = (i * steps // cuts * division.unroll for i in (cut, cut + 1))
                for row, pixel, size in tile_positions(pixels, division, start, end):
                    of_tile = buffer.at(thread(), row, 0)
                    sums = rows.products(rows.read(of_tile, size, cut == 0), pixel, size, first, last - first)
                    rows.write(of_tile, sums)
            for row, pixel, size in tile_positions(pixels, division, start, end):
                rows.store(rows.read(buffer.at(thread(), row, 0), size, False), rows.pixels(pixel, size))


def tile_positions(pixels: Index, division: Division, start: Index, end: Index) -> Iterator[tuple[Index, Index, int]]:
    """Loops over the tiles start ... end: (row of a buffer for the sums of these tiles, first pixel, pixels)."""
    first: Index = 0
    done: Index = 0
    # the pixels as `count` tiles of `size` pixels; the last ones may have one pixel less
    for size, count in counted(pixels, division.pixels, division.tile.rows):
        for t in loop(minimum(end - done, count), start=maximum(start - done, 0)):
            yield (t + done - start) * division.tile.rows, t * size + first, size
        first, done = first + count * size, done + count


@dataclass(frozen=True)
class RowTile(FilterTile):
    """Register tiles of neighbours in x [1, 1, pixels, C] x a block of filters."""

    x: Array
    unroll: int

    def pixels(self, pixel: Index, size: int) -> list[Pixel]:
        """The places of `size` pixels from `pixel` on."""
        return [(0, 0, pixel + i) for i in range(size)]

    def products(self, sums: Accumulators, pixel: Index, size: int, first: Index, channels: Index) -> Accumulators:
        """sums [pixels, vectors of filters] and the products of `size` pixels from `pixel` on, for all of the block's
        filters and `channels` channels from `first` on.

        The next tile's pixels are fetched early: from memory they come in as many short streams as a tile has pixels,
        which the hardware's prefetcher does not follow.
        """
        self.bound.prefetch(self.pixels(pixel, size), self.first_filter, self.valid)
        row, panel = self.x.at(0, 0, pixel, first), self.panel.at(0, 0, 0, 0, first, 0)
        for c, place in unrolled(channels, self.unroll):
            if place == 0 and self.unroll >= MIN_STEPS_TO_PREFETCH:
                for i in range(size):
                    row.prefetch((0, 0, i + size, c))
            self.multiply(sums, panel, c, (row[0, 0, i, c] for i in range(size)))
        return sums

    def read(self, buffer: Array, size: int, fresh: Scalar) -> Accumulators:
        """The sums of `size` pixels in a buffer [., ., lanes]; zeros if fresh."""
        width, starts = self.tile.width, [start for start, _ in self.ranges]
        return {
            (i, v): var(where(fresh, 0.0, buffer.load((0, i, start), width)), width)
            for i in range(size)
            for v, start in enumerate(starts)
        }

    def write(self, buffer: Array, sums: Accumulators) -> None:
        """Store sums to a buffer [., ., lanes]."""
        for (i, v), total in sums.items():
            buffer.store((0, i, self.ranges[v][0]), total, self.tile.width)
