"""The grid of output tiles that Winograd convolution works on, and where each tile lies."""

from dataclasses import dataclass

from foveal.kernel.lang import Index, unflatten
from foveal.ops.kernels.conv.winograd_matrices import Scheme, scheme, strided, transposed
from foveal.ops.kernels.conv.winograd_transform import PositionOrder, position_order

Pair = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """The output tiles of a batch: `rows` x `columns` of them in each of `images` images, numbered in this order."""

    # minimal filtering along rows of the image, and along columns
    vertical: Scheme
    horizontal: Scheme
    images: int
    rows: int
    columns: int
    # rows and columns of padding before the first input of tile (0, 0); negative where inputs are left out
    top: int
    left: int

    @property
    def positions(self) -> int:
        """Products of a tile, per channel and filter."""
        return self.vertical.positions * self.horizontal.positions

    @property
    def classes(self) -> int:
        """Elements of a transformed filter."""
        return self.vertical.classes * self.horizontal.classes

    @property
    def outputs(self) -> int:
        """Outputs of a tile, per filter."""
        return self.vertical.outputs * self.horizontal.outputs

    @property
    def order(self) -> PositionOrder:
        return position_order(self.vertical, self.horizontal)

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns

    def first_output(self, tile: Index) -> tuple[Index, Index, Index]:
        """(image, row, column) of a tile's first output."""
        n, i, j = unflatten(tile, (self.images, self.rows, self.columns))
        return n, i * self.vertical.outputs, j * self.horizontal.outputs

    def first_input(self, tile: Index) -> tuple[Index, Index, Index]:
        """(image, row, column) of a tile's first input, which may lie in the padding."""
        n, i, j = unflatten(tile, (self.images, self.rows, self.columns))
        return n, i * self.vertical.step - self.top, j * self.horizontal.step - self.left

    def output_pixels(self, tile: Index) -> list[tuple[Index, Index, Index]]:
        """(image, row, column) of all outputs of a tile, row by row."""
        n, p, q = self.first_output(tile)
        return [(n, p + i, q + j) for i in range(self.vertical.outputs) for j in range(self.horizontal.outputs)]


def forward_grid(m: int, stride: int, images: int, size: Pair, before: Pair) -> Grid:
    """Tiles of m x m for outputs of `size` = (P, Q) that read inputs padded by `before` = (top, left)."""
    axis = scheme(m) if stride == 1 else strided(m)
    return Grid(axis, axis, images, -(-size[0] // m), -(-size[1] // m), *before)


def input_grad_grid(m: int, stride: int, images: int, size: Pair, before: Pair) -> Grid:
    """The same for the gradient in x, whose outputs are the inputs of `size` = (H, W), padded by `before`.

    With stride 1 it is a correlation of dy, padded by 2 - before, with the filters rotated by 180 degrees. With stride
    2 a tile has 2 m x 2 m outputs; output h meets taps 0 and 2 of dy where h + before is even, so which outputs of a
    tile have two taps depends on the padding being even or odd.
    """
    if stride == 1:
        return forward_grid(m, stride, images, size, (2 - before[0], 2 - before[1]))
    vertical, horizontal = (transposed(m, pad % 2) for pad in before)
    rows, columns = (-(-n // (2 * m)) for n in size)
    return Grid(vertical, horizontal, images, rows, columns, *(-((pad - 1) // 2) for pad in before))


def near_equal(n: int, max_size: int) -> int:
    """The size of the blocks, but for the last, that n is split into as evenly as possible; at most `max_size`."""
    blocks = -(-n // max_size)
    return -(-n // blocks)
