"""Copies of parts of arrays, row by row in memory."""

import math
from collections.abc import Sequence
from typing import Any

from foveal.kernel.lang import Array, Index, Scalar, lanes, parallel, vectors
from foveal.ops.kernels import expression
from foveal.ops.kernels.pointwise import MIN_PARALLEL_ROWS
from foveal.ops.op import Lowering, Operator
from foveal.strides import ordered
from foveal.view import View

# Vectors of a row that one iteration copies where there are few rows and threads share the parts of each. They are
# unrolled: fewer would make the loop's own work and its sharing felt, more only lengthens the code.
BLOCK = 16

# A piece of each row of the output: where it starts, its size, and the number of the input that it is copied from; None
# stands for zeros.
Piece = tuple[int, int, int | None]


def shifted(index: tuple[Index, ...], axis: int, by: int) -> tuple[Index, ...]:
    """The index moved by `by` places along the axis."""
    return tuple(i + by if a == axis and by else i for a, i in enumerate(index))


def copy_part(y: Array, x: Array, axis: int, start: int) -> None:
    """Copy x into y from place `start` of the axis on, element by element and in any layout."""
    # threads share the elements of x
    for index in parallel(*x.shape):
        y[shifted(index, axis, start)] = x[index]


def memory_order(y: View) -> list[int]:
    """The axes in the order in which they lie in memory, outermost first; axes of equal stride as they stand."""
    return sorted(range(len(y.shape)), key=lambda a: (-y.strides[a], a))


def elements_per_place(y: View, axis: int) -> int:
    """The number of elements at one place of the axis: the product of the sizes of the axes inside of it in memory."""
    order = memory_order(y)
    return math.prod(y.shape[a] for a in order[order.index(axis) + 1 :])


def lower_rows(
    lowering: Lowering,
    op: Operator,
    y: View,
    inputs: Sequence[View],
    pieces: tuple[Piece, ...],
    attributes: dict[str, Any],
) -> None:
    """Fill y, row by row, with pieces of the inputs and zeros.

    A row is what lies in memory from the axis `attributes["axis"]` inwards. Where an input lies in another order than y
    or either has gaps, the operator's plain kernel does it, with the attributes.
    """
    order = memory_order(y)
    # True if all arrays lie in y's order, without gaps; the strides of axes of size 1 mean nothing
    dense = all(
        all(n == 1 or s == t for n, s, t in zip(x.shape, x.strides, ordered(x.shape, order), strict=True))
        for x in (y, *inputs)
    )
    if not dense:
        lowering.call(op.kernel, [y], inputs, plain=True, **attributes)
        return
    # the axes that count the rows
    outer = order[: order.index(attributes["axis"])]

    def as_rows(x: View) -> View:
        """x as [rows, elements of a row]."""
        rows = math.prod(x.shape[a] for a in outer)
        return x.permuted(*order).reshaped((rows, math.prod(x.shape) // rows))

    lowering.call(rows_of_pieces, [as_rows(y)], [as_rows(x) for x in inputs], pieces=pieces)


def rows_of_pieces(y: Array, *inputs: Array, pieces: tuple[Piece, ...]) -> None:
    """y[row, start : start + size] = the whole row of the piece's input, or zeros, for every piece.

    y: [rows, elements]; an input: [rows, size of its piece].
    """

    def copy_vector(row: Index, piece: Piece, i: Index, width: int) -> None:
        """Copy `width` elements of a row, from place i of the piece on."""
        start, _, source = piece
        value: Scalar = 0.0 if source is None else expression.load(inputs[source], (row, i), width)
        expression.store(y, (row, i + start), value, width, aligned=start % width == 0)

    rows = y.shape[0]
    if rows >= MIN_PARALLEL_ROWS:
        # threads share the rows, and each row is written from its start to its end
        for (row,) in parallel(rows):
            for piece in pieces:
                for i, width in vectors(piece[1]):
                    copy_vector(row, piece, i, width)
        return
    # few rows: threads share the blocks of each piece, and then the rest of it
    size = BLOCK * lanes()
    for piece in pieces:
        blocks, rest = divmod(piece[1], size)
        for row, block in parallel(rows, blocks):
            for distance in range(0, size, lanes()):
                copy_vector(row, piece, block * size + distance, lanes())
        if rest:
            for (row,) in parallel(rows):
                for i, width in vectors(rest):
                    copy_vector(row, piece, i + blocks * size, width)
