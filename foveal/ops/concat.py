"""Operators that put arrays side by side along an axis, and take them apart again.

A part of an array is a view of its memory (`narrow`), which costs nothing where a pointwise kernel or a reduction reads
it; other operators get a copy that passes/layout.py plans. In memory the axes before the joined one are rows, and it
and those after it are one line: joining is a copy of one piece per row and input.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import lanes, parallel, vectors
from foveal.ops import nest
from foveal.ops.op import Case, Lowering, Ndarray, Operator, Shape, ordered

BLOCK = 16  # vectors of a row that a thread takes at once where there are few rows
Piece = tuple[int, int, int | None]  # of a row: start, size, and the input it comes from; None for zeros


def which(name: str, axis: int, rank: int) -> int:
    """The axis counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{name}: there is no axis {axis}, the array has {rank}")
    return int(axis) % rank


class Concatenate(Operator):
    """y is the inputs one after another along `axis` (channels unless given); the other sizes are equal"""

    name = "concatenate"
    cases = (
        Case(((2, 3, 3, 2), (2, 16, 3, 2), (2, 9, 3, 2)), {"axis": 1}),
        Case(((3, 70), (4, 70)), {"axis": 0}),
        Case(((2, 3, 2, 4), (2, 3, 1, 4)), {"axis": -2}),
    )

    def normalise(self, *inputs: Any, axis: int = 1) -> dict[str, Any]:
        if not inputs:
            raise ShapeError("concatenate: takes one array or more")
        return {"axis": which(self.name, axis, len(inputs[0].shape))}

    def shape(self, *shapes: Shape, axis: int) -> Shape:
        others = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
        if len(others) != 1 or len({len(shape) for shape in shapes}) != 1:
            raise ShapeError(
                f"concatenate: {', '.join(map(str, shapes))} differ in more than axis {axis}; give arrays whose other"
                " sizes are equal, for images of the same rows and columns"
            )
        first = shapes[0]
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])

    def numpy(self, *inputs: Ndarray, axis: int) -> Ndarray:
        return np.concatenate(inputs, axis)

    def vjp(self, dy: Any, y: Any, *inputs: Any, axis: int) -> tuple[Any, ...]:
        starts = np.cumsum([0, *(x.shape[axis] for x in inputs)])
        return tuple(
            narrow(dy, axis=axis, start=int(start), length=x.shape[axis])
            for start, x in zip(starts, inputs, strict=False)
        )

    def kernel(self, y: Any, *inputs: Any, axis: int) -> None:
        start = 0
        for x in inputs:
            copy(y, x, axis, start)
            start += x.shape[axis]

    def lower(self, to: Lowering, y: Any, /, *inputs: Any, axis: int) -> None:
        pieces, start = [], 0
        inner = inside(y, axis)
        for i, x in enumerate(inputs):
            pieces.append((start, x.shape[axis] * inner, i))
            start += x.shape[axis] * inner
        lower_rows(to, self, y, inputs, tuple(pieces), {"axis": axis})


class Narrow(Operator):
    """y = x[..., start : start + length, ...] along `axis`"""

    name, arity, view = "narrow", 1, True
    cases = (
        Case(((2, 20, 3, 2),), {"axis": 1, "start": 3, "length": 16}),
        Case(((6, 5),), {"axis": 0, "start": 1, "length": 3}),
        Case(((2, 5),), {"axis": -1, "start": 2, "length": 3}),
    )

    def normalise(self, x: Any, *, axis: int, start: int, length: int) -> dict[str, Any]:
        axis = which(self.name, axis, len(x.shape))
        if start < 0 or length < 1 or start + length > x.shape[axis]:
            raise ShapeError(
                f"narrow: {length} from {start} on are not in axis {axis} of shape {x.shape}; start has to be 0 or"
                f" more, length 1 or more, and their sum at most {x.shape[axis]}"
            )
        return {"axis": axis, "start": int(start), "length": int(length)}

    def shape(self, x: Shape, *, axis: int, start: int, length: int) -> Shape:
        return (*x[:axis], length, *x[axis + 1 :])

    def numpy(self, x: Ndarray, *, axis: int, start: int, length: int) -> Ndarray:
        return x[(slice(None),) * axis + (slice(start, start + length),)]

    def vjp(self, dy: Any, y: Any, x: Any, *, axis: int, start: int, length: int) -> tuple[Any, ...]:
        return (widen(dy, axis=axis, start=start, size=x.shape[axis]),)


class Widen(Operator):
    """y = x from `start` on along `axis`, which has `size` places, and 0 elsewhere: the gradient of narrow"""

    name, arity = "widen", 1
    cases = (
        Case(((2, 16, 3, 2),), {"axis": 1, "start": 3, "size": 20}),
        Case(((3, 5),), {"axis": 0, "start": 0, "size": 4}),
    )

    def shape(self, x: Shape, *, axis: int, start: int, size: int) -> Shape:
        if start + x[axis] > size:
            raise ShapeError(f"widen: {x[axis]} from {start} on are more than {size}")
        return (*x[:axis], size, *x[axis + 1 :])

    def numpy(self, x: Ndarray, *, axis: int, start: int, size: int) -> Ndarray:
        y = np.zeros(self.shape(x.shape, axis=axis, start=start, size=size), x.dtype)
        y[(slice(None),) * axis + (slice(start, start + x.shape[axis]),)] = x
        return y

    def vjp(self, dy: Any, y: Any, x: Any, *, axis: int, start: int, size: int) -> tuple[Any, ...]:
        return (narrow(dy, axis=axis, start=start, length=x.shape[axis]),)

    def kernel(self, y: Any, x: Any, *, axis: int, start: int, size: int) -> None:
        end = start + x.shape[axis]
        for first, count in ((0, start), (end, size - end)):
            if count:
                for index in parallel(*y.shape[:axis], count, *y.shape[axis + 1 :]):
                    y[shifted(index, axis, first)] = 0.0
        copy(y, x, axis, start)

    def lower(self, to: Lowering, y: Any, /, x: Any, *, axis: int, start: int, size: int) -> None:
        inner, n = inside(y, axis), x.shape[axis]
        parts = ((0, start, None), (start, n, 0), (start + n, size - start - n, None))
        pieces = tuple((first * inner, n * inner, i) for first, n, i in parts if n)
        lower_rows(to, self, y, [x], pieces, {"axis": axis, "start": start, "size": size})


concatenate, narrow, widen = Concatenate(), Narrow(), Widen()


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
        value = 0.0 if i is None else nest.load(inputs[i], (row, at), width)
        nest.store(y, (row, at + start), value, width, aligned=start % width == 0)

    if y.shape[0] >= nest.ENOUGH_ROWS:
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
