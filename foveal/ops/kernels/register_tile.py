"""Register tiles: the block of a product whose sums stay in vector registers while the inner loop runs.

All direct convolutions and matrix products here are sums y[row, column] += scalar[row] * weights[column], where the
columns are neighbouring outputs (filters, features) and fill the lanes of vectors, and the rows are pixels, images or
rows of a matrix. How large the tile has to be follows from the CPU:

    peak of a core       FMA ports x lanes x 2 operations per cycle. AVX2 and NEON cores have two ports, and so have
                         most AVX-512 cores. Zen 4 has two ports of 256 bits and runs a 512-bit FMA as two halves, one
                         such FMA per cycle; so it does 32 operations per cycle with 8 as with 16 lanes.
    latency              an FMA's sum can be added to again after 4 or 5 cycles, so 2 x 5 = 10 sums that do not depend
                         on each other keep two ports busy: 10 accumulators at least. 12 are three quarters of 16
                         registers.
    loads per FMA        a step of the inner loop loads `vectors` vectors of weights and broadcasts `rows` scalars, for
                         rows x vectors FMAs. A core loads about as many vectors per cycle as it has FMA ports, so the
                         ratio has to stay below 1. A tile of one row or one vector is above 1; a square one has the
                         lowest ratio.
    registers            16 (AVX2, SSE) or 32 (AVX-512, NEON). Three quarters hold accumulators; the rest holds the
                         weights of one step and, where the FMA takes no scalar from memory, the broadcast scalar.

    registers   vectors   rows   accumulators   loads per step   loads per FMA
    16          2         6      12             8                0.67
    32          2         12     24             14               0.58
    16          1         12     12             13               1.08  (fewer outputs than two vectors)
    32          1         24     24             25               1.04

Two vectors and not three or four, since outputs that do not fill the last vector waste it, and a network's numbers of
filters are multiples of 16 and 32 more often than of 48 or 64.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from foveal.kernel.lang import Index, Scalar, Value, Var, l1, lanes, loop, registers, splat, var, width_of

# Bytes of a float32, which relates numbers of elements to the sizes of caches.
FLOAT_BYTES = 4

# Parallel tasks that a kernel is cut into at least, where its shape allows it: then two threads have 8 each and eight
# threads 2 each, and none waits long for the last one. More tasks share less of what they stage or read.
ENOUGH_TASKS = 16

# The sums of a register tile, by (row, vector).
Accumulators = dict[tuple[int, int], Var]


@overload
def ceil_div(n: int, divisor: int) -> int: ...
@overload
def ceil_div(n: Index, divisor: Index) -> Index: ...


def ceil_div(n: Index, divisor: Index) -> Index:
    """Return n / divisor, rounded up."""
    return (n + divisor - 1) // divisor


def conflicts(step: int) -> bool:
    """True if elements `step` apart fall into the same set of a first-level cache of eight ways.

    The rows of a tile that lie so would push each other out of it.
    """
    return step * FLOAT_BYTES % (l1() // 8) == 0


@dataclass(frozen=True)
class Tile:
    """`rows` times `vectors` accumulators of `width` lanes: at most three quarters of the registers."""

    width: int
    vectors: int
    rows: int

    @property
    def lanes(self) -> int:
        """The number of neighbouring outputs in a row of the tile (filters, features): the lanes of all its vectors."""
        return self.width * self.vectors


def tile_for(columns: int) -> Tile:
    """The tile for an output with `columns` neighbouring elements (filters, features).

    Few columns take one vector, and fewer lanes of it: the narrowest power of two that holds them.
    """
    width = lanes()
    while width > 1 and width // 2 >= columns:
        width //= 2
    vectors = min(2, ceil_div(columns, width))
    return Tile(width, vectors, registers() * 3 // 4 // vectors)


def split(n: int, max_size: int) -> list[tuple[int, int]]:
    """n as near-equal pieces of at most `max_size`: (piece, how many of it), the larger first."""
    if n == 0:
        return []
    pieces = ceil_div(n, max_size)
    small, larger = divmod(n, pieces)
    return [(size, count) for size, count in ((small + 1, larger), (small, pieces - larger)) if count]


def pieces_of(n: int, max_size: int) -> tuple[int, ...]:
    """The sizes of the pieces of `split`, for code that other n of nearly full pieces share: the larger first."""
    sizes = tuple(size for size, _ in split(n, max_size))
    full = (max_size, max_size - 1)
    return full if max_size > 1 and set(sizes) <= set(full) else sizes


def counted(n: Index, sizes: tuple[int, ...], max_size: int) -> list[tuple[int, Index]]:
    """`split` where the call gives n; sizes: those of its pieces, or `pieces_of` it."""
    pieces = ceil_div(n, max_size)
    larger = n - pieces * sizes[-1]
    return [(sizes[0], pieces)] if len(sizes) == 1 else [(sizes[0], larger), (sizes[1], pieces - larger)]


def runs(count: int, max_size: int) -> Iterator[tuple[Index, int]]:
    """Loops over `count` positions, near-equal runs of at most `max_size` at a time: (first, how many)."""
    first = 0
    for size, number in split(count, max_size):
        for t in loop(number):
            yield t * size + first, size
        first += size * number


def panels(n: int, size: int) -> Iterator[tuple[Index, int]]:
    """Loops over n filters (or channels) in panels of `size`, of which the last may have fewer: (panel, how many)."""
    full, tail = divmod(n, size)
    for panel in loop(full):
        yield panel, size
    if tail:
        yield full, tail


def unroll_factor(n: int) -> int:
    """The number of steps of a loop over n that one iteration of it takes.

    n itself if n <= 8; 4 if that divides n, for a step of a full tile takes longer than the loop's own instructions,
    and more steps only take longer to compile; else the largest divisor of n up to 8.
    """
    return 4 if n > 8 and n % 4 == 0 else max(d for d in range(1, 9) if n % d == 0)


def unrolled(n: Index, factor: int | None = None) -> Iterator[tuple[Index, int]]:
    """A loop over n steps, `unroll_factor(n)` of them per iteration: (step, its place within the iteration).

    factor: that number, where the call gives n.
    """
    if factor is None:
        assert isinstance(n, int)
        factor = unroll_factor(n)
    for i in loop(n // factor):
        for place in range(factor):
            yield i * factor + place, place


def lane_ranges(columns: int, width: int) -> list[tuple[int, int]]:
    """(first column, lanes) of the vectors that cover `columns`; the last one may be narrower."""
    return [(start, min(width, columns - start)) for start in range(0, columns, width)]


def part_of_blocks(
    groups: int, filters: Index, columns: int, part: Index, parts: Index, tail: int | None = None
) -> Iterator[tuple[Index, Index, int]]:
    """Loops over one of `parts` parts of all blocks of filters: (group, block, number of valid filters).

    The filters of each group are cut into blocks of `columns`, as many as a tile has; a last block may have fewer valid
    ones. tail: how many it has, or 0, where the call gives the number of filters.
    """
    full = filters // columns
    if tail is None:
        assert isinstance(filters, int)
        tail = filters % columns
    if isinstance(parts, int) and parts == 1:
        for g in loop(groups):
            for b in loop(full):
                yield g, b, columns
            if tail:
                yield g, full, tail
        return
    # the full blocks of all groups, numbered through; then the part's share of the tails
    total = groups * full
    for flat in loop((part + 1) * total // parts, start=part * total // parts):
        yield (flat // full, flat % full, columns) if groups > 1 else (0, flat, columns)
    if tail:
        for g in loop((part + 1) * groups // parts, start=part * groups // parts):
            yield g, full, tail


def accumulators(rows: int, widths: Sequence[int]) -> Accumulators:
    """Zeroed registers by (row, vector), of the vectors' widths."""
    return {(i, v): var(0.0, width) for i in range(rows) for v, width in enumerate(widths)}


def multiply_add(acc: Accumulators, scalars: Iterable[Scalar], weights: Sequence[Value]) -> None:
    """acc[i, v] += scalars[i] * weights[v]: one step of the inner loop.

    scalars: a generator, so that each is loaded just before its products. Where instructions take no operand from
    memory (NEON), a step's scalars, all loaded before, would push accumulators out of the registers.
    """
    for i, scalar in enumerate(scalars):
        for v, w in enumerate(weights):
            acc[i, v].fma(splat(scalar, width_of(w)), w)
