"""The loop nest of row fusion: all reductions over the rows of a domain, and all pointwise steps between, at once.

A softmax takes a row's maximum, then e^(x - maximum) and its sum, then divides. A kernel for each of these would read
the whole domain again; here a task makes all passes over one row before it takes the next one, so that every pass but
the first finds the row in a cache. What a later pass needs again is computed anew where that takes few instructions,
read from the output where it has been stored, and else kept in a row of the thread's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foveal.kernel.lang import Array, Index, Scalar, fold, lanes, loop, parallel, splat, thread, where
from foveal.kernel.random import counters
from foveal.ops.kernels.expression import Step, load, store
from foveal.ops.kernels.reduction import COMBINE, ReductionNest, Walk, combined, walk_through
from foveal.ops.kernels.sizes import CallSizes, numbers_apart, spec_of
from foveal.ops.op import KEYED, Lowering
from foveal.view import View

# Operators of about one instruction; all others take several times as long as a load.
CHEAP = frozenset(
    ["add", "subtract", "multiply", "maximum", "minimum", "where", "greater", "equal", "relu", "constant"]
)
# Instructions that computing a value again may take before it is kept: a store and a load, and the addresses of both.
KEPT_FROM = 4
# What an operator that is not cheap counts for.
COSTLY = 8
# Vectors that one iteration computes, so that neither totals nor the constants of an exponential are waited for, and
# the steps of a pass up to which it does.
UNROLL, MAX_UNROLLED_STEPS = 4, 8
# The step of labels as rows that are 1 at the label and 0 elsewhere.
ONE_HOT = "one_hot"

# A slot, and the number of an array of the call.
Place = tuple[int, int]


@dataclass(frozen=True)
class Pass:
    """One way along a row."""

    #: values that are read at each vector, as (slot, array)
    loads: tuple[Place, ...] = ()
    #: what is computed at each vector, as (slot, step)
    steps: tuple[tuple[int, Step], ...] = ()
    #: values that are written at each vector
    stores: tuple[Place, ...] = ()
    #: what is reduced, as (slot of the result, a key of COMBINE, slot of the values)
    totals: tuple[tuple[int, str, int], ...] = ()
    #: what follows from them, once for each row
    after: tuple[tuple[int, Step], ...] = ()


@dataclass(frozen=True)
class RowProgram:
    """A straight-line program in passes. Arrays are numbered: outputs first, then rows that are kept, then inputs."""

    #: values of a whole row that are read, as (slot, array)
    loads: tuple[Place, ...]
    #: what is computed from them, as (slot, step)
    before: tuple[tuple[int, Step], ...]
    passes: tuple[Pass, ...]
    #: values of a whole row that are written in the end
    stores: tuple[Place, ...]
    #: outputs that a later pass reads again, so that they must stay in the cache
    read_again: frozenset[int]
    #: how many values are kept, from pass to pass, in rows of a thread
    kept: int
    #: how many arrays are read
    inputs: int


@dataclass
class Planner:
    """Cuts a straight-line program into passes. Slots are numbered as in expression.Step: inputs, numbers, steps."""

    #: for each input, True if it varies along a row
    varies: Sequence[bool]
    #: how many numbers the call gives
    numbers: int
    steps: Sequence[Step]
    #: the slot of each output, and whether it has an element for each place of a row
    results: Sequence[tuple[int, bool]]
    #: by slot: True if it varies along a row, and the first pass in which it can be computed
    elements: list[bool] = field(default_factory=list)
    level: list[int] = field(default_factory=list)
    #: by slot: about how many instructions an element takes to be computed from what is read
    instructions: list[int] = field(default_factory=list)
    #: the array of each slot that is stored for each place of a row, and of each that is kept
    stored: dict[int, int] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.elements = [*self.varies, *[False] * self.numbers]
        self.level, self.instructions = [0] * self.first_step, [0] * self.first_step
        for name, _, operands in self.steps:
            self.elements.append(name == ONE_HOT or (name not in COMBINE and any(self.elements[i] for i in operands)))
            latest = max((self.level[i] for i in operands), default=0)
            self.level.append(latest + (name in COMBINE))
            own = 1 if name in CHEAP else COSTLY
            self.instructions.append(own + sum(self.instructions[i] for i in set(operands)) if self.elements[-1] else 0)
        self.stored = {slot: array for array, (slot, is_full) in enumerate(self.results) if is_full}

    @property
    def first_step(self) -> int:
        return len(self.varies) + self.numbers

    def step(self, slot: int) -> Step | None:
        """The step that computes a slot; None for an input or a number."""
        return self.steps[slot - self.first_step] if slot >= self.first_step else None

    def totals(self) -> list[tuple[int, str, int]]:
        """The reductions, as in `Pass.totals`."""
        steps = enumerate(self.steps, start=self.first_step)
        return [(slot, name, operands[0]) for slot, (name, _, operands) in steps if name in COMBINE]

    def plan(self) -> RowProgram:
        totals = self.totals()
        count = 1 + max([self.level[x] for _, _, x in totals] + [self.level[x] for x in self.stored], default=0)
        # what each pass has to have at each vector, and of that True for what it reads
        needed: list[dict[int, bool]] = [{} for _ in range(count)]
        for number in reversed(range(count)):
            wanted = [x for _, _, x in totals if self.level[x] == number]
            # later passes have said by now what they want kept
            wanted += [slot for slot in (*self.stored, *self.kept) if self.level[slot] == number]
            for slot in wanted:
                self.need(slot, number, needed[number])
        first_kept = len(self.results)
        arrays = self.stored | {slot: first_kept + i for slot, i in self.kept.items()}
        arrays |= {slot: first_kept + len(self.kept) + slot for slot in range(len(self.varies))}
        once = [(slot, arrays[slot]) for slot, varies in enumerate(self.varies) if not varies]
        read = {slot for values in needed for slot, is_read in values.items() if is_read and self.step(slot)}
        return RowProgram(
            loads=tuple(once),
            before=self.after(0),
            passes=tuple([self.make_pass(number, values, arrays) for number, values in enumerate(needed)]),
            stores=tuple((slot, array) for array, (slot, is_full) in enumerate(self.results) if not is_full),
            read_again=frozenset(self.stored[slot] for slot in read if slot in self.stored),
            kept=len(self.kept),
            inputs=len(self.varies),
        )

    def need(self, slot: int, number: int, needed: dict[int, bool]) -> None:
        """Note in `needed` that a pass reads a slot (True) or computes it (False), after what it takes for that."""
        if slot in needed or not self.elements[slot]:
            return
        step, instructions, is_earlier = self.step(slot), self.instructions[slot], self.level[slot] < number
        if step is None or (is_earlier and slot in self.stored and instructions > 1):
            needed[slot] = True
        elif is_earlier and instructions >= KEPT_FROM and step[0] != ONE_HOT:
            self.kept.setdefault(slot, len(self.kept))
            needed[slot] = True
        else:
            for operand in step[2]:
                self.need(operand, number, needed)
            needed[slot] = False

    def make_pass(self, number: int, needed: Mapping[int, bool], arrays: Mapping[int, int]) -> Pass:
        """The pass of that number. needed: what it reads and computes, in order. arrays: by slot."""
        # an input may be a result too, which is repeated along the row, and several results may be the same value
        full = [(slot, array) for array, (slot, is_full) in enumerate(self.results) if is_full]
        written = [*full, *((slot, arrays[slot]) for slot in self.kept)]
        return Pass(
            loads=tuple((slot, arrays[slot]) for slot, is_read in needed.items() if is_read),
            steps=tuple((slot, self.steps[slot - self.first_step]) for slot, is_read in needed.items() if not is_read),
            stores=tuple((slot, array) for slot, array in written if self.level[slot] == number),
            totals=tuple(total for total in self.totals() if self.level[total[2]] == number),
            after=self.after(number + 1),
        )

    def after(self, level: int) -> tuple[tuple[int, Step], ...]:
        """The steps that are computed once for a row, as soon as the passes before number `level` are made."""
        steps = enumerate(self.steps, start=self.first_step)
        once = [(i, step) for i, step in steps if not self.elements[i] and step[0] not in COMBINE]
        return tuple((i, step) for i, step in once if self.level[i] == level)


def lower(
    lowering: Lowering,
    outputs: list[View],
    inputs: list[View],
    reduced: tuple[bool, ...],
    steps: tuple[Step, ...],
    results: tuple[int, ...],
) -> None:
    """Call the kernel on outputs and inputs of the domain [kept axes, reduced axes]; their sizes are given by the call,
    but for that of a row of less than two vectors.

    An array has stride 0 along axes that it does not vary along; an output with an element for each row along those of
    a row. steps, results: the straight-line program, in which "sum" and "max" reduce over a row.
    """
    steps, results, numbers = numbers_apart(len(inputs), steps, results, inputs)
    shape, last = outputs[0].shape, len(reduced) - 1
    varies = [any(s for s, r in zip(view.strides, reduced, strict=True) if r) for view in inputs]
    full = [any(s for s, r in zip(view.strides, reduced, strict=True) if r) for view in outputs]
    program = Planner(varies, len(numbers), steps, list(zip(results, full, strict=True))).plan()
    sizes, walk = CallSizes(), walk_through(shape, reduced, 1, ("sum",))
    is_short = shape[last] < 2 * lanes()
    extents = [n if is_short and axis == last else sizes.of(n, axis) for axis, n in enumerate(shape)]

    def spec(view: View, name: str) -> Any:
        *outer, inner = view.strides
        return spec_of(view, extents, [*(sizes.stride(s, name, axis) for axis, s in enumerate(outer)), inner])

    row = [n for n, is_reduced in zip(shape, reduced, strict=True) if is_reduced]
    kept = [lowering.scratch((1, *row), per_thread=True) for _ in range(program.kept)]
    row_extents = [n for n, is_reduced in zip(extents, reduced, strict=True) if is_reduced]
    strides = [*(sizes.stride(s, "kept", axis) for axis, s in enumerate(kept[0].strides[:-1])), 1] if kept else []
    specs = [spec(view, "written") for view in outputs]
    specs += [spec_of(view, [1, *row_extents], strides) for view in kept]
    specs += [spec(view, "read") for view in inputs]
    static: dict[str, Any] = {"program": program, "walk": walk}
    lowering.call(rows, [*outputs, *kept], inputs, specs=specs, sizes=sizes.values, numbers=numbers, **static)


def rows(*arrays: Array, program: RowProgram, walk: Walk, numbers: Sequence[Scalar] = ()) -> None:
    """Make the program's passes over each row. arrays: as RowProgram numbers them. walk: through their domain."""
    domain = arrays[0].extents
    # threads share the rows; where nothing is kept there is one
    for *position, _ in parallel(*(domain[axis] for axis in walk.kept_axes), 1):
        RowNest(arrays, program, walk, numbers, tuple(position)).run()


