"""The kernel language: a Python function, run once, leaves a loop nest in LLVM IR; run without a builder it computes.

`loop(n)` emits a run-time loop and `range(n)` unrolls; shapes are Python ints while a kernel is built. A kernel body is
written once and has two meanings: while a `Builder` is active its values are `Value`s (LLVM's SSA values), else they are
NumPy's, so `print`, `pdb` and index errors work on it (interpret.py has that half).

What the language cannot mean it refuses: the truth of a traced value (use `where`), and a loop left by `break` or `return`.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from foveal.errors import KernelError
from foveal.kernel import interpret
from foveal.kernel.target import Target, host


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
CONTRACT = (
    "contract",
)  # a*b+c may become one fused multiply-add; nothing else is allowed to change
REASSOCIATE = ("contract", "reassoc", "nsz")  # sums may also be split over lanes


class Builder:
    """One kernel under construction: an IR function, its thread id and count, and the target it is shaped for."""

    def __init__(self, module: Any, function: Any, target: Target, flags: tuple[str, ...]) -> None:
        self.module, self.function, self.target, self.flags = module, function, target, flags
        self.entry = function.append_basic_block("entry")
        self.start = function.append_basic_block("body")
        self.b = ir.IRBuilder(self.start)
        self.thread = Value(function.args[-2], I64)
        self.threads = Value(function.args[-1], I64)
        self.left_early = False

    def finish(self) -> None:
        """Close the function; an error if a loop was left before its end."""
        if self.left_early:
            raise KernelError(
                f"kernel {self.function.name}: a loop was left by break or return, but loop() emits its body once"
                " and for all iterations; let it run to its end and use where(condition, a, b) instead"
            )
        self.b.ret_void()
        self.b.position_at_end(self.entry)
        self.b.branch(self.start)

    def alloca(self, kind: Any) -> Any:
        with self.b.goto_block(self.entry):
            return self.b.alloca(kind)

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
    return (builder.target if builder else host()).lanes


def registers() -> int:
    """Vector registers of the target."""
    builder = building()
    return (builder.target if builder else host()).registers


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
            "the truth of a traced value is not known while a kernel is built: a Python `if`, `and` or `while` on it would"
            " silently take one branch; use where(condition, a, b) or when(condition)"
        )

    def __index__(self) -> int:
        raise KernelError(
            "a traced value is no Python int: range() unrolls, loop() runs at run time"
        )

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

    def __xor__(self, other: Any) -> "Value":
        return self._binary(other, "xor", "")

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
        raise KernelError(
            f"operands of kind {pair[0].kind.name} and {pair[1].kind.name}: convert one with cast()"
        )
    first, second = (splat(v, width) for v in pair)
    if first.width != second.width:
        raise KernelError(f"operands of {first.width} and {second.width} lanes")
    return first, second


def splat(value: Any, width: int) -> Any:
    """The scalar `value` in each of `width` lanes; a vector is given back as it is."""
    if isinstance(value, Var):
        value = value.get()
    if not isinstance(value, Value):
        return interpret.splat(value, width)
    if value.width != 1 or width == 1:
        return value
    kind = vector_type(value.kind, width)
    undefined = ir.Constant(kind, ir.Undefined)
    b = active().b
    first = b.insert_element(undefined, value.ir, ir.Constant(I32.ir, 0))
    lanes_zero = ir.Constant(ir.VectorType(I32.ir, width), [0] * width)
    return Value(b.shuffle_vector(first, undefined, lanes_zero), value.kind, width)


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

    __add__, __sub__, __mul__, __truediv__ = map(
        _delegate, ("__add__", "__sub__", "__mul__", "__truediv__")
    )
    __radd__, __rsub__, __rmul__, __neg__ = map(
        _delegate, ("__add__", "__rsub__", "__mul__", "__neg__")
    )
    __lt__, __gt__, __le__, __ge__ = map(_delegate, ("__lt__", "__gt__", "__le__", "__ge__"))


def var(initial: Any = 0.0, width: int = 1) -> Any:
    """A register that can be assigned: float32 unless `initial` is a value of another kind."""
    if building() is None:
        return interpret.Box(initial, width)
    initial = initial.get() if isinstance(initial, Var) else initial
    return Var(
        splat(initial, width) if isinstance(initial, Value) else constant(initial, F32, width)
    )


def loop(n: Any, start: Any = 0, step: int = 1) -> Iterator[Any]:
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


def thread() -> Any:
    """The index of the thread that runs this, below the number of threads."""
    builder = building()
    return builder.thread if builder else 0


def loops(*ns: Any) -> Iterator[tuple[Any, ...]]:
    """Nested loops; yields the tuple of indices."""
    if not ns:
        yield ()
        return
    for i in loop(ns[0]):
        for rest in loops(*ns[1:]):
            yield (i, *rest)


def parallel(*ns: int) -> Iterator[tuple[Any, ...]]:
    """Nested loops shared out among the threads in contiguous ranges; iterations must write to different places.

    Which thread runs an iteration depends on the number of threads; what it computes must not.
    """
    builder = building()
    total = 1
    for n in ns:
        total *= n
    if builder is None:
        yield from interpret.parallel(ns)
        return
    low = (builder.thread * total) // builder.threads
    high = ((builder.thread + 1) * total) // builder.threads
    for flat in loop(high, start=low):
        yield unflatten(flat, ns)


def unflatten(flat: Any, ns: tuple[int, ...]) -> tuple[Any, ...]:
    """The indices in a C-ordered box of shape `ns` of its flat index."""
    indices: list[Any] = []
    for n in reversed(ns[1:]):
        indices.append(flat % n if n > 1 else 0)
        flat = flat // n if n > 1 else flat
    return (flat, *reversed(indices))


def vectors(n: int, width: int | None = None) -> Iterator[tuple[Any, int]]:
    """Cover `n` neighbouring elements: a run-time loop of full vectors, then the tail as one narrower vector."""
    width = width or lanes()
    for i in loop(n // width):
        yield i * width, width
    if n % width:
        yield n - n % width, n % width


@contextmanager
def when(condition: Any) -> Iterator[Any]:
    """`with when(condition) as run: if run: ...` — the block runs only where the scalar condition holds."""
    builder = building()
    if builder is None:
        yield bool(condition)
        return
    with builder.b.if_then(condition.ir):
        yield True


class Array:
    """A buffer of static shape, seen through logical indices: x[n, c, h, w] is the same element in every layout.

    Strides are in elements. `x.load(index, width)` reads `width` neighbours in memory; `x.at(*index)` is the same array
    with its origin moved there, for tight loops over a few constant offsets.
    """

    __slots__ = ("kind", "pointer", "shape", "strides")

    def __init__(
        self, pointer: Any, shape: tuple[int, ...], strides: tuple[int, ...], kind: Kind
    ) -> None:
        self.pointer, self.shape, self.strides, self.kind = pointer, shape, strides, kind

    def address(self, index: Any) -> Any:
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
            pointer = b.gep(
                pointer,
                [ir.Constant(I64.ir, constant_part)],
                inbounds=True,
                source_etype=self.kind.ir,
            )
        return pointer

    def at(self, *index: Any) -> "Array":
        return Array(self.address(index), self.shape, self.strides, self.kind)

    def permuted(self, *axes: int) -> "Array":
        """The same memory with its axes in another order."""
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return Array(self.pointer, shape, strides, self.kind)

    def row(self, *index: Any) -> "Array":
        """From the element at (*index, 0, 0, ...) on, as one flat range; the axes left out are contiguous."""
        rest = len(self.shape) - len(index)
        size = math.prod(self.shape[len(index) :])
        return Array(self.address((*index, *[0] * rest)), (size,), (1,), self.kind)

    def opaque(self) -> "Array":
        """The same array through a pointer LLVM cannot see through.

        Loads of neighbouring pixels are then not merged across filter columns: merging keeps them alive in registers
        until the accumulators spill. Only on the host, where inline assembly is safe.
        """
        asm = ir.InlineAsm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", False)
        return Array(active().b.call(asm, [self.pointer]), self.shape, self.strides, self.kind)

    def neighbour(self, i: int) -> Value:
        """The element `i` places behind the origin in memory, whatever axes that crosses."""
        return Array(self.pointer, (1,), (1,), self.kind)[i]

    def load(self, index: Any, width: int) -> Value:
        kind = vector_type(self.kind, width)
        return Value(active().b.load(self.address(index), typ=kind, align=4), self.kind, width)

    def store(self, index: Any, value: Any, width: int = 1) -> None:
        value = value.get() if isinstance(value, Var) else value
        value = value if isinstance(value, Value) else constant(value, self.kind, width)
        active().b.store(value.ir, self.address(index), align=4)

    def __getitem__(self, index: Any) -> Value:
        return self.load(index, 1)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.store(index, value)


def unary(name: str, value: Value) -> Value:
    kind = vector_type(value.kind, value.width)
    suffix = "f32" if value.width == 1 else f"v{value.width}f32"
    function = active().intrinsic(f"llvm.{name}.{suffix}", kind, [kind])
    return Value(active().b.call(function, [value.ir]), value.kind, value.width)


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


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b, lane by lane; both are computed."""
    if not isinstance(condition, Value):
        return interpret.where(condition, a, b)
    if not isinstance(a, Value | Var) and not isinstance(b, Value | Var):
        b = constant(b, F32, condition.width)
    a, b = match(a, b)
    width = max(a.width, condition.width)
    a, b = splat(a, width), splat(b, width)
    if condition.width == 1 and width > 1:
        chosen = active().b.select(condition.ir, a.ir, b.ir)
    else:
        chosen = active().b.select(splat(condition, width).ir, a.ir, b.ir)
    return Value(chosen, a.kind, width)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two; NaN in `a` stays NaN, so that a fault is not hidden."""
    if not any(isinstance(v, Value | Var) for v in (a, b)):
        return interpret.maximum(a, b)
    a, b = match(a, b)
    return Value(active().b.select((b > a).ir, b.ir, a.ir), a.kind, a.width)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two; NaN in `a` stays NaN."""
    if not any(isinstance(v, Value | Var) for v in (a, b)):
        return interpret.minimum(a, b)
    a, b = match(a, b)
    return Value(active().b.select((b < a).ir, b.ir, a.ir), a.kind, a.width)


