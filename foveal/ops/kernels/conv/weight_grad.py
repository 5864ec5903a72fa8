"""Gradient of a convolution in its weights: sums over all pixels of x * dy.

A tile of input positions (s, c) x filters stays in registers while the pixels of a unit pass. A unit is some images, or
a band of rows of one, so much as the second-level cache holds; a chunk is a range of units. Every chunk has sums of its
own, added up in order at the end.
"""

from dataclasses import dataclass, replace
from typing import Any

from foveal.kernel.lang import loop, loops, maximum, minimum, parallel, registers, splat, thread, var, where, width_of
from foveal.ops.kernels.conv import weight_grad_depthwise, weight_grad_simd_batch
from foveal.ops.kernels.conv.conv1x1 import evenly_spaced, one_row
from foveal.ops.kernels.halo import bordered, nhwc, stage_band, zero_buffer
from foveal.ops.kernels.partial_sums import lower_kernel_sums
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, lane_ranges, part_of_blocks, split, tile_for
from foveal.ops.kernels.taps import Axes, both_axes, forward_taps, used_kernel
from foveal.ops.op import Lowering
from foveal.strides import Shape

UNIT = 128 << 10  # elements of x: half of a second-level cache of 1 MB


MOST_CHUNKS = 32


LEAST_PIXELS = 512  # of a chunk: a sum that is stored and added again takes as long as some pixels


PARTIAL = 2 << 20  # elements of all chunks' sums together


FEW = 16  # channels, below which a filter row's columns and channels are one range of positions


