"""Two-dimensional convolution and its two gradients.

What networks call convolution is cross-correlation. Its gradient in x is a true convolution of dy with the weights (the
kernel turned by 180 degrees), its gradient in w a cross-correlation of x with dy; all three are linear in each input,
so each one's gradients are made of the other two.
"""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import fma, loops, parallel, var, where
from foveal.ops.kernels.conv import dispatch, select, weight_grad, winograd, winograd_grid, winograd_weight_grad
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.op import Case, Lowering, Operator, Type
from foveal.ops.window import check_window, output_size, pair, scatter, sides, windows
from foveal.strides import Ndarray, Shape, filters_last

Pair = tuple[int, int]


Sides = tuple[int, int, int, int]


class Convolution(Operator):
    """What the three share: hyper-parameters in full form."""

    arity = 2

    def normalise(
        self, *inputs: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, **size: Any
    ) -> dict[str, Any]:
        full = {
            "stride": pair(stride, f"{self.name}: stride"),
            "padding": sides(padding, f"{self.name}: padding"),
            "dilation": pair(dilation, f"{self.name}: dilation"),
            "groups": int(groups),
        }
        check_window(self.name, (1, 1), full["stride"], full["padding"], full["dilation"])  # type: ignore[arg-type]
        if groups < 1:
            raise ShapeError(f"{self.name}: groups {groups} has to be 1 or more")
        return full | {key: pair(value, f"{self.name}: {key}") for key, value in size.items()}


def flops(image: Type, filters: Shape) -> int:
    """2 N K P Q C/G R S: a multiplication and an addition per tap, the same for the convolution and both gradients."""
    return 2 * image.size * math.prod(filters[1:])


def check_channels(name: str, x: Shape, w: Shape, groups: int) -> None:
    if len(x) != 4 or len(w) != 4:
        raise ShapeError(f"{name}: takes images [N, C, H, W] and filters [K, C/groups, R, S], got shapes {x} and {w}")
    if x[1] % groups or w[0] % groups:
        raise ShapeError(
            f"{name}: {groups} groups do not divide {x[1]} input channels and {w[0]} filters (shapes {x} and {w})"
        )
    if x[1] // groups != w[1]:
        raise ShapeError(
            f"{name}: x has {x[1]} channels in {groups} group(s) (shape {x}), the filters take {w[1]} channels each"
            f" (shape {w}); both have to agree"
        )


