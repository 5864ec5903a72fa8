"""How a convolution is computed: the one place where its algorithm and its kernel are chosen.

An operator (ops/conv.py) describes itself as a `Problem` and asks `choose` for the algorithm: Winograd's minimal
filtering or direct convolution, by the cost model or as measured. Then it calls the function here that is named like
it, which lowers Winograd's kernels, or the first direct kernel in the list there that fits.
"""

from dataclasses import replace

from foveal.ops.kernels.conv import (
    conv1x1,
    depthwise,
    direct,
    direct_batch,
    direct_few_pixels,
    direct_phases,
    direct_simd_batch,
    weight_grad,
    weight_grad_1x1,
    weight_grad_depthwise,
    weight_grad_simd_batch,
    winograd,
    winograd_few_tiles,
    winograd_weight_grad,
    winograd_weight_grad_shared,
)
from foveal.ops.kernels.conv.cost_model import Algorithm, Problem
from foveal.ops.kernels.conv.winograd_grid import forward_grid, input_grad_grid
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.expression import FusedInput
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.packing import lower_panels
from foveal.ops.kernels.partial_sums import lower_kernel_sums
from foveal.ops.kernels.register_tile import ceil_div, tile_for
from foveal.ops.kernels.taps import Axes, both_axes, forward_taps, gradient_taps, used_kernel
from foveal.ops.op import Lowering
from foveal.ops.window import Pair, Sides, Window
from foveal.view import View

# Algorithms that foveal.autotune has measured, by Problem.key; empty unless FOVEAL_TUNE asked for that.
measured: dict[str, Algorithm] = {}


def choose(problem: Problem) -> Algorithm:
    """The measured algorithm of a problem if there is one, else the cost model's."""
    found = measured.get(problem.key)
    return replace(found, prepared=problem.prepared > 0) if found else problem.default()


def lower_forward(
    lowering: Lowering, y: EpilogueOutputs, x: View, w: View, algorithm: Algorithm, window: Window, groups: int
) -> None:
    """y [N, K, P, Q] = convolution of x [N, C, H, W] with w [K, C/G, R, S], whose taps are the window's."""
    if m := algorithm.winograd_tile:
        grid = forward_grid(m, window, y.shape[0], y.shape[2:])
        if algorithm.prepared and winograd_few_tiles.fits(grid, x.shape[1], y.shape[1], algorithm):
            winograd_few_tiles.lower(lowering, y, x, w, grid)
        else:
            winograd.lower(lowering, y, x, w, grid, algorithm, rotate=False)
    else:
        direct_forward(lowering, y, x, w, window, groups, algorithm.prepared)


def lower_input_grad(
    lowering: Lowering, dx: EpilogueOutputs, dy: View, w: View, algorithm: Algorithm, window: Window, groups: int
) -> None:
    """dx [N, C, H, W], the gradient in x, of dy [N, K, P, Q] and w [K, C/G, R, S]."""
    if m := algorithm.winograd_tile:
        grid = input_grad_grid(m, window, dx.shape[0], dx.shape[2:])
        winograd.lower(lowering, dx, dy, w.permuted(1, 0, 2, 3), grid, algorithm, rotate=True)
    else:
        direct_input_grad(lowering, dx, dy, w, window, groups)


def lower_computed_forward(lowering: Lowering, y: EpilogueOutputs, x: FusedInput, w: View, window: Window) -> None:
    """y [N, G, P, Q], the depthwise convolution of an x that is computed while it is read, with w [G, 1, R, S]."""
    axes = both_axes(forward_taps, y.shape[2:], image_size(x.arrays[0]), *geometry(window))
    depthwise.lower(lowering, y, x.each(nhwc), one_each(w), axes)


def lower_computed_input_grad(lowering: Lowering, dx: EpilogueOutputs, dy: FusedInput, w: View, window: Window) -> None:
    """dx [N, G, H, W], the gradient in x, of a dy that is computed while it is read, and w [G, 1, R, S]."""
    axes = both_axes(gradient_taps, dx.shape[2:], image_size(dy.arrays[0]), *geometry(window))
    depthwise.lower(lowering, dx, dy.each(nhwc), one_each(w), axes)


def lower_weight_grad(
    lowering: Lowering, dw: View, dy: View, x: View, algorithm: Algorithm, window: Window, groups: int
) -> None:
    """dw [K, C/G, R, S], the gradient in the weights, of dy [N, K, P, Q] and x [N, C, H, W]."""
    if m := algorithm.winograd_tile:
        grid = forward_grid(m, window, dy.shape[0], image_size(dy))
        K, C = dw.shape[:2]
        if winograd_weight_grad_shared.fits(C, K, algorithm):
            winograd_weight_grad_shared.lower(lowering, dw, dy, x, grid)
        else:
            winograd_weight_grad.lower(lowering, dw, dy, x, grid, algorithm)
    else:
        direct_weight_grad(lowering, dw, dy, x, window, groups)


