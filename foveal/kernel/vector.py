"""Functions of values: each works on scalars and on lanes, and on NumPy's where a body runs in plain Python."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from foveal.kernel import interpret
from foveal.kernel.values import F32, I32, I64, Kind, Value, Var, active, building, constant, match, splat, vector_type


def unary(name: str, value: Value) -> Value:
    kind = vector_type(value.kind, value.width)
    suffix = "f32" if value.width == 1 else f"v{value.width}f32"
    function = active().intrinsic(f"llvm.{name}.{suffix}", kind, [kind])
    return Value(active().b.call(function, [value.ir]), value.kind, value.width)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b, lane by lane; both are computed."""
    if not isinstance(condition, Value):
        return interpret.where(condition, a, b)
    if not isinstance(a, Value | Var) and not isinstance(b, Value | Var):
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


def maximum(a: Any, b: Any) -> Any:
    """The larger of two, NaN if one is, so that a fault is not hidden.

    With a number on one side it is one instruction: x86's maximum gives the second operand where one is NaN.
    """
    if not any(isinstance(v, Value | Var) for v in (a, b)):
        return interpret.maximum(a, b)
    if not isinstance(a, Value | Var):
        a, b = b, a
    certain = not isinstance(b, Value | Var) and b == b
    a, b = match(a, b)
    larger = Value(active().b.select((b > a).ir, b.ir, a.ir), a.kind, a.width)
    if certain or a.kind is not F32:
        return larger
    return Value(active().b.select((b != b).ir, b.ir, larger.ir), a.kind, a.width)


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
    return part(value, 0, width)


def part(value: Any, start: int, width: int) -> Any:
    """`width` lanes of a vector, from `start` on."""
    value = value.get() if isinstance(value, Var) else value
    if not isinstance(value, Value):
        return interpret.part(value, start, width)
    if width == value.width:
        return value
    if width == 1:
        return extract(value, start)
    mask = ir.Constant(ir.VectorType(I32.ir, width), list(range(start, start + width)))
    undefined = ir.Constant(vector_type(value.kind, value.width), ir.Undefined)
    return Value(active().b.shuffle_vector(value.ir, undefined, mask), value.kind, width)


def transpose(rows: list[Any]) -> list[Any]:
    """n vectors of n lanes as a matrix turned over; n is a power of two. log2 n exchanges of off-diagonal blocks."""
    rows = [row.get() if isinstance(row, Var) else row for row in rows]
    if not isinstance(rows[0], Value):
        return interpret.transpose(rows)
    n, distance = len(rows), 1
    while distance < n:
        upper = [lane + n - distance if lane & distance else lane for lane in range(n)]
        lower = [lane + n if lane & distance else lane + distance for lane in range(n)]
        turned = list(rows)
        for i in (i for i in range(n) if not i & distance):
            a, b = rows[i], rows[i + distance]
            turned[i], turned[i + distance] = shuffle(a, b, upper), shuffle(a, b, lower)
        rows, distance = turned, 2 * distance
    return rows


def shuffle(a: Value, b: Value, lanes: list[int]) -> Value:
    """Lanes of a, then of b, by number."""
    mask = ir.Constant(ir.VectorType(I32.ir, len(lanes)), lanes)
    return Value(active().b.shuffle_vector(a.ir, b.ir, mask), a.kind, len(lanes))


def fold(value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """All lanes combined into one scalar, by halves where the width is even."""
    value = value.get() if isinstance(value, Var) else value
    items = [extract(value, lane) for lane in range(width_of(value))]
    while len(items) > 1:
        half = (len(items) + 1) // 2
        items = [combine(items[i], items[i + half]) if i + half < len(items) else items[i] for i in range(half)]
    return items[0]


def width_of(value: Any) -> int:
    return value.width if isinstance(value, Value | Var) else interpret.width_of(value)
