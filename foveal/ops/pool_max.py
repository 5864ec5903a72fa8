"""Max pooling, its gradients, and the places of the maxima."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, Scalar, loops, maximum, parallel, var, where
from foveal.ops.kernels import pool
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.expression import FusedInput
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.pool_loops import LOWEST, NO_PLACE, int_lanes, pixels_backwards, value_where
from foveal.ops.op import Case, HasShape, Lowering, Tensor
from foveal.ops.pool import (
    Pooling,
    add_at,
    channel_vectors,
    check_images,
    hits_inside,
    output_vectors,
    rows_and_columns,
    sliding_window,
    zero_image,
)
from foveal.ops.pool_indices import put_pixels, take_pixels
from foveal.ops.window import PaddingArgument, Pair, PairArgument, Window, pair
from foveal.strides import Ndarray, Shape
from foveal.view import View


def keeps_places(window: Window) -> bool:
    """True if the pass forward keeps the places of the maxima for the gradient; else that finds them again from x."""
    return not pool.finds_again(window)


class MaxPooling(Pooling):
    """Base of the poolings of images x by their maxima."""

    def normalise(
        self,
        x: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument | None = None,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        ceil_mode: bool = False,
    ) -> dict[str, Any]:
        return {"window": sliding_window(self.name, x.shape, kernel_size, stride, padding, dilation, ceil_mode)}

    def window(self, *, window: Window) -> Window:
        return window

    def shape(self, x: Shape, *, window: Window) -> Shape:
        return self.pooled(x, window)


class MaxPool2d(MaxPooling):
    """y[n,c,p,q] = max_rs x[n, c, p u + r d - pad, q u + s d - pad]

    The maximum of each window: images x [N, C, H, W] -> y [N, C, P, Q], with P = floor((H + pads - d (R - 1) - 1) / u)
    + 1, Q alike. The padding never wins; a window with NaN gives NaN. The gradient goes to the first of equal maxima,
    row by row, as in PyTorch.

    kernel_size: (R, S), or one number for both. stride: u along rows and columns; the kernel size unless given.
    padding: a number, (rows, columns) or (top, bottom, left, right). dilation: d, the distance of neighbouring taps.
    ceil_mode: round P and Q up, so that the last windows may reach beyond the padding as long as they start in the
    image or in the padding before it.

    Raises ShapeError where x is not four-dimensional, a number is out of range, a window does not fit, or would lie in
    the padding only.
    """

    name, arity, epilogues, reads = "max_pool2d", 1, True, 0
    cases = (
        Case(((2, 3, 6, 8),), {"kernel_size": 2}),
        Case(((2, 20, 7, 5),), {"kernel_size": 3, "stride": 2, "padding": 1}),
        Case(((1, 2, 5, 9),), {"kernel_size": (2, 3), "stride": (1, 3)}),
        Case(((1, 16, 8, 8),), {"kernel_size": 3, "stride": 3, "padding": (0, 1, 1, 0)}),
        Case(((1, 18, 9, 6),), {"kernel_size": (3, 2), "stride": 2, "padding": 1, "dilation": (2, 3)}),
        Case(((1, 3, 6, 7),), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        Case(((1, 5, 9, 10),), {"kernel_size": (9, 8), "stride": (3, 2), "padding": 4}),
        Case(((2, 70, 9, 10),), {"kernel_size": (9, 3), "stride": (1, 4)}),
    )

    def numpy(self, x: Ndarray, *, window: Window) -> Ndarray:
        return np.asarray(window.view(x, padding=LOWEST).max(axis=(4, 5)))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, window: Window) -> tuple[Tensor, ...]:
        return (max_pool2d_grad(dy, x, y, **window.arguments()),)

    def kernel(self, y: Array, x: Array, *, window: Window) -> None:
        counts, image = rows_and_columns(y.shape), rows_and_columns(x.shape)
        for n, p, q, c, width in output_vectors(y):
            best = var(LOWEST, width)
            for h, v, valid in window.pixels((p, q), counts, image):
                value = value_where(valid, x.load((n, c, h, v), width), LOWEST)
                best.set(maximum(value, best.get()))
            y.store((n, c, p, q), best, width)

    def lower_results(self, lowering: Lowering, y: EpilogueOutputs, x: View | FusedInput, *, window: Window) -> None:
        pool.lower_max(lowering, y, FusedInput.of(x), window)


def first_maxima(x: Ndarray, window: Window) -> Ndarray:
    """True where x's window [N, C, P, Q, R, S] has its first maximum, or its first NaN; never in the padding."""
    view, inside = window.view(x, padding=LOWEST), window.view(np.ones((1, 1, *x.shape[2:])))
    # where all of a window's pixels are -inf they equal the padding
    largest = ((view == view.max(axis=(4, 5), keepdims=True)) | np.isnan(view)) & (inside == 1)
    flat = largest.reshape(*view.shape[:4], -1)
    chosen = np.arange(flat.shape[-1]) == flat.argmax(-1)[..., None]
    return np.asarray(chosen.reshape(view.shape))


