"""Convolution as a matrix product: windows as columns, and what can be done with them.

im2col writes the window of each output position as a column of C R S numbers; col2im, its transpose and gradient, adds
the columns back to where they were read. Filters [K, C R S] times the columns is the convolution (Chellapilla, Puri and
Simard 2006); with filters of its own for each position it is a locally connected layer.
"""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loop, loops, parallel, where
from foveal.ops.conv import check_ranks, conv2d
from foveal.ops.matmul import batch_matmul, matmul
from foveal.ops.op import Case, HasShape, Operator, Tensor, Type
from foveal.ops.shape import permute, reshape
from foveal.ops.window import PaddingArgument, Pair, PairArgument, Window, pair
from foveal.strides import Ndarray, Shape


class Im2col(Operator):
    """y[n, (c,r,s), (p,q)] = x[n, c, p u + r d - pad, q u + s d - pad], 0 outside of the image

    x [N, C, H, W] -> y [N, C R S, P Q], both in C order, as torch.nn.Unfold.

    kernel_size: (R, S), or one number for both. stride, padding, dilation: as conv2d's.

    Raises ShapeError where x has another number of axes, or the window is larger than the padded image.
    """

    name, arity = "im2col", 1
    cases = (
        Case(((2, 3, 5, 4),), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0, 2, 1)}),
        Case(((1, 2, 6, 7),), {"kernel_size": 2, "dilation": (3, 2)}),
    )

    def normalise(
        self,
        x: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
    ) -> dict[str, Any]:
        return {"window": Window.of(self.name, kernel_size, stride, padding, dilation)}

    def arguments(self, *, window: Window) -> dict[str, Any]:
        return window.arguments()

    def shape(self, x: Shape, *, window: Window) -> Shape:
        if len(x) != 4:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W], got shape {x}")
        P, Q = window.outputs(self.name, x[2:])
        return x[0], x[1] * math.prod(window.size), P * Q

    def numpy(self, x: Ndarray, *, window: Window) -> Ndarray:
        # [N, C, P, Q, R, S]
        view = window.view(x)
        return view.transpose(0, 1, 4, 5, 2, 3).reshape(len(x), x.shape[1] * math.prod(window.size), -1)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, window: Window) -> tuple[Tensor, ...]:
        return (col2im(dy, image_size=x.shape[2:], **window.arguments()),)

    def kernel(self, y: Array, x: Array, *, window: Window) -> None:
        (N, C, H, W), (R, S) = x.shape, window.size
        P, Q = window.outputs(self.name, (H, W))
        # each image and channel
        for n, c in parallel(N, C):
            # each tap is a row of y, each output pixel a place in it
            for r, s in loops(R, S):
                row = (c * R + r) * S + s
                for p in loop(P):
                    h = p * window.stride[0] + r * window.dilation[0] - window.padding[0]
                    in_rows = (h >= 0) & (h < H)
                    for q in loop(Q):
                        v = q * window.stride[1] + s * window.dilation[1] - window.padding[2]
                        valid = in_rows & (v >= 0) & (v < W)
                        value = x[n, c, where(valid, h, 0), where(valid, v, 0)]
                        y[n, row, p * Q + q] = where(valid, value, 0.0)


