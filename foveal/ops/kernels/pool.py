"""Pooling kernels on channels-last images: each result is written once, and no tap of a window is a branch.

Lanes run over channels, and all taps of a window are unrolled, so that a window's result is computed in registers;
windows of many taps have kernels of their own, with loops over taps (pool_loops.py).
Positions outside of the image are moved to the nearest inside, and what is loaded there is masked where that matters.
Loops are cut into pieces that know if all their windows lie inside: only the first and last windows of an axis pay for
it. Forward kernels compute their input while they read it (expression.FusedInput); all end in an epilogue.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import Array, Index, Scalar, Value, lanes, loop, parallel, var, vectors, when, where
from foveal.ops.kernels import expression, pool_loops
from foveal.ops.kernels.epilogue import Epilogue, EpilogueOutputs
from foveal.ops.kernels.expression import FusedInput, Prologue
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.pool_loops import LOWEST, NO_PLACE, bind, int_lanes, loop_rows, value_where
from foveal.ops.kernels.register_tile import ceil_div
from foveal.ops.kernels.sizes import CallSizes, spec_of
from foveal.ops.kernels.taps import Axes, Taps, gradient_taps
from foveal.ops.op import Lowering
from foveal.ops.pool import hits_inside
from foveal.ops.pool_window import MeanWindow
from foveal.ops.window import Pair, Window, both
from foveal.strides import Shape, contiguous
from foveal.view import Buffer, View

# What a pixel looks for in a window outside of the output: no place, and not NO_PLACE either.
NO_PIXEL = NO_PLACE - 1


@dataclass(frozen=True)
class GridPoint:
    """A row and a column, each of which may lie outside of a grid of rows x columns."""

    row: Index
    column: Index
    #: True if the row, or the column, is known at build time to lie inside
    row_inside: bool
    column_inside: bool
    #: rows and columns of the grid
    size: Pair

    def nearest(self) -> tuple[Index, Index]:
        """The nearest point of the grid."""
        return (
            nearest_inside(self.row, self.row_inside, self.size[0]),
            nearest_inside(self.column, self.column_inside, self.size[1]),
        )

    def valid(self) -> Scalar:
        """If the point lies in the grid: True if that is known at build time, else a traced truth value."""
        row = lies_inside(self.row, self.row_inside, self.size[0])
        return both(row, lies_inside(self.column, self.column_inside, self.size[1]))


def nearest_inside(i: Index, inside: bool, n: int) -> Index:
    """The nearest to i of the positions 0 ... n - 1; i itself if it is known to be inside.

    For a tap outside of the image, the nearest position is one that another tap of the same window reads, if there is
    no dilation, as each window meets the image.
    """
    if inside:
        return i
    i = where(i < 0, 0, i)
    return where(i < n, i, n - 1)


def lies_inside(i: Index, inside: bool, n: int) -> Scalar:
    """If i is one of the positions 0 ... n - 1: True if that is known at build time, else a traced truth value."""
    return True if inside else (i >= 0) & (i < n)


def full_lanes(number: float, width: int) -> Value:
    """The number in each of `width` lanes, as a traced value; `splat` would give a Python number back as it is."""
    return var(number, width).get()


def loop_in_pieces(count: int, first: int, end: int) -> Iterator[tuple[Index, bool]]:
    """Loop over `count` positions: (position, True if it is known to lie in first ... end).

    There are up to three loops: before that range, in it, and after it.
    """
    first = min(first, count)
    end = max(min(end, count), first)
    for start, stop, known in ((0, first, False), (first, end, True), (end, count, False)):
        for i in loop(stop, start=start):
            yield i, known


def loop_windows(window: Window, axis: int, count: int, n: int) -> Iterator[tuple[Index, bool]]:
    """Loop over `count` windows along an axis of n positions: (window, True if all its taps are known to be inside)."""
    u, before = window.stride[axis], window.padding[2 * axis]
    return loop_in_pieces(count, ceil_div(before, u), (n - window.reach[axis] + before) // u + 1)


def pixel_of_tap(
    window: Window, tap: Pair, output: tuple[Index, Index], rows: int, columns_inside: bool, image: Pair
) -> GridPoint:
    """The pixel that the tap (r, s) of the window of output (p, q) reads from an image (H, W).

    rows: P, the number of rows of windows. columns_inside: True if all columns of the window are known to lie inside.
    The loop over rows is not cut into pieces, so a tap's row is known to be inside only if it is in all P windows.
    """
    row_inside = window.position(0, 0, tap[0]) >= 0 and window.position(0, rows - 1, tap[0]) < image[0]
    row, column = window.position(0, output[0], tap[0]), window.position(1, output[1], tap[1])
    return GridPoint(row, column, row_inside, columns_inside, image)


class ImagesByCall:
    """Specialises kernels to arrays [N, ...] of a number of images that the call gives."""

    def __init__(self, images: int) -> None:
        self.sizes = CallSizes()
        self.images = self.sizes.of(images)

    def spec(self, view: View) -> ArraySpec:
        """What a kernel is specialised to for this view."""
        return spec_of(view, (self.images, *view.shape[1:]), view.strides)

    def call(
        self,
        lowering: Lowering,
        body: Callable[..., None],
        y: EpilogueOutputs,
        inputs: list[View],
        scratch: Sequence[View] = (),
        **static: Any,
    ) -> None:
        """Call a kernel that ends in an epilogue, whose sums it keeps per image."""
        sizes = self.sizes.values
        y.call(lowering, body, y.shape[0], list(scratch), inputs, spec=self.spec, sizes=sizes, **static)


def lower_max(lowering: Lowering, y: EpilogueOutputs, x: FusedInput, window: Window) -> None:
    """The maxima of x's windows and, if the outputs have `places`, their places h W + v."""
    arrays, places, images = [nhwc(a) for a in x.arrays], [nhwc(a) for a in y.places], ImagesByCall(y.shape[0])
    count = len(places)
    # [N, H, Q, C]: the maxima of parts of rows, and their places
    (N, C, P, Q), H = y.shape, arrays[0].shape[1]
    in_parts = pool_loops.has_many_taps(window) and pool_loops.shares_rows(window, P, H)
    if not in_parts and not count and pool_loops.goes_by_rows(window, C, y.epilogue):
        call_by_rows(images, lowering, y, x, window)
        return
    if not in_parts:
        body = pool_loops.loop_max_windows if pool_loops.exceeds_l1(window, C) else max_windows
        images.call(lowering, body, y, arrays, scratch=places, prologue=x.prologue, window=window, places=count)
        return
    of_rows = [lowering.scratch((N, H, Q, C)), *(int_scratch((N, H, Q, C)) for _ in places)]
    specs = [images.spec(view) for view in (*of_rows, *arrays)]
    sizes = images.sizes.values
    lowering.call(
        pool_loops.row_maxima,
        of_rows,
        arrays,
        specs=specs,
        sizes=sizes,
        prologue=x.prologue,
        window=window,
        places=count,
    )
    images.call(lowering, pool_loops.column_maxima, y, of_rows, scratch=places, window=window, places=count)


