"""Gradient of a convolution in its weights with lanes over images, for few filters and few positions of a filter.

Every sum of a tile of filters x positions is a vector, of one number per image, until all pixels of a task have passed;
both images are copied so first. A task is a band of rows of as many images as a vector has lanes, with sums of its own.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from foveal.kernel.lang import extract, lanes, loop, loops, maximum, minimum, parallel, registers, thread, var, vectors
from foveal.ops.kernels.conv.direct_simd_batch import (
    HALF,
    SPEED,
    SPEED_OF_HALF,
    across_lanes,
    blocks_of,
    copy_images,
    padded,
)
from foveal.ops.kernels.halo import bordered, clear
from foveal.ops.kernels.reduction import tree_sum
from foveal.ops.kernels.register_tile import pieces, runs, split, tile_for
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering

Position = tuple[int, int, int]  # r, s, c


MOST_POSITIONS = 64  # the tiles of all of them are unrolled


MOST_FILTERS = 6  # of a tile, so that six of its vectors are enough to load


BAND = 96 << 10  # elements of both copies


TASKS = 16


COPY = 7  # products per pixel that copying an element takes


def fits(dy: Any, x: Any, axes: Axes, positions: int, groups: int) -> bool:
    """Whether it takes less time than lanes over filters, for dy [N, P, Q, K] and x [N, H, W, C]."""
    (N, _, _, K), C = dy.shape, x.shape[3]
    if groups > 1 or positions > MOST_POSITIONS or not all(taps[0].taps for taps in axes):
        return False
    if dy.strides[2:] != (K, 1) or x.strides[2:] != (C, 1) or band_of(dy, x, axes) == 0:
        return False
    width = tile_for(K).width
    filters = -(-K // width) * max(width, min(HALF, lanes())) * positions
    filters /= SPEED if width == lanes() else SPEED_OF_HALF
    return (K * positions + COPY * (K + C)) * padded(N) / N < filters


def band_of(dy: Any, x: Any, axes: Axes) -> int:
    """Rows of dy whose copy fits into the cache, with the rows of x that they read."""
    (_, P, Q, K), (_, _, W, C), (rows,) = dy.shape, x.shape, axes[0]
    reach = abs(rows.tap_step) * (rows.taps - 1)
    return min(P, (BAND // lanes() - reach * W * C) // (Q * K + rows.input_step * W * C))


def lower(to: Lowering, dy: Any, x: Any, axes: Axes, kernel: tuple[int, int]) -> Any:
    """The tasks' sums [tasks, R, S, C, K]."""
    (N, P, _, K), (_, H, W, C) = dy.shape, x.shape
    blocks = padded(N) // lanes()
    bands = max(-(-P // band_of(dy, x, axes)), min(P // 4, -(-TASKS // blocks)), 1)
    height = -(-P // bands)
    border = bordered(axes, (H, W), height) or inner(axes, height, W)
    copied = to.scratch((1, border[1], border[3] * C, lanes()), per_thread=True)
    given = to.scratch((1, height, dy.shape[2] * K, lanes()), per_thread=True)
    partial = to.scratch((blocks * bands, *kernel, C, K))
    to.call(weight_grad_images, [partial, copied, given], [dy, x], axes=axes, border=border, bands=bands)
    return partial


def inner(axes: Axes, height: int, columns: int) -> tuple[int, int, int, int]:
    """(first row, rows, first column, columns) that a band reads where all taps stay inside of the image."""
    (rows,) = axes[0]
    reach = rows.tap_step * (rows.taps - 1)
    return rows.origin, rows.input_step * (height - 1) + reach + 1, 0, columns


def weight_grad_images(
    partial: Any, copied: Any, given: Any, dy: Any, x: Any, *, axes: Axes, border: Any, bands: int
) -> None:
    """partial[task, r, s, c, k] = sum over the task's images and rows of x * dy."""
    _, R, S, C, K = partial.shape
    N, P, Q, _ = dy.shape
    (rows,), (columns,) = axes
    side, first = -border[2] * C, 0
    positions = list(itertools.product(range(R), range(S), range(C)))
    clear(copied)
    for images, blocks in blocks_of(N, 1):
        for block, band in parallel(blocks, bands):
            n, start, end = block * lanes() + first, band * P // bands, (band + 1) * P // bands
            copy_rows(copied, x, n, images, start * rows.input_step + border[0], side)
            copy_rows(given, dy, n, images, start, 0)
            source = copied.at(thread(), 0, side + columns.origin * C, 0)
            sums = partial.at((block + first // lanes()) * bands + band, 0, 0, 0, 0)
            for k, filters in runs(K, MOST_FILTERS):
                slopes, into = given.at(thread(), 0, k, 0), sums.at(0, 0, 0, 0, k)
                for chosen in parts_of(positions, registers() * 3 // 4 // filters):
                    add_tile(into, slopes, source, chosen, filters, (end - start, Q), K, C, axes)
        first += images * blocks


def parts_of(positions: list[Position], most: int) -> Iterator[list[Position]]:
    """Near-equal parts of at most `most`."""
    first = 0
    for size, count in split(len(positions), most):
        for _ in range(count):
            yield positions[first : first + size]
            first += size


def copy_rows(copied: Any, x: Any, n: Any, images: int, top: Any, left: int) -> None:
    """Rows of the images from n on, from row `top` on, one per lane; those outside of the image are zero."""
    _, rows, _, size = copied.shape
    H, run = x.shape[1], x.shape[2] * x.shape[3]
    first = minimum(maximum(0 - top, 0), rows)
    end = maximum(minimum(H - top, rows), first)
    for start, stop in ((0, first), (end, rows)):
        for h in loop(stop, start=start):
            for i, width in vectors(run * size):
                copied.row(thread(), h).store((left * size + i,), 0.0, width)
    copy_images(copied, x, n, images, top, left, (first, end))


def add_tile(
    into: Any,
    dy: Any,
    x: Any,
    positions: list[Position],
    filters: int,
    pixels: tuple[Any, int],
    K: int,
    C: int,
    axes: Axes,
) -> None:
    """into[r, s, c, k] = sum over rows and columns of pixels and over lanes of x * dy, for some positions and
    filters.
    """
    (rows,), (columns,) = axes
    acc = {(i, k): var(0.0, lanes()) for i in range(len(positions)) for k in range(filters)}
    for p, q in loops(*pixels):
        at = x.at(0, p * rows.input_step, q * columns.input_step * C, 0)
        slopes = [dy.load((0, p, q * K + k, 0), lanes()) for k in range(filters)]
        for i, (r, s, c) in enumerate(positions):
            value = at.load((0, r * rows.tap_step, s * columns.tap_step * C + c, 0), lanes())
            for k, slope in enumerate(slopes):
                acc[i, k].fma(value, slope)
    indices = list(acc)
    for start, width in pieces(len(acc), lanes()):
        chosen = indices[start : start + width]
        total = tree_sum(across_lanes([acc[index] for index in chosen]))
        for lane, (i, k) in enumerate(chosen):
            into[0, *positions[i], k] = extract(total, lane)
