"""The channels and filters of a task of a transposed product (transposed_product.py), and the copies of their pixels.

A task has some of the register tiles' channels and some of their blocks of filters. It copies the numbers of a pixel
to as many places as it has tiles and blocks, in the order in which these read them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foveal.kernel.lang import Array, Index, loop, maximum, minimum, thread
from foveal.ops.kernels.register_tile import Tile, counted, lane_ranges


@dataclass(frozen=True)
class CopiesDivision:
    """How the work is divided, as far as code depends on it."""

    tile: Tile
    #: the numbers of channels of a register tile: one, or two of which the second is one less
    channels: tuple[int, ...]
    #: filters of the last block, if it has fewer than the others, else 0
    tail: int
    #: True if tiles read units where they lie, without a copy
    short: bool
    #: True if sums are held in a buffer from unit to unit of a chunk
    holds: bool
    #: True if the next unit is fetched: its pixels are neighbours, and no other task copies them
    fetches: bool


def range_of(part: Index, parts: Index, total: Index) -> tuple[Index, Index]:
    """(first, one after the last) of what belongs to one of `parts` parts of a total.

    It is computed outside of loops: dividing by a number that is known only now takes as long as dozens of additions.
    """
    return part * total // parts, (part + 1) * total // parts


@dataclass(frozen=True)
class ChannelTiles:
    """The tiles of channels of a task: `begin` to `end` of those of all C channels."""

    begin: Index
    end: Index
    C: Index
    division: CopiesDivision

    @property
    def count(self) -> Index:
        """Tiles of the task."""
        return self.end - self.begin

    def tiles(self, exact_last: bool = False) -> Iterator[tuple[Index, Index, int, bool]]:
        """Loops over the tiles: (number within the task, first channel, channels, if it is the last one of all).

        exact_last: the last one of all is a loop of its own; else none counts as the last.
        """
        pieces = counted(self.C, self.division.channels, self.division.tile.rows)
        total: Index = sum(count for _, count in pieces)
        done: Index = 0
        first: Index = 0
        # near-equal tiles: those of each size are a loop over what belongs to this task
        for size, count in pieces:
            start, stop = maximum(self.begin - done, 0), minimum(self.end - done, count)
            before_last = minimum(stop, total - 1 - done) if exact_last else stop
            loops = ((start, before_last, False), (maximum(start, before_last), stop, True))
            for low, high, is_last in loops[: 1 + exact_last]:
                for t in loop(high, start=low):
                    yield t + done - self.begin, t * size + first, size, is_last
            done, first = done + count, first + count * size

    def copy(self, copied: Array, i: Index, pixels: Sequence[Array | None]) -> None:
        """Copy the channels of neighbouring pixels to places i, i + 1, ... of each tile; zeros where there is no pixel.

        A vector is as wide as a power of two: what it writes beyond the tile's channels is overwritten by the next
        pixel. Only at the end of the pixel there is nothing more to read.
        """
        for tile, c, size, is_last in self.tiles(exact_last=True):
            width = size if is_last else 1 << (size - 1).bit_length()
            for place, pixel in enumerate(pixels):
                values = pixel.load((0, 0, 0, c), width) if pixel else 0.0
                copied.store((thread(), tile, (i + place) * size), values, width)


@dataclass(frozen=True)
class FilterBlocks:
    """The blocks of filters of a task: `begin` to `end` of all whole ones of K filters, and the rest in the last part.

    has_tail: 1 in the last part, else 0.
    """

    begin: Index
    end: Index
    has_tail: Index
    K: Index
    division: CopiesDivision

    @property
    def count(self) -> Index:
        """Blocks of the task, of which the last may be one that another task has."""
        return self.end - self.begin + (self.division.tail > 0)

    def __iter__(self) -> Iterator[tuple[Index, Index, int]]:
        """Loops over the blocks: (number within the task, first filter, filters)."""
        width = self.division.tile.lanes
        for b in loop(self.end, start=self.begin):
            yield b - self.begin, b * width, width
        if self.division.tail:
            whole = self.K // width
            for _ in loop(self.has_tail):
                yield whole - self.begin, whole * width, self.division.tail

    def copy(self, copied: Array, i: Index, pixels: Sequence[Array | None]) -> None:
        """Copy the filters of neighbouring pixels to places i, i + 1, ... of each block; zeros where there is none."""
        for block, k, valid in self:
            for place, pixel in enumerate(pixels):
                for start, width in lane_ranges(valid, self.division.tile.width):
                    values = pixel.load((0, 0, 0, k + start), width) if pixel else 0.0
                    copied.store((thread(), block, (i + place) * self.division.tile.lanes + start), values, width)
