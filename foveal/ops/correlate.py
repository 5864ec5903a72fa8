"""Direct convolution kernels, for any stride, padding, dilation and groups, on channels-last images.

Forward and the gradient in x are one loop nest over register tiles of pixels x filters (`Taps` say which inputs an
output reads); the gradient in w accumulates tiles of (r, s, c) x filters over all pixels. Padding is no branch in an inner
loop: where taps reach outside of the image it is first copied into a zero-bordered buffer, one per thread.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from foveal.kernel.lang import (
    head,
    lanes,
    loop,
    loops,
    parallel,
    thread,
    var,
    vectors,
)
from foveal.ops import nest
from foveal.ops.epilogue import Ending, Epilogue, Results
from foveal.ops.geometry import Taps, forward_taps, gradient_taps
from foveal.ops.op import Lowering
from foveal.ops.tile import (
    Tile,
    accumulators,
    add_partials,
    multiply_add,
    pack_panels,
    pieces,
    split,
    tile_for,
    unrolling,
)

ENOUGH_TASKS = 16  # so that threads share them evenly
MOST_CHUNKS = 32  # of images, whose sums are added in order
PARTIAL_BYTES = 8 << 20  # of all partial weight gradients together

Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


def nhwc(image: Any) -> Any:
    return image.permuted(0, 2, 3, 1)


def bordered(axes: Axes, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(first row, rows, first column, columns) that the taps reach over, None if they stay inside of the image."""
    lows = [min((t.low for t in taps if t.taps), default=0) for taps in axes]
    highs = [max((t.high for t in taps if t.taps), default=0) for taps in axes]
    if min(lows) >= 0 and all(h < n for h, n in zip(highs, size, strict=True)):
        return None
    lows = [min(low, 0) for low in lows]
    return lows[0], highs[0] - lows[0] + 1, lows[1], highs[1] - lows[1] + 1


def both_axes(
    taps: Callable[[int, int, int, int, int], list[Taps]],
    sizes: tuple[int, int],
    kernel: tuple[int, int],
    stride: Any,
    padding: Any,
    dilation: Any,
) -> Axes:
    """The taps along rows and along columns."""
    rows, columns = (
        tuple(taps(sizes[a], kernel[a], stride[a], padding[2 * a], dilation[a])) for a in (0, 1)
    )
    return rows, columns


def lengthened(w: Any, stride: Any, padding: Any, y: Results, x: Any) -> tuple[Results, Any]:
    """A 1x1 convolution does not know rows from columns: as one long row, images make full tiles."""
    if (*w.shape[2:], *stride) == (1, 1, 1, 1) and not any(padding):
        return y.each(lambda image: image.flattened()), x.flattened()
    return y, x


