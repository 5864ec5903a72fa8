"""What kernel bodies compute with while they are built: SSA values, registers, and the builder that they emit into."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from llvmlite import ir

from foveal.errors import KernelError
from foveal.kernel import interpret
from foveal.kernel.target import Target, current


@dataclass(frozen=True)
class Kind:
    """A scalar type of the language: float32, int32 (bits, unsigned), int64 (indices), bool (lane masks)."""

    name: str
    ir: Any
    numpy: Any


F32 = Kind("f32", ir.FloatType(), np.float32)
I32 = Kind("i32", ir.IntType(32), np.uint32)
I64 = Kind("i64", ir.IntType(64), np.int64)
BOOL = Kind("bool", ir.IntType(1), np.bool_)
KINDS = {np.dtype("float32"): F32, np.dtype("int32"): I32, np.dtype("int64"): I64}
POINTER = ir.PointerType()
PARALLEL_LOOPS = 8  # of a kernel that have counters
# a*b+c may become one fused multiply-add; nothing else is allowed to change
CONTRACT = ("contract",)
REASSOCIATE = ("contract", "reassoc", "nsz")  # sums may also be split over lanes


class Builder:
    """One kernel under construction: an IR function, its thread id and count, and the target it is shaped for."""

    def __init__(self, module: Any, function: Any, target: Target, flags: tuple[str, ...]) -> None:
        self.module, self.function, self.target, self.flags = module, function, target, flags
        self.entry = function.append_basic_block("entry")
        self.start = function.append_basic_block("body")
        self.b = ir.IRBuilder(self.start)
        self.counters = function.args[-3]
        self.loops = 0  # parallel ones so far
        self.thread = Value(function.args[-2], I64)
        self.threads = Value(function.args[-1], I64)
        self.left_early = False
        self.streams = False  # whether it stores past the cache

    def finish(self) -> None:
        """Close the function; an error if a loop was left before its end."""
        if self.left_early:
            raise KernelError(
                f"kernel {self.function.name}: a loop was left by break or return, but loop() emits its body once"
                " and for all iterations; let it run to its end and use where(condition, a, b) instead"
            )
        if self.streams:  # such stores may overtake the word that says a kernel is done
            self.b.fence("seq_cst")
        self.b.ret_void()
        self.b.position_at_end(self.entry)
        self.b.branch(self.start)

    def alloca(self, kind: Any) -> Any:
        with self.b.goto_block(self.entry):
            return self.b.alloca(kind)

    def shares(self) -> "tuple[Any, Value]":
        """The counters of the next parallel loop, one per thread, and from how many threads' shares to take.

        A kernel that runs without counters, or in more loops than there are some for, counts for itself: then a
        thread's
        own share is all that it takes.
        """
        b, own = self.b, self.alloca(I64.ir)
        b.store(I64.ir(0), own)
        at = b.mul(self.threads.ir, I64.ir(self.loops), flags=["nsw"])
        here = b.gep(self.counters, [at], source_etype=I64.ir)
        there = b.icmp_unsigned("!=", b.ptrtoint(self.counters, I64.ir), I64.ir(0))
        self.loops += 1
        if self.loops > PARALLEL_LOOPS:
            there = BOOL.ir(0)
        # its own counter stands where the others' would have the thread's
        alone = b.gep(own, [b.neg(self.thread.ir)], source_etype=I64.ir)
        return b.select(there, here, alone), Value(b.select(there, self.threads.ir, I64.ir(1)), I64)

    def take(self, counter: Any, end: "Value", size: "Value") -> "Iterator[Value]":
        """for start in take(...): as long as fewer than `end` are taken, takes `size` more; the body is traced once."""
        b = self.b
        look, body, done = (self.function.append_basic_block(n) for n in ("take", "taken", "none"))
        b.branch(look)
        b.position_at_end(look)
        start = b.atomic_rmw("add", counter, size.ir, "monotonic")
        b.cbranch(b.icmp_signed("<", start, end.ir), body, done)
        b.position_at_end(body)
        try:
            yield Value(start, I64)
        except GeneratorExit:
            self.left_early = True
            raise
        b.branch(look)
        b.position_at_end(done)

    def intrinsic(self, name: str, result: Any, arguments: list[Any]) -> Any:
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, arguments), name)


_local = threading.local()


def building() -> Builder | None:
    """The kernel being built in this thread, or None where bodies run in plain Python."""
    return getattr(_local, "builder", None)


def active() -> Builder:
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


class Traced:
    """The operators of traced values: each emits an instruction and gives a new `Value`.

    The other operand may be traced or a plain number, which becomes a constant of the same kind.
    """

    __slots__ = ()

    def get(self) -> "Value":
        """The value that the operators work on."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        raise KernelError(
            "the truth of a traced value is not known while a kernel is built: a Python `if`, `and` or `while` on it"
            " would silently take one branch; use where(condition, a, b)"
        )

    def __index__(self) -> int:
        raise KernelError("a traced value is no Python int: range() unrolls, loop() runs at run time")

    def __add__(self, other: "Scalar") -> "Value":
        value = self.get()
        if value.is_index and isinstance(other, int):
            return Value(value.base, I64, 1, value.plus + other)
        return binary(value, other, "add", "fadd")

    def __sub__(self, other: "Scalar") -> "Value":
        value = self.get()
        if value.is_index and isinstance(other, int):
            return Value(value.base, I64, 1, value.plus - other)
        return binary(value, other, "sub", "fsub")

    def __mul__(self, other: "Scalar") -> "Value":
        value = self.get()
        if value.is_index and isinstance(other, int):
            if other == 1:
                return value
            product = active().b.mul(value.base, ir.Constant(I64.ir, other), flags=["nsw"])
            return Value(product, I64, 1, value.plus * other)
        return binary(value, other, "mul", "fmul")

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "sub", "fsub", swap=True)

    def __truediv__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "", "fdiv")

    def __rtruediv__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "", "fdiv", swap=True)

    def __floordiv__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "udiv", "")

    def __rfloordiv__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "udiv", "", swap=True)

    def __mod__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "urem", "")

    def __rmod__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "urem", "", swap=True)

    def __neg__(self) -> "Value":
        value = self.get()
        return 0.0 - value if value.kind is F32 else 0 - value

    def __and__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "and_", "")

    def __or__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "or_", "")

    def __xor__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "xor", "")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __lshift__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "shl", "")

    def __rshift__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "lshr", "")

    def __lt__(self, other: "Scalar") -> "Value":
        return compare("<", self.get(), other)

    def __le__(self, other: "Scalar") -> "Value":
        return compare("<=", self.get(), other)

    def __gt__(self, other: "Scalar") -> "Value":
        return compare(">", self.get(), other)

    def __ge__(self, other: "Scalar") -> "Value":
        return compare(">=", self.get(), other)

    def __eq__(self, other: "Scalar") -> "Value":  # type: ignore[override]
        return compare("==", self.get(), other)

    def __ne__(self, other: "Scalar") -> "Value":  # type: ignore[override]
        return compare("!=", self.get(), other)

    __hash__ = None  # type: ignore[assignment]


