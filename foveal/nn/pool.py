"""Pooling over windows of images [N, C, H, W], or of sequences [N, C, L] (the layers whose names end in 1d).

The letters are those of foveal/ops/op.py: R S rows and columns of a window, P Q output rows and columns, u stride,
d dilation.
"""

from collections.abc import Sequence
from typing import ClassVar, TypedDict, cast

from foveal import ops
from foveal.api import compile
from foveal.errors import DataError, ShapeError
from foveal.kinds import AnyNumber, name_kind
from foveal.nn.arguments import AxesLike, AxesPadding, Pair, Sides, SingleLike
from foveal.nn.module import Module, Output
from foveal.nn.one_dimensional import as_images, as_sequences, one_row
from foveal.ops.op import HasShape, Tensor
from foveal.ops.window import check_window, pair, sides
from foveal.strides import Ndarray

# Output rows and columns of an adaptive pooling; None stands for as many as the image has.
OutputSize = int | None | tuple[int | None, int | None]
name_kind(OutputSize, "one size or two, ints or None", int | None | Sequence[int | None])


class WindowAttributes(TypedDict):
    """The attributes by which operators over windows are called."""

    kernel_size: Pair
    stride: Pair
    padding: Sides
    dilation: Pair
    ceil_mode: bool


def check_padding(layer: str, window: WindowAttributes) -> None:
    """Raise ShapeError for more padding than half of the window, PyTorch's rule: each window then meets the image."""
    padding = window["padding"]
    # the rows and columns that a dilated window reaches over
    reach = [d * (k - 1) + 1 for d, k in zip(window["dilation"], window["kernel_size"], strict=True)]
    if max(padding[:2]) * 2 > reach[0] or max(padding[2:]) * 2 > reach[1]:
        raise ShapeError(
            f"{layer}: padding {padding} is more than half of the window {tuple(reach)}, which could then lie outside"
            f" of the image; use less padding or a larger kernel_size"
        )