class Col2im(Operator):
    """x[n,c,h,v] = sum of y[n, (c,r,s), (p,q)] over all p u + r d - pad = h, q u + s d - pad = v

    y [N, C R S, P Q] -> x [N, C, H, W], as torch.nn.Fold. It is not the inverse of im2col where windows overlap: it
    adds what im2col has copied.

    image_size: (H, W), or one number for both. kernel_size: (R, S), or one number for both.
    stride, padding, dilation: as conv2d's.

    Raises ShapeError where y has not as many columns as an image of this size has windows.
    """

    name, arity = "col2im", 1
    cases = (
        Case(((2, 18, 15),), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0, 1, 1), "image_size": (6, 4)}),
        Case(((1, 8, 15),), {"kernel_size": 2, "dilation": (3, 2), "image_size": (6, 7)}),
    )

    def normalise(
        self,
        y: HasShape,
        *,
        image_size: PairArgument,
        kernel_size: PairArgument,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
    ) -> dict[str, Any]:
        window = Window.of(self.name, kernel_size, stride, padding, dilation)
        return {"window": window, "image_size": pair(image_size, f"{self.name}: image_size")}

    def arguments(self, *, window: Window, image_size: Pair) -> dict[str, Any]:
        return {**window.arguments(), "image_size": image_size}

    def shape(self, y: Shape, *, window: Window, image_size: Pair) -> Shape:
        P, Q = window.outputs(self.name, image_size)
        taps = math.prod(window.size)
        if len(y) != 3 or y[1] % taps or y[2] != P * Q:
            raise ShapeError(
                f"{self.name}: takes columns [N, C R S, P Q], here [N, a multiple of {taps}, {P * Q}], got shape {y}"
            )
        return y[0], y[1] // taps, *image_size

    def numpy(self, y: Ndarray, *, window: Window, image_size: Pair) -> Ndarray:
        N, C = len(y), y.shape[1] // math.prod(window.size)
        P, Q = window.outputs(self.name, image_size)
        x = np.zeros((N, C, *image_size), y.dtype)
        # [N, C, R, S, P, Q] as [N, C, P, Q, R, S]
        window.add_to(x, y.reshape(N, C, *window.size, P, Q).transpose(0, 1, 4, 5, 2, 3))
        return x

    def vjp(self, g: Tensor, x: Tensor, y: Tensor, *, window: Window, image_size: Pair) -> tuple[Tensor, ...]:
        return (im2col(g, **window.arguments()),)

    def kernel(self, x: Array, y: Array, *, window: Window, image_size: Pair) -> None:
        (N, C, H, W), (R, S) = x.shape, window.size
        P, Q = window.outputs(self.name, image_size)
        # each image and channel: zeros, then what each tap of each output pixel adds
        for n, c in parallel(N, C):
            for h, v in loops(H, W):
                x[n, c, h, v] = 0.0
            for r, s in loops(R, S):
                row = (c * R + r) * S + s
                for p, q in loops(P, Q):
                    h = p * window.stride[0] + r * window.dilation[0] - window.padding[0]
                    v = q * window.stride[1] + s * window.dilation[1] - window.padding[2]
                    valid = (h >= 0) & (h < H) & (v >= 0) & (v < W)
                    place = n, c, where(valid, h, 0), where(valid, v, 0)
                    x[place] = x[place] + where(valid, y[n, row, p * Q + q], 0.0)


class Conv2dIm2col(Operator):
    """conv2d as one matrix product: filters [K, C R S] times the columns [C R S, N P Q] of all images

    The second way to the same numbers, for reading: conv2d's own kernels need no columns in memory, which are R S times
    the image. x [N, C, H, W], w [K, C, R, S] -> y [N, K, P, Q].

    stride, padding, dilation: as conv2d's; there are no groups.

    Raises ShapeError as conv2d does. Chellapilla, Puri and Simard 2006.
    """

    name, arity, composite = "conv2d_im2col", 2, True
    cases = (
        Case(((2, 3, 6, 7), (4, 3, 3, 3)), {"padding": 1, "stride": (1, 2)}),
        Case(((1, 2, 5, 6), (3, 2, 2, 3)), {"dilation": (2, 1)}),
    )

    def normalise(
        self,
        x: HasShape,
        w: HasShape,
        *,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        groups: int = 1,
    ) -> dict[str, Any]:
        if groups != 1:
            raise ShapeError(
                f"{self.name}: one matrix product has no groups; use conv2d, or one product for each group"
            )
        check_ranks(self.name, x.shape, w.shape)
        return {"window": Window.of(self.name, w.shape[2:], stride, padding, dilation)}

    def arguments(self, *, window: Window) -> dict[str, Any]:
        return window.sliding()

    def window(self, *, window: Window) -> Window:
        return window

    def shape(self, x: Shape, w: Shape, *, window: Window) -> Shape:
        return conv2d.shape(x, w, window=window, groups=1)

    def numpy(self, x: Ndarray, w: Ndarray, *, window: Window) -> Ndarray:
        # [K, C R S] times [N, C R S, P Q]
        y = w.reshape(len(w), -1) @ im2col.numpy(x, window=window)
        return y.reshape(self.shape(x.shape, w.shape, window=window))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, w: Tensor, *, window: Window) -> tuple[Tensor, ...]:
        N, K, P, Q = dy.shape
        rows = math.prod(w.shape[1:])
        # [K, N P Q], and the columns [C R S, N, P Q]
        dy = reshape(permute(reshape(dy, shape=(N, K, P * Q)), order=(1, 0, 2)), shape=(K, N * P * Q))
        columns = permute(im2col(x, **window.arguments()), order=(1, 0, 2))
        dw = matmul(dy, reshape(columns, shape=(rows, N * P * Q)), tb=True)
        dcolumns = reshape(matmul(reshape(w, shape=(K, rows)), dy, ta=True), shape=(rows, N, P * Q))
        dx = col2im(permute(dcolumns, order=(1, 0, 2)), image_size=x.shape[2:], **window.arguments())
        return dx, reshape(dw, shape=w.shape)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return 2 * y.size * math.prod(inputs[1].shape[1:])

    def expand(self, x: Tensor, w: Tensor, *, window: Window) -> Tensor:
        K, rows = w.shape[0], math.prod(w.shape[1:])
        N, _, P, Q = self.shape(x.shape, w.shape, window=window)
        # [C R S, N, P Q]
        columns = permute(im2col(x, **window.arguments()), order=(1, 0, 2))
        y = matmul(reshape(w, shape=(K, rows)), reshape(columns, shape=(rows, N * P * Q)))
        return reshape(permute(reshape(y, shape=(K, N, P * Q)), order=(1, 0, 2)), shape=(N, K, P, Q))


