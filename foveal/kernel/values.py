"""What kernel bodies compute with while they are built: SSA values and registers."""

import math
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast, overload

import numpy as np

from foveal.errors import KernelError
from foveal.kernel import interpret
from foveal.kernel.builder import BOOL, F32, I64, Kind, active, building, vector_type
from foveal.kernel.ir import Operand, splatted, suffix, wrapped

P = ParamSpec("P")
R = TypeVar("R")


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
            return Value(active().b.multiply(value.base, other), I64, 1, value.plus * other)
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
        return binary(self.get(), other, "and", "")

    def __or__(self, other: "Scalar") -> "Value":
        return binary(self.get(), other, "or", "")

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

    def __init__(self, base: Operand, kind: Kind, width: int = 1, plus: int = 0) -> None:
        self.base, self.kind, self.width, self.plus = base, kind, width, plus

    def get(self) -> "Value":
        return self

    @property
    def is_index(self) -> bool:
        """True for one int64, which is what addresses are computed from."""
        return self.kind is I64 and self.width == 1

    @property
    def ir(self) -> Operand:
        """The LLVM value, with `plus` added."""
        return active().b.add(self.base, self.plus) if self.plus else self.base


class Var(Traced):
    """A mutable register: `acc += v`."""

    __slots__ = ("kind", "register", "width")

    def __init__(self, initial: Value) -> None:
        self.kind, self.width = initial.kind, initial.width
        self.register = active().b.register(vector_type(self.kind, self.width), initial.ir)

    def get(self) -> Value:
        return Value(active().b.read(self.register), self.kind, self.width)

    def set(self, value: "Scalar") -> None:
        """Assign a new value; a scalar to each lane."""
        value = read(value)
        value = value if isinstance(value, Value) else constant(value, self.kind, self.width)
        value = splat(value, self.width)
        if value.kind is not self.kind or value.width != self.width:
            what = f"{value.width} lanes of {value.kind.name}"
            raise KernelError(
                f"{what} assigned to a register of {self.width} lanes of {self.kind.name}: convert with cast()"
            )
        active().b.assign(self.register, value.ir)

    def __iadd__(self, value: "Scalar") -> "Var":  # type: ignore[override]
        self.set(self.get() + value)
        return self

    def fma(self, a: "Scalar", b: "Scalar") -> None:
        """self += a * b, in one instruction."""
        self.set(fma(a, b, self.get()))


# What kernel bodies are annotated with. These are the traced types; where a body runs in plain Python, NumPy's scalars
# and one-dimensional arrays stand for a Value, and interpret.Box for a Var.

# a place along an axis: known while the kernel is built, or computed when it runs
Index = int | Value
# what an expression computes with, one lane or a vector of lanes
Scalar = Value | Var | float


# to ask for a union would make one each time
SEVERAL = (list, tuple)


def is_traced(operands: Iterable[object]) -> bool:
    """True if any of the operands, or of those in a list of operands, is a traced value."""
    # a loop takes a third of the time of any()
    for v in operands:  # noqa: SIM110
        if isinstance(v, Traced) or (isinstance(v, SEVERAL) and is_traced(v)):
            return True
    return False