def lower_forward(
    to: Lowering, y: Results, x: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:  # fmt: skip
    K, C, R, S = w.shape
    y, x = lengthened(w, stride, padding, y, x)
    axes = both_axes(forward_taps, (y.shape[2], y.shape[3]), (R, S), stride, padding, dilation)
    lower_taps(to, y, x, w.reshaped((groups, K // groups, C, R, S)), axes)


def lower_input_grad(
    to: Lowering, dx: Results, dy: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:  # fmt: skip
    K, C, R, S = w.shape
    dx, dy = lengthened(w, stride, padding, dx, dy)
    axes = both_axes(gradient_taps, (dx.shape[2], dx.shape[3]), (R, S), stride, padding, dilation)
    weights = w.reshaped((groups, K // groups, C, R, S)).permuted(0, 2, 1, 3, 4)
    lower_taps(to, dx, dy, weights, axes)


def lower_taps(to: Lowering, y: Results, x: Any, w: Any, axes: Axes) -> None:
    """Pack the weights, then run the tiles. w: [G, outputs, inputs, R, S]."""
    groups, outputs, inputs, R, S = w.shape
    x = nhwc(x)
    border = bordered(axes, x.shape[1:3])
    halo = to.scratch((1, *border[1::2], x.shape[3]) if border else (1, 1, 1, 1), per_thread=True)
    if outputs == inputs == 1 and groups > 1:
        y.call(to, depthwise, x.shape[0], [halo], [x, w], axes=axes, border=border)
        return
    tile = tile_for(outputs)
    panels = to.scratch((groups, -(-outputs // tile.columns), R, S, inputs, tile.columns))
    to.call(pack_panels, [panels], [w], columns=tile.columns)
    y.call(
        to, correlate, x.shape[0], [halo], [x, panels], axes=axes, border=border, outputs=outputs
    )


def clear(halo: Any) -> None:
    """Zero this thread's buffer: what lies outside of the image stays zero, tasks write the inside only."""
    _, rows, columns, channels = halo.shape
    for h in loop(rows):
        for i, width in vectors(columns * channels):
            halo.row(thread(), h).store((i,), 0.0, width)


def copy_image(halo: Any, x: Any, n: Any, border: Any) -> None:
    """Copy image n into this thread's zero-bordered buffer."""
    top, rows, left, columns = border
    _, H, W, C = x.shape
    inside = min(W, columns + left)
    for h in loop(min(H, rows + top)):
        target, source = halo.row(thread(), h - top), x.row(n, h)
        for i, width in vectors(inside * C):
            target.store((i - left * C,), source.load((i,), width), width)


def source_of(halo: Any, x: Any, n: Any, border: Any) -> Any:
    """Where tile loads of image n start: the image, or its copy with the origin moved to the image's corner."""
    if border is None:
        return x.at(n, 0, 0, 0)
    copy_image(halo, x, n, border)
    return halo.at(thread(), -border[0], -border[2], 0)


def tile_positions(
    rows: int, columns: int, most: int
) -> Iterator[tuple[Any, Any, list[tuple[int, int]]]]:
    """Cover rows x columns with tiles of at most `most` pixels: (row, column, offsets within the tile)."""
    if columns >= most:
        first = 0
        for size, count in split(columns, most):
            for i, j in loops(rows, count):
                yield i, j * size + first, [(0, q) for q in range(size)]
            first += size * count
        return
    first = 0
    for size, count in split(rows, max(1, most // columns)):
        for i in loop(count):
            yield i * size + first, 0, [(p, q) for p in range(size) for q in range(columns)]
        first += size * count


def blocks_of(outputs: int, columns: int) -> Iterator[tuple[Any, int]]:
    """(block, valid columns): a loop over the full blocks of neighbouring outputs, then the last, partial one."""
    full, tail = divmod(outputs, columns)
    for b in loop(full):
        yield b, columns
    if tail:
        yield full, tail


def correlate(*arrays: Any, axes: Axes, border: Any, outputs: int, epilogue: Epilogue) -> None:
    """y[n, ., ., k] = sum over taps and inputs of x * panels; tiles of pixels x filters stay in registers.

    Per step of the inner loop one row of a panel is loaded and each pixel's input broadcast: rows * vectors fused
    multiply-adds for vectors + rows loads, so the multipliers and not the load ports set the pace: 94-97 % of the peak
    on 3x3 filters with 64 to 256 channels, on one core of Zen 4 (`foveal bench ops conv2d --threads 1`).
    """
    ending = Ending(epilogue, arrays, 3)
    halo, x, panels = ending.own
    groups, inputs = panels.shape[0], panels.shape[4]
    tile = tile_for(outputs)
    if border:
        clear(halo)
    for (n,) in parallel(x.shape[0]):
        open_all(ending, n, groups * outputs)
        source = source_of(halo, x, n, border)
        for g in loop(groups):
            image = source.at(0, 0, 0, g * inputs)
            for rows, columns in itertools.product(*axes):
                for b, valid in blocks_of(outputs, tile.columns):
                    panel, first = panels.at(g, b, 0, 0, 0, 0), g * outputs + b * tile.columns
                    correlate_block(ending, n, first, image, panel, rows, columns, valid, tile)


def open_all(ending: Ending, task: Any, channels: int) -> None:
    """Start a task's sums."""
    for k, width in vectors(channels) if ending.epilogue.rows else ():
        ending.open(task, k, width)


def correlate_block(
    ending: Ending, n: Any, first: Any, x: Any, panel: Any, rows: Taps, columns: Taps, valid: int, tile: Tile
) -> None:  # fmt: skip
    """All pixels of image n for one block of `valid` outputs, from channel `first` on."""
    for i, j, offsets in tile_positions(rows.count, columns.count, tile.rows):
        at = x.at(0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, 0)
        totals = product(at, panel, rows, columns, offsets, valid, tile)
        pixels = output_pixels(n, i, j, offsets, rows, columns)
        for v, (start, width) in enumerate(pieces(valid, tile.width)):
            sums = [head(totals[pixel, v], width) for pixel in range(len(offsets))]
            ending.store(n, pixels, sums, first + start, width)


def output_pixels(
    n: Any, i: Any, j: Any, offsets: list[tuple[int, int]], rows: Taps, columns: Taps
) -> list[tuple[Any, Any, Any]]:
    """(n, p, q) of the outputs of the tile at (i, j)."""
    return [
        (n, (i + p) * rows.step + rows.start, (j + q) * columns.step + columns.start)
        for p, q in offsets
    ]


def product(
    at: Any,
    panel: Any,
    rows: Taps,
    columns: Taps,
    offsets: list[tuple[int, int]],
    valid: int,
    tile: Tile,
) -> dict[tuple[int, int], Any]:
    """The register tile of the pixels at `offsets`: sums over the taps and the inputs."""
    starts, inputs = pieces(valid, tile.width), panel.shape[4]
    acc = accumulators(len(offsets), [tile.width] * len(starts))
    step = unrolling(inputs)
    unrolled = (
        inputs < 4
    )  # with few inputs the filter's columns are unrolled as well, to keep the loop overhead small

    def taps(r: Any, s: Any, pixels: Any) -> None:
        weights = panel.at(
            0, 0, rows.kernel + r * rows.kernel_step, columns.kernel + s * columns.kernel_step, 0, 0
        )
        for c in loop(inputs // step):
            for u in range(step):
                ws = [
                    weights.load((0, 0, 0, 0, c * step + u, start), tile.width)
                    for start, _ in starts
                ]
                xs = [
                    pixels[0, p * rows.input_step, q * columns.input_step, c * step + u]
                    for p, q in offsets
                ]
                multiply_add(acc, xs, ws)

    for r in loop(rows.taps):
        for s in range(columns.taps) if unrolled else loop(columns.taps):
            pixels = at.at(0, r * rows.tap_step, s * columns.tap_step, 0)
            taps(r, s, pixels.opaque() if unrolled else pixels)
    return acc


def depthwise(*arrays: Any, axes: Axes, border: Any, epilogue: Epilogue) -> None:
    """One filter per channel: lanes run over channels, for images and weights alike."""
    ending = Ending(epilogue, arrays, 3)
    halo, x, w = ending.own
    if border:
        clear(halo)
    filters = w.permuted(1, 2, 3, 4, 0)
    for (n,) in parallel(x.shape[0]):
        open_all(ending, n, x.shape[3])
        source = source_of(halo, x, n, border)
        for rows, columns in itertools.product(*axes):
            for g, width in vectors(x.shape[3]):
                depthwise_block(ending, n, g, width, source, filters, rows, columns)


def depthwise_block(
    ending: Ending, n: Any, g: Any, width: int, source: Any, filters: Any, rows: Taps, columns: Taps
) -> None:  # fmt: skip
    """All pixels of image n for `width` channels from g on."""
    most = tile_for(lanes()).rows // 2
    for i, j, offsets in tile_positions(rows.count, columns.count, most):
        at = source.at(
            0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, g
        )
        acc = [var(0.0, width) for _ in offsets]
        for r, s in loops(rows.taps, columns.taps):
            r_at, s_at = (
                rows.kernel + r * rows.kernel_step,
                columns.kernel + s * columns.kernel_step,
            )
            weight = nest.load(filters, (0, 0, r_at, s_at, g), width)
            pixels = at.at(0, r * rows.tap_step, s * columns.tap_step, 0)
            for total, (p, q) in zip(acc, offsets, strict=True):
                place = (0, p * rows.input_step, q * columns.input_step, 0)
                total.fma(pixels.load(place, width), weight)
        pixels = output_pixels(n, i, j, offsets, rows, columns)
        ending.store(n, pixels, [total.get() for total in acc], g, width)


def lower_weight_grad(
    to: Lowering, dw: Any, dy: Any, x: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    K, C, R, S = dw.shape
    axes = both_axes(forward_taps, dy.shape[2:], (R, S), stride, padding, dilation)
    dy, x = nhwc(dy), nhwc(x)
    border = bordered(axes, x.shape[1:3])
    halo = to.scratch((1, *border[1::2], x.shape[3]) if border else (1, 1, 1, 1), per_thread=True)
    chunks = max(1, min(x.shape[0], MOST_CHUNKS, PARTIAL_BYTES // (4 * K * C * R * S)))
    partial = to.scratch((chunks, R, S, C, K))
    how: dict[str, Any] = {"axes": axes, "border": border}
    if C == 1 and groups == K > 1:
        to.call(weight_grad_depthwise, [partial, halo], [dy, x], **how)
    else:
        # filter columns and channels are one range of neighbours
        together = groups == 1 and dilation[1] == 1
        sums = partial.reshaped((chunks, R, 1, S * C, K)) if together else partial
        to.call(weight_grad, [sums, halo], [dy, x], groups=groups, **how)
    to.call(add_partials, [dw.permuted(2, 3, 1, 0).reshaped((R * S * C * K,))],
            [partial.reshaped((chunks, R * S * C * K))])  # fmt: skip


def chunk_of_images(N: int, chunks: int, g: Any) -> Iterator[Any]:
    yield from loop((g + 1) * N // chunks, start=g * N // chunks)


def weight_grad(
    partial: Any, halo: Any, dy: Any, x: Any, *, axes: Axes, border: Any, groups: int
) -> None:
    """partial[g, r, s, c, k] = sum over the g-th chunk of images, and over pixels, of x * dy.

    A tile of (s, c) positions x filters stays in registers while all pixels of an image pass: neighbouring channels and
    filter columns are neighbours in memory, so they are one range of scalars to broadcast. With few chunks, as large
    filters have, threads share the blocks of filters as well.
    """
    chunks, *_, K = partial.shape
    filters = K // groups
    tile = tile_for(filters)
    full, tail = divmod(filters, tile.columns)
    if border:
        clear(halo)

    def part(g: Any, blocks: Callable[[], Iterable[tuple[Any, int]]]) -> None:
        for group, (b, valid) in ((group, b) for group in loop(groups) for b in blocks()):
            zero(partial, g, group * filters + b * tile.columns, valid)
        for n in chunk_of_images(x.shape[0], chunks, g):
            source = source_of(halo, x, n, border)
            for group in loop(groups):
                for b, valid in blocks():
                    weight_block(
                        partial,
                        source,
                        dy,
                        n,
                        g,
                        group,
                        group * filters + b * tile.columns,
                        valid,
                        axes,
                        tile,
                    )

    if chunks >= ENOUGH_TASKS or full < 2:
        for (g,) in parallel(chunks):
            part(g, lambda: blocks_of(filters, tile.columns))
        return
    for g, b in parallel(chunks, full):
        part(g, lambda: [(b, tile.columns)])  # noqa: B023 - called before the next b
    if tail:
        for (g,) in parallel(chunks):
            part(g, lambda: [(full, tail)])


def zero(partial: Any, g: Any, first: Any, count: int) -> None:
    """partial[g, :, :, :, first : first + count] = 0"""
    _, R, S, C, _ = partial.shape
    for r, s, c in loops(R, S, C):
        for i, width in vectors(count):
            partial.store((g, r, s, c, first + i), 0.0, width)


def weight_block(
    partial: Any,
    source: Any,
    dy: Any,
    n: Any,
    g: Any,
    group: Any,
    k: Any,
    valid: int,
    axes: Axes,
    tile: Tile,
) -> None:
    """Add image n's part to the `valid` filters from k on."""
    _, R, S, C, _ = partial.shape
    (rows,), (columns,) = axes
    for r, s in loops(R, S):
        first = 0
        for size, count in split(C, tile.rows):
            for t in loop(count):
                c = t * size + first
                at = source.at(
                    0,
                    rows.origin + r * rows.tap_step,
                    columns.origin + s * columns.tap_step,
                    group * C + c,
                )
                into = partial.at(g, r, s, c, k)
                accumulate_tile(
                    at, into, dy.at(n, 0, 0, k), rows, columns, size, pieces(valid, tile.width)
                )
            first += size * count


def accumulate_tile(
    at: Any, into: Any, dy: Any, rows: Taps, columns: Taps, size: int, starts: list[tuple[int, int]]
) -> None:
    """into[i, k] += sum over pixels of x[pixel, i] * dy[pixel, k] for i < size."""
    acc = {
        (i, v): var(into.load((0, 0, 0, i, start), width), width)
        for i in range(size)
        for v, (start, width) in enumerate(starts)
    }
    step = unrolling(columns.count, 2)
    for p in loop(rows.count):
        for q in loop(columns.count // step):
            for u in range(step):
                pixel = q * step + u
                ws = [dy.load((0, p, pixel, start), width) for start, width in starts]
                base = at.at(0, p * rows.input_step, pixel * columns.input_step, 0)
                base = base.opaque() if u else base
                for i in range(size):
                    x = base.neighbour(i)
                    for v, w in enumerate(ws):
                        acc[i, v].fma(x, w)
    for (i, v), total in acc.items():
        start, width = starts[v]
        into.store((0, 0, 0, i, start), total, width)


def weight_grad_depthwise(
    partial: Any, halo: Any, dy: Any, x: Any, *, axes: Axes, border: Any
) -> None:
    """partial[g, r, s, 0, c] = sum over the g-th chunk of images, and over pixels, of x * dy, lanes over channels."""
    chunks, R, S, _, channels = partial.shape
    N, (rows,), (columns,) = x.shape[0], axes[0], axes[1]
    if border:
        clear(halo)
    for (g,) in parallel(chunks):
        for r, s in loops(R, S):
            for c, width in vectors(channels):
                partial.store((g, r, s, 0, c), 0.0, width)
        for n in chunk_of_images(N, chunks, g):
            source = source_of(halo, x, n, border)
            for c, width in vectors(channels):
                for r in loop(R):
                    acc = [var(partial.load((g, r, s, 0, c), width), width) for s in range(S)]
                    for p, q in loops(rows.count, columns.count):
                        gradient = dy.load((n, p, q, c), width)
                        at = source.at(0, rows.origin + p * rows.input_step + r * rows.tap_step,
                                       columns.origin + q * columns.input_step, c)  # fmt: skip
                        for s in range(S):
                            acc[s].fma(at.load((0, 0, s * columns.tap_step, 0), width), gradient)
                    for s in range(S):
                        partial.store((g, r, s, 0, c), acc[s], width)
