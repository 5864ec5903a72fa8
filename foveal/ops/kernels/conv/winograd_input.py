"""The transform of an input tile, read from the image where it lies."""

import itertools
from functools import partial
from typing import Any

from foveal.kernel.lang import LINE, choose, loop, thread, vectors, when, where
from foveal.ops.kernels.conv.winograd_grid import Grid, within
from foveal.ops.kernels.conv.winograd_transform import both_sides
from foveal.ops.kernels.epilogue import exceeds_l2


def transform_tile(
    V: Any, x: Any, zeros: Any, grid: Grid, at: tuple[Any, Any, Any, Any], channels: int, of_outputs: bool = False
) -> None:
    """V[0, pos, c] = (B^T d B)[pos] where d[i, j] = x[n, h+i, v+j, c], 0 outside of the image; at = (n, h, v, c).
    of_outputs: with the matrices for dy, G_w in place of B^T.

    At the border each of the tile's pixels has its address chosen: in the image, or in a row of zeros.
    """
    (n, h, v, first), axes = at, (grid.down, grid.across)
    down, across = ((s.GW if of_outputs else s.BT) for s in axes)
    step, steps = ((s.outputs if of_outputs else s.step) for s in axes)
    size = len(down[0]), len(across[0])
    _, height, width, _ = x.shape
    if exceeds_l2(x):
        prefetch_pixels(x.at(n, h + size[0], v, first), step, steps, channels)
    inside = within(h, h + (size[0] - 1), height) & within(v, v + (size[1] - 1), width)
    area = list(itertools.product(range(size[0]), range(size[1])))

    def transform(pixels: dict[tuple[int, int], Any]) -> None:
        for c, width in vectors(channels):
            d = partial(lambda c, width, i, j: pixels[i, j].load((c,), width), first + c, width)
            for i, j, value in both_sides(down, across, d):
                V.store((0, grid.order.position[i, j], c), value, width)

    for _ in when(inside):
        transform({(i, j): x.row(n, h + i, v + j) for i, j in area})
    for _ in when(inside == False):  # noqa: E712
        rows = [clamped(h + i, height) for i in range(size[0])]
        columns = [clamped(v + j, width) for j in range(size[1])]
        pixels = {}
        for i, j in area:
            (row, in_row), (column, in_column) = rows[i], columns[j]
            nothing = zeros.row(thread())
            pixels[i, j] = choose(in_row & in_column, x.row(n, row, column), nothing)
        transform(pixels)


def prefetch_pixels(x: Any, rows: int, columns: int, channels: int) -> None:
    """A tile that is needed soon: rows as short as a tile's the hardware does not foresee."""
    for i in range(rows):
        for j in range(columns):
            for c in loop(-(-channels // LINE)):
                x.prefetch((0, i, j, c * LINE))


def clamped(i: Any, n: int) -> tuple[Any, Any]:
    """An index kept inside of n, and whether it was there before."""
    valid = within(i, i, n)
    return where(valid, i, 0), valid