def in_plain_python(double: Callable[..., object]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function of the language its other meaning: called without a traced operand it is `double`.

    That is so where a body runs in plain Python, and for numbers that are known while a kernel is built.
    """

    def with_double(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def either(*operands: P.args, **options: P.kwargs) -> R:
            chosen = function if is_traced(operands) else double
            return cast(R, chosen(*operands, **options))

        return either

    return with_double


def read(value: Scalar) -> Value | float:
    """What a register holds now; any other value as it is."""
    return value.get() if isinstance(value, Var) else value


def traced(value: Scalar) -> Value:
    """The value of an operand that is traced: what a register holds now, or the value itself."""
    assert isinstance(value, Traced)
    return value.get()


def binary(left: Value, right: Scalar, integer: str, real: str, swap: bool = False) -> Value:
    """left op right by the builder's method `integer` or `real`, whichever the kind asks for; swap: right op left."""
    a, b = match(left, right)
    if swap:
        a, b = b, a
    builder = active()
    if a.kind is F32:
        if not real:
            raise KernelError(f"`{integer}` is for integers, not for float32 values")
        x, y = a.base, b.base
        return Value(builder.b.pure(f"{real} {builder.flags} {vector_type(F32, a.width)} {x}, {y}", x, y), F32, a.width)
    if not integer:
        raise KernelError(f"`{real}` is for float32 values, not for integers")
    return Value(builder.b.integer(integer, vector_type(a.kind, a.width), a.ir, b.ir), a.kind, a.width)


# LLVM's names of comparisons of floats: with NaN all are false but for the last
REAL = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge", "==": "oeq", "!=": "une"}


def compare(sign: str, left: Value, right: Scalar) -> Value:
    """Lanes of bool: left `sign` right. A comparison with NaN is false, but for `!=`, which is true."""
    a, b = match(left, right)
    builder, kind = active().b, vector_type(a.kind, a.width)
    if a.kind is F32:
        return Value(builder.pure(f"fcmp {REAL[sign]} {kind} {a.base}, {b.base}", a.base, b.base), BOOL, a.width)
    return Value(builder.compare(sign, kind, a.ir, b.ir), BOOL, a.width)


# bits of the integers
BITS = {"i32": 32, "i64": 64, "bool": 1}


@lru_cache(4096)
def real(number: float, negative: bool) -> str:
    """A number, rounded to float32, as LLVM writes it: the bits of a double. negative: that of 0, which decides."""
    rounded = -0.0 if negative else float(np.float32(number))
    return f"0x{struct.pack('>d', rounded).hex()}"


def constant(number: float, kind: Kind, width: int = 1) -> Value:
    """A Python number as a constant of `width` equal lanes."""
    base: Operand
    if kind is F32:
        base = real(number, number == 0 and math.copysign(1.0, number) < 0)
    else:
        base = wrapped(int(number), BITS[kind.name])
    return Value(base if width == 1 else splatted(kind.ir, base), kind, width)


def match(left: Scalar, right: Scalar) -> tuple[Value, Value]:
    """Two operands as values of the same kind and width: Python numbers become constants, scalars are broadcast."""
    operands = x, y = read(left), read(right)
    if isinstance(x, Value) and isinstance(y, Value) and x.kind is y.kind and x.width == y.width:
        return x, y
    values = [v for v in operands if isinstance(v, Value)]
    kind, width = values[0].kind, max(v.width for v in values)
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
    return Value(active().b.splat(value.kind.ir, value.ir, width), value.kind, width)


@in_plain_python(interpret.fma)
def fma(a: Scalar, b: Scalar, c: Scalar) -> Value:
    """a * b + c, rounded once where the target can."""
    x, y, z = read(a), read(b), read(c)
    if not (isinstance(x, Value) and isinstance(y, Value) and isinstance(z, Value) and x.width == y.width == z.width):
        if isinstance(x, Value) or isinstance(y, Value):
            x, y = match(x, y)
        # each of the three is as wide as the widest after these two
        x, z = match(x, z)
        y, z = match(y, z)
    for value in (x, y, z):
        if value.kind is not F32:
            raise KernelError(f"fma is for float32 values, not for {value.kind.name}: convert with cast()")
    kind = vector_type(F32, x.width)
    name = f"llvm.fmuladd.{suffix(x.width)}"
    return Value(active().b.call(name, kind, (kind, kind, kind), x.base, y.base, z.base), F32, x.width)


def var(initial: Scalar = 0.0, width: int = 1) -> Var:
    """A register that can be assigned: float32 unless `initial` is a value of another kind."""
    value = read(initial)
    if isinstance(value, Value):
        return Var(splat(value, width))
    if building() is None:
        return cast(Var, interpret.Box(value, width))
    return Var(constant(value, F32, width))
