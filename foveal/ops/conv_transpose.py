"""Transposed convolution, and true convolution beside the cross-correlation that networks call by its name.

    cross-correlation  y[p,q] = sum_rs x[p + r, q + s] w[r,s]      conv2d, also exported as cross_correlation2d
    convolution        y[p,q] = sum_rs x[p - r, q - s] w[r,s]      convolve2d

Each one's gradient in x is the other, of dy with the same filters, their inputs and outputs exchanged: in
dx[h] = sum_p dy[p] dy[p]/dx[h] the term x[p + r] of a cross-correlation gives h = p + r, hence dx[h] = sum_r dy[h - r]
w[r].
"""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, parallel
from foveal.ops.concat import narrow
from foveal.ops.conv import Convolution, conv2d, conv2d_input_grad, conv2d_weight_grad, flops
from foveal.ops.op import Case, Operator, Type
from foveal.ops.pad import pad
from foveal.ops.window import pair
from foveal.strides import Ndarray, Shape

Pair = tuple[int, int]


Sides = tuple[int, int, int, int]


class Rotate180(Operator):
    """y[k,c,r,s] = w[k,c,R-1-r,S-1-s]: filters turned by 180 degrees, which is its own gradient"""

    name, arity = "rotate180", 1
    cases = (Case(((4, 3, 3, 2),)), Case(((2, 5, 1, 4),)))

    def shape(self, w: Shape) -> Shape:
        if len(w) != 4:
            raise ShapeError(f"{self.name}: takes filters [K, C, R, S], got shape {w}")
        return w

    def numpy(self, w: Ndarray) -> Ndarray:
        return w[:, :, ::-1, ::-1]

    def vjp(self, dy: Any, y: Any, w: Any) -> tuple[Any, ...]:
        return (rotate180(dy),)

    def kernel(self, y: Any, w: Any) -> None:
        K, C, R, S = y.shape
        for k, c in parallel(K, C):
            for r in loop(R):
                for s in loop(S):
                    y[k, c, r, s] = w[k, c, R - 1 - r, S - 1 - s]


class Convolve2d(Convolution):
    """y[n,k,p,q] = sum_crs x[n, c, p u + (R-1-r) d - pad, q u + (S-1-s) d - pad] w[k,c,r,s]: true convolution

    The cross-correlation with filters turned by 180 degrees; hyper-parameters as conv2d's.
    """

    name, composite = "convolve2d", True
    cases = (
        Case(((2, 3, 6, 7), (4, 3, 3, 2)), {"padding": (1, 2, 0, 1)}),
        Case(((1, 4, 7, 5), (6, 2, 3, 3)), {"groups": 2, "stride": 2, "dilation": (2, 1)}),
    )

    def shape(self, x: Shape, w: Shape, **how: Any) -> Shape:
        return conv2d.shape(x, w, **how)

    def numpy(self, x: Ndarray, w: Ndarray, **how: Any) -> Ndarray:
        return conv2d.numpy(x, w[:, :, ::-1, ::-1], **how)

    def vjp(self, dy: Any, y: Any, x: Any, w: Any, **how: Any) -> tuple[Any, ...]:
        dx = conv2d_input_grad(dy, rotate180(w), size=x.shape[2:], **how)
        return dx, rotate180(conv2d_weight_grad(dy, x, size=w.shape[2:], **how))

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return flops(y, inputs[1].shape)

    def expand(self, x: Any, w: Any, **how: Any) -> Any:
        return conv2d(x, rotate180(w), **how)


