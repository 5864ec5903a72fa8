"""The transform B^T d B of a tile, read from the image where it lies, padding included."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import LINE, Array, Index, Value, choose, loop, loops, otherwise, vectors, when, where
from foveal.ops.kernels.conv.winograd_grid import Grid
from foveal.ops.kernels.conv.winograd_matrices import Matrix
from foveal.ops.kernels.conv.winograd_transform import transform_2d
from foveal.ops.kernels.epilogue import exceeds_l2
from foveal.ops.kernels.register_tile import ceil_div
from foveal.view import View

# (image, row, column)
Pixel = tuple[Index, Index, Index]

# Neighbours in memory, however many.
FLAT = ArraySpec((1,), (1,))

# (row, column) of an element of a tile, before its transform -> its channels [C]
Pixels = dict[tuple[int, int], Array]


@dataclass(frozen=True)
class TileTransform:
    """The transform of the tiles of one array: B^T d B for inputs d, or G_w dy G_w^T for gradients of outputs dy.

    It is computed by a function that all kernels of the same shapes call.
    """

    grid: Grid
    #: how many channels are transformed, and the elements from one tile to the next in the result
    channels: int
    row: int
    #: True for the gradients of outputs
    of_gradients: bool = False

    @property
    def vertical(self) -> Matrix:
        """[points, rows of a tile]"""
        return self.grid.vertical.GW if self.of_gradients else self.grid.vertical.BT

    @property
    def horizontal(self) -> Matrix:
        """[points, columns of a tile]"""
        return self.grid.horizontal.GW if self.of_gradients else self.grid.horizontal.BT

    @property
    def steps(self) -> tuple[int, int]:
        """Rows and columns from one tile to the next."""
        vertical, horizontal = self.grid.vertical, self.grid.horizontal
        return (vertical.outputs, horizontal.outputs) if self.of_gradients else (vertical.step, horizontal.step)

    def first_pixel(self, tile: Index) -> Pixel:
        """Where the tile begins, which may be in the padding."""
        return self.grid.first_output(tile) if self.of_gradients else self.grid.first_input(tile)

    def function(self, V: View, image: View) -> Kernel:
        """`transform_tiles` for V [1, points, tiles row + PAD] and the image [N, H, W, C]."""
        # neither the number of images nor that of channels counts
        one_image = ArraySpec((1, *image.shape[1:]), image.strides)
        static = (("prefetch", exceeds_l2(image)), ("transform", replace(self, grid=replace(self.grid, images=1))))
        return Kernel(transform_tiles, (ArraySpec(V.shape, V.strides), one_image, FLAT), static, indices=3)

    def store(self, V: Array, image: Array, zeros: Array, pixel: Pixel, channel: Index, prefetch: bool) -> None:
        """V[0, point, c] = the transform of the tile whose first element is at `pixel`, channel `channel` + c.

        A tile that lies inside of the image reads it directly. At the border the address of each of the tile's pixels
        is chosen, in the image or in a row of zeros, so that the transform itself has no branches.
        """
        n, h, v = pixel
        rows, columns = len(self.vertical[0]), len(self.horizontal[0])
        _, height, width, _ = image.shape
        if prefetch:
            # the rows that the tile below reads and this one does not
            prefetch_pixels(image.at(n, h + rows, v, channel), *self.steps, self.channels)
        inside = self.inside(h, v, height, width)
        area = list(itertools.product(range(rows), range(columns)))
        for _ in when(inside):
            self.transform(V, {(i, j): image.row(n, h + i, v + j) for i, j in area}, channel)
        for _ in otherwise(inside):
            clamped_rows = [clamp_index(h + i, height) for i in range(rows)]
            clamped_columns = [clamp_index(v + j, width) for j in range(columns)]
            pixels = {}
            for i, j in area:
                (row, row_inside), (column, column_inside) = clamped_rows[i], clamped_columns[j]
                pixels[i, j] = choose(row_inside & column_inside, image.row(n, row, column), zeros)
            self.transform(V, pixels, channel)

    def inside(self, h: Index, v: Index, height: int, width: int) -> bool | Value:
        """True where the tile that begins at row h and column v lies inside of an image of that size.

        That is known before the kernel runs if it holds for all tiles, or for none.
        """
        rows, columns = len(self.vertical[0]), len(self.horizontal[0])
        top, left = (0, 0) if self.of_gradients else (-self.grid.top, -self.grid.left)
        vertical = [is_inside(i, i + rows - 1, height) for i in starts(top, self.steps[0], self.grid.rows)]
        horizontal = [is_inside(i, i + columns - 1, width) for i in starts(left, self.steps[1], self.grid.columns)]
        if all(vertical) and all(horizontal):
            return True
        if not any(vertical) or not any(horizontal):
            return False
        return is_inside(h, h + (rows - 1), height) & is_inside(v, v + (columns - 1), width)

    def transform(self, V: Array, pixels: Pixels, channel: Index) -> None:
        """V[0, point, c] for all channels, a vector at a time; pixels[i, j]: the channels of element (i, j)."""
        for c, width in vectors(self.channels):
            for i, j, value in self.transformed(pixels, channel + c, width):
                V.store((0, self.grid.order.point[i, j], c), value, width)

    def transformed(self, pixels: Pixels, channel: Index, width: int) -> Iterator[tuple[int, int, Value]]:
        """Yield (i, j, value) of the transform of a vector of channels."""

        def element(i: int, j: int) -> Value:
            return pixels[i, j].load((channel,), width)

        return transform_2d(self.vertical, self.horizontal, element)


def transform_tiles(
    V: Array,
    image: Array,
    zeros: Array,
    first: Index,
    count: Index,
    channel: Index,
    *,
    transform: TileTransform,
    prefetch: bool,
) -> None:
    """V[0, point, t row + c] = the transform of tile first + t, for `count` tiles t, of channel `channel` + c.

    zeros [C or more] are read in place of padding. prefetch: the image does not stay in the cache.
    """
    for t in loop(count):
        V_tile = V.at(0, 0, t * transform.row)
        transform.store(V_tile, image, zeros, transform.first_pixel(first + t), channel, prefetch)


def starts(first: int, step: int, count: int) -> range:
    """Where the tiles of an axis begin."""
    return range(first, first + step * count, step)


def prefetch_pixels(x: Array, rows: int, columns: int, channels: int) -> None:
    """Prefetch rows x columns pixels that are needed soon, from the origin of x [N, H, W, C] on.

    The rows of a tile are too short for the hardware's prefetcher to detect a stream.
    """
    for i, j, c in loops(rows, columns, ceil_div(channels, LINE)):
        x.prefetch((0, i, j, c * LINE))


def is_inside(first: Index, last: Index, n: int) -> bool | Value:
    """True where all of first ... last are indices of an axis of length n."""
    return (first >= 0) & (last < n)


def clamp_index(i: Index, n: int) -> tuple[Value, bool | Value]:
    """(i, True) where i is an index of an axis of length n, else (0, False)."""
    valid = is_inside(i, i, n)
    return where(valid, i, 0), valid
