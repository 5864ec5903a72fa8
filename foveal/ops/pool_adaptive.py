"""Pooling to a given output size: windows of nearly equal size that cover the image."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import I32, Array, Index, cast, loop, loops, parallel, var, where
from foveal.ops.kernels.expression import float_lanes
from foveal.ops.kernels.pool_loops import LOWEST
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.pool import add_at, channel_vectors, check_images, rows_and_columns, zero_image
from foveal.ops.pool_average import avg_pool2d, avg_pool2d_grad, global_avg_pool2d
from foveal.ops.pool_indices import put_pixels, take_pixels
from foveal.ops.pool_max import max_pool2d, max_pool2d_grad
from foveal.ops.reduce import max
from foveal.ops.window import Pair, PairArgument, pair
from foveal.strides import Ndarray, Shape

# A place along an axis: a Python number in NumPy code, an index in kernels.
Place = TypeVar("Place", int, Index)


def window_start(p: Place, n: int, count: int) -> Place:
    """The first position of the p-th of `count` windows over n positions: floor(p n / count)."""
    return p * n // count


def window_end(p: Place, n: int, count: int) -> Place:
    """The position after its last one: ceil((p + 1) n / count)."""
    return ((p + 1) * n + count - 1) // count


def window_rows(p: Index, q: Index, image: Pair, counts: Pair) -> tuple[tuple[Index, Index], tuple[Index, Index]]:
    """(first row, end), (first column, end) of window (p, q), of `counts` windows over an image (H, W)."""
    (H, W), (P, Q) = image, counts
    rows = window_start(p, H, P), window_end(p, H, P)
    return rows, (window_start(q, W, Q), window_end(q, W, Q))


def equal_windows(image: tuple[int, ...], output_size: Pair) -> Pair | None:
    """The size of all windows where it is the same, so that they lie side by side; else None."""
    if image[0] % output_size[0] or image[1] % output_size[1]:
        return None
    return image[0] // output_size[0], image[1] // output_size[1]


class Adaptive(Operator):
    """Base of poolings to a given output size.

    Window p of P begins at row floor(p H / P) and ends before row ceil((p + 1) H / P), and so along the columns, as in
    PyTorch.
    """

    arity = 1

    def normalise(self, x: HasShape, *, output_size: int | Sequence[int | None] | None) -> dict[str, Any]:
        check_images(self.name, x.shape)
        asked = (output_size, output_size) if isinstance(output_size, int | None) else tuple(output_size)
        if len(asked) != 2:
            raise ShapeError(f"{self.name}: output_size is {output_size!r}, it has to be one size or two")
        sizes = tuple(n if size is None else size for n, size in zip(x.shape[2:], asked, strict=True))
        full = pair(sizes, f"{self.name}: output_size")
        if min(full) < 1:
            raise ShapeError(f"{self.name}: output_size {full} has to be 1 or more rows and columns")
        return {"output_size": full}

    def shape(self, x: Shape, *, output_size: Pair) -> Shape:
        check_images(self.name, x)
        if min(x[2:]) < 1:
            raise ShapeError(f"{self.name}: images of shape {x} have no pixels")
        return (*x[:2], *output_size)


def windows(image: tuple[int, ...], counts: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """Yield p, q and the rows and columns of each window, of `counts` windows over an image (H, W)."""
    for p, q in np.ndindex(*counts):
        rows, columns = window_rows(p, q, (image[0], image[1]), (counts[0], counts[1]))
        yield p, q, (slice(*rows), slice(*columns))


class AdaptiveMean(Adaptive):
    """y[n,c,p,q] = the mean of x[n,c] over window (p, q)

    adaptive_avg_pool2d for windows that are not all of one size, x [N, C, H, W] -> y [N, C, P, Q]; with its arguments
    and errors.
    """

    name = "adaptive_mean"
    cases = (Case(((2, 3, 7, 5),), {"output_size": (3, 2)}), Case(((1, 18, 3, 10),), {"output_size": (5, 4)}))

    def numpy(self, x: Ndarray, *, output_size: Pair) -> Ndarray:
        y = np.empty((*x.shape[:2], *output_size), x.dtype)
        for p, q, (rows, columns) in windows(x.shape[2:], output_size):
            y[:, :, p, q] = x[:, :, rows, columns].mean((2, 3))
        return y

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, output_size: Pair) -> tuple[Tensor, ...]:
        return (adaptive_mean_grad(dy, image_size=x.shape[2:]),)

    def kernel(self, y: Array, x: Array, *, output_size: Pair) -> None:
        # threads share images and windows
        for n, p, q in parallel(y.shape[0], *output_size):
            rows, columns = window_rows(p, q, rows_and_columns(x.shape), output_size)
            size = (rows[1] - rows[0]) * (columns[1] - columns[0])
            for c, width in channel_vectors(y):
                total = var(0.0, width)
                for h in loop(rows[1], start=rows[0]):
                    for v in loop(columns[1], start=columns[0]):
                        total += x.load((n, c, h, v), width)
                y.store((n, c, p, q), total.get() / float_lanes(size, width), width)


class AdaptiveMeanGrad(Operator):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] / (the pixels of window (p, q)) over the windows that (h, v) lies in

    The gradient of adaptive_mean: dy [N, C, P, Q] -> dx [N, C, H, W]. image_size: (H, W).
    """

    name, arity = "adaptive_mean_grad", 1
    cases = (Case(((2, 3, 3, 2),), {"image_size": (7, 5)}), Case(((1, 18, 5, 4),), {"image_size": (3, 10)}))

    def normalise(self, dy: HasShape, *, image_size: PairArgument) -> dict[str, Any]:
        full = pair(image_size, f"{self.name}: image_size")
        if min(full) < 1:
            raise ShapeError(f"{self.name}: image_size {full} has to be 1 or more rows and columns")
        return {"image_size": full}

    def shape(self, dy: Shape, *, image_size: Pair) -> Shape:
        check_images(self.name, dy)
        return (*dy[:2], *image_size)

    def numpy(self, dy: Ndarray, *, image_size: Pair) -> Ndarray:
        dx = np.zeros((*dy.shape[:2], *image_size), dy.dtype)
        for p, q, (rows, columns) in windows(image_size, dy.shape[2:]):
            window = dx[:, :, rows, columns]
            window += dy[:, :, p, q, None, None] / (window.shape[2] * window.shape[3])
        return dx

    def vjp(self, g: Tensor, dx: Tensor, dy: Tensor, *, image_size: Pair) -> tuple[Tensor, ...]:
        return (adaptive_mean(g, output_size=dy.shape[2:]),)

    def kernel(self, dx: Array, dy: Array, *, image_size: Pair) -> None:
        counts = rows_and_columns(dy.shape)
        # windows may overlap, so a thread has a whole image
        for (n,) in parallel(dx.shape[0]):
            zero_image(dx, n)
            for p, q in loops(*counts):
                rows, columns = window_rows(p, q, image_size, counts)
                size = (rows[1] - rows[0]) * (columns[1] - columns[0])
                for c, width in channel_vectors(dx):
                    share = dy.load((n, c, p, q), width) / float_lanes(size, width)
                    for h in loop(rows[1], start=rows[0]):
                        for v in loop(columns[1], start=columns[0]):
                            add_at(dx, (n, c, h, v), share, width)


