"""Weights packed into panels, which a register tile reads from end to end.

A panel [inputs, columns] holds the weights of one kernel position for the `columns` outputs of a register tile. The
inner loop of a product then reads its weights as one stream, whole cache lines at a time, in whatever order the filters
lie in memory. Packing costs one pass over the weights, and pays when each panel serves many tiles.
"""

from foveal.kernel.lang import Array, Index, lanes, loop, parallel, transpose, var
from foveal.ops.kernels import expression
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

#: rows of a panel, or squares of lanes x lanes, that packing fetches before it needs them: far enough for a line to
#: arrive from memory while the ones before are stored, and near enough that it is not pushed out again
AHEAD = 8


def pack_panels(panels: Array, w: Array, *, columns: int, first: Pair = (0, 0)) -> None:
    """panels[g, b, r, s, c, lane] = w[g, b columns + lane, c, r + first, s + first]; 0 after the last output.

    panels: [G, blocks, R', S', inputs, columns]. w: [G, outputs, inputs, R, S], of which the R' x S' kernel positions
    from `first` on are packed.
    """
    (groups, _, rows, kernel_columns, *_), outputs = panels.shape, w.shape[1]
    full, tail = divmod(outputs, columns)

    def fill(g: Index, b: Index, r: Index, s: Index, valid: int) -> None:
        # [outputs, inputs] of one kernel position, from the block's first output on
        source = w.permuted(0, 3, 4, 1, 2).at(g, r + first[0], s + first[1], b * columns, 0)
        fill_panel(panels.at(g, b, r, s, 0, 0), source, valid)

    # a task for each panel: first those of full blocks, then those of the last one
    for g, b, r, s in parallel(groups, full, rows, kernel_columns):
        fill(g, b, r, s, columns)
    if tail:
        for g, r, s in parallel(groups, rows, kernel_columns):
            fill(g, full, r, s, tail)


def fill_panel(panel: Array, w: Array, valid: int) -> None:
    """panel[..., c, lane] = w[..., lane, c] for the first `valid` lanes, else 0.

    Where inputs are neighbours in memory, squares of them are transposed in registers. Gathering them one by one would
    read a line per element, at strides that are often powers of two and so fall into one set of the cache; and the
    hardware's prefetcher does not follow streams that jump so far.
    """
    *_, inputs, columns = panel.shape
    width = min(columns, lanes())
    # the vectors of a row of the panel: (first lane, end, lanes of them that hold an output)
    ends = [(i, min(i + width, columns)) for i in range(0, columns, width)]
    counts = [(start, end, min(end - start, max(valid - start, 0))) for start, end in ends]
    # squares of `width` outputs x `width` inputs, if inputs are neighbours and outputs are not
    has_squares = columns % width == 0 and width & (width - 1) == 0
    is_transposed = w.strides[-1] == 1 and w.strides[-2] != 1 and width > 1 and has_squares
    squares = inputs // width if is_transposed else 0
    for start, _, count in counts:
        for c in loop(squares):
            for i in range(count):
                w.prefetch((0, 0, 0, start + i, c * width + AHEAD * width))
            zero = [var(0.0, width)] * (width - count)
            rows = [w.load((0, 0, 0, start + i, c * width), width) for i in range(count)]
            for i, of_one_input in enumerate(transpose([*rows, *zero])):
                panel.store((0, 0, 0, 0, c * width + i, start), of_one_input, width)
    # the other inputs, row after row of the panel
    by_input = w.permuted(0, 1, 2, 4, 3)
    for c in loop(inputs, start=squares * width):
        for start, end, count in counts:
            if count:
                by_input.prefetch((0, 0, 0, c + AHEAD, start))
                values = expression.load(by_input, (0, 0, 0, c, start), count)
                panel.store((0, 0, 0, 0, c, start), values, count)
            for lane in range(start + count, end):
                panel[0, 0, 0, 0, c, lane] = 0.0


def outputs_last(lowering: Lowering, w: View) -> View:
    """w [outputs, inputs, R, S] with outputs as neighbours in memory: w itself, or a copy as R, S, inputs, outputs.

    A gradient in x swaps the roles of inputs and outputs, and its kernels' lanes still run over outputs.
    """
    outputs, inputs, R, S = w.shape
    if w.strides[0] == 1 or w.strides[1] != 1:
        return w
    copy = lowering.scratch((R, S, inputs, outputs))
    lowering.call(swap_channels, [copy], [w.permuted(2, 3, 0, 1)])
    return copy.permuted(3, 2, 0, 1)


def swap_channels(y: Array, x: Array) -> None:
    """y[r, s, i, o] = x[r, s, o, i], a square of lanes x lanes at a time."""
    R, S, inputs, outputs = y.shape
    size = lanes()
    # whole squares cover this many outputs and inputs
    full_o, full_i = outputs - outputs % size, inputs - inputs % size
    # a task for each kernel position and `size` outputs; if no square fits, there is none
    for r, s, b in parallel(R, S, full_o // size if full_i else 0):
        o = b * size
        for i in loop(full_i, step=size):
            rows = [x.load((r, s, o + j, i), size) for j in range(size)]
            for j, column in enumerate(transpose(rows)):
                y.store((r, s, i + j, o), column, size)
    if (full_o, full_i) == (outputs, inputs):
        return
    # one by one: the last inputs of all outputs, then the last outputs of the other inputs
    for r, s in parallel(R, S):
        for o in loop(outputs):
            for i in loop(inputs, start=full_i):
                y[r, s, i, o] = x[r, s, o, i]
        for o in loop(outputs, start=full_o):
            for i in loop(full_i):
                y[r, s, i, o] = x[r, s, o, i]
