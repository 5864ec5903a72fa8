"""One kernel under construction: the function that its instructions go into, and the types of the language."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from foveal.errors import KernelError
from foveal.kernel.flow import StructuredCode
from foveal.kernel.ir import Operand, vector
from foveal.kernel.target import Target, current


@dataclass(frozen=True)
class Kind:
    """A scalar type of the language: float32, int32 (bits, unsigned), int64 (indices), bool (lane masks).

    float64 is in memory alone: what is loaded of it is float32.

    ir, numpy: the same type as LLVM and as NumPy have it.
    """

    name: str
    ir: str
    numpy: type[np.generic]


F32 = Kind("f32", "float", np.float32)
I32 = Kind("i32", "i32", np.uint32)
I64 = Kind("i64", "i64", np.int64)
BOOL = Kind("bool", "i1", np.bool_)
F64 = Kind("f64", "double", np.float64)
KINDS = {np.dtype(kind): made for kind, made in (("float32", F32), ("int32", I32), ("int64", I64), ("float64", F64))}
POINTER = "ptr"

# how many parallel loops' counters, one per thread, a kernel gets: the last ones are for all loops from that number on
PARALLEL_LOOPS = 8

# LLVM's flags for float arithmetic. a * b + c may become one fused multiply-add, and nothing else may change ...
CONTRACT = "contract"
# ... or sums may be split over lanes as well
REASSOCIATE = "contract reassoc nsz"


class Builder:
    """One kernel under construction: its function, its thread id and count, and the target it is shaped for.

    b: the function's instructions, which go where the kernel's code is written now. flags: those of float arithmetic.
    loops: the number of parallel loops so far. left_early: a loop was left by break or return.
    streams: the kernel stores past the cache. counted: None, or a list that the numbers of iterations of parallel loops
    go into, which are left out then.
    """

    def __init__(self, name: str, target: Target, flags: str, shared: bool = True) -> None:
        """shared: threads share the kernel's loops; False for a function, which runs in the thread that calls it."""
        self.name, self.target, self.flags, self.shared = name, target, flags, shared
        self.b = StructuredCode()
        # what follows the arrays' pointers in the function's arguments
        self.counters, self.thread, self.threads = "%counters", "%thread", "%threads"
        self.loops = 0
        # where loops without counters of their own find their counter, and the thread its number and how many passed
        self.turn: tuple[str, str, str] | None = None
        self.left_early = False
        self.streams = False
        self.counted: list[int] | None = None

    def finish(self) -> None:
        """Close the function. KernelError if a loop was left before its end."""
        if self.left_early:
            raise KernelError(
                f"kernel {self.name}: a loop was left by break or return, but loop() emits its body once"
                " and for all iterations; let it run to its end and use where(condition, a, b) instead"
            )
        # stores past the cache may otherwise become visible after the word that says that a kernel is done
        if self.streams:
            self.b.do("fence seq_cst")
        self.b.block.end = "ret void"

    def counters_of(self, loop: int) -> str:
        """The counters of a parallel loop, one per thread.

        A kernel that is called without counters is run by one thread, and a place on its stack is the counter.
        """
        if not self.shared:
            raise KernelError(
                f"function {self.name}: parallel() in a function that kernels call; its caller has the loop"
            )
        b, own = self.b, self.b.allocate(I64.ir)
        b.store(I64.ir, 0, own, 8)
        # counters[loop, thread] of this loop
        first = b.multiply(self.threads, loop)
        shared = b.pure(f"getelementptr i64, ptr {self.counters}, i64 {first}", first)
        exists = b.pure(f"icmp ne ptr {self.counters}, null")
        return str(b.select(BOOL.ir, POINTER, exists, shared, own))

    def take_in_turn(self, pieces: Operand) -> Iterator[Operand]:
        """for piece in take_in_turn(pieces): the pieces of a loop that has no counters of its own.

        The pieces of all such loops follow each other in one counter: a thread that has drawn a number beyond a loop's
        last one keeps it for the loops behind it.
        """
        b = self.b
        if self.turn is None:
            counter = self.counters_of(PARALLEL_LOOPS - 1)
            number, passed = b.allocate(I64.ir), b.allocate(I64.ir)
            self.turn = counter, number, passed
            b.store(I64.ir, 0, passed, 8)
            b.store(I64.ir, b.compute(f"atomicrmw add ptr {counter}, i64 1 monotonic, align 8"), number, 8)
        counter, number, passed = self.turn
        scope = b.open_endless()
        # the loops before this one have had so many pieces
        piece = b.compute(f"sub i64 {b.load(I64.ir, number, 8)}, {b.load(I64.ir, passed, 8)}")
        self.b.leave_unless(b.compare("<", I64.ir, piece, pieces))
        try:
            yield piece
        except GeneratorExit:
            self.left_early = True
            raise
        b.store(I64.ir, b.compute(f"atomicrmw add ptr {counter}, i64 1 monotonic, align 8"), number, 8)
        b.close_endless(scope)
        b.store(I64.ir, b.compute(f"add i64 {b.load(I64.ir, passed, 8)}, {pieces}"), passed, 8)

    def take(self, counter: str, end: Operand, size: Operand) -> Iterator[Operand]:
        """for start in take(...): add `size` to the counter as long as it is below `end`; `start` is what it was.

        Several threads may take from one counter. The body is traced once.
        """
        scope = self.b.open_endless()
        # the order of the threads' other memory accesses does not matter: iterations write to different places
        start = self.b.compute(f"atomicrmw add ptr {counter}, i64 {size} monotonic, align 8")
        self.b.leave_unless(self.b.compare("<", I64.ir, start, end))
        try:
            yield start
        except GeneratorExit:
            self.left_early = True
            raise
        self.b.close_endless(scope)


# `builder`: the kernel that this thread builds. Bodies do not pass it on: an expression such as `x[i] * w` has no
# argument for it, and one body must also run where nothing is built.
_local = threading.local()


def building() -> Builder | None:
    """The kernel being built in this thread, or None where bodies run in plain Python."""
    return getattr(_local, "builder", None)


def active() -> Builder:
    """The kernel being built in this thread, where one must be."""
    builder = building()
    assert builder is not None, "a traced value is used outside of the kernel it belongs to"
    return builder


@contextmanager
def build_in(builder: Builder) -> Iterator[None]:
    """Kernel bodies called inside the block emit into `builder`."""
    previous, _local.builder = building(), builder
    try:
        yield
    finally:
        _local.builder = previous


def shaped_for() -> Target:
    """The target of the kernel being built; where bodies run in plain Python, the current one."""
    builder = building()
    return builder.target if builder else current()


def lanes() -> int:
    """float32 lanes of a vector register of the target."""
    return shaped_for().lanes


def registers() -> int:
    """Vector registers of the target."""
    return shaped_for().registers


def l1() -> int:
    """Bytes of the first-level data cache that kernels for the target plan with."""
    return shaped_for().l1


def l2() -> int:
    """Bytes of the second-level cache that kernels for the target plan with."""
    return shaped_for().l2


def llc() -> int:
    """Bytes of the last-level cache that kernels for the target plan with."""
    return shaped_for().llc


def vector_type(kind: Kind, width: int) -> str:
    """The LLVM type of `width` lanes of a kind: the scalar type itself for one lane."""
    return vector(kind.ir, width)
