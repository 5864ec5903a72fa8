"""Gradient of a convolution in its weights by direct sums, for any stride, padding, dilation and groups.

    dw[k, c, r, s] = sum over n, p, q of x[n, c, p u + r d - pad, q u + s d - pad] dy[n, k, p, q]

for stride u and dilation d. For each tap (r, s) that is a matrix product [C, pixels] x [pixels, K], over all pixels of
all images. With G groups it is one product [c_group, pixels] x [pixels, K/G] for each of them, where c_group = C/G.

How it comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py derives the peak and the size of
the tile):

    registers       the sums of 12 channels x 32 filters on AVX-512 (6 x 16 on AVX2) at one tap, over all pixels of a
                    unit. A step of the inner loop, one pixel, loads two vectors of dy and broadcasts one number of x
                    for each channel, for 24 (12) FMAs: 0.58 (0.67) loads per FMA. A core starts as many loads as
                    FMAs per cycle, with AVX2 two of each, so the FMAs and not the loads set the pace.
    second level    a unit: its x, which takes at most half of that cache, and its dy

Sums that stay in registers mean that x and dy are read again for every tile. So the pixels are cut into units whose x
takes at most half of the second-level cache, and all tiles of all taps pass over a unit before the next one. A unit is
some images, or a band of rows of one image. Chunks of units are what threads share out; each chunk has sums of its own,
which are added up in order at the end.

Measured: 94 to 98 % of the peak on one core of Zen 4 for 3x3 filters with 64 and more channels, less with few channels
(`foveal bench ops conv2d --threads 1`, rows dw).

The numbers of images, channels and filters come from the call, and of 1x1 convolutions that of pixels too: kernels that
differ in them share one code. Only where a row of the kernel is one range of weights is all of that part of the code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveal.kernel.lang import (
    Array,
    Index,
    Scalar,
    Value,
    l1,
    l2,
    llc,
    loop,
    loops,
    maximum,
    minimum,
    parallel,
    registers,
    splat,
    thread,
    var,
    where,
    width_of,
)
from foveal.ops.kernels.halo import Border, bordered, nhwc, stage_band, zero_buffer
from foveal.ops.kernels.partial_sums import lower_kernel_sums
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Tile,
    ceil_div,
    counted,
    lane_ranges,
    part_of_blocks,
    pieces_of,
    split,
    tile_for,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Chunks at most: two for each of 16 threads, as lower.CHUNKS of a reduction, for where filters are so few that a chunk
# is one task. (ENOUGH_TASKS is a lower bound, which tasks reach with more parts of the filters where chunks are fewer.)
# Each chunk stores sums of its own, [R, S, c_group, K], and all of them are read again at the end.
MAX_CHUNKS = 32

# Pixels of a chunk at least. Storing a sum and adding it up later takes as long as the products of a few pixels, a
# small part of the time of so many.
MIN_PIXELS = 512

# Channels below which a row of the kernel is one range of weights (s, c), which read neighbouring elements of x. So few
# channels alone would leave a part of a register tile empty; whole rows fill it, but need a copy of x with its padding.
FEW_CHANNELS = 16


def max_unit_elements() -> int:
    """Elements of x in a unit: half of the second-level cache. The rest is for dy, and for prefetched rows."""
    return l2() // 2 // FLOAT_BYTES


def panel_pixels(tile: Tile) -> int:
    """Pixels of a unit whose dy is copied: for the filters of a tile, it takes half of the first-level cache."""
    return l1() // 2 // (FLOAT_BYTES * tile.lanes)


def max_partial_elements() -> int:
    """Elements of the sums of all chunks: a quarter of the last-level cache, from which they are read again."""
    return llc() // 4 // FLOAT_BYTES


@dataclass(frozen=True)
class Division:
    """How the work is divided, as far as code depends on it.

    A unit is some images, or a band of rows of one image. Tasks are (chunk of units, part of the blocks of filters).
    """

    groups: int
    #: of a block of filters
    tile: Tile
    #: filters of a group's last block, if it has fewer than the others, else 0
    tail: int
    #: the numbers of channels of a register tile, for whole blocks of filters and for the last
    channels: tuple[tuple[int, ...], tuple[int, ...]]
    #: True if images are cut into bands
    banded: bool
    #: True if each chunk is one unit
    unit_chunks: bool
    #: True if a unit must not have more than one image
    one_image: bool
    #: True if a row of the kernel is one range of weights (s, c), for few channels
    row_is_range: bool
    #: pixels of a chunk at least: MIN_PIXELS
    min_pixels: int
    #: True if dy of a unit is copied: where rows are ranges, and a pixel's filters are more than two blocks
    copied: bool

    def bands(self, x: Sequence[Index], outputs: tuple[Index, Index]) -> Index:
        """Bands of output rows that an image is cut into; x: N and the other axes of x. outputs: (P, Q).

        They are small enough for the cache, and where images are few, as many as all tasks need, but not so many that a
        band has less than `min_pixels` pixels.
        """
        (N, *image), (P, Q) = x, outputs
        enough = minimum(ceil_div(ENOUGH_TASKS, N), P * Q // self.min_pixels)
        if self.copied:
            enough = maximum(enough, ceil_div(P, maximum(panel_pixels(self.tile) // Q, 1)))
        return minimum(P, maximum(ceil_div(math.prod(image), max_unit_elements()), enough))

    def images(self, x: Sequence[Index], outputs: tuple[Index, Index]) -> Index:
        """Images of a unit: where they are whole, as many as fit into the cache and leave a unit for each chunk.

        Each unit reads and writes all sums, which takes as long as the products of a few pixels.
        """
        if self.banded or self.one_image:
            return 1
        N, *image = x
        chunks = power_of_two(N * math.prod(outputs) // self.min_pixels, ENOUGH_TASKS)
        fitting = minimum(max_unit_elements() // math.prod(image), ceil_div(N, chunks))
        if self.copied:
            fitting = minimum(fitting, panel_pixels(self.tile) // math.prod(outputs))
        return maximum(1, minimum(N, fitting))

    def parts(self, filters: Index, chunks: Index) -> Index:
        """Parts that the blocks of filters are cut into, for so many filters of a group."""
        blocks = ceil_div(filters, self.tile.lanes) * self.groups
        return minimum(blocks, ceil_div(ENOUGH_TASKS, chunks))


def power_of_two(n: Index, most: int) -> Index:
    """The largest power of two up to n and `most`, at least 1: so many chunks come out even on 2, 4 and 8 threads."""
    found: Index = 1
    for exponent in range(1, most.bit_length()):
        # twice as many where n is at least that power
        found = found * (1 + minimum(n // (1 << exponent), 1))
    return found


def lower(
    lowering: Lowering, dw: View, dy: View, x: View, axes: Axes, first: Pair, used_size: Pair, groups: int
) -> None:
    """Add the kernels of dw [K, C/G, R, S], for dy [N, K, P, Q] and x [N, C, H, W].

    Only `used_size` = (rows, columns) of the taps from `first` on meet the image; axes count from `first`.
    """
    K, c_group, R, S = dw.shape
    row_is_range = groups == 1 and c_group < FEW_CHANNELS and used_size[1] > 1 and axes[1][0].tap_step == 1
    # weights with a sum of their own in each chunk
    size = K * c_group * used_size[0] * used_size[1]
    # the buffer with the padding holds one image, so a unit must not have more
    one_image = row_is_range and bordered(axes, (x.shape[2], x.shape[3]), dy.shape[2]) is not None
    division, bands, chunks = divided(x, dy, groups, c_group, size, one_image=one_image, row_is_range=row_is_range)
    # where rows are ranges a unit is copied into a buffer with its padding, so that all pixels have all taps
    border = bordered(axes, (x.shape[2], x.shape[3]), ceil_div(dy.shape[2], bands)) if row_is_range else None
    halo = lowering.scratch((1, border.rows, border.columns, c_group) if border else (1, 1, 1, 1), per_thread=True)
    # [1, images, rows, Q, lanes]: dy of a unit for a block of filters, which lie a pixel apart in memory
    rows = ceil_div(dy.shape[2], bands)
    images = int(division.images(nhwc(x).shape, (dy.shape[2], dy.shape[3])))
    copied = (1, images, rows, dy.shape[3], division.tile.lanes) if division.copied else (1,) * 5
    panel = lowering.scratch(copied, per_thread=True)
    # a single chunk of all taps needs no scratch memory: its sums are the result
    result = dw.permuted(2, 3, 1, 0)
    in_place = chunks == 1 and used_size == (R, S)
    partial = result.reshaped((1, *result.shape)) if in_place else lowering.scratch((chunks, *used_size, c_group, K))
    sums = partial.reshaped((chunks, used_size[0], 1, used_size[1] * c_group, K)) if row_is_range else partial
    outputs, inputs, sizes = [sums, halo, panel], [nhwc(dy), nhwc(x)], CallSizes()
    specs = None
    if not row_is_range:
        # the axes whose sizes are known: of sums the taps, of images rows and columns
        specs = [sizes.spec(sums, 1, 2), halo.spec, panel.spec, *(sizes.spec(image, 1, 2) for image in inputs)]
        # nothing is written past the cache
        specs = [replace(spec, streamed=False) for spec in specs]
    lowering.call(
        weight_grad, outputs, inputs, specs=specs, sizes=sizes.values, axes=axes, border=border, division=division
    )
    if not in_place:
        lower_kernel_sums(lowering, dw, partial, first)


def divided(
    x: View, dy: View, groups: int, channels: int, size: int, *, one_image: bool, row_is_range: bool
) -> tuple[Division, int, int]:
    """How the work is divided, the number of bands of an image, and that of chunks.

    channels: of a group. size: the number of weights that each chunk has a sum of.
    """
    N, K, P, Q = dy.shape
    filters = K // groups
    tile = tile_for(filters)
    tail = filters % tile.lanes
    pieces = tuple(pieces_of(channels, most_rows(lane_ranges(n, tile.width))) for n in (tile.lanes, tail or tile.lanes))
    flags = {"one_image": one_image, "row_is_range": row_is_range, "copied": row_is_range and filters > 2 * tile.lanes}
    division = Division(groups, tile, tail, (pieces[0], pieces[1]), False, False, **flags, min_pixels=MIN_PIXELS)
    bands = int(division.bands(x.shape, (P, Q)))
    division = replace(division, banded=bands > 1)
    images = int(division.images(x.shape, (P, Q)))
    units = ceil_div(N, images) * bands
    chunks = max(1, min(units, MAX_CHUNKS, N * P * Q // MIN_PIXELS, max_partial_elements() // size))
    return replace(division, unit_chunks=chunks == units), bands, chunks


def most_rows(vectors: list[Pair]) -> int:
    """Rows of a register tile with these vectors: its sums take three quarters of the registers."""
    return registers() * 3 // 4 // len(vectors)


@dataclass(frozen=True)
class Unit:
    """The pixels of a unit: images first ... end, and of those the output rows top ... bottom."""

    first: Index
    end: Index
    top: Index
    bottom: Index
    #: true for the first unit of a chunk, which stores its sums instead of adding to them
    fresh: bool | Value


def weight_grad(
    partial: Array,
    halo: Array,
    panel: Array,
    dy: Array,
    x: Array,
    *,
    axes: Axes,
    border: Border | None,
    division: Division,
) -> None:
    """partial[chunk, r, s, c, k] = sum over the pixels of a chunk of units of x * dy.

    partial: [chunks, R, S, c_group, K], or [chunks, R, 1, S c_group, K] where a row of the kernel is one range of
    weights; R x S are the taps that meet the image. dy: [N, P, Q, K]; x: [N, H, W, C]. Per thread, which the first
    index selects: halo [1, rows, columns, C], a unit of x with a border of zeros, if there is a border; panel [1,
    images, rows, Q, lanes], dy of a unit for a block of filters, if it is copied.
    """
    chunks, *_, channels, K = partial.extents
    N, P, Q, _ = dy.extents
    bands = division.bands(x.extents, (P, Q)) if division.banded else 1
    images = division.images(x.extents, (P, Q))
    filters, units, tile = K // division.groups, ceil_div(N, images) * bands, division.tile
    parts = division.parts(filters, chunks)
    if border:
        zero_buffer(halo)
    # a task is a chunk of units and a part of the blocks of filters
    for chunk, part in parallel(chunks, parts):
        # all taps meet padding only
        if not all(taps[0].taps for taps in axes):
            store_zeros(partial, chunk, part, parts, division)
            continue
        begin = chunk * units // chunks
        # the units of the chunk
        for number in loop((chunk + 1) * units // chunks, start=begin):
            n, band = (number // bands, number % bands) if division.banded else (number * images, 0)
            rows_of_band = band * P // bands, (band + 1) * P // bands
            unit = Unit(n, minimum(n + images, N), *rows_of_band, division.unit_chunks or number == begin)
            source = x
            if border:
                top = unit.top * axes[0][0].input_step + border.top
                stage_band(halo, x, n, top, border.left)
                source = halo.at(thread(), 0 - top, -border.left, 0)
            # blocks of filters as wide as a register tile; x of the unit is in the second-level cache after the first
            for group, b, valid in part_of_blocks(division.groups, filters, tile.lanes, part, parts, division.tail):
                k = group * filters + b * tile.lanes
                # [., R, S, c_group, K] of this chunk and [N, H, W, C] from this group on; dy from this filter on
                into, image = partial.at(chunk, 0, 0, 0, k), source.at(0, 0, 0, group * channels)
                sums = UnitSums(into, image, dy.at(0, 0, 0, k), unit, axes, lane_ranges(valid, tile.width))
                if division.copied:
                    sums.copy_gradients(panel)
                    sums = replace(sums, dy=panel.at(thread(), 0 - unit.first, 0 - unit.top, 0, 0))
                if division.row_is_range:
                    sums.add_ranges(copied=border is not None)
                else:
                    sums.add_channels(division.channels[valid < tile.lanes])


def store_zeros(partial: Array, chunk: Index, part: Index, parts: Index, division: Division) -> None:
    """Set a chunk's sums of a part of the filters to zero."""
    _, R, S, channels, K = partial.extents
    filters, tile = K // division.groups, division.tile
    for group, b, valid in part_of_blocks(division.groups, filters, tile.lanes, part, parts, division.tail):
        for r, s, c in loops(R, S, channels):
            for lane, width in lane_ranges(valid, tile.width):
                index = (chunk, r, s, c, group * filters + b * tile.lanes + lane)
                partial.store(index, 0.0, width)


