"""Direct convolution and its gradient in x, for any stride, padding, dilation and groups, on channels-last images.

Both are one loop nest over register tiles of pixels x filters; `Taps` say which inputs an output reads. It is the
kernel for images of some size with many filters; dispatch.py chooses among it and the others.

Padding is no branch in an inner loop: where taps reach outside of the image, the rows that a task reads are first
staged in a zero-bordered buffer, one per thread.

How it comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py has the derivation of the tile):

    registers       the sums of 12 pixels x 32 filters on AVX-512 (6 x 16 on AVX2), over all taps and inputs. A step of
                    the inner loop loads two vectors of weights and broadcasts one input of each pixel, for 24
                    (12) FMAs: 0.58 (0.67) loads per FMA, so the FMAs and not the loads set the pace.
    first level     the inputs of the tile's pixels at one tap, and the part of a panel that is being read
    second level    the input rows of a band (`band_elements`) while all panels pass over them, and the panel in use,
                    R S C x 32 weights
    last level      all panels, read once per band

Measured: 94 to 99 % of the peak on one core of Zen 4 (`foveal bench ops conv2d --threads 1`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveal.kernel.lang import Array, Index, Value, l2, loop, minimum, parallel, thread
from foveal.ops.kernels.conv.filter_tile import FilterTile, Pixel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.halo import Border, bordered, stage_band, zero_buffer
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Accumulators,
    ceil_div,
    part_of_blocks,
    split,
    tile_for,
    unrolled,
)
from foveal.ops.kernels.taps import Axes, Taps
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

#: output rows of a band, at the least: neighbouring bands read R - 1 rows both, with 3x3 filters and 4 rows a third
MIN_BAND_ROWS = 4

#: inputs below which a filter row's columns and inputs are one loop: a loop over so few inputs alone would be left and
#: entered again after every few products
FEW_INPUTS = 8


def band_elements() -> int:
    """Elements of the input rows that a task reads: a quarter of the second-level cache.

    The rows are read once for each panel and tap. The rest of the cache is for the panel, for the outputs, which pass
    through, and for the unevenness of a cache's sets.
    """
    return l2() // 4 // FLOAT_BYTES


def lower(lowering: Lowering, y: EpilogueOutputs, x: View, panels: View, axes: Axes, outputs: int) -> None:
    """Cut the work into tasks (image, band of rows, part of the filters) and call the kernel.

    x: [N, H, W, C]. panels: [G, blocks, R, S, inputs, columns]. outputs: filters of a group.
    """
    N, H, W, C = x.shape
    rows, (columns, *other_phases) = axes
    count, step = max(t.count for t in rows), rows[0].input_step
    # bands of rows that fit the cache, and that make enough tasks; short rows are tiled over several rows, in one band
    bands = 1
    if min(t.count for t in axes[1]) >= tile_for(outputs).rows:
        needed = max(ceil_div(count * step * W * C, band_elements()), ceil_div(ENOUGH_TASKS, N))
        bands = max(1, min(needed, count // MIN_BAND_ROWS))
    # parts of the filters, if images and bands are too few tasks
    blocks = panels.shape[0] * panels.shape[1]
    parts = 1 if N * bands >= ENOUGH_TASKS else min(blocks, ceil_div(ENOUGH_TASKS, N * bands))
    # [1, rows, columns, C] per thread, if any tap leaves the image
    border = bordered(axes, (H, W), ceil_div(count, bands))
    halo = lowering.scratch((1, border.rows, border.columns, C) if border else (1, 1, 1, 1), per_thread=True)
    if panels.shape[0] == 1 and C < FEW_INPUTS and not other_phases and columns.tap_step == 1 < columns.taps:
        # in memory a filter row's columns and inputs are one range, in the image as in the panels: one tap, S C inputs
        G, B, R, S, _, lanes = panels.shape
        panels = panels.reshaped((G, B, R, 1, S * C, lanes))
        axes = (rows, (replace(columns, taps=1),))
    y.call(
        lowering,
        correlate,
        N * bands,
        [halo],
        [x, panels],
        axes=axes,
        border=border,
        outputs=outputs,
        bands=bands,
        parts=parts,
    )


def correlate(
    *arrays: Array, axes: Axes, border: Border | None, outputs: int, bands: int, parts: int, epilogue: Epilogue
) -> None:
    """y[n, ., ., k] = sum over taps and inputs of x * panels; tiles of pixels x filters stay in registers.

    axes: the phases along rows and columns. outputs: filters of a group. bands, parts: of the rows, of the filters.
    """
    bound = BoundEpilogue(epilogue, arrays, 3)
    # [1, rows, columns, C] per thread, [N, H, W, C], [G, blocks, R, S, inputs, columns]
    halo, x, panels = bound.operands
    groups = panels.shape[0]
    bound.aligned = groups == 1
    tile, count = tile_for(outputs), max(t.count for t in axes[0])
    inputs = x.shape[3] // groups
    if border:
        zero_buffer(halo)
    # each task: a band of output rows of one image, for a part of the filters
    for n, band, part in parallel(x.shape[0], bands, parts):
        start, end = band * count // bands, (band + 1) * count // bands
        # [., H, W, C]: the image, or its staged rows with the origin moved so that they have the image's indices
        source = x.at(n, 0, 0, 0)
        if border:
            top = start * axes[0][0].input_step + border.top
            stage_band(halo, x, n, top, border.left)
            source = halo.at(thread(), 0 - top, -border.left, 0)
        # each block of filters: its panel stays in the second-level cache while the band's pixels pass
        for g, b, valid in part_of_blocks(groups, outputs, tile.columns, part, parts):
            panel, channel = panels.at(g, b, 0, 0, 0, 0), g * outputs + b * tile.columns
            block = PixelTile(bound, n * bands + band, panel, channel, valid, tile, source.at(0, 0, 0, g * inputs))
            block.open()
            # each phase of rows and columns: all of a gradient with stride, one of anything else
            for rows, columns in itertools.product(*axes):
                last = end if rows.count == count else minimum(end, rows.count)
                for i, j, offsets in tile_positions(start, last, rows.count, columns.count, tile.rows, bands):
                    block.compute(n, i, j, offsets, rows, columns)


def tile_positions(
    start: Index, end: Index, rows: int, columns: int, max_pixels: int, bands: int
) -> Iterator[tuple[Index, Index, list[Pair]]]:
    """Loops that cover output rows start ... end with tiles of pixels: (row, column, offsets of the tile's pixels).

    A tile is a run of at most `max_pixels` pixels of one row. If rows are shorter than that, and there is one band, it
    is a box of whole rows.
    """
    if columns >= max_pixels or bands > 1:
        first = 0
        # runs of near-equal size, and for each size a loop over rows and one over its runs
        for size, count in split(columns, max_pixels):
            for i in loop(end, start=start):
                for j in loop(count):
                    yield i, j * size + first, [(0, q) for q in range(size)]
            first += size * count
        return
    first = 0
    for size, count in split(rows, max(1, max_pixels // columns)):
        for i in loop(count):
            yield i * size + first, 0, [(p, q) for p in range(size) for q in range(columns)]
        first += size * count


def output_pixels(n: Index, i: Index, j: Index, offsets: list[Pair], rows: Taps, columns: Taps) -> list[Pixel]:
    """(n, p, q) of the outputs of the tile at (i, j)."""
    return [(n, rows.output_position(i + p), columns.output_position(j + q)) for p, q in offsets]


@dataclass(frozen=True)
class PixelTile(FilterTile):
    """Register tiles of pixels of one image x a block of filters.

    image: [., H, W, C], the image or its staged rows, from the group's first input on.
    """

    image: Array

    def compute(self, n: Index, i: Index, j: Index, offsets: list[Pair], rows: Taps, columns: Taps) -> None:
        """The outputs at (i, j) + offsets of the phase (rows, columns), for all filters of the block."""
        # [., H, W, C] from the input that output (i, j) reads at tap (0, 0)
        corner = self.image.at(0, rows.input_position(i), columns.input_position(j), 0)
        pixels = output_pixels(n, i, j, offsets, rows, columns)
        self.bound.prefetch(pixels, self.channel, self.valid)
        self.store(self.products(corner, offsets, rows, columns), pixels)

    def products(self, corner: Array, offsets: list[Pair], rows: Taps, columns: Taps) -> Accumulators:
        """The sums [pixels, vectors of filters] over the taps and the inputs."""
        sums, inputs = self.sums(len(offsets)), self.panel.shape[4]
        # distance in memory from the tile's first pixel to each: known here, so an address needs no register
        _, by_row, by_column, _ = corner.strides
        distances = [p * rows.input_step * by_row + q * columns.input_step * by_column for p, q in offsets]
        # each kernel row, each kernel column, each input
        for r in loop(rows.taps):
            for s in loop(columns.taps):
                panel = self.panel_of(r, s, rows, columns)
                pixels = corner.at(0, r * rows.tap_step, s * columns.tap_step, 0)
                for c, place in unrolled(inputs):
                    # where steps of a filter row follow each other, LLVM must not merge their loads (Array.opaque)
                    hidden = place > 0 and columns.taps == 1 < inputs
                    self.multiply(sums, panel, c, inputs_of(pixels, c, distances, hidden))
        return sums


def inputs_of(pixels: Array, c: Index, distances: list[int], hidden: bool) -> Iterator[Value]:
    """Input c of the pixels at these distances in memory; hidden: through a pointer that LLVM cannot see through."""
    source = pixels.opaque() if hidden else pixels
    for distance in distances:
        yield source.neighbour(c + distance)
