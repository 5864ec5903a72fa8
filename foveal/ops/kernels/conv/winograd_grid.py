"""The grid of output tiles that Winograd convolution works on."""

from dataclasses import dataclass
from typing import Any

from foveal.ops.kernels.conv.select import Choice
from foveal.ops.kernels.conv.winograd_matrices import Scheme, scheme, strided, transposed
from foveal.ops.kernels.conv.winograd_transform import Order, order


@dataclass(frozen=True)
class Grid:
    """The tiles of N images: `rows` x `columns` in each. Tile (i, j) has the outputs from row i down.outputs, column
    j across.outputs on; its inputs begin at row i down.step - top, column j across.step - left.
    """

    down: Scheme
    across: Scheme
    images: int
    rows: int
    columns: int
    top: int
    left: int

    @property
    def positions(self) -> int:
        return self.down.positions * self.across.positions

    @property
    def classes(self) -> int:
        return self.down.classes * self.across.classes

    @property
    def outputs(self) -> int:
        return self.down.outputs * self.across.outputs

    @property
    def order(self) -> Order:
        return order(self.down, self.across)

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns


def grid_of(how: Choice, stride: int, images: int, size: tuple[int, int], before: tuple[int, int]) -> Grid:
    """For outputs of `size` = (P, Q) that read inputs padded by `before` = (top, left)."""
    rule = scheme(how.m) if stride == 1 else strided(how.m)
    return Grid(rule, rule, images, -(-size[0] // how.m), -(-size[1] // how.m), *before)


def turned_grid(how: Choice, stride: int, images: int, size: tuple[int, int], before: tuple[int, int]) -> Grid:
    """For the gradient in x: outputs of `size` = (H, W), which were padded by `before` = (top, left)."""
    if stride == 1:
        return grid_of(how, stride, images, size, (2 - before[0], 2 - before[1]))
    down, across = (transposed(how.m, pad % 2) for pad in before)
    counts = (-(-n // (2 * how.m)) for n in size)
    return Grid(down, across, images, *counts, *(-((pad - 1) // 2) for pad in before))


def near_equal(n: int, most: int) -> int:
    """The size of near-equal blocks of at most `most`."""
    blocks = -(-n // most)
    return -(-n // blocks)


def within(first: Any, last: Any, n: int) -> Any:
    return (first >= 0) & (last < n)
