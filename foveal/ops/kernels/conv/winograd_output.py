"""The transform back, A^T M A, and what becomes of its results."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Array, Index, Scalar, Value, loop, minimum, otherwise, thread, vectors, when, where
from foveal.ops.kernels.conv.winograd_grid import Grid, tiles
from foveal.ops.kernels.conv.winograd_input import Pixel, far_lines, prefetch_pixels
from foveal.ops.kernels.conv.winograd_transform import transform_2d
from foveal.ops.kernels.epilogue import BoundEpilogue, exceeds_l2
from foveal.ops.kernels.register_tile import Tile
from foveal.ops.window import Pair
from foveal.view import View

# Tiles between the one that is stored and the one whose epilogue operands are prefetched. With fewer tiles between them
# the lines would arrive too late; with more tiles, more lines would occupy the cache until they are used.
AHEAD = 2

# Outputs of a tile that pass the epilogue together: all of a 4 x 4 tile. Tiles of the gradient in x with stride 2 have
# up to 64 outputs, whose values would not fit into the registers together.
OUTPUTS_AT_ONCE = 16


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
    #: [threads, outputs, lanes]: outputs of a tile that reaches over the edge, before the valid ones are stored
    edge: Array
    grid: Grid
    #: the register tile, whose columns are the filters of a block
    tile: Tile
    #: `store_edge_outputs` if any tile reaches over the edge
    store_edge: Sequence[Callable[..., None]]

    def store(self, M: Array, block: TileBlock, b: Index, valid: int) -> None:
        """Store the outputs of a block of tiles for the `valid` filters of filter block b."""
        # vectors of filters
        for start, width in vectors(valid, self.tile.width):
            k = b * self.tile.lanes + start
            if self.bound.epilogue.has_sums:
                self.bound.zero_sums(block.task, k, width)
            for t, place in tiles(block.first, block.count, *self.counts):
                self.prefetch_operands(place, k, width)
                self.store_tile(M.at(0, 0, t, start), block.task, self.grid.first_output(place), k, width)

    @property
    def size(self) -> tuple[Index, Index]:
        """(P, Q), rows and columns of the outputs."""
        _, P, Q, _ = self.bound.outputs[0].extents
        return P, Q

    @property
    def counts(self) -> tuple[Index, Index]:
        """Rows and columns of tiles of an image."""
        return self.grid.counts(self.size)

    def store_tile(self, M: Array, task: Index, pixel: Pixel, k: Index, width: int) -> None:
        """Store the outputs of one tile, which begins at `pixel`, for `width` filters from k on.

        M begins at the tile and at filter k. A tile that reaches over the edge is written into the buffer `edge` first;
        then the outputs that are inside of the image are stored one by one.
        """
        (n, p, q), (rows, columns) = pixel, (self.grid.vertical.outputs, self.grid.horizontal.outputs)
        whole = self.is_whole(p, q)
        for _ in when(whole):
            values = transformed_back(M, self.grid, width)
            # as many outputs at a time as registers hold
            while group := list(itertools.islice(values, OUTPUTS_AT_ONCE)):
                pixels = [(n, p + i, q + j) for i, j, _ in group]
                self.bound.store(task, pixels, [value for *_, value in group], k, width)
        for _ in otherwise(whole):
            (store_edge,) = self.store_edge
            store_edge(self.edge.at(thread(), 0, 0), M)
            for row in loop(minimum(rows, self.size[0] - p)):
                for column in loop(minimum(columns, self.size[1] - q)):
                    value = self.edge.load((thread(), row * columns + column, 0), width)
                    self.bound.store(task, [(n, p + row, q + column)], [value], k, width)

    def is_whole(self, p: Index, q: Index) -> Scalar:
        """True if all outputs of the tile that begins at (p, q) are inside of the image.

        Images whose sizes are multiples of a tile's need no test at run time.
        """
        if not self.store_edge:
            return True
        rows, columns = self.size
        return (p + self.grid.vertical.outputs <= rows) & (q + self.grid.horizontal.outputs <= columns)

    def prefetch_operands(self, place: Pixel, k: Index, width: int) -> None:
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
            self.bound.prefetch([(n, p + i, q + j) for j in range(self.grid.horizontal.outputs)], k, width)

    def prefetch(self, block: TileBlock, k: Index, valid: int) -> None:
        """Prefetch the lines that the results will be stored to, so that they are in the cache after the products.

        Left out are outputs that are streamed to memory past the cache, and images that fit into the cache.
        """
        grid = self.grid
        for image in (y for y in self.bound.outputs if not y.streamed):
            lines = far_lines(image, valid)
            for _, place in tiles(block.first, where(lines > 0, block.count, 0), *self.counts):
                first = image.at(*grid.first_output(place), k)
                prefetch_pixels(first, grid.vertical.outputs, grid.horizontal.outputs, lines)


def transformed_back(M: Array, grid: Grid, width: int) -> Iterator[tuple[int, int, Value]]:
    """Yield the outputs (i, j, value) of the tile at the origin of M [1, points, tiles, k], for `width` filters."""
    points = grid.order.point
    return transform_2d(grid.vertical.AT, grid.horizontal.AT, lambda i, j: M.load((0, points[i, j], 0, 0), width))


def edge_functions(edge: View, M: View, grid: Grid, size: Pair, width: int) -> list[Kernel]:
    """`store_edge_outputs` for edge [1, outputs, lanes] and M [1, points, tiles, columns], if a tile is cut."""
    if not any(n % m for n, m in zip(size, (grid.vertical.outputs, grid.horizontal.outputs), strict=True)):
        return []
    specs = ArraySpec(edge.shape, edge.strides), ArraySpec((1, M.shape[1], 1, M.shape[3]), M.strides)
    # the outputs of a tile do not depend on where it lies
    static = (("grid", grid.of_one_tile), ("width", width))
    return [Kernel(store_edge_outputs, specs, static, indices=0)]


def store_edge_outputs(edge: Array, M: Array, *, grid: Grid, width: int) -> None:
    """edge[0, output, k] = all outputs of the tile at the origin of M, for `width` filters."""
    for i, j, value in transformed_back(M, grid, width):
        edge.store((0, i * grid.horizontal.outputs + j, 0), value, width)
