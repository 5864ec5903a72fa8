"""The loop nest of a reduction with the pointwise steps fused into it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import (
    Array,
    Index,
    Scalar,
    Value,
    Var,
    fold,
    lanes,
    loop,
    maximum,
    minimum,
    parallel,
    splat,
    var,
    width_of,
)
from foveal.ops.kernels.expression import Step, evaluate, load, store
from foveal.ops.kernels.sizes import CallSizes, numbers_apart, spec_of
from foveal.ops.op import Lowering
from foveal.strides import Shape
from foveal.view import View

# What a total starts from, and how a value is combined with it.
COMBINE: dict[str, tuple[float, Callable[[Value, Scalar], Value]]] = {
    "sum": (0.0, lambda a, b: a + b),
    "max": (float("-inf"), maximum),
}

# Vectors of kept neighbours that a reduction over rows carries in registers at once. Each row is then read in whole
# cache lines: 4 vectors are 1 line of SSE, 2 of AVX2, 4 of AVX-512. More vectors would leave no registers for the
# fused steps.
COLUMN_VECTORS = 4

# Additions that follow each other in one block of a sum. Beginning and ending a block costs about as much as two of its
# iterations. The error of a sum of n numbers is at most BLOCK log(n) / log(BLOCK) roundings: 384 up to two million.
BLOCK = 128

# The registers that a pass adds up in: for each of some vectors, one for each output.
Totals = list[list[Var]]


@dataclass(frozen=True)
class Walk:
    """How a domain is walked through, as far as code depends on it."""

    #: for each axis, True if it is reduced
    reduced: tuple[bool, ...]
    #: for each axis, how many levels of blocks its loop is cut into (see `ReductionNest.in_blocks`)
    levels: tuple[int, ...]
    #: True if the first reduced axis is cut into parts
    parted: bool
    #: elements of a row after its last whole block of columns or, where it is reduced, after its last whole vector
    rest: int

    @property
    def last(self) -> int:
        """The last axis, along which vectors lie."""
        return len(self.reduced) - 1

    @property
    def kept_axes(self) -> list[int]:
        """The axes before the last that are not reduced."""
        return [axis for axis in range(self.last) if not self.reduced[axis]]

    @property
    def reduced_axes(self) -> list[int]:
        """The axes before the last that are reduced."""
        return [axis for axis in range(self.last) if self.reduced[axis]]


def walk_through(shape: Shape, reduced: tuple[bool, ...], chunks: int, combine: tuple[str, ...]) -> Walk:
    """How a domain of this shape is walked through, in `chunks` parts of the first reduced axis.

    Of two loops or more over rows the first has a level of blocks however short it is: other sizes then share its code,
    and a single block costs once per task what a few rows do.
    """
    last = len(shape) - 1
    levels, vectors = [0] * len(shape), shape[last] // lanes()
    axes = [axis for axis in range(last) if reduced[axis]]
    for axis in axes:
        longest = -(-shape[axis] // chunks) if axis == axes[0] else shape[axis]
        inner = math.prod(shape[other] for other in axes if other > axis)
        levels[axis] = levels_of(longest, inner * (max(1, vectors) if reduced[last] else 1))
    if len(axes) > 1:
        levels[axes[0]] = max(levels[axes[0]], 1)
    if reduced[last]:
        levels[last] = levels_of(vectors, 1)
    rest = shape[last] % (lanes() if reduced[last] else COLUMN_VECTORS * lanes())
    return Walk(reduced, tuple(levels) if "sum" in combine else (0,) * len(shape), chunks > 1, rest)


def levels_of(longest: int, additions: int) -> int:
    """The levels of blocks of a loop of so many iterations, each of which makes `additions` to a register."""
    step, levels = max(1, BLOCK // max(additions, 1)), 0
    while step < longest:
        step, levels = step * BLOCK, levels + 1
    return levels


def lower(
    lowering: Lowering,
    outputs: list[View],
    inputs: list[View],
    reduced: tuple[bool, ...],
    steps: tuple[Step, ...],
    results: tuple[int, ...],
    combine: tuple[str, ...],
) -> None:
    """Call the kernel on outputs [chunks, *domain] and inputs [*domain]; arguments as those of `reduce`.

    It gets all sizes from the call, but for that of a row with less than a block of columns or two vectors.
    """
    steps, results, numbers = numbers_apart(len(inputs), steps, results, inputs)
    (chunks, *shape), sizes, last = outputs[0].shape, CallSizes(), len(reduced) - 1
    walk = walk_through(tuple(shape), reduced, chunks, combine)
    is_short = shape[last] < (2 if reduced[last] else COLUMN_VECTORS) * lanes()
    extents = [n if is_short and axis == last else sizes.of(n, axis) for axis, n in enumerate(shape)]
    parts = sizes.of(chunks, "chunks") if walk.parted else 1

    def strides_of(view: View, *names: object) -> list[Any]:
        """The strides over the domain; that of a row's elements is known."""
        *outer, inner = view.strides[-len(shape) :]
        return [*(sizes.stride(s, *names, axis) for axis, s in enumerate(outer)), inner]

    written = [
        spec_of(y, (parts, *extents), (sizes.stride(y.strides[0], "part"), *strides_of(y, "written"))) for y in outputs
    ]
    read = [spec_of(x, extents, strides_of(x, "read")) for x in inputs]
    static: dict[str, Any] = {"steps": steps, "results": results, "combine": combine, "walk": walk}
    specs, count = [*written, *read], len(outputs)
    lowering.call(reduce, outputs, inputs, specs=specs, sizes=sizes.values, numbers=numbers, outputs=count, **static)


