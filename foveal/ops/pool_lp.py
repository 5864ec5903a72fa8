"""Pooling by the p-norm of each window."""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kinds import AnyNumber
from foveal.ops.elementwise import equal, exp, log, sqrt, where
from foveal.ops.norm import magnitude
from foveal.ops.op import Case, HasShape, Tensor
from foveal.ops.pool import Pooling, check_images, rows_and_columns
from foveal.ops.pool_average import avg_pool2d
from foveal.ops.pool_max import max_pool2d
from foveal.ops.pool_window import MeanWindow
from foveal.ops.window import PaddingArgument, PairArgument, Sides, Window
from foveal.strides import Ndarray, Shape


class LpPool2d(Pooling):
    """y[n,c,p,q] = (R S / m sum_rs |x[n, c, p u + r d - pad, q u + s d - pad]|^norm_type)^(1 / norm_type)

    The p-norm of each window, with p = norm_type: images x [N, C, H, W] -> y [N, C, P, Q]. m is the number of taps that
    count, as for avg_pool2d: R S, but for windows that ceil_mode lets reach beyond the padding, whose sums are scaled
    as if they were whole, as in PyTorch. The gradient where a window's sum is 0 is 0, as there.

    norm_type: above 0; infinity gives the largest |x|. absolute: if False, x^norm_type keeps the sign of x where
    norm_type is odd, as in PyTorch (1 is sum pooling; a root of a negative sum is NaN). The other arguments and the
    errors are those of avg_pool2d; ShapeError as well where norm_type is not above 0.
    """

    name, arity, composite = "lp_pool2d", 1, True
    cases = (
        Case(((2, 3, 6, 5),), {"kernel_size": 2, "norm_type": 2}),
        Case(((1, 18, 5, 5),), {"kernel_size": 3, "stride": 2, "padding": 1, "norm_type": 2.5}),
        Case(((1, 3, 6, 5),), {"kernel_size": 2, "stride": 1, "norm_type": 1, "absolute": False, "dilation": (2, 1)}),
    )

    def normalise(
        self,
        x: HasShape,
        *,
        kernel_size: PairArgument,
        norm_type: AnyNumber = 2,
        absolute: bool = True,
        stride: PairArgument | None = None,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        counted: Sides | None = None,
        divisor_override: int | None = None,
    ) -> dict[str, Any]:
        if not norm_type > 0:
            raise ShapeError(f"{self.name}: norm_type is {norm_type}, it has to be above 0")
        check_images(self.name, x.shape)
        # whole powers are products, others go through logarithms (see power)
        whole = norm_type != math.inf and norm_type == int(norm_type)
        window = Window.of(self.name, kernel_size, kernel_size if stride is None else stride, padding, dilation)
        window = MeanWindow.dividing(self.name, window, count_include_pad, counted, divisor_override)
        return {
            "window": window.ceiled(x.shape[2:]) if ceil_mode else window,
            "norm_type": int(norm_type) if whole else float(norm_type),
            "absolute": bool(absolute),
        }

    def window(self, *, window: MeanWindow, norm_type: float, absolute: bool) -> MeanWindow:
        return window

    def shape(self, x: Shape, *, window: MeanWindow, norm_type: float, absolute: bool) -> Shape:
        return self.pooled(x, window)

    def numpy(self, x: Ndarray, *, window: MeanWindow, norm_type: float, absolute: bool) -> Ndarray:
        if norm_type == math.inf:
            return np.asarray(window.view(abs(x)).max(axis=(4, 5)))
        powered = (abs(x) if absolute else x) ** norm_type
        sums = window.view(powered).sum(axis=(4, 5))
        # [P, Q]: what scales each window's sum as if all R S taps counted
        scale = window.shares(rows_and_columns(sums.shape), rows_and_columns(x.shape)) * math.prod(window.size)
        return ((sums * scale) ** (1 / norm_type)).astype(x.dtype)

    def expand(self, x: Tensor, *, window: MeanWindow, norm_type: float, absolute: bool) -> Tensor:
        if norm_type == math.inf:
            return max_pool2d(magnitude(x), **Window.arguments(window))
        means = avg_pool2d(power(x, norm_type, absolute), **window.arguments())
        return root(means * float(math.prod(window.size)), norm_type)


def power(x: Tensor, p: float, absolute: bool) -> Tensor:
    """|x|^p, or x^p where p is whole and the sign is kept."""
    if not isinstance(p, int):
        x = magnitude(x)
        zero = equal(x, 0.0)
        return where(zero, 0.0, exp(log(where(zero, 1.0, x)) * p))
    x = magnitude(x) if absolute and p % 2 else x
    y = x
    for _ in range(p - 1):
        y = y * x
    return y


def root(sums: Tensor, p: float) -> Tensor:
    """sums^(1/p), with the gradient 0 at 0."""
    zero = equal(sums, 0.0)
    if p == 1:
        return where(zero, 0.0, sums)
    safe = where(zero, 1.0, sums)
    return where(zero, 0.0, sqrt(safe) if p == 2 else exp(log(safe) * (1.0 / p)))


lp_pool2d = LpPool2d()