def call_by_rows(images: ImagesByCall, lowering: Lowering, y: EpilogueOutputs, x: FusedInput, window: Window) -> None:
    """Call `pool_loops.whole_rows` on the arrays that x is computed from."""
    arrays = [nhwc(a) for a in x.arrays]
    # what a thread has of the channels of a part
    own = lowering.scratch((1, min(y.shape[1], pool_loops.CHANNEL_PART)), per_thread=True)
    body = pool_loops.whole_rows
    images.call(lowering, body, y, arrays, scratch=[own], window=window, prologue=x.prologue)


def int_scratch(shape: Shape) -> View:
    """`Lowering.scratch` for int32."""
    return View(Buffer(math.prod(shape), "int32"), shape, contiguous(shape))


def lower_mean(lowering: Lowering, y: EpilogueOutputs, x: FusedInput, window: MeanWindow) -> None:
    """Call the kernel of means for this window on the arrays that x is computed from."""
    arrays, images = [nhwc(a) for a in x.arrays], ImagesByCall(y.shape[0])
    if pool_loops.goes_by_rows(window, y.shape[1], y.epilogue):
        call_by_rows(images, lowering, y, x, window)
        return
    body = pool_loops.loop_mean_windows if pool_loops.has_many_taps(window) else mean_windows
    images.call(lowering, body, y, arrays, window=window, prologue=x.prologue)


