"""Pooling over windows of rows and columns."""

import math
from typing import Any, ClassVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, loops, maximum, parallel, splat, var, vectors, where
from foveal.ops import nest, pooling
from foveal.ops.conv import scatter, windows
from foveal.ops.correlate import nhwc
from foveal.ops.epilogue import Results
from foveal.ops.geometry import check_window, output_size
from foveal.ops.op import Case, Lowering, Ndarray, Operator, Shape, pair, sides
from foveal.ops.pooling import Window, both, unless
from foveal.ops.reduce import mean
from foveal.ops.shape import broadcast_to

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
LOWEST = float("-inf")
UNIT = (1, 1)
MOST_WINDOWS = 4  # that an element lies in, for it to be computed in each


class Pooling(Operator):
    """What all share: `size` (R, S), `stride` (the size unless given), `padding`. Lanes run over channels."""

    reads: ClassVar[int | None] = (
        None  # the position of the input that may be computed while it is read
    )

    def normalise(
        self, *inputs: Any, size: Any, stride: Any = None, padding: Any = 0, **more: Any
    ) -> dict[str, Any]:
        full = {
            "size": pair(size, f"{self.name}: size"),
            "stride": pair(size if stride is None else stride, f"{self.name}: stride"),
            "padding": sides(padding, f"{self.name}: padding"),
        }
        check_window(self.name, full["size"], full["stride"], full["padding"], UNIT)  # type: ignore[arg-type]
        top, bottom, left, right = full["padding"]
        if max(top, bottom) * 2 > full["size"][0] or max(left, right) * 2 > full["size"][1]:
            raise ShapeError(
                f"{self.name}: padding {full['padding']} is more than half of the window {full['size']};"
                " a window could lie outside of the image"
            )
        return full | more

    def pooled(self, x: Shape, size: Pair, stride: Pair, padding: Sides) -> Shape:
        if len(x) != 4:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W], got shape {x}")
        return (*x[:2], *output_size(self.name, x[2:], size, stride, padding, UNIT))

    def prologue(self, **how: Any) -> int | None:
        """Only where windows overlap little: what lies in several is computed for each."""
        size, stride = how["size"], how["stride"]
        few = size[0] * size[1] <= MOST_WINDOWS * stride[0] * stride[1]
        return self.reads if few else None

    def lower(self, to: Lowering, y: Any, /, *inputs: Any, **how: Any) -> None:
        if not self.epilogues:
            super().lower(to, y, *inputs, **how)
            return
        self.lower_results(to, Results([y]), *inputs, **how)


def spans(y: Any, n: Any) -> Any:
    """(channel, lanes) over the channels of y, which are neighbours in memory, or one by one where they are not."""
    yield from vectors(y.shape[1], None if y.strides[1] == 1 else 1)


def tap(p: Any, count: int, u: int, r: int, pad: int, n: int) -> tuple[Any, Any]:
    """The input position of tap r at output p of `count`, and whether it is inside; it is kept inside either way."""
    at = p * u + r - pad
    if r >= pad and (count - 1) * u + r - pad < n:
        return at, True
    valid = (at >= 0) & (at < n)
    return where(valid, at, 0), valid


class MaxPool2d(Pooling):
    """y[n,c,p,q] = max_rs x[n, c, p u + r - pad, q u + s - pad]; the gradient goes to the first of equal maxima"""

    name, arity, epilogues, reads = "max_pool2d", 1, True, 0
    cases = (
        Case(((2, 3, 6, 8),), {"size": 2}),
        Case(((2, 20, 7, 5),), {"size": 3, "stride": 2, "padding": 1}),
        Case(((1, 2, 5, 9),), {"size": (2, 3), "stride": (1, 3)}),
        Case(((1, 16, 8, 8),), {"size": 3, "stride": 3, "padding": (0, 1, 1, 0)}),
    )

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides) -> Shape:
        return self.pooled(x, size, stride, padding)

    def numpy(self, x: Ndarray, *, size: Pair, stride: Pair, padding: Sides) -> Ndarray:
        top, bottom, left, right = padding
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
        return windows(x, size, stride, (0, 0, 0, 0), UNIT).max(axis=(4, 5))

    def vjp(self, dy: Any, y: Any, x: Any, **how: Any) -> tuple[Any, ...]:
        return (max_pool2d_grad(dy, x, y, **how),)

    def kernel(self, y: Any, x: Any, *, size: Pair, stride: Pair, padding: Sides) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(y, n):
                    best = var(LOWEST, width)
                    for r in range(size[0]):
                        for s in range(size[1]):
                            h, row = tap(p, P, stride[0], r, padding[0], H)
                            v, column = tap(q, Q, stride[1], s, padding[2], W)
                            value = unless(both(row, column), x.load((n, c, h, v), width), LOWEST)
                            best.set(maximum(value, best.get()))
                    y.store((n, c, p, q), best, width)

    def lower_results(self, to: Lowering, y: Results, x: Any, **how: Any) -> None:
        pooling.lower_forward(to, pooling.max_windows, y, nest.Source.of(x), Window(**how))


