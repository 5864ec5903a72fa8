"""Kernels of matrix products y[m, n] = sum_k a[m, k] b[k, n], for any strides of a and b.

Four ways, by shape. Few rows, and b's neighbours along k (a linear layer's weight): dot products with lanes along k.
Few rows and a b beyond the caches: b row after row. Else register tiles of rows x vectors of columns: with few rows of
y, or a short k, b is read where it lies, for packing it would cost more than multiplying; else it is packed into
panels.
"""

from typing import Any

from foveal.kernel.lang import extract, fold, head, lanes, loop, parallel, registers, splat, transpose, var, vectors
from foveal.ops.kernels import expression
from foveal.ops.kernels.packing import pack_panels
from foveal.ops.kernels.partial_sums import add_partials
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    Tile,
    accumulators,
    multiply_add,
    pieces,
    split,
    tile_for,
    unrolling,
)
from foveal.ops.op import Lowering

FEW_ROWS = 16  # of y, up to which a pass over b to pack it would cost more than it saves


SHORT = 32  # up to this k a block of b lies in the first-level cache anyway


CHUNK = 96 << 10  # elements of a that stay in the second-level cache while all panels pass


LARGE = 1 << 21  # elements of b beyond which it comes from memory and has to be read row after row


STEPS = 8  # rows of b that one pass over the sums adds


