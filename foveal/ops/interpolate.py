"""Images and sequences in another size: nearest, linear and cubic interpolation.

Along an axis of n positions, output p of m is a sum of few of them, its taps. The place that it is computed from is

    p (n - 1) / (m - 1)          with align_corners: first and last positions coincide
    (p + 1/2) s - 1/2            else: positions are centres of cells, of which s = n / m inputs make one output

The sums over rows and columns are independent of each other, so an output pixel is a sum over the taps of both.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import F32, I64, Array, Index, Scalar, cast, loop, maximum, minimum, parallel, splat, when
from foveal.ops.kernels.expression import float_lanes
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.pool import add_at, channel_vectors, check_images, rows_and_columns
from foveal.ops.pool_adaptive import adaptive_avg_pool2d
from foveal.ops.shape import reshape
from foveal.ops.window import Pair, PairArgument, pair
from foveal.strides import Ndarray, Shape

# of one axis each
MODES = ("nearest", "nearest-exact", "linear", "cubic")
# what users write for sequences [N, C, L] and for images [N, C, H, W], and the mode of each axis
SEQUENCE_MODES = {"nearest": "nearest", "nearest-exact": "nearest-exact", "linear": "linear", "area": "area"}
IMAGE_MODES = {
    "nearest": "nearest",
    "nearest-exact": "nearest-exact",
    "bilinear": "linear",
    "bicubic": "cubic",
    "area": "area",
}
# The slope of the cubic's outer parts: Keys 1981 has -1/2, PyTorch and OpenCV this.
SLOPE = -0.75
# The largest denominator of a scale, such as 3/10 for 0.3: enough for 32 bits, few enough for sums in 64.
DENOMINATOR = 1 << 16

# A tap: a position of the input, and its weight.
Tap = tuple[Index, Scalar]
Scales = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """How one axis is interpolated.

    inputs, outputs: the numbers of positions. mode: one of MODES. align_corners: whether first and last positions
    coincide. scale: outputs by inputs where that was given, and is not exactly their quotient; else None.
    """

    inputs: int
    outputs: int
    mode: str
    align_corners: bool
    scale: float | None

    @property
    def step(self) -> Fraction:
        """How many input positions one output position is."""
        if self.align_corners:
            return Fraction(self.inputs - 1, max(self.outputs - 1, 1))
        exact = Fraction(self.inputs, self.outputs)
        return exact if self.scale is None else 1 / Fraction(self.scale).limit_denominator(DENOMINATOR)

    @property
    def is_copy(self) -> bool:
        """True if each output is the input at the same position."""
        return self.inputs == self.outputs and (self.mode == "linear" or self.scale is None)

    @property
    def offset(self) -> Fraction:
        """The place of output 0."""
        return Fraction(0) if self.align_corners else (self.step - 1) / 2

    def taps(self, p: Index) -> list[Tap]:
        """The taps of output p, in the kernel language; of a Python number, in Python."""
        if self.is_copy:
            return [(p, 1.0)]
        if self.mode.startswith("nearest"):
            return [(self.nearest(p), 1.0)]
        # The place is (a p + b) / d in whole numbers; one more than the place is above 0 before it is rounded down.
        d = math.lcm(self.step.denominator, self.offset.denominator)
        numerator = p * int(self.step * d) + int(self.offset * d)
        if self.mode == "linear":
            numerator = maximum(numerator, 0) if self.offset < 0 else numerator
            first, rest = numerator // d, numerator % d
            t = float_lanes(rest, 1) / float(d)
            last = self.inputs - 1
            return [(minimum(first, last), 1.0 - t), (minimum(first + 1, last), t)]
        shifted = numerator + d
        first, t = shifted // d, float_lanes(shifted % d, 1) / float(d)
        # Positions before the first and after the last show these; `first` counts from -1.
        places = [minimum(maximum(first + i, 2) - 2, self.inputs - 1) for i in range(4)]
        return list(zip(places, cubic(t), strict=True))

    def nearest(self, p: Index) -> Index:
        """The position that output p shows, rounded in float32 as PyTorch does."""
        step = float(np.float32(1 / self.scale if self.scale else self.inputs / self.outputs))
        shift = 0.5 if self.mode == "nearest-exact" else 0.0
        if isinstance(p, int | np.integer):
            return min(int(np.float32(p + shift) * np.float32(step)), self.inputs - 1)
        return minimum(cast((cast(p, F32) + shift) * step, I64), self.inputs - 1)

    def matrix(self) -> Ndarray:
        """[outputs, inputs]: the weight of each input position in each output position."""
        weights = np.zeros((self.outputs, self.inputs))
        for p in range(self.outputs):
            for i, weight in self.taps(p):
                weights[p, i] += weight
        return weights


def cubic(t: Scalar) -> list[Scalar]:
    """The weights of the positions -1, 0, 1 and 2, for a place t between 0 and 1: Keys 1981, equation 4."""

    def outer(x: Scalar) -> Scalar:
        return ((x - 5.0) * SLOPE * x + 8.0 * SLOPE) * x - 4.0 * SLOPE

    def inner(x: Scalar) -> Scalar:
        return (x * (SLOPE + 2.0) - (SLOPE + 3.0)) * x * x + 1.0

    return [outer(t + 1.0), inner(t), inner(1.0 - t), outer(2.0 - t)]


def axes(
    inputs: Sequence[int], outputs: Sequence[int], mode: str, align_corners: bool, scale_factor: Scales | None
) -> tuple[Axis, Axis]:
    """The axes of rows and of columns. scale_factor: outputs by inputs, where they were given."""
    rows, columns = (
        Axis(n, m, mode, align_corners, None if scale is None or m == n * scale else scale)
        for n, m, scale in zip(inputs, outputs, scale_factor or (None, None), strict=True)
    )
    return rows, columns


class Resampling(Operator):
    """Base of resample and its gradient."""

    arity = 1

    def checked(
        self, what: str, size: PairArgument, mode: str, align_corners: bool, scale_factor: Scales | None
    ) -> dict[str, Any]:
        """The attributes in full form; ShapeError for values without meaning. what: the name of the size."""
        full = pair(size, f"{self.name}: {what}")
        if min(full) < 1:
            raise ShapeError(f"{self.name}: {what} {full} has to be 1 or more rows and columns")
        if mode not in MODES:
            raise ShapeError(f"{self.name}: mode {mode!r} is not known; choose one of {', '.join(MODES)}")
        if scale_factor is not None and min(scale_factor) <= 0:
            raise ShapeError(f"{self.name}: scale_factor is {scale_factor}, it has to be above 0")
        return {what: full, "mode": mode, "align_corners": align_corners, "scale_factor": scale_factor}


def check_pixels(name: str, x: Shape) -> None:
    """Raise ShapeError unless x are images with pixels."""
    check_images(name, x)
    if min(x[2:]) < 1:
        raise ShapeError(f"{name}: images of shape {x} have no pixels")


class Resample(Resampling):
    """y[n,c,p,q] = sum over taps (h, a) of p and (v, b) of q of a b x[n,c,h,v]

    Images of another size: x [N, C, H, W] -> y [N, C, P, Q]. interpolate says it in PyTorch's words.

    output_size: (P, Q). mode: of both axes, "nearest", "nearest-exact", "linear" or "cubic". align_corners: True lets
    first and last positions coincide, for linear and cubic. scale_factor: (P / H, Q / W) where sizes were rounded, so
    that positions are this far apart; unless given it follows from the sizes. Raises ShapeError for other values, and
    where x has no pixels.
    """

    name = "resample"
    cases = (
        Case(((2, 3, 4, 5),), {"output_size": (9, 7), "mode": "linear"}),
        Case(((1, 18, 3, 2),), {"output_size": (6, 4), "mode": "linear", "align_corners": True}),
        Case(((2, 3, 7, 9),), {"output_size": (3, 4), "mode": "nearest"}),
        Case(((1, 5, 4, 3),), {"output_size": (5, 8), "mode": "nearest-exact", "scale_factor": (1.4, 2.9)}),
        Case(((2, 9, 3, 6),), {"output_size": (7, 4), "mode": "cubic"}),
        Case(((1, 2, 5, 1),), {"output_size": (8, 1), "mode": "linear", "scale_factor": (1.7, 1.0)}),
    )

    def normalise(
        self,
        x: HasShape,
        *,
        output_size: PairArgument,
        mode: str,
        align_corners: bool = False,
        scale_factor: Scales | None = None,
    ) -> dict[str, Any]:
        return self.checked("output_size", output_size, mode, align_corners, scale_factor)

    def shape(self, x: Shape, *, output_size: Pair, **_: Any) -> Shape:
        check_pixels(self.name, x)
        return (*x[:2], *output_size)

    def numpy(
        self, x: Ndarray, *, output_size: Pair, mode: str, align_corners: bool, scale_factor: Scales | None
    ) -> Ndarray:
        rows, columns = axes(x.shape[2:], output_size, mode, align_corners, scale_factor)
        y = np.zeros((*x.shape[:2], *output_size), x.dtype)
        for p, q in np.ndindex(*output_size):
            for (h, a), (v, b) in itertools.product(rows.taps(p), columns.taps(q)):
                y[:, :, p, q] += a * b * x[:, :, h, v]
        return y

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, output_size: Pair, **how: Any) -> tuple[Tensor, ...]:
        return (resample_grad(dy, image_size=x.shape[2:], **how),)

    def kernel(
        self, y: Array, x: Array, *, output_size: Pair, mode: str, align_corners: bool, scale_factor: Scales | None
    ) -> None:
        rows, columns = axes(rows_and_columns(x.shape), output_size, mode, align_corners, scale_factor)
        # threads share images and rows
        for n, p in parallel(y.shape[0], rows.outputs):
            row_taps = rows.taps(p)
            for q in loop(columns.outputs):
                taps = [(h, v, a * b) for h, a in row_taps for v, b in columns.taps(q)]
                for c, width in channel_vectors(y):
                    products = [x.load((n, c, h, v), width) * splat(weight, width) for h, v, weight in taps]
                    y.store((n, c, p, q), sum(products[1:], products[0]), width)


class ResampleGrad(Resampling):
    """dx[n,c,h,v] = sum of a b dy[n,c,p,q] over all outputs (p, q) that have taps (h, a) and (v, b)

    The gradient of resample: dy [N, C, P, Q] -> dx [N, C, H, W]. image_size: (H, W). The other arguments and the errors
    are those of resample.
    """

    name = "resample_grad"
    cases = tuple(
        Case(
            ((*c.shapes[0][:2], *c.attributes["output_size"]),),
            {k: v for k, v in c.attributes.items() if k != "output_size"} | {"image_size": c.shapes[0][2:]},
        )
        for c in Resample.cases
    )

    def normalise(
        self,
        dy: HasShape,
        *,
        image_size: PairArgument,
        mode: str,
        align_corners: bool = False,
        scale_factor: Scales | None = None,
    ) -> dict[str, Any]:
        return self.checked("image_size", image_size, mode, align_corners, scale_factor)

    def shape(self, dy: Shape, *, image_size: Pair, **_: Any) -> Shape:
        check_pixels(self.name, dy)
        return (*dy[:2], *image_size)

    def numpy(
        self, dy: Ndarray, *, image_size: Pair, mode: str, align_corners: bool, scale_factor: Scales | None
    ) -> Ndarray:
        rows, columns = axes(image_size, dy.shape[2:], mode, align_corners, scale_factor)
        dx = np.zeros((*dy.shape[:2], *image_size), dy.dtype)
        for p, q in np.ndindex(*dy.shape[2:]):
            for (h, a), (v, b) in itertools.product(rows.taps(p), columns.taps(q)):
                dx[:, :, h, v] += a * b * dy[:, :, p, q]
        return dx

    def vjp(self, g: Tensor, dx: Tensor, dy: Tensor, *, image_size: Pair, **how: Any) -> tuple[Tensor, ...]:
        return (resample(g, output_size=dy.shape[2:], **how),)

    def kernel(
        self, dx: Array, dy: Array, *, image_size: Pair, mode: str, align_corners: bool, scale_factor: Scales | None
    ) -> None:
        rows, columns = axes(image_size, rows_and_columns(dy.shape), mode, align_corners, scale_factor)
        # Taps of neighbouring outputs meet, so a thread has a whole row, and looks for the output rows that read it.
        for n, h in parallel(dx.shape[0], rows.inputs):
            for v in loop(columns.inputs):
                for c, width in channel_vectors(dx):
                    dx.store((n, c, h, v), 0.0, width)
            for p in loop(rows.outputs):
                for place, share in rows.taps(p):
                    for _ in when(place == h):
                        for q in loop(columns.outputs):
                            for v, weight in columns.taps(q):
                                for c, width in channel_vectors(dx):
                                    value = dy.load((n, c, p, q), width) * splat(share * weight, width)
                                    add_at(dx, (n, c, h, v), value, width)


class Interpolate(Operator):
    """y = x in another size: x [N, C, H, W] -> [N, C, P, Q], or x [N, C, L] -> [N, C, Q], as PyTorch's interpolate

    y[n,c,p,q] = sum over taps (h, a) of p and (v, b) of q of a b x[n,c,h,v].

    size: of the output, a number or (P, Q); or scale_factor: outputs by inputs, a number or (rows, columns), where
        sizes are rounded down and positions stay as far apart as it says. One of the two is needed.
    mode: "nearest" shows input floor(p H / P); "nearest-exact" floor((p + 1/2) H / P); "linear" (of sequences),
        "bilinear" and "bicubic" (of images) interpolate, Keys 1981 with the slope -3/4; "area" takes the mean of the
        inputs of each output, adaptive_avg_pool2d.
    align_corners: for linear, bilinear and bicubic, True lets first and last positions coincide, so that p is computed
        from p (H - 1) / (P - 1); False, as if None, from (p + 1/2) H / P - 1/2. Else None.

    Raises ShapeError for other values, and where x has another number of axes or no pixels.
    """

    name, arity, composite = "interpolate", 1, True
    #: the words for `mode`
    modes: ClassVar[tuple[str, ...]] = tuple(SEQUENCE_MODES | IMAGE_MODES)
    cases = (
        Case(((2, 3, 4, 5),), {"size": (7, 9), "mode": "bilinear"}),
        Case(((2, 3, 4, 5),), {"scale_factor": 2.0}),
        Case(((1, 2, 3, 4),), {"scale_factor": (1.6, 0.7), "mode": "bicubic", "align_corners": True}),
        Case(((2, 3, 5),), {"size": 8, "mode": "linear", "align_corners": False}),
        Case(((2, 3, 6, 5),), {"size": 4, "mode": "area"}),
    )

    def normalise(
        self,
        x: HasShape,
        *,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> dict[str, Any]:
        axes_count = len(x.shape) - 2
        modes = {1: SEQUENCE_MODES, 2: IMAGE_MODES}.get(axes_count)
        if modes is None:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W] or sequences [N, C, L], got shape {x.shape}")
        if mode not in modes:
            kind = ("sequences", "images")[axes_count - 1]
            raise ShapeError(f"{self.name}: mode is {mode!r}; for {kind} choose one of {', '.join(modes)}")
        if align_corners is not None and modes[mode] not in ("linear", "cubic"):
            raise ShapeError(
                f"{self.name}: align_corners is for linear, bilinear and bicubic interpolation; leave it out with mode"
                f" {mode!r}"
            )
        full: dict[str, Any] = {"mode": mode, "align_corners": align_corners}
        for what, value in (("size", size), ("scale_factor", scale_factor)):
            numbers = tuple(value) if isinstance(value, tuple | list) else (value,) * axes_count
            if len(numbers) != axes_count or any(number is not None and number <= 0 for number in numbers):
                raise ShapeError(
                    f"{self.name}: {what} is {value!r}, it has to be one number above 0, or one for each of"
                    f" {axes_count} axes"
                )
            full[what] = None if value is None else numbers
        return full

    def output_size(self, x: Shape, size: Shape | None, scale_factor: tuple[float, ...] | None) -> Shape:
        """The sizes of the output's axes; ShapeError unless one of both is given, and where nothing is left."""
        if (size is None) == (scale_factor is None):
            raise ShapeError(f"{self.name}: give either size or scale_factor")
        if 0 in x[2:]:
            raise ShapeError(f"{self.name}: an input of shape {x} has no pixels")
        if scale_factor is None:
            assert size is not None
            return size
        outputs = tuple(int(n * scale) for n, scale in zip(x[2:], scale_factor, strict=True))
        if 0 in outputs:
            raise ShapeError(f"{self.name}: scale_factor {scale_factor} leaves nothing of an input of shape {x}")
        return outputs

    def shape(
        self,
        x: Shape,
        *,
        size: Shape | None,
        scale_factor: tuple[float, ...] | None,
        mode: str,
        align_corners: bool | None,
    ) -> Shape:
        return (*x[:2], *self.output_size(x, size, scale_factor))

    def as_images(
        self,
        x: Shape,
        size: Shape | None,
        scale_factor: tuple[float, ...] | None,
        mode: str,
        align_corners: bool | None,
    ) -> tuple[Shape, Operator, dict[str, Any]]:
        """The shape of x as images, of one row where they are sequences, and the operator for them, its attributes."""
        outputs = self.output_size(x, size, scale_factor)
        missing = 2 - len(outputs)
        output_size = (1,) * missing + outputs
        images = (*x[:2], *(1,) * missing, *x[2:])
        if mode == "area":
            return images, adaptive_avg_pool2d, {"output_size": output_size}
        # Images of the same size are copied, where PyTorch does so, whatever the scale was rounded from.
        is_copy = not missing and outputs == x[2:] and mode == "nearest"
        scales = None if scale_factor is None or is_copy else (1.0,) * missing + scale_factor
        along = (SEQUENCE_MODES | IMAGE_MODES)[mode]
        how = {"mode": along, "align_corners": bool(align_corners), "scale_factor": scales}
        return images, resample, {"output_size": output_size, **how}

    def numpy(self, x: Ndarray, **attributes: Any) -> Ndarray:
        images, operator, full = self.as_images(x.shape, **attributes)
        return operator.numpy(x.reshape(images), **full).reshape(self.shape(x.shape, **attributes))

    def expand(self, x: Tensor, **attributes: Any) -> Tensor:
        images, operator, full = self.as_images(x.shape, **attributes)
        y: Tensor = operator.apply((reshape(x, shape=images),), full)
        return reshape(y, shape=self.shape(x.shape, **attributes))


resample, resample_grad, interpolate = Resample(), ResampleGrad(), Interpolate()