def max_windows(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue, places: int) -> None:
    """y[n, p, q, c] = the largest value of a window; NaN where one is.

    There is one comparison per tap for the maximum. NaN is detected apart from it, by `value != value` (LLVM merges the
    tests of two taps into one unordered comparison), and stored in place of the maximum at the end.

    places: 1 if the place h W + v of each window's first maximum is stored as well, int32 [N, P, Q, C], else 0. NaN is
    ignored in the search for it; NO_PLACE where there is nothing else.
    """
    bound = bind(epilogue, arrays, places + prologue.array_count)
    found, xs = bound.operands[:places], bound.operands[places:]
    _, H, W, _ = xs[0].shape
    N, (P, Q, C) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:]

    def read(pixel: GridPoint, n: Index, c: Index, width: int) -> Scalar:
        """A tap's pixel, or the nearest one, which without dilation belongs to the window and changes nothing."""
        value = prologue.load(xs, (n, *pixel.nearest(), c), width)
        return value if window.dilation == (1, 1) else value_where(pixel.valid(), value, LOWEST)

    def largest(pixels: list[GridPoint], n: Index, c: Index, width: int) -> Value:
        """The maximum of a window, in registers: one vector of channels per tap."""
        best: Scalar | None = None
        is_nan: Scalar | None = None
        for pixel in pixels:
            value = read(pixel, n, c, width)
            best = value if best is None else where(value > best, value, best)
            is_nan = value != value if is_nan is None else is_nan | (value != value)  # type: ignore[operator]
        assert best is not None
        assert is_nan is not None
        return where(is_nan, float("nan"), best)

    def largest_and_place(pixels: list[GridPoint], n: Index, c: Index, width: int) -> tuple[Value, Value]:
        """The maximum, and its place: the state is a vector of each, beside the lanes that have met NaN."""
        best, place = full_lanes(LOWEST, width), int_lanes(NO_PLACE, width)
        is_nan: Scalar = False
        # backwards, so that the first of equal maxima comes last and replaces the others
        for pixel in reversed(pixels):
            value, (h, v) = read(pixel, n, c, width), pixel.nearest()
            larger: Scalar = value >= best
            if window.dilation != (1, 1):
                # the nearest pixel of a tap outside of the image may be none of the window's, even where all are -inf
                larger = hits_inside(larger, pixel.valid(), width)
            best, place = where(larger, value, best), where(larger, int_lanes(h * W + v, width), place)
            is_nan = value != value if is_nan is False else is_nan | (value != value)  # type: ignore[operator]
        return where(is_nan, float("nan"), best), place

    # threads share images and rows; then come the windows of a row, and vectors of channels
    for n, p in loop_rows(bound, N, P, C):
        for q, inside in loop_windows(window, 1, Q, W):
            pixels = [pixel_of_tap(window, tap, (p, q), P, inside, (H, W)) for tap in window.taps()]
            for c, width in vectors(C, lanes()):
                if found:
                    value, place = largest_and_place(pixels, n, c, width)
                    found[0].store((n, p, q, c), place, width)
                else:
                    value = largest(pixels, n, c, width)
                bound.store(n, [(n, p, q)], [value], c, width)


def mean_windows(*arrays: Array, window: MeanWindow, prologue: Prologue, epilogue: Epilogue) -> None:
    """y[n, p, q, c] = the sum of a window, in which padding is 0, times MeanWindow.share, which divides it."""
    bound = bind(epilogue, arrays, prologue.array_count)
    _, H, W, _ = bound.operands[0].shape
    N, (P, Q, C) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:]

    def mean(n: Index, p: Index, q: Index, inside: bool, c: Index, width: int) -> Scalar:
        """The mean of window (p, q), in registers."""
        total: Scalar = 0.0
        for tap in window.taps():
            pixel = pixel_of_tap(window, tap, (p, q), P, inside, (H, W))
            index, valid = (n, *pixel.nearest(), c), pixel.valid()
            total = value_where(valid, prologue.load(bound.operands, index, width), 0.0) + total
        return total * window.share(p, q, (P, Q), (H, W))

    # threads share images and rows; then come the windows of a row, and vectors of channels
    for n, p in loop_rows(bound, N, P, C):
        for q, inside in loop_windows(window, 1, Q, W):
            for c, width in vectors(C, lanes()):
                bound.store(n, [(n, p, q)], [mean(n, p, q, inside, c, width)], c, width)


def disjoint(window: Window) -> bool:
    """True if windows lie side by side in the image, so that each pixel is in one at most."""
    return window.stride == window.size and not any(window.padding) and window.dilation == (1, 1)


