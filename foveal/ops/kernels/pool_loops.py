"""Pooling kernels for windows of many taps, which loops walk through, so that code does not grow with the window.

Only the taps inside of the image are visited: nothing is masked. Lanes run over channels, several vectors at once,
since each tap costs a loop's iteration. The kernels mean the same as those of the same names in pool.py.
"""

from collections.abc import Iterator

from foveal.kernel.lang import (
    I64,
    Array,
    Index,
    Scalar,
    Var,
    cast,
    extract,
    lanes,
    loop,
    loops,
    maximum,
    minimum,
    parallel,
    var,
    vectors,
    where,
)
from foveal.ops.kernels import expression
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue
from foveal.ops.kernels.expression import Prologue, float_lanes
from foveal.ops.kernels.taps import forward_taps
from foveal.ops.pool_window import MeanWindow
from foveal.ops.window import Pair, Window, both

LOWEST = float("-inf")

# Taps of a window from which on they are looped over. Unrolled, each of them takes about ten instructions, and some 5
# ms of compiling for a pass forward and one backward: 961 took 9 s.
MANY_TAPS = 65

# Vectors of channels that go through a window together.
VECTORS = 4


def has_many_taps(window: Window) -> bool:
    """True if the kernels of this file are meant for the window."""
    return window.size[0] * window.size[1] >= MANY_TAPS


def channel_blocks(
    bound: BoundEpilogue, channels: int, prologue: Prologue | None = None
) -> Iterator[tuple[Index, int]]:
    """Cover the channels: (first, number) of each block.

    It is a single vector where the steps of a prologue or what an epilogue adds up need most registers.
    """
    single = bound.epilogue.has_sums or (prologue is not None and prologue.steps)
    return vectors(channels, lanes() * (1 if single else VECTORS))


def positions(window: Window, axis: int, p: Index, count: int, n: int, backwards: bool = False) -> Iterator[Index]:
    """Loop over the positions, of n along an axis, that the p-th of `count` windows reads, or from the last one on."""
    before, d = window.padding[2 * axis], window.dilation[axis]
    (taps,) = forward_taps(count, window.size[axis], window.stride[axis], before, d)
    first, end = taps.valid_range(p, n)
    for t in loop(end, start=first):
        tap = first + (end - 1) - t if backwards else t
        yield taps.input_position(p) + tap * d


def pixels_backwards(
    window: Window, output: tuple[Index, Index], counts: Pair, image: Pair
) -> Iterator[tuple[Index, Index, Scalar]]:
    """`Window.pixels` from the last tap to the first, unrolled or, if there are many, in loops over those inside."""
    if not has_many_taps(window):
        yield from reversed(window.pixels(output, counts, image))
        return
    for h in positions(window, 0, output[0], counts[0], image[0], backwards=True):
        for v in positions(window, 1, output[1], counts[1], image[1], backwards=True):
            yield h, v, True


def windows_over(window: Window, axis: int, position: Index, count: int) -> Iterator[tuple[Index, Scalar]]:
    """Loop over those of `count` windows along an axis that reach over a position: (window, if a tap meets it)."""
    u, d, reach = window.stride[axis], window.dilation[axis], window.reach[axis]
    padded = position + window.padding[2 * axis]
    first, end = (maximum(padded - (reach - 1), 0) + (u - 1)) // u, minimum(padded // u + 1, count)
    for p in loop(end, start=first):
        distance = padded - p * u
        yield p, True if d == 1 else distance // d * d == distance


def value_where(condition: Scalar, value: Scalar, other: float) -> Scalar:
    """`value` where the condition holds, else `other`; no instruction if the condition is True at build time."""
    return value if condition is True else where(condition, value, other)


def loop_rows(bound: BoundEpilogue, images: Index, rows: int, channels: int) -> Iterator[tuple[Index, ...]]:
    """Loop over (image, row), shared among threads.

    Partial sums are kept per image; if there are any, an image stays with one thread, which zeroes its sums first.
    """
    if not bound.epilogue.has_sums:
        yield from parallel(images, rows)
        return
    for (n,) in parallel(images):
        bound.zero_all_sums(n, channels)
        for row in loop(rows):
            yield n, row


def bind(epilogue: Epilogue, arrays: tuple[Array, ...], inputs: int) -> BoundEpilogue:
    """The epilogue of a kernel with so many inputs; nothing of what it reads is prefetched."""
    extras = len(arrays) - len(epilogue.results) - 1 - inputs
    return BoundEpilogue(epilogue, arrays, inputs, far=(False,) * extras)