def sqrt(a: Any) -> Any:
    """The square root, correctly rounded."""
    return unary("sqrt", a) if isinstance(a, Value) else interpret.sqrt(a)


def floor(a: Any) -> Any:
    return unary("floor", a) if isinstance(a, Value) else interpret.floor(a)


def cast(value: Any, kind: Kind) -> Any:
    """Convert between float32, int32 and int64 (int32 to float32 reads it as signed)."""
    if not isinstance(value, Value):
        return interpret.cast(value, kind.numpy)
    if value.kind is kind:
        return value
    b, target = active().b, vector_type(kind, value.width)
    emit = {
        ("f32", "i32"): b.fptosi,
        ("i32", "f32"): b.sitofp,
        ("i64", "f32"): b.sitofp,
        ("i32", "i64"): b.zext,
        ("i64", "i32"): b.trunc,
        ("bool", "f32"): b.uitofp,
        ("f32", "i64"): b.fptosi,
    }[value.kind.name, kind.name]
    return Value(emit(value.ir, target), kind, value.width)


def bitcast(value: Any, kind: Kind) -> Any:
    """The same bits read as another kind of the same size."""
    if not isinstance(value, Value):
        return interpret.bitcast(value, kind.numpy)
    return Value(active().b.bitcast(value.ir, vector_type(kind, value.width)), kind, value.width)


