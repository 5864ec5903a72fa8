"""Two-dimensional convolution and its two gradients.

What networks call convolution is cross-correlation. Its gradient in x is a true convolution of dy with the filters
(rotated by 180 degrees), its gradient in w a cross-correlation of x with dy. All three are linear in each input, so the
gradients of each one are made of the other two.

C and K count all channels and all filters; a group has C/G channels (`c_group`) and K/G filters (`k_group`).
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, Index, Value, fma, loops, parallel, var, where
from foveal.ops.kernels.conv import depthwise, select
from foveal.ops.kernels.conv.cost_model import Kind, Problem, problem_of
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.expression import FusedInput
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor, Type
from foveal.ops.window import PaddingArgument, Pair, PairArgument, Window, pair
from foveal.strides import Ndarray, Shape, filters_last
from foveal.view import View


class Convolution(Operator):
    """What operators with filters [K, C/G, R, S] share: their window, whose size is R x S, and their groups.

    Those that take more, or other inputs, have a `normalise` of their own.
    """

    arity = 2

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
        return self.convolution(self.kernel_size(x, w), stride, padding, dilation, groups)

    def convolution(
        self,
        kernel_size: PairArgument,
        stride: PairArgument,
        padding: PaddingArgument,
        dilation: PairArgument,
        groups: int,
    ) -> dict[str, Any]:
        """The attributes `window` and `groups` that these arguments mean."""
        if groups < 1:
            raise ShapeError(f"{self.name}: groups {groups} has to be 1 or more")
        return {"window": Window.of(self.name, kernel_size, stride, padding, dilation), "groups": int(groups)}

    def kernel_size(self, images: HasShape, filters: HasShape) -> Shape:
        """(R, S) of filters [K, C/G, R, S], once both inputs are known to have four axes."""
        check_ranks(self.name, images.shape, filters.shape)
        return filters.shape[2:]

    def arguments(self, *, window: Window, **rest: Any) -> dict[str, Any]:
        return {**window.sliding(), **rest}


def flops(image: Type, filters: Shape) -> int:
    """2 N K P Q C/G R S: a multiplication and an addition per tap, the same for the convolution and both gradients.

    image: [N, K, P, Q], the type of the outputs, or of their gradient.
    """
    return 2 * image.size * math.prod(filters[1:])


def check_ranks(name: str, x: Shape, w: Shape) -> None:
    """Raise ShapeError unless x and w have the four axes of images and of filters."""
    if len(x) != 4 or len(w) != 4:
        way_out = "; a single image is a batch of one: image[None]" if len(x) == 3 and len(w) == 4 else ""
        raise ShapeError(
            f"{name}: takes images [N, C, H, W] and filters [K, C/groups, R, S], got shapes {x} and {w}{way_out}"
        )


def check_channels(name: str, x: Shape, w: Shape, groups: int) -> None:
    """Raise ShapeError unless x [N, C, H, W] and w [K, C/G, R, S] agree about the channels."""
    check_ranks(name, x, w)
    if x[1] % groups or w[0] % groups:
        raise ShapeError(
            f"{name}: {groups} groups do not divide {x[1]} input channels and {w[0]} filters (shapes {x} and {w})"
        )
    if x[1] // groups != w[1]:
        way_out = "; channels are the second axis of images, not the last" if x[3] == groups * w[1] else ""
        raise ShapeError(
            f"{name}: x has {x[1]} channels in {groups} group(s) (shape {x}), the filters take {w[1]} channels each"
            f" (shape {w}); both have to agree{way_out}"
        )


class Conv2d(Convolution):
    """y[n,k,p,q] = sum_crs x[n, c, p u + r d - pad, q u + s d - pad] w[k,c,r,s]; x is 0 outside of the image

    Convolution as networks have it, which is cross-correlation; c runs over the C/G channels of k's group.
    x [N, C, H, W], w [K, C/G, R, S] -> y [N, K, P, Q] with P = floor((H + pads - d (R - 1) - 1) / u) + 1, and Q alike.

    stride: u, the step of the window, as one number or as (rows, columns).
    padding: zeros around the image: a number for all sides, (rows, columns), (top, bottom, left, right), "valid" for
        none, or "same" for an output of the image's size.
    dilation: d, the distance between taps, as one number or as (rows, columns).
    groups: G; the filters are in that many groups, each of which reads its own part of the channels. With as many
        groups as channels it is a depthwise convolution.

    Raises ShapeError where the shapes or the groups do not fit together, or the window is larger than the padded image.
    LeCun et al. 1989; Dumoulin and Visin 2016, chapter 2.
    """

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
        # bands of rows
        Case(((1, 2, 17, 13), (18, 2, 3, 3)), {"padding": 1}),
        # bands, few channels
        Case(((1, 2, 18, 48), (3, 2, 5, 5)), {"stride": 2, "padding": 2}),
        # tiles of images
        Case(((5, 9, 4, 3), (37, 9, 3, 3)), {"padding": 1}),
        Case(((26, 8, 5, 4), (6, 8, 3, 5)), {"stride": (2, 1), "padding": (2, 0, 3, 2), "dilation": (2, 1)}),
        Case(((4, 16, 3, 3), (16, 8, 3, 3)), {"padding": 2, "groups": 2, "dilation": 2}),
        # most taps meet padding only, and all of them
        Case(((3, 8, 1, 2), (17, 8, 5, 3)), {"padding": (2, 1)}),
        Case(((5, 8, 2, 13), (17, 8, 2, 2)), {"stride": (3, 1), "dilation": (3, 1), "padding": 1}),
        # pixels of all images in one row
        Case(((3, 34, 6, 5), (39, 34, 1, 1))),
        Case(((2, 6, 5, 5), (4, 3, 1, 1)), {"groups": 2, "padding": 1}),
        Case(((2, 19, 21, 13), (19, 1, 3, 3)), {"groups": 19, "padding": 1}),
        Case(((1, 3, 9, 40), (3, 1, 7, 7)), {"groups": 3, "padding": (3, 6), "dilation": (1, 2)}),
        Case(((3, 33, 4, 4), (33, 1, 3, 3)), {"groups": 33, "padding": 1, "stride": 2}),
        # lanes over images, with numbers of images that do and do not fill the lanes
        Case(((16, 1, 9, 21), (6, 1, 5, 5)), {"padding": 2}),
        Case(((31, 2, 6, 5), (5, 2, 5, 3)), {"padding": 1, "stride": (1, 2)}),
        Case(((33, 6, 7, 4), (10, 3, 5, 5)), {"padding": 2, "groups": 2}),
        Case(((2, 8, 6, 5), (80, 2, 3, 3)), {"padding": 1, "groups": 4}),
        Case(((50, 5, 3, 3), (1, 5, 3, 3)), {"padding": (2, 1, 0, 2), "dilation": (1, 2)}),
    )

    def window(self, *, window: Window, groups: int) -> Window:
        return window

    def shape(self, x: Shape, w: Shape, *, window: Window, groups: int) -> Shape:
        check_channels(self.name, x, w, groups)
        return (x[0], w[0], *window.outputs(self.name, x[2:]))

    def numpy(self, x: Ndarray, w: Ndarray, *, window: Window, groups: int) -> Ndarray:
        K, c_group, R, S = w.shape
        view = window.view(x)
        N, _, P, Q, _, _ = view.shape
        grouped = view.reshape(N, groups, c_group, P, Q, R, S)
        filters = w.reshape(groups, K // groups, c_group, R, S)
        return np.einsum("ngcpqrs,gkcrs->ngkpq", grouped, filters, optimize=True).reshape(N, K, P, Q)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, w: Tensor, *, window: Window, groups: int) -> tuple[Tensor, ...]:
        arguments = self.arguments(window=window, groups=groups)
        dx = conv2d_input_grad(dy, w, image_size=x.shape[2:], **arguments)
        return dx, conv2d_weight_grad(dy, x, kernel_size=w.shape[2:], **arguments)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return flops(y, inputs[1].shape)

    def problem(self, x: Shape, w: Shape, *, window: Window, groups: int) -> Problem:
        y = self.shape(x, w, window=window, groups=groups)
        return problem_of("forward", y, w, window, groups)

    def kernel(self, y: Array, x: Array, w: Array, *, window: Window, groups: int) -> None:
        (N, K, P, Q), (_, c_group, R, S) = y.shape, w.shape
        # each image and filter
        for n, k in parallel(N, K):
            # the first channel of the filter's group
            first = (k // (K // groups)) * c_group
            # each output pixel: the sum over channels and taps
            for p, q in loops(P, Q):
                acc = var()
                for c, r, s in loops(c_group, R, S):
                    h = p * window.stride[0] + r * window.dilation[0] - window.padding[0]
                    v = q * window.stride[1] + s * window.dilation[1] - window.padding[2]
                    acc += load_or_zero(x, n, first + c, h, v) * w[k, c, r, s]
                y[n, k, p, q] = acc

    def lower(self, lowering: Lowering, y: View, x: View, w: View, *, window: Window, groups: int) -> None:
        self.lower_results(lowering, EpilogueOutputs([y]), x, w, window=window, groups=groups)

    def prologue(self, x: Shape, w: Shape, **_: Any) -> int | None:
        return 0 if depthwise.computes_input(x, w) else None

    def lower_results(
        self, lowering: Lowering, y: EpilogueOutputs, x: View | FusedInput, w: View, *, window: Window, groups: int
    ) -> None:
        if isinstance(x, FusedInput):
            select.lower_computed_forward(lowering, y, x, w, window)
            return
        problem = self.problem(x.shape, w.shape, window=window, groups=groups)
        algorithm = select.choose(replace(problem, prepared=lowering.prepared_bytes(w)))
        select.lower_forward(lowering, y, x, w, algorithm, window, groups)


def load_or_zero(x: Array, n: Index, c: Index, h: Index, v: Index) -> Value:
    """x[n, c, h, v], or 0 outside of the image; the address lies in the image either way."""
    H, W = x.shape[2:]
    valid = (h >= 0) & (h < H) & (v >= 0) & (v < W)
    return where(valid, x[n, c, where(valid, h, 0), where(valid, v, 0)], 0.0)


class Conv2dInputGrad(Convolution):
    """dx[n,c,h,v] = sum over k, r, s and the p, q with p u + r d - pad = h, q u + s d - pad = v: dy[n,k,p,q] w[k,c,r,s]

    The gradient of conv2d in x, also called transposed convolution; with stride 1 a true convolution. k runs over the
    K/G filters of c's group. dy [N, K, P, Q], w [K, C/G, R, S] -> dx [N, C, H, W].

    image_size: (H, W), or one number for both; with a stride it does not follow from P and Q.
    stride, padding, dilation, groups: as for the conv2d whose gradient it is.

    Raises ShapeError where conv2d does not give images of dy's shape from images of this size.
    Dumoulin and Visin 2016, chapter 4.
    """

    name, epilogues = "conv2d_input_grad", True
    cases = (
        Case(((2, 4, 6, 7), (4, 3, 3, 3)), {"padding": 1, "image_size": (6, 7)}),
        Case(((1, 6, 5, 5), (6, 1, 5, 5)), {"image_size": (9, 9)}),
        Case(((2, 18, 5, 4), (18, 5, 3, 3)), {"stride": 2, "padding": (1, 0, 0, 2), "image_size": (10, 8)}),
        Case(
            ((1, 3, 4, 7), (3, 20, 3, 2)),
            {"stride": (3, 2), "dilation": (2, 3), "padding": (2, 3), "image_size": (11, 10)},
        ),
        Case(((2, 4, 5, 5), (4, 3, 3, 3)), {"groups": 2, "padding": 1, "image_size": (5, 5)}),
        Case(((2, 18, 6, 3), (18, 1, 3, 3)), {"groups": 18, "padding": 1, "stride": (1, 2), "image_size": (6, 5)}),
        Case(((1, 8, 3, 3), (8, 4, 1, 1)), {"stride": 2, "image_size": (6, 5)}),
        Case(((1, 24, 9, 8), (24, 20, 3, 3)), {"padding": 1, "image_size": (9, 8)}),
        Case(((2, 40, 1, 5), (40, 32, 3, 3)), {"padding": (2, 0, 0, 2), "image_size": (1, 5)}),
        # tiles of images, phases without taps
        Case(((5, 8, 3, 2), (8, 20, 1, 1)), {"stride": 2, "image_size": (6, 4)}),
        Case(((5, 9, 3, 4), (9, 18, 3, 3)), {"stride": 2, "padding": 1, "image_size": (6, 7)}),
        # lanes over images, with numbers of images that do and do not fill the lanes
        Case(((16, 7, 4, 5), (7, 6, 5, 5)), {"image_size": (8, 9)}),
        Case(((46, 9, 3, 4), (9, 3, 3, 3)), {"stride": 2, "padding": 1, "image_size": (6, 7)}),
        Case(((48, 3, 2, 3), (3, 20, 3, 3)), {"padding": 1, "image_size": (2, 3)}),
    )

    def normalise(  # type: ignore[override]
        self,
        dy: HasShape,
        w: HasShape,
        *,
        image_size: PairArgument,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        groups: int = 1,
    ) -> dict[str, Any]:
        attributes = self.convolution(self.kernel_size(dy, w), stride, padding, dilation, groups)
        return attributes | {"image_size": pair(image_size, f"{self.name}: image_size")}

    def shape(self, dy: Shape, w: Shape, *, window: Window, groups: int, image_size: Pair) -> Shape:
        x = (dy[0], w[1] * groups, *image_size)
        check_channels(self.name, x, w, groups)
        expected = (dy[0], w[0], *window.outputs(self.name, image_size))
        if dy != expected:
            raise ShapeError(
                f"{self.name}: dy has shape {dy}, images of {image_size[0]}x{image_size[1]} give {expected}"
            )
        return x

    def numpy(self, dy: Ndarray, w: Ndarray, *, window: Window, groups: int, image_size: Pair) -> Ndarray:
        K, c_group, R, S = w.shape
        N, _, P, Q = dy.shape
        # what each output adds to each pixel of its window
        spread = np.einsum(
            "ngkpq,gkcrs->ngcpqrs",
            dy.reshape(N, groups, K // groups, P, Q),
            w.reshape(groups, K // groups, c_group, R, S),
            optimize=True,
        )
        dx = np.zeros((N, c_group * groups, *image_size), spread.dtype)
        window.add_to(dx, spread.reshape(N, c_group * groups, P, Q, R, S))
        return dx

    def vjp(
        self, g: Tensor, dx: Tensor, dy: Tensor, w: Tensor, *, window: Window, groups: int, image_size: Pair
    ) -> tuple[Tensor, ...]:
        arguments = self.arguments(window=window, groups=groups)
        return conv2d(g, w, **arguments), conv2d_weight_grad(dy, g, kernel_size=w.shape[2:], **arguments)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return flops(inputs[0], inputs[1].shape)

    def problem(self, dy: Shape, w: Shape, *, window: Window, groups: int, image_size: Pair) -> Problem:
        dx, (K, c_group, R, S) = self.shape(dy, w, window=window, groups=groups, image_size=image_size), w
        kind: Kind = "forward" if window.stride == (1, 1) else "transposed"
        return problem_of(kind, dx, (c_group, K, R, S), window, groups)

    def kernel(self, dx: Array, dy: Array, w: Array, *, window: Window, groups: int, image_size: Pair) -> None:
        (N, C, H, W), (_, K, _, _), (_, c_group, R, S) = dx.shape, dy.shape, w.shape
        k_group, (u_rows, u_columns), (d_rows, d_columns) = K // groups, window.stride, window.dilation
        # each image and channel
        for n, c in parallel(N, C):
            # the first filter of the channel's group, and the channel within it
            first, channel = (c // c_group) * k_group, c % c_group
            # each pixel: the sum over filters and taps of the outputs that have read it
            for h, v in loops(H, W):
                acc = var()
                for k, r, s in loops(k_group, R, S):
                    # p u and q u, raised by a multiple of the stride, so that no division sees a negative number
                    a = h + window.padding[0] - r * d_rows + R * d_rows * u_rows
                    b = v + window.padding[2] - s * d_columns + S * d_columns * u_columns
                    hit = (a % u_rows == 0) & (b % u_columns == 0)
                    p, q = a // u_rows - R * d_rows, b // u_columns - S * d_columns
                    value = load_or_zero(dy, n, first + k, p, q)
                    acc.fma(where(hit, value, 0.0), w[first + k, channel, r, s])
                dx[n, c, h, v] = acc

    def prologue(self, dy: Shape, w: Shape, **_: Any) -> int | None:
        return 0 if depthwise.computes_input(dy, w) else None

    def lower(self, lowering: Lowering, dx: View, dy: View, w: View, **attributes: Any) -> None:
        self.lower_results(lowering, EpilogueOutputs([dx]), dy, w, **attributes)

    def lower_results(
        self,
        lowering: Lowering,
        dx: EpilogueOutputs,
        dy: View | FusedInput,
        w: View,
        *,
        window: Window,
        groups: int,
        image_size: Pair,
    ) -> None:
        if isinstance(dy, FusedInput):
            select.lower_computed_input_grad(lowering, dx, dy, w, window)
            return
        problem = self.problem(dy.shape, w.shape, window=window, groups=groups, image_size=image_size)
        select.lower_input_grad(lowering, dx, dy, w, select.choose(problem), window, groups)


class Conv2dWeightGrad(Convolution):
    """dw[k,c,r,s] = sum_npq dy[n,k,p,q] x[n, c, p u + r d - pad, q u + s d - pad]

    The gradient of conv2d in its filters, where c is the channel within k's group: dy [N, K, P, Q], x [N, C, H, W] ->
    dw [K, C/G, R, S].

    kernel_size: (R, S), or one number for both; with a stride it does not follow from the images.
    stride, padding, dilation, groups: as for the conv2d whose gradient it is.

    Raises ShapeError where conv2d does not give images of dy's shape from x.
    """

    name = "conv2d_weight_grad"
    cases = (
        Case(((2, 4, 6, 7), (2, 3, 6, 7)), {"padding": 1, "kernel_size": (3, 3)}),
        Case(((1, 6, 5, 5), (1, 1, 9, 9)), {"kernel_size": (5, 5)}),
        Case(((2, 18, 5, 4), (2, 5, 10, 8)), {"stride": 2, "padding": (1, 0, 0, 2), "kernel_size": (3, 3)}),
        Case(
            ((1, 3, 4, 7), (1, 20, 11, 10)),
            {"stride": (3, 2), "dilation": (2, 3), "padding": (2, 3), "kernel_size": (3, 2)},
        ),
        Case(((2, 4, 5, 5), (2, 6, 5, 5)), {"groups": 2, "padding": 1, "kernel_size": (3, 3)}),
        Case(((2, 18, 6, 3), (2, 18, 6, 5)), {"groups": 18, "padding": 1, "stride": (1, 2), "kernel_size": (3, 3)}),
        Case(((34, 18, 2, 2), (34, 5, 2, 2)), {"padding": 1, "kernel_size": (3, 3)}),
        Case(((1, 24, 9, 8), (1, 20, 9, 8)), {"padding": 1, "kernel_size": (3, 3)}),
        Case(((2, 3, 1, 2), (2, 2, 1, 2)), {"stride": (1, 2), "padding": (0, 0, 0, 1), "kernel_size": (1, 1)}),
        Case(((1, 40, 2, 7), (1, 32, 2, 7)), {"padding": (2, 0, 0, 2), "kernel_size": (3, 3)}),
        # padding only
        Case(((2, 6, 6, 1), (2, 3, 4, 2)), {"stride": (1, 3), "padding": (0, 2, 2, 0), "kernel_size": (1, 2)}),
        # lanes over images, with numbers of images that do and do not fill the lanes
        Case(((16, 6, 9, 21), (16, 1, 9, 21)), {"padding": 2, "kernel_size": (5, 5)}),
        Case(
            ((45, 11, 3, 4), (45, 3, 8, 9)),
            {"stride": 2, "padding": (0, 1, 1, 2), "dilation": (2, 1), "kernel_size": (3, 5)},
        ),
        Case(((30, 1, 7, 5), (30, 2, 8, 6)), {"kernel_size": (2, 2)}),
    )

    def normalise(  # type: ignore[override]
        self,
        dy: HasShape,
        x: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        groups: int = 1,
    ) -> dict[str, Any]:
        if len(dy.shape) != 4 or len(x.shape) != 4:
            raise ShapeError(
                f"{self.name}: takes dy [N, K, P, Q] and x [N, C, H, W], got shapes {dy.shape} and {x.shape}"
            )
        return self.convolution(kernel_size, stride, padding, dilation, groups)

    def arguments(self, *, window: Window, **rest: Any) -> dict[str, Any]:
        return {**window.sliding(), **rest, "kernel_size": window.size}

    def shape(self, dy: Shape, x: Shape, *, window: Window, groups: int) -> Shape:
        w = (dy[1], x[1] // groups, *window.size)
        check_channels(self.name, x, w, groups)
        expected = (x[0], dy[1], *window.outputs(self.name, x[2:]))
        if dy != expected:
            raise ShapeError(f"{self.name}: dy has shape {dy}, x of shape {x} gives {expected}")
        return w

    def numpy(self, dy: Ndarray, x: Ndarray, *, window: Window, groups: int) -> Ndarray:
        view = window.view(x)
        N, C, P, Q, R, S = view.shape
        dw = np.einsum(
            "ngkpq,ngcpqrs->gkcrs",
            dy.reshape(N, groups, dy.shape[1] // groups, P, Q),
            view.reshape(N, groups, C // groups, P, Q, R, S),
            optimize=True,
        )
        return dw.reshape(dy.shape[1], C // groups, R, S)

    def vjp(self, g: Tensor, dw: Tensor, dy: Tensor, x: Tensor, *, window: Window, groups: int) -> tuple[Tensor, ...]:
        arguments = {**window.sliding(), "groups": groups}
        return conv2d(x, g, **arguments), conv2d_input_grad(dy, g, image_size=x.shape[2:], **arguments)

    def strides(self, shape: Shape, *inputs: Any) -> Shape:
        return filters_last(shape)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        return flops(inputs[0], y.shape)

    def problem(self, dy: Shape, x: Shape, *, window: Window, groups: int) -> Problem:
        dw = self.shape(dy, x, window=window, groups=groups)
        return problem_of("weight", dy, dw, window, groups)

    def kernel(self, dw: Array, dy: Array, x: Array, *, window: Window, groups: int) -> None:
        (K, c_group, R, S), (N, _, P, Q) = dw.shape, dy.shape
        # each filter and channel of its group
        for k, c in parallel(K, c_group):
            # the first channel of the group
            first = (k // (K // groups)) * c_group
            # each tap: the sum over images and output pixels
            for r, s in loops(R, S):
                acc = var()
                for n, p, q in loops(N, P, Q):
                    h = p * window.stride[0] + r * window.dilation[0] - window.padding[0]
                    v = q * window.stride[1] + s * window.dilation[1] - window.padding[2]
                    acc.set(fma(dy[n, k, p, q], load_or_zero(x, n, first + c, h, v), acc.get()))
                dw[k, c, r, s] = acc

    def lower(self, lowering: Lowering, dw: View, dy: View, x: View, *, window: Window, groups: int) -> None:
        algorithm = select.choose(self.problem(dy.shape, x.shape, window=window, groups=groups))
        select.lower_weight_grad(lowering, dw, dy, x, algorithm, window, groups)


conv2d = Conv2d()


conv2d_input_grad = Conv2dInputGrad()


conv2d_weight_grad = Conv2dWeightGrad()