def first_maxima(x: Ndarray, y: Ndarray, size: Pair, stride: Pair, padding: Sides) -> Ndarray:
    """1 where x's window [N, C, P, Q, R, S] has its first maximum, else 0."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    view = windows(x, size, stride, (0, 0, 0, 0), UNIT)
    flat = view.reshape(*view.shape[:4], -1)
    chosen = np.arange(flat.shape[-1]) == flat.argmax(-1)[..., None]
    return chosen.reshape(view.shape).astype(x.dtype)


def drawn_with_maxima(shapes: tuple[Shape, ...], first: Shape, **attributes: Any) -> Case:
    """Inputs (first, x, y) where x is fixed by the shape and y are its maxima, as the gradient meets them."""

    def x(rng: np.random.Generator, shape: Shape) -> Ndarray:
        return np.random.default_rng(sum(shape)).permutation(math.prod(shape)).reshape(shape) * 0.1

    def y(rng: np.random.Generator, shape: Shape) -> Ndarray:
        return np.asarray(max_pool2d(x(rng, shapes[0]).astype("f4"), **attributes))

    return Case((first, *shapes), attributes, {1: x, 2: y})


WINDOWS: tuple[tuple[tuple[Shape, Shape], dict[str, Any]], ...] = (
    (((2, 3, 6, 8), (2, 3, 3, 4)), {"size": 2}),
    (((2, 20, 7, 5), (2, 20, 4, 3)), {"size": 3, "stride": 2, "padding": 1}),
    (((1, 2, 5, 9), (1, 2, 4, 3)), {"size": (2, 3), "stride": (1, 3)}),
)


class MaxPool2dGrad(Pooling):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the windows whose first maximum is at (h, v)"""

    name, arity, epilogues, reads = "max_pool2d_grad", 3, True, 1
    cases = tuple(drawn_with_maxima(shapes, shapes[1], **how) for shapes, how in WINDOWS)

    def shape(
        self, dy: Shape, x: Shape, y: Shape, *, size: Pair, stride: Pair, padding: Sides
    ) -> Shape:
        expected = self.pooled(x, size, stride, padding)
        if dy != expected or y != expected:
            raise ShapeError(
                f"{self.name}: x of shape {x} gives {expected}; dy has {dy}, y has {y}"
            )
        return x

    def numpy(
        self, dy: Ndarray, x: Ndarray, y: Ndarray, *, size: Pair, stride: Pair, padding: Sides
    ) -> Ndarray:
        chosen = first_maxima(x, y, size, stride, padding)
        dx = np.zeros(x.shape, np.result_type(dy, x))
        scatter(dx, chosen * dy[..., None, None], stride, padding, UNIT)
        return dx

    def vjp(self, g: Any, dx: Any, dy: Any, x: Any, y: Any, **how: Any) -> tuple[Any, ...]:
        return max_pool2d_pick(g, x, y, **how), None, None

    def kernel(
        self, dx: Any, dy: Any, x: Any, y: Any, *, size: Pair, stride: Pair, padding: Sides
    ) -> None:
        (N, _, H, W), (P, Q) = dx.shape, dy.shape[2:]
        for (n,) in parallel(N):
            for h, v in loops(H, W):
                for c, width in spans(dx, n):
                    dx.store((n, c, h, v), 0.0, width)
            for p, q in loops(P, Q):
                for c, width in spans(dx, n):
                    rest = var(
                        dy.load((n, c, p, q), width), width
                    )  # what is still to be given away
                    largest = y.load((n, c, p, q), width)
                    for r in range(size[0]):
                        for s in range(size[1]):
                            h, row = tap(p, P, stride[0], r, padding[0], H)
                            v, column = tap(q, Q, stride[1], s, padding[2], W)
                            hit = x.load((n, c, h, v), width) == largest
                            valid = both(row, column)
                            hit = hit if valid is True else hit & splat(valid, width)
                            given = where(hit, rest.get(), 0.0)
                            dx.store((n, c, h, v), dx.load((n, c, h, v), width) + given, width)
                            rest.set(where(hit, 0.0, rest.get()))

    def lower_results(self, to: Lowering, dx: Results, dy: Any, x: Any, y: Any, **how: Any) -> None:
        pooling.lower_max_grad(to, dx, dy, nest.Source.of(x), Window(**how))