def iota(width: int) -> Any:
    """int32 lanes 0, 1, 2, ..."""
    if building() is None:
        return interpret.iota(width)
    if width == 1:
        return constant(0, I32)
    return Value(ir.Constant(vector_type(I32, width), list(range(width))), I32, width)


def extract(value: Any, lane: int) -> Any:
    """One lane as a scalar."""
    value = value.get() if isinstance(value, Var) else value
    if not isinstance(value, Value):
        return interpret.extract(value, lane)
    if value.width == 1:
        return value
    return Value(active().b.extract_element(value.ir, ir.Constant(I32.ir, lane)), value.kind)


def pack(scalars: list[Any]) -> Any:
    """A vector of the given scalars."""
    if not isinstance(scalars[0], Value):
        return interpret.pack(scalars)
    kind = scalars[0].kind
    vector = ir.Constant(vector_type(kind, len(scalars)), ir.Undefined)
    for lane, scalar in enumerate(scalars):
        vector = active().b.insert_element(vector, scalar.ir, ir.Constant(I32.ir, lane))
    return Value(vector, kind, len(scalars))


def store_lanes(y: Any, index: tuple[Any, ...], value: Any) -> None:
    """Store each lane at its own index along the last axis, where neighbours there are not neighbours in memory."""
    for lane in range(width_of(value)):
        y.store((*index[:-1], index[-1] + lane), extract(value, lane))


def head(value: Any, width: int) -> Any:
    """The first `width` lanes of a vector."""
    value = value.get() if isinstance(value, Var) else value
    if not isinstance(value, Value):
        return interpret.head(value, width)
    if width == value.width:
        return value
    if width == 1:
        return extract(value, 0)
    mask = ir.Constant(ir.VectorType(I32.ir, width), list(range(width)))
    undefined = ir.Constant(vector_type(value.kind, value.width), ir.Undefined)
    return Value(active().b.shuffle_vector(value.ir, undefined, mask), value.kind, width)


def fold(value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """All lanes combined into one scalar, by halves where the width is even."""
    value = value.get() if isinstance(value, Var) else value
    items = [extract(value, lane) for lane in range(width_of(value))]
    while len(items) > 1:
        half = (len(items) + 1) // 2
        items = [
            combine(items[i], items[i + half]) if i + half < len(items) else items[i]
            for i in range(half)
        ]
    return items[0]


def width_of(value: Any) -> int:
    return value.width if isinstance(value, Value | Var) else interpret.width_of(value)
