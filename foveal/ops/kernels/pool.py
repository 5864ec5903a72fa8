"""Pooling kernels on channels-last images: each result is written once, and no tap of a window is a branch.

Lanes run over channels. Forward kernels compute their input while they read it (expression.FusedInput); all end in an
epilogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, var, vectors, when, where
from foveal.ops.kernels import expression
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.taps import Taps, gradient_taps
from foveal.ops.op import Lowering

Pair = tuple[int, int]


Sides = tuple[int, int, int, int]


UNIT = (1, 1)  # dilation


LOWEST = float("-inf")


@dataclass(frozen=True)
class Window:
    """size (R, S), stride, padding and dilation of a pooling.

    For means: a window's sum is divided by `divisor_override` or, where that is None, by the number of its taps in the
    image and in that part of the padding which is `counted`.
    """

    size: Pair
    stride: Pair
    padding: Sides
    dilation: Pair = UNIT
    counted: Sides = (0, 0, 0, 0)
    divisor_override: int | None = None

    @property
    def tiles(self) -> bool:
        """Whether windows lie side by side, so that each element is in one at most."""
        return self.stride == self.size and not any(self.padding) and self.dilation == UNIT

    def taps(self) -> Iterator[Pair]:
        for r in range(self.size[0]):
            for s in range(self.size[1]):
                yield r, s

    def at(self, axis: int, p: Any, tap: int) -> Any:
        """The input position of a tap of the p-th window; it may lie in the padding."""
        return p * self.stride[axis] + tap * self.dilation[axis] - self.padding[2 * axis]

    def pieces(self, axis: int, count: int, n: int) -> Iterator[tuple[Any, bool]]:
        """Loops over `count` windows, with whether all taps lie inside of n positions: first, middle and last ones
        apart.
        """
        u, before = self.stride[axis], self.padding[2 * axis]
        reach = (self.size[axis] - 1) * self.dilation[axis] + 1
        return pieces(count, -(-before // u), (n - reach + before) // u + 1)

    def inside(self, axis: int, count: int, tap: int, n: int) -> bool:
        """Whether the tap of each of `count` windows is one of n positions."""
        return self.at(axis, 0, tap) >= 0 and self.at(axis, count - 1, tap) < n

    def share(self, p: Any, q: Any, counts: Pair, image: tuple[int, ...]) -> Any:
        """What the sum of window (p, q), of `counts` along the axes of an image, is multiplied by.

        A Python number where it is the same for all.
        """
        if self.divisor_override is not None:
            return 1.0 / self.divisor_override
        return 1.0 / (self.members(0, p, counts[0], image[0]) * self.members(1, q, counts[1], image[1]))

    def members(self, axis: int, p: Any, count: int, n: int) -> Any:
        """How many taps of the p-th of `count` windows count, along one axis of n positions."""
        low, high = -self.counted[2 * axis], n + self.counted[2 * axis + 1]

        def all_inside(tap: int) -> bool:
            return self.at(axis, 0, tap) >= low and self.at(axis, count - 1, tap) < high

        total: Any = 0.0
        for tap in range(self.size[axis]):
            at = self.at(axis, p, tap)
            inside = True if all_inside(tap) else (at >= low) & (at < high)
            total = unless(inside, 1.0, 0.0) + total
        return total


def pieces(count: int, first: int, end: int) -> Iterator[tuple[Any, bool]]:
    """Loops over `count` positions and whether they are in first ... end, in pieces that know it."""
    first, end = min(first, count), max(min(end, count), min(first, count))
    for start, stop, known in ((0, first, False), (first, end, True), (end, count, False)):
        for i in loop(stop, start=start) if stop > start else ():
            yield i, known


def clamped(at: Any, inside: bool, n: int) -> Any:
    """The nearest of n positions; a window without dilation holds it as well, as each meets the image."""
    if inside:
        return at
    at = where(at < 0, 0, at)
    return where(at < n, at, n - 1)


def valid(at: Any, inside: bool, n: int) -> Any:
    return True if inside else (at >= 0) & (at < n)


def both(a: Any, b: Any) -> Any:
    """a and b, either of which may be known while the kernel is built."""
    return b if a is True else a if b is True else a & b


def unless(known: Any, value: Any, other: float) -> Any:
    return value if known is True else where(known, value, other)


def filled(number: float, width: int) -> Any:
    return var(number, width).get()


def each_row(ending: BoundEpilogue, images: int, rows: int, channels: int) -> Iterator[tuple[Any, ...]]:
    """(image, row), shared among threads; sums are kept per image, and then an image stays with its thread."""
    if not ending.epilogue.rows:
        yield from parallel(images, rows)
        return
    for (n,) in parallel(images):
        ending.open_all(n, channels)
        for row in loop(rows):
            yield n, row


def lower_forward(to: Lowering, body: Any, y: EpilogueOutputs, x: expression.FusedInput, window: Window) -> None:
    arrays = [nhwc(a) for a in x.arrays]
    y.call(to, body, y.shape[0], [], arrays, window=window, prologue=x.prologue)


def max_windows(*arrays: Any, window: Window, prologue: expression.Prologue, epilogue: Epilogue) -> None:
    """y[n, p, q, c] = the largest of a window; NaN where one is.

    One comparison per tap: NaN is looked for beside, two taps at a time.
    """
    ending = BoundEpilogue(epilogue, arrays, prologue.array_count)
    _, H, W, _ = ending.own[0].shape
    N, P, Q, C = ending.outputs[0].shape

    def largest(n: Any, p: Any, q: Any, within: bool, c: Any, width: int) -> Any:
        best: Any = None
        odd: Any = None
        for r, s in window.taps():
            rows, h, v = window.inside(0, P, r, H), window.at(0, p, r), window.at(1, q, s)
            index = (n, clamped(h, rows, H), clamped(v, within, W), c)
            value = prologue.load(ending.own, index, width)
            if window.dilation != UNIT:
                value = unless(both(valid(h, rows, H), valid(v, within, W)), value, LOWEST)
            best = value if best is None else where(value > best, value, best)
            odd = value != value if odd is None else odd | (value != value)
        return where(odd, float("nan"), best)

    for n, p in each_row(ending, N, P, C):
        for q, within in window.pieces(1, Q, W):
            for c, width in vectors(C, lanes()):
                ending.store(n, [(n, p, q)], [largest(n, p, q, within, c, width)], c, width)


def mean_windows(*arrays: Any, window: Window, prologue: expression.Prologue, epilogue: Epilogue) -> None:
    """y[n, p, q, c] = the mean of a window; what it holds of the padding is zeros."""
    ending = BoundEpilogue(epilogue, arrays, prologue.array_count)
    _, H, W, _ = ending.own[0].shape
    N, P, Q, C = ending.outputs[0].shape

    def mean(n: Any, p: Any, q: Any, within: bool, c: Any, width: int) -> Any:
        total: Any = 0.0
        for r, s in window.taps():
            rows, h, v = window.inside(0, P, r, H), window.at(0, p, r), window.at(1, q, s)
            index = (n, clamped(h, rows, H), clamped(v, within, W), c)
            known = both(valid(h, rows, H), valid(v, within, W))
            total = unless(known, prologue.load(ending.own, index, width), 0.0) + total
        return total * window.share(p, q, (P, Q), (H, W))

    for n, p in each_row(ending, N, P, C):
        for q, within in window.pieces(1, Q, W):
            for c, width in vectors(C, lanes()):
                ending.store(n, [(n, p, q)], [mean(n, p, q, within, c, width)], c, width)


def lower_max_grad(to: Lowering, dx: EpilogueOutputs, dy: Any, x: expression.FusedInput, window: Window) -> None:
    """The largest are found anew: of an x that is computed while it is read, no other kernel need have had the same
    bits.
    """
    arrays, dy = [nhwc(a) for a in x.arrays], nhwc(dy)
    if window.tiles:
        dx.call(to, share_tiles, dx.shape[0], [], [*arrays, dy], window=window, prologue=x.prologue)
        return
    choice = to.scratch(dy.shape)
    to.call(choose, [choice], arrays, window=window, prologue=x.prologue)
    lower_gather(to, dx, [dy, choice], window)


def lower_gather(to: Lowering, dx: EpilogueOutputs, inputs: list[Any], window: Window) -> None:
    """`inputs`: dy, and which tap of each window it belongs to, or to all of them alike."""
    axes = tuple(
        tuple(gradient_taps(n, window.size[a], window.stride[a], window.padding[2 * a], window.dilation[a]))
        for a, n in enumerate(dx.shape[2:])
    )
    dx.call(to, gather, dx.shape[0], [], inputs, axes=axes, window=window, count=len(inputs))


def share_tiles(*arrays: Any, window: Window, prologue: expression.Prologue, epilogue: Epilogue) -> None:
    """dx = dy at the first of the largest elements of each window, else 0; windows lie side by side."""
    ending = BoundEpilogue(epilogue, arrays, prologue.array_count + 1)
    *xs, dy = ending.own
    N, H, W, C = ending.outputs[0].shape
    _, P, Q, _ = dy.shape
    R, S = window.size

    def tile(n: Any, p: Any, q: Any, c: Any, width: int) -> None:
        pixels = [(n, p * R + r, q * S + s) for r, s in window.taps()]
        values = [prologue.load(xs, (*pixel, c), width) for pixel in pixels]
        most = values[0]
        for value in values[1:]:
            most = where(value > most, value, most)
        rest, given = expression.load(dy, (n, p, q, c), width), []
        for value in values:
            given.append(where(value == most, rest, 0.0))
            rest = where(value == most, 0.0, rest)  # what is still to be given away
        ending.store(n, pixels, given, c, width)

    def nothing(n: Any, h: Any, v: Any) -> None:
        for c, width in vectors(C, lanes()):
            ending.store(n, [(n, h, v)], [filled(0.0, width)], c, width)

    def uncovered(n: Any, first: int) -> None:
        for h in loop(H, start=first):
            for v in loop(W):
                nothing(n, h, v)

    below = 1 if P * R < H else 0
    for n, p in each_row(ending, N, P + below, C):
        for _ in when(p < P) if below else (None,):
            for q in loop(Q):
                for c, width in vectors(C, lanes()):
                    tile(n, p, q, c, width)
            for r in range(R):
                for v in loop(W - Q * S):
                    nothing(n, p * R + r, v + Q * S)
        for _ in when(p == P) if below else ():
            uncovered(n, P * R)


def choose(choice: Any, *xs: Any, window: Window, prologue: expression.Prologue) -> None:
    """choice[n, p, q, c] = the number of the tap that is the first of the largest of its window."""
    _, H, W, _ = xs[0].shape
    N, P, Q, C = choice.shape

    def chosen(n: Any, p: Any, q: Any, within: bool, c: Any, width: int) -> Any:
        most, found = filled(LOWEST, width), filled(-1.0, width)
        for r, s in reversed(list(window.taps())):  # the first comes last
            rows, h, v = window.inside(0, P, r, H), window.at(0, p, r), window.at(1, q, s)
            index = (n, clamped(h, rows, H), clamped(v, within, W), c)
            known = both(valid(h, rows, H), valid(v, within, W))
            # NaN, as which a tap outside counts, is not larger than anything
            value = prologue.load(xs, index, width) + unless(known, 0.0, float("nan"))
            larger = value >= most
            most, found = (where(larger, value, most), where(larger, float(r * window.size[1] + s), found))
        return found

    for n, p in parallel(N, P):
        for q, within in window.pieces(1, Q, W):
            for c, width in vectors(C, lanes()):
                choice.store((n, p, q, c), chosen(n, p, q, within, c, width), width)


def gather(
    *arrays: Any, axes: tuple[tuple[Taps, ...], tuple[Taps, ...]], window: Window, count: int, epilogue: Epilogue
) -> None:
    """dx[n, h, v, c] = sum of dy over the windows that (h, v) lies in: of those that chose it, or of a share of all.

    Rows, and columns, fall into classes of stride (geometry.gradient_taps); a pixel of each class of columns is written
    at
    once, so that what they read alike is read once.
    """
    ending = BoundEpilogue(epilogue, arrays, count)
    dy, chosen = ending.own[0], ending.own[1:]
    N, H, W, C = ending.outputs[0].shape
    _, P, Q, _ = dy.shape

    def position(taps: Taps, i: Any, t: int) -> Any:
        return i * taps.input_step + (taps.origin + taps.tap_step * t)

    def total(n: Any, rows: Taps, i: Any, columns: Taps, j: Any, within: bool, c: Any, width: int) -> Any:
        found: Any = filled(0.0, width)
        for t, u in ((t, u) for t in range(rows.taps) for u in range(columns.taps)):
            p, q = position(rows, i, t), position(columns, j, u)
            always = rows.low >= 0 and rows.high < P
            known = both(valid(p, always, P), valid(q, within, Q))
            near, beside = clamped(p, always, P), clamped(q, within, Q)
            index = (n, near, beside, c)
            given = expression.load(dy, index, width)
            if chosen:
                r, s = rows.kernel + rows.kernel_step * t, columns.kernel + columns.kernel_step * u
                tap = unless(known, float(r * window.size[1] + s), -2.0)
                given = where(expression.load(chosen[0], index, width) == tap, given, 0.0)
            else:
                given = unless(known, given, 0.0) * window.share(near, beside, (P, Q), (H, W))
            found = given + found
        return found

    def line(n: Any, rows: Taps, i: Any) -> None:
        h = i * rows.step + rows.start
        for columns, j, within in classes(axes[1], Q):
            for c, width in vectors(C, lanes()):
                pixels = [(n, h, j * taps.step + taps.start) for taps in columns]
                totals = [total(n, rows, i, taps, j, within, c, width) for taps in columns]
                ending.store(n, pixels, totals, c, width)

    if not ending.epilogue.rows:
        for rows in axes[0]:
            for n, i in parallel(N, rows.count):
                line(n, rows, i)
        return
    for (n,) in parallel(N):
        ending.open_all(n, C)
        for classes_of_rows, i, _ in classes(axes[0], P):
            for rows in classes_of_rows:
                line(n, rows, i)


def classes(axis: tuple[Taps, ...], n: int) -> Iterator[tuple[list[Taps], Any, bool]]:
    """(classes, i, whether what they read is inside of n positions): all i that each class has, then the last one of
    those that have one more.
    """
    common = min(taps.count for taps in axis)
    reading = [taps for taps in axis if taps.taps]
    lows = [taps.origin + min(0, taps.tap_step * (taps.taps - 1)) for taps in reading]
    highs = [taps.origin + max(0, taps.tap_step * (taps.taps - 1)) for taps in reading]
    first, end = max(0, -min(lows, default=0)), n - max(highs, default=0)
    for i, within in pieces(common, first, end):
        yield list(axis), i, within
    longer = [taps for taps in axis if taps.count > common]
    if longer:
        yield longer, common, False
