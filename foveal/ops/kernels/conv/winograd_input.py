"""The transform B^T d B of a tile, read from the image where it lies, padding included."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.lang import LINE, Array, Index, Value, choose, loop, otherwise, thread, vectors, when, where
from foveal.ops.kernels.conv.winograd_grid import Grid
from foveal.ops.kernels.conv.winograd_matrices import Matrix
from foveal.ops.kernels.conv.winograd_transform import transform_2d
from foveal.ops.kernels.epilogue import exceeds_l2
from foveal.ops.kernels.register_tile import ceil_div

# (image, row, column)
Pixel = tuple[Index, Index, Index]

# (row, column) of an element of a tile, before its transform -> its channels [C]
Pixels = dict[tuple[int, int], Array]


@dataclass(frozen=True)
class TileTransform:
    """The transform of the tiles of one array: B^T d B for inputs d, G_w dy G_w^T for gradients of outputs dy."""

    grid: Grid
    #: [N, H, W, C]: the inputs x, or dy
    image: Array
    #: [threads, C or more]: zeros, which are read in place of padding
    zeros: Array
    #: the matrices of both axes, [points, rows of a tile] and [points, columns of a tile]
    vertical: Matrix
    horizontal: Matrix
    #: rows and columns from one tile to the next
    steps: tuple[int, int]

    @classmethod
    def of_inputs(cls, grid: Grid, x: Array, zeros: Array) -> "TileTransform":
        vertical, horizontal = grid.vertical, grid.horizontal
        return cls(grid, x, zeros, vertical.BT, horizontal.BT, (vertical.step, horizontal.step))

    @classmethod
    def of_output_gradients(cls, grid: Grid, dy: Array, zeros: Array) -> "TileTransform":
        vertical, horizontal = grid.vertical, grid.horizontal
        return cls(grid, dy, zeros, vertical.GW, horizontal.GW, (vertical.outputs, horizontal.outputs))

    def store(self, V: Array, pixel: Pixel, channel: Index, channels: int) -> None:
        """V[0, point, c] = the transform of the tile whose first element is at `pixel`, channel `channel` + c.

        A tile that lies inside of the image reads it directly. At the border the address of each of the tile's pixels
        is chosen, in the image or in a row of zeros, so that the transform itself has no branches.
        """
        n, h, v = pixel
        rows, columns = len(self.vertical[0]), len(self.horizontal[0])
        _, height, width, _ = self.image.shape
        if exceeds_l2(self.image):
            # the rows that the tile below reads and this one does not
            prefetch_pixels(self.image.at(n, h + rows, v, channel), *self.steps, channels)
        inside = is_inside(h, h + (rows - 1), height) & is_inside(v, v + (columns - 1), width)
        area = list(itertools.product(range(rows), range(columns)))

        for _ in when(inside):
            self.transform(V, {(i, j): self.image.row(n, h + i, v + j) for i, j in area}, channel, channels)
        for _ in otherwise(inside):
            clamped_rows = [clamp_index(h + i, height) for i in range(rows)]
            clamped_columns = [clamp_index(v + j, width) for j in range(columns)]
            pixels = {}
            for i, j in area:
                (row, row_inside), (column, column_inside) = clamped_rows[i], clamped_columns[j]
                padding = self.zeros.row(thread())
                pixels[i, j] = choose(row_inside & column_inside, self.image.row(n, row, column), padding)
            self.transform(V, pixels, channel, channels)

    def transform(self, V: Array, pixels: Pixels, channel: Index, channels: int) -> None:
        """V[0, point, c] for all channels, a vector at a time; pixels[i, j]: the channels of element (i, j)."""
        for c, width in vectors(channels):
            for i, j, value in self.transformed(pixels, channel + c, width):
                V.store((0, self.grid.order.point[i, j], c), value, width)

    def transformed(self, pixels: Pixels, channel: Index, width: int) -> Iterator[tuple[int, int, Value]]:
        """Yield (i, j, value) of the transform of a vector of channels."""

        def element(i: int, j: int) -> Value:
            return pixels[i, j].load((channel,), width)

        return transform_2d(self.vertical, self.horizontal, element)


def prefetch_pixels(x: Array, rows: int, columns: int, channels: int) -> None:
    """Prefetch rows x columns pixels that are needed soon, from the origin of x [N, H, W, C] on.

    The rows of a tile are too short for the hardware's prefetcher to detect a stream.
    """
    for i in range(rows):
        for j in range(columns):
            for c in loop(ceil_div(channels, LINE)):
                x.prefetch((0, i, j, c * LINE))


def is_inside(first: Index, last: Index, n: int) -> bool | Value:
    """True where all of first ... last are indices of an axis of length n."""
    return (first >= 0) & (last < n)


def clamp_index(i: Index, n: int) -> tuple[Value, bool | Value]:
    """(i, True) where i is an index of an axis of length n, else (0, False)."""
    valid = is_inside(i, i, n)
    return where(valid, i, 0), valid
