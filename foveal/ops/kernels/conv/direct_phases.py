"""The gradient in x of a strided convolution with few channels: its phases are filters of one convolution.

With stride u the outputs fall into u x u phases (taps.py), each a convolution with stride 1 of the same dy. With three
channels each alone would leave most lanes of a vector empty; but the outputs (i u + a, j u + b) of all phases read the
same pixels around (i, j). So they are computed together, by direct.py, as filters of one convolution with stride 1 over
all taps of any phase, in which the weights are 0 where a phase has no tap. A gradient of 7x7 filters with stride 2 has
phases of 4 and 3 taps, so that 49 of 64 weights are not 0, and three channels of four phases fill 12 of 16 lanes.

Shi et al. 2016 (arXiv:1609.05158) compute transposed convolutions so, and call the last step a periodic shuffling.
"""

import math

from foveal.kernel.lang import Array, parallel
from foveal.ops.kernels.conv import direct, direct_simd_batch
from foveal.ops.kernels.conv.direct import Phases
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.kernels.halo import nhwc
from foveal.ops.kernels.register_tile import ceil_div, tile_for
from foveal.ops.kernels.taps import Axes, Taps
from foveal.ops.op import Lowering
from foveal.view import View

# Filters of a phase at most: more fill the lanes of a vector alone.
MAX_FILTERS = 4

# Phases at most: the code that packs their weights is unrolled.
MAX_PHASES = 16

# For an axis: by its merged taps, the window position of each phase there, if it has one.
Positions = tuple[tuple[int | None, ...], ...]


def fits(x: View, w: View, axes: Axes) -> bool:
    """True if this takes less time than each phase alone, for x [N, C, H, W] and w [G, filters, channels, R, S].

    Both are counted in multiply-adds per output and channel.
    """
    groups, filters, channels, *_ = w.shape
    number = math.prod(len(phases) for phases in axes)
    if groups > 1 or filters > MAX_FILTERS or not 1 < number <= MAX_PHASES or not all(mergeable(t) for t in axes):
        return False
    phases = phases_of(axes, filters)
    tile = tile_for(number * phases.width)
    merged = math.prod(len(positions(t)) for t in axes) * ceil_div(number * phases.width, tile.lanes) * tile.lanes
    alone, over_images = direct_simd_batch.costs(nhwc(x), channels, filters, axes)
    return merged * channels / number / direct_simd_batch.SPEED < min(alone, over_images)


def mergeable(phases: tuple[Taps, ...]) -> bool:
    """True if the phases of an axis have as many outputs each, and go through dy in the same steps."""
    return len({t.count for t in phases}) == 1 and all(t.taps and abs(t.tap_step) <= 1 == t.input_step for t in phases)


def phases_of(axes: Axes, filters: int) -> Phases:
    """The phases of both axes, each with so many filters."""
    return Phases(len(axes[0]), len(axes[1]), filters, 1 << (filters - 1).bit_length())


def read_range(phases: tuple[Taps, ...]) -> tuple[int, int]:
    """(first, last) place in dy, from that of output 0 on, that any phase reads."""
    ends = [t.origin + t.tap_step * i for t in phases for i in (0, t.taps - 1)]
    return min(ends), max(ends)


def positions(phases: tuple[Taps, ...]) -> Positions:
    """For each place in dy that output 0 of a phase reads, the window position of each phase there, or None."""
    first, last = read_range(phases)
    # the place of each tap -> its window position, by phase
    taps = [{t.origin + t.tap_step * tap: t.kernel + t.kernel_step * tap for tap in range(t.taps)} for t in phases]
    return tuple(tuple(of_phase.get(place) for of_phase in taps) for place in range(first, last + 1))


def merged(phases: tuple[Taps, ...]) -> Taps:
    """All phases of an axis as one with stride 1."""
    first, last = read_range(phases)
    return Taps(0, 1, phases[0].count, last - first + 1, 0, 1, first, 1, 1)


def lower(lowering: Lowering, dx: EpilogueOutputs, dy: View, w: View, axes: Axes) -> None:
    """Pack the weights of all phases and call direct.py, for dy [N, K, P, Q] and w [1, filters, channels, R, S]."""
    _, filters, channels, *_ = w.shape
    phases = phases_of(axes, filters)
    columns = phases.rows * phases.columns * phases.width
    tile = tile_for(columns)
    rows_of, columns_of = (positions(t) for t in axes)
    panels = lowering.scratch((1, ceil_div(columns, tile.lanes), len(rows_of), len(columns_of), channels, tile.lanes))
    lowering.call(pack_phases, [panels], [w], phases=phases, window=(rows_of, columns_of))
    rows, row = (merged(t) for t in axes)
    direct.lower(lowering, dx, nhwc(dy), panels, ((rows,), (row,)), columns, phases)


def pack_phases(panels: Array, w: Array, *, phases: Phases, window: tuple[Positions, Positions]) -> None:
    """panels[0, block, r, s, c, lane] = the weight of each phase's filters at the place (r, s) of the merged taps.

    panels: [1, blocks, R, S, channels, lanes]; w: [1, filters, channels, ., .]. window: along rows and columns, the
    positions in w by place and phase.
    """
    _, blocks, _, _, channels, columns = panels.shape
    width = phases.width
    # the lanes of a block hold so many phases
    in_block = columns // width
    for (c,) in parallel(channels):
        for r, of_rows in enumerate(window[0]):
            for s, of_columns in enumerate(window[1]):
                for number in range(blocks * in_block):
                    block, place = divmod(number, in_block)
                    a, b = divmod(number, phases.columns)
                    p, q = (of_rows[a], of_columns[b]) if a < phases.rows else (None, None)
                    used = phases.filters if p is not None and q is not None else 0
                    for f in range(width):
                        value = w[0, f, c, p, q] if f < used and p is not None and q is not None else 0.0
                        panels[0, block, r, s, c, place * width + f] = value
