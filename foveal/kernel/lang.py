"""The kernel language: a Python function, run once, leaves a loop nest in LLVM IR; run without a builder it computes.

`loop(n)` emits a run-time loop and `range(n)` unrolls; shapes are Python ints while a kernel is built. A kernel body is
written once and has two meanings: while a `Builder` is active its values are `Value`s (LLVM's SSA values), else they
are NumPy's, so `print`, `pdb` and index errors work on it (interpret.py has that half).

What the language cannot mean it refuses: the truth of a traced value (use `where`), and a loop left by `break` or
`return`. Kernels import all they use from here.
"""

import math
from collections.abc import Iterator

from llvmlite import ir

from foveal.errors import KernelError
from foveal.kernel import interpret
from foveal.kernel.target import LINE, STREAMS
from foveal.kernel.values import (
    BOOL,
    CONTRACT,
    F32,
    I32,
    I64,
    KINDS,
    POINTER,
    REASSOCIATE,
    Builder,
    Index,
    Kind,
    Scalar,
    Value,
    Var,
    active,
    build_in,
    building,
    constant,
    fma,
    l1,
    l2,
    lanes,
    llc,
    read,
    registers,
    splat,
    var,
    vector_type,
)
from foveal.kernel.vector import (
    bitcast,
    cast,
    extract,
    floor,
    fold,
    head,
    iota,
    maximum,
    minimum,
    pack,
    part,
    sqrt,
    store_lanes,
    transpose,
    where,
    width_of,
)

__all__ = [
    "BOOL",
    "CONTRACT",
    "F32",
    "I32",
    "I64",
    "KINDS",
    "LINE",
    "POINTER",
    "REASSOCIATE",
    "Array",
    "Builder",
    "Index",
    "Kind",
    "Scalar",
    "Value",
    "Var",
    "bitcast",
    "build_in",
    "building",
    "cast",
    "choose",
    "constant",
    "extract",
    "floor",
    "fma",
    "fold",
    "head",
    "iota",
    "l1",
    "l2",
    "lanes",
    "llc",
    "loop",
    "loops",
    "maximum",
    "minimum",
    "otherwise",
    "pack",
    "parallel",
    "parallel_vectors",
    "part",
    "registers",
    "splat",
    "sqrt",
    "store_lanes",
    "thread",
    "transpose",
    "unflatten",
    "var",
    "vectors",
    "when",
    "where",
    "width_of",
]


PIECES = 8  # of a thread's share in a parallel loop, taken one by one


def loop(n: Index, start: Index = 0, step: int = 1) -> Iterator[Index]:
    """for i in loop(n): one run-time loop from `start` below `n`; the body is traced once."""
    builder = building()
    if builder is None or (isinstance(n, int) and isinstance(start, int) and start + step >= n):
        yield from range(start, n, step)
        return
    b = builder.b
    first, last = (v.ir if isinstance(v, Value) else ir.Constant(I64.ir, v) for v in (start, n))
    before = b.block
    body, end = (builder.function.append_basic_block(name) for name in ("loop", "end"))
    if isinstance(n, int) and isinstance(start, int):
        b.branch(body)  # runs at least once, so the test stands at the end only
    else:
        b.cbranch(b.icmp_signed("<", first, last), body, end)
    b.position_at_end(body)
    i = b.phi(I64.ir)
    i.add_incoming(first, before)
    try:
        yield Value(i, I64)
    except GeneratorExit:
        builder.left_early = True
        raise
    following = b.add(i, ir.Constant(I64.ir, step), flags=["nsw"])
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, last), body, end)
    b.position_at_end(end)


def when(condition: Scalar) -> Iterator[None]:
    """for _ in when(c): the body runs if the condition, one truth value, holds; it is traced once."""
    builder = building()
    if not isinstance(condition, Value):
        yield from [None] * bool(condition)
        return
    assert builder is not None
    b = builder.b
    body, end = (builder.function.append_basic_block(name) for name in ("then", "end"))
    b.cbranch(condition.ir, body, end)
    b.position_at_end(body)
    try:
        yield
    except GeneratorExit:
        builder.left_early = True
        raise
    b.branch(end)
    b.position_at_end(end)


