"""Functions of values: each works on scalars and on lanes, and on NumPy's where a body runs in plain Python."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from foveal.kernel import interpret
from foveal.kernel.builder import BOOL, F32, I32, I64, Kind, active, building, vector_type
from foveal.kernel.ir import Operand, lane_numbers, suffix
from foveal.kernel.values import Scalar, Traced, Value, Var, constant, in_plain_python, match, read, splat, traced


def unary(name: str, operand: Scalar) -> Value:
    """LLVM's function `name` of one float32 operand."""
    value = traced(operand)
    kind = vector_type(value.kind, value.width)
    result = active().b.call(f"llvm.{name}.{suffix(value.width)}", kind, (kind,), value.ir)
    return Value(result, value.kind, value.width)


def select(condition: Value, a: Value, b: Value) -> Value:
    """a where the condition holds, else b, both of one kind and width; the condition may be one truth value for all."""
    kinds = vector_type(BOOL, condition.width), vector_type(a.kind, a.width)
    return Value(active().b.select(*kinds, condition.ir, a.ir, b.ir), a.kind, a.width)


@in_plain_python(interpret.where)
def where(condition: Scalar, a: Scalar, b: Scalar) -> Value:
    """a where the condition holds, else b, lane by lane; both are computed."""
    choice = read(condition)
    if not isinstance(choice, Value):
        # known while the kernel is built
        chosen: Any = a if choice else b
        return chosen
    # two numbers take the kind of an index if both are integers, else float32
    if not isinstance(a, Traced) and not isinstance(b, Traced):
        both_indices = isinstance(a, int) and isinstance(b, int)
        b = constant(b, I64 if both_indices else F32, choice.width)
    a, b = match(a, b)
    width = max(a.width, choice.width)
    a, b = splat(a, width), splat(b, width)
    # LLVM selects a whole vector by one condition, too
    if choice.width != 1:
        choice = splat(choice, width)
    return select(choice, a, b)


@in_plain_python(interpret.maximum)
def maximum(a: Scalar, b: Scalar) -> Value:
    """The larger of two, NaN if one of them is, so that a fault is not hidden.

    With a number on one side it is one instruction: x86's maximum gives the second operand where one is NaN.
    """
    if not isinstance(a, Traced):
        a, b = b, a
    never_nan = not isinstance(b, Traced) and b == b
    a, b = match(a, b)
    larger = select(b > a, b, a)
    if never_nan or a.kind is not F32:
        return larger
    return select(b != b, b, larger)


@in_plain_python(interpret.minimum)
def minimum(a: Scalar, b: Scalar) -> Value:
    """The smaller of two; NaN in `a` stays NaN."""
    a, b = match(a, b)
    return select(b < a, b, a)


@in_plain_python(interpret.sqrt)
def sqrt(a: Scalar) -> Value:
    """The square root, correctly rounded."""
    return unary("sqrt", a)


@in_plain_python(interpret.floor)
def floor(a: Scalar) -> Value:
    """The largest whole number that is not above a."""
    return unary("floor", a)


@in_plain_python(lambda value, kind: interpret.cast(value, kind.numpy))
def cast(value: Scalar, kind: Kind) -> Value:
    """Convert between float32, int32 and int64 (int32 to float32 reads it as signed)."""
    operand = traced(value)
    if operand.kind is kind:
        return operand
    name = {
        ("f32", "i32"): "fptosi",
        ("i32", "f32"): "sitofp",
        ("i64", "f32"): "sitofp",
        ("i32", "i64"): "zext",
        ("i64", "i32"): "trunc",
        ("bool", "f32"): "uitofp",
        ("f32", "i64"): "fptosi",
    }[operand.kind.name, kind.name]
    return convert(name, operand, kind)


def convert(name: str, operand: Value, kind: Kind) -> Value:
    """The operand as another kind, by LLVM's instruction `name`."""
    value = operand.ir
    before, after = (vector_type(k, operand.width) for k in (operand.kind, kind))
    return Value(active().b.pure(f"{name} {before} {value} to {after}", value), kind, operand.width)


@in_plain_python(lambda value, kind: interpret.bitcast(value, kind.numpy))
def bitcast(value: Scalar, kind: Kind) -> Value:
    """The same bits read as another kind of the same size."""
    operand = traced(value)
    return operand if operand.kind is kind else convert("bitcast", operand, kind)


def iota(width: int) -> Value:
    """int32 lanes 0, 1, 2, ..."""
    if building() is None:
        return interpret.iota(width)
    if width == 1:
        return constant(0, I32)
    return Value(lane_numbers(tuple(range(width))), I32, width)


@in_plain_python(interpret.extract)
def extract(value: Scalar, lane: int) -> Value:
    """One lane as a scalar."""
    vector = traced(value)
    if vector.width == 1:
        return vector
    return Value(active().b.extract(vector_type(vector.kind, vector.width), vector.ir, lane), vector.kind)


