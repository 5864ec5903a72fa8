"""Functions of values: each works on scalars and on lanes, and on NumPy's where a body runs in plain Python."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llvmlite import ir

from foveal.kernel import interpret
from foveal.kernel.values import (
    F32,
    I32,
    I64,
    Index,
    Kind,
    Scalar,
    Traced,
    Value,
    Var,
    active,
    building,
    constant,
    match,
    read,
    splat,
    vector_type,
)

if TYPE_CHECKING:
    from foveal.kernel.lang import Array


def unary(name: str, value: Value) -> Value:
    kind = vector_type(value.kind, value.width)
    suffix = "f32" if value.width == 1 else f"v{value.width}f32"
    function = active().intrinsic(f"llvm.{name}.{suffix}", kind, [kind])
    return Value(active().b.call(function, [value.ir]), value.kind, value.width)


def where(condition: Scalar, a: Scalar, b: Scalar) -> Value:
    """a where the condition holds, else b, lane by lane; both are computed."""
    if not isinstance(condition, Value):
        return interpret.where(condition, a, b)
    if not isinstance(a, Traced) and not isinstance(b, Traced):
        both_indices = isinstance(a, int) and isinstance(b, int)
        b = constant(b, I64 if both_indices else F32, condition.width)
    a, b = match(a, b)
    width = max(a.width, condition.width)
    a, b = splat(a, width), splat(b, width)
    if condition.width == 1 and width > 1:
        chosen = active().b.select(condition.ir, a.ir, b.ir)
    else:
        chosen = active().b.select(splat(condition, width).ir, a.ir, b.ir)
    return Value(chosen, a.kind, width)


def maximum(a: Scalar, b: Scalar) -> Value:
    """The larger of two, NaN if one is, so that a fault is not hidden.

    With a number on one side it is one instruction: x86's maximum gives the second operand where one is NaN.
    """
    if not any(isinstance(v, Traced) for v in (a, b)):
        return interpret.maximum(a, b)
    if not isinstance(a, Traced):
        a, b = b, a
    certain = not isinstance(b, Traced) and b == b
    a, b = match(a, b)
    larger = Value(active().b.select((b > a).ir, b.ir, a.ir), a.kind, a.width)
    if certain or a.kind is not F32:
        return larger
    return Value(active().b.select((b != b).ir, b.ir, larger.ir), a.kind, a.width)


def minimum(a: Scalar, b: Scalar) -> Value:
    """The smaller of two; NaN in `a` stays NaN."""
    if not any(isinstance(v, Traced) for v in (a, b)):
        return interpret.minimum(a, b)
    a, b = match(a, b)
    return Value(active().b.select((b < a).ir, b.ir, a.ir), a.kind, a.width)


def sqrt(a: Scalar) -> Value:
    """The square root, correctly rounded."""
    return unary("sqrt", a) if isinstance(a, Value) else interpret.sqrt(a)


def floor(a: Scalar) -> Value:
    return unary("floor", a) if isinstance(a, Value) else interpret.floor(a)


def cast(value: Scalar, kind: Kind) -> Value:
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


def bitcast(value: Scalar, kind: Kind) -> Value:
    """The same bits read as another kind of the same size."""
    if not isinstance(value, Value):
        return interpret.bitcast(value, kind.numpy)
    return Value(active().b.bitcast(value.ir, vector_type(kind, value.width)), kind, value.width)


def iota(width: int) -> Value:
    """int32 lanes 0, 1, 2, ..."""
    if building() is None:
        return interpret.iota(width)
    if width == 1:
        return constant(0, I32)
    return Value(ir.Constant(vector_type(I32, width), list(range(width))), I32, width)


def extract(value: Scalar, lane: int) -> Value:
    """One lane as a scalar."""
    value = read(value)
    if not isinstance(value, Value):
        return interpret.extract(value, lane)
    if value.width == 1:
        return value
    return Value(active().b.extract_element(value.ir, ir.Constant(I32.ir, lane)), value.kind)


def pack(scalars: Sequence[Value | Var]) -> Value:
    """A vector of the given scalars."""
    if not isinstance(scalars[0], Traced):
        return interpret.pack(scalars)
    kind, width = scalars[0].kind, len(scalars)
    vector = ir.Constant(vector_type(kind, width), ir.Undefined)
    for lane, scalar in enumerate(scalars):
        vector = active().b.insert_element(vector, scalar.get().ir, ir.Constant(I32.ir, lane))
    return Value(vector, kind, width)


def store_lanes(y: "Array", index: tuple[Index, ...], value: Scalar) -> None:
    """Store each lane at its own index along the last axis, where neighbours there are not neighbours in memory."""
    for lane in range(width_of(value)):
        y.store((*index[:-1], index[-1] + lane), extract(value, lane))


def head(value: Scalar, width: int) -> Value:
    """The first `width` lanes of a vector."""
    return part(value, 0, width)


def part(value: Scalar, start: int, width: int) -> Value:
    """`width` lanes of a vector, from `start` on."""
    value = read(value)
    if not isinstance(value, Value):
        return interpret.part(value, start, width)
    if width == value.width:
        return value
    if width == 1:
        return extract(value, start)
    mask = ir.Constant(ir.VectorType(I32.ir, width), list(range(start, start + width)))
    undefined = ir.Constant(vector_type(value.kind, value.width), ir.Undefined)
    return Value(active().b.shuffle_vector(value.ir, undefined, mask), value.kind, width)


def transpose(rows: Sequence[Value | Var]) -> list[Value]:
    """The transpose of n vectors of n lanes, n a power of two, in log2 n exchanges of off-diagonal blocks."""
    if not isinstance(rows[0], Traced):
        return interpret.transpose(rows)
    values = [row.get() for row in rows]
    n, distance = len(values), 1
    while distance < n:
        # of two rows `distance` apart, the blocks that both exchange
        upper = [lane + n - distance if lane & distance else lane for lane in range(n)]
        lower = [lane + n if lane & distance else lane + distance for lane in range(n)]
        exchanged = list(values)
        for i in (i for i in range(n) if not i & distance):
            a, b = values[i], values[i + distance]
            exchanged[i], exchanged[i + distance] = shuffle(a, b, upper), shuffle(a, b, lower)
        values, distance = exchanged, 2 * distance
    return values


def shuffle(a: Value, b: Value, lanes: list[int]) -> Value:
    """Lanes of a, then of b, by number."""
    mask = ir.Constant(ir.VectorType(I32.ir, len(lanes)), lanes)
    return Value(active().b.shuffle_vector(a.ir, b.ir, mask), a.kind, len(lanes))


def fold(value: Scalar, combine: Callable[[Value, Value], Value]) -> Value:
    """All lanes combined into one scalar, by halves where the width is even."""
    value = read(value)
    items = [extract(value, lane) for lane in range(width_of(value))]
    while len(items) > 1:
        half = (len(items) + 1) // 2
        items = [combine(items[i], items[i + half]) if i + half < len(items) else items[i] for i in range(half)]
    return items[0]


def width_of(value: Scalar) -> int:
    return value.width if isinstance(value, Value | Var) else interpret.width_of(value)