class AdaptiveAvgPool2d(Adaptive):
    """y[n,c,p,q] = the mean of x[n,c] over the rows floor(p H / P) to ceil((p + 1) H / P) - 1 and such columns

    The means of P x Q windows that cover the image: x [N, C, H, W] -> y [N, C, P, Q].

    output_size: (P, Q), or one number for both; None stands for as many as the image has. Raises ShapeError where x is
    not four-dimensional or has no pixels, or a size is below 1.
    """

    name, composite = "adaptive_avg_pool2d", True
    cases = (
        Case(((2, 3, 7, 5),), {"output_size": (3, None)}),
        Case(((2, 3, 6, 4),), {"output_size": 2}),
        Case(((2, 3, 6, 4),), {"output_size": 1}),
    )

    def numpy(self, x: Ndarray, *, output_size: Pair) -> Ndarray:
        return adaptive_mean.numpy(x, output_size=output_size)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, output_size: Pair) -> tuple[Tensor, ...]:
        if output_size == (1, 1):
            return global_avg_pool2d.vjp(dy, y, x)
        size = equal_windows(x.shape[2:], output_size)
        if size is None:
            return adaptive_mean.vjp(dy, y, x, output_size=output_size)
        return (avg_pool2d_grad(dy, kernel_size=size, image_size=x.shape[2:]),)

    def expand(self, x: Tensor, *, output_size: Pair) -> Tensor:
        if output_size == (1, 1):
            return global_avg_pool2d(x)
        size = equal_windows(x.shape[2:], output_size)
        return adaptive_mean(x, output_size=output_size) if size is None else avg_pool2d(x, kernel_size=size)


