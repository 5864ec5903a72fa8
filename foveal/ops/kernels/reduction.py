"""The loop nest of a reduction with the pointwise steps fused into it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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


def reduce(
    *arrays: Array,
    outputs: int,
    steps: tuple[Step, ...],
    results: tuple[int, ...],
    reduced: tuple[bool, ...],
    combine: tuple[str, ...],
    chunks: int,
) -> None:
    """y[g, kept] = the combination, over the g-th of `chunks` parts of the reduced axes, of a result slot.

    outputs: the number of arrays y, which come first; each has the shape (chunks, *domain), with stride 0 along reduced
    axes. The other arrays have the domain's shape. steps, results: the fused straight-line program and the slot that
    each y reduces (see expression.Step). reduced: for each axis of the domain, True if it is reduced. combine: "sum" or
    "max" for each y.

    The parts are cut along the first reduced axis, by shape alone, and a second call combines them in order: the bits
    of a sum are the same for any number of threads.
    """
    ys, xs = arrays[:outputs], arrays[outputs:]
    domain = ys[0].shape[1:]
    reduction = ReductionNest(ys, xs, steps, results, reduced, combine, chunks, domain)
    outer = [domain[axis] for axis in reduction.kept_axes]
    if reduced[-1]:
        # threads share the kept positions and the parts; a task reads whole rows
        for *position, g in parallel(*outer, chunks):
            reduction.reduce_rows(tuple(position), g)
        return
    size = lanes()
    blocks, rest = divmod(domain[-1], COLUMN_VECTORS * size)
    # threads share blocks of neighbouring columns too; a task walks down the rows of its block
    for *position, g, block in parallel(*outer, chunks, blocks):
        start = block * (COLUMN_VECTORS * size)
        reduction.reduce_columns(tuple(position), g, [(start + i * size, size) for i in range(COLUMN_VECTORS)])
    if rest:
        # the columns that no whole block covers, in vectors of which the last may be narrower
        first = blocks * COLUMN_VECTORS * size
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
    #: the straight-line program that is applied to the inputs
    steps: tuple[Step, ...]
    #: the slot that each output reduces
    results: tuple[int, ...]
    #: for each axis of the domain, True if it is reduced
    reduced: tuple[bool, ...]
    #: for each output, how values are combined (a key of COMBINE)
    combine: tuple[str, ...]
    #: the number of parts that the first reduced axis is cut into
    chunks: int
    #: the shape of the inputs
    domain: tuple[int, ...]

    @property
    def last(self) -> int:
        """The last axis, along which vectors lie."""
        return len(self.domain) - 1

    @property
    def kept_axes(self) -> list[int]:
        """The axes before the last that are not reduced."""
        return [axis for axis in range(self.last) if not self.reduced[axis]]

    def rows(self, totals: Totals, position: tuple[Index, ...], g: Index) -> Iterator[tuple[Totals, dict[int, Index]]]:
        """Loop over the rows of part g: yield the totals that take the row, and its index as a map from axis to place,
        without the last axis. The totals hold all rows in the end.
        """
        kept = dict(zip(self.kept_axes, position, strict=True))
        reduced_axes = [axis for axis in range(self.last) if self.reduced[axis]]
        if not reduced_axes:
            yield totals, kept
            return
        n, chunks = self.domain[reduced_axes[0]], self.chunks
        # the first reduced axis is cut into parts, the others are walked over whole
        bounds = (0, n) if chunks == 1 else (g * n // chunks, (g + 1) * n // chunks)
        others = reduced_axes[1:]
        for inner, i in self.in_blocks(totals, *bounds, -(-n // chunks), self.additions(others)):
            yield from self.others(inner, {**kept, reduced_axes[0]: i}, others)

    def additions(self, axes: Sequence[int]) -> int:
        """How many additions to one register follow each other in a row of these axes."""
        vectors = max(1, self.domain[self.last] // lanes()) if self.reduced[self.last] else 1
        return vectors * math.prod(self.domain[axis] for axis in axes)

    def others(
        self, totals: Totals, row: dict[int, Index], axes: Sequence[int]
    ) -> Iterator[tuple[Totals, dict[int, Index]]]:
        """Loop over further reduced axes of which each is walked over whole; yields what `rows` does."""
        if not axes:
            yield totals, row
            return
        n, *others = self.domain[axes[0]], *axes[1:]
        for inner, i in self.in_blocks(totals, 0, n, n, self.additions(others)):
            yield from self.others(inner, {**row, axes[0]: i}, others)

    def in_blocks(
        self, totals: Totals, first: Index, end: Index, longest: int, additions: int = 1
    ) -> Iterator[tuple[Totals, Index]]:
        """Loop from `first` up to `end`, at most `longest` iterations: yield the totals that take one, and its index.

        additions: how many each iteration makes to a register, one after another. A long loop is cut into blocks with
        totals of their own, which are added up after each block. So a number goes through the additions of its block
        and of the blocks' totals, not through those of the whole loop, and the error of a sum grows with the logarithm
        of its length.
        """
        # iterations of a block
        step = max(1, BLOCK // additions)
        if longest <= step or "sum" not in self.combine:
            for i in loop(end, start=first):
                yield totals, i
            return
        # a block of so many blocks that at most BLOCK are left to add up here
        while step * BLOCK < longest:
            step *= BLOCK
        for start in loop(end, start=first, step=step):
            inner = [self.initial_totals(width_of(registers[0])) for registers in totals]
            yield from self.in_blocks(inner, start, minimum(start + step, end), step, additions)
            for registers, more in zip(totals, inner, strict=True):
                self.combine_into(registers, more)

    def initial_totals(self, width: int) -> list[Var]:
        """A register of `width` lanes for each output, with the neutral element of its combination."""
        return [var(COMBINE[kind][0], width) for kind in self.combine]

    def accumulate(self, totals: list[Var], row: dict[int, Index], i: Index, width: int) -> None:
        """Combine the totals with the results at `width` places from i on of a row."""
        index = tuple({**row, self.last: i}[axis] for axis in range(self.last + 1))
        values = evaluate([load(x, index, width) for x in self.xs], self.steps, self.results)
        self.combine_into(totals, [splat(value, width) for value in values])

    def combine_into(self, totals: list[Var], values: Sequence[Scalar]) -> None:
        """Combine the totals of all outputs with further values."""
        for total, kind, value in zip(totals, self.combine, values, strict=True):
            total.set(COMBINE[kind][1](total.get(), value))

    def store_totals(self, totals: Sequence[Var | Value], position: tuple[Index, ...], g: Index, i: Index) -> None:
        """Store part g's totals, whose lanes begin at place i of the last axis."""
        places = {**dict(zip(self.kept_axes, position, strict=True)), self.last: i}
        for y, total in zip(self.ys, totals, strict=True):
            index = (g, *(places.get(axis, 0) for axis in range(self.last + 1)))
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
        n, size = self.domain[self.last], lanes()
        tail = n % size
        # of a row's full vectors, and of its tail
        totals = [self.initial_totals(width) for width in (size, tail) if width]
        for inner, row in self.rows(totals, position, g):
            for full, i in self.in_blocks(inner[:1], 0, n // size, n // size):
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
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = [*pairs, *values[len(pairs) * 2 :]]
    return values[0]
