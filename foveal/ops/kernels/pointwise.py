"""The two loop nests that every fused group becomes: pointwise, and reductions with a pointwise prologue.

Arrays of one call have the same shape, the domain; what does not vary along an axis has stride 0 there. `steps` is the
group in straight-line form: (operator, attributes, slots of its operands), where the slots count the inputs first and
then the steps; `results` are the slots that are stored or reduced.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import loop, parallel
from foveal.ops.kernels.expression import Step, evaluate, load, store, stream

ENOUGH_ROWS = 64  # with fewer outer iterations than this the vectors of a row are shared out among threads too


UNROLL = 4  # vectors that are computed together


BLOCK = 4  # vectors of kept channels a reduction carries at once, so that it reads whole cache lines of a row


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