def drawn_with_maxima(shapes: tuple[Shape, ...], first: Shape, **attributes: Any) -> Case:
    """A case with inputs (first, x, y), where x is fixed by its shape and y are its maxima, as the gradient meets them.

    shapes: of x and of y.
    """

    def x(rng: np.random.Generator, shape: Shape) -> Ndarray:
        return np.random.default_rng(sum(shape)).permutation(math.prod(shape)).reshape(shape) * 0.1

    def y(rng: np.random.Generator, shape: Shape) -> Ndarray:
        return np.asarray(max_pool2d(x(rng, shapes[0]).astype("f4"), **attributes))

    return Case((first, *shapes), attributes, {1: x, 2: y})


# ((shape of x, shape of y), hyper-parameters of the window)
WINDOWS: tuple[tuple[tuple[Shape, Shape], dict[str, Any]], ...] = (
    (((2, 3, 6, 8), (2, 3, 3, 4)), {"kernel_size": 2}),
    (((2, 20, 7, 5), (2, 20, 4, 3)), {"kernel_size": 3, "stride": 2, "padding": 1}),
    (((1, 2, 5, 9), (1, 2, 4, 3)), {"kernel_size": (2, 3), "stride": (1, 3)}),
    (((1, 18, 9, 6), (1, 18, 4, 3)), {"kernel_size": (3, 2), "stride": 2, "padding": 1, "dilation": (2, 3)}),
    (((1, 5, 9, 10), (1, 5, 3, 6)), {"kernel_size": (9, 8), "stride": (3, 2), "padding": 4}),
)


def places_drawn(x: Shape, attributes: dict[str, Any]) -> Callable[[np.random.Generator, Shape], Ndarray]:
    """Draw the places of the maxima of random images of shape x."""
    return lambda rng, shape: np.asarray(max_pool2d_place(rng.standard_normal(x), **attributes))


class OfMaxima(Pooling):
    """Base of the operators on (values, x, y) that put values where x has its maxima y: the gradient, and its own."""

    arity = 3

    def normalise(
        self,
        values: HasShape,
        x: HasShape,
        y: HasShape,
        *,
        kernel_size: PairArgument,
        stride: PairArgument | None = None,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        ceil_mode: bool = False,
    ) -> dict[str, Any]:
        return {"window": sliding_window(self.name, x.shape, kernel_size, stride, padding, dilation, ceil_mode)}

    def check_maxima(self, x: Shape, y: Shape, window: Window) -> Shape:
        """The shape of x's maxima; ShapeError unless y has it."""
        pooled = self.pooled(x, window)
        if y != pooled:
            raise ShapeError(f"{self.name}: x of shape {x} gives {pooled}; y has {y}")
        return pooled