def lower(to: Lowering, y: Any, a: Any, b: Any) -> None:
    """Views y [m, n], a [m, k], b [k, n]."""
    (m, k), n = a.shape, b.shape[1]
    along_k = b.strides[0] == 1 and b.strides[1] != 1
    if along_k and m <= FEW_ROWS and a.strides[1] == 1 and k >= lanes():
        to.call(dot_products, [y], [a, b.permuted(1, 0)])
        return
    if not along_k and m <= FEW_ROWS // 2 and k * n >= LARGE:
        chunks = min(ENOUGH_TASKS, k // STEPS)
        partial = to.scratch((chunks, m, n))
        to.call(multiply_rows, [partial], [a, b])
        to.call(add_partials, [y.reshaped((m * n,))], [partial.reshaped((chunks, m * n))])
        return
    if not along_k and (m <= FEW_ROWS or k <= SHORT):
        to.call(multiply, [y], [a, b], direct=True)
        return
    columns = tile_for(n).columns
    panels = to.scratch((1, -(-n // columns), 1, 1, k, columns))
    to.call(pack_panels, [panels], [b.permuted(1, 0).reshaped((1, n, k, 1, 1))], columns=columns)
    to.call(multiply, [y], [a, panels], direct=False)


def tile_of(m: int, n: int, direct: bool) -> Tile:
    """Few rows leave registers for more columns; with few tiles they get fewer rows, down to what hides the latency."""
    tile = tile_for(n)
    if direct and m < tile.rows:
        vectors = min(registers() * 3 // 4 // m, max(tile.vectors, n // (ENOUGH_TASKS * tile.width)))
        return Tile(tile.width, vectors, m)
    rows = tile.rows
    while rows > 6 and -(-m // rows) * -(-n // tile.columns) < ENOUGH_TASKS:
        rows -= 1
    return Tile(tile.width, tile.vectors, rows)


def multiply(y: Any, a: Any, b: Any, *, direct: bool) -> None:
    """A register tile of y at a time. b: [k, n] if direct, else its panels.

    A task has one block of columns and a chunk of rows: the panel stays in the first two cache levels while the rows
    pass,
    the rows stay in the second while the panels pass. 94 % of the peak at 512 x 512 x 512, one thread.
    """
    (m, n), k = y.shape, a.shape[1]
    tile = tile_of(m, n, direct)
    full, tail = divmod(n, tile.columns)
    blocks = full + (tail > 0)
    first = 0
    for rows, count in split(m, tile.rows):
        parts = min(count, max(-(-count * rows * k // CHUNK), -(-ENOUGH_TASKS // blocks)))
        parts = count if k <= SHORT else parts  # row by row, as y is written more than b is read
        for valid, columns in ((tile.columns, full), (tail, min(tail, 1))):
            for part, block in parallel(parts, columns) if columns else ():
                at = block if valid == tile.columns else full
                for i in loop((part + 1) * count // parts, start=part * count // parts):
                    multiply_tile(y, a, b, i * rows + first, rows, at, valid, tile, direct)
        first += rows * count


def multiply_tile(
    y: Any, a: Any, b: Any, row: Any, rows: int, block: Any, valid: int, tile: Tile, direct: bool
) -> None:
    """y[row : row + rows, block * columns : ... + valid]"""
    k, starts = a.shape[1], pieces(valid, tile.width)
    acc = accumulators(rows, [width if direct else tile.width for _, width in starts])
    step = unrolling(k)

    def weights(at: Any) -> list[Any]:
        if direct:
            return [b.load((at, block * tile.columns + start), width) for start, width in starts]
        return [b.load((0, block, 0, 0, at, start), tile.width) for start, _ in starts]

    for l in loop(k // step):  # noqa: E741
        for u in range(step):
            at = l * step + u
            multiply_add(acc, (a[row + i, at] for i in range(rows)), weights(at))
    for (i, v), total in acc.items():
        start, width = starts[v]
        expression.store(y, (row + i, block * tile.columns + start), head(total, width), width)


def multiply_rows(partial: Any, a: Any, b: Any) -> None:
    """partial[g] = the product over the g-th chunk of k, the sums in the first cache levels while b passes once.

    b is read in rows from end to end: in columns of a few vectors every row would be another page.
    """
    (chunks, m, n), k = partial.shape, a.shape[1]

    def add(g: Any, l: Any, steps: int, fresh: bool) -> None:  # noqa: E741
        for j, width in vectors(n):
            rows = [b.load((l + u, j), width) for u in range(steps)]
            for i in range(m):
                total = var(0.0 if fresh else partial.load((g, i, j), width), width)
                for u in range(steps):
                    total.fma(splat(a[i, l + u], width), rows[u])
                partial.store((g, i, j), total, width)

    for (g,) in parallel(chunks):
        first, last = g * k // chunks, (g + 1) * k // chunks
        add(g, first, STEPS, True)
        blocks = (last - first) // STEPS
        for block in loop(blocks, start=1):
            add(g, block * STEPS + first, STEPS, False)
        for l in loop(last, start=blocks * STEPS + first):  # noqa: E741
            add(g, l, 1, False)


def dot_products(y: Any, a: Any, b: Any) -> None:
    """y[i, j] = the dot product of a[i, :] and b[j, :], lanes along k; tiles of as many dot products as lanes.

    b is read once, as it lies: at one row of a the memory's bandwidth is the limit.
    """
    (m, n), size = y.shape, lanes()
    first = 0
    for rows, count in split(m, 4 if size > 4 else 2):
        columns = size // (1 << (rows - 1).bit_length())
        full, tail = divmod(n, columns)
        for width, blocks in ((columns, full), (tail, min(tail, 1))):
            for (block,) in parallel(blocks) if blocks else ():
                j = (block if width == columns else full) * columns
                for i in loop(count):
                    dot_tile(y, a, b, i * rows + first, rows, j, width)
        first += rows * count


def dot_tile(y: Any, a: Any, b: Any, row: Any, rows: int, column: Any, columns: int) -> None:
    """y[row : row + rows, column : column + columns]"""
    k, size = a.shape[1], lanes()
    acc = {(i, j): var(0.0, size) for i in range(rows) for j in range(columns)}
    step = unrolling(k // size)
    for l in loop(k // size // step):  # noqa: E741
        for u in range(step):
            at = (l * step + u) * size
            left = [a.load((row + i, at), size) for i in range(rows)]
            for j in range(columns):
                right = b.load((column + j, at), size)
                for i in range(rows):
                    acc[i, j].fma(left[i], right)
    tail, at = k % size, k - k % size
    sums = sums_of(list(acc.values()))
    for (i, j), total in zip(acc, sums, strict=True):
        if tail:
            rest = a.load((row + i, at), tail) * b.load((column + j, at), tail)
            total = total + fold(rest, lambda p, q: p + q)
        y[row + i, column + j] = total


def sums_of(vectors: list[Any]) -> list[Any]:
    """The sum over each vector's lanes; as many vectors as lanes are added up after one transposition."""
    size = lanes()
    if len(vectors) < size:
        return [fold(v, lambda a, b: a + b) for v in vectors]
    turned = transpose([v.get() for v in vectors])
    while len(turned) > 1:
        turned = [a + b for a, b in zip(turned[::2], turned[1::2], strict=True)]
    return [extract(turned[0], lane) for lane in range(size)]
