"""Gradient of a convolution in its weights: sums over all pixels of x * dy."""
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from foveal.kernel.lang import loop, loops, parallel, var, vectors
from foveal.ops.depthwise import source_of, clear, bordered, weight_grad_depthwise, chunk_of_images
from foveal.ops.geometry import Taps, forward_taps
from foveal.ops.op import Lowering
from foveal.ops.tile import ENOUGH_TASKS, add_partials, blocks_of, pieces, split, tile_for, unrolling, Tile
MOST_CHUNKS = 32  # of images, whose sums are added in order
PARTIAL_BYTES = 8 << 20  # of all partial weight gradients together
Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]

def nhwc(image: Any) -> Any:
    return image.permuted(0, 2, 3, 1)

def both_axes(taps, sizes, kernel, stride, padding, dilation):
    rows, columns = (tuple(taps(sizes[a], kernel[a], stride[a], padding[2 * a], dilation[a])) for a in (0, 1))
    return rows, columns

def lower(
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


