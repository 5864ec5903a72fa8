"""Operators that put arrays side by side along an axis, and take them apart again.

A part of an array is a view of its memory (`narrow`), which costs nothing where a pointwise kernel or a reduction reads
it; other operators get a copy that passes/layout.py plans. In memory the axes before the joined one are rows, and it
and those after it are one line: joining is a copy of one piece per row and input.
"""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import parallel
from foveal.ops.kernels.copy_rows import copy_part, elements_per_place, lower_rows, shifted
from foveal.ops.op import Case, Lowering, Operator
from foveal.strides import Ndarray, Shape


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
            copy_part(y, x, axis, start)
            start += x.shape[axis]

    def lower(self, to: Lowering, y: Any, /, *inputs: Any, axis: int) -> None:
        pieces, start = [], 0
        inner = elements_per_place(y, axis)
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
        copy_part(y, x, axis, start)

    def lower(self, to: Lowering, y: Any, /, x: Any, *, axis: int, start: int, size: int) -> None:
        inner, n = elements_per_place(y, axis), x.shape[axis]
        parts = ((0, start, None), (start, n, 0), (start + n, size - start - n, None))
        pieces = tuple((first * inner, n * inner, i) for first, n, i in parts if n)
        lower_rows(to, self, y, [x], pieces, {"axis": axis, "start": start, "size": size})


concatenate, narrow, widen = Concatenate(), Narrow(), Widen()
