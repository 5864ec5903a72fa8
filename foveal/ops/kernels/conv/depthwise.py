"""Depthwise convolution, one filter per channel, and its gradient in x: lanes run over channels.

A register tile is some neighbouring output pixels of a vector of channels. An input vector is loaded once for all
pixels and taps of the tile that meet it; taps that would meet padding are left out where the kernel is built, at the
edges, so nothing is staged.

Each element of x is used only R S times, nine FMAs per number for 3x3 filters, so memory limits the speed rather than
arithmetic. Where an image comes from memory, the input rows that an output row is the first to read are prefetched one
output row earlier.

The gradient in the weights takes the same products apart: dw[g, r, s] sums up x[h, v, g] dy[p, q, g] over the pixels
(h, v) whose gradient tap (r, s) adds dy[p, q, g] w[g, r, s] to. So the gradient in x computes both (`Epilogue.x`): a
tile's dy is in the first-level cache, the epilogue has read x where it applies the mask of an activation, and dw needs
no pass of its own over dy and x.

Where x is computed by a prologue (a batch norm's normalisation, or its gradient), each row is computed once, by the
first output row that reads it, and stays in a ring of rows in the second-level cache (`ComputedRows`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foveal.kernel.lang import (
    LINE,
    Array,
    Index,
    Scalar,
    Value,
    Var,
    lanes,
    llc,
    loop,
    maximum,
    minimum,
    parallel,
    registers,
    splat,
    thread,
    var,
    vectors,
    when,
    where,
)
from foveal.ops.kernels import expression
from foveal.ops.kernels.conv.filter_tile import Pixel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs, exceeds_l2, repeated
from foveal.ops.kernels.expression import FusedInput, Prologue
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, FLOAT_BYTES, ceil_div, split
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes, Taps, rows_read
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.strides import Shape
from foveal.view import View

# Input position (row, column) -> the (output of the tile, tap) pairs that read it.
Uses = dict[Pair, list[tuple[int, Pair]]]

# Output pixels up to which all of an image is unrolled: 8 x 8 outputs x 9 taps are 576 FMAs, a kernel of a few KiB
# without a loop over pixels, which leaves out each tap in the padding. More would take long to compile and fill the
# instruction cache.
MAX_UNROLLED_PIXELS = 64

# Output rows of a band, at the least. Two neighbouring bands both read R - 1 rows; with 3x3 filters and 4 rows that is
# 2 of 6.
MIN_BAND_ROWS = 4

# Vectors of a part of the channels, at the least: some hundred multiply-adds each, beside which starting a task, some
# hundred cycles, is little.
MIN_PART_VECTORS = 3

# Neighbouring pixels that a prologue computes at once: they share the loads of what it reads for each channel, two to
# five vectors, and each has a vector in flight.
PROLOGUE_PIXELS = 4


def cached_elements() -> int:
    """Elements up to which x is expected to lie in the last-level cache: an eighth of it. A larger x is in memory."""
    return llc() // 8 // FLOAT_BYTES


def is_far(x: View) -> bool:
    """True if the images are expected to come from memory and not from a cache."""
    return math.prod(x.shape) > cached_elements()


def computes_input(x: Shape, w: Shape) -> bool:
    """True if it pays to compute x [N, C, H, W], for filters [K, C/G, R, S], by a prologue.

    It saves writing x to memory and reading it again. An x that stays in the cache costs less than a ring of rows, and
    only depthwise kernels, in their loop over rows, have one.
    """
    is_depthwise = w[:2] == (x[1], 1) and x[1] > 1
    return is_depthwise and x[2] * x[3] > MAX_UNROLLED_PIXELS and math.prod(x) > cached_elements()


def lower(lowering: Lowering, y: EpilogueOutputs, x: FusedInput, w: View, axes: Axes) -> None:
    """Cut the work into tasks (image, band of rows, part of the channels) and call the kernel.

    x: [N, H, W, G]. w: [G, 1, 1, R, S].
    """
    rows, columns = (max(t.count for t in phases) for phases in axes)
    N, _, W, G = x.arrays[0].shape
    computed = bool(x.prologue.steps)
    small = rows * columns <= MAX_UNROLLED_PIXELS and y.weight_grad is None and not computed
    bands = 1 if small else max(1, min(ceil_div(ENOUGH_TASKS, N), rows // MIN_BAND_ROWS))
    parts = parts_of(N * bands, G) if y.epilogue.rows == 0 and not computed else 1
    ring = lowering.scratch((1, rows_read(axes[0]), W, G) if computed else (1, 1, 1, 1), per_thread=True)
    weights, sizes = w.permuted(1, 2, 3, 4, 0), CallSizes()
    y.call(
        lowering,
        depthwise,
        N * bands,
        [ring],
        [*x.arrays, weights],
        spec=sizes.batch_specs(None, [ring, weights]),
        axes=axes,
        bands=1 if small else sizes.of(bands, "bands"),
        parts=1 if parts == 1 else sizes.of(parts, "parts"),
        sizes=sizes.values,
        small=small,
        far=is_far(x.arrays[0]),
        reads_far=exceeds_l2(y.outputs[0]),
        prologue=x.prologue,
    )


def parts_of(tasks: int, channels: int) -> int:
    """Parts of the channels, so that a few images and bands give enough tasks; each has some whole vectors."""
    return max(1, min(ceil_div(ENOUGH_TASKS, tasks), channels // (MIN_PART_VECTORS * lanes())))


def depthwise(
    *arrays: Array,
    axes: Axes,
    bands: Index,
    parts: Index,
    small: bool,
    far: bool,
    reads_far: bool,
    prologue: Prologue,
    epilogue: Epilogue,
) -> None:
    """y[n, p, q, g] = sum over taps (r, s) of x[n, h, v, g] w[r, s, g], where (h, v) is what the tap reads.

    axes: the phases along rows and columns. bands, parts: how many bands the output rows, and how many parts the
    channels are cut into. small: all of an image is unrolled. far: x is in memory and fetched early. reads_far: so is
    what the epilogue reads. prologue: computes x, if it has any step, from arrays that are read in its place.
    """
    bound = BoundEpilogue(epilogue, arrays, 2 + prologue.array_count, reads_far)
    # [1, rows, W, G] per thread, arrays [N, H, W, G], [1, 1, R, S, G]
    buffer, x, *more, w = bound.operands
    ring = ComputedRows(buffer, [x, *more], prologue, axes[0], far) if prologue.steps else None
    count = max(t.count for t in axes[0])

    def channels(part: Index) -> Iterator[tuple[Index, int]]:
        """The vectors of a part."""
        G = x.shape[3]
        return vectors(G) if isinstance(parts, int) and parts == 1 else part_of_vectors(G, part, parts)

    # each task: a band of output rows of an image, for a part of the channels
    for n, band, part in parallel(x.extents[0], bands, parts):
        task = n * bands + band
        bound.zero_all_sums(task, x.shape[3])
        if small:
            for rows in axes[0]:
                for g, width in channels(part):
                    for columns in axes[1]:
                        whole_image(bound, x, w, n, g, width, rows, columns)
            continue
        start, end = band * count // bands, (band + 1) * count // bands
        for i in loop(end, start=start):
            if ring:
                ring.compute(n, i, i == start)
            for rows, columns in ((rows, columns) for rows in axes[0] for columns in axes[1]):
                # some phases have one row less than others
                for _ in when(i < rows.count) if rows.count < count else (None,):
                    # three eighths of the registers hold sums; the others hold weights of one row of the window, and x
                    for j, taps in tiles(columns, x.shape[2], registers() * 3 // 8):
                        tile = PixelRow(rows, columns, i, j, taps, x.shape[1], ring, far and not ring)
                        pixels, below = tile.pixels(n, i), tile.pixels(n, i + 1)
                        # innermost the channels: memory is read and written in long runs
                        for g, width in channels(part):
                            bound.prefetch(below, g, width)
                            source = buffer.at(thread(), 0, 0, g) if ring else x.at(n, 0, 0, g)
                            totals = tile.sums(source, w.at(0, 0, 0, 0, g), width)
                            values = bound.store(task, pixels, totals, g, width)
                            if values:
                                into = bound.partial.at(task, len(epilogue.sums), g)
                                tile.add_weight_products(into, source, values, w.shape[3], width)


@dataclass(frozen=True)
class ComputedRows:
    """The rows of an image that one row of outputs reads, computed by a prologue, as a ring of rows of each thread."""

    #: [1, rows, W, G] per thread: row h of the image is in place h mod rows
    buffer: Array
    #: what the prologue reads, each [N, H, W, G]
    sources: list[Array]
    prologue: Prologue
    #: the phases along rows
    phases: tuple[Taps, ...]
    #: the sources are in memory and fetched early
    far: bool

    def place(self, h: Index) -> Index:
        """The row of the ring that holds row h of the image."""
        return h % self.buffer.shape[1]

    def compute(self, n: Index, i: Index, first: Scalar) -> None:
        """Compute the rows of image n that output row i is the first to read: all that it reads, if it is the first.

        Each takes the place of a row that no later output row reads.
        """
        used = [t for t in self.phases if t.taps]
        if not used:
            return
        H, rows, step = self.sources[0].shape[1], self.buffer.shape[1], used[0].input_step
        # the first row that output row 0 reads
        low = min(t.low for t in used)
        top, end = i * step + low, i * step + low + rows
        fresh = where(first, top, end - min(step, rows))
        for h in loop(minimum(end, H), start=maximum(fresh, 0)):
            self.compute_row(n, h, step)

    def compute_row(self, n: Index, h: Index, step: int) -> None:
        """Compute row h of image n. step: rows from it to one that the next output row is the first to read."""
        _, _, W, G = self.sources[0].shape
        first = 0
        # neighbouring pixels share what is the same for all (a mean, a scale)
        for size, count in split(W, PROLOGUE_PIXELS):
            for t in loop(count):
                for g, width in vectors(G):
                    self.compute_pixels(n, h, [t * size + first + q for q in range(size)], g, width, step)
            first += size * count

    def compute_pixels(self, n: Index, h: Index, columns: list[Index], g: Index, width: int, step: int) -> None:
        """Compute pixels of row h, for `width` channels from g on."""
        same = [expression.load(x, (0, 0, 0, g), width) if repeated(x) else None for x in self.sources]
        for v in columns:
            read = [
                expression.load(x, (n, h, v, g), width) if one is None else one
                for x, one in zip(self.sources, same, strict=True)
            ]
            (value,) = expression.evaluate(read, self.prologue.steps, (self.prologue.result,))
            self.buffer.store((thread(), self.place(h), v, g), splat(value, width), width)
            for x, one in zip(self.sources, same, strict=True):
                if self.far and one is None:
                    x.prefetch((n, h + step, v, g))


def part_of_vectors(n: int, part: Index, parts: Index) -> Iterator[tuple[Index, int]]:
    """The vectors that cover one of `parts` parts of n neighbours; the last part has the tail."""
    size = lanes()
    full, tail = divmod(n, size)
    for v in loop((part + 1) * full // parts, start=part * full // parts):
        yield v * size, size
    if tail:
        # one iteration in the last part, none in the others
        for _ in loop((part + 1) // parts):
            yield full * size, tail


def output(n: Index, i: Index, j: Index, rows: Taps, columns: Taps) -> Pixel:
    """(n, p, q) of a phase's output (i, j)."""
    return n, rows.output_position(i), columns.output_position(j)


