"""Register tiles: how many rows and vectors of a product are accumulated in registers at once, and packed panels."""

from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, registers, splat, var, width_of
from foveal.ops import nest


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
    return [
        (size, count) for size, count in ((small + 1, larger), (small, pieces - larger)) if count
    ]


def unrolling(n: int, most: int = 8) -> int:
    """The largest divisor of n that is at most `most`."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def pieces(columns: int, width: int) -> list[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `columns`."""
    return [(start, min(width, columns - start)) for start in range(0, columns, width)]


def pack_panels(panels: Any, w: Any, *, columns: int) -> None:
    """panels[g, b, r, s, c, lane] = w[g, b*columns + lane, c, r, s], and 0 behind the last output channel.

    So that the inner loop of a product reads its weights as one stream. w: [G, outputs, inputs, R, S].
    """
    groups, outputs, inputs, rows, cols = w.shape
    width = min(columns, lanes())

    def fill(g: Any, b: Any, r: Any, s: Any, c: Any, valid: int) -> None:
        for start in range(0, columns, width):
            count = min(width, max(valid - start, 0))
            if count:
                index = (g, c, r, s, b * columns + start)
                panels.store((g, b, r, s, c, start), nest.load(rows_last, index, count), count)
            for lane in range(start + count, start + width):
                panels[g, b, r, s, c, lane] = 0.0

    rows_last = w.permuted(0, 2, 3, 4, 1)
    full, tail = divmod(outputs, columns)
    for g, b, r, s in parallel(groups, full, rows, cols) if full else ():
        for c in loop(inputs):
            fill(g, b, r, s, c, columns)
    if tail:
        for g, r, s in parallel(groups, rows, cols):
            for c in loop(inputs):
                fill(g, full, r, s, c, tail)


def accumulators(
    rows: int, widths: list[tuple[int, int]], width: int
) -> dict[tuple[int, int], Any]:
    """Zeroed registers by (row, vector)."""
    return {(i, v): var(0.0, width) for i in range(rows) for v in range(len(widths))}


def multiply_add(acc: dict[tuple[int, int], Any], scalars: list[Any], weights: list[Any]) -> None:
    """acc[i, v] += scalars[i] * weights[v]"""
    for i, scalar in enumerate(scalars):
        spread = splat(scalar, width_of(weights[0]))
        for v, w in enumerate(weights):
            acc[i, v].fma(spread, w)
