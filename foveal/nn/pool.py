"""Pooling over windows of images [N, C, H, W], or of sequences [N, C, L] (the layers whose names end in 1d)."""

from typing import Any, ClassVar

from foveal import ops
from foveal.api import compile
from foveal.errors import DataError, ShapeError
from foveal.nn.module import Module
from foveal.nn.sequence import as_images, as_sequences
from foveal.ops.window import check_window, pair, sides
from foveal.trace import Symbol

Four = tuple[int, int, int, int]


def along_columns(value: Any, what: str, rows: int) -> tuple[int, int]:
    """A 1-D layer's hyper-parameter as those of images of one row."""
    value = value[0] if isinstance(value, tuple | list) and len(value) == 1 else value
    if not isinstance(value, int):
        raise ShapeError(f"{what} has to be an int, got {value!r}")
    return rows, value


def check_padding(layer: str, size: Any, padding: Four, dilation: Any) -> None:
    """PyTorch's rule: no more padding than half of the window, so that each window meets the image."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    if max(padding[:2]) * 2 > reach[0] or max(padding[2:]) * 2 > reach[1]:
        raise ShapeError(
            f"{layer}: padding {padding} is more than half of the window {tuple(reach)}, which could then lie outside"
            f" of the image; use less padding or a larger kernel_size"
        )


class Windows(Module):
    """What poolings over windows share: kernel_size, stride (kernel_size unless given), padding, dilation, ceil_mode.

    padding: int, (rows, columns) or (top, bottom, left, right), at most half of the window. ceil_mode: the output size
    is
    rounded up, so that windows may reach beyond the padding as long as they start in the image or in the padding before
    it.
    """

    sequences: ClassVar[bool] = False

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode
        window = self.window()
        check_window(
            type(self).__name__, window["kernel_size"], window["stride"], window["padding"], window["dilation"]
        )
        check_padding(type(self).__name__, window["kernel_size"], window["padding"], window["dilation"])

    def window(self) -> dict[str, Any]:
        """The operator's attributes."""
        layer = type(self).__name__
        if self.sequences:
            made: dict[str, Any] = {
                "kernel_size": along_columns(self.kernel_size, f"{layer}: kernel_size", 1),
                "stride": along_columns(self.stride, f"{layer}: stride", 1),
                "padding": sides(along_columns(self.padding, f"{layer}: padding", 0), f"{layer}: padding"),
                "dilation": along_columns(self.dilation, f"{layer}: dilation", 1),
            }
        else:
            made = {
                "kernel_size": pair(self.kernel_size, f"{layer}: kernel_size"),
                "stride": pair(self.stride, f"{layer}: stride"),
                "padding": sides(self.padding, f"{layer}: padding"),
                "dilation": pair(self.dilation, f"{layer}: dilation"),
            }
        return made | {"ceil_mode": bool(self.ceil_mode)}

    def forward(self, x: Any) -> Any:
        if not self.sequences:
            return self.pool(x)
        y = self.pool(as_images(type(self).__name__, x))
        return tuple(map(as_sequences, y)) if isinstance(y, tuple) else as_sequences(y)

    def pool(self, x: Any) -> Any:
        """The pooling of images."""
        raise NotImplementedError

    def describe(self) -> str:
        told = f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"
        told += f", dilation={self.dilation}" if self.dilation != 1 else ""
        return told + (", ceil_mode=True" if self.ceil_mode else "")


class MaxPool2d(Windows):
    """The largest of each window; x [N, C, H, W] -> [N, C, P, Q]

    return_indices: the places h W + v of the (first) maxima as well, int32, which MaxUnpool2d takes.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self.return_indices = return_indices

    def pool(self, x: Any) -> Any:
        y = ops.max_pool2d(x, **self.window())
        return (y, ops.max_pool2d_index(x, **self.window())) if self.return_indices else y


class MaxPool1d(MaxPool2d):
    """The largest of each window; x [N, C, L] -> [N, C, Q]"""

    sequences = True


class AvgPool2d(Windows):
    """The mean of each window; x [N, C, H, W] -> [N, C, P, Q]

    count_include_pad: whether the zeros of the padding count. divisor_override: what sums are divided by instead.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        if divisor_override is not None and divisor_override < 1:
            raise ShapeError(f"{type(self).__name__}: divisor_override is {divisor_override}, it has to be 1 or more")
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def pool(self, x: Any) -> Any:
        return ops.avg_pool2d(
            x, **self.window(), count_include_pad=self.count_include_pad, divisor_override=self.divisor_override
        )


class AvgPool1d(AvgPool2d):
    """The mean of each window; x [N, C, L] -> [N, C, Q]"""

    sequences = True


