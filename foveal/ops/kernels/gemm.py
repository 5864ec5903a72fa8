"""Kernels of matrix products y[m, n] = sum_k a[m, k] b[k, n], for any strides of a and b.

There are four ways, by shape:

    dot_products    few rows of y, and b's neighbours run along k (a linear layer's weight): lanes along k
    multiply_rows   few rows of y, and a b larger than the caches: b is read row after row, once
    multiply        otherwise: register tiles of rows x vectors of columns. With few rows of y, or a short k, b is read
                    where it lies, for packing it would cost more than multiplying;
                    else b is packed into panels first

How `multiply` comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py has the derivation of
the tile):

    registers       12 x 32 sums on AVX-512 (6 x 16 on AVX2), over all of k. A step of k loads two vectors of b and
                    broadcasts 12 (6) numbers of a for 24 (12) FMAs: 0.58 (0.67) loads per FMA.
    first level     the rows of a that the tile reads, and the part of a panel that is being read
    second level    a panel, k x 32 (k x 16) numbers, while the rows of a chunk pass; and the chunk's rows of a
                    (`chunk_elements`), while all panels pass
    last level      all panels, read once per chunk

Measured: 94 % of the peak at 512 x 512 x 512 on one thread of Zen 4 (`foveal bench ops matmul --threads 1`).
"""

from dataclasses import dataclass

from foveal.kernel.lang import (
    Array,
    Index,
    Value,
    Var,
    extract,
    fold,
    head,
    l2,
    lanes,
    llc,
    loop,
    parallel,
    registers,
    splat,
    transpose,
    var,
    vectors,
)
from foveal.ops.kernels import expression
from foveal.ops.kernels.packing import pack_panels
from foveal.ops.kernels.partial_sums import add_chunks
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Tile,
    accumulators,
    ceil_div,
    lane_ranges,
    multiply_add,
    split,
    tile_for,
    unrolled,
)
from foveal.ops.op import Lowering
from foveal.view import View

#: rows of y up to which b is read where it lies: a pass over b to pack it costs about as much as multiplying it with
#: some rows, and at one tile of rows nothing reads the panels a second time
FEW_ROWS = 16

#: k up to which b is read where it lies: a block of b, k x two vectors, then is 4 KiB (AVX-512), a small part of the
#: first-level cache, so its order in memory does not matter
SHORT = 32

#: rows that a tile keeps where fewer of them make more tasks: 6 x 2 accumulators still hide the FMA's latency
MIN_TILE_ROWS = 6

#: rows of b that one pass of `multiply_rows` over the sums adds: the sums are loaded and stored once per 8 FMAs, and 8
#: rows of b are as many streams as the hardware's prefetcher follows easily
STEPS = 8


def chunk_elements() -> int:
    """Elements of the rows of a that pass while a panel stays: three eighths of the second-level cache.

    The chunk is read again for each panel. The rest of the cache is for the panel, and for what passes through.
    """
    return l2() * 3 // 8 // FLOAT_BYTES


def large_elements() -> int:
    """Elements of b beyond which it is read row after row: a quarter of the last-level cache.

    It then comes from memory in each step of a training, whatever else lies in the cache, and memory is read fastest
    from end to end.
    """
    return llc() // 4 // FLOAT_BYTES


