"""Kernels of matrix products y[m, n] = sum_k a[m, k] b[k, n], for any strides of a and b.

There are five ways. `lower` takes the first that fits the shapes and strides:

    dot_products            few rows of y, and neighbours of b in memory run along k (a linear layer's weight): lanes
                            run along k
    multiply_rows           few rows of y, and a b larger than the caches: b is read in runs of its rows, once
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

from collections.abc import Iterator
from dataclasses import dataclass

from foveal.kernel.lang import (
    LINE,
    Array,
    Index,
    Value,
    Var,
    extract,
    fold,
    head,
    l1,
    l2,
    lanes,
    llc,
    loop,
    maximum,
    minimum,
    parallel,
    registers,
    splat,
    thread,
    transpose,
    var,
    vectors,
    where,
)
from foveal.ops.kernels import expression, reorder, transposed_product
from foveal.ops.kernels.packing import lower_panels
from foveal.ops.kernels.partial_sums import lower_sums
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    FLOAT_BYTES,
    Tile,
    accumulators,
    ceil_div,
    conflicts,
    counted,
    lane_ranges,
    multiply_add,
    pieces_of,
    runs,
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

# Rows of y up to which a large b is read row after row: with twice as many, packing b into panels and multiplying them,
# which comes nearer to the peak, takes half of the time (measured on Zen 3).
MAX_STREAMED_ROWS = 16

# k up to which b is read where it lies: a block of b, k x two vectors, then is 4 KiB (AVX-512), a small part of the
# first-level cache, so its order in memory does not matter.
SHORT = 32

# Rows below which a tile is not cut to make more tasks: 6 x 2 accumulators still hide the FMA's latency.
MIN_TILE_ROWS = 6

# Rows of b that one pass of `multiply_rows` over the sums adds: the sums are loaded and stored once per 8 FMAs, and 8
# rows of b are as many streams as the hardware's prefetcher follows easily.
STEPS = 8

# Rows of y that a step of `multiply_rows` adds to: an FMA waits for the one before in its own sum only, and four sums
# fit into 16 registers beside a vector of each of STEPS rows of b.
ROWS_AT_ONCE = 4

# Tasks that share the rows of b where dot products are added up in parts of k.
DOT_TASKS = 4 * ENOUGH_TASKS


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


def streamed_columns(rows: int) -> int:
    """Columns of b that `multiply_rows` takes at once, whole lines: their sums take half of the first-level cache."""
    return max(1, l1() // 2 // (FLOAT_BYTES * rows) // LINE) * LINE


def lower(lowering: Lowering, y: View, a: View, b: View) -> None:
    """y [m, n] = a [m, k] times b [k, n]: choose the kernel by shape and strides."""
    (m, k), n = a.shape, b.shape[1]
    is_along_k = b.strides[0] == 1 and b.strides[1] != 1
    if is_along_k and m <= FEW_ROWS and a.strides[1] == 1 and k >= lanes():
        lower_dot_products(lowering, y, a, b.permuted(1, 0))
        return
    if not is_along_k and m <= MAX_STREAMED_ROWS and k >= STEPS and k * n >= large_elements():
        lower_multiply_rows(lowering, y, a, b)
        return
    if a.strides[0] == 1 != a.strides[1] and b.strides[1] == 1 and y.strides == (n, 1) and m > FEW_ROWS and k > SHORT:
        lower_transposed(lowering, y, a, b)
        return
    if not is_along_k and (m <= FEW_ROWS or k <= SHORT):
        if m > FEW_ROWS and a.strides[0] == 1 and conflicts(a.strides[1]):
            # each step of k would read a line of a, and push out those of the other steps
            rows = lowering.scratch((m, k))
            reorder.lower(lowering, rows, a)
            a = rows
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
class ProductDivision:
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
    division = ProductDivision(tile, pieces_of(m, tile.rows), n % tile.lanes, unroll_factor(k), packed)
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
    division: ProductDivision

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


def multiply(y: Array, a: Array, b: Array, *, division: ProductDivision) -> None:
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


def lower_multiply_rows(lowering: Lowering, y: View, a: View, b: View) -> None:
    """Call `multiply_rows` for y [m, n] without gaps: k is cut into chunks where blocks of columns are few."""
    (m, n), k = y.shape, a.shape[1]
    columns = min(streamed_columns(m), ceil_div(n, LINE) * LINE)
    # a chunk has at least STEPS rows of b, and sums [m, n] of its own
    chunks = min(ceil_div(ENOUGH_TASKS, ceil_div(n, columns)), k // STEPS)
    # rows of sums lie a line further apart, so that they do not fall into the same sets of the cache
    sums = lowering.scratch((1, m, columns + LINE), per_thread=True)
    few = lowering.scratch((1, m, STEPS), per_thread=True)
    partial = y.reshaped((1, m, n)) if chunks == 1 else lowering.scratch((chunks, m, n))
    lowering.call(multiply_rows, [partial, sums, few], [a, b], columns=columns)
    if chunks > 1:
        lower_sums(lowering, y.reshaped((m * n,)), partial)


def multiply_rows(partial: Array, sums: Array, few: Array, a: Array, b: Array, *, columns: int) -> None:
    """partial[chunk] = the product over this part of k; its sums stay in the first-level cache while b passes once.

    A task has a chunk of k and a block of columns, and reads b in runs of a row: in columns of a few vectors, every row
    would be another page of memory. Per thread: sums [1, m, columns + LINE]; few [1, m, STEPS], of a what meets STEPS
    rows of b.
    """
    (chunks, m, n), k = partial.shape, a.shape[1]
    full, tail = divmod(n, columns)
    sums, few = sums.at(thread(), 0, 0), few.at(thread(), 0, 0)

    def add(p: Index, start: Index, size: int, steps: int) -> None:
        """sums += a[:, p : p + steps] b[p : p + steps, start : start + size]."""
        for i in loop(m):
            for step, width in vectors(steps, None if a.strides[1] == 1 else 1):
                few.store((0, i, step), a.load((i, p + step), width), width)
        for j, width in vectors(size):
            # `steps` vectors of b in registers serve all rows of a; the next rows' are fetched
            rows = [b.load((p + step, start + j), width) for step in range(steps)]
            for step in range(steps):
                b.prefetch((p + steps + step, start + j))
            for first, count in runs(m, ROWS_AT_ONCE):
                totals = [var(sums.load((0, first + i, j), width), width) for i in range(count)]
                for step in range(steps):
                    for i, total in enumerate(totals):
                        total.fma(splat(few[0, first + i, step], width), rows[step])
                for i, total in enumerate(totals):
                    sums.store((0, first + i, j), total, width)

    for size, blocks in ((columns, full), (tail, min(tail, 1))):
        for chunk, block in parallel(chunks, blocks):
            start, first = (block if size == columns else full) * columns, chunk * k // chunks
            count = (chunk + 1) * k // chunks - first
            for i in loop(m):
                for j, width in vectors(size):
                    sums.store((0, i, j), 0.0, width)
            for step in loop(count // STEPS):
                add(step * STEPS + first, start, size, STEPS)
            for p in loop(first + count, start=count // STEPS * STEPS + first):
                add(p, start, size, 1)
            for i in loop(m):
                for j, width in vectors(size):
                    partial.store((chunk, i, start + j), sums.load((0, i, j), width), width)


def lower_dot_products(lowering: Lowering, y: View, a: View, b: View) -> None:
    """Call `dot_products`, which gets the number of rows of y from the call."""
    sizes = CallSizes()
    m = sizes.of(a.shape[0])
    specs = [spec_of(view, (m, view.shape[1]), view.strides) for view in (y, a)]
    rows = pieces_of(a.shape[0], most_rows_of_dots())
    part = part_of_dots(*a.shape)
    lowering.call(dot_products, [y], [a, b], specs=[*specs, b.spec], sizes=sizes.values, rows=rows, part=part)


def part_of_dots(m: int, k: int) -> int | None:
    """Columns of a that are taken at once, if they are cut: so many rows of them fill the first-level cache.

    a is read again for each few rows of b. It may take eight such caches, a half of a small second-level one, beside b.
    """
    if m <= most_rows_of_dots() or FLOAT_BYTES * m * k <= 8 * l1():
        return None
    return max(1, l1() // (FLOAT_BYTES * m) // LINE) * LINE


def most_rows_of_dots() -> int:
    """Rows of a that `dot_products` takes at once at most."""
    return 4 if lanes() > 4 else 2


def dot_products(y: Array, a: Array, b: Array, *, rows: tuple[int, ...], part: int | None) -> None:
    """y[i, j] = the dot product of a[i, :] and b[j, :], with lanes along k; a tile has as many products as lanes.

    b: [n, k]. With up to 4 rows of a it is read once, as it lies, and the memory's bandwidth is the limit. rows: how
    many of a are taken at once: one number, or two of which the second is one less. part: of k, taken after another.
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
            tasks = min(blocks, DOT_TASKS) if part else blocks
            for (task,) in parallel(tasks):
                for p, length, is_first in parts_of_k(a.shape[1], part):
                    for number in loop((task + 1) * blocks // tasks, start=task * blocks // tasks):
                        j = (number if valid == rows_of_b else full) * rows_of_b
                        for i in loop(count):
                            place = i * taken + first
                            dot_tile(y.at(place, j), a.at(place, p), b.at(j, p), taken, valid, length, is_first)
        first += count * taken


def parts_of_k(k: int, part: int | None) -> Iterator[tuple[Index, int, bool]]:
    """k in parts of `part`: (start, length, True for the first); the last may be shorter. None: in one."""
    size = part or k
    yield 0, min(size, k), True
    for number in loop(k // size, start=1):
        yield number * size, size, False
    if k > size and k % size:
        yield k - k % size, k % size, False


def dot_tile(y: Array, a: Array, b: Array, rows: int, columns: int, k: int, is_first: bool) -> None:
    """y[: rows, : columns] = (or, if not is_first, +=) the products of the first k columns of a and of b.

    Each sum is a vector until the end, and its lanes are added.
    """
    size = lanes()
    # [rows, columns] vectors of sums in registers
    acc = {(i, j): var(0.0, size) for i in range(rows) for j in range(columns)}
    # full vectors along k: `rows` vectors of a stay in registers while one of each row of b passes
    for p, _ in unrolled(k // size):
        left = [a.load((i, p * size), size) for i in range(rows)]
        for j in range(columns):
            right = b.load((j, p * size), size)
            for i in range(rows):
                acc[i, j].fma(left[i], right)
    # the sums over lanes, and the last, shorter vector along k
    tail, start = k % size, k - k % size
    for (i, j), total in zip(acc, sums_of(list(acc.values())), strict=True):
        if tail:
            rest = a.load((i, start), tail) * b.load((j, start), tail)
            total = total + fold(rest, lambda p, q: p + q)
        y[i, j] = total if is_first else y[i, j] + total


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
