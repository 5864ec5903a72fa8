"""Pooling by the p-norm of each window."""

import math
from typing import Any

from foveal.errors import ShapeError
from foveal.ops.elementwise import equal, exp, log, sqrt, where
from foveal.ops.kernels.pool import Window
from foveal.ops.norm import magnitude
from foveal.ops.op import Case
from foveal.ops.pool import Pair, Sides
from foveal.ops.pool_average import Averages, avg_pool2d
from foveal.ops.pool_max import max_pool2d
from foveal.ops.window import windows
from foveal.strides import Ndarray, Shape


class LpPool2d(Averages):
    """y[n,c,p,q] = (R S / m sum_rs |x[n, c, p u + r d - pad, q u + s d - pad]|^norm_type)^(1 / norm_type)

    m is the number of taps that count: R S but for windows that ceil_mode lets reach beyond the padding, whose sums are
    scaled as if they were whole, as PyTorch has it. Not `absolute`: x^norm_type keeps the sign of x where norm_type is
    odd,
    as in PyTorch (sum pooling for 1; NaN for a negative sum's other roots). The largest |x| where norm_type is
    infinite.
    The gradient where a window's sum is 0 is 0, as PyTorch has it.
    """

    name, arity, composite = "lp_pool2d", 1, True
    cases = (
        Case(((2, 3, 6, 5),), {"size": 2, "norm_type": 2}),
        Case(((1, 18, 5, 5),), {"size": 3, "stride": 2, "padding": 1, "norm_type": 2.5}),
        Case(((1, 3, 6, 5),), {"size": 2, "stride": 1, "norm_type": 1, "absolute": False, "dilation": (2, 1)}),
    )

    def normalise(self, *inputs: Any, norm_type: float = 2, absolute: bool = True, **how: Any) -> dict[str, Any]:
        if not norm_type > 0:
            raise ShapeError(f"{self.name}: norm_type is {norm_type}, it has to be above 0")
        whole = norm_type != math.inf and norm_type == int(norm_type)
        return super().normalise(*inputs, **how) | {
            "norm_type": int(norm_type) if whole else float(norm_type),
            "absolute": bool(absolute),
        }

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair, **how: Any) -> Shape:
        return self.pooled(x, size, stride, padding, dilation)

    def numpy(
        self,
        x: Ndarray,
        *,
        size: Pair,
        stride: Pair,
        padding: Sides,
        dilation: Pair,
        norm_type: float,
        absolute: bool,
        **divisor: Any,
    ) -> Ndarray:
        if norm_type == math.inf:
            return windows(abs(x), size, stride, padding, dilation).max(axis=(4, 5))
        powered = (abs(x) if absolute else x) ** norm_type
        sums = windows(powered, size, stride, padding, dilation).sum(axis=(4, 5))
        window = Window(size, stride, padding, dilation, **divisor)
        shares = self.shares(window, sums.shape[2:], x.shape[2:]) * (size[0] * size[1])
        return ((sums * shares) ** (1 / norm_type)).astype(x.dtype)

    def expand(self, x: Any, *, norm_type: float, absolute: bool, **window: Any) -> Any:
        if norm_type == math.inf:
            sliding = {key: window[key] for key in ("size", "stride", "padding", "dilation")}
            return max_pool2d(magnitude(x), **sliding)
        means = avg_pool2d(power(x, norm_type, absolute), **window)
        return root(means * float(math.prod(window["size"])), norm_type)


def power(x: Any, p: float, absolute: bool) -> Any:
    """|x|^p, or x^p where p is whole and the sign is kept."""
    if not isinstance(p, int):
        x = magnitude(x)
        return where(x, exp(log(where(x, x, 1.0)) * p), 0.0)
    x = magnitude(x) if absolute and p % 2 else x
    y = x
    for _ in range(p - 1):
        y = y * x
    return y


def root(sums: Any, p: float) -> Any:
    """sums^(1/p), with the gradient 0 at 0."""
    zero = equal(sums, 0.0)
    if p == 1:
        return where(zero, 0.0, sums)
    safe = where(zero, 1.0, sums)
    return where(zero, 0.0, sqrt(safe) if p == 2 else exp(log(safe) * (1.0 / p)))


lp_pool2d = LpPool2d()
