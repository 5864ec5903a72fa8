"""Direct convolution and its gradient in x, for any stride, padding, dilation and groups, on channels-last images.

Both are one loop nest over register tiles of pixels x filters; `Taps` say which inputs an output reads. By shape one of
five kernels runs it: `correlate` here, whose tiles are pixels of an image; `batch_tiles`, whose tiles are one pixel of
many images; `image_lanes` for few filters; `pixels` for 1x1 filters; `depthwise`. All take packed panels of weights and
end in an epilogue.

Padding is no branch in an inner loop: where taps reach outside of the image, the rows that a task reads are first
copied into a zero-bordered buffer, one per thread.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from foveal.kernel.lang import head, loop, maximum, minimum, parallel, thread, vectors
from foveal.ops import batch_tiles, depthwise, image_lanes, pixels
from foveal.ops.epilogue import Ending, Epilogue, Results
from foveal.ops.geometry import Taps, forward_taps, gradient_taps
from foveal.ops.op import Lowering
from foveal.ops.tile import (
    ENOUGH_TASKS,
    Tile,
    accumulators,
    multiply_add,
    pack_panels,
    part_of_blocks,
    pieces,
    split,
    tile_for,
    unrolling,
)

Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]
BAND = 64 << 10  # elements of the rows that a task reads: a quarter of a second-level cache of 1 MB
LEAST_ROWS = 4  # of a band: neighbouring bands read some rows both
FEW = 8  # input channels below which a filter row's columns and channels are one loop


def nhwc(image: Any) -> Any:
    return image.permuted(0, 2, 3, 1)


def both_axes(
    taps: Callable[[int, int, int, int, int], list[Taps]],
    sizes: tuple[int, int],
    inputs: tuple[int, int],
    kernel: tuple[int, int],
    stride: Any,
    padding: Any,
    dilation: Any,
) -> Axes:
    """The taps along rows and along columns, without those that meet padding only."""
    rows, columns = (
        tuple(t.trimmed(inputs[a]) for t in taps(sizes[a], kernel[a], stride[a], padding[2 * a], dilation[a]))
        for a in (0, 1)
    )
    return rows, columns


def lower_forward(
    to: Lowering, y: Results, x: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    K, C, R, S = w.shape
    axes = both_axes(forward_taps, y.shape[2:], x.shape[2:], (R, S), stride, padding, dilation)
    lower_taps(to, y, x, w.reshaped((groups, K // groups, C, R, S)), axes)


def lower_input_grad(
    to: Lowering, dx: Results, dy: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    K, C, R, S = w.shape
    axes = both_axes(gradient_taps, dx.shape[2:], dy.shape[2:], (R, S), stride, padding, dilation)
    weights = w.reshaped((groups, K // groups, C, R, S)).permuted(0, 2, 1, 3, 4)
    lower_taps(to, dx, dy, weights, axes)


def lower_taps(to: Lowering, y: Results, x: Any, w: Any, axes: Axes) -> None:
    """Choose the kernel and pack the weights. w: [G, outputs, inputs, R, S]."""
    groups, outputs, inputs, *_ = w.shape
    if outputs == inputs == 1 and groups > 1:
        depthwise.lower(to, y, nhwc(x), w, axes)
        return
    tile = tile_for(outputs)
    axes, first, kernel = used_kernel(axes)
    if image_lanes.fits(nhwc(x), inputs, outputs, axes):
        image_lanes.lower(to, y, nhwc(x), w, axes, first, kernel)
        return
    panels = to.scratch((groups, -(-outputs // tile.columns), *kernel, inputs, tile.columns))
    to.call(pack_panels, [panels], [w], columns=tile.columns, first=first)
    if pixels.fits(y, x, w, axes):
        pixels.lower(to, y, x, panels, outputs)
    elif batch_tiles.fits(x.shape, inputs, tile, axes):
        batch_tiles.lower(to, y, nhwc(x), panels, axes, outputs)
    else:
        lower_correlate(to, y, nhwc(x), panels, axes, outputs)


def used_kernel(axes: Axes) -> tuple[Axes, tuple[int, int], tuple[int, int]]:
    """Axes with kernel positions counted from the first that is used; that position; how many there are from it on."""
    lows, sizes, moved = [], [], []
    for taps in axes:
        used = [t for t in taps if t.taps]
        low = min((t.kernel for t in used), default=0)
        high = max((t.kernel + t.kernel_step * (t.taps - 1) for t in used), default=low)
        lows.append(low)
        sizes.append(high - low + 1)
        moved.append(tuple(replace(t, kernel=t.kernel - low) if t.taps else t for t in taps))
    return (moved[0], moved[1]), (lows[0], lows[1]), (sizes[0], sizes[1])


def lower_correlate(to: Lowering, y: Results, x: Any, panels: Any, axes: Axes, outputs: int) -> None:
    """Tasks are (image, band of rows, part of the filters)."""
    N, H, W, C = x.shape
    rows, (columns, *others) = axes
    count, reach = max(t.count for t in rows), rows[0].input_step
    bands = 1
    if min(t.count for t in axes[1]) >= tile_for(outputs).rows:
        wanted = max(-(-count * reach * W * C // BAND), -(-ENOUGH_TASKS // N))
        bands = max(1, min(wanted, count // LEAST_ROWS))
    blocks = panels.shape[0] * panels.shape[1]
    parts = 1 if N * bands >= ENOUGH_TASKS else min(blocks, -(-ENOUGH_TASKS // (N * bands)))
    border = bordered(axes, (H, W), -(-count // bands))
    halo = to.scratch((1, *border[1::2], C) if border else (1, 1, 1, 1), per_thread=True)
    if panels.shape[0] == 1 and C < FEW and not others and columns.tap_step == 1 < columns.taps:
        # in memory a filter row's columns and channels are one range, in the image as in the panels
        G, B, R, S, _, lanes = panels.shape
        panels = panels.reshaped((G, B, R, 1, S * C, lanes))
        axes = (rows, (replace(columns, taps=1),))
    y.call(
        to,
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


def bordered(axes: Axes, size: tuple[int, int], band: int) -> tuple[int, int, int, int] | None:
    """(first row, rows, first column, columns) that a band reads from, None if all taps stay inside of the image.

    The first row is that of band 0; `band` is the largest number of output rows per phase.
    """
    lows = [min((t.low for t in taps if t.taps), default=0) for taps in axes]
    highs = [max((t.high for t in taps if t.taps), default=0) for taps in axes]
    if min(lows) >= 0 and all(h < n for h, n in zip(highs, size, strict=True)):
        return None
    left = min(lows[1], 0)
    cut = [replace(t, count=min(t.count, band)) for t in axes[0] if t.taps]
    bottom = max((t.high for t in cut), default=0)
    return lows[0], bottom - lows[0] + 1, left, max(highs[1], size[1] - 1) - left + 1


def clear(halo: Any) -> None:
    """Zero this thread's buffer: what lies beside the image stays zero, tasks write whole rows of the inside."""
    _, rows, columns, channels = halo.shape
    for h in loop(rows):
        for i, width in vectors(columns * channels):
            halo.row(thread(), h).store((i,), 0.0, width)


