"""Which algorithm computes a convolution: a cost model of shapes alone, so that a result has the same bits on every
run.

Costs are counted in vector operations of one core; the constants were measured on Zen 4 (`foveal bench ops conv2d`).
"""

import math
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import lanes
from foveal.ops.kernels.conv.winograd_matrices import POINTS

DIRECT = 0


PLAIN = ((3, 3), (1, 1), 1)  # kernel, dilation, groups that minimal filtering is for


STRIDES = ((1, 1), (2, 2))


# operations of the transforms by (stride, m): per tile or filter, and vector of channels
INPUT = {(1, 2): 70, (1, 4): 330, (2, 2): 250, (2, 4): 750}


OUTPUT = {(1, 2): 50, (1, 4): 250, (2, 2): 250, (2, 4): 600}


FILTER = {(1, 2): 50, (1, 4): 120, (2, 2): 480, (2, 4): 1000}


EFFICIENCY = 0.93  # share of the peak that the direct kernels reach


ADVANTAGE = 0.95  # of the direct cost that minimal filtering has to stay below


MOST_GROUP = 64  # channels, and filters, of a task: its 36 x 64 x 64 sums are 576 KiB


TILES = (12, 24, 48, 96)  # sizes of blocks to measure


@dataclass(frozen=True)
class Choice:
    """m: DIRECT, or the tile size (ops/transforms.py). tiles: most that are transformed at once, 0 for the kernel's own
    rule. shared: threads share blocks of filters instead of blocks of tiles; None for the kernel's own rule.
    """

    m: int
    tiles: int = 0
    shared: bool | None = None


@dataclass(frozen=True)
class Problem:
    """One convolution or gradient. kind: "forward" (of the gradient in x too, with stride 1), "transposed" (of the
    gradient
    in x with other strides) or "weight".
    """

    kind: str
    N: int
    C: int
    K: int
    P: int
    Q: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def sizes(self) -> list[int]:
        """DIRECT, and the tile sizes m of minimal filtering where that can be used."""
        plain = (self.kernel, self.dilation, self.groups) == PLAIN and self.stride in STRIDES
        grouped = self.kind != "weight" or bool(group_of(self.C) and group_of(self.K))
        return [DIRECT, *(POINTS if plain and grouped else ())]

    def cost(self, m: int) -> float:
        """Vector operations; products of padding count, as both compute them."""
        inputs, outputs = math.ceil(self.C / lanes()), math.ceil(self.K / lanes())
        stride = self.stride[0]
        reach = m * stride if self.kind == "transposed" else m  # outputs of a tile along one axis
        if m == DIRECT:
            pixels = self.P * self.Q // (stride**2 if self.kind == "transposed" else 1)
            return self.N * pixels * 9 * self.C * outputs / EFFICIENCY
        tiles = self.N * math.ceil(self.P / reach) * math.ceil(self.Q / reach)
        if self.kind == "weight":
            inputs, outputs = inputs * repeats(self.K), outputs * repeats(self.C)
        transforms = tiles * (INPUT[stride, m] * inputs + OUTPUT[stride, m] * outputs)
        filters = self.C * math.ceil(self.K / lanes())
        positions = m + 2 if stride == 1 else 2 * m + 1
        return transforms + tiles * positions**2 * filters + FILTER[stride, m] * filters

    @property
    def key(self) -> str:
        """The problem in words, for the file of measured choices."""
        R, S = self.kernel
        return (
            f"{self.kind} N{self.N} C{self.C} K{self.K} P{self.P} Q{self.Q} R{R} S{S} u{self.stride}"
            f" d{self.dilation} G{self.groups}"
        )

    def candidates(self) -> list[Choice]:
        """The default first, then what measuring may find to be faster."""
        found = [self.default(), Choice(DIRECT)]
        for m in self.sizes()[1:]:
            found += [Choice(m, tiles) for tiles in TILES]
            found += [Choice(m, shared=True)] if self.kind != "weight" else []
        return list(dict.fromkeys(found))

    def default(self) -> Choice:
        """What the cost model says."""
        costs = {m: self.cost(m) * (1.0 if m == DIRECT else 1 / ADVANTAGE) for m in self.sizes()}
        return Choice(min(costs, key=lambda m: (costs[m], m)))


def group_of(channels: int) -> int | None:
    """Size of the equal groups of channels that a task of a weight gradient takes, None if there are no good ones."""
    if channels <= MOST_GROUP:
        return channels
    sizes = range(MOST_GROUP // 2, MOST_GROUP * 3 // 2 + 1)
    fitting = [size for size in sizes if channels % size == 0]
    return min(fitting, key=lambda size: (abs(size - MOST_GROUP), size)) if fitting else None


def repeats(channels: int) -> int:
    """How often tiles are transformed again, for another group of channels of the other side."""
    return channels // (group_of(channels) or channels)


measured: dict[str, Choice] = {}
"""Choices that `foveal.tune` has measured, by problem; empty unless that was asked for."""


def choose(problem: Problem) -> Choice:
    """The measured choice, if there is one; else the cost model's."""
    return measured.get(problem.key) or problem.default()


def problem_of(kind: str, y: Any, w: Any, how: dict[str, Any]) -> Problem:
    """The problem of outputs y [N, K, P, Q] and filters w [K, C, R, S]."""
    (N, _, P, Q), (K, C, R, S) = y, w
    return Problem(kind, N, C, K, P, Q, (R, S), how["stride"], how["dilation"], how["groups"])