def reduce(
    *arrays: Array,
    outputs: int,
    steps: tuple[Step, ...],
    results: tuple[int, ...],
    combine: tuple[str, ...],
    walk: Walk,
    numbers: Sequence[Scalar] = (),
) -> None:
    """y[g, kept] = the combination, over the g-th of `chunks` parts of the reduced axes, of a result slot.

    outputs: the number of arrays y, which come first; each has the shape (chunks, *domain), with stride 0 along reduced
    axes. The other arrays have the domain's shape. steps, results: the fused straight-line program, whose slots begin
    with the other arrays and the numbers, and the slot that each y reduces (see expression.Step). combine: "sum" or
    "max" for each y. walk: `walk_through` the domain.

    The parts are cut along the first reduced axis, by shape alone, and a second call combines them in order: the bits
    of a sum are the same for any number of threads.
    """
    ys, xs = arrays[:outputs], arrays[outputs:]
    chunks, *domain = ys[0].extents
    reduction = ReductionNest(ys, xs, numbers, steps, results, combine, walk, chunks, tuple(domain))
    outer = [domain[axis] for axis in walk.kept_axes]
    if walk.reduced[-1]:
        # threads share the kept positions and the parts; a task reads whole rows
        for *position, g in parallel(*outer, chunks):
            reduction.reduce_rows(tuple(position), g)
        return
    size, rest = lanes(), walk.rest
    blocks = domain[-1] // (COLUMN_VECTORS * size)
    # threads share blocks of neighbouring columns too; a task walks down the rows of its block
    for *position, g, block in parallel(*outer, chunks, blocks):
        start = block * (COLUMN_VECTORS * size)
        reduction.reduce_columns(tuple(position), g, [(start + i * size, size) for i in range(COLUMN_VECTORS)])
    if rest:
        # the columns that no whole block covers, in vectors of which the last may be narrower
        first = domain[-1] - rest
        columns: list[tuple[Index, int]] = [(first + i, min(size, rest - i)) for i in range(0, rest, size)]
        for *position, g in parallel(*outer, chunks):
            reduction.reduce_columns(tuple(position), g, columns)