def finds_again(window: Window) -> bool:
    """True if the gradient of max pooling is `max_grad_disjoint`, which finds the maxima again from x."""
    return disjoint(window) and math.prod(window.size) <= pool_loops.PARTIAL_LINES


def lower_max_grad(lowering: Lowering, dx: EpilogueOutputs, dy: View, x: FusedInput, window: Window) -> None:
    """The gradient of max pooling whose windows lie side by side.

    Maxima are recomputed, not found by comparing with y: a fused input x, which is computed while it is read, may
    differ in the last bit from that of the kernel that gave y. NaN in a window: see `max_grad_disjoint`.
    """
    arrays = [*(nhwc(a) for a in x.arrays), nhwc(dy)]
    ImagesByCall(dx.shape[0]).call(lowering, max_grad_disjoint, dx, arrays, window=window, prologue=x.prologue)


def lower_gather(lowering: Lowering, dx: EpilogueOutputs, inputs: list[View], window: Window) -> None:
    """The gradient of a pooling whose windows may overlap.

    inputs: dy [N, P, Q, C] and, for maxima, the place h W + v that dy of each window goes to.
    """
    images, has_many = ImagesByCall(dx.shape[0]), pool_loops.has_many_pixels(window)
    if isinstance(window, MeanWindow) and has_many:
        images.call(lowering, pool_loops.gather_means, dx, inputs, window=window)
        return
    # with few channels, gathering would leave most lanes of a vector empty
    if not isinstance(window, MeanWindow) and (
        has_many or math.prod(window.size) > pool_loops.FEW or 2 * dx.shape[1] < lanes()
    ):
        totals = [] if dx.epilogue == Epilogue() else [lowering.scratch(nhwc(dx.outputs[0]).shape)]
        images.call(lowering, pool_loops.scatter, dx, inputs, scratch=totals)
        return
    rows, columns = (
        tuple(gradient_taps(n, window.size[a], window.stride[a], window.padding[2 * a], window.dilation[a]))
        for a, n in enumerate(dx.shape[2:])
    )
    images.call(lowering, gather_windows, dx, inputs, axes=(rows, columns), window=window)


def max_grad_disjoint(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue) -> None:
    """dx = dy at the first of the largest elements of each window, else 0; windows lie side by side.

    In a window with NaN, whose y is NaN, dy goes to the first of the largest numbers, as `max_windows` has it, but to
    nobody if the window's first element is NaN.
    """
    bound = bind(epilogue, arrays, prologue.array_count + 1)
    *xs, dy = bound.operands
    N, (H, W, C) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    _, P, Q, _ = dy.shape
    R, S = window.size

    def window_grad(n: Index, p: Index, q: Index, c: Index, width: int) -> None:
        """All pixels of window (p, q): x and dx are R x S vectors of channels in registers."""
        pixels = [(n, p * R + r, q * S + s) for r, s in window.taps()]
        values = [prologue.load(xs, (*pixel, c), width) for pixel in pixels]
        largest = values[0]
        for value in values[1:]:
            largest = where(value > largest, value, largest)
        # the part of dy that no pixel has got yet: the first maximum gets all of it
        rest, grads = expression.load(dy, (n, p, q, c), width), []
        for value in values:
            grads.append(where(value == largest, rest, 0.0))
            rest = where(value == largest, 0.0, rest)
        bound.store(n, pixels, grads, c, width)

    def zero_pixel(n: Index, h: Index, v: Index) -> None:
        """A pixel that no window covers."""
        for c, width in vectors(C, lanes()):
            bound.store(n, [(n, h, v)], [full_lanes(0.0, width)], c, width)

    def row_of_windows(n: Index, p: Index) -> None:
        """The R rows of pixels that the p-th row of windows covers, with the columns to the right of the windows."""
        for q in loop(Q):
            for c, width in vectors(C, lanes()):
                window_grad(n, p, q, c, width)
        for r in range(R):
            for v in loop(W - Q * S):
                zero_pixel(n, p * R + r, v + Q * S)

    # rows of pixels below the last windows count as one more row of windows
    uncovered = P * R < H
    for n, p in loop_rows(bound, N, P + uncovered, C):
        if not uncovered:
            row_of_windows(n, p)
            continue
        for _ in when(p < P):
            row_of_windows(n, p)
        for _ in when(p == P):
            for h in loop(H, start=P * R):
                for v in loop(W):
                    zero_pixel(n, h, v)


