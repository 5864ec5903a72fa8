"""The loop nest of a fused group of pointwise operators.

All arrays of a call have the same shape, the domain; along an axis that an array does not vary along, its stride is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foveal.kernel.lang import Array, Index, Scalar, Value, loop, parallel
from foveal.ops.kernels.expression import Step, evaluate, load, store, streaming_lanes
from foveal.ops.kernels.sizes import CallSizes, is_repeated, numbers_apart, spec_of
from foveal.ops.op import Lowering
from foveal.strides import Shape
from foveal.view import View

# Threads share the rows of a domain that has at least this many, else the blocks of each row too. A thread takes its
# share in eight pieces, and 64 rows are as many pieces for eight threads; with fewer rows threads would be left idle.
MIN_PARALLEL_ROWS = 64

# Vectors that one iteration computes. Enough independent loads and operations are then in flight to hide their latency;
# more would lengthen the code and need more registers than a long expression leaves.
UNROLL = 4

# Steps of a program up to which its code is unrolled. Of a longer one a single vector has as many operations in flight
# as a core can follow, and what several of them load would not stay in registers.
MAX_UNROLLED_STEPS = 16


@dataclass(frozen=True)
class Rows:
    """How a domain is cut into tiles, as far as code depends on it."""

    #: neighbouring rows of a tile
    of_tile: int
    #: elements of a row that a tile has
    block: int
    #: elements of a row after its last whole block
    rest: int
    #: True if threads share the rows, else they share the blocks of each row too
    shared: bool


def rows_of(shape: Shape, strides: Sequence[Shape], steps: int) -> Rows:
    """How a domain is cut into tiles. strides: of the inputs. steps: how many are computed."""
    *outer, inner = shape
    of_tile, block = 1, streaming_lanes() * (UNROLL if steps <= MAX_UNROLLED_STEPS else 1)
    if is_short(shape):
        # as many rows as UNROLL vectors hold, or UNROLL rows that share a load; the rows are divided without rest
        block = UNROLL * streaming_lanes()
        share = any(s[-2] == 0 for s in strides)
        of_tile = largest_divisor(outer[-1], max(block // inner, UNROLL if share else 1))
    shared = bool(outer) and (is_short(shape) or math.prod(outer) >= MIN_PARALLEL_ROWS)
    return Rows(of_tile, block, inner % block, shared)


def is_short(shape: Shape) -> bool:
    """True if a row, one of several, has less than UNROLL vectors: its size is then part of the code."""
    return len(shape) > 1 and shape[-1] < UNROLL * streaming_lanes()


def lower(
    lowering: Lowering, outputs: list[View], inputs: list[View], steps: tuple[Step, ...], results: tuple[int, ...]
) -> None:
    """Call the kernel on views of the domain, whose sizes it gets from the call, but for those of short rows."""
    views = [*outputs, *inputs]
    steps, results, numbers = numbers_apart(len(inputs), steps, results, views)
    shape = outputs[0].shape
    static: dict[str, Any] = {"outputs": len(outputs), "steps": steps, "results": results}
    if not shape:
        lowering.call(pointwise, outputs, inputs, numbers=numbers, **static)
        return
    rows, sizes, last = rows_of(shape, [view.strides for view in inputs], len(steps)), CallSizes(), len(shape) - 1
    known = range(last - 1, last + 1) if is_short(shape) else range(last, last + 1)
    extents = [n if is_short(shape) and axis == last else sizes.of(n, axis) for axis, n in enumerate(shape)]
    specs = [
        spec_of(view, extents, [s if a in known else sizes.stride(s, "stride", a) for a, s in enumerate(view.strides)])
        for view in views
    ]
    lowering.call(pointwise, outputs, inputs, specs=specs, sizes=sizes.values, numbers=numbers, rows=rows, **static)


@dataclass(frozen=True)
class PointwiseTile:
    """What one iteration computes: some neighbouring vectors in each of `rows.of_tile` neighbouring rows.

    An input that does not vary from row to row is loaded once for all of them.
    """

    #: the arrays that are written, one for each result
    ys: Sequence[Array]
    #: the arrays that are read, one for each of the first slots
    xs: Sequence[Array]
    #: numbers that the call gives, one for each of the slots that follow
    numbers: Sequence[Scalar]
    #: the straight-line program of the group
    steps: tuple[Step, ...]
    #: the slots of the results
    results: tuple[int, ...]
    #: how the domain is cut
    rows: Rows

    def compute(self, row: tuple[Index, ...], start: Index, pieces: list[tuple[int, int]]) -> None:
        """Compute the vectors (distance from `start`, lanes) of each row, from the row with index `row` on.

        Each row's loads come before its stores, so that an output may lie in the memory of an input.
        """
        first_loaded: list[list[Value]] = []
        for i in range(self.rows.of_tile):
            # (index, lanes) of each vector of this row
            vectors: list[tuple[tuple[Index, ...], int]] = [
                ((*row[:-1], row[-1] + i, start + distance) if row else (start + distance,), width)
                for distance, width in pieces
            ]
            # [input][vector]
            loaded = [
                first_loaded[slot] if i and is_repeated(x.strides[-2]) else [load(x, *vector) for vector in vectors]
                for slot, x in enumerate(self.xs)
            ]
            first_loaded = first_loaded or loaded
            # [vector][result]: all are computed before the first is stored
            computed = [
                evaluate([*(values[v] for values in loaded), *self.numbers], self.steps, self.results)
                for v in range(len(vectors))
            ]
            for (index, width), values in zip(vectors, computed, strict=True):
                for y, value in zip(self.ys, values, strict=True):
                    store(y, index, value, width)


def pointwise(
    *arrays: Array,
    outputs: int,
    steps: tuple[Step, ...],
    results: tuple[int, ...],
    rows: Rows | None = None,
    numbers: Sequence[Scalar] = (),
) -> None:
    """Compute the first `outputs` arrays at every index of the domain from the other arrays.

    steps, results: the group's straight-line program, whose slots begin with the other arrays and the numbers, and the
    slot of each output (see expression.Step). The last axis is a row. Each iteration takes a tile of a few vectors:
    neighbours in one row or, where rows are short or some input is the same for all rows, vectors of several rows.
    rows: `rows_of` the domain, where its sizes are given by the call.
    """
    ys, xs = arrays[:outputs], arrays[outputs:]
    if not ys[0].shape:
        for _ in parallel(1):
            values = evaluate([*(x[()] for x in xs), *numbers], steps, results)
            for y, value in zip(ys, values, strict=True):
                y[()] = value
        return
    rows = rows or rows_of(ys[0].shape, [x.strides for x in xs], len(steps))
    tile_domain(ys[0].extents, PointwiseTile(ys, xs, numbers, steps, results, rows))


def tile_domain(shape: tuple[Index, ...], tile: PointwiseTile) -> None:
    """Cover a domain of the given shape with the tile: a block of a row at a time, then the rest of the row."""
    *outer, inner = shape
    size, rest, of_tile, block_size = streaming_lanes(), tile.rows.rest, tile.rows.of_tile, tile.rows.block
    blocks = inner // block_size
    # (distance, lanes) of the vectors of a block, and of those that follow the last block
    block_vectors = [(distance, size) for distance in range(0, block_size, size)]
    rest_vectors = [(distance, min(size, rest - distance)) for distance in range(0, rest, size)]
    # the outer axes, the last of them in steps of the tile's rows
    counts = (*outer[:-1], outer[-1] // of_tile if of_tile > 1 else outer[-1]) if outer else ()

    def first_row(position: tuple[Index, ...]) -> tuple[Index, ...]:
        """The index of the tile's first row at a position in `counts`."""
        return (*position[:-1], position[-1] * of_tile) if outer else ()

    if tile.rows.shared:
        # threads share the rows, and each walks over the blocks of its rows
        for position in parallel(*counts):
            for block in loop(blocks):
                tile.compute(first_row(position), block * block_size, block_vectors)
            if rest:
                tile.compute(first_row(position), inner - rest, rest_vectors)
        return
    # too few rows: threads share the blocks of all rows, and then what is left of each row
    for *outer_position, block in parallel(*counts, blocks):
        tile.compute(first_row(tuple(outer_position)), block * block_size, block_vectors)
    if rest:
        for position in parallel(*(counts or (1,))):
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
