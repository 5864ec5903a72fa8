"""Copies of parts of arrays, row by row."""

import math
from collections.abc import Sequence
from typing import Any

from foveal.kernel.lang import lanes, parallel, vectors
from foveal.ops.kernels import expression, pointwise
from foveal.ops.op import Lowering, Operator
from foveal.strides import ordered

BLOCK = 16  # vectors of a row that a thread takes at once where there are few rows


Piece = tuple[int, int, int | None]  # of a row: start, size, and the input it comes from; None for zeros


def shifted(index: tuple[Any, ...], axis: int, by: int) -> tuple[Any, ...]:
    return tuple(i + by if a == axis and by else i for a, i in enumerate(index))


def copy(y: Any, x: Any, axis: int, start: int) -> None:
    """y = x from `start` on along the axis, element by element in any layout."""
    for index in parallel(*x.shape):
        y[shifted(index, axis, start)] = x[index]


def memory_order(y: Any) -> list[int]:
    """Axes as they lie in memory, outermost first; those of size 1 where they stand."""
    return sorted(range(len(y.shape)), key=lambda a: (-y.strides[a], a))


def inside(y: Any, axis: int) -> int:
    """Elements of one place along the axis: those of the axes inside of it in memory."""
    order = memory_order(y)
    return math.prod(y.shape[a] for a in order[order.index(axis) + 1 :])


def lower_rows(
    to: Lowering, op: Operator, y: Any, inputs: Sequence[Any], pieces: tuple[Piece, ...], how: dict[str, Any]
) -> None:
    """The pieces of each row of y. Inputs that lie in another order than y are copied by the plain kernel."""
    order = memory_order(y)
    alike = all(
        all(n == 1 or s == t for n, s, t in zip(x.shape, x.strides, ordered(x.shape, order), strict=True))
        for x in (y, *inputs)
    )
    if not alike:
        to.call(op.kernel, [y], inputs, plain=True, **how)
        return
    outer = order[: order.index(how["axis"])]

    def as_rows(x: Any) -> Any:
        rows = math.prod(x.shape[a] for a in outer)
        return x.permuted(*order).reshaped((rows, math.prod(x.shape) // rows))

    to.call(rows_of_pieces, [as_rows(y)], [as_rows(x) for x in inputs], pieces=pieces)


def rows_of_pieces(y: Any, *inputs: Any, pieces: tuple[Piece, ...]) -> None:
    """y[row, start : start + size] = the input's row, or zeros, for every piece."""

    def move(row: Any, piece: Piece, at: Any, width: int) -> None:
        start, _, i = piece
        value = 0.0 if i is None else expression.load(inputs[i], (row, at), width)
        expression.store(y, (row, at + start), value, width, aligned=start % width == 0)

    if y.shape[0] >= pointwise.ENOUGH_ROWS:
        for (row,) in parallel(y.shape[0]):
            for piece in pieces:
                for at, width in vectors(piece[1]):
                    move(row, piece, at, width)
        return
    size = BLOCK * lanes()
    for piece in pieces:
        blocks, rest = divmod(piece[1], size)
        for row, block in parallel(y.shape[0], blocks) if blocks else ():
            for at in range(0, size, lanes()):
                move(row, piece, block * size + at, lanes())
        for (row,) in parallel(y.shape[0]) if rest else ():
            for at, width in vectors(rest):
                move(row, piece, at + blocks * size, width)
