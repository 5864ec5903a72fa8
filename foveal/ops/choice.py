"""Which algorithm computes a convolution: a cost model of shapes alone, so that a result has the same bits on every run.

Costs are counted in vector operations of one core; the constants were measured on Zen 4 (`foveal bench ops conv2d`).
"""

import math
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import lanes
from foveal.ops.transforms import POINTS
from foveal.ops.winograd_weight import group_of

DIRECT = 0
INPUT, OUTPUT, FILTER = (
    {2: 70, 4: 330},
    {2: 50, 4: 250},
    {2: 50, 4: 120},
)  # per tile, or filter, and vector of channels
EFFICIENCY = 0.93  # share of the peak that the direct kernels reach
ADVANTAGE = 0.95  # of the direct cost that minimal filtering has to stay below


@dataclass(frozen=True)
class Problem:
    """One convolution or gradient. kind: "forward" (of the gradient in x too) or "weight"."""

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

    def candidates(self) -> list[int]:
        """DIRECT, and the tile sizes m of F(m x m, 3 x 3) where that can be used."""
        plain = (self.kernel, self.stride, self.dilation, self.groups) == (
            (3, 3),
            (1, 1),
            (1, 1),
            1,
        )
        grouped = self.kind == "forward" or bool(group_of(self.C) and group_of(self.K))
        return [DIRECT, *(POINTS if plain and grouped else ())]

    def cost(self, m: int) -> float:
        """Vector operations; products of padding count, as both compute them."""
        inputs, outputs = math.ceil(self.C / lanes()), math.ceil(self.K / lanes())
        if m == DIRECT:
            return self.N * self.P * self.Q * 9 * self.C * outputs / EFFICIENCY
        tiles = self.N * math.ceil(self.P / m) * math.ceil(self.Q / m)
        if self.kind == "weight":
            inputs, outputs = inputs * repeats(self.K), outputs * repeats(self.C)
        transforms = tiles * (INPUT[m] * inputs + OUTPUT[m] * outputs)
        products = tiles * (m + 2) ** 2 * self.C * math.ceil(self.K / lanes())
        return transforms + products + FILTER[m] * self.C * math.ceil(self.K / lanes())


def repeats(channels: int) -> int:
    """How often tiles are transformed again, for another group of channels of the other side."""
    return channels // (group_of(channels) or channels)


def choose(problem: Problem) -> int:
    """DIRECT or the tile size m."""
    costs = {
        m: problem.cost(m) * (1.0 if m == DIRECT else 1 / ADVANTAGE) for m in problem.candidates()
    }
    return min(costs, key=lambda m: (costs[m], m))


def problem_of(kind: str, y: Any, w: Any, how: dict[str, Any]) -> Problem:
    """The problem of outputs y [N, K, P, Q] and filters w [K, C, R, S]."""
    (N, _, P, Q), (K, C, R, S) = y, w
    return Problem(kind, N, C, K, P, Q, (R, S), how["stride"], how["dilation"], how["groups"])