def direct_forward(
    lowering: Lowering, y: EpilogueOutputs, x: View, w: View, window: Window, groups: int, prepared: bool = False
) -> None:
    """The convolution by a direct kernel."""
    K, c_group, R, S = w.shape
    axes = both_axes(forward_taps, y.shape[2:], image_size(x), *geometry(window))
    direct_by_taps(lowering, y, x, w.reshaped((groups, K // groups, c_group, R, S)), axes, prepared)


def direct_input_grad(lowering: Lowering, dx: EpilogueOutputs, dy: View, w: View, window: Window, groups: int) -> None:
    """The gradient in x by a direct kernel: a correlation too, in which filters and channels swap their roles."""
    K, c_group, R, S = w.shape
    axes = both_axes(gradient_taps, dx.shape[2:], image_size(dy), *geometry(window))
    # [G, channels of a group, filters of a group, R, S]
    weights = w.reshaped((groups, K // groups, c_group, R, S)).permuted(0, 2, 1, 3, 4)
    direct_by_taps(lowering, dx, dy, weights, axes)


def direct_by_taps(
    lowering: Lowering, y: EpilogueOutputs, x: View, w: View, axes: Axes, prepared: bool = False
) -> None:
    """Lower the first direct kernel that fits, for w [G, filters, channels, R, S] and the taps on both axes.

    prepared: the filters are the same in every run. filters, channels: of a group. For a gradient in x, x is dy and y
    is dx, so their roles are swapped.
    """
    groups, filters, channels, *_ = w.shape
    # 1. one filter per channel
    if filters == channels == 1 and groups > 1:
        depthwise.lower(lowering, y, FusedInput.of(nhwc(x)), w, axes)
        return
    # 2. few filters in each of several phases, which a gradient in x with a stride has
    if direct_phases.fits(x, w, axes):
        direct_phases.lower(lowering, y, x, w, axes)
        return
    # 3. too few filters to fill a vector: lanes run over images. In inference there are few of these, and of tasks
    axes, first, used_size = used_kernel(axes)
    has_blocks = prepared and filters > tile_for(filters).lanes
    if not has_blocks and direct_simd_batch.fits(nhwc(x), channels, filters, axes):
        direct_simd_batch.lower(lowering, y, nhwc(x), w, axes, first, used_size)
        return
    # in all others lanes run over filters, whose weights are packed into panels as wide as a register tile
    tile = tile_for(filters)
    blocks = ceil_div(filters, tile.lanes)
    panels = lowering.scratch((groups, blocks, *used_size, channels, tile.lanes))
    lower_panels(lowering, panels, w, first)
    # 4. few pixels with many filters, which are read from memory
    if prepared and direct_few_pixels.fits(nhwc(x), filters, groups, axes):
        direct_few_pixels.lower(lowering, y, nhwc(x), panels, axes, filters)
    # 5. every output pixel reads the input pixel at the same place: a matrix product
    elif conv1x1.fits(y, x, w, axes):
        conv1x1.lower(lowering, y, x, panels, filters)
    # 6. small images, or many products with padding: a register tile is one pixel of many images
    elif direct_batch.fits(y, x.shape, channels, tile, axes):
        direct_batch.lower(lowering, y, nhwc(x), panels, axes, filters)
    # 7. any other: a register tile is neighbouring pixels of an image
    else:
        direct.lower(lowering, y, nhwc(x), panels, axes, filters)


def direct_weight_grad(lowering: Lowering, dw: View, dy: View, x: View, window: Window, groups: int) -> None:
    """The gradient in the weights by the first direct kernel that fits."""
    K, c_group, _, _ = dw.shape
    axes = both_axes(forward_taps, image_size(dy), image_size(x), *geometry(window))
    # 1. one filter per channel
    if c_group == 1 and groups == K > 1:
        weight_grad_depthwise.lower(lowering, dw, nhwc(dy), nhwc(x), axes)
        return
    # 2. few filters of few weights (r, s, c): lanes run over images
    axes, first, used_size = used_kernel(axes)
    if weight_grad_simd_batch.fits(nhwc(dy), nhwc(x), axes, c_group * used_size[0] * used_size[1], groups):
        partial = weight_grad_simd_batch.lower(lowering, nhwc(dy), nhwc(x), axes, used_size)
        lower_kernel_sums(lowering, dw, partial, first)
        return
    # 3. one tap, which reads one pixel of x for each of dy: a matrix product
    if weight_grad_1x1.fits(dy, x, axes, used_size, groups):
        weight_grad_1x1.lower(lowering, dw, dy, x, axes, first)
        return
    # 4. any other: lanes run over filters
    weight_grad.lower(lowering, dw, dy, x, axes, first, used_size, groups)


def one_each(w: View) -> View:
    """Depthwise filters [G, 1, R, S] as those of G groups of one channel and one filter, [G, 1, 1, R, S]."""
    G, _, R, S = w.shape
    return w.reshaped((G, 1, 1, R, S))


def image_size(image: View) -> Pair:
    """(rows, columns) of an image [N, C, H, W]."""
    _, _, H, W = image.shape
    return H, W


def geometry(window: Window) -> tuple[Pair, Pair, Sides, Pair]:
    """(size, stride, padding, dilation) of a window, the last arguments of `both_axes`."""
    return window.size, window.stride, window.padding, window.dilation