class Value(Traced):
    """An SSA value: `width` lanes of `kind`.

    An integer constant added to an index is kept aside (`plus`) until it is needed, so that neighbouring addresses
    share one base register and differ in their displacement only.
    """

    __slots__ = ("base", "kind", "plus", "width")

    def __init__(self, base: ir.Value, kind: Kind, width: int = 1, plus: int = 0) -> None:
        self.base, self.kind, self.width, self.plus = base, kind, width, plus

    def get(self) -> "Value":
        return self

    @property
    def is_index(self) -> bool:
        """True for one int64, which is what addresses are computed from."""
        return self.kind is I64 and self.width == 1

    @property
    def ir(self) -> ir.Value:
        """The LLVM value, with `plus` added."""
        if not self.plus:
            return self.base
        return active().b.add(self.base, ir.Constant(self.kind.ir, self.plus), flags=["nsw"])


class Var(Traced):
    """A mutable register: `acc += v`. LLVM makes a phi of it."""

    __slots__ = ("kind", "slot", "width")

    def __init__(self, initial: Value) -> None:
        self.kind, self.width = initial.kind, initial.width
        self.slot = active().alloca(vector_type(self.kind, self.width))
        self.set(initial)

    def get(self) -> Value:
        slot_type = vector_type(self.kind, self.width)
        return Value(active().b.load(self.slot, typ=slot_type), self.kind, self.width)

    def set(self, value: "Scalar") -> None:
        """Assign a new value; a scalar to each lane."""
        value = read(value)
        value = value if isinstance(value, Value) else constant(value, self.kind, self.width)
        active().b.store(splat(value, self.width).ir, self.slot)

    def __iadd__(self, value: "Scalar") -> "Var":  # type: ignore[override]
        self.set(self.get() + value)
        return self

    def fma(self, a: "Scalar", b: "Scalar") -> None:
        """self += a * b, in one instruction."""
        self.set(fma(a, b, self.get()))


# What kernel bodies are annotated with. These are the traced types; where a body runs in plain Python, NumPy's scalars
# and one-dimensional arrays stand for a Value, and interpret.Box for a Var.

