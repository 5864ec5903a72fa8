"""What kernel bodies compute with while they are built: SSA values, registers, and the builder that they emit into."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


def lanes() -> int:
    """float32 lanes of a vector register of the target."""
    builder = building()
    return (builder.target if builder else current()).lanes


def registers() -> int:
    """Vector registers of the target."""
    builder = building()
    return (builder.target if builder else current()).registers


def vector_type(kind: Kind, width: int) -> Any:
    return kind.ir if width == 1 else ir.VectorType(kind.ir, width)


class Value:
    """An SSA value: `width` lanes of `kind`. Operators emit instructions.

    An integer constant added to an index is kept aside (`plus`) until it is needed, so that neighbouring addresses
    share one base register and differ in their displacement only.
    """

    __slots__ = ("base", "kind", "plus", "width")

    def __init__(self, base: Any, kind: Kind, width: int = 1, plus: int = 0) -> None:
        self.base, self.kind, self.width, self.plus = base, kind, width, plus

    @property
    def ir(self) -> Any:
        if not self.plus:
            return self.base
        return active().b.add(self.base, ir.Constant(self.kind.ir, self.plus), flags=["nsw"])

    def __bool__(self) -> bool:
        raise KernelError(
            "the truth of a traced value is not known while a kernel is built: a Python `if`, `and` or `while` on it"
            " would silently take one branch; use where(condition, a, b)"
        )

    def __index__(self) -> int:
        raise KernelError("a traced value is no Python int: range() unrolls, loop() runs at run time")

    def _binary(self, other: Any, integer: str, real: str, swap: bool = False) -> "Value":
        left, right = match(self, other)
        if swap:
            left, right = right, left
        b = active().b
        if left.kind is F32:
            if not real:
                raise KernelError(f"`{integer}` is for integers, not for float32 values")
            return Value(getattr(b, real)(left.ir, right.ir, flags=active().flags), F32, left.width)
        if not integer:
            raise KernelError(f"`{real}` is for float32 values, not for integers")
        return Value(getattr(b, integer)(left.ir, right.ir), left.kind, left.width)

    def __add__(self, other: Any) -> "Value":
        if self.kind is I64 and self.width == 1 and isinstance(other, int):
            return Value(self.base, I64, 1, self.plus + other)
        return self._binary(other, "add", "fadd")

    def __sub__(self, other: Any) -> "Value":
        if self.kind is I64 and self.width == 1 and isinstance(other, int):
            return Value(self.base, I64, 1, self.plus - other)
        return self._binary(other, "sub", "fsub")

    def __mul__(self, other: Any) -> "Value":
        if self.kind is I64 and self.width == 1 and isinstance(other, int):
            if other == 1:
                return self
            product = active().b.mul(self.base, ir.Constant(I64.ir, other), flags=["nsw"])
            return Value(product, I64, 1, self.plus * other)
        return self._binary(other, "mul", "fmul")

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> "Value":
        return self._binary(other, "sub", "fsub", swap=True)

    def __truediv__(self, other: Any) -> "Value":
        return self._binary(other, "", "fdiv")

    def __rtruediv__(self, other: Any) -> "Value":
        return self._binary(other, "", "fdiv", swap=True)

    def __floordiv__(self, other: Any) -> "Value":
        return self._binary(other, "udiv", "")

    def __mod__(self, other: Any) -> "Value":
        return self._binary(other, "urem", "")

    def __neg__(self) -> "Value":
        return 0.0 - self if self.kind is F32 else 0 - self

    def __and__(self, other: Any) -> "Value":
        return self._binary(other, "and_", "")

    def __or__(self, other: Any) -> "Value":
        return self._binary(other, "or_", "")

    __rand__, __ror__ = __and__, __or__

    def __xor__(self, other: Any) -> "Value":
        return self._binary(other, "xor", "")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __lshift__(self, other: Any) -> "Value":
        return self._binary(other, "shl", "")

    def __rshift__(self, other: Any) -> "Value":
        return self._binary(other, "lshr", "")

    def _compare(self, sign: str, other: Any) -> "Value":
        left, right = match(self, other)
        b = active().b
        if left.kind is F32:
            emit = b.fcmp_unordered if sign == "!=" else b.fcmp_ordered
            return Value(emit(sign, left.ir, right.ir), BOOL, left.width)
        return Value(b.icmp_signed(sign, left.ir, right.ir), BOOL, left.width)

    def __lt__(self, other: Any) -> "Value":
        return self._compare("<", other)

    def __le__(self, other: Any) -> "Value":
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> "Value":
        return self._compare(">", other)

    def __ge__(self, other: Any) -> "Value":
        return self._compare(">=", other)

    def __eq__(self, other: Any) -> "Value":  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: Any) -> "Value":  # type: ignore[override]
        return self._compare("!=", other)

    __hash__ = None  # type: ignore[assignment]


def constant(number: Any, kind: Kind, width: int = 1) -> Value:
    """A Python number as a constant of `width` equal lanes."""
    number = float(np.float32(number)) if kind is F32 else int(number)
    if width == 1:
        return Value(ir.Constant(kind.ir, number), kind)
    return Value(ir.Constant(vector_type(kind, width), [number] * width), kind, width)


def match(left: Any, right: Any) -> tuple[Value, Value]:
    """Two operands as values of the same kind and width: Python numbers become constants, scalars are broadcast."""
    left = left.get() if isinstance(left, Var) else left
    right = right.get() if isinstance(right, Var) else right
    model = left if isinstance(left, Value) else right
    width = max(v.width for v in (left, right) if isinstance(v, Value))
    pair = [v if isinstance(v, Value) else constant(v, model.kind, width) for v in (left, right)]
    if pair[0].kind is not pair[1].kind:
        raise KernelError(f"operands of kind {pair[0].kind.name} and {pair[1].kind.name}: convert one with cast()")
    first, second = (splat(v, width) for v in pair)
    if first.width != second.width:
        raise KernelError(f"operands of {first.width} and {second.width} lanes")
    return first, second


def splat(value: Any, width: int) -> Any:
    """The scalar `value` in each of `width` lanes; a vector is given back as it is.

    So is a Python number while a kernel is built: what it meets decides its kind.
    """
    if isinstance(value, Var):
        value = value.get()
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


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the target can."""
    if not any(isinstance(v, Value | Var) for v in (a, b, c)):
        return interpret.fma(a, b, c)
    a, b = match(a, b) if isinstance(a, Value | Var) or isinstance(b, Value | Var) else (a, b)
    a, c = match(a, c)
    b, c = match(b, c)
    kind = vector_type(a.kind, a.width)
    suffix = "f32" if a.width == 1 else f"v{a.width}f32"
    function = active().intrinsic(f"llvm.fmuladd.{suffix}", kind, [kind] * 3)
    return Value(active().b.call(function, [a.ir, b.ir, c.ir]), a.kind, a.width)


