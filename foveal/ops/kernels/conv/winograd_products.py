"""The products of transformed tiles with transformed filters: a matrix product for each point of a tile."""

from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Array, Index, loop, var
from foveal.ops.kernels.conv.winograd_transform import ClassRange
from foveal.ops.kernels.register_tile import Tile, counted, lane_ranges, multiply_add
from foveal.view import View

# Channels per iteration of the inner loop: enough to hide the loop's own instructions. More would only lengthen
# compilation.
UNROLL = 4


@dataclass(frozen=True)
class PointProducts:
    """The products of a block of tiles with blocks of filters, one matrix product per point of a tile.

    They are computed by a function that all kernels of the same shapes call.
    """

    #: the classes of the points
    classes: tuple[ClassRange, ...]
    #: the numbers of tiles of a register tile
    pieces: tuple[int, ...]
    #: channels to sum over
    channels: int
    #: the register tile: tiles x filters
    tile: Tile
    #: True if the products are added to what is in M
    add: bool = False

    def function(self, M: View, V: View, U: View) -> Kernel:
        """`multiply_points` for arrays with these strides."""
        tiles = (ArraySpec((1, view.shape[1], 1, view.shape[3]), view.strides) for view in (M, V))
        specs = (*tiles, ArraySpec(U.shape, U.strides))
        return Kernel(multiply_points, specs, (("products", self),), indices=2)

    def store(self, M: Array, V: Array, U: Array, tiles: Index, blocks: Index) -> None:
        """M[0, point, t, b columns + k] = (or +=) sum_c V[0, point, t, c] U[b, class of point, c, k].

        For all points, `tiles` tiles t and `blocks` blocks b of as many filters k as a register tile has columns. The
        tiles of a point stay in the first-level cache while the blocks pass.
        """
        # near-equal register tiles over the tiles of the block
        counts = counted(tiles, self.pieces, self.tile.rows)
        for classes in self.classes:
            for n in loop(classes.classes):
                # the points of the class
                for copy in loop(classes.copies):
                    point = n * classes.copies + copy + classes.start
                    for b in loop(blocks):
                        # [C, columns] of this class: about 8 KiB for 64 channels, in the first-level cache from here on
                        u, k = U.at(b, n + classes.first, 0, 0), b * self.tile.lanes
                        first: Index = 0
                        for rows, count in counts:
                            for i in loop(count):
                                t = i * rows + first
                                self.store_register_tile(M.at(0, point, t, k), V.at(0, point, t, 0), u, rows)
                            first = first + count * rows

    def store_register_tile(self, M: Array, v: Array, u: Array, rows: int) -> None:
        """One register tile of `store`: M[0, 0, t, k] for `rows` tiles t at one point.

        The arrays begin at the tile: M at its first tile and filter, v at its first tile, u at the class of the point.
        """
        tile = self.tile
        starts, step = lane_ranges(tile.lanes, tile.width), min(UNROLL, self.channels)
        # the tile and the filter of each accumulator (row, vector)
        places = {(i, s): (i, start) for i in range(rows) for s, (start, _) in enumerate(starts)}
        acc = {
            key: var(M.load((0, 0, *place), tile.width) if self.add else 0.0, tile.width)
            for key, place in places.items()
        }

        def add_channel(c: Index) -> None:
            """Add the products of channel c: one vector of u per vector of the tile, one scalar of v per row."""
            weights = [u.load((0, 0, c, start), tile.width) for start, _ in starts]
            multiply_add(acc, (v[0, 0, i, c] for i in range(rows)), weights)

        for c in loop(self.channels // step):
            for e in range(step):
                add_channel(c * step + e)
        for c in range(self.channels - self.channels % step, self.channels):
            add_channel(c)
        for key, place in places.items():
            M.store((0, 0, *place), acc[key], tile.width)


def multiply_points(M: Array, V: Array, U: Array, tiles: Index, blocks: Index, *, products: PointProducts) -> None:
    """`PointProducts.store` as a function."""
    products.store(M, V, U, tiles, blocks)
