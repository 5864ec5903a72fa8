"""Copies of parts of arrays, row by row in memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import LINE, Array, Index, Scalar, lanes, parallel, vectors
from foveal.ops.kernels import expression
from foveal.ops.kernels.pointwise import MIN_PARALLEL_ROWS
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering, Operator
from foveal.strides import memory_order, ordered
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


def elements_per_place(y: View, axis: int) -> int:
    """The number of elements at one place of the axis: the product of the sizes of the axes inside of it in memory."""
    order = memory_order(y.strides)
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
    order = memory_order(y.strides)
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

    views, sizes = [as_rows(y), *map(as_rows, inputs)], CallSizes()
    rows = views[0].shape[0]
    shared = rows >= MIN_PARALLEL_ROWS
    unit = lanes() if shared else BLOCK * lanes()
    parts = tuple(
        Part(source, size if source is None else None, size % unit, math.gcd(start, LINE))
        for start, size, source in pieces
    )
    specs = [sizes.spec(view) for view in views]
    lowering.call(rows_of_pieces, views[:1], views[1:], specs=specs, sizes=sizes.values, parts=parts, shared=shared)


@dataclass(frozen=True)
class Part:
    """A piece of each row of the output, as far as code depends on it."""

    #: the number of the input that it is copied from; None for zeros
    source: int | None
    #: its size, if it is zeros; else a row of the input has it
    size: int | None
    #: the elements after its last whole vector, or after its last whole block where threads share blocks
    rest: int
    #: what its start is a multiple of, of the powers of two up to a cache line
    alignment: int


def rows_of_pieces(y: Array, *inputs: Array, parts: tuple[Part, ...], shared: bool) -> None:
    """y[row] = the whole row of each part's input, or zeros, one after the other.

    y: [rows, elements]; an input: [rows, size of its piece]. shared: threads share the rows, else the parts of each.
    """
    rows = y.extents[0]
    # [part]: (first element, size)
    places: list[tuple[Index, Index]] = []
    end: Index = 0
    for part in parts:
        size: Index = inputs[part.source].extents[1] if part.source is not None else part.size or 0
        places.append((end, size))
        end = end + size

    def copy_vector(row: Index, number: int, i: Index, width: int) -> None:
        """Copy `width` elements of a row, from place i of a part on."""
        part, start = parts[number], places[number][0]
        value: Scalar = 0.0 if part.source is None else expression.load(inputs[part.source], (row, i), width)
        expression.store(y, (row, i + start), value, width, aligned=part.alignment % width == 0)

    if shared:
        # each row is written from its start to its end
        for (row,) in parallel(rows):
            for number, part in enumerate(parts):
                for i, width in vectors(places[number][1], tail=part.rest):
                    copy_vector(row, number, i, width)
        return
    # few rows: threads share the blocks of each part, and then the rest of it
    block_size = BLOCK * lanes()
    for number, part in enumerate(parts):
        blocks = places[number][1] // block_size
        for row, block in parallel(rows, blocks):
            for distance in range(0, block_size, lanes()):
                copy_vector(row, number, block * block_size + distance, lanes())
        if part.rest:
            for (row,) in parallel(rows):
                for i, width in vectors(part.rest):
                    copy_vector(row, number, i + blocks * block_size, width)
