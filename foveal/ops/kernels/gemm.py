"""Kernels of matrix products y[m, n] = sum_k a[m, k] b[k, n], for any strides of a and b.

There are four ways. `lower` takes the first that fits the shapes and strides:

    dot_products            few rows of y, and neighbours of b in memory run along k (a linear layer's weight): lanes
                            run along k
    multiply_rows           few rows of y, and a b larger than the caches: b is read row after row, once
    multiply, not packed    few rows of y, or a short k: register tiles of rows x vectors of columns, which read b where
                            it lies, since packing it would cost more than multiplying
    transposed_product      a has neighbours along m (the gradient of a linear layer in its weight): a file of its own
    multiply, packed        otherwise: the same tiles, after b has been packed into panels

How `multiply` comes near the peak of ports x lanes x 2 operations per cycle (register_tile.py has the derivation of
the tile):

    registers       12 x 32 sums on AVX-512 (6 x 16 on AVX2), over all of k. A step of k loads two vectors of b and
                    broadcasts 12 (6) numbers of a for 24 (12) FMAs: 0.58 (0.67) loads per FMA.
    first level     the rows of a that the tile reads, and the part of a panel that is being read
    second level    a panel, k x 32 (k x 16) numbers, while a block of rows of a passes; and this block of rows
                    (`row_block_elements`), while all panels pass
    last level      all panels, read once per block of rows

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
    maximum,
    minimum,
    parallel,
    registers,
    splat,
    transpose,
    var,
    vectors,
    where,
)
from foveal.ops.kernels import expression, transposed_product
from foveal.ops.kernels.packing import lower_panels
from foveal.ops.kernels.partial_sums import lower_sums
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Tile,
    accumulators,
    ceil_div,
    counted,
    lane_ranges,
    multiply_add,
    pieces_of,
    tile_for,
    unroll_factor,
    unrolled,
)
from foveal.ops.kernels.sizes import CallSizes, spec_of
from foveal.ops.op import Lowering
from foveal.view import View

# Rows of y up to which b is read where it lies: a pass over b to pack it costs about as much as multiplying it with a
# few rows, and a single tile of rows does not read the panels a second time.
FEW_ROWS = 16

# Rows of y up to which a large b is read row after row: 8 rows make 8 products of each number of b, half a cycle of
# work for 4 bytes, so that reading b from memory is the limit. With more rows the arithmetic is, which tiles do better.
MAX_STREAMED_ROWS = 8

# k up to which b is read where it lies: a block of b, k x two vectors, then is 4 KiB (AVX-512), a small part of the
# first-level cache, so its order in memory does not matter.
SHORT = 32

# Rows below which a tile is not cut to make more tasks: 6 x 2 accumulators still hide the FMA's latency.
MIN_TILE_ROWS = 6

# Rows of b that one pass of `multiply_rows` over the sums adds: the sums are loaded and stored once per 8 FMAs, and 8
# rows of b are as many streams as the hardware's prefetcher follows easily.
STEPS = 8


def row_block_elements() -> int:
    """Elements of a block of rows of a, which passes while a panel stays: three eighths of the second-level cache.

    The block is read again for each panel. The rest of the cache is for the panel, and for what passes through.
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
        lower_dot_products(lowering, y, a, b.permuted(1, 0))
        return
    if not is_along_k and m <= MAX_STREAMED_ROWS and k >= STEPS and k * n >= large_elements():
        # k is cut into chunks of at least STEPS rows of b, each with sums [m, n] of its own
        chunks = min(ENOUGH_TASKS, k // STEPS)
        partial = lowering.scratch((chunks, m, n))
        lowering.call(multiply_rows, [partial], [a, b])
        lower_sums(lowering, y.reshaped((m * n,)), partial)
        return
    if a.strides[0] == 1 != a.strides[1] and b.strides[1] == 1 and y.strides == (n, 1) and m > FEW_ROWS and k > SHORT:
        lower_transposed(lowering, y, a, b)
        return
    if not is_along_k and (m <= FEW_ROWS or k <= SHORT):
        lower_multiply(lowering, y, a, b, packed=False)
        return
    columns = tile_for(n).lanes
    # b as n filters [1, n, k, 1, 1] of one group, with a window of one position
    panels = lowering.scratch((1, ceil_div(n, columns), 1, 1, k, columns))
    lower_panels(lowering, panels, b.permuted(1, 0).reshaped((1, n, k, 1, 1)))
    lower_multiply(lowering, y, a, panels, packed=True)


def lower_transposed(lowering: Lowering, y: View, a: View, b: View) -> None:
    """Call `transposed_product`: a has neighbours along m, as b has along n."""
    (m, k), n = a.shape, b.shape[1]
    rows_of_a, rows_of_b = a.over((1, 1, k, m), (0, 0, a.strides[1], 1)), b.over((1, 1, k, n), (0, 0, b.strides[0], 1))
    partial = transposed_product.lower(lowering, rows_of_b, rows_of_a, y)
    if partial.shape[0] > 1:
        lower_sums(lowering, y.reshaped((m * n,)), partial)


def tile_for_product(m: int, n: int, packed: bool) -> Tile:
    """The register tile for y [m, n]: `tile_for` n columns, fitted to the number of rows.

    If y has fewer rows than the tile, and b is not packed, the registers that are left serve more columns. If there
    are too few tiles, each gets fewer rows, so that there are enough tasks.
    """
    tile = tile_for(n)
    if not packed and m < tile.rows:
        vectors = min(registers() * 3 // 4 // m, max(tile.vectors, n // (ENOUGH_TASKS * tile.width)))
        return Tile(tile.width, vectors, m)
    rows = tile.rows
    while rows > MIN_TILE_ROWS and ceil_div(m, rows) * ceil_div(n, tile.lanes) < ENOUGH_TASKS:
        rows -= 1
    return Tile(tile.width, tile.vectors, rows)


@dataclass(frozen=True)
class Division:
    """How a product is divided into tiles, as far as code depends on it."""

    tile: Tile
    #: the rows of a tile: one number, or two of which the second is one less
    rows: tuple[int, ...]
    #: columns of the last block, if it has fewer than the others, else 0
    tail: int
    #: steps of k that one iteration takes
    unroll: int
    #: True if b is read from panels
    packed: bool


def lower_multiply(lowering: Lowering, y: View, a: View, b: View, *, packed: bool) -> None:
    """Call `multiply`, which gets sizes from the call, but for that of a row with less than a block of columns."""
    (m, n), k = y.shape, a.shape[1]
    tile, sizes = tile_for_product(m, n, packed), CallSizes()
    division = Division(tile, pieces_of(m, tile.rows), n % tile.lanes, unroll_factor(k), packed)
    # strides are numbers of features, which no batch changes, but for those of panels; known ones make shorter code
    columns = n if n < tile.lanes else sizes.of(n)
    specs = [
        spec_of(y, (sizes.of(m), columns), y.strides),
        spec_of(a, (sizes.of(m), sizes.of(k)), a.strides),
        sizes.spec(b, 0, 2, 3, 5, steps=(4,)) if packed else spec_of(b, (sizes.of(k), columns), b.strides),
    ]
    lowering.call(multiply, [y], [a, b], specs=specs, sizes=sizes.values, division=division)


@dataclass(frozen=True)
class TileProduct:
    """A product with one shape of register tile: y[row : row + rows, ...] += a[row : row + rows, :] b[:, ...].

    b: [k, n], or its panels [1, blocks, 1, 1, k, columns] if packed. rows: of this tile.
    """

    y: Array
    a: Array
    b: Array
    rows: int
    division: Division

    def compute(self, row: Index, block: Index, valid: int) -> None:
        """The `valid` columns of y in block `block`, for `rows` rows from `row` on."""
        k, division, tile = self.a.extents[1], self.division, self.division.tile
        starts = lane_ranges(valid, tile.width)
        # [rows, vectors] sums in registers; without a panel's padding, the last vector is as narrow as y is
        acc = accumulators(self.rows, [tile.width if division.packed else width for _, width in starts])
        for p, _ in unrolled(k, division.unroll):
            multiply_add(acc, (self.a[row + i, p] for i in range(self.rows)), self.row_of_b(p, block, starts))
        for (i, v), total in acc.items():
            start, width = starts[v]
            expression.store(self.y, (row + i, block * tile.lanes + start), head(total, width), width)

    def row_of_b(self, p: Index, block: Index, starts: list[tuple[int, int]]) -> list[Value]:
        """Row p of b in the block's columns, as vectors."""
        tile = self.division.tile
        if self.division.packed:
            return [self.b.load((0, block, 0, 0, p, start), tile.width) for start, _ in starts]
        return [self.b.load((p, block * tile.lanes + start), width) for start, width in starts]


def multiply(y: Array, a: Array, b: Array, *, division: Division) -> None:
    """y = a b, a register tile of y at a time. b: [k, n], or its panels if packed.

    A task has one block of columns and one block of rows: the panel stays in the first two cache levels while the rows
    pass, and the rows stay in the second level while the panels pass.
    """
    (m, n), k = y.extents, a.extents[1]
    tile, tail = division.tile, division.tail
    full = n // tile.lanes
    blocks = full + (tail > 0)
    first: Index = 0
    # m rows as `count` tiles of `rows` rows; tiles of the last rows may have one less
    for rows, count in counted(m, division.rows, tile.rows):
        # blocks of rows that fit the cache, and that make enough tasks
        needed = maximum(ceil_div(count * rows * k, row_block_elements()), ceil_div(ENOUGH_TASKS, blocks))
        # with a short k, y is written more than b is read: a block is one tile of rows, so y is written in long runs
        row_blocks = minimum(count, where(k <= SHORT, count, needed))
        product = TileProduct(y, a, b, rows, division)
        # the blocks that have all columns of a tile, then the last one, if it has fewer
        for valid, number in ((tile.lanes, full), (tail, min(tail, 1))):
            for row_block, block in parallel(row_blocks, number):
                block = block if valid == tile.lanes else full
                # the tiles of this block of rows
                for i in loop((row_block + 1) * count // row_blocks, start=row_block * count // row_blocks):
                    product.compute(i * rows + first, block, valid)
        first += count * rows


def multiply_rows(partial: Array, a: Array, b: Array) -> None:
    """partial[chunk] = the product over this part of k; its sums stay in the first cache levels while b passes once.

    b is read in rows from end to end: in columns of a few vectors, every row would be another page of memory.
    """
    (chunks, m, n), k = partial.shape, a.shape[1]

    def add(chunk: Index, p: Index, steps: int, is_first: bool) -> None:
        """partial[chunk] += a[:, p : p + steps] b[p : p + steps, :]; if is_first, the sums are set, not added to."""
        for j, width in vectors(n):
            # `steps` vectors of b in registers serve all rows of a
            rows = [b.load((p + step, j), width) for step in range(steps)]
            for i in range(m):
                total = var(0.0 if is_first else partial.load((chunk, i, j), width), width)
                for step in range(steps):
                    total.fma(splat(a[i, p + step], width), rows[step])
                partial.store((chunk, i, j), total, width)

    for (chunk,) in parallel(chunks):
        first, last = chunk * k // chunks, (chunk + 1) * k // chunks
        # the first STEPS rows of the chunk set the sums, all others add to them
        add(chunk, first, STEPS, True)
        blocks = (last - first) // STEPS
        for block in loop(blocks, start=1):
            add(chunk, block * STEPS + first, STEPS, False)
        for p in loop(last, start=blocks * STEPS + first):
            add(chunk, p, 1, False)


def lower_dot_products(lowering: Lowering, y: View, a: View, b: View) -> None:
    """Call `dot_products`, which gets the number of rows of y from the call."""
    sizes = CallSizes()
    m = sizes.of(a.shape[0])
    specs = [spec_of(view, (m, view.shape[1]), view.strides) for view in (y, a)]
    rows = pieces_of(a.shape[0], most_rows_of_dots())
    lowering.call(dot_products, [y], [a, b], specs=[*specs, b.spec], sizes=sizes.values, rows=rows)


def most_rows_of_dots() -> int:
    """Rows of a that `dot_products` takes at once at most."""
    return 4 if lanes() > 4 else 2


def dot_products(y: Array, a: Array, b: Array, *, rows: tuple[int, ...]) -> None:
    """y[i, j] = the dot product of a[i, :] and b[j, :], with lanes along k; a tile has as many products as lanes.

    b: [n, k]. With up to 4 rows of a it is read once, as it lies, and the memory's bandwidth is the limit. rows: how
    many of a are taken at once: one number, or two of which the second is one less.
    """
    (m, n), size = y.extents, lanes()
    assert isinstance(n, int)
    first: Index = 0
    # up to 4 rows of a: each vector of b serves all of them
    for taken, count in counted(m, rows, most_rows_of_dots()):
        # as many rows of b as make the tile's sums, vectors of partial sums, one square of lanes x lanes
        rows_of_b = size // (1 << (taken - 1).bit_length())
        full, tail = divmod(n, rows_of_b)
        # full blocks of rows of b, then the last one, if it has fewer
        for valid, blocks in ((rows_of_b, full), (tail, min(tail, 1))):
            for (block,) in parallel(blocks):
                j = (block if valid == rows_of_b else full) * rows_of_b
                for i in loop(count):
                    dot_tile(y, a, b, i * taken + first, taken, j, valid)
        first += count * taken


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