def copy_band(halo: Any, x: Any, n: Any, top: Any, left: int) -> None:
    """Copy the rows of image n from `top` on into this thread's buffer; those outside of the image are zero."""
    _, rows, _, _ = halo.shape
    _, H, W, C = x.shape
    first = minimum(maximum(0 - top, 0), rows)  # rows above the image
    end = maximum(minimum(H - top, rows), first)

    def zero(h: Any) -> None:
        for i, width in vectors(W * C):
            halo.row(thread(), h).store((i - left * C,), 0.0, width)

    for h in loop(first):
        zero(h)
    for h in loop(end, start=first):
        target, source = halo.row(thread(), h), x.row(n, h + top)
        for i, width in vectors(W * C):
            target.store((i - left * C,), source.load((i,), width), width)
    for h in loop(rows, start=end):
        zero(h)


def correlate(*arrays: Any, axes: Axes, border: Any, outputs: int, bands: int, parts: int, epilogue: Epilogue) -> None:
    """y[n, ., ., k] = sum over taps and inputs of x * panels; tiles of pixels x filters stay in registers.

    Per step of the inner loop one row of a panel is loaded and each pixel's input broadcast: rows * vectors fused
    multiply-adds for vectors + rows loads, so the multipliers and not the load ports set the pace: 94-99 % of the peak
    on one core of Zen 4 (`foveal bench ops conv2d --threads 1`). A band's rows stay in the second-level cache while all
    panels pass.
    """
    ending = Ending(epilogue, arrays, 3)
    halo, x, panels = ending.own
    groups = panels.shape[0]
    ending.aligned = groups == 1
    tile, count = tile_for(outputs), max(t.count for t in axes[0])
    inputs = x.shape[3] // groups
    if border:
        clear(halo)
    for n, band, part in parallel(x.shape[0], bands, parts):
        start, end = band * count // bands, (band + 1) * count // bands
        source = x.at(n, 0, 0, 0)
        if border:
            top = start * axes[0][0].input_step + border[0]
            copy_band(halo, x, n, top, border[2])
            source = halo.at(thread(), 0 - top, -border[2], 0)
        for g, b, valid in part_of_blocks(groups, outputs, tile.columns, part, parts):
            first = g * outputs + b * tile.columns
            for lane, width in pieces(valid, tile.width):
                ending.open(n * bands + band, first + lane, width)
            image, panel = source.at(0, 0, 0, g * inputs), panels.at(g, b, 0, 0, 0, 0)
            for rows, columns in itertools.product(*axes):
                last = end if rows.count == count else minimum(end, rows.count)
                for i, j, offsets in tile_positions(start, last, rows.count, columns.count, tile.rows, bands):
                    at = image.at(0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, 0)
                    where = output_pixels(n, i, j, offsets, rows, columns)
                    ending.prefetch(where, first, valid)
                    totals = product(at, panel, rows, columns, offsets, valid, tile)
                    for v, (lane, width) in enumerate(pieces(valid, tile.width)):
                        sums = [head(totals[pixel, v], width) for pixel in range(len(offsets))]
                        ending.store(n * bands + band, where, sums, first + lane, width)