class MaxPool2dPick(Pooling):
    """dy[n,c,p,q] = g at the place of the first maximum of the window: the gradient of max_pool2d_grad"""

    name, arity = "max_pool2d_pick", 3
    cases = tuple(drawn_with_maxima(shapes, shapes[0], **how) for shapes, how in WINDOWS)

    def shape(
        self, g: Shape, x: Shape, y: Shape, *, size: Pair, stride: Pair, padding: Sides
    ) -> Shape:
        expected = self.pooled(x, size, stride, padding)
        if g != x or y != expected:
            raise ShapeError(f"{self.name}: x of shape {x} gives {expected}; g has {g}, y has {y}")
        return expected

    def numpy(
        self, g: Ndarray, x: Ndarray, y: Ndarray, *, size: Pair, stride: Pair, padding: Sides
    ) -> Ndarray:
        chosen = first_maxima(x, y, size, stride, padding)
        return (chosen * windows(g, size, stride, padding, UNIT)).sum(axis=(4, 5))

    def vjp(self, d: Any, picked: Any, g: Any, x: Any, y: Any, **how: Any) -> tuple[Any, ...]:
        return max_pool2d_grad(d, x, y, **how), None, None

    def kernel(
        self, picked: Any, g: Any, x: Any, y: Any, *, size: Pair, stride: Pair, padding: Sides
    ) -> None:
        (N, _, P, Q), (H, W) = picked.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(picked, n):
                    found = var(0.0, width)
                    largest = y.load((n, c, p, q), width)
                    for r in reversed(range(size[0])):
                        for s in reversed(
                            range(size[1])
                        ):  # backwards: the first maximum is written last
                            h, row = tap(p, P, stride[0], r, padding[0], H)
                            v, column = tap(q, Q, stride[1], s, padding[2], W)
                            hit = x.load((n, c, h, v), width) == largest
                            valid = both(row, column)
                            hit = hit if valid is True else hit & splat(valid, width)
                            found.set(where(hit, g.load((n, c, h, v), width), found.get()))
                    picked.store((n, c, p, q), found, width)


class AvgPool2d(Pooling):
    """y[n,c,p,q] = 1/(R S) sum_rs x[n, c, p u + r - pad, q u + s - pad]; the padding counts as zeros"""

    name, arity, cases, epilogues, reads = "avg_pool2d", 1, MaxPool2d.cases, True, 0

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides) -> Shape:
        return self.pooled(x, size, stride, padding)

    def numpy(self, x: Ndarray, *, size: Pair, stride: Pair, padding: Sides) -> Ndarray:
        return windows(x, size, stride, padding, UNIT).mean(axis=(4, 5))

    def vjp(self, dy: Any, y: Any, x: Any, **how: Any) -> tuple[Any, ...]:
        return (avg_pool2d_grad(dy, image=x.shape[2:], **how),)

    def kernel(self, y: Any, x: Any, *, size: Pair, stride: Pair, padding: Sides) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(y, n):
                    total = var(0.0, width)
                    for r in range(size[0]):
                        for s in range(size[1]):
                            h, row = tap(p, P, stride[0], r, padding[0], H)
                            v, column = tap(q, Q, stride[1], s, padding[2], W)
                            total += unless(both(row, column), x.load((n, c, h, v), width), 0.0)
                    y.store((n, c, p, q), total.get() * (1.0 / (size[0] * size[1])), width)

    def lower_results(self, to: Lowering, y: Results, x: Any, **how: Any) -> None:
        pooling.lower_forward(to, pooling.mean_windows, y, nest.Source.of(x), Window(**how))


