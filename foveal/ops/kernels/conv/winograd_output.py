"""The transform back, A^T M A, and what becomes of its results.

A tile is transformed along its columns for all filters of a block, then along its rows: a row of outputs for one vector
of filters after the other. What lies between, A^T M, is kept in the first-level cache. So few values are alive at a
time that they fit into 16 registers, the epilogue's among them, and the outputs of a pixel are stored close together:
a line that is written past the cache leaves the processor whole only if its vectors follow each other at once.
"""

from dataclasses import dataclass

from foveal.kernel.lang import (
    Array,
    Index,
    Scalar,
    Value,
    loop,
    maximum,
    minimum,
    otherwise,
    thread,
    vectors,
    when,
    where,
    width_of,
)
from foveal.ops.kernels.conv.winograd_grid import Grid, tiles
from foveal.ops.kernels.conv.winograd_input import Pixel, far_lines, prefetch_pixels
from foveal.ops.kernels.conv.winograd_transform import diagonal_blocks, multiply_matrix, submatrix
from foveal.ops.kernels.epilogue import BoundEpilogue, exceeds_l2
from foveal.ops.kernels.register_tile import Tile, ceil_div
from foveal.ops.window import Pair

# Tiles between the one that is stored and the one whose epilogue operands are prefetched. With fewer tiles between them
# the lines would arrive too late; with more tiles, more lines would occupy the cache until they are used.
AHEAD = 2

# Lines that are written past the cache in part at a time, at most: those of a row of a 4 x 4 tile. A core keeps few (8
# on Zen 3, as measured): for one more it writes another one to memory in part, which takes ten times as long.
MAX_LINES = 4


@dataclass(frozen=True)
class TileBlock:
    """A block of tiles, and the task that stores its outputs."""

    #: number of the row of partial sums of the epilogue that its sums go to
    task: Index
    #: number of the first tile
    first: Index
    #: how many tiles there are
    count: Index