class Windows(Module):
    """Base of the poolings over windows, which have kernel_size, stride (kernel_size unless given), padding, dilation
    and ceil_mode.

    kernel_size, stride, dilation: an int or (rows, columns). padding: an int, (rows, columns) or (top, bottom, left,
    right), at most half of the window. ceil_mode: round the output size up, so that windows may reach beyond the
    padding as long as they start in the image or in the padding before it. In layers for sequences each is an int or a
    tuple of one. Raises ShapeError for values that have no meaning.
    """

    sequences: ClassVar[bool] = False

    def __init__(
        self,
        kernel_size: AxesLike,
        stride: AxesLike | None = None,
        padding: AxesPadding = 0,
        dilation: AxesLike = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode
        window = self.window()
        check_window(
            type(self).__name__, window["kernel_size"], window["stride"], window["padding"], window["dilation"]
        )
        check_padding(type(self).__name__, window)

    def window(self) -> WindowAttributes:
        """The operator's attributes, for images of one row in layers for sequences."""
        layer = type(self).__name__
        around = self.padding
        if self.sequences:
            around = one_row(cast(SingleLike, around), 0, f"{layer}: padding")
        return {
            "kernel_size": self.along_axes(self.kernel_size, f"{layer}: kernel_size"),
            "stride": self.along_axes(self.stride, f"{layer}: stride"),
            "padding": sides(around, f"{layer}: padding"),
            "dilation": self.along_axes(self.dilation, f"{layer}: dilation"),
            "ceil_mode": bool(self.ceil_mode),
        }

    def along_axes(self, value: AxesLike, what: str) -> Pair:
        """A hyper-parameter as (rows, columns); sequences are images of one row, along which windows have size 1."""
        if self.sequences:
            return one_row(cast(SingleLike, value), 1, what)
        return pair(value, what)

    def forward(self, x: Tensor) -> Output:
        if not self.sequences:
            return self.pool(x)
        y = self.pool(as_images(type(self).__name__, x))
        return tuple(map(as_sequences, y)) if isinstance(y, tuple) else as_sequences(y)

    def pool(self, x: Tensor) -> Output:
        """The pooling of images [N, C, H, W]."""
        raise NotImplementedError

    def describe(self) -> str:
        text = f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"
        text += f", dilation={self.dilation}" if self.dilation != 1 else ""
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class MaxPool2d(Windows):
    """The maximum of each window; x [N, C, H, W] -> [N, C, P, Q]

    The hyper-parameters are those of Windows. return_indices: return the positions h W + v of the (first) maxima as
    well, int32 [N, C, P, Q], which MaxUnpool2d takes.
    """

    def __init__(
        self,
        kernel_size: AxesLike,
        stride: AxesLike | None = None,
        padding: AxesPadding = 0,
        dilation: AxesLike = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self.return_indices = return_indices

    def pool(self, x: Tensor) -> Output:
        y = ops.max_pool2d(x, **self.window())
        return (y, ops.max_pool2d_index(x, **self.window())) if self.return_indices else y


class MaxPool1d(MaxPool2d):
    """The maximum of each window; x [N, C, L] -> [N, C, Q]"""

    sequences = True


class AvgPool2d(Windows):
    """The mean of each window; x [N, C, H, W] -> [N, C, P, Q]

    kernel_size, stride, padding, ceil_mode are those of Windows. count_include_pad: True counts the zeros of the
    padding as values. divisor_override: a whole number that sums are divided by instead of the number of values.
    """

    def __init__(
        self,
        kernel_size: AxesLike,
        stride: AxesLike | None = None,
        padding: AxesPadding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        if divisor_override is not None and divisor_override < 1:
            raise ShapeError(f"{type(self).__name__}: divisor_override is {divisor_override}, it has to be 1 or more")
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def pool(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(
            x, **self.window(), count_include_pad=self.count_include_pad, divisor_override=self.divisor_override
        )


class AvgPool1d(AvgPool2d):
    """The mean of each window; x [N, C, L] -> [N, C, Q]"""

    sequences = True


class AdaptiveAvgPool2d(Module):
    """The means of output_size windows that cover the image; x [N, C, H, W] -> [N, C, P, Q]

    output_size: (P, Q), or one number for both; None for as many as the image has. Raises ShapeError for sizes below 1.
    """

    def __init__(self, output_size: OutputSize) -> None:
        self.output_size = output_size
        for size in output_size if isinstance(output_size, tuple | list) else (output_size,):
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ShapeError(
                    f"{type(self).__name__}: output_size is {output_size!r}, each size has to be 1 or more, or None"
                )

    def forward(self, x: Tensor) -> Output:
        return ops.adaptive_avg_pool2d(x, output_size=self.output_size)

    def describe(self) -> str:
        return str(self.output_size)


class AdaptiveAvgPool1d(AdaptiveAvgPool2d):
    """The means of output_size windows that cover the sequence; x [N, C, L] -> [N, C, Q]

    output_size: Q, or None for L.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = as_images(type(self).__name__, x)
        size = cast(int | None, self.output_size)
        return as_sequences(ops.adaptive_avg_pool2d(y, output_size=(1, size)))


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """The maximum of each of output_size windows that cover the image; x [N, C, H, W] -> [N, C, P, Q]

    output_size is AdaptiveAvgPool2d's. return_indices: return the positions h W + v of the (first) maxima as well,
    int32 [N, C, P, Q].
    """

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, x: Tensor) -> Output:
        return self.pool(x, self.output_size)

    def pool(self, x: Tensor, output_size: OutputSize) -> Output:
        """The pooling of images [N, C, H, W], with the indices where they are asked for."""
        y = ops.adaptive_max_pool2d(x, output_size=output_size)
        return (y, ops.adaptive_max_index(x, output_size=output_size)) if self.return_indices else y


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """The maximum of each of output_size windows that cover the sequence; x [N, C, L] -> [N, C, Q]

    output_size: Q, or None for L. return_indices: return the positions of the (first) maxima as well, int32 [N, C, Q].
    """

    def forward(self, x: Tensor) -> Output:
        columns = cast(int | None, self.output_size)
        y = self.pool(as_images(type(self).__name__, x), (1, columns))
        return tuple(map(as_sequences, y)) if isinstance(y, tuple) else as_sequences(y)


class LPPool2d(Windows):
    """(sum of x^norm_type)^(1 / norm_type) of each window; x [N, C, H, W] -> [N, C, P, Q]

    norm_type: above 0, else ShapeError; 1 is sum pooling, infinity max pooling of |x|. As in PyTorch an odd norm_type
    keeps the sign of x; foveal.ops.lp_pool2d takes |x| instead, as ONNX's LpPool does. kernel_size, stride and
    ceil_mode are those of Windows.
    """

    def __init__(
        self, norm_type: AnyNumber, kernel_size: AxesLike, stride: AxesLike | None = None, ceil_mode: bool = False
    ) -> None:
        if not norm_type > 0:
            raise ShapeError(f"{type(self).__name__}: norm_type is {norm_type}, it has to be above 0")
        super().__init__(kernel_size, stride, ceil_mode=ceil_mode)
        self.norm_type = norm_type

    def pool(self, x: Tensor) -> Tensor:
        return ops.lp_pool2d(x, **self.window(), norm_type=self.norm_type, absolute=False)

    def describe(self) -> str:
        return f"norm_type={self.norm_type}, {super().describe()}"


class LPPool1d(LPPool2d):
    """(sum of x^norm_type)^(1 / norm_type) of each window; x [N, C, L] -> [N, C, Q]"""

    sequences = True


class MaxUnpool2d(Windows):
    """The reverse of MaxPool2d: each value at the position of its maximum, 0 elsewhere; x [N, C, P, Q] -> [N, C, H, W]

    It is called as layer(x, indices, output_size) with the indices int32 [N, C, P, Q] that MaxPool2d gave with
    return_indices=True. output_size: (H, W), or [N, C, H, W]; unless given H = (P - 1) u - 2 pad + R, and W likewise.
    Raises DataError for indices outside of the image. kernel_size, stride and padding are those of the MaxPool2d.
    """

    def __init__(self, kernel_size: AxesLike, stride: AxesLike | None = None, padding: AxesPadding = 0) -> None:
        super().__init__(kernel_size, stride, padding)

    def __call__(
        self, x: Tensor | Ndarray, indices: Tensor | Ndarray, output_size: tuple[int, ...] | None = None
    ) -> Tensor | Ndarray:
        if isinstance(x, Tensor) or isinstance(indices, Tensor):
            return self.forward(x, indices, output_size)
        rows, columns = self.image(x, output_size)
        outside = indices[(indices < 0) | (indices >= rows * columns)]
        if outside.size:
            raise DataError(
                f"{type(self).__name__}: index {outside.flat[0]} lies outside of images of {rows}x{columns}; give"
                f" output_size, the size of the images that were pooled"
            )
        return compile(lambda x, indices: self.forward(x, indices, output_size))(x, indices)

    def forward(  # type: ignore[override]
        self, x: HasShape, indices: HasShape, output_size: tuple[int, ...] | None = None
    ) -> Tensor:
        return ops.max_unpool2d(x, indices, image_size=self.image(x, output_size))

    def image(self, x: HasShape, output_size: tuple[int, ...] | None) -> Pair:
        """The rows and columns (H, W) of the output."""
        if output_size is not None:
            return pair(tuple(output_size)[-2:], f"{type(self).__name__}: output_size")
        window, padding = self.window(), self.window()["padding"]
        rows, columns = (
            (n - 1) * window["stride"][a] - padding[2 * a] - padding[2 * a + 1] + window["kernel_size"][a]
            for a, n in enumerate(x.shape[2:])
        )
        return rows, columns


class MaxUnpool1d(MaxUnpool2d):
    """The reverse of MaxPool1d: each value at the position of its maximum, 0 elsewhere; x [N, C, Q] -> [N, C, L]

    It is called as layer(x, indices, output_size) with the indices int32 [N, C, Q] that MaxPool1d gave with
    return_indices=True. output_size: (L,), or [N, C, L]; unless given L = (Q - 1) u - 2 pad + S. Raises DataError for
    indices outside of the sequence. kernel_size, stride and padding are those of the MaxPool1d.
    """

    sequences = True

    def forward(  # type: ignore[override]
        self, x: Tensor, indices: Tensor, output_size: tuple[int, ...] | None = None
    ) -> Tensor:
        name = type(self).__name__
        size = self.image(x, output_size)
        return as_sequences(ops.max_unpool2d(as_images(name, x), as_images(name, indices), image_size=size))

    def image(self, x: HasShape, output_size: tuple[int, ...] | None) -> Pair:
        """(1, L) of the output."""
        if output_size is not None:
            return one_row(tuple(output_size)[-1:], 1, f"{type(self).__name__}: output_size")  # type: ignore[arg-type]
        return super().image(as_images(type(self).__name__, x), None)  # type: ignore[arg-type]


class GlobalAvgPool2d(Module):
    """The mean of each channel; x [N, C, H, W] -> [N, C, 1, 1], as PyTorch's AdaptiveAvgPool2d(1)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The maximum of each channel; x [N, C, H, W] -> [N, C, 1, 1], as PyTorch's AdaptiveMaxPool2d(1)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.adaptive_max_pool2d(x, output_size=1)


class GlobalAvgPool1d(Module):
    """The mean of each channel; x [N, C, L] -> [N, C, 1], as PyTorch's AdaptiveAvgPool1d(1)"""

    def forward(self, x: Tensor) -> Tensor:
        return as_sequences(ops.global_avg_pool2d(as_images(type(self).__name__, x)))


class GlobalMaxPool1d(Module):
    """The maximum of each channel; x [N, C, L] -> [N, C, 1], as PyTorch's AdaptiveMaxPool1d(1)"""

    def forward(self, x: Tensor) -> Tensor:
        return as_sequences(ops.adaptive_max_pool2d(as_images(type(self).__name__, x), output_size=1))