class MaxPool2dGrad(OfMaxima):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the windows whose first maximum is at (h, v)

    The gradient of max_pool2d: values dy [N, C, P, Q], x [N, C, H, W] and y = max_pool2d(x) -> dx [N, C, H, W]. The
    other arguments are those of max_pool2d. Raises ShapeError where the shapes do not fit each other.

    Which element of a window with NaN gets dy is not defined: the first NaN in NumPy, the last one in PyTorch, the
    largest number or none at all in compiled kernels.

    Its kernels are for windows that lie side by side, where the maximum is found again from x. For others
    passes/simplify.py puts max_pool2d_place and max_pool2d_put in its place.
    """

    name, epilogues, reads = "max_pool2d_grad", True, 1
    cases = tuple(drawn_with_maxima(shapes, shapes[1], **attributes) for shapes, attributes in WINDOWS)

    def shape(self, dy: Shape, x: Shape, y: Shape, *, window: Window) -> Shape:
        pooled = self.check_maxima(x, y, window)
        if dy != pooled:
            raise ShapeError(f"{self.name}: x of shape {x} gives {pooled}; dy has {dy}")
        return x

    def numpy(self, dy: Ndarray, x: Ndarray, y: Ndarray, *, window: Window) -> Ndarray:
        dx = np.zeros(x.shape, np.result_type(dy, x))
        window.add_to(dx, np.where(first_maxima(x, window), dy[..., None, None], 0))
        return dx

    def vjp(
        self, g: Tensor, dx: Tensor, dy: Tensor, x: Tensor, y: Tensor, *, window: Window
    ) -> tuple[Tensor | None, ...]:
        return max_pool2d_pick(g, x, y, **window.arguments()), None, None

    def kernel(self, dx: Array, dy: Array, x: Array, y: Array, *, window: Window) -> None:
        N, counts, image = dx.shape[0], rows_and_columns(dy.shape), rows_and_columns(dx.shape)
        # windows may overlap, so a thread has a whole image
        for (n,) in parallel(N):
            zero_image(dx, n)
            for p, q in loops(*counts):
                for c, width in channel_vectors(dx):
                    # the part of dy that no pixel has got yet: the first maximum gets all of it
                    rest = var(dy.load((n, c, p, q), width), width)
                    largest = y.load((n, c, p, q), width)
                    for h, v, valid in window.pixels((p, q), counts, image):
                        hit = hits_inside(x.load((n, c, h, v), width) == largest, valid, width)
                        add_at(dx, (n, c, h, v), where(hit, rest.get(), 0.0), width)
                        rest.set(where(hit, 0.0, rest.get()))

    def lower_results(
        self, lowering: Lowering, dx: EpilogueOutputs, dy: View, x: View | FusedInput, y: View, *, window: Window
    ) -> None:
        pool.lower_max_grad(lowering, dx, dy, FusedInput.of(x), window)


class PlacesOfMaxima(MaxPooling):
    """Base of the operators whose result is h W + v, int32, where (h, v) is the place of a window's maximum."""

    arity, dtype, differentiable = 1, "int32", False
    cases = tuple(Case(c.shapes, c.attributes, smooth=False) for c in (*MaxPool2d.cases[1:5], MaxPool2d.cases[6]))

    def wins(self, value: Scalar, best: Scalar) -> Scalar:
        """True if the maximum is at a pixel and not at any after it, where the largest value of those is `best`."""
        raise NotImplementedError

    def numpy(self, x: Ndarray, *, window: Window) -> Ndarray:
        H, W = x.shape[2:]
        places = np.arange(H * W).reshape(1, 1, H, W)
        return np.where(first_maxima(x, window), window.view(places), 0).sum(axis=(4, 5), dtype=np.int32)

    def kernel(self, y: Array, x: Array, *, window: Window) -> None:
        counts, (H, W) = rows_and_columns(y.shape), rows_and_columns(x.shape)
        for n, p, q, c, width in output_vectors(y):
            best, place = var(LOWEST, width), var(int_lanes(NO_PLACE, width), width)
            # backwards, so that the first of equal maxima comes last and replaces the others
            for h, v, valid in pixels_backwards(window, (p, q), counts, (H, W)):
                value = x.load((n, c, h, v), width)
                larger: Scalar = hits_inside(self.wins(value, best.get()), valid, width)
                best.set(where(larger, value, best.get()))
                place.set(where(larger, int_lanes(h * W + v, width), place.get()))
            y.store((n, c, p, q), place.get(), width)


class MaxPool2dPlace(PlacesOfMaxima):
    """y[n,c,p,q] = h W + v, where (h, v) is the place of the first maximum of the window

    What the gradient of max_pool2d keeps of x: images x [N, C, H, W] -> int32 [N, C, P, Q]. The other arguments and
    errors are those of max_pool2d, whose kernels find the places as well. It has no gradient. For a window with NaN,
    whose place is not defined, see max_pool2d_grad; max_pool2d_index gives PyTorch's indices.
    """

    name = "max_pool2d_place"

    def wins(self, value: Scalar, best: Scalar) -> Scalar:
        return value >= best