class ConvTranspose2d(Convolution):
    """y[n,k,h,v] = sum_crs x[n,c,p,q] w[c,k,r,s] over all p u + r d - pad = h, q u + s d - pad = v

    x [N, C, P, Q], w [C, K/groups, R, S] -> y [N, K, H, W], H = (P - 1) u - pads + d (R - 1) + 1 + output_padding: the
    transpose of the linear map of conv2d with the same filters, so its gradient in x is that conv2d, and conv2d's
    gradient
    in x is this. output_padding (rows, columns), below the stride or the dilation, says which of the sizes that conv2d
    maps
    to P is meant. Dumoulin and Visin 2016, chapter 4.
    """

    name, composite = "conv_transpose2d", True
    cases = (
        Case(((2, 3, 4, 3), (3, 4, 3, 2)), {"stride": (2, 1), "padding": (1, 0, 1, 0), "output_padding": (1, 0)}),
        Case(((1, 4, 3, 5), (4, 3, 3, 3)), {"groups": 2, "dilation": (2, 1)}),
        Case(((1, 2, 3, 4), (2, 3, 2, 2)), {"dilation": (3, 3), "padding": (0, 1, 0, 2), "output_padding": 2}),
    )

    def normalise(self, *inputs: Any, output_padding: Any = 0, **how: Any) -> dict[str, Any]:
        full = super().normalise(*inputs, **how)
        extra = pair(output_padding, f"{self.name}: output_padding")
        for given, u, d in zip(extra, full["stride"], full["dilation"], strict=True):
            if not 0 <= given < max(u, d):
                raise ShapeError(
                    f"{self.name}: output_padding {extra} has to be 0 or more, and below the stride {full['stride']} or"
                    f" the dilation {full['dilation']}"
                )
        return full | {"output_padding": extra}

    def size(self, x: Shape, w: Shape, stride: Pair, padding: Sides, dilation: Pair, output_padding: Pair) -> Pair:
        """(H, W) of the output."""
        found = [
            (x[2 + a] - 1) * stride[a]
            - padding[2 * a]
            - padding[2 * a + 1]
            + dilation[a] * (w[2 + a] - 1)
            + 1
            + output_padding[a]
            for a in range(2)
        ]
        if min(found) < 1:
            raise ShapeError(
                f"{self.name}: the output would have {found[0]} rows and {found[1]} columns (input {x[2]}x{x[3]},"
                f" kernel {w[2]}x{w[3]}, padding {padding}); use less padding, or a larger input"
            )
        return found[0], found[1]

    def shape(self, x: Shape, w: Shape, *, groups: int, **how: Any) -> Shape:
        if len(x) != 4 or len(w) != 4:
            raise ShapeError(
                f"{self.name}: takes images [N, C, H, W] and filters [C, K/groups, R, S], got shapes {x} and {w}"
            )
        if x[1] != w[0] or x[1] % groups:
            raise ShapeError(
                f"{self.name}: x has {x[1]} channels in {groups} group(s) (shape {x}), the filters take {w[0]} (shape"
                f" {w}); both have to agree, and be divisible by the groups"
            )
        return (x[0], w[1] * groups, *self.size(x, w, **how))

    def reach(
        self, x: Shape, w: Shape, stride: Pair, padding: Sides, dilation: Pair, output_padding: Pair
    ) -> tuple[Pair, Sides, Pair]:
        """(H, W) and padding with which conv2d gives exactly P and Q, and how many rows and columns beyond are 0.

        An output_padding of a stride and more (below the dilation) is less padding after the image, as far as there is
        any.
        """
        sizes, sides, beyond = (list(self.size(x, w, stride, padding, dilation, output_padding)), list(padding), [0, 0])
        for a, given in enumerate(output_padding):
            if given >= stride[a]:
                after = 2 * a + 1
                beyond[a] = max(0, given - padding[after])
                sides[after] = max(0, padding[after] - given)
                sizes[a] -= beyond[a]
        top, bottom, left, right = sides
        return (sizes[0], sizes[1]), (top, bottom, left, right), (beyond[0], beyond[1])

    def numpy(
        self, x: Ndarray, w: Ndarray, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, output_padding: Pair
    ) -> Ndarray:
        size, padding, beyond = self.reach(x.shape, w.shape, stride, padding, dilation, output_padding)
        how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        y = conv2d_input_grad.numpy(x, w, size=size, **how)
        return np.pad(y, ((0, 0), (0, 0), (0, beyond[0]), (0, beyond[1])))

    def vjp(
        self,
        dy: Any,
        y: Any,
        x: Any,
        w: Any,
        *,
        stride: Pair,
        padding: Sides,
        dilation: Pair,
        groups: int,
        output_padding: Pair,
    ) -> tuple[Any, ...]:
        size, padding, beyond = self.reach(x.shape, w.shape, stride, padding, dilation, output_padding)
        for axis, length in enumerate(size):
            if beyond[axis]:
                dy = narrow(dy, axis=2 + axis, start=0, length=length)
        how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return conv2d(dy, w, **how), conv2d_weight_grad(x, dy, size=w.shape[2:], **how)

    def flops(self, y: Type, *inputs: Type, **how: Any) -> int:
        return flops(inputs[0], inputs[1].shape)

    def expand(
        self, x: Any, w: Any, *, stride: Pair, padding: Sides, dilation: Pair, groups: int, output_padding: Pair
    ) -> Any:
        size, padding, beyond = self.reach(x.shape, w.shape, stride, padding, dilation, output_padding)
        how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        y = conv2d_input_grad(x, w, size=size, **how)
        return pad(y, padding=(0, beyond[0], 0, beyond[1])) if any(beyond) else y


rotate180, convolve2d, conv_transpose2d = Rotate180(), Convolve2d(), ConvTranspose2d()
