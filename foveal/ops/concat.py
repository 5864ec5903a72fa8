"""Operators that put arrays side by side along an axis, and take them apart again.

A part of an array is a view of its memory (`narrow`), which costs nothing where a pointwise kernel or a reduction reads
it; other operators get a copy that passes/layout.py plans. Joining arrays is a copy: in memory the axes before the
joined one count rows, the joined axis and those after it lie in a row, and each input is one piece of each row.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from foveal.errors import ArgumentError, ShapeError
from foveal.kernel.lang import Array, parallel
from foveal.ops.kernels.copy_rows import Piece, copy_part, elements_per_place, lower_rows, shifted
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor
from foveal.strides import Ndarray, Shape
from foveal.view import View


def axis_from_front(name: str, axis: int, rank: int) -> int:
    """The axis, which may be negative, counted from the front; ShapeError where an array of that rank lacks it."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{name}: there is no axis {axis}, the array has {rank}")
    return int(axis) % rank


class Joining(Operator):
    """What puts any number of arrays together: they are given one by one, or as one list, as NumPy takes them."""

    # the axis that both NumPy and this operator mean where none is given; None where they differ
    usual_axis: ClassVar[int | None] = None

    def apply(self, inputs: Sequence[object], attributes: Mapping[str, object]) -> Any:
        if not inputs or not isinstance(inputs[0], list | tuple) or not any(hasattr(x, "shape") for x in inputs[0]):
            return super().apply(inputs, attributes)
        if len(inputs) > 1:
            raise ArgumentError(f"{self.name}: after a list of arrays the axis is given by name, axis=1")
        if "axis" not in attributes and self.usual_axis is None:
            raise ArgumentError(
                f"{self.name}: give the axis of a list of arrays by name; NumPy and PyTorch take axis=0 where there is"
                " none, and arrays that are given one by one are joined along their channels, axis=1"
            )
        return super().apply(tuple(inputs[0]), attributes)


class Concatenate(Joining):
    """y = arrays[0], arrays[1], ... one after another along `axis`

    Any number of arrays, of equal shape but for the size along the axis -> y, whose size along it is the sum of theirs:
    concatenate(a, b), or concatenate([a, b], axis=1).

    axis: the channels unless given, which a list of arrays needs; counted from the end where negative. Raises
    ShapeError where other sizes differ, or there is no such axis or no array.
    """

    name = "concatenate"
    cases = (
        Case(((2, 3, 3, 2), (2, 16, 3, 2), (2, 9, 3, 2)), {"axis": 1}),
        Case(((3, 70), (4, 70)), {"axis": 0}),
        Case(((2, 3, 2, 4), (2, 3, 1, 4)), {"axis": -2}),
    )

    def normalise(self, *arrays: HasShape, axis: int = 1) -> dict[str, Any]:
        if not arrays:
            raise ShapeError("concatenate: takes one array or more")
        return {"axis": axis_from_front(self.name, axis, len(arrays[0].shape))}

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

    def vjp(self, dy: Tensor, y: Tensor, *inputs: Tensor, axis: int) -> tuple[Tensor, ...]:
        starts = np.cumsum([0, *(x.shape[axis] for x in inputs)])
        return tuple(
            narrow(dy, axis=axis, start=int(start), length=x.shape[axis])
            for start, x in zip(starts, inputs, strict=False)
        )

    def kernel(self, y: Array, *inputs: Array, axis: int) -> None:
        start = 0
        for x in inputs:
            copy_part(y, x, axis, start)
            start += x.shape[axis]

    def lower(self, lowering: Lowering, y: View, /, *inputs: View, axis: int) -> None:
        pieces: list[Piece] = []
        start, inner = 0, elements_per_place(y, axis)
        for i, x in enumerate(inputs):
            pieces.append((start, x.shape[axis] * inner, i))
            start += x.shape[axis] * inner
        lower_rows(lowering, self, y, inputs, tuple(pieces), {"axis": axis})