class AvgPool2dGrad(Pooling):
    """dx[n,c,h,v] = 1/(R S) sum of dy[n,c,p,q] over the windows that (h, v) lies in; `image` is x's (H, W)"""

    name, arity, epilogues = "avg_pool2d_grad", 1, True
    cases = (
        Case(((2, 3, 3, 4),), {"size": 2, "image": (6, 8)}),
        Case(((2, 20, 4, 3),), {"size": 3, "stride": 2, "padding": 1, "image": (7, 5)}),
        Case(((1, 2, 4, 3),), {"size": (2, 3), "stride": (1, 3), "image": (5, 9)}),
    )

    def shape(self, dy: Shape, *, size: Pair, stride: Pair, padding: Sides, image: Pair) -> Shape:
        expected = self.pooled((*dy[:2], *image), size, stride, padding)
        if dy != expected:
            raise ShapeError(
                f"{self.name}: dy has shape {dy}, images of {image[0]}x{image[1]} give {expected}"
            )
        return (*dy[:2], *image)

    def numpy(
        self, dy: Ndarray, *, size: Pair, stride: Pair, padding: Sides, image: Pair
    ) -> Ndarray:
        dx = np.zeros((*dy.shape[:2], *image), dy.dtype)
        share = dy / (size[0] * size[1])
        scatter(
            dx, np.broadcast_to(share[..., None, None], (*dy.shape, *size)), stride, padding, UNIT
        )
        return dx

    def vjp(self, g: Any, dx: Any, dy: Any, *, image: Pair, **how: Any) -> tuple[Any, ...]:
        return (avg_pool2d(g, **how),)

    def kernel(
        self, dx: Any, dy: Any, *, size: Pair, stride: Pair, padding: Sides, image: Pair
    ) -> None:
        (N, _, H, W), (P, Q) = dx.shape, dy.shape[2:]
        share = 1.0 / (size[0] * size[1])
        for (n,) in parallel(N):
            for h, v in loops(H, W):
                for c, width in spans(dx, n):
                    dx.store((n, c, h, v), 0.0, width)
            for p, q in loops(P, Q):
                for c, width in spans(dx, n):
                    given = dy.load((n, c, p, q), width) * share
                    for r in range(size[0]):
                        for s in range(size[1]):
                            h, row = tap(p, P, stride[0], r, padding[0], H)
                            v, column = tap(q, Q, stride[1], s, padding[2], W)
                            more = unless(both(row, column), given, 0.0)
                            dx.store((n, c, h, v), dx.load((n, c, h, v), width) + more, width)

    def lower_results(self, to: Lowering, dx: Results, dy: Any, *, image: Pair, **how: Any) -> None:
        pooling.lower_gather(to, dx, [nhwc(dy)], Window(**how))


class GlobalAvgPool2d(Operator):
    """y[n,c,0,0] = mean of x[n,c,h,v] over the whole image"""

    name, arity, composite = "global_avg_pool2d", 1, True
    cases = (Case(((2, 3, 4, 5),)), Case(((3, 70, 8, 8),)))

    def shape(self, x: Shape) -> Shape:
        if len(x) != 4:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W], got shape {x}")
        return (*x[:2], 1, 1)

    def numpy(self, x: Ndarray) -> Ndarray:
        return x.mean(axis=(2, 3), keepdims=True)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (broadcast_to(dy * (1.0 / (x.shape[2] * x.shape[3])), to=x.shape),)

    def expand(self, x: Any) -> Any:
        return mean(x, axes=(2, 3), keepdims=True)


max_pool2d, max_pool2d_grad, max_pool2d_pick = MaxPool2d(), MaxPool2dGrad(), MaxPool2dPick()
avg_pool2d, avg_pool2d_grad, global_avg_pool2d = AvgPool2d(), AvgPool2dGrad(), GlobalAvgPool2d()