def otherwise(condition: Scalar) -> Iterator[None]:
    """for _ in otherwise(c): the body runs if the condition, one truth value, does not hold; the else of `when(c)`."""
    return when(condition == False if isinstance(condition, Value) else not condition)  # noqa: E712


def choose(condition: Scalar, a: "Array", b: "Array") -> "Array":
    """Array a if the condition, one truth value, holds, else b; both of the same strides."""
    if not isinstance(condition, Value):
        return a if condition else b
    pointer = active().b.select(condition.ir, a.pointer, b.pointer)
    return Array(pointer, a.shape, a.strides, a.kind)


def thread() -> Index:
    """The index of the thread that runs this, below the number of threads."""
    builder = building()
    return builder.thread if builder else 0


def loops(*ns: Index) -> Iterator[tuple[Index, ...]]:
    """Nested loops; yields the tuple of indices."""
    if not ns:
        yield ()
        return
    for i in loop(ns[0]):
        for rest in loops(*ns[1:]):
            yield (i, *rest)


def parallel(*ns: int) -> Iterator[tuple[Index, ...]]:
    """Nested loops shared out among the threads; iterations must write to different places.

    Each thread has a contiguous range of its own, takes it in pieces, and then pieces of what others have left: one
    whose
    core is slower, or busy otherwise, keeps nobody waiting for long. Which thread runs an iteration may differ from run
    to
    run; what it computes must not. Two such loops of a kernel overlap: the second must not need what the first has
    done. Where one of `ns` is 0 there is nothing to do, and nothing is emitted.
    """
    builder, total = building(), math.prod(ns)
    if builder is None:
        yield from interpret.parallel(ns)
        return
    if total == 0:
        return
    counters, owners = builder.shares()
    for turn in loop(owners):
        owner = turn + builder.thread
        owner = where(owner < builder.threads, owner, owner - builder.threads)
        first = owner * total // builder.threads
        end = (owner + 1) * total // builder.threads
        size = maximum((end - first) // PIECES, 1)
        for taken in builder.take(Array(counters, (1,), (1,), I64).address(owner), end - first, size):
            start = first + taken
            for flat in loop(minimum(start + size, end), start=start):
                yield unflatten(flat, ns)


def unflatten(flat: Index, ns: tuple[int, ...]) -> tuple[Index, ...]:
    """The indices in a C-ordered box of shape `ns` of its flat index."""
    indices: list[Index] = []
    for n in reversed(ns[1:]):
        indices.append(flat % n if n > 1 else 0)
        flat = flat // n if n > 1 else flat
    return (flat, *reversed(indices))


def vectors(n: int, width: int | None = None) -> Iterator[tuple[Index, int]]:
    """Cover `n` neighbouring elements: a run-time loop of full vectors, then the tail as one narrower vector."""
    width = width or lanes()
    for i in loop(n // width):
        yield i * width, width
    if n % width:
        yield n - n % width, n % width


def parallel_vectors(n: int, width: int | None = None) -> Iterator[tuple[Index, int]]:
    """`vectors` with the full vectors shared out among the threads; one thread takes the tail.

    Two parallel loops, so what is said of those at `parallel` holds for the tail as well.
    """
    width = width or lanes()
    for (i,) in parallel(n // width):
        yield i * width, width
    if n % width:
        for _ in parallel(1):
            yield n - n % width, n % width


class Array:
    """A buffer of static shape, seen through logical indices: x[n, c, h, w] is the same element in every layout.

    Strides are in elements. `x.load(index, width)` reads `width` neighbours in memory; `x.at(*index)` is the same array
    with its origin moved there, for tight loops over a few constant offsets.
    """

    __slots__ = ("kind", "pointer", "shape", "streamed", "strides")

    def __init__(
        self, pointer: ir.Value, shape: tuple[int, ...], strides: tuple[int, ...], kind: Kind, streamed: bool = False
    ) -> None:
        self.pointer, self.shape, self.strides, self.kind = pointer, shape, strides, kind
        self.streamed = streamed

    def address(self, index: Index | tuple[Index, ...]) -> ir.Value:
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.shape):
            raise KernelError(f"{len(index)} indices into an array of shape {self.shape}")
        b, constant_part, pointer = active().b, 0, self.pointer
        offset = None
        for i, stride in zip(index, self.strides, strict=True):
            if isinstance(i, Value):
                constant_part += i.plus * stride
                scaled = i.base
                if stride != 1:
                    scaled = b.mul(i.base, ir.Constant(I64.ir, stride), flags=["nsw"])
                offset = scaled if offset is None else b.add(offset, scaled, flags=["nsw"])
            else:
                constant_part += int(i) * stride
        if offset is not None:
            pointer = b.gep(pointer, [offset], inbounds=True, source_etype=self.kind.ir)
        if constant_part:
            pointer = b.gep(pointer, [ir.Constant(I64.ir, constant_part)], inbounds=True, source_etype=self.kind.ir)
        return pointer

    def at(self, *index: Index) -> "Array":
        return Array(self.address(index), self.shape, self.strides, self.kind)

    def permuted(self, *axes: int) -> "Array":
        """The same memory with its axes in another order."""
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return Array(self.pointer, shape, strides, self.kind, self.streamed)

    def row(self, *index: Index) -> "Array":
        """From the element at (*index, 0, 0, ...) on, as one flat range; the axes left out are contiguous."""
        rest = len(self.shape) - len(index)
        size = math.prod(self.shape[len(index) :])
        return Array(self.address((*index, *[0] * rest)), (size,), (1,), self.kind)

    def opaque(self) -> "Array":
        """The same array through a pointer LLVM cannot see through.

        Loads of neighbouring pixels are then not merged across filter columns: merging keeps them alive in registers
        until the accumulators spill. For other architectures it is the same pointer: inline assembly is safe at home
        only.
        """
        if not active().target.native:
            return self
        asm = ir.InlineAsm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", False)
        return Array(active().b.call(asm, [self.pointer]), self.shape, self.strides, self.kind)

    def neighbour(self, i: Index) -> Value:
        """The element `i` places behind the origin in memory, whatever axes that crosses."""
        return Array(self.pointer, (1,), (1,), self.kind)[i]

    def prefetch(self, index: Index | tuple[Index, ...]) -> None:
        """Start to bring the element's cache line into the second-level cache. No element has to be there.

        Not into the first: streams a power of two apart fall into one set of it, and would push out what is in use.
        """
        function = active().intrinsic("llvm.prefetch.p0", ir.VoidType(), [POINTER, I32.ir, I32.ir, I32.ir])
        read, keep, data = (ir.Constant(I32.ir, n) for n in (0, 2, 1))
        active().b.call(function, [self.address(index), read, keep, data])

    def load(self, index: Index | tuple[Index, ...], width: int) -> Value:
        kind = vector_type(self.kind, width)
        return Value(active().b.load(self.address(index), typ=kind, align=4), self.kind, width)

    def store(self, index: Index | tuple[Index, ...], value: Scalar, width: int = 1) -> None:
        active().b.store(self.lanes_of(value, width).ir, self.address(index), align=4)

    def lanes_of(self, value: Scalar, width: int) -> Value:
        """What a store writes; a plain number fills `width` lanes."""
        value = read(value)
        return value if isinstance(value, Value) else constant(value, self.kind, width)

    def store_past_cache(self, index: Index | tuple[Index, ...], value: Scalar, width: int) -> None:
        """Store `width` lanes at a multiple of `width` in a row; in a streamed array, past the cache.

        A line that is written whole then is not read from memory before, and pushes no other one out.
        """
        whole = all(stride % LINE == 0 for stride in self.strides if stride != 1)
        if not (self.streamed and whole and width in STREAMS):
            return self.store(index, value, width)
        builder = active()
        instruction = builder.b.store(self.lanes_of(value, width).ir, self.address(index), align=4 * width)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([I32.ir(1)]))
        builder.streams = True

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Value:
        return self.load(index, 1)

    def __setitem__(self, index: Index | tuple[Index, ...], value: Scalar) -> None:
        self.store(index, value)
