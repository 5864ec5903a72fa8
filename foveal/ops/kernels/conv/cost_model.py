"""What a convolution costs, computed directly or by Winograd's minimal filtering: a model of its shape alone.

It depends on no timing, so a convolution is computed in the same way, and has the same bits, on every run. Costs are
counted in vector operations (multiply-adds, additions, loads) of one core. The constants were measured on Zen 4, with
`foveal bench ops conv2d`.
"""

from dataclasses import dataclass
from typing import Literal

from foveal.kernel.lang import l2, lanes, llc, registers
from foveal.ops.kernels.conv.winograd_matrices import TILE_SIZES, forward_scheme
from foveal.ops.kernels.register_tile import FLOAT_BYTES, ceil_div, split
from foveal.ops.window import Pair, Window
from foveal.strides import Shape

# Algorithm.winograd_tile of direct convolution
DIRECT = 0

# (kernel size, dilation, groups) that minimal filtering is implemented for, and its strides
WINOGRAD_SHAPE = ((3, 3), (1, 1), 1)
WINOGRAD_STRIDES = tuple((stride, stride) for stride in TILE_SIZES)

# Vector operations of the transforms by (stride, m), loads and stores included: of the inputs of one tile for a vector
# of channels, of its outputs for a vector of filters, and of the 3 x 3 weights of one channel for a vector of filters.
INPUT_COST = {(1, 2): 70, (1, 3): 200, (1, 4): 330, (1, 7): 1050, (2, 2): 250, (2, 3): 500, (2, 4): 900}
OUTPUT_COST = {(1, 2): 50, (1, 3): 150, (1, 4): 250, (1, 7): 800, (2, 2): 250, (2, 3): 400, (2, 4): 700}
FILTER_COST = {(1, 2): 50, (1, 3): 85, (1, 4): 120, (1, 7): 120, (2, 2): 480, (2, 3): 720, (2, 4): 1000}

# Vector operations that storing a vector of sums takes, of one point of a tile for all channels, beside its products:
# with three channels they are half of the work. Measured on Zen 3, where 1 to 4 choose alike.
STORED_SUM = 2

# Share of the peak that the direct kernels reach. The products of minimal filtering count as running at the peak.
DIRECT_EFFICIENCY = 0.93

# That share for gradients in weights with stride 2 and 16 registers, which read every second pixel of x for each tap:
# 32 to 60 % were measured on Zen 3.
STRIDED_GRADIENT_EFFICIENCY = 0.55

# Use minimal filtering only if its estimated cost is below this share of direct convolution's: the model is not exact,
# and near equality the direct kernel rounds less and needs no scratch memory.
WINOGRAD_MARGIN = 0.95

# Channels, and filters, that a task of a weight gradient should have: with 36 points its sums [36, 64, 64] take 576
# KiB, a little more than half of a second-level cache of 1 MiB. Smaller blocks of channels would transform the tiles of
# dy more often, smaller blocks of filters those of x.
CHANNEL_BLOCK = 64

# Multiply-adds in the time that a register tile with fewer sums takes for a step: a sum waits 4 cycles for the one
# before, in which two ports do 8.
MIN_SUMS = 8

# Vectors of filters that a core reads, or writes, in the time of a multiply-add: from memory, at 15 GB/s while others
# read too, and from the last-level cache, at 35 GB/s. Measured on two cores of Zen 3 at 3.4 GHz, which begin two
# multiply-adds of 32 bytes per cycle.
MEMORY_PACE, CACHE_PACE = 0.07, 0.16

# Values of Algorithm.tile_block that FOVEAL_TUNE measures for the tile size that the model finds to be best: 12 to 96
# tiles, in factors of two around the default's 48.
TILE_BLOCKS = (12, 24, 48, 96)


# "forward": a convolution, and the gradient in x with stride 1, which is one too; "transposed": the gradient in x with
# other strides; "weight": the gradient in the weights
Kind = Literal["forward", "transposed", "weight"]


@dataclass(frozen=True)
class Algorithm:
    """A way to compute a convolution or one of its gradients."""

    #: m: minimal filtering with output tiles of m x m; DIRECT: direct convolution
    winograd_tile: int
    #: tiles that are transformed at once at most; None: as many as the kernel finds to fit into the cache
    tile_block: int | None = None
    #: what threads share out, blocks of tiles or blocks of filters; None: what the kernel finds to be better
    parallel_over: Literal["tiles", "filters"] | None = None
    #: True if the filters are the same in every run, so that what is packed or transformed of them is kept
    prepared: bool = False


