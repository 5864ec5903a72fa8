"""Products of matrices that are both read along their long side: y = a^T b, for a [n, C] and b [n, K] of many rows n.

    dw[c, k] = sum over pixels of x[pixel, c] dy[pixel, k]

is the gradient of a 1x1 convolution in its weights; that of a linear layer is one, too. The names here are those of
the convolution: x is a, dy is b, their rows are pixels, and their columns channels and filters.

A register tile is some channels x some vectors of filters, summed over many pixels. Where images lie in memory, a tile
would read a part of a cache line per pixel, at distances that are often powers of two: as many pages as pixels, and
lines that fall into the same few sets of the cache. So a task first copies the pixels of a unit, once, into the order
in which tiles read them, and all tiles of its channels and filters then pass over the copies.

    registers       the sums of 6 channels x 16 filters on AVX2 (12 x 32 on AVX-512), or of 4 x 24 (8 x 48) where these
                    leave fewer lanes empty. A pixel takes two (three) vectors of dy and six (four) broadcast numbers of
                    x for 12 FMAs: 0.67 (0.58) loads per FMA, so the FMAs and not the loads set the pace.
    first level     a panel of dy, the pixels of a unit x the filters of a tile: half of that cache
    second level    x of the unit, of which tiles read one run after the other, the other panels of dy, and the next
                    unit, which is fetched meanwhile
    all levels      the sums from unit to unit, in a buffer in which they lie in the order of the tiles: in the result,
                    rows a power of two apart, they would fall into a few sets of the second-level cache

Copying costs a load and a store per tile of channels and per vector of filters, for each pixel. It is repeated by all
tasks that share pixels, so that `parts_of` cuts channels and filters in the way that takes least for copies and sums.
Where there are so few channels and filters that copying takes as long as the products (`is_short`), tiles read small
units, which the first-level cache holds as they lie. So they do with the few rows of a linear layer's batch, if their
lines spread over the sets of that cache (`spread_pixels`).
"""

import math
from collections import Counter
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
    minimum,
    parallel,
    registers,
    thread,
    var,
    walk,
    where,
)
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Accumulators,
    Tile,
    ceil_div,
    counted,
    lane_ranges,
    multiply_add,
    pieces_of,
    tile_for,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.transposed_copies import ChannelTiles, CopiesDivision, FilterBlocks, range_of
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

# Pixels that one iteration of the loop over a unit takes, and that are copied at once where they are neighbours; the
# copies are filled up with zeros to whole iterations.
UNROLL = 4

# Elements after each copied tile, one cache line, so that tiles do not lie a power of two apart: such addresses fall
# into the same few sets of the first-level cache. What a copy of whole vectors writes beyond its tile lands there.
GAP = 16

# Ways of eight of the first-level cache that pixels may take which are not copied. The rest is for sums and for what is
# fetched.
MAX_WAYS = 6

# Elements from one of them to the next at most: a page. Pixels further apart would take an address translation each.
MAX_STEP = 1024

# Parts of channels and filters at most, as a multiple of those that give enough tasks.
MAX_PARTS = 4

# Cycles that a pixel's copy takes for each tile of channels and for each vector of filters, and cycles that reading and
# writing a vector of sums takes, once per unit.
COPYING_X, COPYING_DY, PASSING_SUM = 2.5, 1.5, 2

# Cycles that pass until an FMA's sum can be added to again, and FMAs, or loads, that begin in a cycle.
LATENCY, PORTS = 4, 2


def max_partial_elements() -> int:
    """Elements of the sums of all chunks: a quarter of the last-level cache, from which they are read again."""
    return llc() // 4 // FLOAT_BYTES


