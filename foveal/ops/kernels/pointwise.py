"""The loop nest of a fused group of pointwise operators.

All arrays of a call have the same shape, the domain; along an axis that an array does not vary along, its stride is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foveal.kernel.lang import Array, Index, Scalar, Value, loop, parallel
from foveal.ops.kernels.expression import Step, evaluate, load, store, streaming_lanes

# Threads share the rows of a domain that has at least this many, else the blocks of each row too. A thread takes its
# share in eight pieces, and 64 rows are as many pieces for eight threads; with fewer rows threads would be left idle.
MIN_PARALLEL_ROWS = 64

# Vectors that one iteration computes. Enough independent loads and operations are then in flight to hide their latency;
# more would lengthen the code and need more registers than a long expression leaves.
UNROLL = 4


@dataclass(frozen=True)
class PointwiseTile:
    """What one iteration computes: some neighbouring vectors in each of `rows` neighbouring rows.

    An input that does not vary from row to row is loaded once for all of them.
    """

    #: the arrays that are written, one for each result
    ys: Sequence[Array]
    #: the arrays that are read, one for each of the first slots
    xs: Sequence[Array]
    #: the straight-line program of the group
    steps: tuple[Step, ...]
    #: the slots of the results
    results: tuple[int, ...]
    #: the number of rows
    rows: int
    #: for each input, True if all rows read the same elements of it
    same_in_rows: list[bool]

    def compute(self, row: tuple[Index, ...], start: Index, pieces: list[tuple[int, int]]) -> None:
        """Compute the vectors (distance from `start`, lanes) of each row, from the row with index `row` on.

        Each row's loads come before its stores, so that an output may lie in the memory of an input.
        """
        first_loaded: list[list[Value]] = []
        for i in range(self.rows):
            # (index, lanes) of each vector of this row
            vectors: list[tuple[tuple[Index, ...], int]] = [
                ((*row[:-1], row[-1] + i, start + distance) if row else (start + distance,), width)
                for distance, width in pieces
            ]
            # [input][vector]
            loaded = [
                first_loaded[slot] if i and self.same_in_rows[slot] else [load(x, *vector) for vector in vectors]
                for slot, x in enumerate(self.xs)
            ]
            first_loaded = first_loaded or loaded
            self.write(vectors, loaded)

    def write(self, vectors: list[tuple[tuple[Index, ...], int]], loaded: Sequence[Sequence[Scalar]]) -> None:
        """Store the results at each (index, lanes); `loaded` holds, for each input, its value there."""
        # [vector][result]: all are computed before the first is stored
        computed = [evaluate([values[i] for values in loaded], self.steps, self.results) for i in range(len(vectors))]
        for (index, width), values in zip(vectors, computed, strict=True):
            for y, value in zip(self.ys, values, strict=True):
                store(y, index, value, width)


def pointwise(*arrays: Array, outputs: int, steps: tuple[Step, ...], results: tuple[int, ...]) -> None:
    """Compute the first `outputs` arrays at every index of the domain from the other arrays.

    steps, results: the group's straight-line program, and the slot of each output (see expression.Step). The last axis
    is a row. Each iteration takes a tile of a few vectors: neighbours in one row or, where rows are short or some input
    is the same for all rows, vectors of several rows.
    """
    ys, xs = arrays[:outputs], arrays[outputs:]
    if not ys[0].shape:
        for _ in parallel(1):
            values = evaluate([x[()] for x in xs], steps, results)
            for y, value in zip(ys, values, strict=True):
                y[()] = value
        return
    *outer, inner = ys[0].shape
    tile_elements = UNROLL * streaming_lanes()
    same_in_rows = [bool(outer) and x.strides[-2] == 0 for x in xs]
    # as many short rows as UNROLL vectors hold, or UNROLL rows that share a load; the rows are divided without rest
    rows_in_vectors = tile_elements // inner if inner < tile_elements else 1
    max_rows = max(rows_in_vectors, UNROLL if any(same_in_rows) else 1)
    rows = largest_divisor(outer[-1], max_rows) if outer else 1
    tile_domain(ys[0].shape, PointwiseTile(ys, xs, steps, results, rows, same_in_rows))


def tile_domain(shape: tuple[int, ...], tile: PointwiseTile) -> None:
    """Cover a domain of the given shape with the tile: UNROLL vectors of a row at a time, then the rest of the row."""
    *outer, inner = shape
    size = streaming_lanes()
    blocks, rest = divmod(inner, UNROLL * size)
    # (distance, lanes) of the vectors of a block, and of those that follow the last block
    block_vectors = [(distance, size) for distance in range(0, UNROLL * size, size)]
    rest_vectors = [(distance, min(size, rest - distance)) for distance in range(0, rest, size)]
    # the outer axes, the last of them in steps of the tile's rows
    counts = (*outer[:-1], outer[-1] // tile.rows) if outer else (1,)

    def first_row(position: tuple[Index, ...]) -> tuple[Index, ...]:
        """The index of the tile's first row at a position in `counts`."""
        return (*position[:-1], position[-1] * tile.rows) if outer else ()

    if math.prod(counts) >= MIN_PARALLEL_ROWS or not blocks:
        # threads share the rows, and each walks over the blocks of its rows
        for position in parallel(*counts):
            for block in loop(blocks):
                tile.compute(first_row(position), block * (UNROLL * size), block_vectors)
            if rest:
                tile.compute(first_row(position), inner - rest, rest_vectors)
        return
    # too few rows: threads share the blocks of all rows, and then what is left of each row
    for *outer_position, block in parallel(*counts, blocks):
        tile.compute(first_row(tuple(outer_position)), block * (UNROLL * size), block_vectors)
    if rest:
        for position in parallel(*counts):
            tile.compute(first_row(position), inner - rest, rest_vectors)


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is not above `limit`; both are 1 or more."""
    return max(d for d in range(1, limit + 1) if n % d == 0)


def fill_slice(y: Array, x: Array, position: int, chosen: bool) -> None:
    """y[position] = x if `chosen`, else zeros; y has one more axis than x, the first."""
    if not x.shape:
        for _ in parallel(1):
            y[position,] = x[()] if chosen else 0.0
        return
    outer = x.shape[:-1]
    # a one-dimensional x is a single row, which has no index
    for index in parallel(*(outer or (1,))):
        row = index if outer else ()
        for i in loop(x.shape[-1]):
            y[(position, *row, i)] = x[(*row, i)] if chosen else 0.0