def lower(lowering: Lowering, y: View, a: View, b: View) -> None:
    """y [m, n] = a [m, k] times b [k, n]: choose the kernel by shape and strides."""
    (m, k), n = a.shape, b.shape[1]
    is_along_k = b.strides[0] == 1 and b.strides[1] != 1
    if is_along_k and m <= FEW_ROWS and a.strides[1] == 1 and k >= lanes():
        lowering.call(dot_products, [y], [a, b.permuted(1, 0)])
        return
    if not is_along_k and m <= FEW_ROWS // 2 and k * n >= large_elements():
        # k is cut into chunks, each with sums [m, n] of its own
        chunks = min(ENOUGH_TASKS, k // STEPS)
        partial = lowering.scratch((chunks, m, n))
        lowering.call(multiply_rows, [partial], [a, b])
        lowering.call(add_chunks, [y.reshaped((m * n,))], [partial.reshaped((chunks, m * n))])
        return
    if not is_along_k and (m <= FEW_ROWS or k <= SHORT):
        lowering.call(multiply, [y], [a, b], packed=False)
        return
    columns = tile_for(n).columns
    # b as the filters [1, n, k, 1, 1] of one group and one kernel position
    panels = lowering.scratch((1, ceil_div(n, columns), 1, 1, k, columns))
    lowering.call(pack_panels, [panels], [b.permuted(1, 0).reshaped((1, n, k, 1, 1))], columns=columns)
    lowering.call(multiply, [y], [a, panels], packed=True)


def tile_of(m: int, n: int, packed: bool) -> Tile:
    """The register tile for y [m, n].

    Few rows leave registers for more columns, if b is not packed. If there are few tiles they get fewer rows, so that
    there are enough tasks.
    """
    tile = tile_for(n)
    if not packed and m < tile.rows:
        vectors = min(registers() * 3 // 4 // m, max(tile.vectors, n // (ENOUGH_TASKS * tile.width)))
        return Tile(tile.width, vectors, m)
    rows = tile.rows
    while rows > MIN_TILE_ROWS and ceil_div(m, rows) * ceil_div(n, tile.columns) < ENOUGH_TASKS:
        rows -= 1
    return Tile(tile.width, tile.vectors, rows)


@dataclass(frozen=True)
class TileProduct:
    """A product with one shape of register tile: y[row : row + rows, ...] += a[row : row + rows, :] b[:, ...].

    b: [k, n], or its panels [1, blocks, 1, 1, k, columns] if packed. rows: of this tile, tile.rows or one less.
    """

    y: Array
    a: Array
    b: Array
    tile: Tile
    rows: int
    packed: bool

    def compute(self, row: Index, block: Index, valid: int) -> None:
        """The `valid` columns of y in block `block`, for `rows` rows from `row` on."""
        k, starts = self.a.shape[1], lane_ranges(valid, self.tile.width)
        # [rows, vectors] sums in registers; without a panel's padding, the last vector is as narrow as y is
        acc = accumulators(self.rows, [self.tile.width if self.packed else width for _, width in starts])
        for p, _ in unrolled(k):
            multiply_add(acc, (self.a[row + i, p] for i in range(self.rows)), self.row_of_b(p, block, starts))
        for (i, v), total in acc.items():
            start, width = starts[v]
            expression.store(self.y, (row + i, block * self.tile.columns + start), head(total, width), width)

    def row_of_b(self, p: Index, block: Index, starts: list[tuple[int, int]]) -> list[Value]:
        """Row p of b in the block's columns, as vectors."""
        if self.packed:
            return [self.b.load((0, block, 0, 0, p, start), self.tile.width) for start, _ in starts]
        return [self.b.load((p, block * self.tile.columns + start), width) for start, width in starts]


def multiply(y: Array, a: Array, b: Array, *, packed: bool) -> None:
    """y = a b, a register tile of y at a time. b: [k, n], or its panels if packed.

    A task has one block of columns and a part of the rows: the panel stays in the first two cache levels while the rows
    pass, the rows stay in the second while the panels pass.
    """
    (m, n), k = y.shape, a.shape[1]
    tile = tile_of(m, n, packed)
    full, tail = divmod(n, tile.columns)
    blocks = full + (tail > 0)
    first = 0
    # m rows as `count` tiles of `rows` rows; tiles of the last rows may have one less
    for rows, count in split(m, tile.rows):
        # parts of the rows that fit the cache, and that make enough tasks
        parts = min(count, max(ceil_div(count * rows * k, chunk_elements()), ceil_div(ENOUGH_TASKS, blocks)))
        # with a short k, y is written more than b is read: row by row, since it then is written in long runs
        parts = count if k <= SHORT else parts
        product = TileProduct(y, a, b, tile, rows, packed)
        # the blocks with all columns, then the last one
        for valid, columns in ((tile.columns, full), (tail, min(tail, 1))):
            for part, block in parallel(parts, columns):
                block = block if valid == tile.columns else full
                # the tiles of this part of the rows
                for i in loop((part + 1) * count // parts, start=part * count // parts):
                    product.compute(i * rows + first, block, valid)
        first += rows * count


def multiply_rows(partial: Array, a: Array, b: Array) -> None:
    """partial[g] = the product over the g-th chunk of k; the sums stay in the first cache levels while b passes once.

    b is read in rows from end to end: in columns of a few vectors, every row would be another page of memory.
    """
    (chunks, m, n), k = partial.shape, a.shape[1]

    def add(g: Index, p: Index, steps: int, fresh: bool) -> None:
        """partial[g] += a[:, p : p + steps] b[p : p + steps, :]; = if fresh."""
        for j, width in vectors(n):
            # `steps` vectors of b in registers serve all rows of a
            rows = [b.load((p + u, j), width) for u in range(steps)]
            for i in range(m):
                total = var(0.0 if fresh else partial.load((g, i, j), width), width)
                for u in range(steps):
                    total.fma(splat(a[i, p + u], width), rows[u])
                partial.store((g, i, j), total, width)

    for (g,) in parallel(chunks):
        first, last = g * k // chunks, (g + 1) * k // chunks
        # the first STEPS rows of the chunk set the sums, all others add to them
        add(g, first, STEPS, True)
        blocks = (last - first) // STEPS
        for block in loop(blocks, start=1):
            add(g, block * STEPS + first, STEPS, False)
        for p in loop(last, start=blocks * STEPS + first):
            add(g, p, 1, False)


def dot_products(y: Array, a: Array, b: Array) -> None:
    """y[i, j] = the dot product of a[i, :] and b[j, :], lanes along k; tiles of as many dot products as lanes.

    b is read once, as it lies: with one row of a, the memory's bandwidth is the limit.
    """
    (m, n), size = y.shape, lanes()
    first = 0
    # up to 4 rows of a: each vector of b serves all of them
    for rows, count in split(m, 4 if size > 4 else 2):
        # as many rows of b as make the tile's sums one square of lanes x lanes
        columns = size // (1 << (rows - 1).bit_length())
        full, tail = divmod(n, columns)
        # full blocks of b's rows, then the last one
        for width, blocks in ((columns, full), (tail, min(tail, 1))):
            for (block,) in parallel(blocks):
                j = (block if width == columns else full) * columns
                for i in loop(count):
                    dot_tile(y, a, b, i * rows + first, rows, j, width)
        first += rows * count


def dot_tile(y: Array, a: Array, b: Array, row: Index, rows: int, column: Index, columns: int) -> None:
    """y[row : row + rows, column : column + columns]: each sum is a vector until the end, and its lanes are added."""
    k, size = a.shape[1], lanes()
    # [rows, columns] vectors of sums in registers
    acc = {(i, j): var(0.0, size) for i in range(rows) for j in range(columns)}
    # full vectors along k: `rows` vectors of a stay in registers while one of each row of b passes
    for p, _ in unrolled(k // size):
        left = [a.load((row + i, p * size), size) for i in range(rows)]
        for j in range(columns):
            right = b.load((column + j, p * size), size)
            for i in range(rows):
                acc[i, j].fma(left[i], right)
    # the sums over lanes, and the last, shorter vector along k
    tail, start = k % size, k - k % size
    for (i, j), total in zip(acc, sums_of(list(acc.values())), strict=True):
        if tail:
            rest = a.load((row + i, start), tail) * b.load((column + j, start), tail)
            total = total + fold(rest, lambda p, q: p + q)
        y[row + i, column + j] = total


def sums_of(vectors: list[Var]) -> list[Value]:
    """The sum over each vector's lanes; as many vectors as lanes are added up after one transposition."""
    size = lanes()
    if len(vectors) < size:
        return [fold(v, lambda a, b: a + b) for v in vectors]
    by_lane = transpose([v.get() for v in vectors])
    # pairwise, so that additions do not wait for each other
    while len(by_lane) > 1:
        by_lane = [a + b for a, b in zip(by_lane[::2], by_lane[1::2], strict=True)]
    return [extract(by_lane[0], lane) for lane in range(size)]