def tile_positions(
    start: Any, end: Any, rows: int, columns: int, most: int, bands: int
) -> Iterator[tuple[Any, Any, list[tuple[int, int]]]]:
    """Cover rows start ... end, all of them if there is one band, with tiles of at most `most` pixels: (row, column,
    offsets within the tile).
    """
    if columns >= most or bands > 1:
        first = 0
        for size, count in split(columns, most):
            for i in loop(end, start=start):
                for j in loop(count):
                    yield i, j * size + first, [(0, q) for q in range(size)]
            first += size * count
        return
    first = 0
    for size, count in split(rows, max(1, most // columns)):
        for i in loop(count):
            yield i * size + first, 0, [(p, q) for p in range(size) for q in range(columns)]
        first += size * count


def output_pixels(
    n: Any, i: Any, j: Any, offsets: list[tuple[int, int]], rows: Taps, columns: Taps
) -> list[tuple[Any, Any, Any]]:
    """(n, p, q) of the outputs of the tile at (i, j)."""
    return [(n, (i + p) * rows.step + rows.start, (j + q) * columns.step + columns.start) for p, q in offsets]


def product(
    at: Any, panel: Any, rows: Taps, columns: Taps, offsets: list[tuple[int, int]], valid: int, tile: Tile
) -> dict[tuple[int, int], Any]:
    """The register tile of the pixels at `offsets`: sums over the taps and the inputs."""
    starts, inputs = pieces(valid, tile.width), panel.shape[4]
    acc = accumulators(len(offsets), [tile.width] * len(starts))
    step = unrolling(inputs)
    places = [p * rows.input_step * at.strides[1] + q * columns.input_step * at.strides[2] for p, q in offsets]
    for r in loop(rows.taps):
        for s in loop(columns.taps):
            weights = panel.at(0, 0, rows.kernel + r * rows.kernel_step, columns.kernel + s * columns.kernel_step, 0, 0)
            pixels = at.at(0, r * rows.tap_step, s * columns.tap_step, 0)
            for c in loop(inputs // step):
                for u in range(step):
                    ws = [weights.load((0, 0, 0, 0, c * step + u, start), tile.width) for start, _ in starts]
                    here = pixels.opaque() if u and columns.taps == 1 < inputs else pixels
                    xs = (here.neighbour(c * step + u + place) for place in places)
                    multiply_add(acc, xs, ws)
    return acc