class AdaptiveAvgPool2d(Module):
    """The means of output_size windows that cover the image; x [N, C, H, W] -> [N, C, P, Q]

    output_size: (P, Q) or one number for both; None for as many as the image has.
    """

    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size
        asked = output_size if isinstance(output_size, tuple | list) else (output_size,)
        for size in asked:
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ShapeError(
                    f"{type(self).__name__}: output_size is {output_size!r}, each size has to be 1 or more, or None"
                )

    def forward(self, x: Any) -> Any:
        return ops.adaptive_avg_pool2d(x, output_size=self.output_size)

    def describe(self) -> str:
        return str(self.output_size)


class AdaptiveAvgPool1d(AdaptiveAvgPool2d):
    """The means of output_size windows that cover the sequence; x [N, C, L] -> [N, C, Q]"""

    def forward(self, x: Any) -> Any:
        y = as_images(type(self).__name__, x)
        return as_sequences(ops.adaptive_avg_pool2d(y, output_size=(1, self.output_size)))


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """The largest of each of output_size windows that cover the image; x [N, C, H, W] -> [N, C, P, Q]

    return_indices: the places h W + v of the (first) maxima as well, int32.
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, x: Any) -> Any:
        return self.pool(x, self.output_size)

    def pool(self, x: Any, output: Any) -> Any:
        y = ops.adaptive_max_pool2d(x, output_size=output)
        return (y, ops.adaptive_max_index(x, output_size=output)) if self.return_indices else y


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """The largest of each of output_size windows that cover the sequence; x [N, C, L] -> [N, C, Q]"""

    def forward(self, x: Any) -> Any:
        y = self.pool(as_images(type(self).__name__, x), (1, self.output_size))
        return tuple(map(as_sequences, y)) if isinstance(y, tuple) else as_sequences(y)


class LPPool2d(Windows):
    """(sum of x^norm_type)^(1 / norm_type) of each window; x [N, C, H, W] -> [N, C, P, Q]

    norm_type 1 is sum pooling, infinity max pooling of |x|. As in PyTorch an odd norm_type keeps the sign of x; for |x|
    of
    it, as ONNX's LpPool has it, use foveal.ops.lp_pool2d.
    """

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        if not norm_type > 0:
            raise ShapeError(f"{type(self).__name__}: norm_type is {norm_type}, it has to be above 0")
        super().__init__(kernel_size, stride, ceil_mode=ceil_mode)
        self.norm_type = norm_type

    def pool(self, x: Any) -> Any:
        return ops.lp_pool2d(x, **self.window(), norm_type=self.norm_type, absolute=False)

    def describe(self) -> str:
        return f"norm_type={self.norm_type}, {super().describe()}"


class LPPool1d(LPPool2d):
    """(sum of x^norm_type)^(1 / norm_type) of each window; x [N, C, L] -> [N, C, Q]"""

    sequences = True


class MaxUnpool2d(Windows):
    """The reverse of MaxPool2d: each value at the place of the maximum it was, 0 elsewhere; x [N, C, P, Q] -> [N, C, H,
    W]

    Called with the indices that MaxPool2d(return_indices=True) gave. output_size: (H, W), or [N, C, H, W]; unless given
    H = (P - 1) u - 2 pad + R, and so W.
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__(kernel_size, stride, padding)

    def __call__(self, x: Any, indices: Any, output_size: Any = None) -> Any:  # type: ignore[override]
        if isinstance(x, Symbol):
            return self.forward(x, indices, output_size)
        rows, columns = self.image(x, output_size)
        bad = indices[(indices < 0) | (indices >= rows * columns)]
        if bad.size:
            raise DataError(
                f"{type(self).__name__}: place {bad.flat[0]} is none of the {rows}x{columns} image; give output_size,"
                f" the size of the image that was pooled"
            )
        return compile(lambda x, indices: self.forward(x, indices, output_size))(x, indices)

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:  # type: ignore[override]
        return ops.max_unpool2d(x, indices, image_size=self.image(x, output_size))

    def image(self, x: Any, output_size: Any) -> tuple[int, int]:
        if output_size is not None:
            return pair(tuple(output_size)[-2:], f"{type(self).__name__}: output_size")
        window, padding = self.window(), self.window()["padding"]
        rows, columns = (
            (n - 1) * window["stride"][a] - padding[2 * a] - padding[2 * a + 1] + window["kernel_size"][a]
            for a, n in enumerate(x.shape[2:])
        )
        return rows, columns


class GlobalAvgPool2d(Module):
    """The mean of each channel; x [N, C, H, W] -> [N, C, 1, 1], as PyTorch's AdaptiveAvgPool2d(1)"""

    def forward(self, x: Any) -> Any:
        return ops.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The largest of each channel; x [N, C, H, W] -> [N, C, 1, 1], as PyTorch's AdaptiveMaxPool2d(1)"""

    def forward(self, x: Any) -> Any:
        return ops.adaptive_max_pool2d(x, output_size=1)