class Var:
    """A mutable register: `acc += v`. LLVM turns it into a phi."""

    __slots__ = ("kind", "slot", "width")

    def __init__(self, initial: Value) -> None:
        self.kind, self.width = initial.kind, initial.width
        self.slot = active().alloca(vector_type(self.kind, self.width))
        self.set(initial)

    def get(self) -> Value:
        slot_type = vector_type(self.kind, self.width)
        return Value(active().b.load(self.slot, typ=slot_type), self.kind, self.width)

    def set(self, value: Any) -> None:
        value = value.get() if isinstance(value, Var) else value
        value = value if isinstance(value, Value) else constant(value, self.kind, self.width)
        active().b.store(splat(value, self.width).ir, self.slot)

    def __iadd__(self, value: Any) -> "Var":  # type: ignore[misc]
        self.set(self.get() + value)
        return self

    def fma(self, a: Any, b: Any) -> None:
        """self += a * b, in one instruction."""
        self.set(fma(a, b, self.get()))

    def _delegate(name: str) -> Callable[..., Value]:  # type: ignore[misc]
        def method(self: "Var", *others: Any) -> Value:
            return getattr(self.get(), name)(*others)

        return method

    __add__, __sub__, __mul__, __truediv__ = map(_delegate, ("__add__", "__sub__", "__mul__", "__truediv__"))
    __radd__, __rsub__, __rmul__, __neg__ = map(_delegate, ("__add__", "__rsub__", "__mul__", "__neg__"))
    __lt__, __gt__, __le__, __ge__ = map(_delegate, ("__lt__", "__gt__", "__le__", "__ge__"))


def var(initial: Any = 0.0, width: int = 1) -> Any:
    """A register that can be assigned: float32 unless `initial` is a value of another kind."""
    if building() is None:
        return interpret.Box(initial, width)
    initial = initial.get() if isinstance(initial, Var) else initial
    return Var(splat(initial, width) if isinstance(initial, Value) else constant(initial, F32, width))
