"""Gradient of a 1x1 convolution in its weights: a product of matrices that are both read along their long side.

    dw[k, c] = sum over pixels of x[pixel, c] dy[pixel, k]

A register tile is some channels x some vectors of filters, summed over many pixels. Where images lie in memory, a tile
would read a part of a cache line per pixel, at distances that are often powers of two: as many pages as pixels, and
lines that fall into the same few sets of the cache. So a task first copies the pixels of a unit, once, into the order
in which tiles read them, and all tiles of its channels and filters then pass over the copies.

    registers       the sums of 6 channels x 16 filters on AVX2 (12 x 32 on AVX-512), or of 4 x 24 (8 x 48) where these
                    leave fewer lanes empty. A pixel takes two (three) vectors of dy and six (four) broadcast numbers of
                    x for 12 FMAs: 0.67 (0.58) loads per FMA, so the FMAs and not the loads set the pace.
    first level     a panel of dy, the pixels of a unit x the filters of a tile: half of that cache
    second level    x of the unit, of which tiles read one run after the other, and the other panels of dy

Copying costs a load and a store per tile of channels and per vector of filters, for each pixel. It is repeated by all
tasks that share pixels, so that `parts_of` cuts channels and filters in the way that copies least.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import (
    LINE,
    Array,
    Index,
    Scalar,
    l1,
    l2,
    llc,
    loop,
    maximum,
    minimum,
    parallel,
    registers,
    thread,
    var,
    walk,
    where,
)
from foveal.ops.kernels.conv.conv1x1 import evenly_spaced, one_row
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.partial_sums import lower_kernel_sums
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Accumulators,
    Tile,
    ceil_div,
    counted,
    lane_ranges,
    multiply_add,
    part_of_blocks,
    pieces_of,
    tile_for,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Chunks of pixels at most: two for each of 16 threads. Each stores sums of its own, [C, K], and all of them are read
# again at the end.
MAX_CHUNKS = 32

# Pixels of a chunk at least. Storing a sum and adding it up later takes as long as the products of a few pixels.
MIN_PIXELS = 512

# Pixels of a unit at least, where channels and filters are so many that the copies leave the second-level cache: a sum
# is read and written once per unit, which takes as long as the products of a few pixels.
MIN_UNIT = 64

# Pixels that one iteration of the loop over a unit takes; the copies are filled up with zeros to whole iterations.
UNROLL = 4

# Elements after each copied tile, one cache line, so that tiles do not lie a power of two apart: such addresses fall
# into the same few sets of the first-level cache. What a copy of whole vectors writes beyond its tile lands there.
GAP = 16

# Cycles that a pixel's copy takes for each tile of channels and for each vector of filters, and cycles that reading and
# writing a vector of sums takes, once per unit.
COPYING_X, COPYING_DY, PASSING_SUM = 2.5, 1.5, 2

# Cycles that pass until an FMA's sum can be added to again, and FMAs, or loads, that begin in a cycle.
LATENCY, PORTS = 4, 2


def max_partial_elements() -> int:
    """Elements of the sums of all chunks: a quarter of the last-level cache, from which they are read again."""
    return llc() // 4 // FLOAT_BYTES


def max_unit_pixels(tile: Tile) -> int:
    """Pixels of a unit at most: a panel of dy takes half of the first-level cache."""
    return l1() // 2 // (FLOAT_BYTES * tile.lanes)


def max_copied_elements() -> int:
    """Elements of a unit's copies: an eighth of the second-level cache. The next unit is fetched into it meanwhile.

    Half of the cache is all that may be planned with: one of half the size that kernels plan with is of the same class
    (see kernel/target.py).
    """
    return l2() // 8 // FLOAT_BYTES


def max_unit_elements() -> int:
    """Elements of a unit that tiles read where it lies: five eighths of the first-level cache."""
    return l1() * 5 // 8 // FLOAT_BYTES


def fits(dy: View, x: View, axes: Axes, used_size: Pair, groups: int) -> bool:
    """True if each output reads one pixel of x, which lies in the image; for dy [N, K, P, Q] and x [N, C, H, W]."""
    if used_size != (1, 1) or groups > 1:
        return False
    taps = [phases[0] for phases in axes]
    inside = all(t.taps == 1 and t.low >= 0 and t.high < n for t, n in zip(taps, x.shape[2:], strict=True))
    return inside and dy.strides[1] == x.strides[1] == 1


def tile_of(channels: int, filters: int) -> Tile:
    """The register tile of so many channels and filters: two or three vectors of filters, whichever takes less time."""
    narrow = tile_for(filters)
    if narrow.vectors == 1:
        return narrow
    tiles = [Tile(narrow.width, vectors, registers() * 3 // 4 // vectors) for vectors in (2, 3)]
    return min(tiles, key=lambda tile: cycles_of(tile, channels, filters))


def cycles_of(tile: Tile, channels: int, filters: int) -> float:
    """Cycles per pixel of all tiles, full ones and those of the last filters, and of copying x."""
    blocks, rest = divmod(ceil_div(filters, tile.width), tile.vectors)
    rows = tile.rows
    of_tile = [max(rows * n / PORTS, LATENCY, (rows + n) / PORTS) if n else 0 for n in (tile.vectors, rest)]
    return (channels / rows) * (blocks * of_tile[0] + of_tile[1] + 1)


def parts_of(tasks: int, channels: int, filters: int, tile: Tile) -> Pair:
    """Parts of the channels and of the filters, `tasks` together if there are so many tiles, that copy least.

    Each part of the channels copies dy, and each part of the filters x.
    """
    tiles, blocks = ceil_div(channels, tile.rows), ceil_div(filters, tile.lanes)
    pairs = [(a, min(blocks, ceil_div(tasks, a))) for a in range(1, min(tasks, tiles) + 1)]
    most = max(a * b for a, b in pairs)
    enough = [(a, b) for a, b in pairs if a * b >= min(tasks, most)]
    return min(enough, key=lambda parts: parts[0] * blocks * tile.vectors + parts[1] * tiles)


def is_short(tile: Tile, channels: int, filters: int) -> bool:
    """True if a pixel has so few numbers that tiles read units where they lie.

    A unit that is some neighbouring pixels as a whole fills the first-level cache evenly. It has the fewer pixels the
    more numbers they have, and each tile of a unit reads and writes its sums.
    """
    tiles, vectors = channels / tile.rows, filters / tile.width
    pixels = max_unit_elements() / (channels + filters)
    return tiles * vectors * tile.rows * PASSING_SUM / pixels < tiles * COPYING_X + vectors * COPYING_DY


@dataclass(frozen=True)
class Division:
    """How the work is divided, as far as code depends on it."""

    tile: Tile
    #: the numbers of channels of a register tile: one, or two of which the second is one less
    channels: tuple[int, ...]
    #: filters of the last block, if it has fewer than the others, else 0
    tail: int
    #: True if tiles read units where they lie, without a copy
    short: bool
    #: True if the next unit is fetched: its pixels are neighbours, and no other task copies them
    fetches: bool


def read_pixels(x: View, axes: Axes) -> View:
    """The pixels of x [N, C, H, W] that outputs read, as [N, C, P, Q]."""
    (rows,), (columns,) = axes
    N, C, _, _ = x.shape
    by_image, by_channel, by_row, by_column = x.strides
    strides = (by_image, by_channel, by_row * rows.input_step, by_column * columns.input_step)
    read = x.over((N, C, rows.count, columns.count), strides)
    return replace(read, offset=x.offset + rows.origin * by_row + columns.origin * by_column)


def lower(lowering: Lowering, dw: View, dy: View, x: View, axes: Axes, first: Pair) -> None:
    """Add the kernels of dw [K, C, R, S], for dy [N, K, P, Q] and x [N, C, H, W], whose one tap is at `first`.

    Tasks are (chunk of pixels, part of the channels, part of the filters).
    """
    K, C, R, S = dw.shape
    images = [dy, read_pixels(x, axes)]
    is_one_row = all(evenly_spaced(image) for image in images)
    dy, x = (nhwc(one_row(image) if is_one_row else image) for image in images)
    pixels = math.prod(dy.shape[:3])
    tile = tile_of(C, K)
    chunks = max(1, min(pixels // MIN_PIXELS, MAX_CHUNKS, max_partial_elements() // (C * K)))
    x_parts, dy_parts = parts_of(ceil_div(ENOUGH_TASKS, chunks), C, K, tile)
    # tiles of channels and blocks of filters of a part, at most
    tiles = ceil_div(ceil_div(C, tile.rows), x_parts)
    blocks = ceil_div(K // tile.lanes, dy_parts) + (K % tile.lanes > 0)
    is_whole = is_one_row and x_parts * dy_parts == 1
    short = is_whole and is_short(tile, C, K)
    unit = unit_of(pixels, tile, tiles, blocks, short)
    chunks = min(chunks, ceil_div(pixels, unit))
    copies = [
        lowering.scratch((1, 1, 1) if short else (1, count, max_unit_pixels(tile) * width + GAP), per_thread=True)
        for count, width in ((tiles, tile.rows), (blocks, tile.lanes))
    ]
    result = dw.permuted(2, 3, 1, 0)
    in_place = chunks == 1 and (R, S) == (1, 1)
    partial = result.reshaped((1, *result.shape)) if in_place else lowering.scratch((chunks, 1, 1, C, K))
    sizes = CallSizes()
    specs = [
        sizes.spec(partial, 1, 2),
        *(copy_spec(copy, sizes) for copy in copies),
        *(sizes.spec(image, *((0, 1) if is_one_row else ())) for image in (dy, x)),
    ]
    lowering.call(
        weight_grad_1x1,
        [partial, *copies],
        [dy, x],
        # nothing is written past the cache
        specs=[replace(spec, streamed=False) for spec in specs],
        division=Division(tile, pieces_of(C, tile.rows), K % tile.lanes, short, fetches=is_whole),
        unit=sizes.of(unit, "unit"),
        x_parts=sizes.of(x_parts, "parts of x"),
        dy_parts=sizes.of(dy_parts, "parts of dy"),
        sizes=sizes.values,
    )
    if not in_place:
        lower_kernel_sums(lowering, dw, partial, first)


def unit_of(pixels: int, tile: Tile, tiles: int, blocks: int, short: bool) -> int:
    """Pixels of a unit, in whole iterations; units are of near-equal length, and they, or their copies, fit the caches.

    tiles, blocks: how many tiles of channels and blocks of filters a task reads.
    """
    elements = tiles * tile.rows + blocks * tile.lanes
    fitting = max_unit_elements() // elements if short else max(MIN_UNIT, max_copied_elements() // elements)
    units = ceil_div(pixels, max(UNROLL, min(max_unit_pixels(tile), fitting // UNROLL * UNROLL)))
    return ceil_div(ceil_div(pixels, units), UNROLL) * UNROLL


def copy_spec(copy: View, sizes: CallSizes) -> ArraySpec:
    """The spec of copies [1, tiles, elements] per thread, of which the call gives how many tiles there are."""
    _, tiles, elements = copy.shape
    return ArraySpec((1, sizes.of(tiles, copy), elements), (sizes.of(copy.strides[0], copy, "stride"), elements, 1))


def weight_grad_1x1(
    partial: Array,
    copied_x: Array,
    copied_dy: Array,
    dy: Array,
    x: Array,
    *,
    division: Division,
    unit: Index,
    x_parts: Index,
    dy_parts: Index,
) -> None:
    """partial[chunk, 0, 0, c, k] = sum over the pixels of a chunk of units of x[n, p, q, c] dy[n, p, q, k].

    partial: [chunks, 1, 1, C, K]; dy: [N, P, Q, K]; x: [N, P, Q, C]. Per thread, which the first index selects:
    copied_x [1, tiles, pixels x channels of a tile], copied_dy [1, blocks, pixels x filters of a tile]. unit: its
    pixels. x_parts, dy_parts: parts that the tiles of channels and the blocks of filters are cut into.
    """
    chunks, _, _, C, K = partial.extents
    pixels = math.prod(dy.extents[:3])
    units = ceil_div(pixels, unit)
    # a task is a chunk of units, a part of the channels and a part of the filters
    for chunk, x_part, dy_part in parallel(chunks, x_parts, dy_parts):
        channels = ChannelTiles(C, division, x_part, x_parts)
        filters = FilterBlocks(K, division, dy_part, dy_parts)
        begin = chunk * units // chunks
        # the units of the chunk
        for number in loop((chunk + 1) * units // chunks, start=begin):
            start = number * unit
            count = minimum(unit, pixels - start)
            if not division.short:
                copy_unit(copied_x, copied_dy, dy, x, channels, filters, start, count)
            # a panel of dy stays in the first-level cache while x passes
            for block, k, valid in filters:
                for tile, c, size, _ in channels.tiles():
                    if division.fetches:
                        number_of_tile, tiles = block * channels.count + tile, filters.count * channels.count
                        for image in (x, dy):
                            fetch_part(image.at(0, 0, start + unit, 0), count, number_of_tile, tiles)
                    sums = TileSums(partial.at(chunk, 0, 0, c, k), size, valid, division.tile, number == begin)
                    if division.short:
                        sums.add_pixels(x.at(0, 0, start, c), dy.at(0, 0, start, k), count)
                    else:
                        run, panel = (copy.at(thread(), i, 0) for copy, i in ((copied_x, tile), (copied_dy, block)))
                        sums.add_copies(run, panel, ceil_div(count, UNROLL))


def copy_unit(
    copied_x: Array,
    copied_dy: Array,
    dy: Array,
    x: Array,
    channels: "ChannelTiles",
    filters: "FilterBlocks",
    start: Index,
    count: Index,
) -> None:
    """Copy the `count` pixels of a unit from `start` on, filled up with zeros to whole iterations."""
    # each pixel is read once, from end to end
    for i, place in pixels_of(start, count, dy):
        channels.copy(copied_x, i, x.at(*place, 0))
        filters.copy(copied_dy, i, dy.at(*place, 0))
    for i in loop(ceil_div(count, UNROLL) * UNROLL, start=count):
        channels.copy(copied_x, i, None)
        filters.copy(copied_dy, i, None)


def fetch_part(image: Array, count: Index, part: Index, parts: Index) -> None:
    """Prefetch one of `parts` parts of the lines of `count` pixels of image [., ., pixels, .], which are neighbours."""
    lines = count * image.strides[2] // LINE
    for line in loop((part + 1) * lines // parts, start=part * lines // parts):
        image.prefetch((0, 0, 0, line * LINE))


def pixels_of(start: Index, count: Index, image: Array) -> Iterator[tuple[Index, tuple[Index, ...]]]:
    """Loop over `count` pixels of an image [N, P, Q, .] from number `start` on: (number from there, its place)."""
    if all(isinstance(n, int) and n == 1 for n in image.extents[:2]):
        for i in loop(count):
            yield i, (0, 0, start + i)
        return
    _, P, Q, _ = image.extents
    for n, p, q in walk(start, start + count, image.extents[:3]):
        yield (n * P + p) * Q + q - start, (n, p, q)


@dataclass(frozen=True)
class ChannelTiles:
    """The tiles of one of `parts` parts of C channels."""

    C: Index
    division: Division
    part: Index
    parts: Index

    @property
    def count(self) -> Index:
        """Tiles of the part."""
        total: Index = sum(count for _, count in counted(self.C, self.division.channels, self.division.tile.rows))
        return (self.part + 1) * total // self.parts - self.part * total // self.parts

    def tiles(self, exact_last: bool = False) -> Iterator[tuple[Index, Index, int, bool]]:
        """Loops over the tiles: (number within the part, first channel, channels, if it is the last one of all).

        exact_last: the last one of all is a loop of its own; else none counts as the last.
        """
        pieces = counted(self.C, self.division.channels, self.division.tile.rows)
        total: Index = sum(count for _, count in pieces)
        begin, end = self.part * total // self.parts, (self.part + 1) * total // self.parts
        done: Index = 0
        first: Index = 0
        # near-equal tiles: those of each size are a loop over what belongs to this part
        for size, count in pieces:
            start, stop = maximum(begin - done, 0), minimum(end - done, count)
            before_last = minimum(stop, total - 1 - done) if exact_last else stop
            loops = ((start, before_last, False), (maximum(start, before_last), stop, True))
            for low, high, is_last in loops[: 1 + exact_last]:
                for t in loop(high, start=low):
                    yield t + done - begin, t * size + first, size, is_last
            done, first = done + count, first + count * size

    def copy(self, copied: Array, i: Index, pixel: Array | None) -> None:
        """Copy a pixel's channels to place i of each tile; zeros if there is no pixel.

        A vector is as wide as a power of two: what it writes beyond the tile's channels is overwritten by the next
        pixel. Only at the end of the pixel there is nothing more to read.
        """
        for tile, c, size, is_last in self.tiles(exact_last=True):
            width = size if is_last else 1 << (size - 1).bit_length()
            values = pixel.load((0, 0, 0, c), width) if pixel else 0.0
            copied.store((thread(), tile, i * size), values, width)


@dataclass(frozen=True)
class FilterBlocks:
    """The blocks of one of `parts` parts of K filters."""

    K: Index
    division: Division
    part: Index
    parts: Index

    @property
    def count(self) -> Index:
        """Blocks of the part, of which the last may be one that another part has."""
        full = self.K // self.division.tile.lanes
        whole = (self.part + 1) * full // self.parts - self.part * full // self.parts
        return whole + (self.division.tail > 0)

    def __iter__(self) -> Iterator[tuple[Index, Index, int]]:
        """Loops over the blocks: (number within the part, first filter, filters)."""
        width, tail = self.division.tile.lanes, self.division.tail
        begin = self.part * (self.K // width) // self.parts
        for _, b, valid in part_of_blocks(1, self.K, width, self.part, self.parts, tail):
            yield b - begin, b * width, valid

    def copy(self, copied: Array, i: Index, pixel: Array | None) -> None:
        """Copy a pixel's filters to place i of each block; zeros if there is no pixel."""
        for block, k, valid in self:
            for start, width in lane_ranges(valid, self.division.tile.width):
                values = pixel.load((0, 0, 0, k + start), width) if pixel else 0.0
                copied.store((thread(), block, i * self.division.tile.lanes + start), values, width)


