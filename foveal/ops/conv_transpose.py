"""Transposed convolution, and true convolution beside the cross-correlation that networks call by its name.

    cross-correlation  y[p,q] = sum_rs x[p + r, q + s] w[r,s]      conv2d, also exported as cross_correlation2d
    convolution        y[p,q] = sum_rs x[p - r, q - s] w[r,s]      convolve2d

The gradient of each in x is the other one, of dy with the same filters, whose axes K and C swap their roles. In a
cross-correlation y[p] reads x[h] with h = p + r, so dx[h] = sum_r dy[h - r] w[r], which is a convolution.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loops, parallel
from foveal.ops.concat import narrow
from foveal.ops.conv import Convolution, conv2d, conv2d_input_grad, conv2d_weight_grad, flops
from foveal.ops.op import Case, HasShape, Operator, Tensor, Type
from foveal.ops.pad import pad
from foveal.ops.window import PaddingArgument, Pair, PairArgument, Window, pair
from foveal.strides import Ndarray, Shape


class Rotate180(Operator):
    """y[k,c,r,s] = w[k,c,R-1-r,S-1-s]: filters rotated by 180 degrees, which is its own gradient

    w [K, C, R, S] -> y [K, C, R, S]. Raises ShapeError for another number of axes.
    """

    name, arity = "rotate180", 1
    cases = (Case(((4, 3, 3, 2),)), Case(((2, 5, 1, 4),)))

    def normalise(self, w: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, w: Shape) -> Shape:
        if len(w) != 4:
            raise ShapeError(f"{self.name}: takes filters [K, C, R, S], got shape {w}")
        return w

    def numpy(self, w: Ndarray) -> Ndarray:
        return w[:, :, ::-1, ::-1]

    def vjp(self, dy: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return (rotate180(dy),)

    def kernel(self, y: Array, w: Array) -> None:
        K, C, R, S = y.shape
        for k, c in parallel(K, C):
            for r, s in loops(R, S):
                y[k, c, r, s] = w[k, c, R - 1 - r, S - 1 - s]


class Convolve2d(Convolution):
    """y[n,k,p,q] = sum_crs x[n, c, p u + (R-1-r) d - pad, q u + (S-1-s) d - pad] w[k,c,r,s]: true convolution

    The cross-correlation with filters rotated by 180 degrees. Shapes, arguments and errors are conv2d's.
    """

    name, composite = "convolve2d", True
    cases = (
        Case(((2, 3, 6, 7), (4, 3, 3, 2)), {"padding": (1, 2, 0, 1)}),
        Case(((1, 4, 7, 5), (6, 2, 3, 3)), {"groups": 2, "stride": 2, "dilation": (2, 1)}),
    )

    def window(self, *, window: Window, groups: int) -> Window:
        return window

    def shape(self, x: Shape, w: Shape, *, window: Window, groups: int) -> Shape:
        return conv2d.shape(x, w, window=window, groups=groups)

    def numpy(self, x: Ndarray, w: Ndarray, *, window: Window, groups: int) -> Ndarray:
        return conv2d.numpy(x, w[:, :, ::-1, ::-1], window=window, groups=groups)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, w: Tensor, *, window: Window, groups: int) -> tuple[Tensor, ...]:
        arguments = self.arguments(window=window, groups=groups)
        dx = conv2d_input_grad(dy, rotate180(w), image_size=x.shape[2:], **arguments)
        return dx, rotate180(conv2d_weight_grad(dy, x, kernel_size=w.shape[2:], **arguments))

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return flops(y, inputs[1].shape)

    def expand(self, x: Tensor, w: Tensor, *, window: Window, groups: int) -> Tensor:
        return conv2d(x, rotate180(w), **self.arguments(window=window, groups=groups))


class ConvTranspose2d(Convolution):
    """y[n,k,h,v] = sum_crs x[n,c,p,q] w[c,k,r,s] over all p u + r d - pad = h, q u + s d - pad = v

    x [N, C, P, Q], w [C, K/G, R, S] -> y [N, K, H, W], with H = (P - 1) u - pads + d (R - 1) + 1 + output_padding,
    and W alike. It is the transpose of the linear map of conv2d with the same filters, so its gradient in x is that
    conv2d, and conv2d's gradient in x is this.

    stride, padding, dilation, groups: as for the conv2d that maps y's size to x's; padding takes away from y.
    output_padding: says which of the sizes H and W that conv2d maps to P and Q is meant: one number or (rows, columns),
        0 or more and below the stride or the dilation.

    Raises ShapeError where the shapes or the groups do not fit together, for another output_padding, or where nothing
    is left of y. Dumoulin and Visin 2016, chapter 4.
    """

    name, composite = "conv_transpose2d", True
    cases = (
        Case(((2, 3, 4, 3), (3, 4, 3, 2)), {"stride": (2, 1), "padding": (1, 0, 1, 0), "output_padding": (1, 0)}),
        Case(((1, 4, 3, 5), (4, 3, 3, 3)), {"groups": 2, "dilation": (2, 1)}),
        Case(((1, 2, 3, 4), (2, 3, 2, 2)), {"dilation": (3, 3), "padding": (0, 1, 0, 2), "output_padding": 2}),
    )

    def normalise(
        self,
        x: HasShape,
        w: HasShape,
        *,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        output_padding: PairArgument = 0,
        dilation: PairArgument = 1,
        groups: int = 1,
    ) -> dict[str, Any]:
        self.check_ranks(x.shape, w.shape)
        if isinstance(padding, str):
            raise ShapeError(
                f"{self.name}: padding={padding!r} is for convolutions; here padding takes rows and columns away from"
                " the output: give it in numbers"
            )
        attributes = self.convolution(w.shape[2:], stride, padding, dilation, groups)
        # one of the sizes between two multiples of the stride; a larger one is another P and Q
        window, extra = attributes["window"], pair(output_padding, f"{self.name}: output_padding")
        for size, u, d in zip(extra, window.stride, window.dilation, strict=True):
            if not 0 <= size < max(u, d):
                raise ShapeError(
                    f"{self.name}: output_padding {extra} has to be 0 or more, and below the stride {window.stride} or"
                    f" the dilation {window.dilation}"
                )
        return attributes | {"output_padding": extra}

    def check_ranks(self, x: Shape, w: Shape) -> None:
        """Raise ShapeError unless x and w have the four axes of images and of filters."""
        if len(x) != 4 or len(w) != 4:
            raise ShapeError(
                f"{self.name}: takes images [N, C, H, W] and filters [C, K/groups, R, S], got shapes {x} and {w}"
            )

    def image_size(self, x: Shape, window: Window, output_padding: Pair) -> Pair:
        """(H, W) of the output."""
        H, W = (
            (x[2 + a] - 1) * window.stride[a] - window.padded(a, 0) + window.reach[a] + output_padding[a]
            for a in range(2)
        )
        return H, W

    def shape(self, x: Shape, w: Shape, *, window: Window, groups: int, output_padding: Pair) -> Shape:
        self.check_ranks(x, w)
        if x[1] != w[0] or x[1] % groups:
            raise ShapeError(
                f"{self.name}: x has {x[1]} channels in {groups} group(s) (shape {x}), the filters take {w[0]} (shape"
                f" {w}); both have to agree, and be divisible by the groups"
            )
        if 0 in x[2:]:
            raise ShapeError(f"{self.name}: images of shape {x} have no pixels")
        H, W = self.image_size(x, window, output_padding)
        if min(H, W) < 1:
            raise ShapeError(
                f"{self.name}: the output would have {H} rows and {W} columns (input {x[2]}x{x[3]},"
                f" kernel {w[2]}x{w[3]}, padding {window.padding}); use less padding, or a larger input"
            )
        return x[0], w[1] * groups, H, W

    def matching(self, x: Shape, window: Window, output_padding: Pair) -> tuple[Pair, Window, Pair]:
        """((H, W), window) with which conv2d gives exactly P x Q, and the rows and columns beyond H x W, which are 0.

        An output_padding of a stride and more (below the dilation) is less padding after the image, as far as there is
        any, and zeros beyond that.
        """
        size, padding, beyond = list(self.image_size(x, window, output_padding)), list(window.padding), [0, 0]
        for axis, extra in enumerate(output_padding):
            if extra >= window.stride[axis]:
                # bottom, or right
                after = 2 * axis + 1
                beyond[axis] = max(0, extra - padding[after])
                padding[after] = max(0, padding[after] - extra)
                size[axis] -= beyond[axis]
        top, bottom, left, right = padding
        return (size[0], size[1]), replace(window, padding=(top, bottom, left, right)), (beyond[0], beyond[1])

    def numpy(self, x: Ndarray, w: Ndarray, *, window: Window, groups: int, output_padding: Pair) -> Ndarray:
        size, window, beyond = self.matching(x.shape, window, output_padding)
        y = conv2d_input_grad.numpy(x, w, window=window, groups=groups, image_size=size)
        return np.pad(y, ((0, 0), (0, 0), (0, beyond[0]), (0, beyond[1])))

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, w: Tensor, *, window: Window, groups: int, output_padding: Pair
    ) -> tuple[Tensor, ...]:
        size, window, beyond = self.matching(x.shape, window, output_padding)
        for axis, length in enumerate(size):
            if beyond[axis]:
                dy = narrow(dy, axis=2 + axis, start=0, length=length)
        arguments = self.arguments(window=window, groups=groups)
        return conv2d(dy, w, **arguments), conv2d_weight_grad(x, dy, kernel_size=w.shape[2:], **arguments)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return flops(inputs[0], inputs[1].shape)

    def expand(self, x: Tensor, w: Tensor, *, window: Window, groups: int, output_padding: Pair) -> Tensor:
        size, window, beyond = self.matching(x.shape, window, output_padding)
        y = conv2d_input_grad(x, w, image_size=size, **self.arguments(window=window, groups=groups))
        return pad(y, padding=(0, beyond[0], 0, beyond[1])) if any(beyond) else y


rotate180, convolve2d, conv_transpose2d = Rotate180(), Convolve2d(), ConvTranspose2d()
