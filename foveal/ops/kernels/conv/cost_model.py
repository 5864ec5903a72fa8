"""What a convolution costs, computed directly or by Winograd's minimal filtering: a model of its shape alone.

It depends on no timing, so a convolution is computed in the same way, and has the same bits, on every run. Costs are
counted in vector operations (multiply-adds, additions, loads) of one core. The constants were measured on Zen 4, with
`foveal bench ops conv2d`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from foveal.kernel.lang import lanes
from foveal.ops.kernels.conv.winograd_matrices import POINTS
from foveal.ops.window import Pair, Window
from foveal.strides import Shape

# Algorithm.winograd_tile of direct convolution
DIRECT = 0

# (kernel, dilation, groups) that minimal filtering is implemented for, and its strides
WINOGRAD_SHAPE = ((3, 3), (1, 1), 1)
WINOGRAD_STRIDES = ((1, 1), (2, 2))

# Vector operations of the transforms by (stride, m), loads and stores included: of the inputs of one tile for a vector
# of channels, of its outputs for a vector of filters, and of the filters of one input channel for a vector of filters.
INPUT_COST = {(1, 2): 70, (1, 4): 330, (2, 2): 250, (2, 4): 750}
OUTPUT_COST = {(1, 2): 50, (1, 4): 250, (2, 2): 250, (2, 4): 600}
FILTER_COST = {(1, 2): 50, (1, 4): 120, (2, 2): 480, (2, 4): 1000}

# Share of the peak that the direct kernels reach. The products of minimal filtering count as running at the peak.
DIRECT_EFFICIENCY = 0.93

# Use minimal filtering only if its estimated cost is below this share of direct convolution's: the model is not exact,
# and near equality the direct kernel rounds less and needs no scratch memory.
WINOGRAD_MARGIN = 0.95

# Channels, and filters, that a task of a weight gradient should have: with 36 positions its sums [36, 64, 64] take 576
# KiB, a little more than half of a second-level cache of 1 MiB. Fewer would transform the tiles of the other side more
# often.
GROUP_SIZE = 64

# Values of Algorithm.tile_block that FOVEAL_TUNE measures: 12 to 96 tiles, in factors of two around the default's 48.
TILE_BLOCKS = (12, 24, 48, 96)


# "forward": a convolution, and the gradient in x with stride 1, which is one too; "transposed": the gradient in x with
# other strides; "weight": the gradient in the weights
Kind = Literal["forward", "transposed", "weight"]


@dataclass(frozen=True)
class Algorithm:
    """A way to compute a convolution or one of its gradients."""

    # m: minimal filtering with output tiles of m x m; DIRECT: direct convolution
    winograd_tile: int
    # tiles that are transformed at once at most; None: as many as the kernel finds to fit into the cache
    tile_block: int | None = None
    # what threads share out, blocks of tiles or blocks of filters; None: what the kernel finds to be better
    parallel_over: Literal["tiles", "filters"] | None = None


@dataclass(frozen=True)
class Problem:
    """One convolution or gradient."""

    kind: Kind
    # images, inputs, outputs
    N: int
    C: int
    K: int
    # rows and columns of the outputs; of a weight gradient, of dy
    P: int
    Q: int
    # of the filters, (R, S)
    kernel: Pair
    stride: Pair
    dilation: Pair
    groups: int

    def tile_sizes(self) -> list[int]:
        """DIRECT, and the tile sizes m of minimal filtering if it can compute the problem."""
        fits = (self.kernel, self.dilation, self.groups) == WINOGRAD_SHAPE and self.stride in WINOGRAD_STRIDES
        grouped = self.kind != "weight" or bool(group_of(self.C) and group_of(self.K))
        return [DIRECT, *(POINTS if fits and grouped else ())]

    def cost(self, m: int) -> float:
        """Vector operations with tiles of m x m, or DIRECT. Products with padding count, since both compute them."""
        # vectors of inputs and of outputs per pixel
        inputs, outputs = math.ceil(self.C / lanes()), math.ceil(self.K / lanes())
        stride = self.stride[0]
        # multiply-adds of direct convolution; in a transposed one an output meets 9 / stride^2 taps on average
        if m == DIRECT:
            pixels = self.P * self.Q // (stride**2 if self.kind == "transposed" else 1)
            return self.N * pixels * 9 * self.C * outputs / DIRECT_EFFICIENCY
        # outputs of a tile on one axis, and tiles of all images
        size = m * stride if self.kind == "transposed" else m
        tiles = self.N * math.ceil(self.P / size) * math.ceil(self.Q / size)
        # a weight gradient transforms its tiles anew for each group of channels of the other side
        if self.kind == "weight":
            inputs, outputs = inputs * groups_of(self.K), outputs * groups_of(self.C)
        transforms = tiles * (INPUT_COST[stride, m] * inputs + OUTPUT_COST[stride, m] * outputs)
        filters = self.C * math.ceil(self.K / lanes())
        positions = m + 2 if stride == 1 else 2 * m + 1
        return transforms + tiles * positions**2 * filters + FILTER_COST[stride, m] * filters

    @property
    def key(self) -> str:
        """The name of the problem in the file of measured choices."""
        R, S = self.kernel
        return (
            f"{self.kind} N{self.N} C{self.C} K{self.K} P{self.P} Q{self.Q} R{R} S{S} u{self.stride}"
            f" d{self.dilation} G{self.groups}"
        )

    def candidates(self) -> list[Algorithm]:
        """The default first, then the others that are worth measuring."""
        algorithms = [self.default(), Algorithm(DIRECT)]
        for m in self.tile_sizes()[1:]:
            algorithms += [Algorithm(m, size) for size in TILE_BLOCKS]
            algorithms += [Algorithm(m, parallel_over="filters")] if self.kind != "weight" else []
        return list(dict.fromkeys(algorithms))

    def default(self) -> Algorithm:
        """The algorithm that costs least by the model."""
        costs = {m: self.cost(m) * (1.0 if m == DIRECT else 1 / WINOGRAD_MARGIN) for m in self.tile_sizes()}
        return Algorithm(min(costs, key=lambda m: (costs[m], m)))


def problem_of(kind: Kind, y: Shape, w: Shape, window: Window, groups: int) -> Problem:
    """The problem of outputs y [N, K, P, Q] and filters w [K, C, R, S]."""
    (N, _, P, Q), (K, C, _, _) = y, w
    return Problem(kind, N, C, K, P, Q, window.size, window.stride, window.dilation, groups)


def group_of(channels: int) -> int | None:
    """Size of the equal groups of channels that a task of a weight gradient takes, near GROUP_SIZE.

    None if the number of channels has no such divisor between half and three halves of GROUP_SIZE.
    """
    if channels <= GROUP_SIZE:
        return channels
    sizes = range(GROUP_SIZE // 2, GROUP_SIZE * 3 // 2 + 1)
    fitting = [size for size in sizes if channels % size == 0]
    return min(fitting, key=lambda size: (abs(size - GROUP_SIZE), size)) if fitting else None


def groups_of(channels: int) -> int:
    """How many groups of `group_of` size there are."""
    return channels // (group_of(channels) or channels)
