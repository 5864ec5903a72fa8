"""Convolution and its gradient in x where the rows of a register tile are images: one output pixel of many images at
once.

For small images, and wherever padding is a noticeable share: an output pixel visits the taps that meet the image, so no
product with a zero is computed and nothing is bordered with zeros, and a vector of weights serves all images of the
tile.
"""

import itertools
from typing import Any

from foveal.kernel.lang import head, lanes, loop, maximum, minimum, parallel, thread, vectors
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    Tile,
    accumulators,
    multiply_add,
    part_of_blocks,
    pieces,
    split,
    tile_for,
    unrolling,
)
from foveal.ops.kernels.taps import Taps
from foveal.ops.op import Lowering
from foveal.strides import Shape

Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


LEAST_SUMS = 8  # full vectors of sums that a tile needs to cover the latency


LEAST_INPUTS = 8


SAVING = 0.05  # share of the products that meet padding, from which on leaving them out pays


BAND = 128 << 10  # elements that a task copies: half of a second-level cache of 1 MB


GAP = 16  # elements behind each copied pixel, so that images do not lie a power of two apart


def reach(rows: tuple[Taps, ...]) -> int:
    """Input rows that one row of outputs, of all phases, reads."""
    ones = [t for t in rows if t.taps]
    low = min((t.low for t in ones), default=0)
    return max((t.high - t.input_step * (t.count - 1) for t in ones), default=0) - low + 1


def fits(x: Shape, inputs: int, tile: Tile, axes: Axes) -> bool:
    """Whether it is worth while, for x [N, C, H, W]."""
    N, C, H, W = x
    if N * tile.columns < LEAST_SUMS * lanes() or inputs < LEAST_INPUTS:
        return False
    if min(N, tile.rows) * min(reach(axes[0]), H) * W * C > BAND:
        return False
    kept = [
        sum(t.share(n) * t.count * t.taps for t in taps) / max(sum(t.count * t.taps for t in taps), 1)
        for taps, n in zip(axes, (H, W), strict=True)
    ]
    narrow = max(t.count for t in axes[1]) < tile.rows // 2
    return narrow or kept[0] * kept[1] < 1 - SAVING


def lower(to: Lowering, y: EpilogueOutputs, x: Any, panels: Any, axes: Axes, outputs: int) -> None:
    """Tasks are (block of images, band of rows, part of the filters)."""
    N, H, W, C = x.shape
    images, count = split(N, tile_for(outputs).rows), max(t.count for t in axes[0])
    blocks, largest = sum(n for _, n in images), images[0][0]
    step = axes[0][0].input_step
    row = largest * W * C  # elements
    height = max(1, (BAND // row - reach(axes[0])) // step + 1)  # output rows of a band
    bands = -(-count // height)
    most = min(H, (-(-count // bands) - 1) * step + reach(axes[0]))
    parts = max(1, min(panels.shape[0] * panels.shape[1], -(-ENOUGH_TASKS // (blocks * bands))))
    copied = to.scratch((1, most, W, largest, C + GAP), per_thread=True)
    y.call(
        to, correlate_batch, blocks * bands, [copied], [x, panels], axes=axes, outputs=outputs, bands=bands, parts=parts
    )


def correlate_batch(*arrays: Any, axes: Axes, outputs: int, bands: int, parts: int, epilogue: Epilogue) -> None:
    """y[n, p, q, k] = sum over the taps that meet the image, and over inputs, of x * panels."""
    ending = BoundEpilogue(epilogue, arrays, 3)
    copied, x, panels = ending.own
    ending.aligned = panels.shape[0] == 1
    count, used = max(t.count for t in axes[0]), [t for t in axes[0] if t.taps]
    low = min((t.low for t in used), default=0)
    first, done = 0, 0
    for images, blocks in split(x.shape[0], tile_for(outputs).rows):
        for block, band, part in parallel(blocks, bands, parts):
            n, task = block * images + first, (block + done) * bands + band
            start, end = band * count // bands, (band + 1) * count // bands
            top = maximum(start * axes[0][0].input_step + low, 0)
            top = minimum(top, x.shape[1] - copied.shape[1])
            copy_images(copied, x, n, images, top)
            source = copied.at(thread(), 0 - top, 0, 0, 0)
            for g, b, valid in part_of_blocks(panels.shape[0], outputs, panels.shape[5], part, parts):
                channel = g * outputs + b * panels.shape[5]
                for lane, width in pieces(valid, tile_for(outputs).width):
                    ending.open(task, channel + lane, width)
                image = source.at(0, 0, 0, 0, g * panels.shape[4])
                for rows, columns in itertools.product(*axes):
                    last = end if rows.count == count else minimum(end, rows.count)
                    for i in loop(last, start=start):
                        for j in loop(columns.count):
                            pixel(
                                ending,
                                task,
                                (n, i, j),
                                channel,
                                image,
                                panels.at(g, b, 0, 0, 0, 0),
                                rows,
                                columns,
                                (x.shape[1], x.shape[2]),
                                images,
                                valid,
                                tile_for(outputs),
                            )
        first, done = first + images * blocks, done + blocks


def copy_images(copied: Any, x: Any, n: Any, images: int, top: Any) -> None:
    """copied[h, v, i] = x[n + i, top + h, v], so that the images of a tile are neighbours."""
    _, rows, columns, _, _ = copied.shape
    for i in loop(images):
        for h in loop(rows):
            target, source = copied.at(thread(), h, 0, i, 0), x.at(n + i, h + top, 0, 0)
            for v in loop(columns):
                for c, width in vectors(x.shape[3]):
                    target.store((0, 0, v, 0, c), source.load((0, 0, v, c), width), width)


def pixel(
    ending: BoundEpilogue,
    task: Any,
    at: tuple[Any, Any, Any],
    channel: Any,
    image: Any,
    panel: Any,
    rows: Taps,
    columns: Taps,
    size: tuple[int, int],
    images: int,
    valid: int,
    tile: Tile,
) -> None:
    """Output (i, j) of the phase, of `images` images from n on."""
    n, i, j = at
    starts, inputs = pieces(valid, tile.width), panel.shape[4]
    acc = accumulators(images, [tile.width] * len(starts))
    step = unrolling(inputs)
    p, q = i * rows.step + rows.start, j * columns.step + columns.start
    pixels = [(n + m, p, q) for m in range(images)]
    ending.prefetch(pixels, channel, valid)
    h, v = rows.origin + i * rows.input_step, columns.origin + j * columns.input_step
    (r_first, r_end), (s_first, s_end) = rows.meeting(i, size[0]), columns.meeting(j, size[1])
    for r in loop(r_end, start=r_first):
        for s in loop(s_end, start=s_first):
            weights = panel.at(0, 0, rows.kernel + r * rows.kernel_step, columns.kernel + s * columns.kernel_step, 0, 0)
            source = image.at(0, h + r * rows.tap_step, v + s * columns.tap_step, 0, 0)
            for c in loop(inputs // step):
                for u in range(step):
                    ws = [weights.load((0, 0, 0, 0, c * step + u, start), tile.width) for start, _ in starts]
                    xs = (source[0, 0, 0, m, c * step + u] for m in range(images))
                    multiply_add(acc, xs, ws)
    for index, (lane, width) in enumerate(starts):
        sums = [head(acc[m, index], width) for m in range(images)]
        ending.store(task, pixels, sums, channel + lane, width)
