"""Average pooling and its gradient; the mean of whole images."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, loops, parallel, var
from foveal.ops.kernels import expression, pool
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.pool import Window, unless
from foveal.ops.op import Case, Lowering, Operator
from foveal.ops.pool import Pair, Pooling, Sides, check_images, spans
from foveal.ops.pool_max import MaxPool2d
from foveal.ops.reduce import broadcast_to, mean
from foveal.ops.window import scatter, sides, taps, windows
from foveal.strides import Ndarray, Shape


class Averages(Pooling):
    """What a window's sum is divided by: `divisor_override`, or the number of its taps that count.

    They are the taps in the image and, with count_include_pad, those in the padding as it was given: what ceil_mode
    adds
    does not count. In the full form of the attributes that part of the padding is `counted`.
    """

    def normalise(
        self,
        *inputs: Any,
        padding: Any = 0,
        count_include_pad: bool = True,
        counted: Any = None,
        divisor_override: int | None = None,
        **how: Any,
    ) -> dict[str, Any]:
        if divisor_override is not None and (divisor_override := int(divisor_override)) < 1:
            raise ShapeError(f"{self.name}: divisor_override is {divisor_override}, it has to be 1 or more")
        given = sides(padding, f"{self.name}: padding")
        if counted is None:
            counted = given if count_include_pad else (0, 0, 0, 0)
        return super().normalise(*inputs, padding=padding, **how) | {
            "counted": tuple(counted),
            "divisor_override": divisor_override,
        }

    @staticmethod
    def shares(window: Window, counts: tuple[int, ...], image: tuple[int, ...]) -> Ndarray:
        """What the sum of each window is multiplied by: [P, Q]."""
        P, Q = counts
        rows = [[window.share(p, q, (P, Q), image) for q in range(Q)] for p in range(P)]
        return np.array(rows, np.float64)


class AvgPool2d(Averages):
    """y[n,c,p,q] = 1/m sum_rs x[n, c, p u + r d - pad, q u + s d - pad], x being 0 in the padding

    m is the number of taps that count (Averages): R S where all of the padding does.
    """

    name, arity, epilogues, reads = "avg_pool2d", 1, True, 0
    cases = (
        *MaxPool2d.cases[:4],
        Case(((1, 3, 6, 7),), {"size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        Case(((1, 18, 7, 5),), {"size": (2, 3), "padding": 1, "dilation": 2, "count_include_pad": False, "stride": 1}),
        Case(((1, 2, 5, 5),), {"size": 2, "stride": 1, "divisor_override": 3}),
    )

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, **divisor: Any) -> Shape:
        return self.pooled(x, size, stride, padding, dilation)

    def numpy(self, x: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, **divisor: Any) -> Ndarray:
        sums = windows(x, size, stride, padding, dilation).sum(axis=(4, 5))
        window = Window(size, stride, padding, dilation, **divisor)
        return (sums * self.shares(window, sums.shape[2:], x.shape[2:])).astype(x.dtype)

    def vjp(self, dy: Any, y: Any, x: Any, **how: Any) -> tuple[Any, ...]:
        return (avg_pool2d_grad(dy, image=x.shape[2:], **how),)

    def kernel(
        self, y: Any, x: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, **divisor: Any
    ) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        window = Window(size, stride, padding, dilation, **divisor)
        for n, p in parallel(N, P):
            for q in loop(Q):
                for c, width in spans(y, n):
                    total = var(0.0, width)
                    for h, v, valid in taps((p, q), (P, Q), (H, W), size, stride, padding, dilation):
                        total += unless(valid, x.load((n, c, h, v), width), 0.0)
                    y.store((n, c, p, q), total.get() * window.share(p, q, (P, Q), (H, W)), width)

    def lower_results(self, to: Lowering, y: EpilogueOutputs, x: Any, **how: Any) -> None:
        pool.lower_forward(to, pool.mean_windows, y, expression.FusedInput.of(x), Window(**how))


class AvgPool2dGrad(Averages):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] / m over the windows that (h, v) lies in; `image` is x's (H, W)"""

    name, arity, epilogues = "avg_pool2d_grad", 1, True
    cases = (
        Case(((2, 3, 3, 4),), {"size": 2, "image": (6, 8)}),
        Case(((2, 20, 4, 3),), {"size": 3, "stride": 2, "padding": 1, "image": (7, 5)}),
        Case(((1, 2, 4, 3),), {"size": (2, 3), "stride": (1, 3), "image": (5, 9)}),
        Case(
            ((1, 3, 4, 4),), {"size": 3, "stride": 2, "padding": (1, 2, 1, 1), "counted": (1, 1, 1, 1), "image": (6, 7)}
        ),
        Case(
            ((1, 18, 7, 3),),
            {"size": (2, 3), "padding": 1, "dilation": 2, "counted": (0, 0, 0, 0), "stride": 1, "image": (7, 5)},
        ),
    )

    def shape(
        self, dy: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, image: Pair, **divisor: Any
    ) -> Shape:
        expected = self.pooled((*dy[:2], *image), size, stride, padding, dilation)
        if dy != expected:
            raise ShapeError(f"{self.name}: dy has shape {dy}, images of {image[0]}x{image[1]} give {expected}")
        return (*dy[:2], *image)

    def numpy(
        self, dy: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, image: Pair, **divisor: Any
    ) -> Ndarray:
        dx = np.zeros((*dy.shape[:2], *image), dy.dtype)
        window = Window(size, stride, padding, dilation, **divisor)
        given = (dy * self.shares(window, dy.shape[2:], image))[..., None, None]
        scatter(dx, np.broadcast_to(given, (*dy.shape, *size)), stride, padding, dilation)
        return dx

    def vjp(self, g: Any, dx: Any, dy: Any, *, image: Pair, **how: Any) -> tuple[Any, ...]:
        return (avg_pool2d(g, **how),)

    def kernel(
        self, dx: Any, dy: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, image: Pair, **divisor: Any
    ) -> None:
        (N, _, H, W), (P, Q) = dx.shape, dy.shape[2:]
        window = Window(size, stride, padding, dilation, **divisor)
        for (n,) in parallel(N):
            for h, v in loops(H, W):
                for c, width in spans(dx, n):
                    dx.store((n, c, h, v), 0.0, width)
            for p, q in loops(P, Q):
                for c, width in spans(dx, n):
                    given = dy.load((n, c, p, q), width) * window.share(p, q, (P, Q), (H, W))
                    for h, v, valid in taps((p, q), (P, Q), (H, W), size, stride, padding, dilation):
                        more = unless(valid, given, 0.0)
                        dx.store((n, c, h, v), dx.load((n, c, h, v), width) + more, width)

    def lower_results(self, to: Lowering, dx: EpilogueOutputs, dy: Any, *, image: Pair, **how: Any) -> None:
        pool.lower_gather(to, dx, [nhwc(dy)], Window(**how))


class GlobalAvgPool2d(Operator):
    """y[n,c,0,0] = mean of x[n,c,h,v] over the whole image"""

    name, arity, composite = "global_avg_pool2d", 1, True
    cases = (Case(((2, 3, 4, 5),)), Case(((3, 70, 8, 8),)))

    def shape(self, x: Shape) -> Shape:
        check_images(self.name, x)
        return (*x[:2], 1, 1)

    def numpy(self, x: Ndarray) -> Ndarray:
        return x.mean(axis=(2, 3), keepdims=True)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (broadcast_to(dy * (1.0 / (x.shape[2] * x.shape[3])), shape=x.shape),)

    def expand(self, x: Any) -> Any:
        return mean(x, axes=(2, 3), keepdims=True)


avg_pool2d, avg_pool2d_grad, global_avg_pool2d = AvgPool2d(), AvgPool2dGrad(), GlobalAvgPool2d()
