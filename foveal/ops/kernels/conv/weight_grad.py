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
"""

from dataclasses import dataclass, replace

from foveal.kernel.lang import (
    Array,
    Index,
    Scalar,
    Value,
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
from foveal.ops.kernels.conv.conv1x1 import evenly_spaced, one_row
from foveal.ops.kernels.halo import Border, bordered, nhwc, stage_band, zero_buffer
from foveal.ops.kernels.partial_sums import lower_kernel_sums
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    ceil_div,
    lane_ranges,
    part_of_blocks,
    split,
    tile_for,
)
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.strides import Shape
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


def max_partial_elements() -> int:
    """Elements of the sums of all chunks: a quarter of the last-level cache, from which they are read again."""
    return llc() // 4 // FLOAT_BYTES


@dataclass(frozen=True)
class Division:
    """How the work is divided."""

    groups: int
    #: images of a unit, and bands of rows that an image is cut into: one of the two is 1
    images: int
    bands: int
    #: parts that the blocks of filters of a chunk are cut into: tasks are (chunk, part)
    parts: int
    #: True if a row of the kernel is one range of weights (s, c), for few channels
    row_is_range: bool


def lower(
    lowering: Lowering, dw: View, dy: View, x: View, axes: Axes, first: Pair, used_size: Pair, groups: int
) -> None:
    """Add the kernels of dw [K, C/G, R, S], for dy [N, K, P, Q] and x [N, C, H, W].

    Only `used_size` = (rows, columns) of the taps from `first` on meet the image; axes count from `first`.
    """
    K, c_group, R, S = dw.shape
    dy, x, axes = pixels_in_one_column(dy, x, axes, used_size)
    N, _, P, Q = dy.shape
    row_is_range = groups == 1 and c_group < FEW_CHANNELS and used_size[1] > 1 and axes[1][0].tap_step == 1
    # the buffer with the padding holds one image, so a unit must not have more
    one_image = row_is_range and bordered(axes, (x.shape[2], x.shape[3]), P) is not None
    images, bands = unit_size(x.shape, (P, Q), one_image)
    units = ceil_div(N, images) * bands
    # weights with a sum of their own in each chunk
    size = K * c_group * used_size[0] * used_size[1]
    chunks = max(1, min(units, MAX_CHUNKS, N * P * Q // MIN_PIXELS, max_partial_elements() // size))
    # blocks of filters as wide as a register tile, of all groups
    blocks = groups * ceil_div(K // groups, tile_for(K // groups).lanes)
    parts = min(blocks, ceil_div(ENOUGH_TASKS, chunks))
    # where rows are ranges a unit is copied into a buffer with its padding, so that all pixels have all taps
    border = bordered(axes, (x.shape[2], x.shape[3]), ceil_div(P, bands)) if row_is_range else None
    halo = lowering.scratch((1, border.rows, border.columns, c_group) if border else (1, 1, 1, 1), per_thread=True)
    # a single chunk of all taps needs no scratch memory: its sums are the result
    result = dw.permuted(2, 3, 1, 0)
    in_place = chunks == 1 and used_size == (R, S)
    partial = result.reshaped((1, *result.shape)) if in_place else lowering.scratch((chunks, *used_size, c_group, K))
    sums = partial.reshaped((chunks, used_size[0], 1, used_size[1] * c_group, K)) if row_is_range else partial
    division = Division(groups, images, bands, parts, row_is_range)
    lowering.call(weight_grad, [sums, halo], [nhwc(dy), nhwc(x)], axes=axes, border=border, division=division)
    if not in_place:
        lower_kernel_sums(lowering, dw, partial, first)


def pixels_in_one_column(dy: View, x: View, axes: Axes, used_size: Pair) -> tuple[View, View, Axes]:
    """A 1x1 convolution of evenly spaced pixels seen as one image of one column, so that its inner loops are long.

    Returns dy as [1, K, N P Q, 1], x as [1, C, N H W, 1] and their axes; those of any other convolution unchanged.
    """
    aligned = used_size == (1, 1) and all(t.input_step == 1 and t.origin == 0 for (t,) in axes)
    if not (aligned and dy.shape[2:] == x.shape[2:] and evenly_spaced(dy) and evenly_spaced(x)):
        return dy, x, axes
    dy, x = (one_row(v).permuted(0, 1, 3, 2) for v in (dy, x))
    (rows,), (columns,) = axes
    return dy, x, ((replace(rows, count=dy.shape[2]),), (replace(columns, count=1),))


def unit_size(x: Shape, outputs: Pair, one_image: bool) -> Pair:
    """(images of a unit, bands of output rows of an image), one of which is 1, for x [N, C, H, W].

    outputs: (P, Q). one_image: a unit must not have more than one image.
    """
    N, C, H, W = x
    image, (P, Q) = C * H * W, outputs
    # bands that are small enough for the cache, and where images are few, as many as all tasks need, but not so many
    # that a band has less than MIN_PIXELS pixels
    bands = max(ceil_div(image, max_unit_elements()), min(ceil_div(ENOUGH_TASKS, N), P * Q // MIN_PIXELS))
    if bands > 1:
        return 1, min(P, bands)
    # whole images: as many as fit into the cache and leave a unit for each task
    return 1 if one_image else min(N, max_unit_elements() // image, ceil_div(N, ENOUGH_TASKS)), 1


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
    partial: Array, halo: Array, dy: Array, x: Array, *, axes: Axes, border: Border | None, division: Division
) -> None:
    """partial[chunk, r, s, c, k] = sum over the pixels of a chunk of units of x * dy.

    partial: [chunks, R, S, c_group, K], or [chunks, R, 1, S c_group, K] where a row of the kernel is one range of
    weights; R x S are the taps that meet the image. dy: [N, P, Q, K]; x: [N, H, W, C]; halo [1, rows, columns, C] per
    thread, which the first index selects: a unit of x with a border of zeros, if there is a border.
    """
    chunks, *_, K = partial.shape
    (N, P, _, _), images, bands = dy.shape, division.images, division.bands
    filters, units = K // division.groups, ceil_div(N, images) * bands
    tile = tile_for(filters)
    if border:
        zero_buffer(halo)
    # a task is a chunk of units and a part of the blocks of filters
    for chunk, part in parallel(chunks, division.parts):
        # all taps meet padding only
        if not all(taps[0].taps for taps in axes):
            store_zeros(partial, chunk, part, division)
            continue
        begin = chunk * units // chunks
        # the units of the chunk
        for number in loop((chunk + 1) * units // chunks, start=begin):
            n, band = (number // bands, number % bands) if bands > 1 else (number * images, 0)
            rows_of_band = band * P // bands, (band + 1) * P // bands
            unit = Unit(n, minimum(n + images, N), *rows_of_band, chunks == units or number == begin)
            source = x
            if border:
                top = unit.top * axes[0][0].input_step + border.top
                stage_band(halo, x, n, top, border.left)
                source = halo.at(thread(), 0 - top, -border.left, 0)
            # blocks of filters as wide as a register tile; x of the unit is in the second-level cache after the first
            for group, b, valid in part_of_blocks(division.groups, filters, tile.lanes, part, division.parts):
                k = group * filters + b * tile.lanes
                # [., R, S, c_group, K] of this chunk and [N, H, W, C] from this group on; dy from this filter on
                into, image = partial.at(chunk, 0, 0, 0, k), source.at(0, 0, 0, group * partial.shape[3])
                sums = UnitSums(into, image, dy.at(0, 0, 0, k), unit, axes, lane_ranges(valid, tile.width))
                if division.row_is_range:
                    sums.add_ranges(copied=border is not None)
                else:
                    sums.add_channels(rows_ahead=ceil_div(P, bands) if bands > 1 else 0)


def store_zeros(partial: Array, chunk: Index, part: Index, division: Division) -> None:
    """Set a chunk's sums of a part of the filters to zero."""
    _, R, S, channels, K = partial.shape
    filters = K // division.groups
    tile = tile_for(filters)
    for group, b, valid in part_of_blocks(division.groups, filters, tile.lanes, part, division.parts):
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
    #: [N, P, Q, K] from the first filter of the block on
    dy: Array
    unit: Unit
    axes: Axes
    #: (start, width) of the vectors of filters of the block
    vectors: list[Pair]

    @property
    def max_rows(self) -> int:
        """Rows of a register tile: its sums take three quarters of the registers."""
        return registers() * 3 // 4 // len(self.vectors)

    def add_channels(self, rows_ahead: int) -> None:
        """Register tiles of channels x filters, for one tap after the other.

        Each tap passes over the pixels where it meets the image. rows_ahead: rows of outputs from here to the next
        unit, which are prefetched where the kernel has one tap, since x is then read only once; 0 where units are not
        bands.
        """
        _, R, S, channels, _ = self.into.shape
        (rows,), (columns,) = self.axes
        # taps
        for r, s in loops(R, S):
            # output rows and columns where tap (r, s) meets the image: outputs and taps swap their roles
            (top, bottom), (left, right) = (
                rows.swapped.valid_range(r, self.x.shape[1]),
                columns.swapped.valid_range(s, self.x.shape[2]),
            )
            pixels = Pixels(
                (self.unit.first, self.unit.end),
                (maximum(top, self.unit.top), minimum(bottom, self.unit.bottom)),
                (left, right),
            )
            tap = self.x.at(0, rows.origin + r * rows.tap_step, columns.origin + s * columns.tap_step, 0)
            first = 0
            # near-equal register tiles over the channels
            for size, count in split(channels, self.max_rows):
                for t in loop(count):
                    c = t * size + first
                    sums = self.into.at(0, r, s, c, 0)
                    tile = [((0, i), i) for i in range(size)]
                    self.accumulate(sums, tile, tap.at(0, 0, 0, c), pixels, rows_ahead=rows_ahead if R * S == 1 else 0)
                first += size * count

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
        self,
        into: Array,
        tile: list[tuple[Pair, int]],
        x: Array,
        pixels: "Pixels",
        single_image: bool = False,
        rows_ahead: int = 0,
    ) -> None:
        """into[weight, k] += sum over the pixels of x * dy, or = in the first unit of a chunk, in registers.

        tile: for each row of the register tile (kernel row, weight of the row), and the offset of its x in memory.
        single_image: x holds one image only. rows_ahead: output rows from here to those that are prefetched, if not 0.
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
                for q in loop(pixels.columns[1], start=pixels.columns[0]):
                    pixel = x.at(0 if single_image else n, p * rows.input_step, q * columns.input_step, 0)
                    gradients = [self.dy.load((n, p, q, start), width) for start, width in self.vectors]
                    if rows_ahead:
                        pixel.prefetch((0, rows_ahead * rows.input_step, 0, 0))
                        for start, _ in self.vectors:
                            self.dy.prefetch((n, p + rows_ahead, q, start))
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