def tiles(taps: Taps, size: int, max_outputs: int) -> Iterator[tuple[Index, list[list[int]]]]:
    """Loop over tiles of at most `max_outputs` outputs that cover an axis of `size` input positions.

    Yields (first output, for each output of the tile the taps that meet the input). Tiles at the edges, where some taps
    meet padding, are unrolled; those between are a loop.
    """
    first = 0
    for width, count in split(taps.count, max_outputs):
        starts = [first + t * width for t in range(count)]
        valid = {start: [taps.valid(start + i, size) for i in range(width)] for start in starts}
        full = [start for start in starts if all(len(meeting) == taps.taps for meeting in valid[start])]
        for start in starts:
            if start not in full:
                yield start, valid[start]
        for t in loop(len(full)):
            yield t * width + full[0], [list(range(taps.taps))] * width
        first += width * count


@dataclass(frozen=True)
class PixelRow:
    """A register tile: neighbouring outputs of row i of the phase (rows, columns), from column j on.

    taps: for each output the taps along the columns that meet the image. H: rows of the image. ring: the rows of x, if
    they are computed. far: x is in memory and fetched early.
    """

    rows: Taps
    columns: Taps
    i: Index
    j: Index
    taps: list[list[int]]
    H: int
    ring: ComputedRows | None
    far: bool

    def pixels(self, n: Index, i: Index) -> list[Pixel]:
        """(n, p, q) of the outputs at the tile's columns in row i."""
        return [output(n, i, self.j + q, self.rows, self.columns) for q in range(len(self.taps))]

    def sums(self, x: Array, w: Array, width: int) -> list[Value]:
        """The outputs of `width` channels, from the first element of x [., H, W, .] and of w [., ., R, S, .] on."""
        columns = self.columns
        acc, uses = [var(0.0, width) for _ in self.taps], self.uses()
        if self.far:
            fetch(x, self.i + 1, self.j, len(self.taps), self.rows, columns)
        # each row of the window: its weights in registers, then each pixel of the input row once
        for r, source in self.window_rows(x):
            row = w.at(0, 0, r, columns.kernel, 0)
            weights = {
                (0, s): expression.load(row, (0, 0, 0, s * columns.kernel_step, 0), width) for s in range(columns.taps)
            }
            add_products(acc, source, uses, weights, width)
        return [total.get() for total in acc]

    def uses(self) -> Uses:
        """(0, distance in columns of a pixel from the tile's first) -> the (output, tap) pairs that read it."""
        uses: Uses = {}
        for q, meeting in enumerate(self.taps):
            for s in meeting:
                distance = q * self.columns.input_step + s * self.columns.tap_step
                uses.setdefault((0, distance), []).append((q, (0, s)))
        return uses

    def window_rows(self, x: Array) -> Iterator[tuple[Index, Array]]:
        """A loop over the rows of the window that meet the image: (row of the window, x from the tile's first on)."""
        rows = self.rows
        first, end = rows.valid_range(self.i, self.H)
        for r in loop(end, start=first):
            h = rows.input_position(self.i) + r * rows.tap_step
            place = self.ring.place(h) if self.ring else h
            yield rows.kernel_position(r), x.at(0, place, self.columns.input_position(self.j), 0)

    def add_weight_products(self, into: Array, dy: Array, values: Sequence[Scalar], S: int, width: int) -> None:
        """into[., r S + s, .] += dy * values over the tile, for each tap (r, s) of a window of S columns.

        into: from the first channel on, as is dy [., H, W, .]. values: x of each output.
        """
        columns, uses = self.columns, self.uses()
        # each row of the window: the sums of its taps in registers
        for r, source in self.window_rows(dy):
            row = into.at(0, r * S + columns.kernel, 0)
            sums = {
                s: var(row.load((0, s * columns.kernel_step, 0), width), width)
                for s in sorted({s for meeting in self.taps for s in meeting})
            }
            for h, v in sorted(uses):
                gradient = source.load((0, h, v, 0), width)
                for q, (_, s) in uses[h, v]:
                    sums[s].fma(gradient, splat(values[q], width))
            for s, total in sums.items():
                row.store((0, s * columns.kernel_step, 0), total, width)


