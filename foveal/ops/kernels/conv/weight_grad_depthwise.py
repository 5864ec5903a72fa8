"""Gradient of a depthwise convolution in its weights: lanes run over channels.

    dw[g, r, s] = sum over n, p, q of x[n, p u + r d - pad, q u + s d - pad, g] dy[n, p, q, g]

for stride u and dilation d. Each of the G groups has one channel g, so C = K = G.

How it comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py derives it): a register tile is
a vector of channels, with a sum for every tap, 9 for 3x3 filters, which stay in registers while all pixels of an image
pass, a few neighbouring columns of a row at a time. Each vector of x and of dy is loaded once per step and used for all
taps that meet it: with 6 columns and 3x3 taps 54 FMAs for 6 vectors of dy and 3 x 8 of x, 0.56 loads per FMA, so the
FMAs and not the loads set the pace while images come from a cache: 90 % of the peak of one core of Zen 4 (`foveal bench
ops depthwise --threads 1`). Images that come from memory are read once, in long runs, and memory sets the pace.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from foveal.kernel.lang import Array, Index, loop, loops, parallel, registers, var
from foveal.ops.kernels.conv.depthwise import Uses, fetch, is_far, part_of_vectors, tiles
from foveal.ops.kernels.partial_sums import lower_sums
from foveal.ops.kernels.register_tile import ENOUGH_TASKS, ceil_div
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.view import View

# A function that emits a loop over output rows, and yields (row, [the kernel rows whose taps meet the image there]).
RowLoop = Callable[[], Iterable[tuple[Index, list[list[int]]]]]

# (r, s) of an element of a filter
Tap = tuple[int, int]

# Chunks of images at most, as many as ENOUGH_TASKS: enough tasks even if no chunk is cut into parts of the channels.
# Each has sums [R, S, G] of its own, which are added up at the end.
MAX_CHUNKS = ENOUGH_TASKS

# FMAs of a step at most: with 3x3 taps 6 columns, which all 9 sums need. More would only lengthen the unrolled code.
MAX_STEP_PRODUCTS = 54


def lower(lowering: Lowering, dw: View, dy: View, x: View, axes: Axes) -> None:
    """Views dw [G, 1, R, S], dy [N, P, Q, G], x [N, H, W, G]. Tasks are (chunk of images, part of the channels)."""
    G, _, R, S = dw.shape
    chunks = min(x.shape[0], MAX_CHUNKS)
    parts = ceil_div(ENOUGH_TASKS, chunks)
    partial = lowering.scratch((chunks, R, S, G))
    sizes = CallSizes()
    # nothing is written past the cache
    specs = [replace(sizes.batch(partial, "chunks"), streamed=False), sizes.batch(dy), sizes.batch(x)]
    lowering.call(
        weight_grad_depthwise,
        [partial],
        [dy, x],
        specs=specs,
        parts=sizes.of(parts, "parts"),
        sizes=sizes.values,
        axes=axes,
        far=is_far(x),
    )
    result = dw.permuted(2, 3, 1, 0).reshaped((R * S * G,))
    lower_sums(lowering, result, partial)


def weight_grad_depthwise(partial: Array, dy: Array, x: Array, *, axes: Axes, parts: Index, far: bool) -> None:
    """partial[chunk, r, s, g] = sum over the images of a chunk, and over pixels, of x * dy.

    partial: [chunks, R, S, G]; dy: [N, P, Q, G]; x: [N, H, W, G]. far: x comes from memory and not from a cache.
    """
    _, R, S, G = partial.shape
    chunks, N = partial.extents[0], x.extents[0]
    (rows,), _ = axes
    taps = ImageSums(partial, dy, x, axes, far)
    # a task is a chunk of images and a part of the channels
    for chunk, part in parallel(chunks, parts):
        first, end = (c * N // chunks for c in (chunk, chunk + 1))
        # vectors of channels; from a cache, all pixels of an image pass before the next vector
        for g, width in part_of_vectors(G, part, parts):
            for r, s in loops(R, S):
                partial.store((chunk, r, s, g), 0.0, width)
            if not far:
                for n in loop(end, start=first):
                    taps.add_rows((chunk, n, g), width, lambda: tiles(rows, x.shape[1], 1), list(range(rows.taps)))
        # from memory, all channels of a row of outputs pass before the next row, for that is how they lie there
        if far:
            for n in loop(end, start=first):
                for row, (row_taps,) in tiles(rows, x.shape[1], 1):
                    for g, width in part_of_vectors(G, part, parts):
                        taps.add_row((chunk, n, g), width, row, row_taps)


def groups_of_taps(rows: list[int], S: int) -> Iterator[list[Tap]]:
    """The taps of these kernel rows, as many at a time as three quarters of the registers hold sums."""
    max_taps = registers() * 3 // 4
    taps = [(r, s) for r in rows for s in range(S)]
    for first in range(0, len(taps), max_taps):
        yield taps[first : first + max_taps]


@dataclass(frozen=True)
class ImageSums:
    """The sums of each tap over output rows of an image, for a vector of channels."""

    #: [chunks, R, S, G]
    partial: Array
    #: [N, P, Q, G], [N, H, W, G]
    dy: Array
    x: Array
    axes: Axes
    #: x and dy come from memory: the next row is prefetched
    far: bool

    def add_row(self, place: tuple[Index, Index, Index], width: int, row: Index, taps: list[int]) -> None:
        """`add_rows` for a single output row. taps: the kernel rows whose taps meet the image there."""
        self.add_rows(place, width, lambda: [(row, [taps])], taps)

    def add_rows(
        self, place: tuple[Index, Index, Index], width: int, output_rows: RowLoop, kernel_rows: list[int]
    ) -> None:
        """partial[chunk, r, s, g ...] += the sums over output rows, for place = (chunk, n, g) and `width` channels.

        output_rows are passed again for every group of taps that fits into registers; kernel_rows: rows r of the taps.
        """
        (rows,), (columns,) = self.axes
        chunk, n, g = place
        # the sums from the first tap on that meets the image
        into = self.partial.at(chunk, rows.kernel, columns.kernel, g)
        for taps in groups_of_taps(kernel_rows, columns.taps):
            self.add_taps(into, taps, output_rows, self.dy.at(n, 0, 0, g), self.x.at(n, 0, 0, g), width)

    def add_taps(self, into: Array, taps: list[Tap], output_rows: RowLoop, dy: Array, x: Array, width: int) -> None:
        """into[tap] += the sum over the pixels of output rows of x * dy, in registers."""
        (rows,), (columns,) = self.axes
        acc = {tap: var(into.load((0, *tap, 0), width), width) for tap in taps}
        # output rows, then tiles of neighbouring columns
        for i, (row_taps,) in output_rows():
            for j, column_taps in tiles(columns, x.shape[2], max(1, MAX_STEP_PRODUCTS // len(taps))):
                if self.far:
                    fetch(x, i + 1, j, len(column_taps), rows, columns)
                    for q in range(len(column_taps)):
                        dy.prefetch((0, i + 1, j + q, 0))
                gradients = [dy.load((0, i, j + q, 0), width) for q in range(len(column_taps))]
                # input (row, column), from that of tap (0, 0) of the first column on -> its (column, tap) products
                uses: Uses = {}
                for q, taps_of_column in enumerate(column_taps):
                    for r, s in ((r, s) for r in row_taps for s in taps_of_column if (r, s) in acc):
                        place = r * rows.tap_step, q * columns.input_step + s * columns.tap_step
                        uses.setdefault(place, []).append((q, (r, s)))
                source = x.at(0, rows.origin + i * rows.input_step, columns.origin + j * columns.input_step, 0)
                # each input is loaded once for all of its products
                for h, v in sorted(uses):
                    value = source.load((0, h, v, 0), width)
                    for q, tap in uses[h, v]:
                        acc[tap].fma(value, gradients[q])
        for tap, total in acc.items():
            into.store((0, *tap, 0), total, width)