@dataclass(frozen=True)
class OutputTransform:
    """The transform back, A^T M A, whose results pass the epilogue."""

    bound: BoundEpilogue
    #: [threads, rows x points of a row, filters of a block]: A^T M of a tile
    half: Array
    grid: Grid
    #: the register tile, whose columns are the filters of a block
    tile: Tile
    #: True if a tile may reach over the right edge
    cut: bool

    def store(self, M: Array, block: TileBlock, b: Index, blocks: Index, valid: int) -> None:
        """Store the outputs of a block of tiles for `blocks` blocks of filters from b on, with `valid` filters each."""
        columns = self.tile.lanes
        for i in loop(blocks) if self.bound.epilogue.has_sums else ():
            for start, width in vectors(valid, self.tile.width):
                self.bound.zero_sums(block.task, (b + i) * columns + start, width)
        for t, place in tiles(block.first, block.count, *self.counts):
            for i in loop(blocks):
                k = (b + i) * columns
                self.prefetch_operands(place, k, valid)
                self.transform_columns(M.at(0, 0, t, i * columns), valid)
                self.store_rows(block.task, self.grid.first_output(place), k, valid)

    def transform_columns(self, M: Array, valid: int) -> None:
        """half = A^T M of the tile at the origin of M [1, points, tiles, k], for the `valid` filters k."""
        vertical, points, columns = self.grid.vertical.AT, self.grid.order.point, self.grid.horizontal.points
        for start, width in vectors(valid, self.tile.width):
            for j in range(columns):
                for rows, inner in diagonal_blocks(vertical):
                    column = [M.load((0, points[i, j], 0, start), width) for i in inner]
                    for i, value in zip(rows, multiply_matrix(submatrix(vertical, rows, inner), column), strict=True):
                        self.half.store((thread(), i * columns + j, start), value, width)

    def store_rows(self, task: Index, pixel: Pixel, k: Index, valid: int) -> None:
        """Store the outputs of the tile that begins at `pixel`, those rows of it that are inside of the image.

        k: the first of the `valid` filters. With stride 2 the outputs of a phase are stored before those of the other:
        no more than MAX_LINES lines at a time are written in part.
        """
        (n, p, q), points = pixel, self.grid.horizontal.points
        for i in loop(minimum(self.grid.vertical.outputs, self.size[0] - p)):
            for places, columns in diagonal_blocks(self.grid.horizontal.AT):
                assert len(places) <= MAX_LINES
                matrix = submatrix(self.grid.horizontal.AT, places, columns)
                for start, width in vectors(valid, self.tile.width):
                    row = [self.half.load((thread(), i * points + j, start), width) for j in columns]
                    values = multiply_matrix(matrix, row)
                    whole = self.is_whole(q)
                    for _ in when(whole):
                        self.bound.store(task, [(n, p + i, q + j) for j in places], values, k + start, width)
                    for _ in otherwise(whole):
                        # kept where they came from, then stored as far as they are inside
                        kept = self.half.at(thread(), i * points + columns[0], start)
                        self.store_inside(task, (n, p + i, q), places, values, kept, k + start)

    def store_inside(
        self, task: Index, pixel: Pixel, places: list[int], values: list[Value], kept: Array, k: Index
    ) -> None:
        """Store those of the outputs at these columns after `pixel` that are inside of the image.

        kept: [1, outputs, filters], where they wait for that. k: the first filter.
        """
        (n, p, q), width = pixel, width_of(values[0])
        for place, value in enumerate(values):
            kept.store((0, place, 0), value, width)
        # neighbours of one phase are as far apart as all neighbours of it
        first, step = places[0], (places[1] - places[0] if len(places) > 1 else 1)
        inside = ceil_div(maximum(self.size[1] - q - first, 0), step)
        for j in loop(minimum(inside, len(places))):
            self.bound.store(task, [(n, p, q + first + j * step)], [kept.load((0, j, 0), width)], k, width)

    @property
    def size(self) -> tuple[Index, Index]:
        """(P, Q), rows and columns of the outputs."""
        _, P, Q, _ = self.bound.outputs[0].extents
        return P, Q

    @property
    def counts(self) -> tuple[Index, Index]:
        """Rows and columns of tiles of an image."""
        return self.grid.counts(self.size)

    def is_whole(self, q: Index) -> Scalar:
        """True if all columns of the tile that begins at column q are inside of the image.

        Images whose rows are multiples of a tile's need no test at run time.
        """
        return q + self.grid.horizontal.outputs <= self.size[1] if self.cut else True

    def prefetch_operands(self, place: Pixel, k: Index, valid: int) -> None:
        """Start to fetch what the epilogue reads for the outputs of the tile AHEAD places further on in the grid.

        Nothing is fetched where images fit into the cache.
        """
        if not self.bound.far:
            return
        (n, i, j), (_, columns) = place, self.counts
        # at the end of a row of tiles: one of the next row, or of the next image, which begins behind the last row
        is_inside = j + AHEAD < columns
        ahead = minimum(j - columns + AHEAD, columns - 1)
        n, p, q = self.grid.first_output((n, where(is_inside, i, i + 1), where(is_inside, j + AHEAD, ahead)))
        for i in loop(where(exceeds_l2(self.bound.outputs[0]), self.grid.vertical.outputs, 0)):
            self.bound.prefetch([(n, p + i, q + j) for j in range(self.grid.horizontal.outputs)], k, valid)

    def prefetch(self, block: TileBlock, k: Index, filters: Index) -> None:
        """Prefetch the lines that the results will be stored to, so that they are in the cache after the products.

        Left out are outputs that are streamed to memory past the cache, and images that fit into the cache.
        """
        grid = self.grid
        for image in (y for y in self.bound.outputs if not y.streamed):
            lines = far_lines(image, filters)
            for _, place in tiles(block.first, where(lines > 0, block.count, 0), *self.counts):
                first = image.at(*grid.first_output(place), k)
                prefetch_pixels(first, grid.vertical.outputs, grid.horizontal.outputs, lines)


def is_cut(grid: Grid, size: Pair) -> bool:
    """True if tiles reach over the right edge of outputs of `size` = (P, Q)."""
    return size[1] % grid.horizontal.outputs > 0
