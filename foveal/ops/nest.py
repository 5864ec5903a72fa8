"""The two loop nests that every fused group becomes: pointwise, and reductions with a pointwise prologue.

Arrays of one call have the same shape, the domain; what does not vary along an axis has stride 0 there. `steps` is the
group in straight-line form: (operator, attributes, slots of its operands), where the slots count the inputs first and
then the steps; `results` are the slots that are stored or reduced.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import (
    F32,
    cast,
    fold,
    lanes,
    loop,
    loops,
    maximum,
    pack,
    parallel,
    splat,
    store_lanes,
    var,
    vectors,
    width_of,
)
from foveal.ops.op import OPS

Step = tuple[str, tuple[tuple[str, Any], ...], tuple[int, ...]]
ENOUGH_ROWS = 64  # with fewer outer iterations than this the vectors of a row are shared out among threads too
UNROLL = 4  # vectors that are computed together
BLOCK = 4  # vectors of kept channels a reduction carries at once, so that it reads whole cache lines of a row


def load(x: Any, index: tuple[Any, ...], width: int) -> Any:
    """`width` elements along the last axis: neighbours, one repeated, or gathered one by one."""
    step = x.strides[-1] if x.strides else 0
    if width == 1 or step == 1:
        return x.load(index, width)
    if step == 0:
        return x.load(index, 1)
    return pack([x.load((*index[:-1], index[-1] + lane), 1) for lane in range(width)])


def store(y: Any, index: tuple[Any, ...], value: Any, width: int, aligned: bool = True) -> None:
    """Lanes along the last axis. aligned: from a multiple of `width` on."""
    value = splat(value, width)
    if width == 1:
        y.store(index, value, width)
    elif y.strides[-1] != 1:
        store_lanes(y, index, value)
    elif aligned:
        y.store_past_cache(index, value, width)
    else:
        y.store(index, value, width)


def evaluate(inputs: list[Any], steps: tuple[Step, ...], results: tuple[int, ...]) -> list[Any]:
    """The values of the result slots at one index."""
    slots = list(inputs)
    for name, attributes, operands in steps:
        slots.append(OPS[name].scalar(*(slots[i] for i in operands), **dict(attributes)))  # type: ignore[attr-defined]
    return [slots[i] for i in results]


def stream() -> int:
    """Lanes of a kernel that waits for memory: 32 bytes at a time pass faster than 64.

    Adding two arrays of 16 MB takes 1.1 ms with 8 lanes and 1.4 ms with 16 on one core of Zen 4.
    """
    return min(lanes(), 8)


@dataclass(frozen=True)
class Recipe:
    """How a value is computed from `count` arrays at one index."""

    count: int = 1
    steps: tuple[Step, ...] = ()
    result: int = 0

    def load(self, arrays: Sequence[Any], index: tuple[Any, ...], width: int) -> Any:
        read = [load(x, index, width) for x in arrays[: self.count]]
        (value,) = evaluate(read, self.steps, (self.result,))
        return splat(value, width)


@dataclass(frozen=True)
class Source:
    """An operator's input: an array, or what is computed from arrays of its shape while it is read."""

    arrays: list[Any]
    recipe: Recipe = Recipe()

    @classmethod
    def of(cls, x: Any) -> "Source":
        return x if isinstance(x, Source) else cls([x])


@dataclass(frozen=True)
class Patch:
    """What pointwise does at each iteration: neighbours in `rows` rows at once, which share what they read alike."""

    ys: Sequence[Any]
    xs: Sequence[Any]
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    rows: int
    alike: list[bool]  # for each input whether the rows read the same

    def __call__(self, row: tuple[Any, ...], start: Any, pieces: list[tuple[int, int]]) -> None:
        """In each of the rows from `row` on the vectors (distance from start, lanes), loads before stores."""
        same: list[list[Any]] = []
        for i in range(self.rows):
            places = [((*row[:-1], row[-1] + i, start + at) if row else (start + at,), width) for at, width in pieces]
            read = [
                same[slot] if i and self.alike[slot] else [load(x, *place) for place in places]
                for slot, x in enumerate(self.xs)
            ]
            same = same or read
            self.write(places, read)

    def write(self, places: list[tuple[tuple[Any, ...], int]], read: list[list[Any]]) -> None:
        """The results of what was read, input by input, at each (index, lanes)."""
        found = [evaluate([values[piece] for values in read], self.steps, self.results) for piece in range(len(places))]
        for (index, width), values in zip(places, found, strict=True):
            for y, value in zip(self.ys, values, strict=True):
                store(y, index, value, width)


def pointwise(*arrays: Any, outputs: int, steps: tuple[Step, ...], results: tuple[int, ...]) -> None:
    """Every output at every index of the domain.

    Each iteration takes a patch of a few vectors: neighbours in a row or, where rows are short, of some rows, which
    then
    share what they read alike.
    """
    ys, xs = arrays[:outputs], arrays[outputs:]
    if not ys[0].shape:
        for _ in parallel(1):
            values = evaluate([x[()] for x in xs], steps, results)
            for y, value in zip(ys, values, strict=True):
                y[()] = value
        return
    *outer, inner = ys[0].shape
    size = stream()
    short = inner < UNROLL * size
    alike = [bool(outer) and x.strides[-2] == 0 for x in xs]
    most = max(UNROLL * size // inner if short else 1, UNROLL if any(alike) else 1)
    rows = unrolling(outer[-1], most) if outer else 1
    cover(ys[0].shape, Patch(ys, xs, steps, results, rows, alike))


def cover(shape: tuple[int, ...], patch: Patch) -> None:
    """The patch at all places of a domain: UNROLL vectors of a row at once, then what is left of it."""
    *outer, inner = shape
    size = stream()
    blocks, rest = divmod(inner, UNROLL * size)
    whole = [(at, size) for at in range(0, UNROLL * size, size)]
    tail = [(at, min(size, rest - at)) for at in range(0, rest, size)]
    count = (*outer[:-1], outer[-1] // patch.rows) if outer else (1,)

    def first(at: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*at[:-1], at[-1] * patch.rows) if outer else ()

    if math.prod(count) >= ENOUGH_ROWS or not blocks:
        for at in parallel(*count):
            for block in loop(blocks) if blocks else ():
                patch(first(at), block * (UNROLL * size), whole)
            if tail:
                patch(first(at), inner - rest, tail)
        return
    for *position, block in parallel(*count, blocks):
        patch(first(tuple(position)), block * (UNROLL * size), whole)
    if tail:
        for at in parallel(*count):
            patch(first(at), inner - rest, tail)


def unrolling(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def place(y: Any, x: Any, position: int, chosen: bool) -> None:
    """y[position] = x if chosen, else 0."""
    for row in parallel(*x.shape[:-1]) if len(x.shape) > 1 else parallel(1):
        row = row if len(x.shape) > 1 else ()
        for i in loop(x.shape[-1]):
            y[(position, *row, i)] = x[(*row, i)] if chosen else 0.0


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