@dataclass(frozen=True)
class TileSums:
    """The sums of a tile of `size` channels x `valid` filters, to which the products of a unit are added.

    into: [., ., ., C, K] from the tile on. fresh: true in the first unit of a chunk, whose sums are set.
    """

    into: Array
    size: int
    valid: int
    tile: Tile
    fresh: Scalar

    @property
    def vectors(self) -> list[Pair]:
        """(start, width) of the vectors of filters."""
        return lane_ranges(self.valid, self.tile.width)

    def read(self) -> Accumulators:
        """[channels, vectors of filters] in registers."""
        return {
            (i, v): var(where(self.fresh, 0.0, self.into.load((0, 0, 0, i, start), width)), width)
            for i in range(self.size)
            for v, (start, width) in enumerate(self.vectors)
        }

    def write(self, sums: Accumulators) -> None:
        """Store the sums."""
        for (i, v), total in sums.items():
            start, width = self.vectors[v]
            self.into.store((0, 0, 0, i, start), total, width)

    def add_copies(self, x: Array, panel: Array, rounds: Index) -> None:
        """Add the products of UNROLL rounds pixels: copies x [pixels, size], panel [pixels, tile.lanes]."""
        sums = self.read()
        for round in loop(rounds):
            for place in range(UNROLL):
                pixel = round * UNROLL + place
                gradients = [panel.load((0, 0, pixel * self.tile.lanes + start), w) for start, w in self.vectors]
                multiply_add(sums, (x[0, 0, pixel * self.size + i] for i in range(self.size)), gradients)
        self.write(sums)

    def add_pixels(self, x: Array, dy: Array, count: Index) -> None:
        """Add the products of `count` pixels: x [., ., pixels, .], dy [., ., pixels, .] from the tile on."""
        sums = self.read()
        for pixel in loop(count, adds=True):
            gradients = [dy.load((0, 0, pixel, start), width) for start, width in self.vectors]
            multiply_add(sums, (x[0, 0, pixel, i] for i in range(self.size)), gradients)
        self.write(sums)