class Conv2d(Convolution):
    """y[n,k,p,q] = sum_crs x[n, c, p u + r d - pad, q u + s d - pad] w[k,c,r,s]; x is 0 outside of the image"""

    name, epilogues = "conv2d", True
    cases = (
        Case(((2, 3, 6, 7), (4, 3, 3, 3)), {"padding": 1}),
        Case(((1, 1, 9, 9), (6, 1, 5, 5))),
        Case(((2, 8, 5, 4), (20, 8, 1, 1))),
        Case(((2, 5, 9, 8), (18, 5, 3, 3)), {"stride": 2, "padding": (1, 0, 0, 2)}),
        Case(((1, 4, 11, 13), (3, 4, 3, 2)), {"stride": (3, 2), "dilation": (2, 3), "padding": (2, 3)}),
        Case(((2, 6, 5, 5), (4, 3, 3, 3)), {"groups": 2, "padding": 1}),
        Case(((2, 18, 6, 5), (18, 1, 3, 3)), {"groups": 18, "padding": 1, "stride": (1, 2)}),
        Case(((1, 16, 5, 6), (33, 16, 3, 3)), {"padding": 1}),
        Case(((1, 3, 33, 3), (2, 3, 7, 1)), {"stride": (4, 1), "padding": (3, 0)}),
        Case(((1, 20, 13, 8), (24, 20, 3, 3)), {"padding": 1}),
        Case(((2, 32, 2, 7), (40, 32, 3, 3)), {"padding": (1, 1, 0, 2)}),
        Case(((1, 2, 17, 13), (18, 2, 3, 3)), {"padding": 1}),  # bands of rows
        Case(((1, 2, 18, 48), (3, 2, 5, 5)), {"stride": 2, "padding": 2}),  # bands, few inputs
        Case(((5, 9, 4, 3), (37, 9, 3, 3)), {"padding": 1}),  # tiles of images
        Case(((26, 8, 5, 4), (6, 8, 3, 5)), {"stride": (2, 1), "padding": (2, 0, 3, 2), "dilation": (2, 1)}),
        Case(((4, 16, 3, 3), (16, 8, 3, 3)), {"padding": 2, "groups": 2, "dilation": 2}),
        Case(((3, 8, 1, 2), (17, 8, 5, 3)), {"padding": (2, 1)}),  # most taps meet padding only
        Case(((3, 34, 6, 5), (39, 34, 1, 1))),  # pixels of all images in one row
        Case(((2, 6, 5, 5), (4, 3, 1, 1)), {"groups": 2, "padding": 1}),
        Case(((2, 19, 21, 13), (19, 1, 3, 3)), {"groups": 19, "padding": 1}),
        Case(((1, 3, 9, 40), (3, 1, 7, 7)), {"groups": 3, "padding": (3, 6), "dilation": (1, 2)}),
        Case(((3, 33, 4, 4), (33, 1, 3, 3)), {"groups": 33, "padding": 1, "stride": 2}),
        Case(((16, 1, 9, 21), (6, 1, 5, 5)), {"padding": 2}),  # lanes over images, and below
        Case(((31, 2, 6, 5), (5, 2, 5, 3)), {"padding": 1, "stride": (1, 2)}),
        Case(((33, 6, 7, 4), (10, 3, 5, 5)), {"padding": 2, "groups": 2}),
        Case(((2, 8, 6, 5), (80, 2, 3, 3)), {"padding": 1, "groups": 4}),
        Case(((50, 5, 3, 3), (1, 5, 3, 3)), {"padding": (2, 1, 0, 2), "dilation": (1, 2)}),
    )

    def shape(self, x: Shape, w: Shape, *, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> Shape:
        check_channels(self.name, x, w, groups)
        return (x[0], w[0], *output_size(self.name, x[2:], w[2:], stride, padding, dilation))

    def numpy(self, x: Ndarray, w: Ndarray, *, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> Ndarray:
        K, C, R, S = w.shape
        view = windows(x, (R, S), stride, padding, dilation)
        N, _, P, Q, _, _ = view.shape
        grouped = view.reshape(N, groups, C, P, Q, R, S)
        filters = w.reshape(groups, K // groups, C, R, S)
        return np.einsum("ngcpqrs,gkcrs->ngkpq", grouped, filters, optimize=True).reshape(N, K, P, Q)

    def vjp(self, dy: Any, y: Any, x: Any, w: Any, **how: Any) -> tuple[Any, ...]:
        return (conv2d_input_grad(dy, w, size=x.shape[2:], **how), conv2d_weight_grad(dy, x, size=w.shape[2:], **how))

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return flops(y, inputs[1].shape)

    def problem(self, x: Shape, w: Shape, **how: Any) -> select.Problem:
        return select.problem_of("forward", self.shape(x, w, **how), w, how)

    def kernel(self, y: Any, x: Any, w: Any, *, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> None:
        (N, K, P, Q), (_, C, R, S) = y.shape, w.shape
        H, W = x.shape[2:]
        for n, k in parallel(N, K):
            first = (k // (K // groups)) * C
            for p, q in loops(P, Q):
                acc = var()
                for c, r, s in loops(C, R, S):
                    h = p * stride[0] + r * dilation[0] - padding[0]
                    v = q * stride[1] + s * dilation[1] - padding[2]
                    acc += inside(x, n, first + c, h, v, H, W) * w[k, c, r, s]
                y[n, k, p, q] = acc

    def lower(self, to: Lowering, y: Any, x: Any, w: Any, **how: Any) -> None:
        self.lower_results(to, EpilogueOutputs([y]), x, w, **how)

    def lower_results(self, to: Lowering, y: EpilogueOutputs, x: Any, w: Any, **how: Any) -> None:
        chosen = select.choose(self.problem(x.shape, w.shape, **how))
        if chosen.m:
            before = how["padding"][::2]
            grid = winograd_grid.grid_of(chosen, how["stride"][0], y.shape[0], y.shape[2:], before)
            return winograd.lower(to, y, x, w, grid, chosen, flip=False)
        dispatch.lower_forward(to, y, x, w, **how)


def inside(x: Any, n: Any, c: Any, h: Any, v: Any, H: int, W: int) -> Any:
    """x[n, c, h, v], or 0 outside of the image; the address is kept inside either way."""
    valid = (h >= 0) & (h < H) & (v >= 0) & (v < W)
    return where(valid, x[n, c, where(valid, h, 0), where(valid, v, 0)], 0.0)


class Conv2dInputGrad(Convolution):
    """dx[n,c,h,v] = sum_krs dy[n,k,p,q] w[k,c,r,s] over all p u + r d - pad = h, q u + s d - pad = v

    The transposed convolution; with stride 1 a true convolution. `size` is (H, W).
    """

    name, epilogues = "conv2d_input_grad", True
    cases = (
        Case(((2, 4, 6, 7), (4, 3, 3, 3)), {"padding": 1, "size": (6, 7)}),
        Case(((1, 6, 5, 5), (6, 1, 5, 5)), {"size": (9, 9)}),
        Case(((2, 18, 5, 4), (18, 5, 3, 3)), {"stride": 2, "padding": (1, 0, 0, 2), "size": (10, 8)}),
        Case(
            ((1, 3, 4, 7), (3, 20, 3, 2)), {"stride": (3, 2), "dilation": (2, 3), "padding": (2, 3), "size": (11, 10)}
        ),
        Case(((2, 4, 5, 5), (4, 3, 3, 3)), {"groups": 2, "padding": 1, "size": (5, 5)}),
        Case(((2, 18, 6, 3), (18, 1, 3, 3)), {"groups": 18, "padding": 1, "stride": (1, 2), "size": (6, 5)}),
        Case(((1, 8, 3, 3), (8, 4, 1, 1)), {"stride": 2, "size": (6, 5)}),
        Case(((1, 24, 9, 8), (24, 20, 3, 3)), {"padding": 1, "size": (9, 8)}),
        Case(((2, 40, 1, 5), (40, 32, 3, 3)), {"padding": (2, 0, 0, 2), "size": (1, 5)}),
        Case(((5, 8, 3, 2), (8, 20, 1, 1)), {"stride": 2, "size": (6, 4)}),  # tiles of images, phases without taps
        Case(((5, 9, 3, 4), (9, 18, 3, 3)), {"stride": 2, "padding": 1, "size": (6, 7)}),
        Case(((16, 7, 4, 5), (7, 6, 5, 5)), {"size": (8, 9)}),  # lanes over images, and below
        Case(((46, 9, 3, 4), (9, 3, 3, 3)), {"stride": 2, "padding": 1, "size": (6, 7)}),
        Case(((48, 3, 2, 3), (3, 20, 3, 3)), {"padding": 1, "size": (2, 3)}),
    )

    def shape(
        self, dy: Shape, w: Shape, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, size: Pair
    ) -> Shape:
        x = (dy[0], w[1] * groups, *size)
        check_channels(self.name, x, w, groups)
        expected = (dy[0], w[0], *output_size(self.name, size, w[2:], stride, padding, dilation))
        if dy != expected:
            raise ShapeError(f"{self.name}: dy has shape {dy}, images of {size[0]}x{size[1]} give {expected}")
        return x

    def numpy(
        self, dy: Ndarray, w: Ndarray, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, size: Pair
    ) -> Ndarray:
        K, C, R, S = w.shape
        N, _, P, Q = dy.shape
        spread = np.einsum(
            "ngkpq,gkcrs->ngcpqrs",
            dy.reshape(N, groups, K // groups, P, Q),
            w.reshape(groups, K // groups, C, R, S),
            optimize=True,
        )
        dx = np.zeros((N, C * groups, *size), spread.dtype)
        scatter(dx, spread.reshape(N, C * groups, P, Q, R, S), stride, padding, dilation)
        return dx

    def vjp(self, g: Any, dx: Any, dy: Any, w: Any, *, size: Pair, **how: Any) -> tuple[Any, ...]:
        return conv2d(g, w, **how), conv2d_weight_grad(dy, g, size=w.shape[2:], **how)

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return flops(inputs[0], inputs[1].shape)

    def problem(self, dy: Shape, w: Shape, *, size: Pair, **how: Any) -> select.Problem:
        dx, (K, C, R, S) = self.shape(dy, w, size=size, **how), w
        kind = "forward" if how["stride"] == (1, 1) else "transposed"
        return select.problem_of(kind, dx, (C, K, R, S), how)

    def kernel(
        self, dx: Any, dy: Any, w: Any, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, size: Pair
    ) -> None:
        (N, C, H, W), (_, K, P, Q), (_, inputs, R, S) = dx.shape, dy.shape, w.shape
        filters = K // groups
        for n, c in parallel(N, C):
            first, channel = (c // inputs) * filters, c % inputs
            for h, v in loops(H, W):
                acc = var()
                for k, r, s in loops(filters, R, S):
                    # shifted by a multiple of the stride, so that the division sees no negative number
                    a = h + padding[0] - r * dilation[0] + R * dilation[0] * stride[0]
                    b = v + padding[2] - s * dilation[1] + S * dilation[1] * stride[1]
                    hit = (a % stride[0] == 0) & (b % stride[1] == 0)
                    p, q = a // stride[0] - R * dilation[0], b // stride[1] - S * dilation[1]
                    value = inside(dy, n, first + k, p, q, P, Q)
                    acc.fma(where(hit, value, 0.0), w[first + k, channel, r, s])
                dx[n, c, h, v] = acc

    def lower(self, to: Lowering, dx: Any, dy: Any, w: Any, **how: Any) -> None:
        self.lower_results(to, EpilogueOutputs([dx]), dy, w, **how)

    def lower_results(self, to: Lowering, dx: EpilogueOutputs, dy: Any, w: Any, *, size: Pair, **how: Any) -> None:
        turned = w.permuted(1, 0, 2, 3)
        chosen = select.choose(self.problem(dy.shape, w.shape, size=size, **how))
        if chosen.m:
            before = how["padding"][::2]
            grid = winograd_grid.turned_grid(chosen, how["stride"][0], dx.shape[0], size, before)
            return winograd.lower(to, dx, dy, turned, grid, chosen, flip=True)
        dispatch.lower_input_grad(to, dx, dy, w, **how)


class Conv2dWeightGrad(Convolution):
    """dw[k,c,r,s] = sum_npq dy[n,k,p,q] x[n, c, p u + r d - pad, q u + s d - pad]; `size` is (R, S)"""

    name = "conv2d_weight_grad"
    cases = (
        Case(((2, 4, 6, 7), (2, 3, 6, 7)), {"padding": 1, "size": (3, 3)}),
        Case(((1, 6, 5, 5), (1, 1, 9, 9)), {"size": (5, 5)}),
        Case(((2, 18, 5, 4), (2, 5, 10, 8)), {"stride": 2, "padding": (1, 0, 0, 2), "size": (3, 3)}),
        Case(
            ((1, 3, 4, 7), (1, 20, 11, 10)), {"stride": (3, 2), "dilation": (2, 3), "padding": (2, 3), "size": (3, 2)}
        ),
        Case(((2, 4, 5, 5), (2, 6, 5, 5)), {"groups": 2, "padding": 1, "size": (3, 3)}),
        Case(((2, 18, 6, 3), (2, 18, 6, 5)), {"groups": 18, "padding": 1, "stride": (1, 2), "size": (3, 3)}),
        Case(((34, 18, 2, 2), (34, 5, 2, 2)), {"padding": 1, "size": (3, 3)}),
        Case(((1, 24, 9, 8), (1, 20, 9, 8)), {"padding": 1, "size": (3, 3)}),
        Case(((2, 3, 1, 2), (2, 2, 1, 2)), {"stride": (1, 2), "padding": (0, 0, 0, 1), "size": (1, 1)}),
        Case(((1, 40, 2, 7), (1, 32, 2, 7)), {"padding": (2, 0, 0, 2), "size": (3, 3)}),
        Case(((2, 6, 6, 1), (2, 3, 4, 2)), {"stride": (1, 3), "padding": (0, 2, 2, 0), "size": (1, 2)}),  # padding only
        Case(((16, 6, 9, 21), (16, 1, 9, 21)), {"padding": 2, "size": (5, 5)}),  # lanes over images, and below
        Case(
            ((45, 11, 3, 4), (45, 3, 8, 9)), {"stride": 2, "padding": (0, 1, 1, 2), "dilation": (2, 1), "size": (3, 5)}
        ),
        Case(((30, 1, 7, 5), (30, 2, 8, 6)), {"size": (2, 2)}),
    )

    def shape(
        self, dy: Shape, x: Shape, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, size: Pair
    ) -> Shape:
        w = (dy[1], x[1] // groups, *size)
        check_channels(self.name, x, w, groups)
        expected = (x[0], dy[1], *output_size(self.name, x[2:], size, stride, padding, dilation))
        if dy != expected:
            raise ShapeError(f"{self.name}: dy has shape {dy}, x of shape {x} gives {expected}")
        return w

    def numpy(
        self, dy: Ndarray, x: Ndarray, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, size: Pair
    ) -> Ndarray:
        view = windows(x, size, stride, padding, dilation)
        N, C, P, Q, R, S = view.shape
        P, Q = dy.shape[2:]
        dw = np.einsum(
            "ngkpq,ngcpqrs->gkcrs",
            dy.reshape(N, groups, -1, P, Q),
            view.reshape(N, groups, C // groups, *view.shape[2:]),
            optimize=True,
        )
        return dw.reshape(dy.shape[1], C // groups, R, S)

    def vjp(self, g: Any, dw: Any, dy: Any, x: Any, *, size: Pair, **how: Any) -> tuple[Any, ...]:
        return conv2d(x, g, **how), conv2d_input_grad(dy, g, size=x.shape[2:], **how)

    def strides(self, shape: Shape, *inputs: Any) -> Shape:
        return filters_last(shape)

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return flops(inputs[0], y.shape)

    def problem(self, dy: Shape, x: Shape, *, size: Pair, **how: Any) -> select.Problem:
        return select.problem_of("weight", dy, self.shape(dy, x, size=size, **how), how)

    def kernel(
        self, dw: Any, dy: Any, x: Any, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, size: Pair
    ) -> None:
        (K, C, R, S), (N, _, P, Q), (H, W) = dw.shape, dy.shape, x.shape[2:]
        for k, c in parallel(K, C):
            first = (k // (K // groups)) * C
            for r, s in loops(R, S):
                acc = var()
                for n, p, q in loops(N, P, Q):
                    h = p * stride[0] + r * dilation[0] - padding[0]
                    v = q * stride[1] + s * dilation[1] - padding[2]
                    acc.set(fma(dy[n, k, p, q], inside(x, n, first + c, h, v, H, W), acc.get()))
                dw[k, c, r, s] = acc

    def lower(self, to: Lowering, dw: Any, dy: Any, x: Any, *, size: Pair, **how: Any) -> None:
        chosen = select.choose(self.problem(dy.shape, x.shape, size=size, **how))
        if chosen.m:
            before = how["padding"][::2]
            grid = winograd_grid.grid_of(chosen, how["stride"][0], dy.shape[0], dy.shape[2:], before)
            return winograd_weight_grad.lower(to, dw, dy, x, grid, chosen)
        weight_grad.lower(to, dw, dy, x, **how)


conv2d = Conv2d()


conv2d_input_grad = Conv2dInputGrad()


conv2d_weight_grad = Conv2dWeightGrad()
