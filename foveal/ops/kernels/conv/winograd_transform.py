"""The Winograd transforms as sequences of additions on vectors."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from foveal.kernel.lang import fma
from foveal.ops.kernels.conv.winograd_matrices import Matrix, Row, Scheme

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
    """matrix @ values. Rows or columns of a point p and its negative differ in the odd powers' signs: their even and
    odd
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
        found += [combination([(1.0, even), (scale, rest)]), combination([(1.0, even), (-scale, rest)])]
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


def both_sides(down: Matrix, across: Matrix, d: Callable[[int, int], Any]) -> Iterator[tuple[int, int, Any]]:
    """(i, j, value) of all elements of down @ d @ across.T, for d(row, column).

    One independent part after the other, each asked for its elements of d just before: what is alive at one time is
    little
    more than the registers hold.
    """
    for rows, inputs in parts(down):
        for columns, others in parts(across):
            left, right = cut(down, rows, inputs), cut(across, columns, others)
            half = [product(left, [d(h, v) for h in inputs]) for v in others]
            for i, row in zip(rows, zip(*half, strict=True), strict=True):
                for j, value in zip(columns, product(right, list(row)), strict=True):
                    yield i, j, value


def parts(matrix: Matrix) -> list[tuple[list[int], list[int]]]:
    """Rows and columns of the blocks that the matrix falls into, if its rows and columns are put in the right order."""
    found: list[tuple[list[int], list[int]]] = []
    for i, row in enumerate(matrix):
        rows, columns = [i], {j for j, a in enumerate(row) if a}
        for block in [b for b in found if columns & set(b[1])]:
            found.remove(block)
            rows, columns = block[0] + rows, columns | set(block[1])
        found.append((sorted(rows), sorted(columns)))
    return found


def cut(matrix: Matrix, rows: list[int], columns: list[int]) -> Matrix:
    return tuple(tuple(matrix[i][j] for j in columns) for i in rows)


@dataclass(frozen=True)
class Run:
    """`classes` classes from number `first` on, of `copies` positions each; the first position is `start`."""

    first: int
    classes: int
    start: int
    copies: int


@dataclass(frozen=True)
class Order:
    """How the positions and classes of a tile lie in memory: the positions of a class are neighbours.

    position[i, j] and class_[i, j] are the places of the position and the class in row i, column j.
    """

    position: dict[tuple[int, int], int]
    class_: dict[tuple[int, int], int]
    runs: tuple[Run, ...]


@cache
def order(down: Scheme, across: Scheme) -> Order:
    """Classes with one position first, then those that are repeated along one axis, then along both."""
    of = [[min(i, s.classes - 1) for i in range(s.positions)] for s in (down, across)]
    members: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j in itertools.product(range(down.positions), range(across.positions)):
        members.setdefault((of[0][i], of[1][j]), []).append((i, j))
    by_size = sorted(members, key=lambda key: len(members[key]))
    positions = [place for key in by_size for place in members[key]]
    runs, first, start = [], 0, 0
    for copies, group in itertools.groupby(len(members[key]) for key in by_size):
        count = len(list(group))
        runs.append(Run(first, count, start, copies))
        first, start = first + count, start + count * copies
    return Order(
        {place: i for i, place in enumerate(positions)}, {place: i for i, place in enumerate(by_size)}, tuple(runs)
    )