class Narrow(Operator):
    """y = x[..., start : start + length, ...] along `axis`

    A part of an array: x of any shape -> y, of the same shape but for the size `length` along the axis. It is a view of
    x's memory. axis: counted from the end where negative. Raises ShapeError where there is no such axis or part.
    """

    name, arity, view, slices = "narrow", 1, True, True
    cases = (
        Case(((2, 20, 3, 2),), {"axis": 1, "start": 3, "length": 16}),
        Case(((6, 5),), {"axis": 0, "start": 1, "length": 3}),
        Case(((2, 5),), {"axis": -1, "start": 2, "length": 3}),
    )

    def normalise(self, x: HasShape, *, axis: int, start: int, length: int) -> dict[str, Any]:
        axis = axis_from_front(self.name, axis, len(x.shape))
        if start < 0 or length < 1 or start + length > x.shape[axis]:
            raise ShapeError(
                f"narrow: {length} from {start} on are not in axis {axis} of shape {x.shape}; start has to be 0 or"
                f" more, length 1 or more, and their sum at most {x.shape[axis]}"
            )
        return {"axis": axis, "start": int(start), "length": int(length)}

    def shape(self, x: Shape, *, axis: int, start: int, length: int) -> Shape:
        return (*x[:axis], length, *x[axis + 1 :])

    def view_strides(self, x: Shape, strides: Shape, *, axis: int, start: int, length: int) -> Shape:
        return strides

    def view_offset(self, strides: Shape, *, axis: int, start: int, length: int) -> int:
        return start * strides[axis]

    def numpy(self, x: Ndarray, *, axis: int, start: int, length: int) -> Ndarray:
        return x[(slice(None),) * axis + (slice(start, start + length),)]

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int, start: int, length: int) -> tuple[Tensor, ...]:
        return (widen(dy, axis=axis, start=start, size=x.shape[axis]),)


class Widen(Operator):
    """y = x from `start` on along `axis`, and 0 elsewhere: the gradient of narrow

    x of any shape -> y, of the same shape but for the size `size` along the axis. Raises ShapeError where x does not
    fit.
    """

    name, arity = "widen", 1
    cases = (
        Case(((2, 16, 3, 2),), {"axis": 1, "start": 3, "size": 20}),
        Case(((3, 5),), {"axis": 0, "start": 0, "size": 4}),
    )

    def normalise(self, x: HasShape, *, axis: int, start: int, size: int) -> dict[str, Any]:
        axis = axis_from_front(self.name, axis, len(x.shape))
        if start < 0:
            raise ShapeError(f"{self.name}: start is {start}, it has to be 0 or more")
        return {"axis": axis, "start": start, "size": size}

    def shape(self, x: Shape, *, axis: int, start: int, size: int) -> Shape:
        if start + x[axis] > size:
            raise ShapeError(f"widen: {x[axis]} places from {start} on are more than {size}")
        return (*x[:axis], size, *x[axis + 1 :])

    def numpy(self, x: Ndarray, *, axis: int, start: int, size: int) -> Ndarray:
        y = np.zeros(self.shape(x.shape, axis=axis, start=start, size=size), x.dtype)
        y[(slice(None),) * axis + (slice(start, start + x.shape[axis]),)] = x
        return y

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int, start: int, size: int) -> tuple[Tensor, ...]:
        return (narrow(dy, axis=axis, start=start, length=x.shape[axis]),)

    def kernel(self, y: Array, x: Array, *, axis: int, start: int, size: int) -> None:
        end = start + x.shape[axis]
        # the zeros before x and after it, and then x itself
        for first, count in ((0, start), (end, size - end)):
            for index in parallel(*y.shape[:axis], count, *y.shape[axis + 1 :]):
                y[shifted(index, axis, first)] = 0.0
        copy_part(y, x, axis, start)

    def lower(self, lowering: Lowering, y: View, /, x: View, *, axis: int, start: int, size: int) -> None:
        inner, n = elements_per_place(y, axis), x.shape[axis]
        # (first place, places, input): zeros, x, zeros
        parts = ((0, start, None), (start, n, 0), (start + n, size - start - n, None))
        pieces = tuple((first * inner, count * inner, i) for first, count, i in parts if count)
        lower_rows(lowering, self, y, [x], pieces, {"axis": axis, "start": start, "size": size})


concatenate, narrow, widen = Concatenate(), Narrow(), Widen()
# NumPy and PyTorch have both names.
concat = concatenate
