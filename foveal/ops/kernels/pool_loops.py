"""Pooling kernels for windows of many taps, which loops walk through, so that code does not grow with the window.

Only the taps inside of the image are visited: nothing is masked. Lanes run over channels, several vectors at once,
since each tap costs a loop's iteration. Where windows share rows, maxima are taken along rows first, then along
columns: R + S steps for each window and not R S. Windows of many channels go row by row (`whole_rows`). Kernels with
the names of others in pool.py mean the same.
"""

import math
from collections.abc import Iterator
from operator import add

from foveal.kernel.lang import (
    I32,
    I64,
    LINE,
    Array,
    Index,
    Scalar,
    Value,
    Var,
    building,
    cast,
    constant,
    l1,
    lanes,
    loop,
    loops,
    maximum,
    minimum,
    parallel,
    splat,
    thread,
    var,
    vectors,
    when,
    where,
)
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue
from foveal.ops.kernels.expression import Prologue
from foveal.ops.kernels.reduction import combined
from foveal.ops.kernels.register_tile import FLOAT_BYTES, ceil_div, runs
from foveal.ops.kernels.taps import forward_taps
from foveal.ops.pool_window import MeanWindow
from foveal.ops.window import Pair, Window, both

LOWEST = float("-inf")

# Taps of a window from which on they are looped over. Unrolled, each of them takes about ten instructions, and some 5
# ms of compiling for a pass forward and one backward: 961 took 9 s.
MANY_TAPS = 26

# Taps from which on nothing is unrolled, even where that takes fewer steps.
TOO_MANY_TAPS = 65

# Taps of a window, and windows over a pixel, up to which gradients are unrolled.
FEW = 9

# Cache lines that a core writes in part at a time without writing them to memory twice.
PARTIAL_LINES = 4

# The place of a window without a maximum (all its values are NaN): a number that no pixel has.
NO_PLACE = (1 << 31) - 1

# Vectors of channels that go through a window together.
VECTORS = 4

# Channels that go through the rows of a window together, whose results so far take 4 KiB of the first-level cache; and
# how many of their pixels are read side by side, as streams that the hardware's prefetcher can follow.
CHANNEL_PART, STREAMS = 1024, 8


def has_many_taps(window: Window) -> bool:
    """True if the kernels of this file are meant for the window."""
    return window.size[0] * window.size[1] >= MANY_TAPS


def shares_rows(window: Window, rows: int, image_rows: int) -> bool:
    """True if a row of the image lies in about two of the `rows` rows of windows, or in more."""
    return rows * window.size[0] >= 2 * image_rows


def exceeds_l1(window: Window, channels: int) -> bool:
    """True if maxima of windows that share few rows are to be taken in loops.

    Unrolled, they are of one vector of channels after the other, for which each tap reads half of a cache line or less;
    the rest of it is evicted before its turn comes if the pixels of 2^n channels do not fit the first-level cache.
    """
    taps = math.prod(window.size)
    return taps >= TOO_MANY_TAPS or (taps >= MANY_TAPS and FLOAT_BYTES * taps * channels > l1())


