"""Pooling kernels on channels-last images: each result is written once, and no tap of a window is a branch.

Lanes run over channels, and all taps of a window are unrolled, so that a window's result is computed in registers;
windows of many taps have kernels of their own, with loops over taps (pool_loops.py).
Positions outside of the image are moved to the nearest inside, and what is loaded there is masked where that matters.
Loops are cut into pieces that know if all their windows lie inside: only the first and last windows of an axis pay for
it. Forward kernels compute their input while they read it (expression.FusedInput); all end in an epilogue.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import Array, Index, Scalar, Value, lanes, loop, parallel, var, vectors, when, where
from foveal.ops.kernels import expression, pool_loops
from foveal.ops.kernels.epilogue import Epilogue, EpilogueOutputs
from foveal.ops.kernels.expression import FusedInput, Prologue
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.pool_loops import LOWEST, bind, loop_rows, value_where
from foveal.ops.kernels.register_tile import ceil_div
from foveal.ops.kernels.sizes import CallSizes, spec_of
from foveal.ops.kernels.taps import Axes, Taps, gradient_taps
from foveal.ops.op import Lowering
from foveal.ops.pool_window import MeanWindow
from foveal.ops.window import Pair, Window, both
from foveal.view import View

# Numbers that no tap of a window has: one for a window without a maximum (all its values are NaN), and one for a window
# that lies outside of the output. They differ, so that a comparison never takes one for the other.
NO_MAXIMUM = -1.0
NO_TAP = -2.0


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


def lower_forward(
    lowering: Lowering, body: Callable[..., None], y: EpilogueOutputs, x: FusedInput, window: Window
) -> None:
    """Call max_windows or mean_windows on the arrays that x is computed from."""
    arrays = [nhwc(a) for a in x.arrays]
    if pool_loops.has_many_taps(window):
        body = pool_loops.max_windows if body is max_windows else pool_loops.mean_windows
    ImagesByCall(y.shape[0]).call(lowering, body, y, arrays, window=window, prologue=x.prologue)


def max_windows(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue) -> None:
    """y[n, p, q, c] = the largest value of a window; NaN where one is.

    There is one comparison per tap for the maximum. NaN is detected apart from it, by `value != value` (LLVM merges the
    tests of two taps into one unordered comparison), and stored in place of the maximum at the end.
    """
    bound = bind(epilogue, arrays, prologue.array_count)
    _, H, W, _ = bound.operands[0].shape
    N, (P, Q, C) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:]

    def largest(n: Index, p: Index, q: Index, inside: bool, c: Index, width: int) -> Value:
        """The maximum of window (p, q), in registers: one vector of channels per tap."""
        best: Scalar | None = None
        is_nan: Scalar | None = None
        for tap in window.taps():
            pixel = pixel_of_tap(window, tap, (p, q), P, inside, (H, W))
            value = prologue.load(bound.operands, (n, *pixel.nearest(), c), width)
            # without dilation the nearest pixel belongs to the window as well, and does not change its maximum
            if window.dilation != (1, 1):
                value = value_where(pixel.valid(), value, LOWEST)
            best = value if best is None else where(value > best, value, best)
            is_nan = value != value if is_nan is None else is_nan | (value != value)  # type: ignore[operator]
        assert best is not None
        assert is_nan is not None
        return where(is_nan, float("nan"), best)

    # threads share images and rows; then come the windows of a row, and vectors of channels
    for n, p in loop_rows(bound, N, P, C):
        for q, inside in loop_windows(window, 1, Q, W):
            for c, width in vectors(C, lanes()):
                bound.store(n, [(n, p, q)], [largest(n, p, q, inside, c, width)], c, width)


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


def lower_max_grad(lowering: Lowering, dx: EpilogueOutputs, dy: View, x: FusedInput, window: Window) -> None:
    """The gradient of max pooling.

    Maxima are recomputed, not found by comparing with y: a fused input x, which is computed while it is read, may
    differ in the last bit from that of the kernel that gave y. NaN in a window: see `max_grad_disjoint`, `find_maxima`.
    """
    arrays, dy, images = [nhwc(a) for a in x.arrays], nhwc(dy), ImagesByCall(dx.shape[0])
    if pool_loops.has_many_taps(window):
        N, C, H, W = dx.shape
        sums, static = [lowering.scratch((N, H * W, C))], {"window": window, "prologue": x.prologue}
        images.call(lowering, pool_loops.scatter_maxima, dx, [*arrays, dy], scratch=sums, **static)
        return
    if disjoint(window):
        images.call(lowering, max_grad_disjoint, dx, [*arrays, dy], window=window, prologue=x.prologue)
        return
    # [N, P, Q, C]: the tap of each window that has its maximum
    chosen = lowering.scratch(dy.shape)
    specs, sizes = [images.spec(view) for view in (chosen, *arrays)], images.sizes.values
    lowering.call(find_maxima, [chosen], arrays, specs=specs, sizes=sizes, window=window, prologue=x.prologue)
    lower_gather(lowering, dx, [dy, chosen], window)


def lower_gather(lowering: Lowering, dx: EpilogueOutputs, inputs: list[View], window: Window) -> None:
    """The gradient of a pooling whose windows may overlap.

    inputs: dy [N, P, Q, C] and, for maxima, the tap of each window that dy goes to.
    """
    if pool_loops.has_many_taps(window):
        ImagesByCall(dx.shape[0]).call(lowering, pool_loops.gather_means, dx, inputs, window=window)
        return
    rows, columns = (
        tuple(gradient_taps(n, window.size[a], window.stride[a], window.padding[2 * a], window.dilation[a]))
        for a, n in enumerate(dx.shape[2:])
    )
    ImagesByCall(dx.shape[0]).call(lowering, gather_windows, dx, inputs, axes=(rows, columns), window=window)


def max_grad_disjoint(*arrays: Array, window: Window, prologue: Prologue, epilogue: Epilogue) -> None:
    """dx = dy at the first of the largest elements of each window, else 0; windows lie side by side.

    In a window with NaN, whose y is NaN, dy goes to the first of the largest numbers, as in `find_maxima`, but to
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


