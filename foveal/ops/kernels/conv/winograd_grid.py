"""The grid of output tiles that Winograd convolution works on, and where each tile lies."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveal.kernel.lang import Index, loop, maximum, minimum, unflatten, walk
from foveal.ops.kernels.conv.winograd_matrices import Scheme, forward_scheme, transposed
from foveal.ops.kernels.conv.winograd_transform import PointOrder, point_order
from foveal.ops.kernels.register_tile import ceil_div
from foveal.ops.window import Pair, Window


@dataclass(frozen=True)
class Grid:
    """The output tiles of a batch: `rows` x `columns` of them in each of `images` images, numbered in this order."""

    #: minimal filtering along rows of the image, and along columns
    vertical: Scheme
    horizontal: Scheme
    images: int
    rows: int
    columns: int
    #: rows and columns of padding before the first input of tile (0, 0); negative where inputs are left out
    top: int
    left: int

    @property
    def points(self) -> int:
        """Points of a tile: elements of its transform, and products of each channel with each filter."""
        return self.vertical.points * self.horizontal.points

    @property
    def classes(self) -> int:
        """Elements of a transformed filter: classes of points that are multiplied with the same element."""
        return self.vertical.classes * self.horizontal.classes

    @property
    def outputs(self) -> int:
        """Outputs of a tile, per filter."""
        return self.vertical.outputs * self.horizontal.outputs

    @property
    def order(self) -> PointOrder:
        """The numbers of the points and of the classes in memory."""
        return point_order(self.vertical, self.horizontal)

    @property
    def of_one_tile(self) -> "Grid":
        """The grid of one tile without padding: all that code depends on but for transforms of inputs."""
        return replace(self.of_any_size, top=0, left=0)

    @property
    def of_any_size(self) -> "Grid":
        """The grid of one tile: all that the code of transforms of inputs depends on."""
        return replace(self, images=1, rows=1, columns=1)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.images * self.rows * self.columns

    def counts(self, size: tuple[Index, Index]) -> tuple[Index, Index]:
        """Rows and columns of tiles of an image with outputs of `size` = (P, Q), where the call gives them."""
        return ceil_div(size[0], self.vertical.outputs), ceil_div(size[1], self.horizontal.outputs)

    def first_output(self, place: tuple[Index, Index, Index]) -> tuple[Index, Index, Index]:
        """(image, row, column) of the first output of the tile at place (image, row, column) of the grid."""
        n, i, j = place
        return n, i * self.vertical.outputs, j * self.horizontal.outputs

    def first_input(self, place: tuple[Index, Index, Index]) -> tuple[Index, Index, Index]:
        """(image, row, column) of the first input of the tile at that place, which may lie in the padding."""
        n, i, j = place
        return n, i * self.vertical.step - self.top, j * self.horizontal.step - self.left


def tiles(
    first: Index, count: Index, rows: Index, columns: Index
) -> Iterator[tuple[Index, tuple[Index, Index, Index]]]:
    """Loop over `count` tiles from tile `first` on: (number from 0, place in a grid of rows x columns per image).

    What depends on the row alone is computed once for the tiles of it.
    """
    end = first + count
    for n, i in walk(*rows_of_tiles(first, count, rows, columns), (1, rows)):
        before = (n * rows + i) * columns
        for j in loop(minimum(end - before, columns), start=maximum(first - before, 0)):
            yield j + (before - first), (n, i, j)


def rows_of_tiles(first: Index, count: Index, rows: Index, columns: Index) -> tuple[Index, Index]:
    """(first, end) of the rows that `tiles` goes along, numbered through all images.

    All divisions are here: those that were written before a loop are not repeated where it calls `tiles`.
    """
    start, end = first // columns, ceil_div(first + count, columns)
    unflatten(start, (1, rows))
    return start, end


def forward_grid(m: int, window: Window, images: int, size: Pair) -> Grid:
    """The grid of a convolution: tiles of m x m for outputs of `size` = (P, Q)."""
    axis = forward_scheme(m, window.stride[0])
    top, _, left, _ = window.padding
    return Grid(axis, axis, images, ceil_div(size[0], m), ceil_div(size[1], m), top, left)


def input_grad_grid(m: int, window: Window, images: int, size: Pair) -> Grid:
    """Tiles for the gradient in x, whose outputs are the inputs of `size` = (H, W).

    With stride 1 it is a correlation with the filters rotated by 180 degrees, of dy padded by 2 - padding. With stride
    2 a tile has 2 m x 2 m outputs. Output h meets taps 0 and 2 where h + padding is even, so the parity of the padding
    decides which outputs of a tile have two taps.
    """
    top, _, left, _ = window.padding
    if window.stride[0] == 1:
        return forward_grid(m, replace(window, padding=(2 - top, 0, 2 - left, 0)), images, size)
    vertical, horizontal = transposed(m, top % 2), transposed(m, left % 2)
    rows, columns = (ceil_div(n, 2 * m) for n in size)
    return Grid(vertical, horizontal, images, rows, columns, -((top - 1) // 2), -((left - 1) // 2))


def near_equal(n: int, max_size: int) -> int:
    """The size of each block but the last, if n is cut into near-equal blocks, as few as `max_size` elements allow."""
    blocks = ceil_div(n, max_size)
    return ceil_div(n, blocks)
