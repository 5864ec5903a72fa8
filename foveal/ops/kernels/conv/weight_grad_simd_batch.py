"""Gradient of a convolution in its weights with lanes over images, for few filters of few weights.

With fewer filters than a vector has lanes, weight_grad.py would leave lanes empty. Here a vector holds the same element
of as many images as it has lanes. A register tile is `filters` filters x `weights` weights (r, s, c) of each; each of
its sums is a vector with a sum per image, and only when all pixels of a task have passed the lanes are added up.

How it comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py derives it): a pixel takes
filters x weights FMAs for filters + weights loads of vectors. Both operands are vectors here, none is broadcast; with
32 registers a tile is 6 x 4, so 10 loads for 24 FMAs, 0.42 per FMA, and the FMAs set the pace. What costs is staging:
both images have to be transposed first, so that neighbours in memory are images. A task stages a band of rows of as
many images as a vector has lanes, and passes over it once per tile, with sums of its own that are added up in order at
the end.

With 16 registers there are twice as many tiles, and the second-level cache would have to deliver a vector of dy for two
FMAs, all that it can. There dy is staged in strips of a few rows that stay in the first-level cache while all tiles
pass, and each tile's sums wait beside them from strip to strip (`strip_rows`).

Measured, staging included: 118 GFLOP/s for 6 filters of 5x5 on one channel on two cores of Zen 4 with a peak of 233
(`foveal bench ops 5x5`, rows dw, docs/results.md).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.lang import (
    Array,
    Index,
    l1,
    l2,
    lanes,
    loop,
    loops,
    maximum,
    minimum,
    parallel,
    registers,
    thread,
    var,
    vectors,
)
from foveal.ops.kernels.conv.direct_simd_batch import HALF, SPEED, SPEED_OF_HALF, blocks_of, columns_of, padded
from foveal.ops.kernels.halo import Border, bordered, stage_lanes, zero_buffer
from foveal.ops.kernels.reduction import tree_sum
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, FLOAT_BYTES, ceil_div, runs, split, tile_for
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# (r, s, c) of an element of a filter
Weight = tuple[int, int, int]
# with its number
Numbered = tuple[int, Weight]

# Weights of a filter at most: the code of all tiles is unrolled.
MAX_WEIGHTS = 64

# Filters of a register tile at most. Beside their sums, of two weights each with 16 registers and of four with 32, the
# registers have room for the vectors of these weights and for one of dy.
MAX_FILTERS = 6

# Rows of a band at least, where bands are cut only to get ENOUGH_TASKS. Shorter bands would stage more rows of their
# neighbours again.
MIN_ROWS = 4

# Rows of a strip at least.
MIN_STRIP = 2

# Multiply-adds that take as long as staging one element of x or dy.
STAGING_COST = 7


def max_staged_elements() -> int:
    """Elements of both staged bands of a task together: 3/8 of the second-level cache."""
    return l2() * 3 // 8 // FLOAT_BYTES


def strip_rows(elements: int, rows: int) -> int:
    """Rows of dy of a strip, for rows of `elements` staged elements of x and dy together: half of the first-level
    cache, so that the sums and what is staged from fit beside them. All `rows` of a band if that are less than two: to
    read and to write the sums so often would take longer than reading dy from the second-level cache.
    """
    fitting = l1() // 2 // (FLOAT_BYTES * lanes() * elements)
    return min(fitting, rows) if fitting >= MIN_STRIP else rows


def fits(dy: View, x: View, axes: Axes, weights: int, groups: int) -> bool:
    """True if this takes less time than lanes over filters, for dy [N, P, Q, K] and x [N, H, W, C].

    Both are counted in multiply-adds per pixel. weights: of a filter that meet the image.
    """
    (N, _, _, K), C = dy.shape, x.shape[3]
    if groups > 1 or weights > MAX_WEIGHTS or not all(taps[0].taps for taps in axes):
        return False
    # staging reads rows of the images as one range, and at least one row of dy has to fit into the cache
    if dy.strides[2:] != (K, 1) or x.strides[2:] != (C, 1) or band_rows(dy, x, axes) == 0:
        return False
    # lanes over filters: whole vectors, which are not faster when they are short
    width = tile_for(K).width
    over_filters: float = ceil_div(K, width) * max(width, min(HALF, lanes())) * weights
    over_filters /= SPEED if width == lanes() else SPEED_OF_HALF
    # lanes over images: products and staging, for images up to a whole vector
    return (K * weights + STAGING_COST * (K + C)) * padded(N) / N < over_filters


def band_rows(dy: View, x: View, axes: Axes) -> int:
    """Rows of dy [N, P, Q, K] that can be staged at once, with the rows of x [N, H, W, C] that they read."""
    (_, P, Q, K), (_, _, W, C), (rows,) = dy.shape, x.shape, axes[0]
    # rows of x beyond input_step per row of dy
    reach = abs(rows.tap_step) * (rows.taps - 1)
    return min(P, (max_staged_elements() // lanes() - reach * W * C) // (Q * K + rows.input_step * W * C))


def lower(lowering: Lowering, dy: View, x: View, axes: Axes, used_size: Pair) -> View:
    """The tasks' sums [tasks, R, S, C, K] for dy [N, P, Q, K] and x [N, H, W, C]; tasks: (block of images, band).

    R x S = used_size: the taps that meet the image.
    """
    (N, P, Q, K), (_, H, W, C) = dy.shape, x.shape
    blocks = padded(N) // lanes()
    bands = max(ceil_div(P, band_rows(dy, x, axes)), min(P // MIN_ROWS, ceil_div(ENOUGH_TASKS, blocks)), 1)
    height = ceil_div(P, bands)
    box = bordered(axes, (H, W), height) or rows_read(axes, height, W)
    strip = ceil_div(height, ceil_div(height, strip_rows(Q * K + box.columns * C, height)))
    # of x and of dy, [1, rows, columns and channels, images] per thread, which the first axis selects
    staged_x = lowering.scratch((1, box.rows, box.columns * C, lanes()), per_thread=True)
    staged_dy = lowering.scratch((1, strip, Q * K, lanes()), per_thread=True)
    held = lowering.scratch((1, math.prod(used_size) * C * K, lanes()), per_thread=True)
    partial: View = lowering.scratch((blocks * bands, *used_size, C, K))
    outputs = [partial, staged_x, staged_dy, held]
    lowering.call(weight_grad_images, outputs, [dy, x], axes=axes, box=box, bands=bands)
    return partial


def rows_read(axes: Axes, height: int, columns: int) -> Border:
    """What a band of `height` rows of dy reads where all taps stay inside of the image."""
    (rows,) = axes[0]
    reach = rows.tap_step * (rows.taps - 1)
    return Border(rows.origin, rows.input_step * (height - 1) + reach + 1, 0, columns)


def weight_grad_images(
    partial: Array,
    staged_x: Array,
    staged_dy: Array,
    held: Array,
    dy: Array,
    x: Array,
    *,
    axes: Axes,
    box: Border,
    bands: int,
) -> None:
    """partial[task, r, s, c, k] = sum over the task's images and rows of x * dy.

    partial: [tasks, R, S, C, K]; dy: [N, P, Q, K]; x: [N, H, W, C]. Per thread: staged_x [1, rows, columns C, images],
    staged_dy [1, rows of a strip, Q K, images], held [1, R S C K, images], the sums.
    """
    _, R, S, C, K = partial.shape
    N, P, Q, _ = dy.shape
    (rows,), (columns,) = axes
    left, first, strip = -box.left * C, 0, staged_dy.shape[1]
    weights = list(itertools.product(range(R), range(S), range(C)))
    # what lies beside the images stays zero
    zero_buffer(staged_x)
    # blocks of as many images as a vector has lanes; the last may have fewer
    for images, blocks in blocks_of(N, 1):
        # a task is a block of images and a band of rows
        for block, band in parallel(blocks, bands):
            n, start, end = block * lanes() + first, band * P // bands, (band + 1) * P // bands
            stage_rows(staged_x, x, n, images, start * rows.input_step + box.top, left)
            for i in loop(held.shape[1]):
                held.store((thread(), i, 0), 0.0, lanes())
            for number in loop(ceil_div(end - start, strip)):
                top = number * strip
                stage_rows(staged_dy, dy, n, images, start + top, 0)
                # from the input of tap (0, 0) of column 0 on
                source = staged_x.at(thread(), top * rows.input_step, left + columns.origin * C, 0)
                # register tiles: near-equal runs of filters x near-equal parts of the weights
                for k, filters in runs(K, MAX_FILTERS):
                    gradients, into = staged_dy.at(thread(), 0, k, 0), held.at(thread(), k, 0)
                    sums = StripSums(into, gradients, source, axes, (C, K))
                    for part in near_equal_parts(list(enumerate(weights)), registers() * 3 // 4 // filters):
                        sums.add(part, filters, (minimum(strip, end - start - top), Q))
            store_totals(partial.row((block + first // lanes()) * bands + band), held.at(thread(), 0, 0))
        first += images * blocks


def store_totals(into: Array, held: Array) -> None:
    """into[i] = the sum over the lanes of held[., i]; of as many as there are lanes they are added up at once."""
    for i, width in vectors(held.shape[1]):
        into.store((i,), tree_sum(columns_of([held.load((0, i + j, 0), lanes()) for j in range(width)])), width)


def near_equal_parts(weights: list[Numbered], max_size: int) -> Iterator[list[Numbered]]:
    """Cut a list into near-equal parts of at most `max_size`."""
    first = 0
    for size, count in split(len(weights), max_size):
        for _ in range(count):
            yield weights[first : first + size]
            first += size


def stage_rows(staged: Array, x: Array, n: Index, images: int, top: Index, left: int) -> None:
    """staged[row, left + i, m] = element i of row `top` + row of image n + m; rows outside of the image are zero."""
    # [threads, rows, elements of a row, images], [N, H, W, C]
    _, rows, _, size = staged.shape
    H, run = x.shape[1], x.shape[2] * x.shape[3]
    # staged rows that lie in the image
    first = minimum(maximum(0 - top, 0), rows)
    end = maximum(minimum(H - top, rows), first)
    for start, stop in ((0, first), (end, rows)):
        for h in loop(stop, start=start):
            for i, width in vectors(run * size):
                staged.row(thread(), h).store((left * size + i,), 0.0, width)
    stage_lanes(staged, x, n, images, top, left, (first, end))


@dataclass(frozen=True)
class StripSums:
    """The sums over a strip of rows, for some filters."""

    #: [., R S C K, images] from the first filter on
    held: Array
    #: [., P, Q K, images], staged, from the first filter on
    dy: Array
    #: [., H, W C, images], staged, from the input of tap (0, 0) on
    x: Array
    axes: Axes
    #: C and K
    sizes: Pair

    def add(self, weights: list[Numbered], filters: int, pixels: tuple[Index, int]) -> None:
        """held[r, s, c, k] += the sum over pixels of x * dy, for some weights and `filters` filters.

        pixels: rows and columns of dy in the strip.
        """
        (rows,), (columns,) = self.axes
        C, K = self.sizes
        # a vector of images per weight and filter
        places = [(i, k) for i, _ in weights for k in range(filters)]
        acc = {(i, k): var(self.held.load((0, i * K + k, 0), lanes()), lanes()) for i, k in places}
        for p, q in loops(*pixels):
            pixel = self.x.at(0, p * rows.input_step, q * columns.input_step * C, 0)
            # each vector of dy is loaded for its products: all of them and the sums would not fit into 16 registers
            taps = [(i, (0, r * rows.tap_step, s * columns.tap_step * C + c, 0)) for i, (r, s, c) in weights]
            values = [(i, pixel.load(place, lanes())) for i, place in taps]
            for k in range(filters):
                gradient = self.dy.load((0, p, q * K + k, 0), lanes())
                for i, value in values:
                    acc[i, k].fma(value, gradient)
        for (i, k), total in acc.items():
            self.held.store((0, i * K + k, 0), total, lanes())
