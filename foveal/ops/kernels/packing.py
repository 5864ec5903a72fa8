"""Weights packed into panels, which a register tile reads from end to end.

A panel [C/G, lanes] holds the weights at one position of the window for as many filters as a register tile has lanes
in all (`Tile.lanes`). The inner loop of a product then reads its weights as one stream, whole cache lines at a time,
in whatever order the filters lie in memory. Packing costs one pass over the weights, and pays when each panel serves
many tiles. A matrix b [k, n] is packed in the same way: its n columns are filters, its k rows are channels.

In a gradient in x the two swap their roles: "filters" are always what the lanes run over, "channels" what is summed.
"""

from dataclasses import replace

from foveal.kernel.lang import Array, Index, lanes, loop, parallel, transpose, var
from foveal.ops.kernels import expression
from foveal.ops.kernels.sizes import CallSizes, is_neighbour
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View

# Rows of a panel, or squares of lanes x lanes, that packing fetches before it needs them: far enough for a line to
# arrive from memory while the ones before are stored, and near enough that it is not pushed out again.
AHEAD = 8


def lower_panels(lowering: Lowering, panels: View, w: View, first: Pair = (0, 0)) -> None:
    """Pack w [G, K/G, C/G, R, S] into panels [G, blocks, R', S', C/G, columns].

    Of w's window the R' x S' positions from `first` (row, column) on are packed.
    """
    sizes, columns = CallSizes(), panels.shape[-1]
    # nothing is written past the cache: panels are read soon
    specs = [replace(sizes.spec(panels, 0, 2, 3, 5, steps=(4,)), streamed=False), sizes.spec(w, 0, 3, 4)]
    tail = w.shape[1] % columns
    lowering.call(pack_panels, [panels], [w], specs=specs, sizes=sizes.values, columns=columns, tail=tail, first=first)


def pack_panels(panels: Array, w: Array, *, columns: int, tail: int, first: Pair) -> None:
    """panels[g, b, r, s, c, lane] = w[g, b columns + lane, c, r + first, s + first]; 0 after the last filter.

    columns: the filters of a panel, which are the columns of a register tile; tail: those of the last one, if it has
    fewer. panels, w, first: as `lower_panels` has them.
    """
    (groups, _, height, width, *_), filters = panels.extents, w.extents[1]
    full = filters // columns

    def fill(g: Index, b: Index, r: Index, s: Index, valid: int) -> None:
        # [filters, C/G] at one position of the window, from the block's first filter on
        source = w.permuted(0, 3, 4, 1, 2).at(g, r + first[0], s + first[1], b * columns, 0)
        fill_panel(panels.at(g, b, r, s, 0, 0), source, valid)

    # a task for each panel: first those of full blocks, then those of the last one
    for g, b, r, s in parallel(groups, full, height, width):
        fill(g, b, r, s, columns)
    if tail:
        for g, r, s in parallel(groups, height, width):
            fill(g, full, r, s, tail)


def fill_panel(panel: Array, w: Array, valid: int) -> None:
    """panel[..., c, lane] = w[..., lane, c] for the first `valid` lanes, else 0.

    Where channels are neighbours in memory, squares are transposed in registers. Gathering channels one by one would
    read a line per element, at strides that are often powers of two and so fall into one set of the cache; and the
    hardware's prefetcher does not follow streams that jump so far.
    """
    channels, columns = panel.extents[-2], panel.shape[-1]
    width = min(columns, lanes())
    # the vectors of a row of the panel: (first lane, end, lanes of them that hold a filter)
    ends = [(i, min(i + width, columns)) for i in range(0, columns, width)]
    counts = [(start, end, min(end - start, max(valid - start, 0))) for start, end in ends]
    # squares of `width` filters x `width` channels, if channels are neighbours and filters are not
    has_squares = columns % width == 0 and width & (width - 1) == 0
    is_transposed = is_neighbour(w.strides[-1]) and not is_neighbour(w.strides[-2]) and width > 1 and has_squares
    squares = channels // width if is_transposed else 0
    for start, _, count in counts:
        for c in loop(squares):
            for i in range(count):
                w.prefetch((0, 0, 0, start + i, c * width + AHEAD * width))
            zero = [var(0.0, width)] * (width - count)
            rows = [w.load((0, 0, 0, start + i, c * width), width) for i in range(count)]
            for i, of_channel in enumerate(transpose([*rows, *zero])):
                panel.store((0, 0, 0, 0, c * width + i, start), of_channel, width)
    # the other channels, row after row of the panel
    by_channel = w.permuted(0, 1, 2, 4, 3)
    for c in loop(channels, start=squares * width):
        for start, end, count in counts:
            if count:
                by_channel.prefetch((0, 0, 0, c + AHEAD, start))
                values = expression.load(by_channel, (0, 0, 0, c, start), count)
                panel.store((0, 0, 0, 0, c, start), values, count)
            for lane in range(start + count, end):
                panel[0, 0, 0, 0, c, lane] = 0.0


def outputs_last(lowering: Lowering, w: View) -> View:
    """w [K, C, R, S] with filters as neighbours in memory: w itself, or a copy in the order R, S, C, K.

    A gradient in x swaps the roles of filters and channels, and its kernels' lanes still run over filters.
    """
    K, C, R, S = w.shape
    if w.strides[0] == 1 or w.strides[1] != 1:
        return w
    copy = lowering.scratch((R, S, C, K))
    sizes, x = CallSizes(), w.permuted(2, 3, 0, 1)
    specs = [replace(sizes.spec(copy), streamed=False), sizes.spec(x)]
    lowering.call(swap_channels, [copy], [x], specs=specs, sizes=sizes.values, rest=(C % lanes(), K % lanes()))
    return copy.permuted(3, 2, 0, 1)


def swap_channels(y: Array, x: Array, *, rest: Pair) -> None:
    """y[r, s, c, k] = x[r, s, k, c], a square of lanes x lanes at a time. rest: channels and filters after the last."""
    R, S, C, K = y.extents
    size = lanes()
    # whole squares cover this many filters and channels
    full_k, full_c = K - rest[1], C - rest[0]
    # a task for each position of the window and `size` filters
    for r, s, b in parallel(R, S, full_k // size):
        k = b * size
        for c in loop(full_c, step=size):
            rows = [x.load((r, s, k + i, c), size) for i in range(size)]
            for i, of_channel in enumerate(transpose(rows)):
                y.store((r, s, c + i, k), of_channel, size)
    if rest == (0, 0):
        return
    # one by one: the last channels of all filters, then the last filters of the other channels
    for r, s in parallel(R, S):
        for k in loop(K):
            for c in loop(C, start=full_c):
                y[r, s, c, k] = x[r, s, k, c]
        for k in loop(K, start=full_k):
            for c in loop(full_c):
                y[r, s, c, k] = x[r, s, k, c]