@dataclass(frozen=True)
class UnitSums:
    """The sums over the pixels of a unit, for one block of filters."""

    #: [., R, S, c_group, K], or [., R, 1, S c_group, K], from the first filter of the block on
    into: Array
    #: [N, H, W, C] from the first channel of the group on; or a single image with a border of zeros
    x: Array
    #: [N, P, Q, K] from the first filter of the block on; or a panel [., N, P, Q, lanes]
    dy: Array
    unit: Unit
    axes: Axes
    #: (start, width) of the vectors of filters of the block
    vectors: list[Pair]

    @property
    def max_rows(self) -> int:
        """Rows of a register tile at most."""
        return most_rows(self.vectors)

    def copy_gradients(self, panel: Array) -> None:
        """Copy dy of the unit to this thread's panel [., images, rows, Q, lanes], which tiles read from end to end."""
        unit, Q = self.unit, self.dy.shape[2]
        for n in loop(unit.end, start=unit.first):
            for p in loop(unit.bottom, start=unit.top):
                for q in loop(Q):
                    for start, width in self.vectors:
                        place = (thread(), n - unit.first, p - unit.top, q, start)
                        panel.store(place, self.dy.load((n, p, q, start), width), width)

    def add_channels(self, sizes: tuple[int, ...]) -> None:
        """Register tiles of channels x filters, for one tap after the other.

        Each tap passes over the pixels where it meets the image. sizes: the numbers of channels of a tile. rows_ahead:
        rows of outputs from here to the next unit, which are prefetched where the kernel has one tap, since x is then
        read only once; None where units are not bands.
        """
        _, R, S, channels, _ = self.into.extents
        (rows,), (columns,) = self.axes
        # taps
        for r, s in loops(R, S):
            # output rows and columns where tap (r, s) meets the image: outputs and taps swap their roles
            images, band = (self.unit.first, self.unit.end), (self.unit.top, self.unit.bottom)
            (top, bottom), within_row = (
                rows.swapped.valid_range(r, self.x.shape[1]),
                columns.swapped.valid_range(s, self.x.shape[2]),
            )
            pixels = Pixels(images, (maximum(top, band[0]), minimum(bottom, band[1])), within_row)
            tap = self.x.at(0, rows.origin + r * rows.tap_step, columns.origin + s * columns.tap_step, 0)
            first: Index = 0
            # near-equal register tiles over the channels
            for size, count in counted(channels, sizes, self.max_rows):
                for t in loop(count):
                    c = t * size + first
                    sums = self.into.at(0, r, s, c, 0)
                    tile = [((0, i), i) for i in range(size)]
                    self.accumulate(sums, tile, tap.at(0, 0, 0, c), pixels)
                first = first + count * size

    def add_ranges(self, copied: bool) -> None:
        """With few channels: register tiles of weights (s, c), whose x are neighbours in memory, x filters.

        A tile has as many rows of the kernel as fit in. All pixels have all taps. copied: x is the bordered buffer.
        """
        _, R, _, weights, _ = self.into.shape
        (rows,), (columns,) = self.axes
        first = 0
        # near-equal bands of kernel rows
        for height, bands in split(R, max(1, self.max_rows // weights)):
            for band in loop(bands):
                r, start = band * height + first, 0
                # near-equal register tiles over the weights of a row
                for size, count in split(weights, self.max_rows):
                    for t in loop(count):
                        c = t * size + start
                        row = rows.tap_step * self.x.strides[1]
                        tile = [((h, i), h * row + i) for h in range(height) for i in range(size)]
                        source = self.x.at(0, rows.origin + r * rows.tap_step, columns.origin, 0)
                        sums = self.into.at(0, r, 0, c, 0)
                        unit = self.unit
                        pixels = Pixels((unit.first, unit.end), (unit.top, unit.bottom), (0, columns.count))
                        self.accumulate(sums, tile, source.at(0, 0, 0, c), pixels, single_image=copied)
                    start += size * count
            first += height * bands

    def accumulate(
        self, into: Array, tile: list[tuple[Pair, int]], x: Array, pixels: "Pixels", single_image: bool = False
    ) -> None:
        """into[weight, k] += sum over the pixels of x * dy, or = in the first unit of a chunk, in registers.

        tile: for each row of the register tile (kernel row, weight of the row), and the offset of its x in memory.
        single_image: x holds one image only.
        """
        (rows,), (columns,) = self.axes

        def initial(h: int, c: int, start: int, width: int) -> Scalar:
            if self.unit.fresh is True:
                return 0.0
            return where(self.unit.fresh, 0.0, into.load((0, h, 0, c, start), width))

        acc = {
            (i, start): var(initial(h, c, start, width), width)
            for i, ((h, c), _) in enumerate(tile)
            for start, width in self.vectors
        }
        # images, output rows, output columns
        for n in loop(pixels.images[1], start=pixels.images[0]):
            for p in loop(pixels.rows[1], start=pixels.rows[0]):
                for q in loop(pixels.columns[1], start=pixels.columns[0], adds=True):
                    pixel = x.at(0 if single_image else n, p * rows.input_step, q * columns.input_step, 0)
                    place = (0,) * (len(self.dy.shape) - 4) + (n, p, q)
                    gradients = [self.dy.load((*place, start), width) for start, width in self.vectors]
                    # one scalar of x per row of the tile, one FMA per vector of filters
                    for i, (_, offset) in enumerate(tile):
                        scalar = pixel.neighbour(offset)
                        for (start, width), gradient in zip(self.vectors, gradients, strict=True):
                            acc[i, start].fma(splat(scalar, width), gradient)
        for (i, start), total in acc.items():
            (h, c), _ = tile[i]
            into.store((0, h, 0, c, start), total, width_of(total))


@dataclass(frozen=True)
class Pixels:
    """A box of output pixels: (first, end) of the images, rows and columns."""

    images: tuple[Index, Index]
    rows: tuple[Index, Index]
    columns: tuple[Index, Index]
