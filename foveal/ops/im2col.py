"""Convolution as a matrix product: windows as columns, and what can be done with them.

im2col writes the window of each output position as a column of C R S numbers; col2im, its transpose and gradient, adds
the columns back to where they were read. Filters [K, C R S] times the columns is the convolution (Chellapilla, Puri and
Simard 2006); with filters of its own for each position it is a locally connected layer.
"""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, loops, parallel, where
from foveal.ops.conv import conv2d
from foveal.ops.matmul import batch_matmul, matmul
from foveal.ops.op import Case, Operator, Type
from foveal.ops.shape import permute, reshape
from foveal.ops.window import output_size, pair, scatter, window, windows
from foveal.strides import Ndarray, Shape

Pair = tuple[int, int]


Sides = tuple[int, int, int, int]


class Im2col(Operator):
    """y[n, (c,r,s), (p,q)] = x[n, c, p u + r d - pad, q u + s d - pad], 0 outside of the image

    x [N, C, H, W] -> [N, C R S, P Q], both in C order, as torch.nn.Unfold. `size` is (R, S).
    """

    name, arity = "im2col", 1
    cases = (
        Case(((2, 3, 5, 4),), {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 2, 1)}),
        Case(((1, 2, 6, 7),), {"size": 2, "dilation": (3, 2)}),
    )

    def normalise(self, x: Any, *, size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> dict[str, Any]:
        return window(self.name, size, stride, padding, dilation)

    def shape(self, x: Shape, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Shape:
        if len(x) != 4:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W], got shape {x}")
        places = output_size(self.name, x[2:], size, stride, padding, dilation)
        return x[0], x[1] * math.prod(size), math.prod(places)

    def numpy(self, x: Ndarray, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
        view = windows(x, size, stride, padding, dilation)  # [N, C, P, Q, R, S]
        return view.transpose(0, 1, 4, 5, 2, 3).reshape(len(x), x.shape[1] * math.prod(size), -1)

    def vjp(self, dy: Any, y: Any, x: Any, **how: Any) -> tuple[Any, ...]:
        return (col2im(dy, image=x.shape[2:], **how),)

    def kernel(self, y: Any, x: Any, *, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
        (N, C, H, W), (R, S) = x.shape, size
        P, Q = output_size(self.name, x.shape[2:], size, stride, padding, dilation)
        for n, c in parallel(N, C):
            for r, s in loops(R, S):
                row = (c * R + r) * S + s
                for p in loop(P):
                    h = p * stride[0] + r * dilation[0] - padding[0]
                    within = (h >= 0) & (h < H)
                    for q in loop(Q):
                        v = q * stride[1] + s * dilation[1] - padding[2]
                        valid = within & (v >= 0) & (v < W)
                        value = x[n, c, where(valid, h, 0), where(valid, v, 0)]
                        y[n, row, p * Q + q] = where(valid, value, 0.0)


class Col2im(Operator):
    """x[n,c,h,v] = sum of y[n, (c,r,s), (p,q)] over all p u + r d - pad = h, q u + s d - pad = v; `image` is (H, W)

    As torch.nn.Fold. Not the inverse of im2col where windows overlap: it adds what im2col has copied.
    """

    name, arity = "col2im", 1
    cases = (
        Case(((2, 18, 15),), {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 1, 1), "image": (6, 4)}),
        Case(((1, 8, 15),), {"size": 2, "dilation": (3, 2), "image": (6, 7)}),
    )

    def normalise(
        self, y: Any, *, image: Any, size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
    ) -> dict[str, Any]:
        full = window(self.name, size, stride, padding, dilation)
        return full | {"image": pair(image, f"{self.name}: image")}

    def shape(self, y: Shape, *, image: Pair, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Shape:
        P, Q = output_size(self.name, image, size, stride, padding, dilation)
        if len(y) != 3 or y[1] % math.prod(size) or y[2] != P * Q:
            raise ShapeError(
                f"{self.name}: takes columns [N, C R S, P Q], here [N, a multiple of {math.prod(size)}, {P * Q}], got"
                f" shape {y}"
            )
        return y[0], y[1] // math.prod(size), *image

    def numpy(self, y: Ndarray, *, image: Pair, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
        N, C = len(y), y.shape[1] // math.prod(size)
        places = output_size(self.name, image, size, stride, padding, dilation)
        x = np.zeros((N, C, *image), y.dtype)
        values = y.reshape(N, C, *size, *places).transpose(0, 1, 4, 5, 2, 3)
        scatter(x, values, stride, padding, dilation)
        return x

    def vjp(self, g: Any, x: Any, y: Any, *, image: Pair, **how: Any) -> tuple[Any, ...]:
        return (im2col(g, **how),)

    def kernel(self, x: Any, y: Any, *, image: Pair, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
        (N, C, H, W), (R, S) = x.shape, size
        P, Q = output_size(self.name, image, size, stride, padding, dilation)
        for n, c in parallel(N, C):
            for h, v in loops(H, W):
                x[n, c, h, v] = 0.0
            for r, s in loops(R, S):
                row = (c * R + r) * S + s
                for p, q in loops(P, Q):
                    h = p * stride[0] + r * dilation[0] - padding[0]
                    v = q * stride[1] + s * dilation[1] - padding[2]
                    valid = (h >= 0) & (h < H) & (v >= 0) & (v < W)
                    at = n, c, where(valid, h, 0), where(valid, v, 0)
                    x[at] = x[at] + where(valid, y[n, row, p * Q + q], 0.0)


class Conv2dIm2col(Operator):
    """conv2d as one matrix product: filters [K, C R S] times the columns [C R S, N P Q] of all images

    The second way to the same numbers, to be looked at; conv2d's own kernels need no columns in memory, R S times the
    image.
    """

    name, arity, composite = "conv2d_im2col", 2, True
    cases = (
        Case(((2, 3, 6, 7), (4, 3, 3, 3)), {"padding": 1, "stride": (1, 2)}),
        Case(((1, 2, 5, 6), (3, 2, 2, 3)), {"dilation": (2, 1)}),
    )

    def normalise(self, *inputs: Any, **how: Any) -> dict[str, Any]:
        full = conv2d.normalise(*inputs, **how)
        if full.pop("groups") != 1:
            raise ShapeError(
                f"{self.name}: one matrix product has no groups; use conv2d, or one product for each group"
            )
        return full

    def shape(self, x: Shape, w: Shape, **how: Any) -> Shape:
        return conv2d.shape(x, w, groups=1, **how)

    def numpy(self, x: Ndarray, w: Ndarray, **how: Any) -> Ndarray:
        columns = im2col.numpy(x, size=w.shape[2:], **how)
        y = w.reshape(len(w), -1) @ columns  # [K, C R S] times [N, C R S, P Q]
        return y.reshape(self.shape(x.shape, w.shape, **how))

    def vjp(self, dy: Any, y: Any, x: Any, w: Any, **how: Any) -> tuple[Any, ...]:
        N, K, P, Q = dy.shape
        rows = math.prod(w.shape[1:])
        dy = reshape(permute(reshape(dy, shape=(N, K, P * Q)), order=(1, 0, 2)), shape=(K, N * P * Q))
        columns = permute(im2col(x, size=w.shape[2:], **how), order=(1, 0, 2))
        dw = matmul(dy, reshape(columns, shape=(rows, N * P * Q)), tb=True)
        dcolumns = reshape(matmul(reshape(w, shape=(K, rows)), dy, ta=True), shape=(rows, N, P * Q))
        dx = col2im(permute(dcolumns, order=(1, 0, 2)), image=x.shape[2:], size=w.shape[2:], **how)
        return dx, reshape(dw, shape=w.shape)

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return 2 * y.size * math.prod(inputs[1].shape[1:])

    def expand(self, x: Any, w: Any, **how: Any) -> Any:
        K, rows = w.shape[0], math.prod(w.shape[1:])
        N, _, P, Q = self.shape(x.shape, w.shape, **how)
        columns = permute(im2col(x, size=w.shape[2:], **how), order=(1, 0, 2))  # [C R S, N, P Q]
        y = matmul(reshape(w, shape=(K, rows)), reshape(columns, shape=(rows, N * P * Q)))
        return reshape(permute(reshape(y, shape=(K, N, P * Q)), order=(1, 0, 2)), shape=(N, K, P, Q))


class LocallyConnected2d(Operator):
    """y[n,k,p,q] = sum_crs x[n, c, p u + r d - pad, q u + s d - pad] w[(p,q), (c,r,s), k]: no weights are shared

    x [N, C, H, W], w [P Q, C R S, K] -> y [N, K, P, Q]; `size` is (R, S). LeCun 1989, "local connections". If w is the
    same
    at all positions this is conv2d, and the gradient of the shared filter is the sum of the gradients of all.
    """

    name, arity, composite = "locally_connected2d", 2, True
    cases = (
        Case(((2, 3, 5, 4), (6, 18, 7)), {"size": (3, 2), "stride": (2, 2), "padding": (1, 1, 0, 1)}),
        Case(((3, 2, 3, 3), (4, 8, 18)), {"size": 2}),
    )

    def normalise(
        self, *inputs: Any, size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
    ) -> dict[str, Any]:
        return window(self.name, size, stride, padding, dilation)

    def places(self, x: Shape, how: dict[str, Any]) -> Pair:
        return output_size(self.name, x[2:], how["size"], how["stride"], how["padding"], how["dilation"])

    def shape(self, x: Shape, w: Shape, **how: Any) -> Shape:
        rows = im2col.shape(x, **how)[1]
        P, Q = self.places(x, how)
        if len(w) != 3 or w[:2] != (P * Q, rows):
            raise ShapeError(
                f"{self.name}: images of shape {x} have {P}x{Q} windows of {rows} numbers, so weights are"
                f" [{P * Q}, {rows}, filters], got shape {w}; the layer is made for one image size"
            )
        return x[0], w[2], P, Q

    def numpy(self, x: Ndarray, w: Ndarray, **how: Any) -> Ndarray:
        y = np.einsum("njl,ljk->nkl", im2col.numpy(x, **how), w)
        return y.reshape(self.shape(x.shape, w.shape, **how))

    def vjp(self, dy: Any, y: Any, x: Any, w: Any, **how: Any) -> tuple[Any, ...]:
        N, K, P, Q = dy.shape
        dy = permute(reshape(dy, shape=(N, K, P * Q)), order=(2, 0, 1))  # [P Q, N, K]
        columns = permute(im2col(x, **how), order=(2, 1, 0))  # [P Q, C R S, N]
        dcolumns = batch_matmul(dy, permute(w, order=(0, 2, 1)))  # [P Q, N, C R S]
        dx = col2im(permute(dcolumns, order=(1, 2, 0)), image=x.shape[2:], **how)
        return dx, batch_matmul(columns, dy)

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return 2 * y.size * inputs[1].shape[1]

    def expand(self, x: Any, w: Any, **how: Any) -> Any:
        columns = permute(im2col(x, **how), order=(2, 0, 1))  # [P Q, N, C R S]
        y = permute(batch_matmul(columns, w), order=(1, 2, 0))  # [N, K, P Q]
        return reshape(y, shape=self.shape(x.shape, w.shape, **how))


im2col, col2im, conv2d_im2col = Im2col(), Col2im(), Conv2dIm2col()


locally_connected2d = LocallyConnected2d()