def windows_at_most(window: Window) -> int:
    """The windows that a pixel lies in at most, or would in a large image."""
    # along an axis, the taps that meet the same pixel in one window or another are u / gcd(u, d) apart
    steps = (u // math.gcd(u, d) for u, d in zip(window.stride, window.dilation, strict=True))
    return math.prod(ceil_div(n, step) for n, step in zip(window.size, steps, strict=True))


def has_many_pixels(window: Window) -> bool:
    """True if a gradient is not to be gathered by pool.gather_windows.

    That computes a pixel of each phase of the stride at once, and writes as many cache lines, and code grows with the
    taps. It pays where a few windows overlap.
    """
    taps, over = math.prod(window.size), windows_at_most(window)
    return taps >= TOO_MANY_TAPS or over > FEW or (over == 1 and taps > PARTIAL_LINES)


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


def int_lanes(number: Index, width: int) -> Value:
    """The number as int32 in each of `width` lanes."""
    if isinstance(number, int) and building():
        return constant(number, I32, width)
    return splat(cast(number, I32), width)


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


def loop_max_windows(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue, places: int) -> None:
    """y[n, p, q, c] = the largest value of a window; NaN where one is.

    places: 1 if the place of each is stored as well, int32 [N, P, Q, C], else 0.
    """
    bound = bind(epilogue, arrays, places + prologue.array_count)
    found, xs = bound.operands[:places], bound.operands[places:]
    (H, W), N, (P, Q, C) = xs[0].shape[1:3], bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    single = bound.epilogue.has_sums or prologue.steps or places
    for n, p in loop_rows(bound, N, P, C):
        for q in loop(Q):
            for c, width in vectors(C, lanes() * (1 if single else VECTORS)):
                largest, place = var(LOWEST, width), var(int_lanes(NO_PLACE, width), width)
                # backwards, so that the first of equal maxima comes last and replaces the others
                for h in positions(window, 0, p, P, H, backwards=True):
                    for v in positions(window, 1, q, Q, W, backwards=True):
                        value = prologue.load(xs, (n, h, v, c), width)
                        keep_larger(largest, value, place, int_lanes(h * W + v, width))
                for y in found:
                    y.store((n, p, q, c), place.get(), width)
                bound.store(n, [(n, p, q)], [largest.get()], c, width)


def row_maxima(*arrays: Array, window: Window, prologue: Prologue, places: int) -> None:
    """best[n, h, q, c] = the largest of the values of row h that the q-th windows read; NaN where one is.

    places: 1 if after `best` comes an array for the place h W + v of the first one of them, int32, else 0.
    """
    best, found, xs = arrays[0], arrays[1 : 1 + places], arrays[1 + places :]
    (H, W), N, (Q, C) = xs[0].shape[1:3], best.extents[0], best.shape[2:]
    for n, h in parallel(N, H):
        for q in loop(Q):
            for c, width in vectors(C, lanes() * (1 if prologue.steps or places else VECTORS)):
                largest, place = var(LOWEST, width), var(int_lanes(NO_PLACE, width), width)
                # backwards, so that the first of equal maxima comes last and replaces the others
                for v in positions(window, 1, q, Q, W, backwards=True):
                    value = prologue.load(xs, (n, h, v, c), width)
                    keep_larger(largest, value, place, int_lanes(h * W + v, width))
                best.store((n, h, q, c), largest, width)
                for y in found:
                    y.store((n, h, q, c), place.get(), width)


def column_maxima(*arrays: Array, window: Window, epilogue: Epilogue, places: int) -> None:
    """y[n, p, q, c] = the largest value of a window, from those of its rows; NaN where one is.

    places: 1 if the place of each is stored as well, from the places that `row_maxima` has found, else 0.
    """
    bound = bind(epilogue, arrays, 1 + 2 * places)
    found, best, of_rows = bound.operands[:places], bound.operands[places], bound.operands[1 + places :]
    H, N, (P, Q, C) = best.shape[1], bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    for n, p in loop_rows(bound, N, P, C):
        for q in loop(Q):
            for c, width in vectors(C, lanes() * (1 if bound.epilogue.has_sums or places else VECTORS)):
                largest, place = var(LOWEST, width), var(int_lanes(NO_PLACE, width), width)
                for h in positions(window, 0, p, P, H, backwards=True):
                    first = of_rows[0].load((n, h, q, c), width) if places else place.get()
                    keep_larger(largest, best.load((n, h, q, c), width), place, first)
                for y in found:
                    y.store((n, p, q, c), place.get(), width)
                bound.store(n, [(n, p, q)], [largest.get()], c, width)


def keep_larger(largest: Var, value: Scalar, place: Var, there: Value) -> None:
    """Let `largest` be the value where that is at least as large, and `place` where it is; NaN stays, and has no place.

    Where nobody reads the place, LLVM leaves it out.
    """
    place.set(where(value >= largest.get(), there, place.get()))
    largest.set(maximum(largest.get(), value))


def loop_mean_windows(*arrays: Array, window: MeanWindow, prologue: Prologue, epilogue: Epilogue) -> None:
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


def goes_by_rows(window: Window, channels: int, epilogue: Epilogue) -> bool:
    """True if `whole_rows` is meant for the window: it has many taps, which lie in the image, and so many channels that
    its pixels are far apart. Those of fewer channels are one stream or few.
    """
    lies_inside = not any(window.padding) and window.dilation == (1, 1)
    return has_many_taps(window) and lies_inside and channels >= LINE * VECTORS and not epilogue.has_sums


def whole_rows(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue) -> None:
    """The means (of a MeanWindow) or the maxima of windows in the image, for a part of the channels at a time.

    All its channels of one row of a window come before the next row, so that memory is read in as many streams as a row
    has pixels. A vector of channels through a whole window reads a line or two of each pixel, which the prefetcher does
    not follow: of 2048 channels, in pages of their own.
    """
    bound = bind(epilogue, arrays, 1 + prologue.array_count)
    # per thread [1, channels of a part], and images [N, H, W, C]
    own, xs = bound.operands[0].at(thread(), 0), bound.operands[1:]
    (H, W), N, (P, Q, C) = xs[0].shape[1:3], bound.outputs[0].extents[0], bound.outputs[0].shape[1:]

    def pool_part(n: Index, p: Index, first: Index, channels: int) -> None:
        """Compute a row of windows, for the channels from `first` on."""
        size = lanes() * (1 if prologue.steps else VECTORS)
        for q in loop(Q):
            row, column = (i * step for i, step in zip((p, q), window.stride, strict=True))
            for c, width in vectors(channels, size):
                own.store((0, c), 0.0 if isinstance(window, MeanWindow) else LOWEST, width)
            for r in loop(window.size[0]):
                for s, count in runs(window.size[1], STREAMS):
                    for c, width in vectors(channels, size):
                        pixels = [(n, row + r, column + (s + i), first + c) for i in range(count)]
                        values = [own.load((0, c), width), *(prologue.load(xs, pixel, width) for pixel in pixels)]
                        own.store((0, c), combined(values, add if isinstance(window, MeanWindow) else maximum), width)
            for c, width in vectors(channels, size):
                result: Scalar = own.load((0, c), width)
                if isinstance(window, MeanWindow):
                    result = result * window.share(p, q, (P, Q), (H, W))
                bound.store(n, [(n, p, q)], [result], first + c, width)

    full, rest = divmod(C, CHANNEL_PART)
    for n, p, part in parallel(N, P, full):
        pool_part(n, p, part * CHANNEL_PART, CHANNEL_PART)
    for n, p in parallel(N, P) if rest else ():
        pool_part(n, p, full * CHANNEL_PART, rest)


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


def scatter(*arrays: Array, epilogue: Epilogue) -> None:
    """dx[n, h, v, c] = the sum of dy over the windows whose place h W + v it is, int32 [N, P, Q, C].

    Gathering dy would visit a pixel's windows, as many as the window has taps, and use few lanes of a vector of few
    channels; here a window adds its dy to one pixel, lane by lane. A task has a whole image. The sums are in dx itself
    unless an epilogue follows: then in `totals`, a scratch of dx's shape.
    """
    bound = bind(epilogue, arrays, 2 + (epilogue != Epilogue()))
    *totals, dy, places = bound.operands
    dx, N, (H, W, C), (P, Q) = bound.outputs[0], bound.outputs[0].extents[0], bound.outputs[0].shape[1:], dy.shape[1:3]
    sums = totals[0] if totals else dx
    for (n,) in parallel(N):
        bound.zero_all_sums(n, C)
        image = sums.row(n)
        for i, width in vectors(H * W * C):
            image.store((i,), 0.0, width)
        for p, q in loops(P, Q):
            for c, width in vectors(C):
                for channel in (c + lane for lane in range(width)):
                    place = cast(places[n, p, q, channel], I64)
                    for _ in when(place < H * W):
                        i = place * C + channel
                        image[i] = image[i] + dy[n, p, q, channel]
        for h, v in loops(H, W) if totals else ():
            for c, width in vectors(C):
                bound.store(n, [(n, h, v)], [sums.load((n, h, v, c), width)], c, width)