def lower(to: Lowering, dw: Any, dy: Any, x: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    """Views dw [K, C, R, S], dy [N, K, P, Q], x [N, G C, H, W]."""
    K, C, R, S = dw.shape
    axes = both_axes(forward_taps, dy.shape[2:], x.shape[2:], (R, S), stride, padding, dilation)
    if C == 1 and groups == K > 1:
        weight_grad_depthwise.lower_weight_grad(to, dw, nhwc(dy), nhwc(x), axes)
        return
    axes, first, kernel = used_kernel(axes)
    if weight_grad_simd_batch.fits(nhwc(dy), nhwc(x), axes, C * kernel[0] * kernel[1], groups):
        partial = weight_grad_simd_batch.lower(to, nhwc(dy), nhwc(x), axes, kernel)
        lower_kernel_sums(to, dw, partial, first)
        return
    pixel = kernel == (1, 1) and all(t.input_step == 1 and t.origin == 0 for (t,) in axes)
    if pixel and dy.shape[2:] == x.shape[2:] and evenly_spaced(dy) and evenly_spaced(x):
        dy, x = (one_row(v).permuted(0, 1, 3, 2) for v in (dy, x))  # one column of pixels
        (rows,), (columns,) = axes
        axes = (replace(rows, count=dy.shape[2]),), (replace(columns, count=1),)
    N, _, P, Q = dy.shape
    together = groups == 1 and dilation[1] == 1 and C < FEW and kernel[1] > 1
    images, bands = units_of(x.shape, (P, Q), together and bordered(axes, x.shape[2:], P) is not None)
    units = -(-N // images) * bands
    size = K * C * kernel[0] * kernel[1]
    chunks = max(1, min(units, MOST_CHUNKS, N * P * Q // LEAST_PIXELS, PARTIAL // size))
    blocks = groups * -(-(K // groups) // tile_for(K // groups).columns)
    parts = min(blocks, -(-ENOUGH_TASKS // chunks))
    border = bordered(axes, x.shape[2:], -(-P // bands)) if together else None
    halo = to.scratch((1, *border[1::2], C) if border else (1, 1, 1, 1), per_thread=True)
    last = dw.permuted(2, 3, 1, 0)
    alone = chunks == 1 and kernel == (R, S)
    partial = last.reshaped((1, *last.shape)) if alone else to.scratch((chunks, *kernel, C, K))
    sums = partial.reshaped((chunks, kernel[0], 1, kernel[1] * C, K)) if together else partial
    to.call(
        weight_grad,
        [sums, halo],
        [nhwc(dy), nhwc(x)],
        axes=axes,
        border=border,
        groups=groups,
        images=images,
        bands=bands,
        parts=parts,
    )
    if not alone:
        lower_kernel_sums(to, dw, partial, first)


def units_of(x: Shape, outputs: tuple[int, int], one: bool) -> tuple[int, int]:
    """(images, bands of output rows) of a unit: either is one. one: a unit has one image at most."""
    N, C, H, W = x
    image, (rows, columns) = C * H * W, outputs
    bands = max(-(-image // UNIT), min(-(-ENOUGH_TASKS // N), rows * columns // LEAST_PIXELS))
    if bands > 1:
        return 1, min(rows, bands)
    return 1 if one else min(N, UNIT // image, -(-N // ENOUGH_TASKS)), 1


@dataclass(frozen=True)
class Unit:
    """Images `first` ... `end`, of which the output rows `top` ... `bottom`. fresh: the first one of its chunk."""

    first: Any
    end: Any
    top: Any
    bottom: Any
    fresh: Any


def weight_grad(
    partial: Any,
    halo: Any,
    dy: Any,
    x: Any,
    *,
    axes: Axes,
    border: Any,
    groups: int,
    images: int,
    bands: int,
    parts: int,
) -> None:
    """partial[g, r, s, c, k] = sum over the g-th chunk of units of x * dy.

    Neighbouring channels, and with few of them filter columns too, are one range of scalars to broadcast: 94-98 % of
    the
    peak on one core of Zen 4 for 3x3 filters with 64 and more channels.
    """
    chunks, R, S, C, K = partial.shape
    N, P = dy.shape[:2]
    filters, units = K // groups, -(-N // images) * bands
    tile = tile_for(filters)
    if border:
        zero_buffer(halo)
    for g, part in parallel(chunks, parts):
        if not all(taps[0].taps for taps in axes):  # all of them meet padding only
            for group, b, valid in part_of_blocks(groups, filters, tile.columns, part, parts):
                for r, s, c in loops(R, S, C):
                    for lane, width in lane_ranges(valid, tile.width):
                        index = (g, r, s, c, group * filters + b * tile.columns + lane)
                        partial.store(index, 0.0, width)
            continue
        begin = g * units // chunks
        for u in loop((g + 1) * units // chunks, start=begin):
            n, band = (u // bands, u % bands) if bands > 1 else (u * images, 0)
            rows_of_band = band * P // bands, (band + 1) * P // bands
            unit = Unit(n, minimum(n + images, N), *rows_of_band, chunks == units or u == begin)
            source = x
            if border:
                top = unit.top * axes[0][0].input_step + border[0]
                stage_band(halo, x, n, top, border[2])
                source = halo.at(thread(), 0 - top, -border[2], 0)
            for group, b, valid in part_of_blocks(groups, filters, tile.columns, part, parts):
                k = group * filters + b * tile.columns
                into, image = partial.at(g, 0, 0, 0, k), source.at(0, 0, 0, group * C)
                starts = lane_ranges(valid, tile.width)
                if axes[1][0].taps > S:
                    add_ranges(into, image, dy.at(0, 0, 0, k), unit, axes, starts, border)
                else:
                    add_channels(into, image, dy.at(0, 0, 0, k), unit, axes, starts, -(-P // bands) if bands > 1 else 0)


def add_channels(into: Any, x: Any, dy: Any, unit: Unit, axes: Axes, starts: list[tuple[int, int]], ahead: int) -> None:
    """Per kernel position tiles of channels x filters, over the pixels whose tap meets the image."""
    _, R, S, C, _ = into.shape
    (rows,), (columns,) = axes
    for r, s in loops(R, S):
        (top, bottom), (left, right) = (
            rows.swapped.valid_range(r, x.shape[1]),
            columns.swapped.valid_range(s, x.shape[2]),
        )
        inside = replace(unit, top=maximum(top, unit.top), bottom=minimum(bottom, unit.bottom))
        at = x.at(0, rows.origin + r * rows.tap_step, columns.origin + s * columns.tap_step, 0)
        first = 0
        for size, count in split(C, tile_rows(starts)):
            for t in loop(count):
                c = t * size + first
                accumulate(
                    into.at(0, r, s, c, 0),
                    [((0, i), i) for i in range(size)],
                    at.at(0, 0, 0, c),
                    dy,
                    inside,
                    (left, right),
                    axes,
                    starts,
                    ahead=ahead if R * S == 1 else 0,
                )
            first += size * count


def add_ranges(into: Any, x: Any, dy: Any, unit: Unit, axes: Axes, starts: list[tuple[int, int]], border: Any) -> None:
    """Few channels: tiles of positions (s, c), which are neighbours in memory, of as many kernel rows as fit in.

    x is the unit's zero-bordered copy if there is a border, so that all pixels have all taps.
    """
    _, R, _, run, _ = into.shape
    (rows,), (columns,) = axes
    most, first = tile_rows(starts), 0
    for height, bands in split(R, max(1, most // run)):
        for band in loop(bands):
            r, start = band * height + first, 0
            for size, count in split(run, most):
                for t in loop(count):
                    c = t * size + start
                    offsets = [
                        ((h, i), h * rows.tap_step * x.strides[1] + i) for h in range(height) for i in range(size)
                    ]
                    at = x.at(0, rows.origin + r * rows.tap_step, columns.origin, 0)
                    accumulate(
                        into.at(0, r, 0, c, 0),
                        offsets,
                        at.at(0, 0, 0, c),
                        dy,
                        unit,
                        (0, columns.count),
                        axes,
                        starts,
                        copied=border is not None,
                    )
                start += size * count
        first += height * bands


def accumulate(
    into: Any,
    offsets: list[tuple[tuple[int, int], int]],
    x: Any,
    dy: Any,
    unit: Unit,
    across: tuple[Any, Any],
    axes: Axes,
    starts: list[tuple[int, int]],
    copied: bool = False,
    ahead: int = 0,
) -> None:
    """into[position, k] += sum over a unit's pixels of x * dy for a tile in registers; = in a chunk's first unit.

    offsets: of a tile's positions in `into` and, in memory, in x. copied: x holds one image. ahead: rows from here to
    the
    next unit, whose pixels are fetched early where this is the only pass over them.
    """
    (rows,), (columns,) = axes

    def before(h: int, c: int, start: int, width: int) -> Any:
        if unit.fresh is True:
            return 0.0
        return where(unit.fresh, 0.0, into.load((0, h, 0, c, start), width))

    acc = {
        (i, start): var(before(h, c, start, width), width)
        for i, ((h, c), _) in enumerate(offsets)
        for start, width in starts
    }
    for n in loop(unit.end, start=unit.first):
        for p in loop(unit.bottom, start=unit.top):
            for q in loop(across[1], start=across[0]):
                at = x.at(0 if copied else n, p * rows.input_step, q * columns.input_step, 0)
                ws = [dy.load((n, p, q, start), width) for start, width in starts]
                if ahead:
                    at.prefetch((0, ahead * rows.input_step, 0, 0))
                    for start, _ in starts:
                        dy.prefetch((n, p + ahead, q, start))
                for i, (_, offset) in enumerate(offsets):
                    scalar = at.neighbour(offset)
                    for (start, width), w in zip(starts, ws, strict=True):
                        acc[i, start].fma(splat(scalar, width), w)
    for (i, start), total in acc.items():
        (h, c), _ = offsets[i]
        into.store((0, h, 0, c, start), total, width_of(total))


def tile_rows(starts: list[tuple[int, int]]) -> int:
    """Rows of a tile with these vectors."""
    return registers() * 3 // 4 // len(starts)
