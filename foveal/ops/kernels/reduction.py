"""The loop nest of a reduction with the pointwise steps fused into it."""

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
    loops,
    maximum,
    parallel,
    splat,
    var,
    vectors,
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

    def rows(self, position: tuple[Index, ...], g: Index) -> Iterator[dict[int, Index]]:
        """Loop over the rows of part g: yield the index of each as a map from axis to place, without the last axis."""
        kept = dict(zip(self.kept_axes, position, strict=True))
        reduced_axes = [axis for axis in range(self.last) if self.reduced[axis]]
        if not reduced_axes:
            yield kept
            return
        n, chunks = self.domain[reduced_axes[0]], self.chunks
        # the first reduced axis is cut into parts, the others are walked over whole
        for i in loop(n) if chunks == 1 else loop((g + 1) * n // chunks, start=g * n // chunks):
            for others in loops(*(self.domain[axis] for axis in reduced_axes[1:])):
                yield {**kept, **dict(zip(reduced_axes, (i, *others), strict=True))}

    def initial_totals(self, width: int) -> list[Var]:
        """A register of `width` lanes for each output, with the neutral element of its combination."""
        return [var(COMBINE[kind][0], width) for kind in self.combine]

    def accumulate(self, totals: list[Var], row: dict[int, Index], i: Index, width: int) -> None:
        """Combine the totals with the results at `width` places from i on of a row."""
        index = tuple({**row, self.last: i}[axis] for axis in range(self.last + 1))
        values = evaluate([load(x, index, width) for x in self.xs], self.steps, self.results)
        for total, kind, value in zip(totals, self.combine, values, strict=True):
            total.set(COMBINE[kind][1](total.get(), splat(value, width)))

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
        for row in self.rows(position, g):
            for column_totals, (i, width) in zip(totals, columns, strict=True):
                self.accumulate(column_totals, row, i, width)
        for column_totals, (i, _) in zip(totals, columns, strict=True):
            self.store_totals(column_totals, position, g, i)

    def reduce_rows(self, position: tuple[Index, ...], g: Index) -> None:
        """Reduce where the last axis is reduced too.

        Full vectors and the narrower one at the end of each row have totals of their own, lane by lane; in the end the
        lanes of each are combined, by halves, and then the two.
        """
        n = self.domain[self.last]
        # by width: a row's full vectors, and its tail
        totals = {width: self.initial_totals(width) for width in (lanes(), n % lanes()) if width}
        for row in self.rows(position, g):
            for i, width in vectors(n):
                self.accumulate(totals[width], row, i, width)
        whole: list[Value] = []
        for output, kind in enumerate(self.combine):
            parts = [fold(totals[width][output], COMBINE[kind][1]) for width in totals]
            whole.append(parts[0] if len(parts) == 1 else COMBINE[kind][1](*parts))
        self.store_totals(whole, position, g, 0)


def tree_sum(values: Sequence[Scalar]) -> Scalar:
    """The sum of one value or more, neighbours first, so that additions do not wait for each other."""
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = [*pairs, *values[len(pairs) * 2 :]]
    return values[0]
