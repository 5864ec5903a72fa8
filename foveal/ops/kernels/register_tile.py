"""Register tiles: how many rows and vectors of a product are accumulated in registers at once, and packed panels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import lanes, loop, registers, splat, var, width_of

AHEAD = 8  # rows or squares that packing fetches early


ENOUGH_TASKS = 16  # so that threads share them evenly


@dataclass(frozen=True)
class Tile:
    """`rows` times `vectors` accumulators of `width` lanes: three quarters of the registers.

    The rest holds the vectors of weights of one step and, on CPUs without embedded broadcasts, the scalar that they are
    multiplied with. Twelve accumulators cover the latency of a fused multiply-add on two ports.
    """

    width: int
    vectors: int
    rows: int

    @property
    def columns(self) -> int:
        return self.width * self.vectors


def tile_for(columns: int) -> Tile:
    """The tile for an output with `columns` neighbouring elements (filters, features)."""
    width = lanes()
    while width > 1 and width // 2 >= columns:
        width //= 2
    vectors = min(2, -(-columns // width))
    return Tile(width, vectors, registers() * 3 // 4 // vectors)


def split(n: int, most: int) -> list[tuple[int, int]]:
    """n as near-equal pieces of at most `most`: (piece, how many of it), the larger first."""
    if n == 0:
        return []
    pieces = -(-n // most)
    small, larger = divmod(n, pieces)
    return [(size, count) for size, count in ((small + 1, larger), (small, pieces - larger)) if count]


def runs(count: int, most: int) -> Iterator[tuple[Any, int]]:
    """Loops over `count` positions, near-equal runs of at most `most` at a time: (first, how many)."""
    first = 0
    for size, number in split(count, most):
        for t in loop(number):
            yield t * size + first, size
        first += size * number


def unrolling(n: int) -> int:
    """Steps of a loop of n that one iteration takes: a short loop's all, else 4 where they divide n, for a step of a
    full
    tile hides the loop's own work and more only takes longer to compile; else the largest divisor up to 8.
    """
    return 4 if n > 8 and n % 4 == 0 else max(d for d in range(1, 9) if n % d == 0)


def pieces(columns: int, width: int) -> list[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `columns`."""
    return [(start, min(width, columns - start)) for start in range(0, columns, width)]


def part_of_blocks(groups: int, outputs: int, columns: int, part: Any, parts: int) -> Iterator[tuple[Any, Any, int]]:
    """(group, block, valid columns) of one of `parts` parts of all blocks of neighbouring outputs."""
    full, tail = divmod(outputs, columns)
    if parts == 1:
        for g in loop(groups):
            for b in loop(full):
                yield g, b, columns
            if tail:
                yield g, full, tail
        return
    total = groups * full
    for flat in loop((part + 1) * total // parts, start=part * total // parts):
        yield (flat // full, flat % full, columns) if groups > 1 else (0, flat, columns)
    if tail:
        for g in loop((part + 1) * groups // parts, start=part * groups // parts):
            yield g, full, tail


def accumulators(rows: int, widths: list[int]) -> dict[tuple[int, int], Any]:
    """Zeroed registers by (row, vector), of the vectors' widths."""
    return {(i, v): var(0.0, width) for i in range(rows) for v, width in enumerate(widths)}


def multiply_add(acc: dict[tuple[int, int], Any], scalars: Iterable[Any], weights: list[Any]) -> None:
    """acc[i, v] += scalars[i] * weights[v]

    scalars: a generator, so that each is loaded just before its products; where instructions take no operand from
    memory
    (NEON), all of a step's scalars loaded before would push accumulators out of the registers.
    """
    for i, scalar in enumerate(scalars):
        for v, w in enumerate(weights):
            acc[i, v].fma(splat(scalar, width_of(w)), w)