def fetch(x: Array, i: Index, j: Index, count: int, rows: Taps, columns: Taps) -> None:
    """Prefetch the input rows that output row i is the first to read, for `count` outputs from column j on."""
    last = rows.input_position(i) + max(0, (rows.taps - 1) * rows.tap_step)
    for row in range(min(rows.input_step, rows.taps)):
        for q in range(count * columns.input_step):
            x.prefetch((0, last - row, columns.input_position(j) + q, 0))


def add_products(acc: list[Var], x: Array, uses: Uses, weights: dict[Pair, Value], width: int) -> None:
    """acc[output] += x[position] * weights[tap] for the (output, tap) pairs of each position, which is loaded once."""
    for h, v in sorted(uses):
        value = x.load((0, h, v, 0), width)
        for index, tap in uses[h, v]:
            acc[index].fma(value, weights[tap])


def whole_image(
    bound: BoundEpilogue, x: Array, w: Array, n: Index, g: Index, width: int, rows: Taps, columns: Taps
) -> None:
    """All outputs of a small image in the phase (rows, columns), for `width` channels from g on.

    They are unrolled, but for tiles that are alike, which are a loop.
    """
    places = [(i, j) for i in range(rows.count) for j in range(columns.count)]
    # all weights of the channels, for as long as the registers hold them
    weights = {
        (r, s): expression.load(w, (0, 0, rows.kernel_position(r), columns.kernel_position(s), g), width)
        for r in range(rows.taps)
        for s in range(columns.taps)
    }
    done = 0
    # the places of the input that have been fetched for the next channels
    fetched: set[Pair] = set()
    # tiles of neighbouring outputs, in half of the registers
    for size, count in split(len(places), registers() // 2):
        tiles = [places[done + t * size : done + (t + 1) * size] for t in range(count)]
        done += size * count
        while tiles:
            alike = alike_tiles(tiles, rows, columns, x.shape[1])
            tile, between = tiles[0], size // columns.count
            uses = uses_of(tile, rows, columns, x.shape)
            for t in loop(alike) if alike > 1 else (0,):
                acc = [var(0.0, width) for _ in tile]
                source = x.at(n, t * (between * rows.input_step), 0, g)
                # the next channels of the same pixels: the hardware's prefetcher does not follow jumps of a pixel
                for place in sorted(uses.keys() - fetched):
                    source.prefetch((0, *place, LINE))
                fetched |= uses.keys()
                add_products(acc, source, uses, weights, width)
                pixels = [output(n, i + t * between, j, rows, columns) for i, j in tile]
                bound.prefetch(pixels, g + width, width)
                bound.store(n, pixels, [total.get() for total in acc], g, width)
            del tiles[:alike]


def alike_tiles(tiles: list[list[Pair]], rows: Taps, columns: Taps, size: int) -> int:
    """How many of the first tiles are whole rows that differ in their places only, as all their taps meet the image.

    The image has `size` rows. One tile is alike itself.
    """
    if tiles[0][0][1] != 0 or len(tiles[0]) % columns.count or not rows.taps:
        return 1
    inner = [all(len(rows.valid(i, size)) == rows.taps for i, _ in tile) for tile in tiles]
    return max(1, [*inner, False].index(False))


def uses_of(outputs: list[Pair], rows: Taps, columns: Taps, shape: tuple[int, ...]) -> Uses:
    """Input position (h, v) -> the (output, tap) pairs that read it, for x of this shape [N, H, W, G]."""
    uses: Uses = {}
    for index, (i, j) in enumerate(outputs):
        for r in rows.valid(i, shape[1]):
            for s in columns.valid(j, shape[2]):
                h = rows.origin + i * rows.input_step + r * rows.tap_step
                v = columns.origin + j * columns.input_step + s * columns.tap_step
                uses.setdefault((h, v), []).append((index, (r, s)))
    return uses
