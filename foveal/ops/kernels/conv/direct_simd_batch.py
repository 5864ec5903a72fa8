"""Convolution and its gradient in x with lanes over images, for so few filters that they would leave lanes empty.

A vector holds one element of as many images as it has lanes, and a weight is a scalar that multiplies it. The images of
a block are copied that way first; results are turned back in registers and stored channels last.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

from foveal.kernel.lang import (
    head,
    lanes,
    loop,
    maximum,
    minimum,
    pack,
    parallel,
    part,
    registers,
    thread,
    transpose,
    var,
    vectors,
)
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.packing import pack_panels
from foveal.ops.kernels.register_tile import (
    accumulators,
    multiply_add,
    part_of_blocks,
    pieces,
    runs,
    split,
    tile_for,
    unrolling,
)
from foveal.ops.kernels.taps import Taps
from foveal.ops.op import Lowering

Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


Pair = tuple[int, int]


MOST_FILTERS = 12  # of a tile


BAND = 128 << 10  # elements that a task copies: half of a second-level cache of 1 MB


LARGEST = 4 * BAND  # that a single row of outputs may read


LEAST_ROWS = 3  # of a band: neighbouring bands copy some rows both


TASKS = 8  # at least, where there are as many rows


NARROW = 0.85  # share of a filter row's taps that meet the image, below which each pixel skips the others


FEW = 8  # inputs, below which a filter row's columns and channels are one loop


HALF = 8  # lanes: a narrower vector takes as long


SPEED, SPEED_OF_HALF = 0.93, 0.85  # share of the peak that lanes over filters reach


# products that copying an input takes, turning all of a pixel's outputs, a tile's
COPY, WHOLE, SEVERAL = 8, 5, 13


def fits(x: Any, inputs: int, outputs: int, axes: Axes) -> bool:
    """Whether it takes less time than lanes over filters, for x [N, H, W, C].

    Counted per pixel: products, and with lanes over images also what is copied and turned back.
    """
    N, H, W, C = x.shape
    row, reach, step = W * C * lanes(), reached(axes[0]), axes[0][0].input_step
    if x.strides[2:] != (C, 1) or min(H, reach) * row > LARGEST:
        return False
    height = band_rows(row, reach, step)
    again = (reach + (height - 1) * step) / (height * step)  # how often an input row is copied
    rows, columns = (sum(t.taps * t.count for t in taps) / max(sum(t.count for t in taps), 1) for taps in axes)
    products, width = rows * columns * inputs, tile_for(outputs).width
    filters = -(-outputs // width) * max(width, min(HALF, lanes())) * products
    filters /= SPEED if width == lanes() else SPEED_OF_HALF
    turned = WHOLE if outputs <= MOST_FILTERS else SEVERAL
    images = outputs * (products + turned) * padded(N) / N + COPY * again * inputs
    return images < filters


def band_rows(row: int, reach: int, step: int) -> int:
    """Output rows of a band, of which the input's rows have `row` elements."""
    return max(1, (BAND // row - reach) // step + 1)


def tile_of(outputs: int) -> tuple[int, int]:
    """(filters, vectors of images or columns) of a tile: three quarters of the registers."""
    filters = split(outputs, MOST_FILTERS)[0][0]
    return filters, max(1, registers() * 3 // 4 // filters)


def padded(images: int) -> int:
    return -(-images // lanes()) * lanes()


def blocks_of(N: int, most: int) -> list[Pair]:
    """N images as blocks of at most `most` vectors: (images, blocks)."""
    count = -(-N // lanes())
    size = -(-count // -(-count // most)) * lanes()
    full, rest = divmod(N, size)
    return [(size, full)] * bool(full) + [(rest, 1)] * bool(rest)


def lower(to: Lowering, y: EpilogueOutputs, x: Any, w: Any, axes: Axes, first: Pair, kernel: Pair) -> None:
    """x: [N, H, W, C], w: [G, outputs, inputs, R, S], of which `kernel` positions from `first` on are used.

    Tasks are (block of images, band of rows).
    """
    (N, H, W, C), (groups, outputs, inputs, *_) = x.shape, w.shape
    rows, columns = axes
    filters, several = tile_of(outputs)
    panels = to.scratch((groups, -(-outputs // filters), *kernel, inputs, filters))
    to.call(pack_panels, [panels], [w], columns=filters, first=first)
    meeting = sum(t.share(W) * t.count * t.taps for t in columns)
    exact = meeting < NARROW * sum(t.count * t.taps for t in columns)
    left = 0 if exact else -min(0, *(t.low for t in columns), 0)
    right = 0 if exact else max(0, *(t.high - W + 1 for t in columns), 0)
    if not exact and groups == len(columns) == 1 and C < FEW and columns[0].tap_step == 1:
        # in memory a filter row's columns and channels are one range, in the copy as in the panels
        panels = panels.reshaped((1, panels.shape[1], kernel[0], 1, kernel[1] * C, filters))
        axes = (rows, (replace(columns[0], taps=1),))
    blocks = blocks_of(N, several if exact else 1)
    count, tasks, size = max(t.count for t in rows), sum(n for _, n in blocks), padded(blocks[0][0])
    reach, step = reached(rows), rows[0].input_step
    height = band_rows(size * W * C, reach, step)
    bands = max(-(-count // height), min(-(-TASKS // tasks), count // LEAST_ROWS), 1)
    most = min(H, (-(-count // bands) - 1) * step + reach)
    copied = to.scratch((1, most, (left + W + right) * C, size), per_thread=True)
    y.call(
        to,
        correlate_images,
        tasks * bands,
        [copied],
        [x, panels],
        axes=axes,
        outputs=outputs,
        bands=bands,
        left=left,
        exact=exact,
    )


def reached(rows: tuple[Taps, ...]) -> int:
    """Input rows that one row of outputs, of all phases, reads."""
    used = [t for t in rows if t.taps]
    low = min((t.low for t in used), default=0)
    return max((t.high - t.input_step * (t.count - 1) for t in used), default=0) - low + 1


def correlate_images(
    *arrays: Any, axes: Axes, outputs: int, bands: int, left: int, exact: bool, epilogue: Epilogue
) -> None:
    """y[n, p, q, k] = sum over the taps that meet the image, and over inputs, of x * panels.

    A tile is some filters of one pixel of several vectors of images (exact: taps in the padding are left out), or of
    several columns of one vector of images, whose results are one range in memory.
    """
    ending = BoundEpilogue(epilogue, arrays, 3)
    copied, x, panels = ending.own
    ending.aligned = False
    filters, count = panels.shape[5], max(t.count for t in axes[0])
    most = 1 if exact else tile_of(outputs)[1]  # columns of a tile
    low = min((t.low for t in axes[0] if t.taps), default=0)
    clear_sides(copied, left * x.shape[3], x.shape[2] * x.shape[3])
    first, done = 0, 0
    for images, blocks in blocks_of(x.shape[0], tile_of(outputs)[1] if exact else 1):
        for block, band in parallel(blocks, bands):
            n, task = block * images + first, (block + done) * bands + band
            start, end = band * count // bands, (band + 1) * count // bands
            top = maximum(start * axes[0][0].input_step + low, 0)
            top = minimum(top, x.shape[1] - copied.shape[1])
            copy_images(copied, x, n, images, top, left * x.shape[3])
            source = copied.at(thread(), 0 - top, left * x.shape[3], 0)
            for g, b, valid in part_of_blocks(panels.shape[0], outputs, filters, 0, 1):
                channel = g * outputs + b * filters
                ending.open(task, channel, valid)
                tile = Tile(
                    ending,
                    task,
                    source.at(0, 0, g * panels.shape[4], 0),
                    panels.at(g, b, 0, 0, 0, 0),
                    (x.shape[1], x.shape[2], x.shape[3]),
                    images,
                    channel,
                    valid,
                    exact,
                )
                for rows, columns in itertools.product(*axes):
                    last = end if rows.count == count else minimum(end, rows.count)
                    for i in loop(last, start=start):
                        for j, size in runs(columns.count, most):
                            tile.compute(n, i, j, size, rows, columns)
        first, done = first + images * blocks, done + blocks


def clear_sides(copied: Any, left: int, inside: int) -> None:
    """Zero what lies beside the images in this thread's copy."""
    _, rows, wide, size = copied.shape
    right = wide - left - inside
    for start, count in ((0, left), (left + inside, right)):
        for h in loop(rows) if count else ():
            for i, width in vectors(count * size):
                copied.row(thread(), h).store((start * size + i,), 0.0, width)


def copy_images(
    copied: Any, x: Any, n: Any, images: int, top: Any, left: int, rows: tuple[Any, Any] | None = None
) -> None:
    """copied[h, left + i, m] = row h + top of image n + m, element i; lanes behind the last image are 0.

    rows: first and end of those to copy, of all unless given.
    """
    first, end = rows or (0, copied.shape[1])
    size, run = lanes(), x.shape[2] * x.shape[3]

    def across(h: Any, m: int, i: Any, width: int) -> None:
        """`width` neighbours of each of the images from m on: a square turned over, or one by one."""
        valid = min(size, images - m)
        sources = [x.row(n + m + k, h + top) for k in range(valid)]
        empty = [var(0.0, width).get()] * (size - valid)
        read = [source.load((i,), width) for source in sources] + empty
        turned = transpose(read) if width == size else [pack(read)]
        for k, vector in enumerate(turned):
            copied.store((thread(), h, left + i + k, m), vector, size)

    for h in loop(end, start=first):
        for m in range(0, images, size):
            for b in loop(run // size):
                across(h, m, b * size, size)
            if run % size and run > size:
                across(h, m, run - size, size)
            elif run % size:
                for i in loop(run):
                    across(h, m, i, 1)


def across_lanes(rows: list[Any]) -> list[Any]:
    """Vectors of all lanes as columns: one vector per lane, with an element of each row."""
    size, wanted, count = lanes(), len(rows), 1
    while count < wanted:
        count *= 2
    rows = [*rows, *[var(0.0, size)] * (count - wanted)]
    squares = [[part(row, start, count) for row in rows] for start in range(0, size, count)]
    turned = [transpose(square) if count > 1 else square for square in squares]
    return [head(column, wanted) for square in turned for column in square]


@dataclass(frozen=True)
class Tile:
    """`filters` filters from `channel` on, of `images` images, at one pixel or a run of columns.

    source: the copied images, size: their H, W and C; panel: the filters' weights.
    """

    ending: BoundEpilogue
    task: Any
    source: Any
    panel: Any
    size: tuple[int, int, int]
    images: int
    channel: Any
    filters: int
    exact: bool

    def compute(self, n: Any, i: Any, j: Any, count: int, rows: Taps, columns: Taps) -> None:
        """Outputs (i, j) ... (i, j + count) of the phase, of the images from n on."""
        (H, W, C), inputs = self.size, self.panel.shape[4]
        spots = [(q, m) for q in range(count) for m in range(0, self.images, lanes())]
        acc = accumulators(self.filters, [lanes()] * len(spots))
        h, v = rows.origin + i * rows.input_step, columns.origin + j * columns.input_step
        step, (top, bottom) = unrolling(inputs), rows.meeting(i, H)
        left, right = columns.meeting(j, W) if self.exact else (0, columns.taps)
        for r in loop(bottom, start=top):
            for s in loop(right, start=left):
                tap = (rows.kernel + r * rows.kernel_step, columns.kernel + s * columns.kernel_step)
                weights = self.panel.at(0, 0, *tap, 0, 0)
                pixel = (v + s * columns.tap_step) * C
                source = self.source.at(0, h + r * rows.tap_step, pixel, 0)
                for c in loop(inputs // step):
                    for u in (c * step + u for u in range(step)):
                        places = [(0, 0, q * columns.input_step * C + u, m) for q, m in spots]
                        xs = [source.load(place, lanes()) for place in places]
                        ws = (weights[0, 0, 0, 0, u, f] for f in range(self.filters))
                        multiply_add(acc, ws, xs)
        p, q = i * rows.step + rows.start, j * columns.step + columns.start
        sums = [[acc[f, spot].get() for f in range(self.filters)] for spot in range(len(spots))]
        self.store((n, p, q), spots, sums, columns.step)

    def store(self, at: Any, spots: list[Pair], sums: list[list[Any]], step: int) -> None:
        """Sums by spot (column, first image) and filter."""
        n, p, q = at
        K = self.filters
        whole = step == 1 and all(y.shape[3] == K and y.strides[2:] == (K, 1) for y in self.ending.outputs)
        if self.ending.pixelwise or not whole:
            for (column, m), totals in zip(spots, sums, strict=True):
                found = across_lanes(totals)[: self.images - m]
                pixels = [(n + m + k, p, q + column * step) for k in range(len(found))]
                self.ending.store(self.task, pixels, found, self.channel, self.filters)
            return
        for m in dict.fromkeys(m for _, m in spots):
            chosen = [s for (_, first), s in zip(spots, sums, strict=True) if first == m]
            values = [self.ending.finish(v, k) for s in chosen for k, v in enumerate(s)]
            for number, y in enumerate(self.ending.outputs):
                self.store_run(y, (n + m, p, q), [v[number] for v in values], self.images - m)

    def store_run(self, y: Any, at: Any, run: list[Any], images: int) -> None:
        """y[n + lane, p, q ...] = the lanes of `run`: all channels of one column, then of the next."""
        n, p, q = at
        for start, width in pieces(len(run), lanes()):
            for k, column in enumerate(across_lanes(run[start : start + width])[:images]):
                y.row(n + k, p).store((q * y.shape[3] + start,), column, width)
