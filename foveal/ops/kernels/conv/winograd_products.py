"""The products of transformed tiles with transformed filters: a matrix product for each point of a tile."""

from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import LINE, Array, Index, loop, var
from foveal.ops.kernels.conv.winograd_transform import ClassRange
from foveal.ops.kernels.register_tile import Tile, counted, lane_ranges, multiply_add
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
    #: the numbers of tiles of a register tile
    pieces: tuple[int, ...]
    #: channels to sum over
    channels: int
    #: the register tile: tiles x filters
    tile: Tile
    #: True if the products are added to what is in M
    add: bool = False
    #: how many channels before they are needed transformed filters are fetched; 0: the hardware does that
    ahead: int = 0

    def function(self, M: View, V: View, U: View) -> Kernel:
        """`multiply_points` for arrays with these strides."""
        tiles = (ArraySpec((1, view.shape[1], 1, view.shape[3]), view.strides) for view in (M, V))
        specs = (*tiles, ArraySpec(U.shape, U.strides))
        return Kernel(multiply_points, specs, (("products", self),), indices=1)

    def store(self, M: Array, V: Array, U: Array, tiles: Index) -> None:
        """M[0, point, t, k] = (or +=) sum_c V[0, point, t, c] U[0, class of point, c, k].

        For all points, `tiles` tiles t and one block of filters k.
        """
        # near-equal register tiles over the tiles of the block
        counts = counted(tiles, self.pieces, self.tile.rows)
        for classes in self.classes:
            for n in loop(classes.classes):
                # [C, columns] of this class: about 8 KiB for 64 channels, in the first-level cache from here on
                u = U.at(0, n + classes.first, 0, 0)
                # the points of the class
                for copy in loop(classes.copies):
                    point = n * classes.copies + copy + classes.start
                    first: Index = 0
                    for rows, count in counts:
                        for i in loop(count):
                            t = i * rows + first
                            M_tile, v = M.at(0, point, t, 0), V.at(0, point, t, 0)
                            store_products(M_tile, v, u, rows, self.channels, self.tile, self.add, self.ahead)
                        first = first + count * rows


def store_products(
    M: Array, v: Array, u: Array, rows: int, channels: int, tile: Tile, add: bool = False, ahead: int = 0
) -> None:
    """M[0, 0, t, k] = (or +=) sum_c v[0, 0, t, c] u[0, 0, c, k] for `rows` rows t of a register tile.

    ahead: u is fetched from memory so many channels before it is needed, which may lie behind its end; 0: it is in a
    cache, or the hardware fetches it early enough.
    """
    starts, step = lane_ranges(tile.lanes, tile.width), min(UNROLL, channels)
    # the row and the filter of each accumulator (row, vector)
    places = {(i, s): (i, start) for i in range(rows) for s, (start, _) in enumerate(starts)}
    acc = {key: var(M.load((0, 0, *place), tile.width) if add else 0.0, tile.width) for key, place in places.items()}

    def add_channel(c: Index) -> None:
        """Add the products of channel c: one vector of u per vector of the tile, one scalar of v per row."""
        if ahead:
            for line in range(0, tile.lanes, LINE):
                u.prefetch((0, 0, c + ahead, line))
        weights = [u.load((0, 0, c, start), tile.width) for start, _ in starts]
        multiply_add(acc, (v[0, 0, i, c] for i in range(rows)), weights)

    for c in loop(channels // step):
        for e in range(step):
            add_channel(c * step + e)
    for c in range(channels - channels % step, channels):
        add_channel(c)
    for key, place in places.items():
        M.store((0, 0, *place), acc[key], tile.width)


def multiply_points(M: Array, V: Array, U: Array, tiles: Index, *, products: PointProducts) -> None:
    """`PointProducts.store` as a function."""
    products.store(M, V, U, tiles)
