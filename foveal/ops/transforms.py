"""Winograd's minimal filtering for 3x3 filters with stride 1 (Winograd 1980; Lavin and Gray 2016, equations 8 to 12).

A tile of m x m outputs is y = A^T [(G g G^T) * (B^T d B)] A, where d are the (m+2) x (m+2) inputs it reads and * is
multiplication position by position: summed over channels, (m+2)^2 matrix products of tiles x filters. m = 4 needs 36
multiplications where the direct sum needs 144; the transforms are additions, a part in C and in K of the work.

The gradient in the weights is the same with roles changed: the 3x3 result is a correlation of d with an m x m tile of dy,
dw = A_w^T [(G_w dy G_w^T) * (B^T d B)] A_w, and the sum over tiles is taken before the last transform.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from foveal.kernel.lang import fma

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""Where the polynomials are interpolated, besides infinity. For m = 4 these give 4 times less error than 0, +-1, +-2."""

Row = tuple[float, ...]
Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class Scheme:
    """The matrices of F(m x m, 3 x 3): outputs AT [m, n], inputs BT [n, n], filters G [n, 3]; for the gradient in the
    weights, dy's GW [n, m] and the result's AW [3, n]. n = m + 2.

    GW is scaled so that few multiplications are left in it, and AW by the inverse.
    """

    m: int
    AT: Matrix
    BT: Matrix
    G: Matrix
    GW: Matrix
    AW: Matrix

    @property
    def n(self) -> int:
        return self.m + 2


@cache
def scheme(m: int) -> Scheme:
    """F(m x m, 3 x 3) by interpolation at POINTS[m] and infinity (Toom-Cook)."""
    points, n = POINTS[m], m + 2
    BT = np.zeros((n, n))
    for j, p in enumerate(points):
        BT[j, : n - 1] = np.poly([q for q in points if q != p])[::-1]
    BT[n - 1] = np.poly(points)[::-1]
    scale = np.array([math.prod(p - q for q in points if q != p) for p in points] + [1.0])
    powers = {size: evaluation(points, size) for size in (3, m)}
    return Scheme(
        m,
        AT=frozen(powers[m].T),
        BT=frozen(BT),
        G=frozen(powers[3] / scale[:, None]),
        GW=frozen(powers[m]),
        AW=frozen(powers[3].T / scale),
    )


def evaluation(points: tuple[float, ...], size: int) -> Any:
    """[points and infinity, size]: the powers of each point; at infinity the highest coefficient alone counts."""
    rows = [[p**i for i in range(size)] for p in points]
    return np.array([*rows, [0.0] * (size - 1) + [1.0]])


def frozen(matrix: Any) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)


Terms = list[tuple[float, Any]]


def combination(terms: Terms) -> Any:
    """The sum of coefficient * value, with as few roundings as there are terms."""
    terms = sorted((t for t in terms if t[0] != 0), key=lambda t: t[0] != 1)
    coefficient, total = terms[0]
    total = total if coefficient == 1 else total * coefficient
    for coefficient, value in terms[1:]:
        if abs(coefficient) == 1:
            total = total + value if coefficient == 1 else total - value
        else:
            total = fma(value, coefficient, total)
    return total


def product(matrix: Matrix, values: list[Any]) -> list[Any]:
    """matrix @ values. Rows or columns of a point p and its negative differ in the odd powers' signs: their even and odd
    parts are computed once.
    """
    if any(mirrored(a, b) for a, b in itertools.pairwise(matrix)):
        return by_rows(matrix, values)
    return by_columns(matrix, values)


def mirrored(first: Row, second: Row) -> bool:
    """Whether two rows are equal but for some signs."""
    same_size = all(abs(a) == abs(b) for a, b in zip(first, second, strict=True))
    return same_size and first != second


def by_rows(matrix: Matrix, values: list[Any]) -> list[Any]:
    found, i = [], 0
    while i < len(matrix):
        if i + 1 == len(matrix) or not mirrored(matrix[i], matrix[i + 1]):
            found.append(combination(list(zip(matrix[i], values, strict=True))))
            i += 1
            continue
        pairs = list(zip(matrix[i], matrix[i + 1], values, strict=True))
        even = combination([(a, v) for a, b, v in pairs if a == b])
        odd = [(a, v) for a, b, v in pairs if a != b]
        scale = odd[-1][0]
        rest = combination([(a / scale, v) for a, v in odd])
        found += [
            combination([(1.0, even), (scale, rest)]),
            combination([(1.0, even), (-scale, rest)]),
        ]
        i += 2
    return found


def by_columns(matrix: Matrix, values: list[Any]) -> list[Any]:
    columns = tuple(zip(*matrix, strict=True))
    terms: list[Terms] = [[] for _ in matrix]
    j = 0
    while j < len(columns):
        if j + 1 == len(columns) or not mirrored(columns[j], columns[j + 1]):
            for row, a in zip(terms, columns[j], strict=True):
                row.append((a, values[j]))
            j += 1
            continue
        even, odd = values[j] + values[j + 1], values[j] - values[j + 1]
        for row, a, b in zip(terms, columns[j], columns[j + 1], strict=True):
            row.append((a, even if a == b else odd))
        j += 2
    return [combination(row) for row in terms]


def both_sides(matrix: Matrix, d: list[list[Any]]) -> list[list[Any]]:
    """matrix @ d @ matrix.T, for d[row][column]."""
    columns = [product(matrix, list(column)) for column in zip(*d, strict=True)]
    return [product(matrix, list(row)) for row in zip(*columns, strict=True)]
