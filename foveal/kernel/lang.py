"""The kernel language: run under a Builder, a Python function emits LLVM IR; run without one, it computes.

`loop(n)` emits a run-time loop and `range(n)` unrolls; shapes are Python ints while a kernel is built. So the body

    def smooth(y: Array, x: Array, w: Array) -> None:
        for i in loop(y.shape[0]):
            total = var()
            for r in range(w.shape[0]):
                total.fma(x[i + r], w[r])
            y[i] = total

emits, if y has 1000 elements and w has 3, what a C compiler makes of

    for (long i = 0; i < 1000; i++) {
        float total = 0;
        total += x[i] * w[0];
        total += x[i + 1] * w[1];
        total += x[i + 2] * w[2];
        y[i] = total;
    }

A body is written once and has two meanings. While a `Builder` is active, its values are `Value`s (LLVM's SSA values),
and every operator emits an instruction. Else they are NumPy's, so `print`, `pdb` and index errors work on it:
interpret.py has that half. Type annotations name the first meaning: `Array`, `Index` (a place along an axis), `Scalar`
(one lane or a vector of lanes), `Value` (what an expression gives), `Var` (a register).

Both meanings decide how the language looks. A branch is `for _ in when(condition):` and not `with when(condition):`,
since in plain Python a body whose condition is false must be skipped; a `for` over nothing does that, and a `with`
cannot. The same holds for its else, `otherwise`.

Where a nest of loops is needed in several kernels, a generator owns it: it may emit loops, and its user's body is
traced once for each `yield`, inside of the loops that are open there. `vectors` is the shortest example: it has two
`yield`s, one inside of a loop and one after it, so a body under it is traced twice, for full vectors and for the tail.

What the language cannot mean it refuses: the truth of a traced value (use `where`), and a loop left by `break` or
`return`. Kernels import all they use from here.
"""

import itertools
import math
from collections.abc import Iterator

from foveal.errors import KernelError
from foveal.kernel import interpret
from foveal.kernel.array import Array, choose, store_lanes
from foveal.kernel.builder import (
    BOOL,
    CONTRACT,
    F32,
    I32,
    I64,
    KINDS,
    PARALLEL_LOOPS,
    POINTER,
    REASSOCIATE,
    Builder,
    Kind,
    build_in,
    building,
    l1,
    l2,
    lanes,
    llc,
    registers,
)
from foveal.kernel.target import LINE
from foveal.kernel.values import Index, Scalar, Value, Var, constant, fma, splat, var
from foveal.kernel.vector import (
    bitcast,
    cast,
    extract,
    floor,
    fold,
    head,
    interleave,
    iota,
    maximum,
    minimum,
    pack,
    part,
    separate,
    sqrt,
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
    "interleave",
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
    "separate",
    "splat",
    "sqrt",
    "store_lanes",
    "thread",
    "transpose",
    "unflatten",
    "var",
    "vectors",
    "walk",
    "when",
    "where",
    "width_of",
]


# the number of pieces that a thread's share of a parallel loop is cut into: enough that others can take over most of a
# share whose thread was interrupted, and few enough that counting them costs nothing compared with the work
PIECES = 8


def loop(end: Index, start: Index = 0, step: Index = 1, adds: bool = False) -> Iterator[Index]:
    """for i in loop(end, start): one run-time loop from `start` up to, not including, `end`; the body is traced
    once.

    adds: in an innermost loop, the index times a stride that the call gives is added up from iteration to iteration,
    which takes a register for each stride but no multiplication.
    """
    builder = building()
    if builder is None:
        yield from range(start, end, step)
        return
    first, bound, stride = (v.ir if isinstance(v, Value) else v for v in (start, end, step))
    # at most one iteration needs no loop
    if isinstance(bound, int) and isinstance(first, int) and isinstance(stride, int) and first + stride >= bound:
        yield from range(first, bound, stride)
        return
    scope = builder.b.open_loop(first, bound, adds)
    try:
        yield Value(scope.index, I64)
    except GeneratorExit:
        builder.left_early = True
        raise
    builder.b.close_loop(scope, first, bound, stride)


def when(condition: Scalar) -> Iterator[None]:
    """for _ in when(c): the body runs if the condition, one truth value, holds; it is traced once."""
    builder = building()
    if not isinstance(condition, Value):
        yield from [None] * bool(condition)
        return
    assert builder is not None
    scope = builder.b.open_branch(condition.ir)
    try:
        yield
    except GeneratorExit:
        builder.left_early = True
        raise
    builder.b.close_branch(scope)


def otherwise(condition: Scalar) -> Iterator[None]:
    """for _ in otherwise(c): the body runs if the condition, one truth value, does not hold; the else of `when(c)`."""
    return when(condition == False if isinstance(condition, Value) else not condition)  # noqa: E712


def thread() -> Index:
    """The index of the thread that runs this, below the number of threads."""
    builder = building()
    return Value(builder.thread, I64) if builder else 0


def loops(*ns: Index) -> Iterator[tuple[Index, ...]]:
    """Nested loops, the last one innermost; yields the tuple of indices."""
    if building() is None:
        yield from itertools.product(*map(range, ns))
        return
    if not ns:
        yield ()
        return
    for i in loop(ns[0]):
        for rest in loops(*ns[1:]):
            yield (i, *rest)


