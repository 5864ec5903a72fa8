"""The transform B^T d B of a tile, read from the image where it lies, padding included."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from foveal.kernel.compile import ArraySpec, Kernel, Size
from foveal.kernel.lang import LINE, Array, Index, Value, choose, loops, otherwise, vectors, when, where
from foveal.ops.kernels.conv.winograd_grid import Grid, tiles
from foveal.ops.kernels.conv.winograd_matrices import Matrix
from foveal.ops.kernels.conv.winograd_transform import transform_2d
from foveal.ops.kernels.epilogue import exceeds_l2
from foveal.ops.kernels.register_tile import ceil_div, panels
from foveal.ops.window import Pair
from foveal.view import View

# (image, row, column)
Pixel = tuple[Index, Index, Index]

# Neighbours in memory, however many.
FLAT = ArraySpec((1,), (1,))

# (row, column) of an element of a tile, before its transform -> its channels [C]
Pixels = dict[tuple[int, int], Array]


# Indices of `transform_tiles` before those that are sizes: the first tile, the number of tiles, the first channel.
OWN_INDICES = 3


@dataclass(frozen=True)
class TileTransform:
    """The transform of the tiles of one array: B^T d B for inputs d, or G_w dy G_w^T for gradients of outputs dy.

    It is computed by a function that all kernels call whose images have as many channels, however many and large the
    images are.
    """

    grid: Grid
    #: how many channels are transformed
    channels: int
    #: True for the gradients of outputs
    of_gradients: bool = False
    #: channels of a panel of V, where V has panels [panels, points, tiles, panel]; None: its rows hold all channels
    panel: int | None = None

    @property
    def vertical(self) -> Matrix:
        """[points, rows of a tile]"""
        return self.grid.vertical.GW if self.of_gradients else self.grid.vertical.BT

    @property
    def horizontal(self) -> Matrix:
        """[points, columns of a tile]"""
        return self.grid.horizontal.GW if self.of_gradients else self.grid.horizontal.BT

    @property
    def lengths(self) -> Pair:
        """Rows and columns of a tile before its transform."""
        vertical, horizontal = self.grid.vertical, self.grid.horizontal
        return (vertical.outputs, horizontal.outputs) if self.of_gradients else (vertical.inputs, horizontal.inputs)

    @property
    def steps(self) -> tuple[int, int]:
        """Rows and columns from one tile to the next."""
        vertical, horizontal = self.grid.vertical, self.grid.horizontal
        return (vertical.outputs, horizontal.outputs) if self.of_gradients else (vertical.step, horizontal.step)

    def first_pixel(self, place: Pixel) -> Pixel:
        """Where the tile at that place of the grid begins, which may be in the padding."""
        return self.grid.first_output(place) if self.of_gradients else self.grid.first_input(place)

    def function(self, V: View, image: View) -> Kernel:
        """`transform_tiles` for V [1, points, tiles, row] and the image [N, H, W, C]."""
        height, width, by_image, by_row = (Size(OWN_INDICES + i) for i in range(4))
        _, _, by_column, by_channel = image.strides
        image_spec = ArraySpec((1, height, width, image.shape[3]), (by_image, by_row, by_column, by_channel))
        specs = (ArraySpec((1, *V.shape[1:2], 1, V.shape[3]), V.strides), image_spec, FLAT)
        grid = self.grid.of_one_tile if self.of_gradients else self.grid.of_any_size
        static = (("outside", self.outside(image)), ("transform", replace(self, grid=grid)))
        return Kernel(transform_tiles, specs, static, indices=OWN_INDICES + len(self.sizes(image, (1, 1))))

    def sizes(self, image: Array | View, counts: tuple[Index, Index]) -> tuple[Index, ...]:
        """The last indices of the function for an image [N, H, W, C]; counts: rows and columns of tiles of an image.

        They are H, W, the strides of images and of rows, the counts, and the cache lines of a pixel that are
        prefetched: none where the images stay in the cache.
        """
        (_, height, width, _), (by_image, by_row, _, _) = image.extents, image.strides
        return height, width, by_image, by_row, *counts, far_lines(image, self.channels)

    def outside(self, image: View) -> tuple[Pair, Pair]:
        """Along rows and columns: how many elements of a tile, from its start and from its end, may lie in the padding.

        They are the first ones of the first tile and the last ones of the last tile, so that code depends on the sizes
        of images only as far as the last tiles are cut.
        """
        firsts = (0, 0) if self.of_gradients else (-self.grid.top, -self.grid.left)
        counts, lengths = (self.grid.rows, self.grid.columns), self.lengths
        rows, columns = (
            (min(max(-first, 0), length), min(max(first + step * (count - 1) + length - n, 0), length))
            for first, step, count, length, n in zip(firsts, self.steps, counts, lengths, image.shape[1:3], strict=True)
        )
        return rows, columns

    def store(
        self, V: Array, image: Array, zeros: Array, pixel: Pixel, channel: Index, outside: tuple[Pair, Pair]
    ) -> None:
        """V[0, point, 0, c] = the transform of the tile whose first element is at `pixel`, channel `channel` + c.

        A tile that lies inside of the image reads it directly. At the border the address of each of the tile's pixels
        that may lie outside is chosen, in the image or in a row of zeros, so that the transform itself has no branches.
        """
        n, h, v = pixel
        lengths = rows, columns = self.lengths
        _, height, width, _ = image.extents
        tests = [
            is_inside(first, first + (length - 1), size)
            for first, length, size, places in zip((h, v), lengths, (height, width), outside, strict=True)
            if any(places)
        ]
        inside = tests[0] & tests[1] if len(tests) == 2 else tests[0] if tests else True
        area = list(itertools.product(range(rows), range(columns)))
        for _ in when(inside):
            self.transform(V, {(i, j): image.row(n, h + i, v + j) for i, j in area}, channel)
        for _ in otherwise(inside):
            clamped_rows = clamped(h, rows, height, outside[0])
            clamped_columns = clamped(v, columns, width, outside[1])
            pixels = {}
            for i, j in area:
                (row, row_inside), (column, column_inside) = clamped_rows[i], clamped_columns[j]
                pixels[i, j] = choose(row_inside & column_inside, image.row(n, row, column), zeros)
            self.transform(V, pixels, channel)

    def transform(self, V: Array, pixels: Pixels, channel: Index) -> None:
        """V[0, point, 0, c] for all channels, a vector at a time; pixels[i, j]: the channels of element (i, j)."""
        size = self.panel or self.channels
        for panel, channels in panels(self.channels, size):
            for c, width in vectors(channels):
                for i, j, value in self.transformed(pixels, channel + panel * size + c, width):
                    V.store((panel, self.grid.order.point[i, j], 0, c), value, width)

    def transformed(self, pixels: Pixels, channel: Index, width: int) -> Iterator[tuple[int, int, Value]]:
        """Yield (i, j, value) of the transform of a vector of channels."""
        rows: Sequence[int]
        columns: Sequence[int]
        rows, columns = (range(n) for n in self.lengths)
        # a joined tile reads the inputs that both of its parts need once for each
        if not self.of_gradients:
            rows, columns = self.grid.vertical.reads, self.grid.horizontal.reads

        def element(i: int, j: int) -> Value:
            return pixels[rows[i], columns[j]].load((channel,), width)

        return transform_2d(self.vertical, self.horizontal, element)


def transform_tiles(
    V: Array,
    image: Array,
    zeros: Array,
    first: Index,
    count: Index,
    channel: Index,
    *sizes: Index,
    transform: TileTransform,
    outside: tuple[Pair, Pair],
) -> None:
    """V[0, point, t, c] = the transform of tile first + t, for `count` tiles t, of channel `channel` + c.

    zeros [C or more] are read in place of padding. sizes: as `TileTransform.sizes` gives them. outside: see
    `TileTransform.outside`.
    """
    *_, rows, columns, lines = sizes
    for t, place in tiles(first, count, rows, columns):
        n, h, v = pixel = transform.first_pixel(place)
        # the rows that the tile below reads and this one does not
        for _ in when(lines > 0):
            prefetch_pixels(image.at(n, h + transform.lengths[0], v, channel), *transform.steps, lines)
        transform.store(V.at(0, 0, t, 0), image, zeros, pixel, channel, outside)


def far_lines(image: Array | View, channels: Index) -> Index:
    """Cache lines of `channels` channels of a pixel if the images do not fit into the second-level cache, else 0."""
    return where(exceeds_l2(image), ceil_div(channels, LINE), 0)


def prefetch_pixels(x: Array, rows: int, columns: int, lines: Index) -> None:
    """Prefetch rows x columns pixels that are needed soon, `lines` cache lines of each, from x [N, H, W, C] on.

    The rows of a tile are too short for the hardware's prefetcher to detect a stream.
    """
    for i, j, c in loops(rows, columns, lines):
        x.prefetch((0, i, j, c * LINE))


def is_inside(first: Index, last: Index, n: Index) -> bool | Value:
    """True where all of first ... last are indices of an axis of length n."""
    return (first >= 0) & (last < n)


def clamped(first: Index, count: int, n: Index, outside: Pair) -> list[tuple[Index, bool | Value]]:
    """(i, True) for each of `count` places from `first` on that is an index of an axis of length n, else (0, False).

    outside: how many places from the start and from the end may lie outside.
    """
    before, after = outside
    places: list[tuple[Index, bool | Value]] = []
    for i in range(count):
        place: Index = first + i
        valid: bool | Value = place >= 0 if i < before else True
        if i >= count - after:
            valid = valid & (place < n)
        places.append((where(valid, place, 0), valid))
    return places