def max_unit_pixels(tile: Tile) -> int:
    """Pixels of a unit at most, in whole iterations: a panel of dy takes half of the first-level cache."""
    return max(1, l1() // 2 // (FLOAT_BYTES * tile.lanes) // UNROLL) * UNROLL


def copied_pixels(tile: Tile, tiles: int, blocks: int, is_chunk: bool) -> int:
    """Pixels of a unit whose copies fit, for a task that has so many tiles of channels and blocks of filters.

    They take an eighth of the second-level cache, into which the next unit is fetched meanwhile; a quarter if there is
    one chunk, in parts (not `is_chunk`), as then nothing is fetched. Half of the cache is all that may be planned with:
    one of half the size that kernels plan with is of the same class (see kernel/target.py).
    """
    elements = l2() // (8 if is_chunk else 4) // FLOAT_BYTES
    return max(MIN_UNIT, elements // (tiles * tile.rows + blocks * tile.lanes))


def max_unit_elements() -> int:
    """Elements of a unit that tiles read where it lies: five eighths of the first-level cache."""
    return l1() * 5 // 8 // FLOAT_BYTES


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


def parts_of(tasks: int, pixels: int, channels: int, filters: int, tile: Tile) -> Pair:
    """Parts of the channels and of the filters, `tasks` together if there are so many tiles, that cost least.

    Each part of the channels copies dy, each part of the filters x. More parts copy more, but each has fewer tiles, so
    that units have more pixels, and sums are read and written less often. pixels: those of the only chunk; 0 if there
    are several, whose parts copy least.
    """
    tiles, blocks = ceil_div(channels, tile.rows), ceil_div(filters, tile.lanes)
    least = min(tasks, max(a * min(blocks, ceil_div(tasks, a)) for a in range(1, min(tasks, tiles) + 1)))
    most = MAX_PARTS * tasks if tasks > 1 else 1
    pairs = (
        (a, b) for a in range(1, min(most, tiles) + 1) for b in range(ceil_div(least, a), min(most // a, blocks) + 1)
    )
    return min(pairs, key=lambda parts: cost_of(parts, pixels, tiles, blocks, tile))


def cost_of(parts: Pair, pixels: int, tiles: int, blocks: int, tile: Tile) -> float:
    """Cycles of all tasks of a chunk, for what is no product: copying pixels, reading and writing sums."""
    of_tiles, of_blocks = ceil_div(tiles, parts[0]), ceil_div(blocks, parts[1])
    unit = unit_of(pixels, tile, copied_pixels(tile, of_tiles, of_blocks, is_chunk=False)) if pixels else 1
    copying = of_tiles * COPYING_X + of_blocks * tile.vectors * COPYING_DY
    sums = of_tiles * tile.rows * of_blocks * tile.vectors * PASSING_SUM
    return parts[0] * parts[1] * (max(1, pixels) * copying + ceil_div(pixels, unit) * sums)


def is_short(tile: Tile, channels: int, filters: int) -> bool:
    """True if a pixel has so few numbers that tiles read units where they lie.

    A unit that is some neighbouring pixels as a whole fills the first-level cache evenly. It has the fewer pixels the
    more numbers they have, and each tile of a unit reads and writes its sums.
    """
    tiles, vectors = channels / tile.rows, filters / tile.width
    pixels = max_unit_elements() / (channels + filters)
    return tiles * vectors * tile.rows * PASSING_SUM / pixels < tiles * COPYING_X + vectors * COPYING_DY


def spread_pixels(pixels: int, tile: Tile, steps: Pair) -> int:
    """Pixels of a unit whose lines the first-level cache holds as they lie, those of a tile of x and of one of dy.

    At most `pixels`, or 0 if they are fewer than both that and MIN_UNIT. steps: elements from a pixel to the next in x
    and in dy.
    """
    tiles = list(zip(steps, (tile.rows, tile.lanes), strict=True))
    if max(steps) > MAX_STEP:
        return 0
    while pixels and sum(most_lines(pixels, step, width) for step, width in tiles) > MAX_WAYS:
        pixels = pixels // 2 if pixels >= 2 * MIN_UNIT else 0
    return pixels


def most_lines(pixels: int, step: int, width: int) -> int:
    """The most lines that fall into one set of a first-level cache of eight ways: `width` elements of each pixel."""
    sets = l1() // 8 // (LINE * FLOAT_BYTES)
    lines = {line for i in range(pixels) for line in range(i * step // LINE, (i * step + width - 1) // LINE + 1)}
    return max(Counter(line % sets for line in lines).values())


def lower(lowering: Lowering, dy: View, x: View, result: View | None) -> View:
    """The products [chunks, C, K] of chunks of pixels, which are to be added up, for dy [N, P, Q, K], x [N, P, Q, C].

    result: [C, K], which is what is returned if there is one chunk. Where N and P are 1, pixels are at equal distances.
    Tasks are (chunk of pixels, part of the channels, part of the filters).
    """
    (*_, K), (*_, C) = dy.shape, x.shape
    is_one_row = dy.shape[:2] == (1, 1)
    pixels = math.prod(dy.shape[:3])
    tile = tile_of(C, K)
    chunks = max(1, min(pixels // MIN_PIXELS, MAX_CHUNKS, max_partial_elements() // (C * K)))
    x_parts, dy_parts = parts_of(ceil_div(ENOUGH_TASKS, chunks), pixels if chunks == 1 else 0, C, K, tile)
    # tiles of channels and blocks of filters of a part, at most
    tiles = ceil_div(ceil_div(C, tile.rows), x_parts)
    blocks = ceil_div(K // tile.lanes, dy_parts) + (K % tile.lanes > 0)
    is_whole = x_parts * dy_parts == 1
    fitting = copied_pixels(tile, tiles, blocks, is_chunk=chunks > 1 or is_whole)
    spread = spread_pixels(pixels, tile, (x.strides[2], dy.strides[2])) if is_one_row and chunks == 1 else 0
    short = spread > 0 or (is_whole and is_one_row and is_short(tile, C, K))
    if short:
        fitting = spread or max_unit_elements() // (C + K)
    unit = unit_of(pixels, tile, fitting)
    chunks = min(chunks, ceil_div(pixels, unit))
    copies = [
        lowering.scratch((1, 1, 1) if short else (1, count, max_unit_pixels(tile) * width + GAP), per_thread=True)
        for count, width in ((tiles, tile.rows), (blocks, tile.lanes))
    ]
    holds = not short and ceil_div(pixels, unit) > chunks
    held = lowering.scratch((1, tiles * blocks if holds else 1, tile.rows * tile.lanes), per_thread=True)
    in_place = chunks == 1 and result is not None
    partial = result.reshaped((1, C, K)) if in_place and result is not None else lowering.scratch((chunks, C, K))
    sizes = CallSizes()
    specs = [
        sizes.spec(partial),
        *(copy_spec(copy, sizes) for copy in (*copies, held)),
        *(sizes.spec(image, *((0, 1) if is_one_row else ())) for image in (dy, x)),
    ]
    lowering.call(
        transposed_product,
        [partial, *copies, held],
        [dy, x],
        # nothing is written past the cache
        specs=[replace(spec, streamed=False) for spec in specs],
        division=CopiesDivision(
            tile, pieces_of(C, tile.rows), K % tile.lanes, short, holds, fetches=is_one_row and is_whole
        ),
        unit=sizes.of(unit, "unit"),
        x_parts=sizes.of(x_parts, "parts of x"),
        dy_parts=sizes.of(dy_parts, "parts of dy"),
        sizes=sizes.values,
    )
    return partial


def unit_of(pixels: int, tile: Tile, fitting: int) -> int:
    """Pixels of near-equal units, in whole iterations, of which at most `fitting` fit a cache."""
    units = ceil_div(pixels, min(max_unit_pixels(tile), max(1, fitting // UNROLL) * UNROLL))
    return ceil_div(ceil_div(pixels, units), UNROLL) * UNROLL


def copy_spec(copy: View, sizes: CallSizes) -> ArraySpec:
    """The spec of copies [1, tiles, elements] per thread, of which the call gives how many tiles there are."""
    _, tiles, elements = copy.shape
    return ArraySpec((1, sizes.of(tiles, copy), elements), (sizes.of(copy.strides[0], copy, "stride"), elements, 1))


def transposed_product(
    partial: Array,
    copied_x: Array,
    copied_dy: Array,
    held: Array,
    dy: Array,
    x: Array,
    *,
    division: CopiesDivision,
    unit: Index,
    x_parts: Index,
    dy_parts: Index,
) -> None:
    """partial[chunk, c, k] = sum over the pixels of a chunk of units of x[n, p, q, c] dy[n, p, q, k].

    partial: [chunks, C, K]; dy: [N, P, Q, K]; x: [N, P, Q, C]. Per thread, which the first index selects:
    copied_x [1, tiles, pixels x channels of a tile], copied_dy [1, blocks, pixels x filters of a tile]. unit: its
    pixels. x_parts, dy_parts: parts that the tiles of channels and the blocks of filters are cut into.
    """
    chunks, C, K = partial.extents
    pixels = math.prod(dy.extents[:3])
    units = ceil_div(pixels, unit)
    # a task is a chunk of units, a part of the channels and a part of the filters
    for chunk, x_part, dy_part in parallel(chunks, x_parts, dy_parts):
        tiles = sum(count for _, count in counted(C, division.channels, division.tile.rows))
        channels = ChannelTiles(*range_of(x_part, x_parts, tiles), C, division)
        blocks = range_of(dy_part, dy_parts, K // division.tile.lanes)
        filters = FilterBlocks(*blocks, (dy_part + 1) // dy_parts, K, division)
        begin, end = chunk * units // chunks, (chunk + 1) * units // chunks
        # the units of the chunk
        for number in loop(end, start=begin):
            start = number * unit
            count = minimum(unit, pixels - start)
            if not division.short:
                copy_unit(copied_x, copied_dy, dy, x, channels, filters, start, count)
            # the next unit, of which each tile fetches as many lines
            following = [image.at(0, 0, start + unit, 0) for image in (x, dy)] if division.fetches else []
            tiles_of_unit = filters.count * channels.count
            parts = [(image, ceil_div(count * image.strides[2] // LINE, tiles_of_unit)) for image in following]
            # a panel of dy stays in the first-level cache while x passes
            for block, k, valid in filters:
                for tile, c, size, _ in channels.tiles():
                    place = block * channels.count + tile
                    for image, of_tile in parts:
                        fetch(image, of_tile, place)
                    buffer = held.at(thread(), place, 0) if division.holds else None
                    more = minimum(end - 1 - number, 1)
                    sums = TileSums(partial.at(chunk, c, k), buffer, size, valid, division.tile, number == begin, more)
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
    channels: ChannelTiles,
    filters: FilterBlocks,
    start: Index,
    count: Index,
) -> None:
    """Copy the `count` pixels of a unit from `start` on, filled up with zeros to whole iterations."""
    copies = ((channels, copied_x, x), (filters, copied_dy, dy))
    # each pixel is read once, from end to end; of neighbours UNROLL at once, for fewer and longer loops over tiles
    done: Index = 0
    if is_one_row(dy):
        done = count // UNROLL * UNROLL
        for group in loop(count // UNROLL):
            for columns, copied, image in copies:
                i = group * UNROLL
                columns.copy(copied, i, [image.at(0, 0, start + i + place, 0) for place in range(UNROLL)])
    for i, place in pixels_of(start, count, dy, done):
        for columns, copied, image in copies:
            columns.copy(copied, i, [image.at(*place, 0)])
    for i in loop(ceil_div(count, UNROLL) * UNROLL, start=count):
        for columns, copied, _ in copies:
            columns.copy(copied, i, [None])


def is_one_row(image: Array) -> bool:
    """True if the pixels of an image [N, P, Q, .] lie at equal distances."""
    return all(isinstance(n, int) and n == 1 for n in image.extents[:2])


def fetch(image: Array, lines: Index, part: Index) -> None:
    """Prefetch one part, of so many lines, of the neighbouring pixels of image [., ., pixels, .]."""
    for line in loop(lines):
        image.prefetch((0, 0, 0, (part * lines + line) * LINE))


def pixels_of(start: Index, count: Index, image: Array, done: Index) -> Iterator[tuple[Index, tuple[Index, ...]]]:
    """Loop over `count` pixels of an image [N, P, Q, .] from number `start` on: (number from there, its place).

    done: how many of the first ones are left out.
    """
    if is_one_row(image):
        for i in loop(count, start=done):
            yield i, (0, 0, start + i)
        return
    _, P, Q, _ = image.extents
    for n, p, q in walk(start + done, start + count, image.extents[:3]):
        yield (n * P + p) * Q + q - start, (n, p, q)


@dataclass(frozen=True)
class TileSums:
    """The sums of a tile of `size` channels x `valid` filters, to which the products of a unit are added.

    into: [., C, K] from the tile on. held: where they are held until the last unit of a chunk, [., ., rows x lanes], if
    not there. fresh: true in the first unit, whose sums are set. more: 0 in the last unit, else 1.
    """

    into: Array
    held: Array | None
    size: int
    valid: int
    tile: Tile
    fresh: Scalar
    more: Index

    @property
    def vectors(self) -> list[Pair]:
        """(start, width) of the vectors of filters."""
        return lane_ranges(self.valid, self.tile.width)

    def load(self, i: int, start: int, width: int) -> Scalar:
        """The sums so far of channel i and a vector of filters."""
        if self.held:
            return self.held.load((0, 0, i * self.tile.lanes + start), width)
        return self.into.load((0, i, start), width)

    def read(self) -> Accumulators:
        """[channels, vectors of filters] in registers."""
        return {
            (i, v): var(where(self.fresh, 0.0, self.load(i, start, width)), width)
            for i in range(self.size)
            for v, (start, width) in enumerate(self.vectors)
        }

    def write(self, sums: Accumulators) -> None:
        """Store the sums: where they are held, or in the last unit as results."""
        if self.held is None:
            self.store(sums)
            return
        for _ in loop(self.more):
            for (i, v), total in sums.items():
                start, width = self.vectors[v]
                self.held.store((0, 0, i * self.tile.lanes + start), total, width)
        for _ in loop(1 - self.more):
            self.store(sums)

    def store(self, sums: Accumulators) -> None:
        """Store the results."""
        for (i, v), total in sums.items():
            start, width = self.vectors[v]
            self.into.store((0, i, start), total, width)

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
