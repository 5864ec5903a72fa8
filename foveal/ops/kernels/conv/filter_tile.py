"""Register tiles of direct convolution whose lanes run over filters: what the three kernels with such tiles share.

The rows of a tile are pixels of an image (direct.py), images (direct_batch.py) or pixels of all images (conv1x1.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foveal.kernel.lang import Array, Index, Scalar, head
from foveal.ops.kernels.epilogue import BoundEpilogue
from foveal.ops.kernels.register_tile import Accumulators, Tile, accumulators, lane_ranges, multiply_add
from foveal.ops.kernels.taps import Taps

# (n, p, q) of an output pixel.
Pixel = tuple[Index, Index, Index]


@dataclass(frozen=True)
class FilterTile:
    """The register tiles of one task and one block of filters: any rows x the `valid` filters from `first_filter` on.

    bound: the epilogue. task: the number under which it keeps the task's sums. panel: the block's weights
    [., ., R, S, C/G, lanes], with as many lanes as the tile has.
    """

    bound: BoundEpilogue
    task: Index
    panel: Array
    first_filter: Index
    valid: int
    tile: Tile

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(first filter, lanes) of the tile's vectors of filters, counted from the block's first filter."""
        return lane_ranges(self.valid, self.tile.width)

    def clear_sums(self) -> None:
        """Clear the epilogue's sums of the block's filters, before the block's first tile."""
        for start, width in self.ranges:
            self.bound.zero_sums(self.task, self.first_filter + start, width)

    def sums(self, rows: int) -> Accumulators:
        """[rows, vectors] accumulators of full width: a panel has zeros where a block has no filters."""
        return accumulators(rows, [self.tile.width] * len(self.ranges))

    def panel_of(self, r: Index, s: Index, rows: Taps, columns: Taps) -> Array:
        """The weights [C/G, lanes] of tap (r, s): the last two axes of an array with the panel's six axes.

        rows, columns: the phases that the tap belongs to.
        """
        return self.panel.at(0, 0, rows.kernel_position(r), columns.kernel_position(s), 0, 0)

    def multiply(self, sums: Accumulators, panel: Array, c: Index, scalars: Iterable[Scalar]) -> None:
        """sums[row, v] += scalars[row] * panel[c, v]: the products with channel c, of which each row has a scalar."""
        weights = [panel.load((0, 0, 0, 0, c, start), self.tile.width) for start, _ in self.ranges]
        multiply_add(sums, scalars, weights)

    def store(self, sums: Accumulators, pixels: Sequence[Pixel]) -> None:
        """End the sums, of which row m belongs to pixels[m], with the epilogue, and store what it gives."""
        totals = [[head(sums[m, v], width) for m in range(len(pixels))] for v, (_, width) in enumerate(self.ranges)]
        vectors = [(self.first_filter + start, width) for start, width in self.ranges]
        self.bound.store_vectors(self.task, pixels, totals, vectors)
