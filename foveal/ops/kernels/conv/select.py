"""How a convolution is computed: the one place where its algorithm and its kernel are chosen.

An operator (ops/conv.py) describes itself as a `Problem` and asks `choose` for the algorithm: Winograd's minimal
filtering or direct convolution, by the cost model or as measured. Then it calls the function here that is named like
it, which lowers Winograd's kernels, or the first direct kernel in the list there that fits.
"""

from collections.abc import Mapping
from typing import Any

from foveal.ops.kernels.conv import (
    conv1x1,
    depthwise,
    direct,
    direct_batch,
    direct_simd_batch,
    weight_grad,
    weight_grad_depthwise,
    weight_grad_simd_batch,
    winograd,
    winograd_weight_grad,
)
from foveal.ops.kernels.conv.cost_model import Algorithm, Problem
from foveal.ops.kernels.conv.winograd_grid import forward_grid, input_grad_grid
from foveal.ops.kernels.epilogue import Results
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.packing import pack_panels
from foveal.ops.kernels.partial_sums import lower_sum
from foveal.ops.kernels.register_tile import tile_for
from foveal.ops.kernels.taps import Axes, both_axes, forward_taps, gradient_taps, used_kernel
from foveal.ops.op import Lowering
from foveal.view import View

# Algorithms that foveal.autotune has measured, by Problem.key; empty unless FOVEAL_TUNE asked for that.
measured: dict[str, Algorithm] = {}


def choose(problem: Problem) -> Algorithm:
    """The measured algorithm of a problem if there is one, else the cost model's."""
    return measured.get(problem.key) or problem.default()


def lower_forward(
    lowering: Lowering, y: Results, x: View, w: View, algorithm: Algorithm, attributes: Mapping[str, Any]
) -> None:
    """y [N, K, P, Q] = convolution of x [N, G C, H, W] with w [K, C, R, S]; attributes: those of ops.conv2d."""
    if m := algorithm.winograd_tile:
        stride, before = attributes["stride"][0], attributes["padding"][::2]
        grid = forward_grid(m, stride, y.shape[0], y.shape[2:], before)
        winograd.lower(lowering, y, x, w, grid, algorithm, rotate=False)
    else:
        direct_forward(lowering, y, x, w, **attributes)


def lower_input_grad(
    lowering: Lowering, dx: Results, dy: View, w: View, algorithm: Algorithm, attributes: Mapping[str, Any]
) -> None:
    """dx [N, G C, H, W], the gradient in x, of dy [N, K, P, Q] and w [K, C, R, S]."""
    if m := algorithm.winograd_tile:
        stride, before = attributes["stride"][0], attributes["padding"][::2]
        grid = input_grad_grid(m, stride, dx.shape[0], dx.shape[2:], before)
        winograd.lower(lowering, dx, dy, w.permuted(1, 0, 2, 3), grid, algorithm, rotate=True)
    else:
        direct_input_grad(lowering, dx, dy, w, **attributes)


def lower_weight_grad(
    lowering: Lowering, dw: View, dy: View, x: View, algorithm: Algorithm, attributes: Mapping[str, Any]
) -> None:
    """dw [K, C, R, S], the gradient in the weights, of dy [N, K, P, Q] and x [N, G C, H, W]."""
    if m := algorithm.winograd_tile:
        stride, before, (_, _, P, Q) = attributes["stride"][0], attributes["padding"][::2], dy.shape
        grid = forward_grid(m, stride, dy.shape[0], (P, Q), before)
        winograd_weight_grad.lower(lowering, dw, dy, x, grid, algorithm)
    else:
        direct_weight_grad(lowering, dw, dy, x, **attributes)


def direct_forward(
    lowering: Lowering,
    y: Results,
    x: View,
    w: View,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """The same by a direct kernel."""
    (K, C, R, S), (H, W) = w.shape, x.shape[2:]
    axes = both_axes(forward_taps, y.shape[2:], (H, W), (R, S), stride, padding, dilation)
    direct_by_taps(lowering, y, x, w.reshaped((groups, K // groups, C, R, S)), axes)


def direct_input_grad(
    lowering: Lowering,
    dx: Results,
    dy: View,
    w: View,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """The gradient in x by a direct kernel: a correlation too, in which filters and channels swap their roles."""
    (K, C, R, S), (P, Q) = w.shape, dy.shape[2:]
    axes = both_axes(gradient_taps, dx.shape[2:], (P, Q), (R, S), stride, padding, dilation)
    weights = w.reshaped((groups, K // groups, C, R, S)).permuted(0, 2, 1, 3, 4)
    direct_by_taps(lowering, dx, dy, weights, axes)


def direct_by_taps(lowering: Lowering, y: Results, x: View, w: View, axes: Axes) -> None:
    """Lower the first direct kernel that fits, for w [G, outputs, inputs, R, S] and the taps on both axes."""
    groups, outputs, inputs, *_ = w.shape
    # 1. one filter per channel
    if outputs == inputs == 1 and groups > 1:
        depthwise.lower(lowering, y, nhwc(x), w, axes)
        return
    # 2. too few filters to fill a vector: lanes run over images
    axes, first, kernel = used_kernel(axes)
    if direct_simd_batch.fits(nhwc(x), inputs, outputs, axes):
        direct_simd_batch.lower(lowering, y, nhwc(x), w, axes, first, kernel)
        return
    # in all others lanes run over filters, whose weights are packed into panels as wide as a register tile
    tile = tile_for(outputs)
    panels = lowering.scratch((groups, -(-outputs // tile.columns), *kernel, inputs, tile.columns))
    lowering.call(pack_panels, [panels], [w], columns=tile.columns, first=first)
    # 3. every output reads the pixel at its own place: a matrix product
    if conv1x1.fits(y, x, w, axes):
        conv1x1.lower(lowering, y, x, panels, outputs)
    # 4. small images of a large batch: a register tile is one pixel of many images
    elif direct_batch.fits(x.shape, inputs, tile, axes):
        direct_batch.lower(lowering, y, nhwc(x), panels, axes, outputs)
    # 5. any other: a register tile is neighbouring pixels of an image
    else:
        direct.lower_correlate(lowering, y, nhwc(x), panels, axes, outputs)


def direct_weight_grad(
    lowering: Lowering,
    dw: View,
    dy: View,
    x: View,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """The gradient in the weights by the first direct kernel that fits."""
    (K, C, R, S), (P, Q), (H, W) = dw.shape, dy.shape[2:], x.shape[2:]
    axes = both_axes(forward_taps, (P, Q), (H, W), (R, S), stride, padding, dilation)
    # 1. one filter per channel
    if C == 1 and groups == K > 1:
        weight_grad_depthwise.lower(lowering, dw, nhwc(dy), nhwc(x), axes)
        return
    # 2. few filters and few positions (r, s, c): lanes run over images
    axes, first, kernel = used_kernel(axes)
    if weight_grad_simd_batch.fits(nhwc(dy), nhwc(x), axes, C * kernel[0] * kernel[1], groups):
        partial = weight_grad_simd_batch.lower(lowering, nhwc(dy), nhwc(x), axes, kernel)
        lower_sum(lowering, dw, partial, first)
        return
    # 3. any other: lanes run over filters
    weight_grad.lower(lowering, dw, dy, x, axes, first, kernel, groups)
