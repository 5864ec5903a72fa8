"""The loop nest of a reduction with the pointwise steps fused into it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import F32, cast, fold, lanes, loop, loops, maximum, parallel, splat, var, vectors, width_of
from foveal.ops.kernels.expression import Step, evaluate, load, store
from foveal.ops.kernels.pointwise import BLOCK

COMBINE: dict[str, tuple[float, Callable[[Any, Any], Any]]] = {
    "sum": (0.0, lambda a, b: a + b),
    "max": (float("-inf"), maximum),
}


def reduce(
    *arrays: Any,
    outputs: int,
    steps: tuple[Step, ...],
    results: tuple[int, ...],
    reduced: tuple[bool, ...],
    combine: tuple[str, ...],
    chunks: int,
) -> None:
    """partial[g, kept] = the combination, over the g-th of `chunks` parts of the reduced axes, of the result slots.

    The parts are cut along the first reduced axis, by shape alone, and are combined in order afterwards: the sum is the
    same for any number of threads. Outputs have the domain's shape behind a first axis of size `chunks`.
    """
    ys, xs = arrays[:outputs], arrays[outputs:]
    domain = ys[0].shape[1:]
    work = Reduction(ys, xs, steps, results, reduced, combine, chunks, domain)
    outer = [domain[a] for a in work.kept]
    if reduced[-1]:
        for *position, g in parallel(*outer, chunks):
            work.fold_all(tuple(position), g)
        return
    size = lanes()
    blocks, rest = divmod(domain[-1], BLOCK * size)
    if blocks:
        for *position, g, b in parallel(*outer, chunks, blocks):
            start = b * (BLOCK * size)
            work.keep(tuple(position), g, [(start + i * size, size) for i in range(BLOCK)])
    if rest:
        first = blocks * BLOCK * size
        pieces = [(first + i, min(size, rest - i)) for i in range(0, rest, size)]
        for *position, g in parallel(*outer, chunks):
            work.keep(tuple(position), g, pieces)


@dataclass(frozen=True)
class Reduction:
    """The parts of `reduce`. position: an index of the kept axes; g: of a chunk; the last axis is treated apart."""

    ys: Sequence[Any]
    xs: Sequence[Any]
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    reduced: tuple[bool, ...]
    combine: tuple[str, ...]
    chunks: int
    domain: tuple[int, ...]

    @property
    def last(self) -> int:
        return len(self.domain) - 1

    @property
    def kept(self) -> list[int]:
        return [a for a in range(self.last) if not self.reduced[a]]

    def rows(self, position: tuple[Any, ...], g: Any) -> Iterator[dict[int, Any]]:
        """Indices, without the last axis, of the g-th part of what is reduced."""
        at = dict(zip(self.kept, position, strict=True))
        gone = [a for a in range(self.last) if self.reduced[a]]
        if not gone:
            yield at
            return
        n, chunks = self.domain[gone[0]], self.chunks
        for r in loop(n) if chunks == 1 else loop((g + 1) * n // chunks, start=g * n // chunks):
            for rest in loops(*(self.domain[a] for a in gone[1:])):
                yield {**at, **dict(zip(gone, (r, *rest), strict=True))}

    def start(self, width: int) -> list[Any]:
        return [var(COMBINE[kind][0], width) for kind in self.combine]

    def add(self, totals: list[Any], row: dict[int, Any], i: Any, width: int) -> None:
        index = tuple({**row, self.last: i}[a] for a in range(self.last + 1))
        values = evaluate([load(x, index, width) for x in self.xs], self.steps, self.results)
        for total, kind, value in zip(totals, self.combine, values, strict=True):
            total.set(COMBINE[kind][1](total.get(), splat(value, width)))

    def put(self, totals: list[Any], position: tuple[Any, ...], g: Any, i: Any) -> None:
        at = {**dict(zip(self.kept, position, strict=True)), self.last: i}
        for y, total in zip(self.ys, totals, strict=True):
            index = (g, *(at.get(a, 0) for a in range(self.last + 1)))
            store(y, index, total, width_of(total))

    def keep(self, position: tuple[Any, ...], g: Any, pieces: list[tuple[Any, int]]) -> None:
        """The totals of each (place in the last axis, lanes), which is kept."""
        totals = [self.start(width) for _, width in pieces]
        for row in self.rows(position, g):
            for total, (i, width) in zip(totals, pieces, strict=True):
                self.add(total, row, i, width)
        for total, (i, _) in zip(totals, pieces, strict=True):
            self.put(total, position, g, i)

    def fold_all(self, position: tuple[Any, ...], g: Any) -> None:
        """The totals where the last axis is reduced too: lane by lane, and those of the rows' tails, then of all
        lanes.
        """
        n = self.domain[self.last]
        totals = {width: self.start(width) for width in (lanes(), n % lanes()) if width}
        for row in self.rows(position, g):
            for i, width in vectors(n):
                self.add(totals[width], row, i, width)
        whole = []
        for slot, kind in enumerate(self.combine):
            parts = [fold(totals[width][slot], COMBINE[kind][1]) for width in totals]
            whole.append(parts[0] if len(parts) == 1 else COMBINE[kind][1](*parts))
        self.put(whole, position, g, 0)


def as_float(n: Any, width: int) -> Any:
    """An index as float32 in each of `width` lanes."""
    return float(n) if isinstance(n, int) else splat(cast(n, F32), width)
