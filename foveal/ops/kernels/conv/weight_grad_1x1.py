"""Gradient of a 1x1 convolution in its weights: a product of matrices [C, pixels] x [pixels, K].

transposed_product.py computes it. With a stride, it is a product of the pixels that outputs read; it copies pixels one
after the other, so that it does not matter where they lie.
"""

from dataclasses import replace

from foveal.ops.kernels import transposed_product
from foveal.ops.kernels.conv.conv1x1 import evenly_spaced, one_row
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.partial_sums import lower_kernel_sums
from foveal.ops.kernels.taps import Axes
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View


def fits(dy: View, x: View, axes: Axes, used_size: Pair, groups: int) -> bool:
    """True if each output reads one pixel of x, which lies in the image; for dy [N, K, P, Q] and x [N, C, H, W]."""
    if used_size != (1, 1) or groups > 1:
        return False
    taps = [phases[0] for phases in axes]
    inside = all(t.taps == 1 and t.low >= 0 and t.high < n for t, n in zip(taps, x.shape[2:], strict=True))
    return inside and dy.strides[1] == x.strides[1] == 1


def read_pixels(x: View, axes: Axes) -> View:
    """The pixels of x [N, C, H, W] that outputs read, as [N, C, P, Q]."""
    (rows,), (columns,) = axes
    N, C, _, _ = x.shape
    by_image, by_channel, by_row, by_column = x.strides
    strides = (by_image, by_channel, by_row * rows.input_step, by_column * columns.input_step)
    read = x.over((N, C, rows.count, columns.count), strides)
    return replace(read, offset=x.offset + rows.origin * by_row + columns.origin * by_column)


def lower(lowering: Lowering, dw: View, dy: View, x: View, axes: Axes, first: Pair) -> None:
    """Add the kernels of dw [K, C, R, S], for dy [N, K, P, Q] and x [N, C, H, W], whose one tap is at `first`."""
    K, C, R, S = dw.shape
    images = [dy, read_pixels(x, axes)]
    is_one_row = all(evenly_spaced(image) for image in images)
    dy, x = (nhwc(one_row(image) if is_one_row else image) for image in images)
    result = dw.permuted(2, 3, 1, 0).reshaped((C, K)) if (R, S) == (1, 1) else None
    partial = transposed_product.lower(lowering, dy, x, result)
    if partial.shape[0] > 1 or result is None:
        lower_kernel_sums(lowering, dw, partial.reshaped((partial.shape[0], 1, 1, C, K)), first)