@dataclass(frozen=True)
class ReductionNest:
    """The arrays and rules of `reduce`, and the parts of its loop nest.

    In its methods `position` is an index of the kept axes but the last axis, and g the number of a part.
    """

    #: the outputs, [chunks, *domain]
    ys: Sequence[Array]
    #: the inputs, [*domain]
    xs: Sequence[Array]
    #: numbers that the call gives
    numbers: Sequence[Scalar]
    #: the straight-line program that is applied to the inputs and the numbers
    steps: tuple[Step, ...]
    #: the slot that each output reduces
    results: tuple[int, ...]
    #: for each output, how values are combined (a key of COMBINE)
    combine: tuple[str, ...]
    #: which axes are reduced, and how
    walk: Walk
    #: the number of parts that the first reduced axis is cut into
    chunks: Index
    #: the shape of the inputs
    domain: tuple[Index, ...]

    def rows(self, totals: Totals, position: tuple[Index, ...], g: Index) -> Iterator[tuple[Totals, dict[int, Index]]]:
        """Loop over the rows of part g: yield the totals that take the row, and its index as a map from axis to place,
        without the last axis. The totals hold all rows in the end.
        """
        kept = dict(zip(self.walk.kept_axes, position, strict=True))
        reduced_axes = self.walk.reduced_axes
        if not reduced_axes:
            yield totals, kept
            return
        first, *others = reduced_axes
        n, chunks = self.domain[first], self.chunks
        # the first reduced axis is cut into parts, the others are walked over whole
        bounds = (g * n // chunks, (g + 1) * n // chunks) if self.walk.parted else (0, n)
        for inner, i in self.in_blocks(totals, *bounds, first):
            yield from self.others(inner, {**kept, first: i}, others)

    def others(
        self, totals: Totals, row: dict[int, Index], axes: Sequence[int]
    ) -> Iterator[tuple[Totals, dict[int, Index]]]:
        """Loop over further reduced axes of which each is walked over whole; yields what `rows` does."""
        if not axes:
            yield totals, row
            return
        axis, *others = axes
        for inner, i in self.in_blocks(totals, 0, self.domain[axis], axis):
            yield from self.others(inner, {**row, axis: i}, others)

    def block_length(self, axis: int) -> Index:
        """Iterations of a block of the loop over an axis: each makes all additions of the loops inside of it."""
        walk = self.walk
        inner = [self.domain[other] for other in walk.reduced_axes if other > axis]
        if walk.reduced[-1] and axis != walk.last:
            inner.append(maximum(self.domain[-1] // lanes(), 1))
        return maximum(BLOCK // maximum(math.prod(inner), 1), 1) if inner else BLOCK

    def in_blocks(
        self, totals: Totals, first: Index, end: Index, axis: int, level: int | None = None
    ) -> Iterator[tuple[Totals, Index]]:
        """Loop over an axis from `first` up to `end`: yield the totals that take one iteration, and its index.

        level: how many levels of blocks are left, all of the axis's at first. A long loop is cut into blocks with
        totals of their own, which are added up after each block. So a number goes through the additions of its block
        and of the blocks' totals, not through those of the whole loop, and the error of a sum grows with the logarithm
        of its length.
        """
        level = self.walk.levels[axis] if level is None else level
        if not level:
            for i in loop(end, start=first):
                yield totals, i
            return
        # of a level, a block has at most BLOCK of the next
        step = self.block_length(axis) * BLOCK ** (level - 1)
        for start in loop(end, start=first, step=step):
            inner = [self.initial_totals(width_of(registers[0])) for registers in totals]
            yield from self.in_blocks(inner, start, minimum(start + step, end), axis, level - 1)
            for registers, more in zip(totals, inner, strict=True):
                self.combine_into(registers, more)

    def initial_totals(self, width: int) -> list[Var]:
        """A register of `width` lanes for each output, with the neutral element of its combination."""
        return [var(COMBINE[kind][0], width) for kind in self.combine]

    def accumulate(self, totals: list[Var], row: dict[int, Index], i: Index, width: int) -> None:
        """Combine the totals with the results at `width` places from i on of a row."""
        index = tuple({**row, self.walk.last: i}[axis] for axis in range(len(self.domain)))
        values = evaluate([*(load(x, index, width) for x in self.xs), *self.numbers], self.steps, self.results)
        self.combine_into(totals, [splat(value, width) for value in values])

    def combine_into(self, totals: list[Var], values: Sequence[Scalar]) -> None:
        """Combine the totals of all outputs with further values."""
        for total, kind, value in zip(totals, self.combine, values, strict=True):
            total.set(COMBINE[kind][1](total.get(), value))

    def store_totals(self, totals: Sequence[Var | Value], position: tuple[Index, ...], g: Index, i: Index) -> None:
        """Store part g's totals, whose lanes begin at place i of the last axis."""
        places = {**dict(zip(self.walk.kept_axes, position, strict=True)), self.walk.last: i}
        for y, total in zip(self.ys, totals, strict=True):
            index = (g, *(places.get(axis, 0) for axis in range(len(self.domain))))
            store(y, index, total, width_of(total))

    def reduce_columns(self, position: tuple[Index, ...], g: Index, columns: list[tuple[Index, int]]) -> None:
        """Reduce where the last axis is kept: `columns` are the (place, lanes) of neighbouring vectors along it.

        The totals of all columns stay in registers while the rows pass.
        """
        totals = [self.initial_totals(width) for _, width in columns]
        for inner, row in self.rows(totals, position, g):
            for column_totals, (i, width) in zip(inner, columns, strict=True):
                self.accumulate(column_totals, row, i, width)
        for column_totals, (i, _) in zip(totals, columns, strict=True):
            self.store_totals(column_totals, position, g, i)

    def reduce_rows(self, position: tuple[Index, ...], g: Index) -> None:
        """Reduce where the last axis is reduced too.

        Full vectors and the narrower one at the end of each row have totals of their own, lane by lane; in the end the
        lanes of each are combined, by halves, and then the two.
        """
        n, size, tail = self.domain[-1], lanes(), self.walk.rest
        # of a row's full vectors, and of its tail
        totals = [self.initial_totals(width) for width in (size, tail) if width]
        for inner, row in self.rows(totals, position, g):
            for full, i in self.in_blocks(inner[:1], 0, n // size, self.walk.last):
                self.accumulate(full[0], row, i * size, size)
            if tail:
                self.accumulate(inner[1], row, n - tail, tail)
        whole: list[Value] = []
        for output, kind in enumerate(self.combine):
            parts = [fold(registers[output], COMBINE[kind][1]) for registers in totals]
            whole.append(parts[0] if len(parts) == 1 else COMBINE[kind][1](*parts))
        self.store_totals(whole, position, g, 0)


def tree_sum(values: Sequence[Scalar]) -> Scalar:
    """The sum of one value or more, neighbours first, so that additions do not wait for each other."""
    return combined(values, COMBINE["sum"][1])


def combined(values: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """One value or more combined, neighbours first."""
    while len(values) > 1:
        pairs = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = [*pairs, *values[len(pairs) * 2 :]]
    return values[0]
