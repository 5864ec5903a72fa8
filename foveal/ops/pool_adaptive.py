"""Pooling to a given output size: windows of nearly equal size that cover the image."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import I32, cast, loop, loops, parallel, var, where
from foveal.ops.kernels import expression
from foveal.ops.kernels.pool import LOWEST
from foveal.ops.op import Case, Operator
from foveal.ops.pool import Pair, check_images, spans
from foveal.ops.pool_average import avg_pool2d, avg_pool2d_grad, global_avg_pool2d
from foveal.ops.pool_indices import put_pixels, take_pixels
from foveal.ops.pool_max import max_pool2d, max_pool2d_grad
from foveal.ops.reduce import max
from foveal.ops.window import pair
from foveal.strides import Ndarray, Shape


def first(p: Any, n: int, count: int) -> Any:
    """Where the p-th of `count` windows over n positions begins: floor(p n / count)."""
    return p * n // count


def end(p: Any, n: int, count: int) -> Any:
    """Behind its last position: ceil((p + 1) n / count)."""
    return ((p + 1) * n + count - 1) // count


def even(image: tuple[int, ...], output: Pair) -> Pair | None:
    """The size of all windows, where it is the same: then they lie side by side."""
    if image[0] % output[0] or image[1] % output[1]:
        return None
    return image[0] // output[0], image[1] // output[1]


class Adaptive(Operator):
    """output: (P, Q), or one number for both; None stands for as many as the image has.

    Window p of P begins at floor(p H / P) and ends before ceil((p + 1) H / P), as PyTorch has it; so along the columns.
    """

    arity = 1

    def normalise(self, x: Any, *, output: Any) -> dict[str, Any]:
        check_images(self.name, x.shape)
        asked = output if isinstance(output, tuple | list) else (output, output)
        if len(asked) != 2:
            raise ShapeError(f"{self.name}: output is {output!r}, it has to be one size or two")
        sizes = (n if want is None else want for n, want in zip(x.shape[2:], asked, strict=True))
        full = pair(tuple(sizes), f"{self.name}: output")
        if min(full) < 1:
            raise ShapeError(f"{self.name}: output {full} has to be 1 or more rows and columns")
        return {"output": full}

    def shape(self, x: Shape, *, output: Pair) -> Shape:
        check_images(self.name, x)
        if min(x[2:]) < 1:
            raise ShapeError(f"{self.name}: images of shape {x} have no pixels")
        return (*x[:2], *output)


def mean_matrix(n: int, count: int) -> Ndarray:
    """[count, n]: the share that each position has in each window's mean, along one axis."""
    shares = np.zeros((count, n))
    for p in range(count):
        low, high = first(p, n, count), end(p, n, count)
        shares[p, low:high] = 1 / (high - low)
    return shares


class AdaptiveMean(Adaptive):
    """adaptive_avg_pool2d for windows that are not all alike"""

    name = "adaptive_mean"
    cases = (Case(((2, 3, 7, 5),), {"output": (3, 2)}), Case(((1, 18, 3, 10),), {"output": (5, 4)}))

    def numpy(self, x: Ndarray, *, output: Pair) -> Ndarray:
        rows, columns = (mean_matrix(n, m) for n, m in zip(x.shape[2:], output, strict=True))
        return np.einsum("ph,nchv,qv->ncpq", rows, x, columns).astype(x.dtype)

    def vjp(self, dy: Any, y: Any, x: Any, *, output: Pair) -> tuple[Any, ...]:
        return (adaptive_mean_grad(dy, image=x.shape[2:]),)

    def kernel(self, y: Any, x: Any, *, output: Pair) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p, q in parallel(N, P, Q):
            rows, columns = (first(p, H, P), end(p, H, P)), (first(q, W, Q), end(q, W, Q))
            size = (rows[1] - rows[0]) * (columns[1] - columns[0])
            for c, width in spans(y, n):
                total = var(0.0, width)
                for h in loop(rows[1], start=rows[0]):
                    for v in loop(columns[1], start=columns[0]):
                        total += x.load((n, c, h, v), width)
                y.store((n, c, p, q), total.get() / expression.float_lanes(size, width), width)


class AdaptiveMeanGrad(Operator):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the windows that (h, v) lies in, each by its size; `image` is x's (H, W)"""

    name, arity = "adaptive_mean_grad", 1
    cases = (Case(((2, 3, 3, 2),), {"image": (7, 5)}), Case(((1, 18, 5, 4),), {"image": (3, 10)}))

    def shape(self, dy: Shape, *, image: Pair) -> Shape:
        check_images(self.name, dy)
        return (*dy[:2], *image)

    def numpy(self, dy: Ndarray, *, image: Pair) -> Ndarray:
        rows, columns = (mean_matrix(n, m) for n, m in zip(image, dy.shape[2:], strict=True))
        return np.einsum("ph,ncpq,qv->nchv", rows, dy, columns).astype(dy.dtype)

    def vjp(self, g: Any, dx: Any, dy: Any, *, image: Pair) -> tuple[Any, ...]:
        return (adaptive_mean(g, output=dy.shape[2:]),)

    def kernel(self, dx: Any, dy: Any, *, image: Pair) -> None:
        (N, _, H, W), (P, Q) = dx.shape, dy.shape[2:]
        for (n,) in parallel(N):
            for h, v in loops(H, W):
                for c, width in spans(dx, n):
                    dx.store((n, c, h, v), 0.0, width)
            for p, q in loops(P, Q):
                rows, columns = (first(p, H, P), end(p, H, P)), (first(q, W, Q), end(q, W, Q))
                size = (rows[1] - rows[0]) * (columns[1] - columns[0])
                for c, width in spans(dx, n):
                    given = dy.load((n, c, p, q), width) / expression.float_lanes(size, width)
                    for h in loop(rows[1], start=rows[0]):
                        for v in loop(columns[1], start=columns[0]):
                            dx.store((n, c, h, v), dx.load((n, c, h, v), width) + given, width)


