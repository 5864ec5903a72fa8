"""The Winograd transforms, emitted as additions and few multiplications of vectors; the order of a tile's points.

The matrices are known while a kernel is built, so zeros are left out, ones are additions, and the rows or columns that
belong to a point p and to -p share their even and odd parts.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from foveal.kernel.lang import Value, fma
from foveal.ops.kernels.conv.winograd_matrices import Matrix, Row, Scheme

# (coefficient, value) of each term of a sum
Terms = list[tuple[float, Value]]


def linear_combination(terms: Terms) -> Value:
    """The sum of coefficient * value over the terms, with at most one rounding per term.

    Terms with coefficient 1 come first: the sum can begin with one without a multiplication, if there is any.
    """
    terms = sorted((t for t in terms if t[0] != 0), key=lambda t: t[0] != 1)
    coefficient, total = terms[0]
    total = total if coefficient == 1 else total * coefficient
    for coefficient, value in terms[1:]:
        if abs(coefficient) == 1:
            total = total + value if coefficient == 1 else total - value
        else:
            total = fma(value, coefficient, total)
    return total


def multiply_matrix(matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """matrix @ values, for a matrix of constants.

    The rows (or columns) of a point p and of -p differ in the signs of odd powers only, so the sums of their even and
    of their odd powers are computed once for both.
    """
    if any(differ_in_signs(a, b) for a, b in itertools.pairwise(matrix)):
        return multiply_row_pairs(matrix, values)
    return multiply_column_pairs(matrix, values)


def differ_in_signs(first: Row, second: Row) -> bool:
    """True if two rows differ, and only in signs."""
    same_size = all(abs(a) == abs(b) for a, b in zip(first, second, strict=True))
    return same_size and first != second


def multiply_row_pairs(matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """matrix @ values, where neighbouring rows may differ in signs only."""
    results, i = [], 0
    while i < len(matrix):
        # a row of its own
        if i + 1 == len(matrix) or not differ_in_signs(matrix[i], matrix[i + 1]):
            results.append(linear_combination(list(zip(matrix[i], values, strict=True))))
            i += 1
            continue
        # two rows, even + odd and even - odd; a common factor of the odd part is taken out
        pairs = list(zip(matrix[i], matrix[i + 1], values, strict=True))
        even = linear_combination([(a, v) for a, b, v in pairs if a == b])
        odd_terms = [(a, v) for a, b, v in pairs if a != b]
        scale = odd_terms[-1][0]
        odd = linear_combination([(a / scale, v) for a, v in odd_terms])
        results += [linear_combination([(1.0, even), (sign * scale, odd)]) for sign in (1, -1)]
        i += 2
    return results


def multiply_column_pairs(matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """matrix @ values, where neighbouring columns may differ in signs only."""
    columns = tuple(zip(*matrix, strict=True))
    # what is to be added up for each row of the result
    terms: list[Terms] = [[] for _ in matrix]
    j = 0
    while j < len(columns):
        # a column of its own
        if j + 1 == len(columns) or not differ_in_signs(columns[j], columns[j + 1]):
            for row, a in zip(terms, columns[j], strict=True):
                row.append((a, values[j]))
            j += 1
            continue
        # two columns: a row has the same coefficient for both values, or opposite ones
        even, odd = values[j] + values[j + 1], values[j] - values[j + 1]
        for row, a, b in zip(terms, columns[j], columns[j + 1], strict=True):
            row.append((a, even if a == b else odd))
        j += 2
    return [linear_combination(row) for row in terms]


def transform_2d(
    vertical: Matrix, horizontal: Matrix, d: Callable[[int, int], Value]
) -> Iterator[tuple[int, int, Value]]:
    """Yield (i, j, value) for all elements of vertical @ d @ horizontal.T, where d(row, column) loads an element of d.

    The elements of the transform of a tile are its points; those of a result are outputs or taps.

    The matrices of stride 2 are block diagonal once their rows and columns are sorted. One pair of blocks is computed
    after the other, and each loads its elements of d just before it needs them, so that hardly more values are alive at
    a time than there are registers.
    """
    for rows, inner_rows in diagonal_blocks(vertical):
        for columns, inner_columns in diagonal_blocks(horizontal):
            left, right = submatrix(vertical, rows, inner_rows), submatrix(horizontal, columns, inner_columns)
            # columns of vertical @ d, then rows of that times horizontal.T
            half = [multiply_matrix(left, [d(h, v) for h in inner_rows]) for v in inner_columns]
            for i, row in zip(rows, zip(*half, strict=True), strict=True):
                for j, value in zip(columns, multiply_matrix(right, row), strict=True):
                    yield i, j, value


def diagonal_blocks(matrix: Matrix) -> list[tuple[list[int], list[int]]]:
    """(rows, columns) of each block, if the matrix is block diagonal after sorting its rows and columns."""
    blocks: list[tuple[list[int], list[int]]] = []
    for i, row in enumerate(matrix):
        rows, columns = [i], {j for j, a in enumerate(row) if a}
        # a row joins all blocks that it shares a column with
        for block in [b for b in blocks if columns & set(b[1])]:
            blocks.remove(block)
            rows, columns = block[0] + rows, columns | set(block[1])
        blocks.append((sorted(rows), sorted(columns)))
    return blocks


def submatrix(matrix: Matrix, rows: list[int], columns: list[int]) -> Matrix:
    """The elements of these rows and columns."""
    return tuple(tuple(matrix[i][j] for j in columns) for i in rows)


@dataclass(frozen=True)
class ClassRange:
    """Neighbouring classes that have equally many points."""

    #: number of the first class
    first: int
    #: how many classes there are
    classes: int
    #: number of the first point of the first class
    start: int
    #: points of each class
    copies: int


@dataclass(frozen=True)
class PointOrder:
    """How the points and the classes of a tile are numbered in memory: points of one class are neighbours.

    A point is an element (row, column) of a transformed tile; all points of a class are multiplied with the same
    element of the transformed filter.
    """

    #: (row, column) of a point -> its number
    point: dict[tuple[int, int], int]
    #: (row, column) of a class -> its number
    class_: dict[tuple[int, int], int]
    #: all classes, and with them all points, in the order of their numbers
    ranges: tuple[ClassRange, ...]


@cache
def point_order(vertical: Scheme, horizontal: Scheme) -> PointOrder:
    """Number the classes with one point first, then those repeated along one axis, then those along both."""
    members: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j in itertools.product(range(vertical.points), range(horizontal.points)):
        members.setdefault((vertical.class_of[i], horizontal.class_of[j]), []).append((i, j))
    classes = sorted(members, key=lambda key: len(members[key]))
    points = [place for key in classes for place in members[key]]
    # neighbouring classes of one size become a range
    ranges, first, start = [], 0, 0
    for copies, group in itertools.groupby(len(members[key]) for key in classes):
        count = len(list(group))
        ranges.append(ClassRange(first, count, start, copies))
        first, start = first + count, start + count * copies
    point, class_ = ({place: i for i, place in enumerate(places)} for places in (points, classes))
    return PointOrder(point, class_, tuple(ranges))