@in_plain_python(interpret.pack)
def pack(scalars: Sequence[Value | Var]) -> Value:
    """A vector of the given scalars."""
    kind, width = scalars[0].kind, len(scalars)
    vector: Operand = "poison"
    for lane, scalar in enumerate(scalars):
        vector = active().b.insert(vector_type(kind, width), vector, kind.ir, scalar.get().ir, lane)
    return Value(vector, kind, width)


def head(value: Scalar, width: int) -> Value:
    """The first `width` lanes of a vector."""
    return part(value, 0, width)


@in_plain_python(interpret.part)
def part(value: Scalar, start: int, width: int) -> Value:
    """`width` lanes of a vector, from `start` on; those beyond its end hold nothing that may be used."""
    vector = traced(value)
    if width == vector.width:
        return vector
    if width == 1:
        return extract(vector, start)
    # of the second operand, which holds nothing, one lane stands for all
    return shuffle(vector, "poison", (min(lane, vector.width) for lane in range(start, start + width)))


@in_plain_python(interpret.transpose)
def transpose(rows: Sequence[Value | Var]) -> list[Value]:
    """The transpose of n vectors of n lanes, n a power of two, in log2 n exchanges of off-diagonal blocks."""
    values = [row.get() for row in rows]
    n, distance = len(values), 1
    # [n, n] as 2 x 2 blocks of `distance` rows and lanes each: exchange the two blocks beside the diagonal, then double
    while distance < n:
        # which lanes of the rows i and i + distance, numbered one after the other, go into the new row i ...
        upper = [lane + n - distance if lane & distance else lane for lane in range(n)]
        # ... and which ones into the new row i + distance
        lower = [lane + n if lane & distance else lane + distance for lane in range(n)]
        exchanged = list(values)
        for i in (i for i in range(n) if not i & distance):
            a, b = values[i], values[i + distance]
            exchanged[i], exchanged[i + distance] = shuffle(a, b.ir, upper), shuffle(a, b.ir, lower)
        values, distance = exchanged, 2 * distance
    return values


@in_plain_python(interpret.interleave)
def interleave(rows: Sequence[Value | Var]) -> list[Value]:
    """n vectors as n others that hold their first lanes one after the other, then their second ones, and so on."""
    n, width = len(rows), width_of(rows[0])
    # where lane `lane` of vector `number` comes from: element e is lane e // n of row e % n
    elements = [[number * width + lane for lane in range(width)] for number in range(n)]
    return [gather_lanes(rows, [(e % n, e // n) for e in row]) for row in elements]


@in_plain_python(interpret.separate)
def separate(vectors: Sequence[Value | Var]) -> list[Value]:
    """The inverse of `interleave`: of n vectors, every n-th lane from the first on, from the second on, and so on."""
    n, width = len(vectors), width_of(vectors[0])
    elements = [[lane * n + number for lane in range(width)] for number in range(n)]
    return [gather_lanes(vectors, [(e // width, e % width) for e in row]) for row in elements]


def gather_lanes(vectors: Sequence[Value | Var], sources: Sequence[tuple[int, int]]) -> Value:
    """A vector whose lanes are those given as (number of the vector, lane), with one shuffle per vector."""
    values = [vector.get() for vector in vectors]
    if len(values) == 1:
        return shuffle(values[0], "poison", [lane for _, lane in sources])
    width = width_of(values[0])
    result = shuffle(values[0], values[1].ir, [lane + width * min(number, 1) for number, lane in sources])
    for i, value in enumerate(values[2:], start=2):
        # lanes that come from this vector, and those that stay
        chosen = [width + lane if number == i else place for place, (number, lane) in enumerate(sources)]
        result = shuffle(result, value.ir, chosen)
    return result


def shuffle(a: Value, b: Operand, lanes: Iterable[int]) -> Value:
    """A vector of the lanes with these numbers; those of a are numbered first, then those of b."""
    numbers = tuple(lanes)
    return Value(active().b.shuffle(vector_type(a.kind, a.width), a.ir, b, numbers), a.kind, len(numbers))


def fold(value: Scalar, combine: Callable[[Value, Value], Value]) -> Value:
    """All lanes combined into one scalar, by halves where the width is even."""
    vector: Scalar = read(value)
    while width_of(vector) % 2 == 0:
        half = width_of(vector) // 2
        vector = combine(part(vector, 0, half), part(vector, half, half))
    items = [extract(vector, lane) for lane in range(width_of(vector))]
    while len(items) > 1:
        half = (len(items) + 1) // 2
        items = [combine(items[i], items[i + half]) if i + half < len(items) else items[i] for i in range(half)]
    return items[0]


@in_plain_python(interpret.width_of)
def width_of(value: Scalar) -> int:
    """The number of lanes: 1 for a scalar."""
    return value.width if isinstance(value, Value | Var) else 1
