"""How the work of weight_grad.py is divided: into chunks of units of pixels, and parts of the filters.

A unit is some images, or a band of rows of one image; its x takes at most half of the second-level cache, or, where a
tile's part of x and dy is copied, what is copied fits into the first-level cache.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveal.kernel.lang import Index, l1, l2, llc, maximum, minimum, registers
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, FLOAT_BYTES, Tile, ceil_div, lane_ranges, pieces_of, tile_for
from foveal.ops.kernels.taps import Axes, rows_read
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

# Taps from which on it takes less time to copy the channels of a tile, which all taps read, than is saved: with 7 taps
# and 128 to 192 channels a tenth to a quarter less was measured on Zen 3, with 25 taps a quarter, with 3 taps nothing.
MIN_PACKED_TAPS = 5


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
class UnitDivision:
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
    #: True if x of a unit is copied too, for the channels of each tile
    packed: bool

    @property
    def copied_pixels(self) -> int:
        """Pixels of a unit at most where dy is copied: with x beside it, both are in the first-level cache."""
        if self.packed:
            channels = 1 << (max(map(max, self.channels)) - 1).bit_length()
            return l1() * 7 // 8 // (FLOAT_BYTES * (self.tile.lanes + channels))
        return panel_pixels(self.tile)

    def bands(self, x: Sequence[Index], outputs: tuple[Index, Index]) -> Index:
        """Bands of output rows that an image is cut into; x: N and the other axes of x. outputs: (P, Q).

        They are small enough for the cache, and where images are few, as many as all tasks need, but not so many that a
        band has less than `min_pixels` pixels.
        """
        (N, *image), (P, Q) = x, outputs
        enough = minimum(ceil_div(ENOUGH_TASKS, N), P * Q // self.min_pixels)
        if self.copied:
            enough = maximum(enough, ceil_div(P, maximum(self.copied_pixels // Q, 1)))
        return minimum(P, maximum(ceil_div(math.prod(image), max_unit_elements()), enough))

    def images(self, x: Sequence[Index], outputs: tuple[Index, Index]) -> Index:
        """Images of a unit: where they are whole, as many as fit into the cache and leave a unit for each chunk.

        Each unit reads and writes all sums, which takes as long as the products of a few pixels.
        """
        if self.banded or self.one_image:
            return 1
        N, *image = x
        chunks = even_chunks(N * math.prod(outputs) // self.min_pixels, ENOUGH_TASKS)
        fitting = minimum(max_unit_elements() // math.prod(image), ceil_div(N, chunks))
        if self.copied:
            fitting = minimum(fitting, self.copied_pixels // math.prod(outputs))
        return maximum(1, minimum(N, fitting))

    def parts(self, filters: Index, chunks: Index) -> Index:
        """Parts that the blocks of filters are cut into, for so many filters of a group."""
        blocks = ceil_div(filters, self.tile.lanes) * self.groups
        return minimum(blocks, ceil_div(ENOUGH_TASKS, chunks))


def even_chunks(n: Index, most: int) -> Index:
    """The largest power of two up to n and `most`, at least 1: so many chunks come out even on 2, 4 and 8 threads."""
    found: Index = 1
    for exponent in range(1, most.bit_length()):
        # twice as many where n is at least that power
        found = found * (1 + minimum(n // (1 << exponent), 1))
    return found


def divided(
    x: View, dy: View, groups: int, channels: int, size: int, flags: dict[str, bool]
) -> tuple[UnitDivision, int, int]:
    """How the work is divided, the number of bands of an image, and that of chunks.

    channels: of a group. size: the number of weights that each chunk has a sum of. flags: those of UnitDivision that
    are known.
    """
    N, K, P, Q = dy.shape
    filters = K // groups
    tile = tile_for(filters)
    tail = filters % tile.lanes
    pieces = tuple(pieces_of(channels, most_rows(lane_ranges(n, tile.width))) for n in (tile.lanes, tail or tile.lanes))
    flags |= {"copied": flags["packed"] or (flags["row_is_range"] and filters > 2 * tile.lanes)}
    division = UnitDivision(groups, tile, tail, (pieces[0], pieces[1]), False, False, **flags, min_pixels=MIN_PIXELS)
    bands = int(division.bands(x.shape, (P, Q)))
    division = replace(division, banded=bands > 1)
    images = int(division.images(x.shape, (P, Q)))
    units = ceil_div(N, images) * bands
    chunks = max(1, min(units, MAX_CHUNKS, N * P * Q // MIN_PIXELS, max_partial_elements() // size))
    return replace(division, unit_chunks=chunks == units), bands, chunks


def most_rows(vectors: list[Pair]) -> int:
    """Rows of a register tile with these vectors: its sums take three quarters of the registers."""
    return registers() * 3 // 4 // len(vectors)


def piece_shape(axes: Axes, x: View, division: UnitDivision, images: int, rows: int) -> tuple[int, ...]:
    """The shape of the copies of a tile's channels of x [N, C, H, W], for units of so many images and output rows."""
    if not division.packed:
        return (1,) * 5
    _, _, H, W = x.shape
    height = min(H, (rows - 1) * axes[0][0].input_step + rows_read(axes[0]))
    largest = max(max(sizes) for sizes in division.channels)
    return (1, images, height, W, 1 << (largest - 1).bit_length())