class AdaptiveMaxIndex(Adaptive):
    """y[n,c,p,q] = h W + v, the place of the first maximum of x[n,c] in window (p, q), or of its first NaN

    The places of the maxima of P x Q windows that cover the image: x [N, C, H, W] -> int32 [N, C, P, Q]. output_size
    and errors: as for adaptive_avg_pool2d. It has no gradient.
    """

    name, dtype, differentiable = "adaptive_max_index", "int32", False
    cases = tuple(Case(c.shapes, c.attributes, smooth=False) for c in AdaptiveMean.cases)

    def numpy(self, x: Ndarray, *, output_size: Pair) -> Ndarray:
        (H, W), (P, Q) = x.shape[2:], output_size
        y = np.zeros((*x.shape[:2], *output_size), np.int32)
        for p in range(P):
            for q in range(Q):
                top, bottom = window_start(p, H, P), window_end(p, H, P)
                left, right = window_start(q, W, Q), window_end(q, W, Q)
                # the place within the window, and then in the image
                best = x[:, :, top:bottom, left:right].reshape(*x.shape[:2], -1).argmax(-1)
                y[:, :, p, q] = (top + best // (right - left)) * W + left + best % (right - left)
        return y

    def kernel(self, y: Array, x: Array, *, output_size: Pair) -> None:
        (H, W), (P, Q) = rows_and_columns(x.shape), output_size
        # threads share images and windows
        for n, p, q in parallel(y.shape[0], P, Q):
            for c, width in channel_vectors(y):
                # the window's first pixel, should all be -inf
                start = float_lanes(window_start(p, H, P) * W + window_start(q, W, Q), width)
                best, best_place = var(LOWEST, width), var(start, width)
                for h in loop(window_end(p, H, P), start=window_start(p, H, P)):
                    for v in loop(window_end(q, W, Q), start=window_start(q, W, Q)):
                        value = x.load((n, c, h, v), width)
                        # the first NaN is kept as well, so that a fault is not hidden
                        is_first_nan = (value != value) & (best.get() == best.get())
                        larger = (value > best.get()) | is_first_nan
                        best.set(where(larger, value, best.get()))
                        best_place.set(where(larger, float_lanes(h * W + v, width), best_place.get()))
                y.store((n, c, p, q), cast(best_place.get(), I32), width)


class AdaptiveMaxPool2d(Adaptive):
    """y[n,c,p,q] = the maximum of x[n,c] over the rows floor(p H / P) to ceil((p + 1) H / P) - 1 and such columns

    The maxima of P x Q windows that cover the image: x [N, C, H, W] -> y [N, C, P, Q]. The gradient goes to the first
    of equal maxima. output_size and errors: as for adaptive_avg_pool2d.
    """

    name, composite = "adaptive_max_pool2d", True
    cases = AdaptiveAvgPool2d.cases

    def numpy(self, x: Ndarray, *, output_size: Pair) -> Ndarray:
        return take_pixels.numpy(x, adaptive_max_index.numpy(x, output_size=output_size))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, output_size: Pair) -> tuple[Tensor, ...]:
        size = equal_windows(x.shape[2:], output_size)
        if size is None or output_size == (1, 1):
            return (put_pixels(dy, adaptive_max_index(x, output_size=output_size), image_size=x.shape[2:]),)
        return (max_pool2d_grad(dy, x, y, kernel_size=size),)

    def expand(self, x: Tensor, *, output_size: Pair) -> Tensor:
        if output_size == (1, 1):
            return max(x, axes=(2, 3), keepdims=True)
        size = equal_windows(x.shape[2:], output_size)
        if size is None:
            return take_pixels(x, adaptive_max_index(x, output_size=output_size))
        return max_pool2d(x, kernel_size=size)


adaptive_mean, adaptive_mean_grad = AdaptiveMean(), AdaptiveMeanGrad()
adaptive_max_index = AdaptiveMaxIndex()
adaptive_avg_pool2d, adaptive_max_pool2d = AdaptiveAvgPool2d(), AdaptiveMaxPool2d()
