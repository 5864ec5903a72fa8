"""Depthwise convolution's gradient in the weights."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from foveal.kernel.lang import lanes, loop, loops, parallel, registers, var
from foveal.ops.kernels.conv.depthwise import Uses, fetch, is_far, tiles
from foveal.ops.kernels.partial_sums import add_chunks
from foveal.ops.kernels.register_tile import ENOUGH_TASKS
from foveal.ops.kernels.taps import Axes, Taps
from foveal.ops.op import Lowering

Lines = Callable[[], Iterable[tuple[Any, list[list[int]]]]]


MOST_CHUNKS = 16  # of images, whose weight gradients are summed apart


PRODUCTS = 54  # of a tile of the weight gradient: columns enough to load each input once for all of 3x3 taps


def lower_weight_grad(to: Lowering, dw: Any, dy: Any, x: Any, axes: Axes) -> None:
    """Views dw [G, 1, R, S], dy [N, P, Q, G], x [N, H, W, G]. Tasks are (chunk of images, part of the channels)."""
    G, _, R, S = dw.shape
    chunks = min(x.shape[0], MOST_CHUNKS)
    partial = to.scratch((chunks, R, S, G))
    to.call(weight_grad_depthwise, [partial], [dy, x], axes=axes, far=is_far(x), parts=-(-ENOUGH_TASKS // chunks))
    to.call(add_chunks, [dw.permuted(2, 3, 1, 0).reshaped((R * S * G,))], [partial.reshaped((chunks, R * S * G))])


def weight_grad_depthwise(partial: Any, dy: Any, x: Any, *, axes: Axes, parts: int, far: bool) -> None:
    """partial[c, r, s, g] = sum over the c-th chunk of images, and over pixels, of x * dy.

    The taps' sums stay in registers while an image passes, so x and dy are loaded once: 90 % of the peak. From memory
    both
    are better read in long runs, so there only one row of outputs passes at a time, for all channels.
    """
    chunks, R, S, G = partial.shape
    (rows,), (columns,) = axes
    for chunk, part in parallel(chunks, parts):
        first, end = (c * x.shape[0] // chunks for c in (chunk, chunk + 1))

        def add(n: Any, g: Any, width: int, lines: Lines, kernel_rows: list[int]) -> None:
            into = partial.at(chunk, rows.kernel, columns.kernel, g)  # noqa: B023 - called at once
            for taps in groups_of_taps(kernel_rows, columns.taps):
                add_lines(into, taps, lines, dy.at(n, 0, 0, g), x.at(n, 0, 0, g), rows, columns, width, far)

        for g, width in part_of_vectors(G, part, parts):
            for r, s in loops(R, S):
                partial.store((chunk, r, s, g), 0.0, width)
            for n in loop(end, start=first) if not far else ():
                add(n, g, width, lambda: tiles(rows, x.shape[1], 1), list(range(rows.taps)))
        for n in () if not far else loop(end, start=first):
            for i, (ups,) in tiles(rows, x.shape[1], 1):
                for g, width in part_of_vectors(G, part, parts):
                    add(n, g, width, lambda: [(i, [ups])], ups)  # noqa: B023 - called at once


def part_of_vectors(n: int, part: Any, parts: int) -> Iterator[tuple[Any, int]]:
    """The vectors that cover a part of n neighbours; the last part has the tail."""
    size = lanes()
    full, tail = divmod(n, size)
    for v in loop((part + 1) * full // parts, start=part * full // parts):
        yield v * size, size
    if tail:
        for _ in loop((part + 1) // parts):
            yield full * size, tail


def groups_of_taps(rows: list[int], S: int) -> Iterator[list[tuple[int, int]]]:
    """Taps of these kernel rows, as many at a time as the registers hold sums."""
    most = registers() * 3 // 4
    every = [(r, s) for r in rows for s in range(S)]
    for first in range(0, len(every), most):
        yield every[first : first + most]


def add_lines(
    into: Any,
    taps: list[tuple[int, int]],
    lines: Lines,
    dy: Any,
    x: Any,
    rows: Taps,
    columns: Taps,
    width: int,
    far: bool,
) -> None:
    """into[tap] += the sum over the pixels of output rows (row, its taps that meet the image) of x * dy."""
    acc = {tap: var(into.load((0, *tap, 0), width), width) for tap in taps}
    for i, (ups,) in lines():
        for j, across in tiles(columns, x.shape[2], max(1, PRODUCTS // len(taps))):
            if far:
                fetch(x, i + 1, j, len(across), rows, columns)
                for q in range(len(across)):
                    dy.prefetch((0, i + 1, j + q, 0))
            gradients = [dy.load((0, i, j + q, 0), width) for q in range(len(across))]
            uses: Uses = {}
            for q, ones in enumerate(across):
                for r, s in ((r, s) for r in ups for s in ones if (r, s) in acc):
                    place = r * rows.tap_step, q * columns.input_step + s * columns.tap_step
                    uses.setdefault(place, []).append((q, (r, s)))
            at = x.at(0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, 0)
            for h, v in sorted(uses):
                value = at.load((0, h, v, 0), width)
                for q, tap in uses[h, v]:
                    acc[tap].fma(value, gradients[q])
    for tap, total in acc.items():
        into.store((0, *tap, 0), total, width)