class LocallyConnected2d(Operator):
    """y[n,k,p,q] = sum_crs x[n, c, p u + r d - pad, q u + s d - pad] w[(p,q), (c,r,s), k]: no weights are shared

    x [N, C, H, W], w [P Q, C R S, K] -> y [N, K, P, Q]. If w is the same at all positions this is conv2d, and the
    gradient of the shared filter is the sum of the gradients of all.

    kernel_size: (R, S), or one number for both. stride, padding, dilation: as conv2d's.

    Raises ShapeError where w is not made for images of x's size. LeCun 1989, "local connections".
    """

    name, arity, composite = "locally_connected2d", 2, True
    cases = (
        Case(((2, 3, 5, 4), (6, 18, 7)), {"kernel_size": (3, 2), "stride": (2, 2), "padding": (1, 1, 0, 1)}),
        Case(((3, 2, 3, 3), (4, 8, 18)), {"kernel_size": 2}),
    )

    def normalise(
        self,
        x: HasShape,
        w: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
    ) -> dict[str, Any]:
        return {"window": Window.of(self.name, kernel_size, stride, padding, dilation)}

    def arguments(self, *, window: Window) -> dict[str, Any]:
        return window.arguments()

    def window(self, *, window: Window) -> Window:
        return window

    def shape(self, x: Shape, w: Shape, *, window: Window) -> Shape:
        rows = im2col.shape(x, window=window)[1]
        P, Q = window.outputs(self.name, x[2:])
        if len(w) != 3 or w[:2] != (P * Q, rows):
            raise ShapeError(
                f"{self.name}: images of shape {x} have {P}x{Q} windows of {rows} numbers, so weights are"
                f" [{P * Q}, {rows}, filters], got shape {w}; the layer is made for one image size"
            )
        return x[0], w[2], P, Q

    def numpy(self, x: Ndarray, w: Ndarray, *, window: Window) -> Ndarray:
        # j: numbers (c, r, s) of a window, l: positions (p, q)
        y = np.einsum("njl,ljk->nkl", im2col.numpy(x, window=window), w)
        return y.reshape(self.shape(x.shape, w.shape, window=window))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, w: Tensor, *, window: Window) -> tuple[Tensor, ...]:
        N, K, P, Q = dy.shape
        # [P Q, N, K]
        dy = permute(reshape(dy, shape=(N, K, P * Q)), order=(2, 0, 1))
        # [P Q, C R S, N]
        columns = permute(im2col(x, **window.arguments()), order=(2, 1, 0))
        # [P Q, N, C R S]
        dcolumns = batch_matmul(dy, permute(w, order=(0, 2, 1)))
        dx = col2im(permute(dcolumns, order=(1, 2, 0)), image_size=x.shape[2:], **window.arguments())
        return dx, batch_matmul(columns, dy)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return 2 * y.size * inputs[1].shape[1]

    def expand(self, x: Tensor, w: Tensor, *, window: Window) -> Tensor:
        # [P Q, N, C R S]
        columns = permute(im2col(x, **window.arguments()), order=(2, 0, 1))
        # [N, K, P Q]
        y = permute(batch_matmul(columns, w), order=(1, 2, 0))
        return reshape(y, shape=self.shape(x.shape, w.shape, window=window))


im2col, col2im, conv2d_im2col = Im2col(), Col2im(), Conv2dIm2col()


locally_connected2d = LocallyConnected2d()