class MaxPool2dPut(Pooling):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the windows whose place is h W + v

    The gradient of max_pool2d by the places of its maxima: dy [N, C, P, Q] and int32 place [N, C, P, Q] -> dx [N, C, H,
    W]. image_size: (H, W). The other arguments are those of max_pool2d. Each place has to be in its window, or outside
    of the image. Raises ShapeError where the shapes do not fit.
    """

    name, arity, integers, epilogues = "max_pool2d_put", 2, (1,), True
    cases = tuple(
        Case((y, y), attributes | {"image_size": x[2:]}, {1: places_drawn(x, attributes)})
        for (x, y), attributes in WINDOWS
    )

    def normalise(
        self,
        dy: HasShape,
        place: HasShape,
        *,
        image_size: PairArgument,
        kernel_size: PairArgument,
        stride: PairArgument | None = None,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
        ceil_mode: bool = False,
    ) -> dict[str, Any]:
        image = pair(image_size, f"{self.name}: image_size")
        check_images(self.name, dy.shape)
        x = (*dy.shape[:2], *image)
        window = sliding_window(self.name, x, kernel_size, stride, padding, dilation, ceil_mode)
        return {"image_size": image, "window": window}

    def shape(self, dy: Shape, place: Shape, *, image_size: Pair, window: Window) -> Shape:
        x = put_pixels.shape(dy, place, image_size=image_size)
        pooled = self.pooled(x, window)
        if dy != pooled:
            raise ShapeError(f"{self.name}: x of shape {x} gives {pooled}; dy has {dy}")
        return x

    def numpy(self, dy: Ndarray, place: Ndarray, *, image_size: Pair, window: Window) -> Ndarray:
        return put_pixels.numpy(dy, place, image_size=image_size)

    def vjp(
        self, g: Tensor, dx: Tensor, dy: Tensor, place: Tensor, *, image_size: Pair, window: Window
    ) -> tuple[Tensor | None, ...]:
        return take_pixels(g, place), None

    def kernel(self, dx: Array, dy: Array, place: Array, *, image_size: Pair, window: Window) -> None:
        put_pixels.kernel(dx, dy, place, image_size=image_size)

    def lower_results(
        self, lowering: Lowering, dx: EpilogueOutputs, dy: View, place: View, *, image_size: Pair, window: Window
    ) -> None:
        pool.lower_gather(lowering, dx, [nhwc(dy), nhwc(place)], window)


class MaxPool2dPick(OfMaxima):
    """picked[n,c,p,q] = g[n,c,h,v] at the place (h, v) of the first maximum of the window

    The gradient of max_pool2d_grad in dy: values g [N, C, H, W], x [N, C, H, W] and y = max_pool2d(x) -> picked [N, C,
    P, Q]. The other arguments are those of max_pool2d. Raises ShapeError where the shapes do not fit each other.
    """

    name = "max_pool2d_pick"
    cases = tuple(drawn_with_maxima(shapes, shapes[0], **attributes) for shapes, attributes in WINDOWS)

    def shape(self, g: Shape, x: Shape, y: Shape, *, window: Window) -> Shape:
        pooled = self.check_maxima(x, y, window)
        if g != x:
            raise ShapeError(f"{self.name}: g has to have x's shape {x}, it has {g}")
        return pooled

    def numpy(self, g: Ndarray, x: Ndarray, y: Ndarray, *, window: Window) -> Ndarray:
        return np.asarray(np.where(first_maxima(x, window), window.view(g), 0).sum(axis=(4, 5)))

    def vjp(
        self, d: Tensor, picked: Tensor, g: Tensor, x: Tensor, y: Tensor, *, window: Window
    ) -> tuple[Tensor | None, ...]:
        return max_pool2d_grad(d, x, y, **window.arguments()), None, None

    def kernel(self, picked: Array, g: Array, x: Array, y: Array, *, window: Window) -> None:
        counts, image = rows_and_columns(picked.shape), rows_and_columns(x.shape)
        for n, p, q, c, width in output_vectors(picked):
            picked_value = var(0.0, width)
            largest = y.load((n, c, p, q), width)
            # backwards, so that the first of equal maxima comes last and replaces the others
            for h, v, valid in pixels_backwards(window, (p, q), counts, image):
                hit = hits_inside(x.load((n, c, h, v), width) == largest, valid, width)
                picked_value.set(where(hit, g.load((n, c, h, v), width), picked_value.get()))
            picked.store((n, c, p, q), picked_value, width)


class MaxPool2dIndex(PlacesOfMaxima):
    """y[n,c,p,q] = h W + v, where (h, v) is the place of the first maximum of the window, or of its first NaN

    The places of the maxima, as PyTorch counts them: images x [N, C, H, W] -> int32 [N, C, P, Q]. The other arguments
    and errors are those of max_pool2d. It has no gradient.
    """

    name = "max_pool2d_index"

    def wins(self, value: Scalar, best: Scalar) -> Scalar:
        return (value >= best) | (value != value)


max_pool2d, max_pool2d_grad, max_pool2d_pick = MaxPool2d(), MaxPool2dGrad(), MaxPool2dPick()
max_pool2d_place, max_pool2d_put = MaxPool2dPlace(), MaxPool2dPut()
max_pool2d_index = MaxPool2dIndex()