def parallel(*ns: Index) -> Iterator[tuple[Index, ...]]:
    """Nested loops shared out among the threads; iterations must write to different places.

    Each thread has a contiguous range of its own, takes it in pieces, and then takes pieces of what others have left:
    a thread whose core is slower, or busy otherwise, keeps nobody waiting for long. Which thread runs an iteration may
    differ from run to run; what the iteration computes must not. Two such loops of a kernel overlap: the second must
    not need what the first has done. If one of `ns` is 0, nothing is emitted. It stands in no other loop or condition,
    else KernelError is raised.

    What a kernel does outside of such loops, each thread does that comes; one may do it when all iterations are taken,
    or not come at all. So it must write nothing but memory that the thread has for itself.
    """
    builder = building()
    if builder is None:
        yield from interpret.parallel(tuple(int(n) for n in ns))
        return
    total = math.prod(ns)
    if isinstance(total, int) and total == 0:
        return
    if builder.b.scopes:
        raise KernelError(
            f"kernel {builder.name}: parallel() inside of a loop or a condition; threads share out the iterations of"
            " such a loop once in a call, so put it outermost, and loop() and when() inside of it"
        )
    if builder.counted is not None:
        assert isinstance(total, int), "a kernel whose sizes are known"
        builder.counted.append(total)
        return
    builder.loops += 1
    pieces = shares if builder.loops < PARALLEL_LOOPS else turns
    for start, stop in pieces(builder, total):
        # over the iterations of a piece
        if all(isinstance(n, int) for n in ns[1:]):
            for flat in loop(stop, start=start):
                yield unflatten(flat, ns)
        else:
            yield from walk(start, stop, ns)


def shares(builder: Builder, total: Index) -> Iterator[tuple[Index, Index]]:
    """Pieces (start, stop) of a parallel loop: of this thread's share, then what is left of the others' shares."""
    counters = builder.counters_of(builder.loops - 1)
    mine, threads = Value(builder.thread, I64), Value(builder.threads, I64)
    # over the threads whose shares are taken: this one first, then those with higher indices, then the lower ones
    for distance in loop(threads):
        candidate = distance + mine
        owner = where(candidate < threads, candidate, candidate - threads)
        # the owner's share of all iterations
        first = owner * total // threads
        end = (owner + 1) * total // threads
        size = maximum((end - first) // PIECES, 1)
        # over the pieces of it that nobody has taken
        counter = Array(counters, (1,), (1,), I64).address(owner)
        for taken in builder.take(counter, (end - first).ir, size.ir):
            start = first + Value(taken, I64)
            yield start, minimum(start + size, end)


def turns(builder: Builder, total: Index) -> Iterator[tuple[Index, Index]]:
    """Pieces (start, stop) of a parallel loop that has no counters of its own, as threads come for them."""
    count = maximum(minimum(Value(builder.threads, I64) * PIECES, total), 1)
    for taken in builder.take_in_turn(count.ir):
        piece = Value(taken, I64)
        yield piece * total // count, (piece + 1) * total // count


def walk(start: Index, stop: Index, ns: tuple[Index, ...]) -> Iterator[tuple[Index, ...]]:
    """The indices, in a box of shape `ns`, of the elements `start` ... `stop` in C order, from one to the next.

    Dividing by a number that is known only now takes as long as dozens of additions. The size of the first axis does
    not matter.
    """
    if building() is None:
        assert isinstance(start, int)
        assert isinstance(stop, int)
        for flat in range(start, stop):
            yield unflatten(flat, ns)
        return
    # an axis of one place has the number 0
    places = [i if isinstance(i, int) else var(i) for i in unflatten(start, ns)]
    for _ in loop(stop, start=start):
        yield tuple(i if isinstance(i, int) else i.get() for i in places)
        # one place on along the last axis; where that is its end, on along the axis before it
        carry: Scalar = 1
        for i, n in reversed(list(zip(places[1:], ns[1:], strict=True))):
            if isinstance(i, Var):
                following = i.get() + carry
                is_inside = following < n
                i.set(where(is_inside, following, 0))
                carry = where(is_inside, 0, 1)
        if isinstance(places[0], Var):
            places[0] += carry


def unflatten(flat: Index, ns: tuple[Index, ...]) -> tuple[Index, ...]:
    """The indices, in a box of shape `ns`, of the element whose place in C order is `flat`."""
    indices: list[Index] = []
    for n in reversed(ns[1:]):
        one = isinstance(n, int) and n == 1
        indices.append(0 if one else flat % n)
        flat = flat if one else flat // n
    return (flat, *reversed(indices))


def vectors(n: Index, width: int | None = None, tail: int | None = None) -> Iterator[tuple[Index, int]]:
    """Cover `n` neighbouring elements: a run-time loop of full vectors, then the tail as one narrower vector.

    Yields each vector's first element and its width. width: of a full vector, the target's unless it is given. tail: of
    how many elements the tail is, where the call gives n.
    """
    width = width or lanes()
    for i in loop(n // width):
        yield i * width, width
    yield from tail_of(n, width, tail)


def tail_of(n: Index, width: int, tail: int | None) -> Iterator[tuple[Index, int]]:
    """The tail of `vectors`, if there is one."""
    if tail is None:
        assert isinstance(n, int)
        tail = n % width
    if tail:
        yield n - tail, tail


def parallel_vectors(n: Index, width: int | None = None, tail: int | None = None) -> Iterator[tuple[Index, int]]:
    """`vectors` with the full vectors shared out among the threads; one thread takes the tail.

    These are two parallel loops, so what is said about two of them at `parallel` holds for the tail.
    """
    width = width or lanes()
    for (i,) in parallel(n // width):
        yield i * width, width
    for start, rest in tail_of(n, width, tail):
        for _ in parallel(1):
            yield start, rest