@dataclass(frozen=True)
class RowNest:
    """What is known while a row is computed, and its loops."""

    arrays: Sequence[Array]
    program: RowProgram
    walk: Walk
    numbers: Sequence[Scalar]
    #: the row's index along the kept axes
    position: tuple[Index, ...]
    #: the values of the whole row, by slot
    known: dict[int, Scalar] = field(default_factory=dict)

    def run(self) -> None:
        for slot, array in self.program.loads:
            self.known[slot] = self.arrays[array][self.index(array, {}, 0)]
        self.known.update(enumerate(self.numbers, start=self.program.inputs))
        self.once(self.program.before)
        for one in self.program.passes:
            self.make(one)
            self.once(one.after)
        for slot, array in self.program.stores:
            self.arrays[array][self.index(array, {}, 0)] = self.known[slot]

    def once(self, steps: Iterable[tuple[int, Step]]) -> None:
        """Compute values of the whole row."""
        for slot, (name, attributes, operands) in steps:
            self.known[slot] = KEYED[name].scalar(*(self.known[i] for i in operands), **dict(attributes))

    def make(self, one: Pass) -> None:
        """Make a pass over the row. Its sums are added in the order of `reduction.reduce`."""
        walk, kinds = self.walk, tuple(kind for _, kind, _ in one.totals)
        if "sum" not in kinds:
            walk = replace(walk, levels=(0,) * len(walk.levels))
        domain = self.arrays[0].extents
        nest = ReductionNest((), (), (), (), (), kinds, walk, 1, domain)
        size, tail, n = lanes(), walk.rest, domain[-1]
        # each of some neighbouring vectors has totals of its own, and so has the tail of a row
        step = UNROLL if len(one.steps) <= MAX_UNROLLED_STEPS else 1
        vectors, blocks = n // size, n // (step * size)
        totals = [nest.initial_totals(width) for width in (*[size] * step, tail) if width]
        for inner, place in nest.rows(totals, self.position, 0):
            for full, block in nest.in_blocks(inner[:step], 0, blocks, walk.last):
                values = [self.vector(one, place, (block * step + i) * size, size) for i in range(step)]
                for registers, value in zip(full, values, strict=True):
                    nest.combine_into(registers, value)
            if step > 1:
                for i in loop(vectors, start=blocks * step):
                    nest.combine_into(inner[0], self.vector(one, place, i * size, size))
            if tail:
                nest.combine_into(inner[-1], self.vector(one, place, n - tail, tail))
        for output, (slot, kind, _) in enumerate(one.totals):
            combine = COMBINE[kind][1]
            whole = fold(combined([registers[output].get() for registers in totals[:step]], combine), combine)
            self.known[slot] = combine(whole, fold(totals[-1][output], combine)) if tail else whole

    def vector(self, one: Pass, place: Mapping[int, Index], i: Index, width: int) -> list[Scalar]:
        """Compute and store `width` elements from place i of the last axis on; returns what the pass reduces.

        place: the index along the other axes.
        """
        values: dict[int, Scalar] = dict(self.known)
        for slot, array in one.loads:
            values[slot] = load(self.arrays[array], self.index(array, place, i), width)
        for slot, (name, attributes, operands) in one.steps:
            if name == ONE_HOT:
                label = splat(values[operands[0]], width)
                values[slot] = where(label == counters(i, width), 1.0, 0.0)
            else:
                values[slot] = KEYED[name].scalar(*(values[x] for x in operands), **dict(attributes))
        for slot, array in one.stores:
            # what is read again stays in the cache
            in_cache = array in self.program.read_again or self.is_kept(array)
            aligned = not in_cache and width == lanes()
            store(self.arrays[array], self.index(array, place, i), values[slot], width, aligned)
        return [splat(values[slot], width) for _, _, slot in one.totals]

    def is_kept(self, array: int) -> bool:
        """True for the rows that are a thread's own."""
        outputs = len(self.arrays) - self.program.inputs - self.program.kept
        return outputs <= array < outputs + self.program.kept

    def index(self, array: int, place: Mapping[int, Index], i: Index) -> tuple[Index, ...]:
        """The index of an element of the row: `place`, 0 along axes that it does not have, and i along the last."""
        kept_axes, last = self.walk.kept_axes, self.walk.last
        places = {**dict(zip(kept_axes, self.position, strict=True)), **place, last: i}
        if self.is_kept(array):
            return (thread(), *(places.get(axis, 0) for axis in (*self.walk.reduced_axes, last)))
        return tuple(places.get(axis, 0) for axis in range(last + 1))
