"""One kernel under construction: the IR function that its instructions go into, and the types of the language."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from foveal.errors import KernelError
from foveal.kernel.target import Target, current


@dataclass(frozen=True)
class Kind:
    """A scalar type of the language: float32, int32 (bits, unsigned), int64 (indices), bool (lane masks).

    ir, numpy: the same type as LLVM and as NumPy have it.
    """

    name: str
    ir: ir.Type
    numpy: type[np.generic]


F32 = Kind("f32", ir.FloatType(), np.float32)
I32 = Kind("i32", ir.IntType(32), np.uint32)
I64 = Kind("i64", ir.IntType(64), np.int64)
BOOL = Kind("bool", ir.IntType(1), np.bool_)
KINDS = {np.dtype("float32"): F32, np.dtype("int32"): I32, np.dtype("int64"): I64}
POINTER = ir.PointerType()

# the number of a kernel's parallel loops that have counters; in those after them each thread does its own share only
PARALLEL_LOOPS = 8

# LLVM's flags for float arithmetic. a * b + c may become one fused multiply-add, and nothing else may change ...
CONTRACT = ("contract",)
# ... or sums may be split over lanes as well
REASSOCIATE = ("contract", "reassoc", "nsz")


class Callee:
    """A function that is called by its address, an opaque pointer, as llvmlite's `call` takes it."""

    def __init__(self, address: ir.Value, arguments: Sequence[ir.Type]) -> None:
        self.address, self.function_type = address, ir.FunctionType(ir.VoidType(), arguments)

    def get_reference(self) -> str:
        """The address as it is written in IR."""
        reference: str = self.address.get_reference()
        return reference


class Builder:
    """One kernel under construction: an IR function, its thread id and count, and the target it is shaped for.

    b: llvmlite's builder, which stands where the next instruction goes. flags: those of float arithmetic.
    loops: the number of parallel loops so far. left_early: a loop was left by break or return.
    streams: the kernel stores past the cache.
    """

    def __init__(
        self, module: ir.Module, function: ir.Function, target: Target, flags: tuple[str, ...], shared: bool = True
    ) -> None:
        """shared: threads share the kernel's loops; False for a function, which runs in the thread that calls it."""
        self.module, self.function, self.target, self.flags = module, function, target, flags
        # registers are allocated in the entry block, so that a loop does not allocate them again and again
        self.entry = function.append_basic_block("entry")
        self.start = function.append_basic_block("body")
        self.b = ir.IRBuilder(self.start)
        # what follows the arrays' pointers in the function's arguments
        self.shared = shared
        if shared:
            self.counters, self.thread, self.threads = function.args[-3:]
        self.loops = 0
        self.left_early = False
        self.streams = False

    def finish(self) -> None:
        """Close the function. KernelError if a loop was left before its end."""
        if self.left_early:
            raise KernelError(
                f"kernel {self.function.name}: a loop was left by break or return, but loop() emits its body once"
                " and for all iterations; let it run to its end and use where(condition, a, b) instead"
            )
        # stores past the cache may otherwise become visible after the word that says that a kernel is done
        if self.streams:
            self.b.fence("seq_cst")
        self.b.ret_void()
        self.b.position_at_end(self.entry)
        self.b.branch(self.start)

    def alloca(self, kind: ir.Type) -> ir.Value:
        """A place for one value of this type, as long as the function runs."""
        with self.b.goto_block(self.entry):
            return self.b.alloca(kind)

    def shares(self) -> tuple[ir.Value, ir.Value]:
        """The counters of the next parallel loop, one per thread, and from how many threads' shares to take.

        A kernel that is called without counters, or that has more than PARALLEL_LOOPS such loops, gets a counter of its
        own on the stack; each thread then takes its own share only.
        """
        if not self.shared:
            raise KernelError(
                f"function {self.function.name}: parallel() in a function that kernels call; its caller has the loop"
            )
        b, own = self.b, self.alloca(I64.ir)
        b.store(I64.ir(0), own)
        # counters[loop, thread] of this loop
        offset = b.mul(self.threads, I64.ir(self.loops), flags=["nsw"])
        shared = b.gep(self.counters, [offset], source_etype=I64.ir)
        exists = b.icmp_unsigned("!=", b.ptrtoint(self.counters, I64.ir), I64.ir(0))
        self.loops += 1
        if self.loops > PARALLEL_LOOPS:
            exists = BOOL.ir(0)
        # a pointer that the thread's index leads to `own`, as it leads to the thread's counter among the shared ones
        alone = b.gep(own, [b.neg(self.thread)], source_etype=I64.ir)
        return b.select(exists, shared, alone), b.select(exists, self.threads, I64.ir(1))

    def take(self, counter: ir.Value, end: ir.Value, size: ir.Value) -> Iterator[ir.Value]:
        """for start in take(...): add `size` to the counter as long as it is below `end`; `start` is what it was.

        Several threads may take from one counter. The body is traced once.
        """
        b = self.b
        look, body, done = (self.function.append_basic_block(n) for n in ("take", "taken", "none"))
        b.branch(look)
        b.position_at_end(look)
        # the order of the threads' other memory accesses does not matter: iterations write to different places
        start = b.atomic_rmw("add", counter, size, "monotonic")
        b.cbranch(b.icmp_signed("<", start, end), body, done)
        b.position_at_end(body)
        try:
            yield start
        except GeneratorExit:
            self.left_early = True
            raise
        b.branch(look)
        b.position_at_end(done)

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        """The declaration of one of LLVM's own functions, made when it is first asked for."""
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, arguments), name)


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


def vector_type(kind: Kind, width: int) -> ir.Type:
    """The LLVM type of `width` lanes of a kind: the scalar type itself for one lane."""
    return kind.ir if width == 1 else ir.VectorType(kind.ir, width)
