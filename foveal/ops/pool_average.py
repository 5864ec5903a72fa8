"""Average pooling and its gradient; the mean of whole images."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loops, parallel, var
from foveal.ops.kernels import pool
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.expression import FusedInput
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.pool_loops import value_where
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor
from foveal.ops.pool import Pooling, add_at, channel_vectors, check_images, output_vectors, rows_and_columns, zero_image
from foveal.ops.pool_max import MaxPool2d
from foveal.ops.pool_window import MeanWindow
from foveal.ops.reduce import broadcast_to, mean
from foveal.ops.window import PaddingArgument, Pair, PairArgument, Sides, Window, pair
from foveal.strides import Ndarray, Shape
from foveal.view import View


class AvgPool2d(Pooling):
    """y[n,c,p,q] = 1/m sum_rs x[n, c, p u + r d - pad, q u + s d - pad], where x is 0 in the padding

    The mean of each window: images x [N, C, H, W] -> y [N, C, P, Q]. m is `divisor_override` or, where that is None,
    the number of the window's taps in the image and in the padding that counts: R S where all of it does. P = floor((H
    + pads - d (R - 1) - 1) / u) + 1, Q alike.

    kernel_size, stride, padding, dilation, ceil_mode: as for max_pool2d. count_include_pad: True if the given padding
    counts; what ceil_mode adds never does. counted: the part of the padding that counts, (top, bottom, left, right); it
    decides instead of count_include_pad unless it is None.

    Raises ShapeError where x is not four-dimensional, a number is out of range, a window does not fit, or would lie in
    the padding only.
    """

    name, arity, epilogues, reads = "avg_pool2d", 1, True, 0
    cases = (
        *MaxPool2d.cases[:4],
        Case(((1, 3, 6, 7),), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        Case(
            ((1, 18, 7, 5),),
            {"kernel_size": (2, 3), "padding": 1, "dilation": 2, "count_include_pad": False, "stride": 1},
        ),
        Case(((1, 2, 5, 5),), {"kernel_size": 2, "stride": 1, "divisor_override": 3}),
        Case(((1, 3, 9, 13),), {"kernel_size": (9, 8), "padding": 3, "dilation": (1, 2), "stride": (3, 2)}),
        Case(((2, 70, 9, 10),), {"kernel_size": (9, 3), "stride": (1, 4)}),
    )

    def normalise(
        self,
        x: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument | None = None,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        counted: Sides | None = None,
        divisor_override: int | None = None,
    ) -> dict[str, Any]:
        check_images(self.name, x.shape)
        window = Window.of(self.name, kernel_size, kernel_size if stride is None else stride, padding, dilation)
        window = MeanWindow.dividing(self.name, window, count_include_pad, counted, divisor_override)
        return {"window": window.ceiled(x.shape[2:]) if ceil_mode else window}

    def window(self, *, window: MeanWindow) -> MeanWindow:
        return window

    def shape(self, x: Shape, *, window: MeanWindow) -> Shape:
        return self.pooled(x, window)

    def numpy(self, x: Ndarray, *, window: MeanWindow) -> Ndarray:
        sums = window.view(x).sum(axis=(4, 5))
        return (sums * window.shares(rows_and_columns(sums.shape), rows_and_columns(x.shape))).astype(x.dtype)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, window: MeanWindow) -> tuple[Tensor, ...]:
        return (avg_pool2d_grad(dy, image_size=x.shape[2:], **window.arguments()),)

    def kernel(self, y: Array, x: Array, *, window: MeanWindow) -> None:
        counts, image = rows_and_columns(y.shape), rows_and_columns(x.shape)
        for n, p, q, c, width in output_vectors(y):
            total = var(0.0, width)
            for h, v, valid in window.pixels((p, q), counts, image):
                total += value_where(valid, x.load((n, c, h, v), width), 0.0)
            y.store((n, c, p, q), total.get() * window.share(p, q, counts, image), width)

    def lower_results(
        self, lowering: Lowering, y: EpilogueOutputs, x: View | FusedInput, *, window: MeanWindow
    ) -> None:
        pool.lower_mean(lowering, y, FusedInput.of(x), window)


class AvgPool2dGrad(Pooling):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] / m over the windows that (h, v) lies in

    The gradient of avg_pool2d: dy [N, C, P, Q] -> dx [N, C, H, W]. image_size: (H, W). The other arguments are those of
    avg_pool2d. Raises ShapeError where such images do not give dy's shape.
    """

    name, arity, epilogues = "avg_pool2d_grad", 1, True
    cases = (
        Case(((2, 3, 3, 4),), {"kernel_size": 2, "image_size": (6, 8)}),
        Case(((2, 20, 4, 3),), {"kernel_size": 3, "stride": 2, "padding": 1, "image_size": (7, 5)}),
        Case(((1, 2, 4, 3),), {"kernel_size": (2, 3), "stride": (1, 3), "image_size": (5, 9)}),
        Case(
            ((1, 3, 4, 4),),
            {"kernel_size": 3, "stride": 2, "padding": (1, 2, 1, 1), "counted": (1, 1, 1, 1), "image_size": (6, 7)},
        ),
        Case(
            ((1, 18, 7, 3),),
            {
                "kernel_size": (2, 3),
                "padding": 1,
                "dilation": 2,
                "counted": (0, 0, 0, 0),
                "stride": 1,
                "image_size": (7, 5),
            },
        ),
        Case(
            ((1, 3, 3, 3),),
            {"kernel_size": (9, 8), "padding": 3, "dilation": (1, 2), "stride": (3, 2), "image_size": (9, 13)},
        ),
    )

    def normalise(
        self,
        dy: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument | None = None,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        counted: Sides | None = None,
        divisor_override: int | None = None,
        image_size: PairArgument,
    ) -> dict[str, Any]:
        window = Window.of(self.name, kernel_size, kernel_size if stride is None else stride, padding, dilation)
        window = MeanWindow.dividing(self.name, window, count_include_pad, counted, divisor_override)
        full = pair(image_size, f"{self.name}: image_size")
        return {"window": window.ceiled(full) if ceil_mode else window, "image_size": full}

    def shape(self, dy: Shape, *, window: MeanWindow, image_size: Pair) -> Shape:
        expected = self.pooled((*dy[:2], *image_size), window)
        if dy != expected:
            raise ShapeError(
                f"{self.name}: dy has shape {dy}, images of {image_size[0]}x{image_size[1]} give {expected}"
            )
        return (*dy[:2], *image_size)

    def numpy(self, dy: Ndarray, *, window: MeanWindow, image_size: Pair) -> Ndarray:
        dx = np.zeros((*dy.shape[:2], *image_size), dy.dtype)
        shares = (dy * window.shares(rows_and_columns(dy.shape), image_size))[..., None, None]
        window.add_to(dx, np.broadcast_to(shares, (*dy.shape, *window.size)))
        return dx

    def vjp(self, g: Tensor, dx: Tensor, dy: Tensor, *, window: MeanWindow, image_size: Pair) -> tuple[Tensor, ...]:
        return (avg_pool2d(g, **window.arguments()),)

    def kernel(self, dx: Array, dy: Array, *, window: MeanWindow, image_size: Pair) -> None:
        N, counts, image = dx.shape[0], rows_and_columns(dy.shape), rows_and_columns(dx.shape)
        # windows may overlap, so a thread has a whole image
        for (n,) in parallel(N):
            zero_image(dx, n)
            for p, q in loops(*counts):
                for c, width in channel_vectors(dx):
                    share = dy.load((n, c, p, q), width) * window.share(p, q, counts, image)
                    for h, v, valid in window.pixels((p, q), counts, image):
                        add_at(dx, (n, c, h, v), value_where(valid, share, 0.0), width)

    def lower_results(
        self, lowering: Lowering, dx: EpilogueOutputs, dy: View, *, window: MeanWindow, image_size: Pair
    ) -> None:
        pool.lower_gather(lowering, dx, [nhwc(dy)], window)


class GlobalAvgPool2d(Operator):
    """y[n,c,0,0] = 1 / (H W) sum_hv x[n,c,h,v]

    The mean of each whole image: x [N, C, H, W] -> y [N, C, 1, 1]. Raises ShapeError where x is not four-dimensional
    or has no pixels.
    """

    name, arity, composite = "global_avg_pool2d", 1, True
    cases = (Case(((2, 3, 4, 5),)), Case(((3, 70, 8, 8),)))

    def normalise(self, x: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, x: Shape) -> Shape:
        check_images(self.name, x)
        if 0 in x[2:]:
            raise ShapeError(f"{self.name}: images of shape {x} have no pixels")
        return (*x[:2], 1, 1)

    def numpy(self, x: Ndarray) -> Ndarray:
        return x.mean(axis=(2, 3), keepdims=True)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return (broadcast_to(dy * (1.0 / (x.shape[2] * x.shape[3])), shape=x.shape),)

    def expand(self, x: Tensor) -> Tensor:
        return mean(x, axes=(2, 3), keepdims=True)


avg_pool2d, avg_pool2d_grad, global_avg_pool2d = AvgPool2d(), AvgPool2dGrad(), GlobalAvgPool2d()
