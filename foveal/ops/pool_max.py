"""Max pooling, its gradients, and the places of the maxima."""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import I32, cast, loop, loops, maximum, parallel, var, where
from foveal.ops.kernels import expression, pool
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.pool import LOWEST, Window, unless
from foveal.ops.op import Case, Lowering
from foveal.ops.pool import Pair, Pooling, Sides, inside, spans, windows_of_lowest
from foveal.ops.window import scatter, taps, windows
from foveal.strides import Ndarray, Shape


class MaxPool2d(Pooling):
    """y[n,c,p,q] = max_rs x[n, c, p u + r d - pad, q u + s d - pad]; the gradient goes to the first of equal maxima"""

    name, arity, epilogues, reads = "max_pool2d", 1, True, 0
    cases = (
        Case(((2, 3, 6, 8),), {"size": 2}),
        Case(((2, 20, 7, 5),), {"size": 3, "stride": 2, "padding": 1}),
        Case(((1, 2, 5, 9),), {"size": (2, 3), "stride": (1, 3)}),
        Case(((1, 16, 8, 8),), {"size": 3, "stride": 3, "padding": (0, 1, 1, 0)}),
        Case(((1, 18, 9, 6),), {"size": (3, 2), "stride": 2, "padding": 1, "dilation": (2, 3)}),
        Case(((1, 3, 6, 7),), {"size": 3, "stride": 2, "ceil_mode": True}),
    )

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Shape:
        return self.pooled(x, size, stride, padding, dilation)

    def numpy(self, x: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
        return windows_of_lowest(x, size, stride, padding, dilation).max(axis=(4, 5))

    def vjp(self, dy: Any, y: Any, x: Any, **how: Any) -> tuple[Any, ...]:
        return (max_pool2d_grad(dy, x, y, **how),)

    def kernel(self, y: Any, x: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(y, n):
                    best = var(LOWEST, width)
                    for h, v, valid in taps((p, q), (P, Q), (H, W), size, stride, padding, dilation):
                        value = unless(valid, x.load((n, c, h, v), width), LOWEST)
                        best.set(maximum(value, best.get()))
                    y.store((n, c, p, q), best, width)

    def lower_results(self, to: Lowering, y: EpilogueOutputs, x: Any, **how: Any) -> None:
        pool.lower_forward(to, pool.max_windows, y, expression.FusedInput.of(x), Window(**how))


def first_maxima(x: Ndarray, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
    """1 where x's window [N, C, P, Q, R, S] has its first maximum, else 0."""
    view = windows_of_lowest(x, size, stride, padding, dilation)
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
    (((1, 18, 9, 6), (1, 18, 4, 3)), {"size": (3, 2), "stride": 2, "padding": 1, "dilation": (2, 3)}),
)


class MaxPool2dGrad(Pooling):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the windows whose first maximum is at (h, v)"""

    name, arity, epilogues, reads = "max_pool2d_grad", 3, True, 1
    cases = tuple(drawn_with_maxima(shapes, shapes[1], **how) for shapes, how in WINDOWS)

    def shape(
        self, dy: Shape, x: Shape, y: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair
    ) -> Shape:
        expected = self.pooled(x, size, stride, padding, dilation)
        if dy != expected or y != expected:
            raise ShapeError(f"{self.name}: x of shape {x} gives {expected}; dy has {dy}, y has {y}")
        return x

    def numpy(
        self, dy: Ndarray, x: Ndarray, y: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair
    ) -> Ndarray:
        chosen = first_maxima(x, size, stride, padding, dilation)
        dx = np.zeros(x.shape, np.result_type(dy, x))
        scatter(dx, chosen * dy[..., None, None], stride, padding, dilation)
        return dx

    def vjp(self, g: Any, dx: Any, dy: Any, x: Any, y: Any, **how: Any) -> tuple[Any, ...]:
        return max_pool2d_pick(g, x, y, **how), None, None

    def kernel(
        self, dx: Any, dy: Any, x: Any, y: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair
    ) -> None:
        (N, _, H, W), (P, Q) = dx.shape, dy.shape[2:]
        for (n,) in parallel(N):
            for h, v in loops(H, W):
                for c, width in spans(dx, n):
                    dx.store((n, c, h, v), 0.0, width)
            for p, q in loops(P, Q):
                for c, width in spans(dx, n):
                    # what is still to be given away
                    rest = var(dy.load((n, c, p, q), width), width)
                    largest = y.load((n, c, p, q), width)
                    for h, v, valid in taps((p, q), (P, Q), (H, W), size, stride, padding, dilation):
                        hit = inside(x.load((n, c, h, v), width) == largest, valid, width)
                        given = where(hit, rest.get(), 0.0)
                        dx.store((n, c, h, v), dx.load((n, c, h, v), width) + given, width)
                        rest.set(where(hit, 0.0, rest.get()))

    def lower_results(self, to: Lowering, dx: EpilogueOutputs, dy: Any, x: Any, y: Any, **how: Any) -> None:
        pool.lower_max_grad(to, dx, dy, expression.FusedInput.of(x), Window(**how))


class MaxPool2dPick(Pooling):
    """dy[n,c,p,q] = g at the place of the first maximum of the window: the gradient of max_pool2d_grad"""

    name, arity = "max_pool2d_pick", 3
    cases = tuple(drawn_with_maxima(shapes, shapes[0], **how) for shapes, how in WINDOWS)

    def shape(self, g: Shape, x: Shape, y: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Shape:
        expected = self.pooled(x, size, stride, padding, dilation)
        if g != x or y != expected:
            raise ShapeError(f"{self.name}: x of shape {x} gives {expected}; g has {g}, y has {y}")
        return expected

    def numpy(
        self, g: Ndarray, x: Ndarray, y: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair
    ) -> Ndarray:
        chosen = first_maxima(x, size, stride, padding, dilation)
        return (chosen * windows(g, size, stride, padding, dilation)).sum(axis=(4, 5))

    def vjp(self, d: Any, picked: Any, g: Any, x: Any, y: Any, **how: Any) -> tuple[Any, ...]:
        return max_pool2d_grad(d, x, y, **how), None, None

    def kernel(
        self, picked: Any, g: Any, x: Any, y: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair
    ) -> None:
        (N, _, P, Q), (H, W) = picked.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(picked, n):
                    found = var(0.0, width)
                    largest = y.load((n, c, p, q), width)
                    window = taps((p, q), (P, Q), (H, W), size, stride, padding, dilation)
                    for h, v, valid in reversed(window):  # backwards: the first maximum is written last
                        hit = inside(x.load((n, c, h, v), width) == largest, valid, width)
                        found.set(where(hit, g.load((n, c, h, v), width), found.get()))
                    picked.store((n, c, p, q), found, width)


class MaxPool2dIndex(Pooling):
    """y[n,c,p,q] = h W + v, where (h, v) is the place of the first maximum of the window: int32, as PyTorch counts
    them
    """

    name, arity, dtype, differentiable = "max_pool2d_index", 1, "int32", False
    cases = tuple(Case(c.shapes, c.attributes, smooth=False) for c in MaxPool2d.cases[1:5])

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Shape:
        return self.pooled(x, size, stride, padding, dilation)

    def numpy(self, x: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
        chosen = first_maxima(x, size, stride, padding, dilation) > 0
        H, W = x.shape[2:]
        places = np.arange(H * W).reshape(1, 1, H, W)
        return np.where(chosen, windows(places, size, stride, padding, dilation), 0).sum(axis=(4, 5), dtype=np.int32)

    def kernel(self, y: Any, x: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(y, n):
                    best, found = var(LOWEST, width), var(0.0, width)
                    window = taps((p, q), (P, Q), (H, W), size, stride, padding, dilation)
                    for h, v, valid in reversed(window):  # the first maximum is found last
                        value = x.load((n, c, h, v), width)
                        larger = inside(value >= best.get(), valid, width)
                        best.set(where(larger, value, best.get()))
                        place = expression.float_lanes(h * W + v, width)
                        found.set(where(larger, place, found.get()))
                    y.store((n, c, p, q), cast(found.get(), I32), width)


max_pool2d, max_pool2d_grad, max_pool2d_pick = MaxPool2d(), MaxPool2dGrad(), MaxPool2dPick()
max_pool2d_index = MaxPool2dIndex()