class AdaptiveAvgPool2d(Adaptive):
    """y[n,c,p,q] = the mean of x[n,c] over window (p, q) of (P, Q)"""

    name, composite = "adaptive_avg_pool2d", True
    cases = (
        Case(((2, 3, 7, 5),), {"output": (3, None)}),
        Case(((2, 3, 6, 4),), {"output": 2}),
        Case(((2, 3, 6, 4),), {"output": 1}),
    )

    def numpy(self, x: Ndarray, *, output: Pair) -> Ndarray:
        return adaptive_mean.numpy(x, output=output)

    def vjp(self, dy: Any, y: Any, x: Any, *, output: Pair) -> tuple[Any, ...]:
        if output == (1, 1):
            return global_avg_pool2d.vjp(dy, y, x)
        size = even(x.shape[2:], output)
        if size is None:
            return adaptive_mean.vjp(dy, y, x, output=output)
        return (avg_pool2d_grad(dy, size=size, image=x.shape[2:]),)

    def expand(self, x: Any, *, output: Pair) -> Any:
        if output == (1, 1):
            return global_avg_pool2d(x)
        size = even(x.shape[2:], output)
        return adaptive_mean(x, output=output) if size is None else avg_pool2d(x, size=size)


class AdaptiveMaxIndex(Adaptive):
    """y[n,c,p,q] = h W + v, the place of the first maximum of x[n,c] in window (p, q) of (P, Q): int32"""

    name, dtype, differentiable = "adaptive_max_index", "int32", False
    cases = tuple(Case(c.shapes, c.attributes, smooth=False) for c in AdaptiveMean.cases)

    def numpy(self, x: Ndarray, *, output: Pair) -> Ndarray:
        (H, W), (P, Q) = x.shape[2:], output
        y = np.zeros((*x.shape[:2], *output), np.int32)
        for p in range(P):
            for q in range(Q):
                top, left, right = first(p, H, P), first(q, W, Q), end(q, W, Q)
                part = x[:, :, top : end(p, H, P), left:right]
                at = part.reshape(*x.shape[:2], -1).argmax(-1)
                y[:, :, p, q] = (top + at // (right - left)) * W + left + at % (right - left)
        return y

    def kernel(self, y: Any, x: Any, *, output: Pair) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p, q in parallel(N, P, Q):
            for c, width in spans(y, n):
                start = expression.float_lanes(first(p, H, P) * W + first(q, W, Q), width)
                best, found = var(LOWEST, width), var(start, width)
                for h in loop(end(p, H, P), start=first(p, H, P)):
                    for v in loop(end(q, W, Q), start=first(q, W, Q)):
                        value = x.load((n, c, h, v), width)
                        larger = value > best.get()
                        best.set(where(larger, value, best.get()))
                        found.set(where(larger, expression.float_lanes(h * W + v, width), found.get()))
                y.store((n, c, p, q), cast(found.get(), I32), width)


class AdaptiveMaxPool2d(Adaptive):
    """y[n,c,p,q] = the maximum of x[n,c] over window (p, q) of (P, Q); the gradient goes to the first of equal
    maxima
    """

    name, composite = "adaptive_max_pool2d", True
    cases = AdaptiveAvgPool2d.cases

    def numpy(self, x: Ndarray, *, output: Pair) -> Ndarray:
        return take_pixels.numpy(x, adaptive_max_index.numpy(x, output=output))

    def vjp(self, dy: Any, y: Any, x: Any, *, output: Pair) -> tuple[Any, ...]:
        size = even(x.shape[2:], output)
        if size is None or output == (1, 1):
            return (put_pixels(dy, adaptive_max_index(x, output=output), image=x.shape[2:]),)
        return (max_pool2d_grad(dy, x, y, size=size),)

    def expand(self, x: Any, *, output: Pair) -> Any:
        if output == (1, 1):
            return max(x, axes=(2, 3), keepdims=True)
        size = even(x.shape[2:], output)
        if size is None:
            return take_pixels(x, adaptive_max_index(x, output=output))
        return max_pool2d(x, size=size)


adaptive_mean, adaptive_mean_grad = AdaptiveMean(), AdaptiveMeanGrad()
adaptive_max_index = AdaptiveMaxIndex()
adaptive_avg_pool2d, adaptive_max_pool2d = AdaptiveAvgPool2d(), AdaptiveMaxPool2d()
