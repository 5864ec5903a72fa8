"""1x1 convolution and its gradient in x: a matrix product [N H W, C] x [C, K], which knows neither rows nor columns nor
images.

The register tile is pixels x filters, as direct.py derives it; what differs is that its pixels may lie in any rows and
images, since all of them are one row in memory. A block of pixels passes for each panel of filters, or, where all
panels fit into the first-level cache, all panels pass for each tile of pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import (
    LINE,
    Array,
    Index,
    Scalar,
    l1,
    l2,
    lanes,
    loop,
    maximum,
    minimum,
    parallel,
    registers,
    thread,
    var,
    vectors,
    where,
)
from foveal.ops.kernels.conv.filter_tile import FilterTile, Pixel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Accumulators,
    Tile,
    ceil_div,
    conflicts,
    counted,
    part_of_blocks,
    split,
    tile_for,
    unroll_factor,
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
    division = PixelDivision(
        tile,
        tuple(size for size, _ in split(pixels, tile.rows)),
        tail=filters % tile.lanes,
        unroll=unroll_factor(channels),
        far=tuple(exceeds_l2(extra) for extra in y.extras),
        cut=channels > max_channels() * 3 // 2,
        copied=conflicts(x.strides[3]),
        rest=channels % lanes() if conflicts(x.strides[3]) else 0,
        pixels_first=FLOAT_BYTES * channels * panels.shape[1] * tile.lanes <= l1() // 2,
    )
    # pixels of a block at most
    most = ceil_div(ceil_div(pixels, tile.rows), blocks) * tile.rows
    sums = lowering.scratch((1, most if division.cut else 1, tile.lanes), per_thread=True)
    copy = lowering.scratch((1, 1, most, channels + LINE) if division.copied else (1,) * 4, per_thread=True)
    sizes = CallSizes()
    # by rank: the axes that are known, of partial sums, images and panels
    known = {3: (1,), 4: (0, 1), 6: (0, 2, 3, 5)}
    # lines written past the cache must be whole before others push them out: the code knows where they lie
    is_streamed = any(view.spec.streamed for view in y.outputs)

    def spec(view: View) -> ArraySpec:
        if view is sums or view is copy:
            rank = len(view.shape)
            inner = [sizes.of(n, "scratch", rank, i) for i, n in enumerate((*view.shape[1:], *view.strides[:-1]))]
            return ArraySpec((1, *inner[: rank - 1]), (*inner[rank - 1 :], 1))
        if len(view.shape) == 4:
            # outputs and extras of equal strides share the places of their pixels
            read, count = view is inputs[0], len(sizes.values)
            pixel = view.strides[2] if is_streamed and not read else sizes.stride(view.strides[2], "pixel", read)
            channel = sizes.stride(view.strides[3], count)
            extents = (1, 1, sizes.of(pixels, "pixels"), sizes.of(view.shape[3], "channels", read))
            return spec_of(view, extents, (0, 0, pixel, channel))
        return sizes.spec(view, *known[len(view.shape)], steps=(4,))

    inputs = [x.permuted(0, 2, 3, 1), panels]
    given = {"blocks": sizes.of(blocks, "blocks"), "parts": sizes.of(parts, "parts")}
    scratch = [sums, copy]
    y.call(lowering, correlate_1x1, blocks, scratch, inputs, spec=spec, sizes=sizes.values, division=division, **given)


@dataclass(frozen=True)
class PixelDivision:
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
    #: True if a block of pixels is copied, a line further apart
    copied: bool
    #: channels after whole vectors
    rest: int
    #: True if all panels, which fit into half of the first-level cache, pass before the next tile of pixels
    pixels_first: bool


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


def correlate_1x1(*arrays: Array, division: PixelDivision, blocks: Index, parts: Index, epilogue: Epilogue) -> None:
    """y[pixel, k] = sum_c x[pixel, c] panels[k // lanes, c, k % lanes], a register tile at a time.

    A block of pixels stays in the second-level cache while all panels pass. blocks: of pixels. parts: of the filters.
    """
    bound = BoundEpilogue(epilogue, arrays, 4, division.far)
    # per thread [1, pixels, lanes] and [1, 1, pixels, C + LINE]; [1, 1, pixels, C], [1, blocks, 1, 1, C, lanes]
    buffer, copy, x, panels = bound.operands
    pixels = x.extents[2]
    tiles = ceil_div(pixels, division.tile.rows)
    # each task: the tiles of one block of pixels, for a part of the filters
    for block, part in parallel(blocks, parts):
        start, end = block * tiles // blocks, (block + 1) * tiles // blocks
        source = copy_block(copy, x, division, start, end) if division.copied else x
        task = Task(bound, division, block, part, parts, source, pixels, panels, start, end)
        if division.pixels_first:
            task.pass_pixels()
        elif division.cut:
            task.pass_cuts(buffer)
        else:
            task.pass_panels()


@dataclass(frozen=True)
class Task:
    """A block of pixels, for a part of the filters."""

    bound: BoundEpilogue
    division: PixelDivision
    #: the block's number
    block: Index
    #: the part's number, and how many there are
    part: Index
    parts: Index
    #: [1, 1, pixels, C], or a copy of it, and how many pixels it has
    x: Array
    pixels: Index
    #: [1, blocks, 1, 1, C, lanes]
    panels: Array
    #: the first tile of the block, and the one after its last
    start: Index
    end: Index

    def row_tiles(self) -> Iterator["RowTile"]:
        """A loop over the blocks of filters of the part: what computes their register tiles."""
        tile, filters = self.division.tile, self.bound.outputs[0].extents[3]
        for _, b, valid in part_of_blocks(1, filters, tile.lanes, self.part, self.parts, self.division.tail):
            panel = self.panels.at(0, b, 0, 0, 0, 0)
            yield RowTile(self.bound, self.block, panel, b * tile.lanes, valid, tile, self.x, self.division.unroll)

    def tile_positions(self) -> Iterator[tuple[Index, Index, int]]:
        """Loops over the tiles: (row of a buffer for the sums of these tiles, first pixel, pixels)."""
        return tile_positions(self.pixels, self.division, self.start, self.end)

    def pass_panels(self) -> None:
        """Each panel stays in the first two cache levels while the block of pixels passes."""
        channels = self.panels.extents[4]
        for rows in self.row_tiles():
            rows.clear_sums()
            for _, pixel, size in self.tile_positions():
                rows.store(rows.products(rows.sums(size), pixel, size, 0, channels), rows.pixels(pixel, size))

    def pass_pixels(self) -> None:
        """All panels stay in the first-level cache, and each pixel's outputs are read and written from end to end.

        With lines that lie a pixel apart, an epilogue that reads an image from memory makes the kernel take 1.3 and 1.2
        times as long on Zen 3 (16 -> 96 and 24 -> 144 channels). What it reads is fetched a tile of pixels ahead: with
        few channels the products with one panel take less time than memory.
        """
        channels = self.panels.extents[4]
        for rows in self.row_tiles():
            rows.clear_sums()
        for _, pixel, size in self.tile_positions():
            for rows in self.row_tiles():
                sums = rows.products(rows.sums(size), pixel, size, 0, channels, ahead=size)
                rows.store(sums, rows.pixels(pixel, size))

    def pass_cuts(self, buffer: Array) -> None:
        """`pass_panels` for many channels: in cuts, whose part of a panel stays in the first-level cache.

        buffer: the sums of the block's pixels, per thread [1, pixels, lanes].
        """
        channels, unroll = self.panels.extents[4], self.division.unroll
        cuts, steps = ceil_div(channels, max_channels()), channels // unroll
        for rows in self.row_tiles():
            rows.clear_sums()
            for cut in loop(cuts):
                first, last = (i * steps // cuts * unroll for i in (cut, cut + 1))
                for row, pixel, size in self.tile_positions():
                    of_tile = buffer.at(thread(), row, 0)
                    sums = rows.products(rows.read(of_tile, size, cut == 0), pixel, size, first, last - first)
                    rows.write(of_tile, sums)
            for row, pixel, size in self.tile_positions():
                rows.store(rows.read(buffer.at(thread(), row, 0), size, False), rows.pixels(pixel, size))


def copy_block(copy: Array, x: Array, division: PixelDivision, start: Index, end: Index) -> Array:
    """Copy the pixels of the tiles start ... end; returns the copy, in which a pixel has the same indices as in x."""
    _, _, pixels, channels = x.extents
    (larger, count), *_ = counted(pixels, division.pixels, division.tile.rows)
    # the first pixel of each tile; a tile after the larger ones has one pixel less
    first, last = (t * larger - maximum(t - count, 0) for t in (start, end))
    for pixel in loop(last, start=first):
        for c, width in vectors(channels, tail=division.rest):
            copy.store((thread(), 0, pixel - first, c), x.load((0, 0, pixel, c), width), width)
    return copy.at(thread(), 0, 0 - first, 0)


def tile_positions(
    pixels: Index, division: PixelDivision, start: Index, end: Index
) -> Iterator[tuple[Index, Index, int]]:
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

    def products(
        self, sums: Accumulators, pixel: Index, size: int, first: Index, channels: Index, ahead: int = 0
    ) -> Accumulators:
        """sums [pixels, vectors of filters] and the products of `size` pixels from `pixel` on, for all of the block's
        filters and `channels` channels from `first` on. ahead: pixels from these to those of which what the epilogue
        reads is fetched.

        The next tile's pixels are fetched early: from memory they come in as many short streams as a tile has pixels,
        which the hardware's prefetcher does not follow.
        """
        self.bound.prefetch(self.pixels(pixel + ahead, size), self.first_filter, self.valid)
        row, panel = self.x.at(0, 0, pixel, first), self.panel.at(0, 0, 0, 0, first, 0)
        for group in loop(channels // self.unroll):
            c = group * self.unroll
            if self.unroll >= MIN_STEPS_TO_PREFETCH:
                for i in range(size):
                    row.prefetch((0, 0, i + size, c))
            # The call gives the distance of pixels, and 12 addresses are too many for the integer registers. LLVM would
            # read all numbers of a pixel, of all unrolled steps, before those of the next, and spill most of them.
            for place in loop(self.unroll) if registers() >= 32 else range(self.unroll):
                self.multiply(sums, panel, c + place, (row[0, 0, i, c + place] for i in range(size)))
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
