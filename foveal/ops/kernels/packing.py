"""Weights packed into panels that a register tile reads from end to end."""

from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, transpose, var
from foveal.ops.kernels import expression
from foveal.ops.kernels.register_tile import AHEAD
from foveal.ops.op import Lowering


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
                values = expression.load(across, (0, 0, 0, c, start), count)
                panel.store((0, 0, 0, 0, c, start), values, count)
            for lane in range(start + count, end):
                panel[0, 0, 0, 0, c, lane] = 0.0


def outputs_last(to: Lowering, w: Any) -> Any:
    """w [outputs, inputs, R, S] with outputs as neighbours: itself, or a copy as R, S, inputs, outputs.

    A gradient in x swaps the roles of inputs and outputs, and its kernels' lanes still run over outputs.
    """
    outputs, inputs, R, S = w.shape
    if w.strides[0] == 1 or w.strides[1] != 1:
        return w
    turned = to.scratch((R, S, inputs, outputs))
    to.call(turn, [turned], [w.permuted(2, 3, 0, 1)])
    return turned.permuted(3, 2, 0, 1)


def turn(y: Any, x: Any) -> None:
    """y[r, s, i, o] = x[r, s, o, i], a square of lanes x lanes at a time."""
    R, S, inputs, outputs = y.shape
    size = lanes()
    full_o, full_i = outputs - outputs % size, inputs - inputs % size
    for r, s, b in parallel(R, S, full_o // size) if full_o and full_i else ():
        o = b * size
        for i in loop(full_i, step=size):
            rows = [x.load((r, s, o + j, i), size) for j in range(size)]
            for j, column in enumerate(transpose(rows)):
                y.store((r, s, i + j, o), column, size)
    if (full_o, full_i) == (outputs, inputs):
        return
    for r, s in parallel(R, S):
        for o in loop(outputs):
            for i in loop(inputs, start=full_i):
                y[r, s, i, o] = x[r, s, o, i]
        for o in loop(outputs, start=full_o):
            for i in loop(full_i):
                y[r, s, i, o] = x[r, s, o, i]
