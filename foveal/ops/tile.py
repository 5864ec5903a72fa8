"""Register tiles: how many rows and vectors of a product are accumulated in registers at once, and packed panels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, registers, splat, transpose, var, width_of
from foveal.ops import nest

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


def pack_panels(panels: Any, w: Any, *, columns: int, first: tuple[int, int] = (0, 0)) -> None:
    """panels[g, b, r, s, c, lane] = w[g, b*columns + lane, c, r + first, s + first], 0 behind the last output channel.

    So that the inner loop of a product reads its weights as one stream. w: [G, outputs, inputs, R, S].
    """
    (groups, _, rows, cols, *_), outputs = panels.shape, w.shape[1]
    full, tail = divmod(outputs, columns)

    def fill(g: Any, b: Any, r: Any, s: Any, valid: int) -> None:
        source = w.permuted(0, 3, 4, 1, 2).at(g, r + first[0], s + first[1], b * columns, 0)
        fill_panel(panels.at(g, b, r, s, 0, 0), source, valid)

    for g, b, r, s in parallel(groups, full, rows, cols) if full else ():
        fill(g, b, r, s, columns)
    if tail:
        for g, r, s in parallel(groups, rows, cols):
            fill(g, full, r, s, tail)


def fill_panel(panel: Any, w: Any, valid: int) -> None:
    """panel[..., c, lane] = w[..., lane, c] for the first `valid` lanes, else 0.

    Where inputs are neighbours in memory, squares of them are turned over in registers: gathering one by one reads a
    line per element, at strides that are often powers of two and fall into one cache set. The prefetcher does not see
    streams that jump so far either.
    """
    *_, inputs, columns = panel.shape
    width = min(columns, lanes())
    ends = [(i, min(i + width, columns)) for i in range(0, columns, width)]
    counts = [(start, end, min(end - start, max(valid - start, 0))) for start, end in ends]
    squared = columns % width == 0 and width & (width - 1) == 0
    turn = w.strides[-1] == 1 and w.strides[-2] != 1 and width > 1 and squared
    squares = inputs // width if turn else 0
    for start, _, count in counts:
        for c in loop(squares):
            for i in range(count):
                w.prefetch((0, 0, 0, start + i, c * width + AHEAD * width))
            zero = [var(0.0, width)] * (width - count)
            rows = [w.load((0, 0, 0, start + i, c * width), width) for i in range(count)]
            for i, turned in enumerate(transpose(rows + zero)):
                panel.store((0, 0, 0, 0, c * width + i, start), turned, width)
    across = w.permuted(0, 1, 2, 4, 3)
    for c in loop(inputs, start=squares * width):
        for start, end, count in counts:
            if count:
                across.prefetch((0, 0, 0, c + AHEAD, start))
                values = nest.load(across, (0, 0, 0, c, start), count)
                panel.store((0, 0, 0, 0, c, start), values, count)
            for lane in range(start + count, end):
                panel[0, 0, 0, 0, c, lane] = 0.0


def add_partials(total: Any, partial: Any) -> None:
    """total[i] = the sum over partial[., i], in order."""
    chunks, n = partial.shape
    size = lanes()

    def add(i: Any, width: int) -> None:
        acc = var(0.0, width)
        for g in loop(chunks):
            acc += partial.load((g, i), width)
        total.store((i,), acc, width)

    for (v,) in parallel(n // size):
        add(v * size, size)
    if n % size:
        for _ in parallel(1):
            add(n - n % size, n % size)


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