@dataclass(frozen=True)
class Problem:
    """One convolution or gradient."""

    kind: Kind
    #: images
    N: int
    #: channels that an output is a sum over, C / groups; in a gradient in x, where the roles are swapped, the filters
    c_group: int
    #: filters; in a gradient in x the channels
    K: int
    #: rows and columns of the outputs; of a weight gradient, of dy
    P: int
    Q: int
    #: (R, S), rows and columns of a filter
    kernel: Pair
    stride: Pair
    dilation: Pair
    groups: int
    #: bytes of all parameters that a run reads, if these filters are the same in every run; else 0
    prepared: int = 0

    def tile_sizes(self) -> list[int]:
        """DIRECT, and the tile sizes m of minimal filtering if it can compute the problem."""
        fits = (self.kernel, self.dilation, self.groups) == WINOGRAD_SHAPE and self.stride in WINOGRAD_STRIDES
        # tasks of a weight gradient that transform their tiles need blocks of channels and filters
        has_blocks = self.kind != "weight" or shares_tiles(self.c_group, self.K) or in_blocks(self.c_group, self.K)
        return [DIRECT, *(TILE_SIZES[self.stride[0]] if fits and has_blocks else ())]

    def cost(self, m: int) -> float:
        """Vector operations with tiles of m x m, or DIRECT, of a problem that minimal filtering can compute too.

        So the filters have 3 x 3 taps, which the cost of DIRECT counts: with any other size there is no choice, and the
        cost is not used. Products with padding count, since both algorithms compute them.
        """
        # vectors of channels and of filters per pixel
        channels, filters = ceil_div(self.c_group, lanes()), ceil_div(self.K, lanes())
        stride = self.stride[0]
        # multiply-adds of direct convolution: 9 taps for each pixel, channel and vector of filters; in a transposed one
        # an output meets 9 / stride^2 taps on average
        if m == DIRECT:
            pixels = self.P * self.Q // (stride**2 if self.kind == "transposed" else 1)
            strided_gradient = self.kind == "weight" and stride > 1 and registers() < 32
            efficiency = STRIDED_GRADIENT_EFFICIENCY if strided_gradient else DIRECT_EFFICIENCY
            return self.N * pixels * 9 * self.c_group * filters / efficiency
        # outputs of a tile on one axis (of the gradient in x with stride 2 it has 2 m), and tiles of all images
        size = m * stride if self.kind == "transposed" else m
        tiles = self.N * ceil_div(self.P, size) * ceil_div(self.Q, size)
        # a weight gradient whose tasks do not share tiles transforms those of x for each block of filters, and those of
        # dy for each block of channels
        times_x, times_dy = 1, 1
        if self.kind == "weight" and not shares_tiles(self.c_group, self.K):
            times_x, times_dy = channel_blocks(self.K), channel_blocks(self.c_group)
        transforms = tiles * (INPUT_COST[stride, m] * channels * times_x + OUTPUT_COST[stride, m] * filters * times_dy)
        # vectors of filters of all channels; each takes a multiply-add per point of a tile
        weights = self.c_group * filters
        axis = forward_scheme(m, stride)
        points = axis.points
        of_filters = (FILTER_COST[stride, m] + axis.classes**2 * self.passing(axis.classes)) * weights
        stored = 0 if self.kind == "weight" else STORED_SUM * filters
        return transforms + tiles * points**2 * (weights + stored) + of_filters

    def passing(self, classes: int) -> float:
        """Vector operations in the time in which a vector of transformed filters is written and read again.

        0 where the second-level cache holds those of all `classes`^2 classes, and where there are none.
        """
        size = FLOAT_BYTES * classes**2 * self.c_group * self.K
        if self.kind == "weight" or size <= l2():
            return 0
        return 2 / (MEMORY_PACE if size > llc() * 3 // 8 else CACHE_PACE)

    def prepared_cost(self, m: int) -> float:
        """`cost` where filters are packed or transformed once for many runs.

        Then they cost nothing but to be read, which takes longer than the products where pixels are few: the larger of
        both counts, since filters are fetched while products run.
        """
        stride, vectors = self.stride[0], min(2, ceil_div(self.K, lanes()))
        filters = ceil_div(self.K, lanes())
        # a vector that is not full is read lane by lane
        channels = ceil_div(self.c_group, lanes()) if self.c_group >= lanes() else self.c_group
        weights = self.c_group * filters
        if m == DIRECT:
            # rows of outputs for which a row of taps meets the image, of R P rows, with padding above and below
            rows = 1 - (2 / (3 * self.P) if stride == 1 else 1 / (3 * self.P))
            operations = rows * 9 * tile_steps(self.N * self.P * self.Q, vectors) * weights / DIRECT_EFFICIENCY
            elements = 9
        else:
            tiles = self.N * ceil_div(self.P, m) * ceil_div(self.Q, m)
            axis = forward_scheme(m, stride)
            operations = tiles * (INPUT_COST[stride, m] * channels + OUTPUT_COST[stride, m] * filters)
            operations += axis.points**2 * tile_steps(tiles, vectors) * weights
            elements = axis.classes**2
        # filters [C, K] of so many elements each, at the pace of what they come from
        pace = MEMORY_PACE if 2 * self.prepared > llc() * 3 // 8 else CACHE_PACE
        return max(operations, elements * weights / pace)

    @property
    def key(self) -> str:
        """The name of the problem in the file of measured choices."""
        R, S = self.kernel
        return (
            f"{self.kind} N{self.N} C{self.c_group} K{self.K} P{self.P} Q{self.Q} R{R} S{S} u{self.stride}"
            f" d{self.dilation} G{self.groups}"
        )

    def candidates(self) -> list[Algorithm]:
        """The default first, then the others that are worth measuring."""
        algorithms, (_, *tile_sizes) = [self.default(), Algorithm(DIRECT)], self.tile_sizes()
        best = min(tile_sizes, key=self.cost, default=DIRECT)
        for m in tile_sizes:
            algorithms += [Algorithm(m, size) for size in ((None, *TILE_BLOCKS) if m == best else (None,))]
            algorithms += [Algorithm(m, parallel_over="filters")] if self.kind != "weight" else []
        return list(dict.fromkeys(algorithms))

    def default(self) -> Algorithm:
        """The algorithm that costs least by the model: Winograd only below WINOGRAD_MARGIN times the cost of direct."""
        cost = self.prepared_cost if self.prepared else self.cost
        costs = {m: cost(m) * (1.0 if m == DIRECT else 1 / WINOGRAD_MARGIN) for m in self.tile_sizes()}
        return Algorithm(min(costs, key=lambda m: (costs[m], m)), prepared=self.prepared > 0)


def problem_of(kind: Kind, y: Shape, w: Shape, window: Window, groups: int) -> Problem:
    """The problem of outputs y [N, K, P, Q] and filters w [K, C/G, R, S] with G groups."""
    (N, _, P, Q), (K, c_group, _, _) = y, w
    return Problem(kind, N, c_group, K, P, Q, window.size, window.stride, window.dilation, groups)


def tile_steps(rows: int, vectors: int) -> int:
    """Multiply-adds of one step of all register tiles of `rows` pixels or tiles; see MIN_SUMS."""
    return (
        sum(count * max(size * vectors, MIN_SUMS) for size, count in split(rows, registers() * 3 // 4 // vectors))
        // vectors
    )


def channel_block(channels: int) -> int | None:
    """Size of the equal blocks of channels (or of filters) that tasks of a weight gradient take, near CHANNEL_BLOCK.

    None if the number of channels has no such divisor between half and three halves of CHANNEL_BLOCK.
    """
    if channels <= CHANNEL_BLOCK:
        return channels
    sizes = range(CHANNEL_BLOCK // 2, CHANNEL_BLOCK * 3 // 2 + 1)
    fitting = [size for size in sizes if channels % size == 0]
    return min(fitting, key=lambda size: (abs(size - CHANNEL_BLOCK), size)) if fitting else None


def in_blocks(C: int, K: int) -> bool:
    """True if tasks of a weight gradient can take blocks of channels and of filters."""
    return channel_block(C) is not None and channel_block(K) is not None


def shares_tiles(C: int, K: int) -> bool:
    """True if a weight gradient transforms each tile once, and all tasks read it from the last-level cache.

    Where one block has all channels and one all filters, a task transforms its own tiles, and none twice. With more,
    each of the (C / 64) (K / 64) tasks would transform tiles again that others have transformed, and load and store its
    sums once per block of tiles; with 16 registers, which come with second-level caches of 512 KiB too, that takes as
    long as half of the products. With 32 registers these caches have 1 MiB and more, which hold the sums.
    """
    return registers() < 32 and (channel_block(C), channel_block(K)) != (C, K)


def channel_blocks(channels: int) -> int:
    """The number of blocks of `channel_block` size."""
    return channels // (channel_block(channels) or channels)