def find_maxima(chosen: Array, *xs: Array, window: Window, prologue: Prologue) -> None:
    """chosen[n, p, q, c] = r S + s of the tap that has the first maximum of its window.

    NaN is ignored, unlike in `max_windows`; chosen is NO_MAXIMUM if all elements of a window are NaN.
    """
    _, H, W, _ = xs[0].shape
    N, (P, Q, C) = chosen.extents[0], chosen.shape[1:]
    S = window.size[1]

    def first_maximum(n: Index, p: Index, q: Index, inside: bool, c: Index, width: int) -> Value:
        """The tap's number, as float32: it and the largest value so far are the only state, in registers."""
        largest, number = full_lanes(LOWEST, width), full_lanes(NO_MAXIMUM, width)
        # backwards, so that the first of equal maxima comes last and replaces the others
        for r, s in reversed(list(window.taps())):
            pixel = pixel_of_tap(window, (r, s), (p, q), P, inside, (H, W))
            index, valid = (n, *pixel.nearest(), c), pixel.valid()
            # a tap outside becomes NaN, for which no comparison holds
            value = prologue.load(xs, index, width) + value_where(valid, 0.0, float("nan"))
            larger = value >= largest
            largest, number = where(larger, value, largest), where(larger, float(r * S + s), number)
        return number

    # threads share images and rows; then come the windows of a row, and vectors of channels
    for n, p in parallel(N, P):
        for q, inside in loop_windows(window, 1, Q, W):
            for c, width in vectors(C, lanes()):
                chosen.store((n, p, q, c), first_maximum(n, p, q, inside, c, width), width)


def gather_windows(*arrays: Array, axes: Axes, window: Window, epilogue: Epilogue) -> None:
    """dx[n, h, v, c] = a sum of dy over the windows that contain (h, v).

    For max only the windows count whose maximum is there; one more input, `chosen`, has the tap that each window chose.
    For mean (a MeanWindow) all of them do, each with its share of dy.

    With stride u the pixels of an axis fall into u phases, which differ in the taps that meet them
    (taps.gradient_taps). Each iteration of the innermost loop computes one pixel of each phase of the columns, in
    registers. These pixels are neighbours, so the elements of dy that several of them read come from the first-level
    cache.
    """
    mean = window if isinstance(window, MeanWindow) else None
    bound = bind(epilogue, arrays, 1 if mean else 2)
    dy, chosen = bound.operands[0], bound.operands[1:]
    N, (H, W, C) = bound.outputs[0].extents[0], bound.outputs[0].shape[1:]
    _, P, Q, _ = dy.shape

    def window_of(taps: Taps, i: Index, t: int) -> Index:
        """The window that has the i-th pixel of a phase under its t-th tap, along one axis."""
        return i * taps.input_step + (taps.origin + taps.tap_step * t)

    def total(n: Index, rows: Taps, i: Index, columns: Taps, j: Index, inside: bool, c: Index, width: int) -> Scalar:
        """dx of pixel (i, j) of two phases: a sum over all taps of both."""
        result: Scalar = full_lanes(0.0, width)
        for row_tap, column_tap in ((t, s) for t in range(rows.taps) for s in range(columns.taps)):
            p, q = window_of(rows, i, row_tap), window_of(columns, j, column_tap)
            output = GridPoint(p, q, rows.low >= 0 and rows.high < P, inside, (P, Q))
            valid, (p, q) = output.valid(), output.nearest()
            value: Scalar = expression.load(dy, (n, p, q, c), width)
            if mean:
                value = value_where(valid, value, 0.0) * mean.share(p, q, (P, Q), (H, W))
            else:
                # the number of this tap in window (p, q), or one that is never chosen
                r = rows.kernel + rows.kernel_step * row_tap
                s = columns.kernel + columns.kernel_step * column_tap
                tap = value_where(valid, float(r * window.size[1] + s), NO_TAP)
                value = where(expression.load(chosen[0], (n, p, q, c), width) == tap, value, 0.0)
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
