"""The products of transformed tiles with transformed filters: a matrix product for each point of a tile."""

from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Array, Index, loop, var
from foveal.ops.kernels.conv.winograd_transform import ClassRange
from foveal.ops.kernels.register_tile import Tile, lane_ranges, multiply_add, split
from foveal.view import View

# Channels per iteration of the inner loop: enough to hide the loop's own instructions. More would only lengthen
# compilation.
UNROLL = 4


@dataclass(frozen=True)
class PointProducts:
    """The products of a block of tiles with a block of filters, one matrix product per point of a tile.

    They are computed by a function that all kernels of the same shapes call.
    """

    #: the classes of the points
    classes: tuple[ClassRange, ...]
    #: tiles of the block
    tiles: int
    #: channels to sum over
    channels: int
    #: elements from one tile to the next in V
    row: int
    #: the register tile: tiles x filters
    tile: Tile
    #: True if the products are added to what is in M
    add: bool = False

    def function(self, M: View, V: View, U: View) -> Kernel:
        """`multiply_points` for arrays with these strides."""
        specs = tuple(ArraySpec(view.shape, view.strides) for view in (M, V, U))
        return Kernel(multiply_points, specs, (("products", self),), indices=0)

    def store(self, M: Array, V: Array, U: Array) -> None:
        """M[0, point, t columns + k] = (or +=) sum_c V[0, point, t row + c] U[0, class of point, c, k].

        For all points, all tiles t of the block and one block of filters k.
        """
        for classes in self.classes:
            for n in loop(classes.classes):
                # [C, columns] of this class: about 8 KiB for 64 channels, in the first-level cache from here on
                u = U.at(0, n + classes.first, 0, 0)
                # the points of the class
                for copy in loop(classes.copies):
                    point, first = n * classes.copies + copy + classes.start, 0
                    # near-equal register tiles over the tiles of the block
                    for rows, count in split(self.tiles, self.tile.rows):
                        for i in loop(count):
                            t = i * rows + first
                            M_tile, v = M.at(0, point, t * self.tile.lanes), V.at(0, point, t * self.row)
                            self.store_register_tile(M_tile, v, u, rows)
                        first += rows * count

    def store_register_tile(self, M: Array, v: Array, u: Array, rows: int) -> None:
        """One register tile of `store`: M[0, 0, ...] for `rows` tiles at one point.

        The arrays begin at the tile: M at its first tile and filter, v at its first tile, u at the class of the point.
        """
        tile = self.tile
        starts, step = lane_ranges(tile.lanes, tile.width), min(UNROLL, self.channels)
        # the offset of each accumulator (row, vector) in M
        places = {(i, s): i * tile.lanes + start for i in range(rows) for s, (start, _) in enumerate(starts)}
        acc = {
            key: var(M.load((0, 0, place), tile.width) if self.add else 0.0, tile.width)
            for key, place in places.items()
        }

        def add_channel(c: Index) -> None:
            """Add the products of channel c: one vector of u per vector of the tile, one scalar of v per row."""
            weights = [u.load((0, 0, c, start), tile.width) for start, _ in starts]
            multiply_add(acc, (v[0, 0, i * self.row + c] for i in range(rows)), weights)

        for c in loop(self.channels // step):
            for e in range(step):
                add_channel(c * step + e)
        for c in range(self.channels - self.channels % step, self.channels):
            add_channel(c)
        for key, place in places.items():
            M.store((0, 0, place), acc[key], tile.width)


def multiply_points(M: Array, V: Array, U: Array, *, products: PointProducts) -> None:
    """`PointProducts.store` as a function."""
    products.store(M, V, U)
