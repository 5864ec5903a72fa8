"""Winograd's minimal filtering for 3x3 filters (Winograd 1980; Lavin and Gray 2016, equations 8 to 12), stride 1 or 2.

A tile of outputs is y = A^T [(G g G^T) * (B^T d B)] A, where d are the inputs it reads and * is multiplication position
by position: summed over channels, a matrix product of tiles x filters for each position. With stride 1, m x m outputs
need (m+2)^2 multiplications: for m = 4, 36 where the direct sum needs 144. The transforms are additions, a part in C
and in K of the work.

With stride 2 every axis falls into two phases: the even inputs meet two of the three taps, which is F(m, 2) with m + 1
multiplications, the odd inputs meet the middle tap, which needs m and no transform. So m = 4 needs 81 where the direct
sum needs 144. The gradient in x is the same turned around: of 2m x 2m of its outputs, every second row and column meets
two taps. All positions of the odd phase are multiplied with the same row of G.

The gradient in the weights is the same with roles changed: the 3x3 result is a correlation of d with an m x m tile of
dy, dw = A_w^T [(G_w dy G_w^T) * (B^T d B)] A_w, and the sum over tiles is taken before the last transform.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""Where the polynomials are interpolated for stride 1, besides infinity. For m = 4 these give 4 times less error than
0, +-1, +-2.
"""


PHASE_POINTS = {2: (0.0, 1.0), 4: (0.5, -0.5, 1.25, -1.25)}
"""The same for the phase with two taps of stride 2. For m = 4 these give a third of the error of 0, +-1, 2."""


Row = tuple[float, ...]


Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class Scheme:
    """The matrices of one axis: outputs AT [outputs, positions], inputs BT [positions, inputs], filters G [classes, 3];
    for
    the gradient in the weights, dy's GW [positions, m] and the result's AW [3, classes].

    `copies` positions at the end are one class: they are multiplied with the same row of G, the others each have their
    own.
    The next tile's inputs begin `step` further on. GW is scaled so that few multiplications are left in it, and AW by
    the
    inverse.
    """

    step: int
    copies: int
    AT: Matrix
    BT: Matrix
    G: Matrix
    GW: Matrix
    AW: Matrix

    @property
    def outputs(self) -> int:
        return len(self.AT)

    @property
    def positions(self) -> int:
        return len(self.BT)

    @property
    def classes(self) -> int:
        return len(self.G)


@cache
def scheme(m: int) -> Scheme:
    """F(m, 3): m outputs of m + 2 inputs."""
    AT, BT, G, GW, AW = map(frozen, interpolation(m, 3, POINTS[m]))
    return Scheme(m, 1, AT, BT, G, GW, AW)


@cache
def strided(m: int) -> Scheme:
    """m outputs of 2m + 1 inputs, stride 2: F(m, 2) of the even inputs, and the odd inputs as they are."""
    AT, BT, G, GW, AW = phases(m)
    spread = np.zeros((2 * m + 1, 2 * m + 1))
    spread[: m + 1, ::2], spread[m + 1 :, 1::2] = BT, np.eye(m)
    AT, GW = np.hstack([AT, np.eye(m)]), np.vstack([GW, np.eye(m)])
    return Scheme(2 * m, m, *map(frozen, (AT, spread, G, GW, AW)))


@cache
def transposed(m: int, first: int) -> Scheme:
    """2m outputs of m + 1 inputs, the gradient in x of stride 2. Every second output from number `first` on has two
    taps,
    the others have the middle one.
    """
    AT, BT, G, GW, AW = phases(m)
    spread = np.zeros((2 * m, 2 * m + 1))
    spread[first::2, : m + 1], spread[1 - first :: 2, m + 1 :] = AT, np.eye(m)
    BT = np.vstack([BT, np.eye(m, m + 1, k=1 - first)])
    GW = np.vstack([GW, np.eye(m)])
    return Scheme(m, m, *map(frozen, (spread, BT, G, GW, AW)))


def phases(m: int) -> list[Any]:
    """AT, BT and GW of F(m, 2); G and AW for all three taps, of which the middle one is the last class."""
    AT, BT, two, GW, back = interpolation(m, 2, PHASE_POINTS[m])
    G, AW = np.zeros((m + 2, 3)), np.zeros((3, m + 2))
    G[:-1, ::2], AW[::2, :-1] = two, back
    G[-1, 1] = AW[1, -1] = 1.0
    return [AT, BT, G, GW, AW]


def interpolation(m: int, taps: int, points: tuple[float, ...]) -> list[Any]:
    """AT, BT, G, GW, AW of F(m, taps) by interpolation at the points and infinity (Toom-Cook)."""
    n = m + taps - 1
    BT = np.zeros((n, n))
    for j, p in enumerate(points):
        BT[j, : n - 1] = np.poly([q for q in points if q != p])[::-1]
    BT[n - 1] = np.poly(points)[::-1]
    scale = np.array([math.prod(p - q for q in points if q != p) for p in points] + [1.0])
    powers = {size: evaluation(points, size) for size in (taps, m)}
    return [powers[m].T, BT, powers[taps] / scale[:, None], powers[m], powers[taps].T / scale]


def evaluation(points: tuple[float, ...], size: int) -> Any:
    """[points and infinity, size]: the powers of each point; at infinity the highest coefficient alone counts."""
    rows = [[p**i for i in range(size)] for p in points]
    return np.array([*rows, [0.0] * (size - 1) + [1.0]])


def frozen(matrix: Any) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)
