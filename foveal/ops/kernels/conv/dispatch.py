"""Which kernel computes a direct convolution or its gradient in x."""

from typing import Any

from foveal.ops.kernels.conv import conv1x1, depthwise, direct_batch, direct_simd_batch
from foveal.ops.kernels.conv.direct import lower_correlate
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.packing import pack_panels
from foveal.ops.kernels.register_tile import tile_for
from foveal.ops.kernels.taps import Axes, both_axes, forward_taps, gradient_taps, used_kernel
from foveal.ops.op import Lowering


def lower_forward(
    to: Lowering, y: EpilogueOutputs, x: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    K, C, R, S = w.shape
    axes = both_axes(forward_taps, y.shape[2:], x.shape[2:], (R, S), stride, padding, dilation)
    lower_taps(to, y, x, w.reshaped((groups, K // groups, C, R, S)), axes)


def lower_input_grad(
    to: Lowering, dx: EpilogueOutputs, dy: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    K, C, R, S = w.shape
    axes = both_axes(gradient_taps, dx.shape[2:], dy.shape[2:], (R, S), stride, padding, dilation)
    weights = w.reshaped((groups, K // groups, C, R, S)).permuted(0, 2, 1, 3, 4)
    lower_taps(to, dx, dy, weights, axes)


def lower_taps(to: Lowering, y: EpilogueOutputs, x: Any, w: Any, axes: Axes) -> None:
    """Choose the kernel and pack the weights. w: [G, outputs, inputs, R, S]."""
    groups, outputs, inputs, *_ = w.shape
    if outputs == inputs == 1 and groups > 1:
        depthwise.lower(to, y, nhwc(x), w, axes)
        return
    tile = tile_for(outputs)
    axes, first, kernel = used_kernel(axes)
    if direct_simd_batch.fits(nhwc(x), inputs, outputs, axes):
        direct_simd_batch.lower(to, y, nhwc(x), w, axes, first, kernel)
        return
    panels = to.scratch((groups, -(-outputs // tile.columns), *kernel, inputs, tile.columns))
    to.call(pack_panels, [panels], [w], columns=tile.columns, first=first)
    if conv1x1.fits(y, x, w, axes):
        conv1x1.lower(to, y, x, panels, outputs)
    elif direct_batch.fits(x.shape, inputs, tile, axes):
        direct_batch.lower(to, y, nhwc(x), panels, axes, outputs)
    else:
        lower_correlate(to, y, nhwc(x), panels, axes, outputs)
