"""Direct convolution and its gradient in x, for any stride, padding, dilation and groups, on channels-last images.

Both are one loop nest over register tiles of pixels x filters; `Taps` say which input pixels an output reads. This
kernel serves larger images with many filters; select.py chooses between it and the others.

Here `filters` are those of a group, K/G, and the channels that each of them reads are C/G. In a gradient in x the two
swap their roles: its "filters" are the channels of x. `Taps` named rows and columns are the phases of an axis.

Padding is no branch in an inner loop. A tile of one row of outputs visits only the rows of taps that meet the image.
Where taps reach outside of it along its rows, the rows that a task reads are first staged in a zero-bordered buffer,
one per thread; if they do so along no other axis (1x7 filters), rows and columns swap their roles instead.

How it comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py has the derivation of the tile):

    registers       the sums of 12 pixels x 32 filters on AVX-512 (6 x 16 on AVX2), over all taps and channels. A step
                    of the inner loop loads two vectors of weights and broadcasts one channel of each of the 12 (6)
                    pixels, for 24 (12) FMAs: 0.58 (0.67) loads per FMA, so the FMAs and not the loads set the pace.
    first level     the channels that the tile's pixels read at one tap, and the part of a panel that is being read
    second level    the input rows of a band (`band_elements`) while all panels pass over them, and the panel in use,
                    R S C/G x 32 weights
    last level      all panels, read once per band

Measured: 94 to 99 % of the peak on one core of Zen 4 (`foveal bench ops conv2d --threads 1`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveal.kernel.lang import Array, Index, Value, head, l2, loop, minimum, parallel, part, thread
from foveal.ops.kernels.conv.filter_tile import FilterTile, Pixel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2
from foveal.ops.kernels.halo import Border, bordered, stage_band, zero_buffer
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Accumulators,
    Tile,
    ceil_div,
    conflicts,
    part_of_blocks,
    split,
    tile_for,
    unrolled,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes, Taps
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Output rows of a band, at the least. Two neighbouring bands both read R - 1 rows; with 3x3 filters and 4 rows that is
# 2 of 6.
MIN_BAND_ROWS = 4

# With fewer input channels than this a filter row is one loop over (s, c): a loop over c alone would restart every few
# products. (weight_grad.py joins rows of up to 16 channels: there they are the rows of a register tile, which few of
# them would leave empty.)
FEW_CHANNELS = 8


def band_elements() -> int:
    """At most this many elements of input rows are read by a task: a quarter of the second-level cache.

    The rows are read once for each panel and tap. The rest of the cache is for the panel, for the outputs, which pass
    through, and for conflict misses.
    """
    return l2() // 4 // FLOAT_BYTES


@dataclass(frozen=True)
class Phases:
    """The phases of a gradient in x, where they are filters of one convolution with stride 1 (direct_phases.py)."""

    #: along rows and along columns: phase (a, b) computes the outputs (i rows + a, j columns + b)
    rows: int
    columns: int
    #: filters of a phase, and the lanes that they take: a power of two
    filters: int
    width: int


def lower(
    lowering: Lowering,
    y: EpilogueOutputs,
    x: View,
    panels: View,
    axes: Axes,
    filters: int,
    phases: Phases | None = None,
) -> None:
    """Cut the work into tasks (image, band of rows, part of the filters) and call the kernel.

    x: [N, H, W, C]. panels: [G, blocks, R, S, C/G, lanes] (packing.py). filters: K/G, those of a group; where phases
    are filters, the lanes of all of them.
    """
    if not phases and turns(x, axes, tile_for(filters)):
        x, panels = x.permuted(0, 2, 1, 3), panels.permuted(0, 1, 3, 2, 4, 5)
        y, axes = y.each(lambda image: image.permuted(0, 1, 3, 2)), (axes[1], axes[0])
    N, H, W, C = x.shape
    rows, (columns, *other_phases) = axes
    count, step = max(t.count for t in rows), rows[0].input_step
    # bands of rows that fit the cache, and that make enough tasks; rows shorter than a tile: one band, tiles of several
    # rows
    bands, is_narrow = 1, min(t.count for t in axes[1]) < tile_for(filters).rows
    if not is_narrow:
        needed = max(ceil_div(count * step * W * C, band_elements()), ceil_div(ENOUGH_TASKS, N))
        bands = max(1, min(needed, count // MIN_BAND_ROWS))
    # parts of the filters, if images and bands are too few tasks; phases share the sums of their channels
    blocks = panels.shape[0] * panels.shape[1]
    parts = 1 if phases or N * bands >= ENOUGH_TASKS else min(blocks, ceil_div(ENOUGH_TASKS, N * bands))
    # [1, rows, columns, C] per thread, the staged rows, if any tap leaves the image
    is_staged = not skips_rows(axes, tile_for(filters)) or any(t.leaves(W) for t in axes[1])
    border = bordered(axes, (H, W), ceil_div(count, bands)) if is_staged else None
    halo = lowering.scratch((1, border.rows, border.columns, C) if border else (1, 1, 1, 1), per_thread=True)
    if panels.shape[0] == 1 and C < FEW_CHANNELS and not other_phases and columns.tap_step == 1 < columns.taps:
        # in memory the S columns of a filter row and their C channels are one range, in the image as in the panels:
        # one tap with S C channels
        G, B, R, S, _, width = panels.shape
        panels = panels.reshaped((G, B, R, 1, S * C, width))
        axes = (rows, (replace(columns, taps=1),))
    sizes = CallSizes()
    y.call(
        lowering,
        correlate,
        N * bands,
        [halo],
        [x, panels],
        spec=sizes.batch_specs(halo, [panels]),
        axes=axes,
        # how many rows are staged is the halo's size
        border=border and border._replace(rows=0),
        filters=filters,
        bands=bands if is_narrow else sizes.of(bands, "bands"),
        parts=sizes.of(parts, "parts"),
        sizes=sizes.values,
        reads_far=exceeds_l2(y.outputs[0]),
        phases=phases,
    )


def turns(x: View, axes: Axes, tile: Tile) -> bool:
    """True if rows and columns swap their roles, for x [N, H, W, C]: so tiles visit no tap that meets padding.

    Their pixels then lie a row apart. A filter row of few channels is one loop, which needs neighbouring columns, and
    so does staging.
    """
    _, H, W, C = x.shape
    rows, columns = axes
    leaves_along_rows = any(t.leaves(W) for t in columns) and not any(t.leaves(H) for t in rows)
    is_useful = leaves_along_rows and skips_rows((columns, rows), tile)
    return is_useful and C >= FEW_CHANNELS and not conflicts(x.strides[1])


def skips_rows(axes: Axes, tile: Tile) -> bool:
    """True if a register tile has pixels of one row, all of which meet the image at the same rows of taps."""
    return all(tile.rows // t.count < 2 for t in axes[1])


def correlate(
    *arrays: Array,
    axes: Axes,
    border: Border | None,
    filters: int,
    bands: Index,
    parts: Index,
    reads_far: bool,
    phases: Phases | None,
    epilogue: Epilogue,
) -> None:
    """y[n, p, q, k] = sum over taps and channels of x * panels; tiles of pixels x filters stay in registers.

    axes: the phases along rows and columns. border: the rows to stage, if a tap leaves the image. filters: those of a
    group. bands: how many bands the output rows are cut into. parts: how many parts the filters are cut into.
    reads_far: what the epilogue reads is in memory and fetched early. phases: those that the filters are, if any.
    """
    bound = BoundEpilogue(epilogue, arrays, 3, reads_far)
    # [1, rows, columns, C] per thread, [N, H, W, C], [G, blocks, R, S, C/G, lanes]
    halo, x, panels = bound.operands
    groups = panels.shape[0]
    bound.aligned = groups == 1 and phases is None
    tile, count = tile_for(filters), max(t.count for t in axes[0])
    c_group = x.shape[3] // groups
    if border:
        zero_buffer(halo)
    # each task: a band of output rows of one image, for a part of the filters
    for n, band, share in parallel(x.extents[0], bands, parts):
        start, end = band * count // bands, (band + 1) * count // bands
        # [., H, W, C]: the image of x, or the staged rows shifted so that the indices of the image address them
        source = x.at(n, 0, 0, 0)
        if border:
            top = start * axes[0][0].input_step + border.top
            stage_band(halo, x, n, top, border.left)
            source = halo.at(thread(), -top, -border.left, 0)
        if phases:
            bound.zero_all_sums(n * bands + band, phases.filters)
        # each block of filters: its panel stays in the second-level cache while the band's pixels pass
        for g, b, valid in part_of_blocks(groups, filters, tile.lanes, share, parts):
            panel, first_filter = panels.at(g, b, 0, 0, 0, 0), g * filters + b * tile.lanes
            task, group = n * bands + band, source.at(0, 0, 0, g * c_group)
            block = PixelTile(bound, task, panel, first_filter, valid, tile, group, x.shape[1], phases)
            if not phases:
                block.clear_sums()
            # each phase of rows and columns: a gradient with stride has several, anything else one
            for rows, columns in itertools.product(*axes):
                last = end if rows.count == count else minimum(end, rows.count)
                for i, j, offsets in tile_positions(start, last, rows.count, columns.count, tile.rows):
                    block.compute(n, i, j, offsets, rows, columns)


def tile_positions(
    start: Index, end: Index, height: int, width: int, max_pixels: int
) -> Iterator[tuple[Index, Index, list[Pair]]]:
    """Loops over tiles of pixels that cover the output rows start ... end of a phase with height x width outputs.

    Yields (row, column, offsets (rows, columns) of the tile's pixels from there). A tile is a run of at most
    `max_pixels` pixels of one row. If rows are shorter than that, it is a box of whole rows, and start ... end are all
    rows.
    """
    if width >= max_pixels:
        first = 0
        # runs of near-equal size, and for each size a loop over rows and one over its runs
        for size, count in split(width, max_pixels):
            for i in loop(end, start=start):
                for j in loop(count):
                    yield i, j * size + first, [(0, q) for q in range(size)]
            first += size * count
        return
    first = 0
    for size, count in split(height, max(1, max_pixels // width)):
        for i in loop(count):
            yield i * size + first, 0, [(p, q) for p in range(size) for q in range(width)]
        first += size * count


def output_pixels(n: Index, i: Index, j: Index, offsets: list[Pair], rows: Taps, columns: Taps) -> list[Pixel]:
    """(n, p, q) of the outputs (i, j) + offsets of the phase (rows, columns)."""
    return [(n, rows.output_position(i + p), columns.output_position(j + q)) for p, q in offsets]


@dataclass(frozen=True)
class PixelTile(FilterTile):
    """Register tiles of pixels of one image x a block of filters.

    image: [., H, W, C], the image or its staged rows, from the group's first channel on. height: H. phases: those that
    the filters are, if any.
    """

    image: Array
    height: int
    phases: Phases | None

    def compute(self, n: Index, i: Index, j: Index, offsets: list[Pair], rows: Taps, columns: Taps) -> None:
        """The outputs at (i, j) + offsets of the phase (rows, columns), for all filters of the block."""
        # [., H, W, C] from the pixel on that output (i, j) reads at tap (0, 0)
        corner = self.image.at(0, rows.input_position(i), columns.input_position(j), 0)
        if self.phases:
            places = [(i + p, j + q) for p, q in offsets]
            self.store_phases(self.products(corner, i, offsets, rows, columns), n, places, self.phases)
            return
        pixels = output_pixels(n, i, j, offsets, rows, columns)
        self.bound.prefetch(pixels, self.first_filter, self.valid)
        self.store(self.products(corner, i, offsets, rows, columns), pixels)

    def store_phases(self, sums: Accumulators, n: Index, places: list[tuple[Index, Index]], phases: Phases) -> None:
        """End the sums of the block's phases with the epilogue; each phase has outputs of its own at a place (i, j)."""
        for number in range(self.valid // phases.width):
            phase = self.first_filter // phases.width + number
            a, b = phase // phases.columns, phase % phases.columns
            vector, lane = divmod(number * phases.width, self.tile.width)
            totals = [head(part(sums[m, vector], lane, phases.width), phases.filters) for m in range(len(places))]
            pixels = [(n, i * phases.rows + a, j * phases.columns + b) for i, j in places]
            self.bound.store(self.task, pixels, totals, 0, phases.filters)

    def products(self, corner: Array, i: Index, offsets: list[Pair], rows: Taps, columns: Taps) -> Accumulators:
        """The sums [pixels, vectors of filters] over the taps and the channels of the group; i: the first pixel's row.

        Of pixels in one row only the rows of taps are visited that meet the image.
        """
        sums, c_group = self.sums(len(offsets)), self.panel.shape[4]
        # distance in memory from the tile's first pixel to each: known at build time, so an address needs no register
        _, by_row, by_column, _ = corner.strides
        distances = [p * rows.input_step * by_row + q * columns.input_step * by_column for p, q in offsets]
        skips = rows.leaves(self.height) and all(p == 0 for p, _ in offsets)
        top, bottom = rows.valid_range(i, self.height) if skips else (0, rows.taps)
        # each row of the window, each column, each channel
        for r in loop(bottom, start=top):
            for s in loop(columns.taps):
                panel = self.panel_of(r, s, rows, columns)
                pixels = corner.at(0, r * rows.tap_step, s * columns.tap_step, 0)
                for c, place in unrolled(c_group):
                    # unrolled steps of a filter row load neighbouring addresses; hide them, else LLVM merges the loads
                    # and keeps their values in registers until the accumulators spill (Array.opaque)
                    is_hidden = place > 0 and columns.taps == 1 < c_group
                    self.multiply(sums, panel, c, channel_of(pixels, c, distances, is_hidden))
        return sums


def channel_of(pixels: Array, c: Index, distances: list[int], is_hidden: bool) -> Iterator[Value]:
    """Channel c of the pixels at these distances in memory; is_hidden: behind a pointer that LLVM cannot follow."""
    source = pixels.opaque() if is_hidden else pixels
    for distance in distances:
        yield source.neighbour(c + distance)
