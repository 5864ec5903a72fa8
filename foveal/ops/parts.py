"""Parts of arrays along one axis: every n-th place, the reverse order, given places; and what is made of such parts."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from foveal.arguments import checked
from foveal.arrays.tensor import axis_of
from foveal.errors import DataError, ShapeError
from foveal.kernel.lang import I64, Array, Index, cast, loop, parallel, when, where
from foveal.kinds import shown
from foveal.ops.concat import Joining, axis_from_front, concatenate, narrow
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.reduce import broadcast_to
from foveal.ops.scan import at_place
from foveal.ops.shape import reshape
from foveal.strides import Ndarray, Shape


class Strided(Operator):
    """y = x[..., start : start + step length : step, ...] along `axis`

    Every step-th part of an array: x of any shape -> y, of the same shape but for the size `length` along the axis. It
    is a view of x's memory. Raises ShapeError where there is no such axis or part.
    """

    name, arity, view, slices = "strided", 1, True, True
    cases = (
        Case(((2, 20, 3, 2),), {"axis": 1, "start": 3, "step": 2, "length": 8}),
        Case(((7, 5),), {"axis": 0, "start": 0, "step": 3, "length": 3}),
        Case(((2, 35),), {"axis": -1, "start": 1, "step": 2, "length": 17}),
    )

    def normalise(self, x: HasShape, *, axis: int, start: int, step: int, length: int) -> dict[str, Any]:
        axis = axis_from_front(self.name, axis, len(x.shape))
        if start < 0 or step < 1 or length < 1 or start + step * (length - 1) >= x.shape[axis]:
            raise ShapeError(
                f"strided: {length} in steps of {step} from {start} on are not in axis {axis} of shape {x.shape}; start"
                f" has to be 0 or more, step and length 1 or more, and the last place below {x.shape[axis]}"
            )
        return {"axis": axis, "start": start, "step": step, "length": length}

    def shape(self, x: Shape, *, axis: int, start: int, step: int, length: int) -> Shape:
        return (*x[:axis], length, *x[axis + 1 :])

    def view_strides(self, x: Shape, strides: Shape, *, axis: int, start: int, step: int, length: int) -> Shape:
        return (*strides[:axis], strides[axis] * step, *strides[axis + 1 :])

    def view_offset(self, strides: Shape, *, axis: int, start: int, step: int, length: int) -> int:
        return start * strides[axis]

    def numpy(self, x: Ndarray, *, axis: int, start: int, step: int, length: int) -> Ndarray:
        return x[(slice(None),) * axis + (slice(start, start + step * (length - 1) + 1, step),)]

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int, start: int, step: int, length: int
    ) -> tuple[Tensor | None, ...]:
        return (spread(dy, axis=axis, start=start, step=step, size=x.shape[axis]),)


class Spread(Operator):
    """y = x at the places start, start + step, ... along `axis`, and 0 elsewhere: the gradient of strided

    x of any shape -> y, of the same shape but for the size `size` along the axis. Raises ShapeError where x does not
    fit.
    """

    name, arity = "spread", 1
    cases = (
        Case(((2, 16, 3, 2),), {"axis": 1, "start": 3, "step": 2, "size": 40}),
        Case(((3, 5),), {"axis": 0, "start": 0, "step": 3, "size": 7}),
        Case(((3, 1),), {"axis": -1, "start": 1, "step": 5, "size": 3}),
    )

    def normalise(self, x: HasShape, *, axis: int, start: int, step: int, size: int) -> dict[str, Any]:
        axis = axis_from_front(self.name, axis, len(x.shape))
        if start < 0 or step < 1:
            raise ShapeError(f"spread: start is {start} and step {step}; they have to be 0 or more and 1 or more")
        return {"axis": axis, "start": start, "step": step, "size": size}

    def shape(self, x: Shape, *, axis: int, start: int, step: int, size: int) -> Shape:
        if start + step * (x[axis] - 1) >= size:
            raise ShapeError(f"spread: {x[axis]} places in steps of {step} from {start} on do not fit into {size}")
        return (*x[:axis], size, *x[axis + 1 :])

    def numpy(self, x: Ndarray, *, axis: int, start: int, step: int, size: int) -> Ndarray:
        y = np.zeros(self.shape(x.shape, axis=axis, start=start, step=step, size=size), x.dtype)
        y[(slice(None),) * axis + (slice(start, start + step * x.shape[axis], step),)] = x
        return y

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int, start: int, step: int, size: int
    ) -> tuple[Tensor | None, ...]:
        return (strided(dy, axis=axis, start=start, step=step, length=x.shape[axis]),)

    def kernel(self, y: Array, x: Array, *, axis: int, start: int, step: int, size: int) -> None:
        n = x.shape[axis]
        end = start + step * (n - 1) + 1
        # the zeros before the first place of x and after the last, those between, and then x itself
        for first, count in ((0, start), (end, size - end)):
            for index in parallel(*y.shape[:axis], count, *y.shape[axis + 1 :]):
                y[at_place(index, axis, index[axis] + first)] = 0.0
        for index in parallel(*y.shape[:axis], n - 1, *y.shape[axis + 1 :]):
            for gap in loop(step, start=1):
                y[at_place(index, axis, index[axis] * step + start + gap)] = 0.0
        for index in parallel(*x.shape):
            y[at_place(index, axis, index[axis] * step + start)] = x[index]


class Flip(Operator):
    """y = x in reverse order along `axis`: one axis, several, or all where it is None; of x's shape

    A negative axis counts from the last. Raises ShapeError where there is no such axis.
    """

    name, arity = "flip", 1
    cases = (
        Case(((3, 35),), {"axis": 1}),
        Case(((2, 18, 3, 4),), {"axis": (2, -1)}),
        Case(((4, 3, 2),), {"axis": None}),
    )

    def normalise(self, x: HasShape, *, axis: int | Iterable[int] | None = None) -> dict[str, Any]:
        rank = len(x.shape)
        chosen = range(rank) if axis is None else (axis,) if isinstance(axis, int) else axis
        return {"axis": tuple(sorted({axis_from_front(self.name, a, rank) for a in chosen}))}

    def shape(self, x: Shape, *, axis: tuple[int, ...]) -> Shape:
        return x

    def numpy(self, x: Ndarray, *, axis: tuple[int, ...]) -> Ndarray:
        return np.flip(x, axis)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axis: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        return (flip(dy, axis=axis),)

    def kernel(self, y: Array, x: Array, *, axis: tuple[int, ...]) -> None:
        for index in parallel(*y.shape):
            y[index] = x[
                tuple(n - 1 - i if a in axis else i for a, (i, n) in enumerate(zip(index, x.shape, strict=True)))
            ]


def some_places(n: int) -> Any:
    """Draw places of n, of either sign."""
    return lambda rng, shape: rng.integers(-n, n, shape)


class Take(Operator):
    """y[..., j, ...] = x[..., index[j], ...] along `axis`: the parts of x at given places

    int32 index [...], with x [a, n, b] -> y [a, ..., b], whose middle axes are those of the index; for axis 0 the rows
    of a table. A place below 0 counts from the last. A place that x does not have raises DataError, and gives NaN in
    compiled code. Where a place occurs more than once, its gradients are added up.
    """

    name, arity, integers = "take", 2, (1,)
    cases = (
        Case(((5, 19), (7,)), {"axis": 0}, {1: some_places(5)}),
        Case(((3, 6, 2), (2, 4)), {"axis": 1}, {1: some_places(6)}),
        Case(((4, 9), ()), {"axis": -1}, {1: some_places(9)}),
    )

    def normalise(self, x: HasShape, index: HasShape, *, axis: int = 0) -> dict[str, Any]:
        return {"axis": axis_from_front(self.name, axis, len(x.shape))}

    def shape(self, x: Shape, index: Shape, *, axis: int) -> Shape:
        if x[axis] == 0:
            raise ShapeError(f"take: axis {axis} of shape {x} has no parts")
        return (*x[:axis], *index, *x[axis + 1 :])

    def numpy(self, x: Ndarray, index: Ndarray, *, axis: int) -> Ndarray:
        check_places(index, x.shape[axis])
        return np.take(x, index, axis)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, index: Tensor, *, axis: int) -> tuple[Tensor | None, ...]:
        return add_parts(dy, index, axis=axis, size=x.shape[axis]), None

    def kernel(self, y: Array, x: Array, index: Array, *, axis: int) -> None:
        n, rank = x.shape[axis], len(index.shape)
        for at in parallel(*y.shape):
            place, inside = place_in(index[at[axis : axis + rank]], n)
            y[at] = where(inside, x[(*at[:axis], place, *at[axis + rank :])], float("nan"))


def place_in(value: Any, n: int) -> tuple[Any, Any]:
    """(place, inside): the int32 as a place of n, counted from the front, and whether there is one; else it is 0."""
    # int32 is extended without its sign
    place = cast(value, I64)
    place = where(place >= 1 << 31, place - (1 << 32) + n, place)
    inside = (place >= 0) & (place < n)
    return where(inside, place, 0), inside


def check_places(index: Ndarray, n: int) -> None:
    """Raise DataError where one of the places is not one of n."""
    if index.size and (index.min() < -n or index.max() >= n):
        raise DataError(f"take: index holds {index.min()} to {index.max()}, and there are {n} places, 0 to {n - 1}")


class AddParts(Operator):
    """y[..., i, ...] = the sum of x[..., j, ...] over all j with index[j] = i along `axis`: the gradient of take

    x [a, ..., b] and int32 index [...] -> y [a, size, b]. Raises ShapeError where x does not have the axes of the index
    from `axis` on. Places that y does not have are left out.
    """

    name, arity, integers = "add_parts", 2, (1,)
    cases = (
        Case(((7, 19), (7,)), {"axis": 0, "size": 5}, {1: some_places(5)}),
        Case(((3, 2, 4, 2), (2, 4)), {"axis": 1, "size": 6}, {1: some_places(6)}),
    )

    def normalise(self, x: HasShape, index: HasShape, *, axis: int, size: int) -> dict[str, Any]:
        return {"axis": axis, "size": size}

    def shape(self, x: Shape, index: Shape, *, axis: int, size: int) -> Shape:
        if axis < 0 or x[axis : axis + len(index)] != index or size < 1:
            raise ShapeError(f"add_parts: x {x} has to have the axes of the index {index} from axis {axis} on")
        return (*x[:axis], size, *x[axis + len(index) :])

    def numpy(self, x: Ndarray, index: Ndarray, *, axis: int, size: int) -> Ndarray:
        y = np.zeros(self.shape(x.shape, index.shape, axis=axis, size=size), x.dtype)
        places: Any = (slice(None),) * axis + (index,)
        np.add.at(y, places, x)
        return y

    def vjp(
        self, dy: Tensor, y: Tensor, x: Tensor, index: Tensor, *, axis: int, size: int
    ) -> tuple[Tensor | None, ...]:
        return take(dy, index, axis=axis), None

    def kernel(self, y: Array, x: Array, index: Array, *, axis: int, size: int) -> None:
        # values of a line along the axis may meet, so a thread has a whole line
        for at in parallel(*y.shape[:axis], 1, *y.shape[axis + 1 :]):
            for i in loop(size):
                y[at_place(at, axis, i)] = 0.0
            for flat in loop(int(np.prod(index.shape))):
                j: list[Index] = []
                rest: Index = flat
                for n in reversed(index.shape):
                    j, rest = [rest % n, *j], rest // n
                place, inside = place_in(index[tuple(j)], size)
                for _ in when(inside):
                    target = at_place(at, axis, place)
                    y[target] = y[target] + x[(*at[:axis], *j, *at[axis + 1 :])]


class Stack(Joining):
    """y = arrays[0], arrays[1], ... side by side along a new axis `axis`

    Any number of arrays of equal shape -> y, which has one more axis, of their number. They are given one by one
    or as one list. Raises ShapeError where shapes differ, or there is no such axis or no array.
    """

    name, composite, usual_axis = "stack", True, 0
    cases = (
        Case(((4, 5), (4, 5), (4, 5)), {"axis": 0}),
        Case(((4, 5), (4, 5)), {"axis": -1}),
        Case(((2, 3, 2), (2, 3, 2)), {"axis": 1}),
    )

    def normalise(self, *arrays: HasShape, axis: int = 0) -> dict[str, Any]:
        if not arrays:
            raise ShapeError("stack: takes one array or more")
        return {"axis": axis_from_front(self.name, axis, len(arrays[0].shape) + 1)}

    def shape(self, *shapes: Shape, axis: int) -> Shape:
        if len(set(shapes)) != 1:
            raise ShapeError(f"stack: {', '.join(map(str, shapes))} differ; give arrays of one shape")
        return (*shapes[0][:axis], len(shapes), *shapes[0][axis:])

    def numpy(self, *arrays: Ndarray, axis: int) -> Ndarray:
        return np.stack(arrays, axis)

    def expand(self, *arrays: Tensor, axis: int) -> Tensor:
        return concatenate(*(x.unsqueeze(axis) for x in arrays), axis=axis)


class Roll(Operator):
    """y = x moved by `shift` places along `axis`, what leaves at the end entering at the start; of x's shape

    Without an axis, x is rolled as x.flatten(). Raises ShapeError where there is no such axis.
    """

    name, arity, composite = "roll", 1, True
    cases = (
        Case(((3, 7),), {"shift": 2, "axis": 1}),
        Case(((2, 5, 3, 2),), {"shift": -1, "axis": 1}),
        Case(((3, 4),), {"shift": 17}),
        Case(((3, 4),), {"shift": 4, "axis": 1}),
    )

    def normalise(self, x: HasShape, *, shift: int, axis: int | None = None) -> dict[str, Any]:
        return {"shift": shift, "axis": axis if axis is None else axis_from_front(self.name, axis, len(x.shape))}

    def shape(self, x: Shape, *, shift: int, axis: int | None) -> Shape:
        return x

    def numpy(self, x: Ndarray, *, shift: int, axis: int | None) -> Ndarray:
        return np.roll(x, shift, axis)

    def expand(self, x: Tensor, *, shift: int, axis: int | None) -> Tensor:
        line, along = (reshape(x, shape=(-1,)), 0) if axis is None else (x, axis)
        n = line.shape[along]
        first = shift % n if n else 0
        if not first:
            return reshape(x, shape=x.shape)
        parts = ((n - first, first), (0, n - first))
        taken = [narrow(line, axis=along, start=start, length=length) for start, length in parts]
        return reshape(concatenate(*taken, axis=along), shape=x.shape)


class Repeat(Operator):
    """y = x with each part along `axis` `repeats` times in a row

    y has `repeats` times x's size along the axis. Without an axis, x is taken as x.flatten(). Raises ShapeError where
    there is no such axis, or repeats is below 1.
    """

    name, arity, composite = "repeat", 1, True
    cases = (
        Case(((3, 7),), {"repeats": 2, "axis": 0}),
        Case(((2, 5, 3, 2),), {"repeats": 3, "axis": -1}),
        Case(((3, 4),), {"repeats": 2}),
    )

    def normalise(self, x: HasShape, *, repeats: int, axis: int | None = None) -> dict[str, Any]:
        if repeats < 1:
            raise ShapeError(f"repeat: repeats is {repeats}, it has to be 1 or more")
        return {"repeats": repeats, "axis": axis if axis is None else axis_from_front(self.name, axis, len(x.shape))}

    def shape(self, x: Shape, *, repeats: int, axis: int | None) -> Shape:
        if axis is None:
            return (int(np.prod(x)) * repeats,)
        return (*x[:axis], x[axis] * repeats, *x[axis + 1 :])

    def numpy(self, x: Ndarray, *, repeats: int, axis: int | None) -> Ndarray:
        return np.repeat(x, repeats, axis)

    def expand(self, x: Tensor, *, repeats: int, axis: int | None) -> Tensor:
        shape = self.shape(x.shape, repeats=repeats, axis=axis)
        x, axis = (reshape(x, shape=(-1,)), 0) if axis is None else (x, axis)
        # [..., n, repeats, ...]
        copies = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
        return reshape(broadcast_to(x.unsqueeze(axis + 1), shape=copies), shape=shape)


class Tile(Operator):
    """y = copies of x side by side, reps[a] of them along axis a; reps: a number for each axis, or one for the last

    y has reps[a] times x's size along axis a. As in NumPy, missing numbers are 1, and further ones add axes in front.
    Raises ShapeError for numbers below 1.
    """

    name, arity, composite = "tile", 1, True
    cases = (Case(((3, 7),), {"reps": 2}), Case(((3, 4),), {"reps": (2, 3)}), Case(((3,),), {"reps": (2, 1, 2)}))

    def normalise(self, x: HasShape, *, reps: int | Sequence[int]) -> dict[str, Any]:
        full = (reps,) if isinstance(reps, int) else tuple(reps)
        if min(full, default=1) < 1:
            raise ShapeError(f"tile: reps is {shown(reps)}, numbers have to be 1 or more")
        return {"reps": (1,) * (len(x.shape) - len(full)) + full}

    def shape(self, x: Shape, *, reps: tuple[int, ...]) -> Shape:
        return tuple(r * n for r, n in zip(reps, (1,) * (len(reps) - len(x)) + x, strict=True))

    def numpy(self, x: Ndarray, *, reps: tuple[int, ...]) -> Ndarray:
        return np.tile(x, reps)

    def expand(self, x: Tensor, *, reps: tuple[int, ...]) -> Tensor:
        sizes = (1,) * (len(reps) - len(x.shape)) + x.shape
        # [1, n] for each axis, repeated to [reps, n]
        pairs = [size for n in sizes for size in (1, n)]
        copies = [size for r, n in zip(reps, sizes, strict=True) for size in (r, n)]
        y = broadcast_to(reshape(x, shape=tuple(pairs)), shape=tuple(copies))
        return reshape(y, shape=self.shape(x.shape, reps=reps))


strided, spread, flip, take, add_parts = Strided(), Spread(), Flip(), Take(), AddParts()
stack, roll, repeat, tile = Stack(), Roll(), Repeat(), Tile()


@checked
def split(x: Tensor, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Return the parts of x along an axis, as NumPy's split: as many equal ones, or those between the places of a list.

    split(x, 3) gives 3 parts of equal size; split(x, [2, 5]) gives x[:2], x[2:5] and x[5:]. PyTorch's split(x, 3) gives
    parts of 3, which here is split(x, range(3, n, 3)). Raises ShapeError where the parts would not be equal, or empty.
    """
    axis = axis_of("split", axis, len(x.shape))
    n = x.shape[axis]
    if isinstance(indices_or_sections, int):
        if indices_or_sections < 1 or n % indices_or_sections:
            raise ShapeError(
                f"split: {n} places of axis {axis} cannot be cut into {indices_or_sections} equal parts; give a list of"
                " places"
            )
        places = list(range(0, n + 1, n // indices_or_sections)) if n else [0, 0]
    else:
        places = [0, *indices_or_sections, n]
    ranges = list(pairwise(places))
    if any(not start < end for start, end in ranges):
        raise ShapeError(f"split: the places {places[1:-1]} have to rise within 0 and {n}, the size of axis {axis}")
    return [narrow(x, axis=axis, start=start, length=end - start) for start, end in ranges]