# the place of an element along an axis: known while the kernel is built, or computed when it runs
Index = int | Value
# what an expression computes with, one lane or a vector of lanes
Scalar = Value | Var | float


def read(value: Scalar) -> Value | float:
    """What a register holds now; any other value as it is."""
    return value.get() if isinstance(value, Var) else value


def binary(left: Value, right: Scalar, integer: str, real: str, swap: bool = False) -> Value:
    """left op right by the builder's method `integer` or `real`, whichever the kind asks for; swap: right op left."""
    a, b = match(left, right)
    if swap:
        a, b = b, a
    builder = active()
    if a.kind is F32:
        if not real:
            raise KernelError(f"`{integer}` is for integers, not for float32 values")
        return Value(getattr(builder.b, real)(a.ir, b.ir, flags=builder.flags), F32, a.width)
    if not integer:
        raise KernelError(f"`{real}` is for float32 values, not for integers")
    return Value(getattr(builder.b, integer)(a.ir, b.ir), a.kind, a.width)


def compare(sign: str, left: Value, right: Scalar) -> Value:
    """Lanes of bool: left `sign` right. A comparison with NaN is false, but for `!=`, which is true."""
    a, b = match(left, right)
    builder = active().b
    if a.kind is F32:
        emit = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
        return Value(emit(sign, a.ir, b.ir), BOOL, a.width)
    return Value(builder.icmp_signed(sign, a.ir, b.ir), BOOL, a.width)


def constant(number: float, kind: Kind, width: int = 1) -> Value:
    """A Python number as a constant of `width` equal lanes."""
    number = float(np.float32(number)) if kind is F32 else int(number)
    if width == 1:
        return Value(ir.Constant(kind.ir, number), kind)
    return Value(ir.Constant(vector_type(kind, width), [number] * width), kind, width)


def match(left: Scalar, right: Scalar) -> tuple[Value, Value]:
    """Two operands as values of the same kind and width: Python numbers become constants, scalars are broadcast."""
    operands = read(left), read(right)
    traced = [v for v in operands if isinstance(v, Value)]
    kind, width = traced[0].kind, max(v.width for v in traced)
    a, b = (v if isinstance(v, Value) else constant(v, kind, width) for v in operands)
    if a.kind is not b.kind:
        raise KernelError(f"operands of kind {a.kind.name} and {b.kind.name}: convert one with cast()")
    a, b = splat(a, width), splat(b, width)
    if a.width != b.width:
        raise KernelError(f"operands of {a.width} and {b.width} lanes")
    return a, b


@overload
def splat(value: Value | Var, width: int) -> Value: ...
@overload
def splat(value: Scalar, width: int) -> Scalar: ...


def splat(value: Scalar, width: int) -> Scalar:
    """The scalar `value` in each of `width` lanes; a vector is given back as it is.

    So is a Python number while a kernel is built: what it meets decides its kind.
    """
    value = read(value)
    if not isinstance(value, Value):
        return value if building() else interpret.splat(value, width)
    if value.width != 1 or width == 1:
        return value
    kind = vector_type(value.kind, width)
    undefined = ir.Constant(kind, ir.Undefined)
    b = active().b
    first = b.insert_element(undefined, value.ir, ir.Constant(I32.ir, 0))
    lanes_zero = ir.Constant(ir.VectorType(I32.ir, width), [0] * width)
    return Value(b.shuffle_vector(first, undefined, lanes_zero), value.kind, width)


def fma(a: Scalar, b: Scalar, c: Scalar) -> Value:
    """a * b + c, rounded once where the target can."""
    if not any(isinstance(v, Traced) for v in (a, b, c)):
        return interpret.fma(a, b, c)
    if isinstance(a, Traced) or isinstance(b, Traced):
        a, b = match(a, b)
    # each of the three is as wide as the widest after these two
    a, c = match(a, c)
    b, c = match(b, c)
    kind = vector_type(a.kind, a.width)
    suffix = "f32" if a.width == 1 else f"v{a.width}f32"
    function = active().intrinsic(f"llvm.fmuladd.{suffix}", kind, [kind] * 3)
    return Value(active().b.call(function, [a.ir, b.ir, c.ir]), a.kind, a.width)


def var(initial: Scalar = 0.0, width: int = 1) -> Var:
    """A register that can be assigned: float32 unless `initial` is a value of another kind."""
    if building() is None:
        return interpret.Box(initial, width)  # type: ignore[return-value]
    initial = read(initial)
    return Var(splat(initial, width) if isinstance(initial, Value) else constant(initial, F32, width))