def gather_windows(*arrays: Array, axes: Axes, window: Window, epilogue: Epilogue) -> None:
    """dx[n, h, v, c] = a sum of dy over the windows that contain (h, v).

    For max only the windows count whose maximum is there; one more input has the place h W + v of each of them. For
    mean (a MeanWindow) all windows do, each with its share of dy.

    With stride u the pixels of an axis fall into u phases, which differ in the taps that meet them
    (taps.gradient_taps). Each iteration of the innermost loop computes one pixel of each phase of the columns, in
    registers. These pixels are neighbours, so the elements of dy that several of them read come from the first-level
    cache.
    """
    mean = window if isinstance(window, MeanWindow) else None
    bound = bind(epilogue, arrays, 1 if mean else 2)
    dy, places = bound.operands[0], bound.operands[1:]
    N, (H, W, C) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    _, P, Q, _ = dy.shape

    def window_of(taps: Taps, i: Index, t: int) -> Index:
        """The window that has the i-th pixel of a phase under its t-th tap, along one axis."""
        return i * taps.input_step + (taps.origin + taps.tap_step * t)

    def total(n: Index, rows: Taps, i: Index, columns: Taps, j: Index, inside: bool, c: Index, width: int) -> Scalar:
        """dx of pixel (i, j) of two phases: a sum over all taps of both."""
        result: Scalar = full_lanes(0.0, width)
        pixel = rows.output_position(i) * W + columns.output_position(j)
        for row_tap, column_tap in ((t, s) for t in range(rows.taps) for s in range(columns.taps)):
            p, q = window_of(rows, i, row_tap), window_of(columns, j, column_tap)
            output = GridPoint(p, q, rows.low >= 0 and rows.high < P, inside, (P, Q))
            valid, (p, q) = output.valid(), output.nearest()
            value: Scalar = expression.load(dy, (n, p, q, c), width)
            if mean:
                value = value_where(valid, value, 0.0) * mean.share(p, q, (P, Q), (H, W))
            else:
                wanted: Index = pixel if valid is True else where(valid, pixel, NO_PIXEL)
                value = where(places[0].load((n, p, q, c), width) == int_lanes(wanted, width), value, 0.0)
            result = value + result
        return result

    def row_of_pixels(n: Index, rows: Taps, i: Index) -> None:
        """The i-th row of a phase of the rows."""
        h = i * rows.step + rows.start
        # a pixel of each phase of the columns, then vectors of channels
        for phases, j, inside in loop_phases(axes[1], Q):
            for c, width in vectors(C, lanes()):
                pixels = [(n, h, j * columns.step + columns.start) for columns in phases]
                totals = [total(n, rows, i, columns, j, inside, c, width) for columns in phases]
                bound.store(n, pixels, totals, c, width)

    if not epilogue.has_sums:
        # threads share images and rows, one phase of the rows after the other
        for rows in axes[0]:
            for n, i in parallel(N, rows.count):
                row_of_pixels(n, rows, i)
        return
    # partial sums are kept per image, so an image stays with its thread, which walks over all phases
    for (n,) in parallel(N):
        bound.zero_all_sums(n, C)
        for row_phases, i, _ in loop_phases(axes[0], P):
            for rows in row_phases:
                row_of_pixels(n, rows, i)


def loop_phases(axis: tuple[Taps, ...], n: int) -> Iterator[tuple[list[Taps], Index, bool]]:
    """Loop over the positions of all phases of an axis at once: (phases, i, inside).

    n: the rows or columns of dy. i: a position that each of the phases has. inside: True if all positions of dy that
    they read there are known to be among the n. First come the positions that all phases have, then the last one of
    the phases that have one more.
    """
    common = min(taps.count for taps in axis)
    reading = [taps for taps in axis if taps.taps]
    # what the phases read at position 0; it moves by 1 from position to position
    lows = [taps.origin + min(0, taps.tap_step * (taps.taps - 1)) for taps in reading]
    highs = [taps.origin + max(0, taps.tap_step * (taps.taps - 1)) for taps in reading]
    first, end = max(0, -min(lows, default=0)), n - max(highs, default=0)
    for i, inside in loop_in_pieces(common, first, end):
        yield list(axis), i, inside
    longer = [taps for taps in axis if taps.count > common]
    if longer:
        yield longer, common, False