def max_windows(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue) -> None:
    """y[n, p, q, c] = the largest value of a window; NaN where one is."""
    bound = bind(epilogue, arrays, prologue.array_count)
    (H, W), N, (P, Q, C) = bound.operands[0].shape[1:3], bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    for n, p in loop_rows(bound, N, P, C):
        for q in loop(Q):
            for c, width in channel_blocks(bound, C, prologue):
                best = var(LOWEST, width)
                for h in positions(window, 0, p, P, H):
                    for v in positions(window, 1, q, Q, W):
                        best.set(maximum(best.get(), prologue.load(bound.operands, (n, h, v, c), width)))
                bound.store(n, [(n, p, q)], [best.get()], c, width)


def mean_windows(*arrays: Array, window: MeanWindow, prologue: Prologue, epilogue: Epilogue) -> None:
    """y[n, p, q, c] = the sum of a window, in which padding is 0, times MeanWindow.share, which divides it."""
    bound = bind(epilogue, arrays, prologue.array_count)
    (H, W), N, (P, Q, C) = bound.operands[0].shape[1:3], bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    for n, p in loop_rows(bound, N, P, C):
        for q in loop(Q):
            share = window.share(p, q, (P, Q), (H, W))
            for c, width in channel_blocks(bound, C, prologue):
                total = var(0.0, width)
                for h in positions(window, 0, p, P, H):
                    row = var(0.0, width)
                    for v in positions(window, 1, q, Q, W):
                        row += prologue.load(bound.operands, (n, h, v, c), width)
                    total += row.get()
                bound.store(n, [(n, p, q)], [total.get() * share], c, width)


def gather_means(*arrays: Array, window: MeanWindow, epilogue: Epilogue) -> None:
    """dx[n, h, v, c] = the sum of dy over the windows that contain (h, v), each with its share of dy."""
    bound = bind(epilogue, arrays, 1)
    (dy,) = bound.operands
    N, (H, W, C), (P, Q) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:], dy.shape[1:3]
    for n, h in loop_rows(bound, N, H, C):
        for v in loop(W):
            for c, width in channel_blocks(bound, C):
                total = var(0.0, width)
                for p, row in windows_over(window, 0, h, P):
                    row_total = var(0.0, width)
                    for q, column in windows_over(window, 1, v, Q):
                        value = dy.load((n, p, q, c), width) * window.share(p, q, (P, Q), (H, W))
                        row_total += value_where(both(row, column), value, 0.0)
                    total += row_total.get()
                bound.store(n, [(n, h, v)], [total.get()], c, width)


def scatter_maxima(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue) -> None:
    """dx = the sum of dy over the windows whose first maximum is at a pixel; NaN is ignored in the search for it.

    Gathering dy would visit a pixel's windows, as many as the window has taps; here a window adds its dy to one pixel,
    lane by lane. The sums are in `totals`, [N, H W, C], the scratch of a task, which has a whole image.
    """
    bound = bind(epilogue, arrays, prologue.array_count + 2)
    totals, *xs, dy = bound.operands
    N, (H, W, C), (P, Q) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:], dy.shape[1:3]

    def first_maximum(n: Index, output: tuple[Index, Index], c: Index, width: int) -> Var:
        """h W + v of the window's first maximum, as float32; -1 where all its elements are NaN."""
        largest, place = var(LOWEST, width), var(-1.0, width)
        # backwards, so that the first of equal maxima comes last and replaces the others
        for h in positions(window, 0, output[0], P, H, backwards=True):
            for v in positions(window, 1, output[1], Q, W, backwards=True):
                value = prologue.load(xs, (n, h, v, c), width)
                larger = value >= largest.get()
                largest.set(where(larger, value, largest.get()))
                place.set(where(larger, float_lanes(h * W + v, width), place.get()))
        return place

    for (n,) in parallel(N):
        bound.zero_all_sums(n, C)
        for pixel in loop(H * W):
            for c, width in vectors(C):
                totals.store((n, pixel, c), 0.0, width)
        for p, q in loops(P, Q):
            for c, width in vectors(C):
                place = first_maximum(n, (p, q), c, width).get()
                slope = where(place >= 0.0, expression.load(dy, (n, p, q, c), width), 0.0)
                place = maximum(place, 0.0)
                for lane in range(width):
                    index = (n, cast(extract(place, lane), I64), c + lane)
                    totals[index] = totals[index] + extract(slope, lane)
        for h, v in loops(H, W):
            for c, width in vectors(C):
                bound.store(n, [(n, h, v)], [totals.load((n, h * W + v, c), width)], c, width)
