"""Gradients of several batches for one update (`accumulate` of compile_step): sums in memory, and the update from them.

A training step sees a Window in place of its optimiser: what the step's program writes are the sums. After the last
batch of a window a second program, without a model in it, updates the parameters from the sums.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.build import build
from foveal.errors import NumericsError, ShapeError, StateError
from foveal.guard import Guard, guard_updates
from foveal.ops.op import Tensor
from foveal.program import Program
from foveal.programs import Programs
from foveal.strides import Ndarray, Shape
from foveal.trace import current, tracing
from foveal.variable import Variable
from foveal.watch import Same


class Window:
    """The batches of one update: how many were taken, and the sum of their gradients, float32, for each parameter.

    The gradient of a batch counts as often as the batch has images, and the update divides by the number of all of
    them, so that means over batches become the mean over the window. A loss that is a sum (reduction "sum") is added up
    and not divided.

    optimizer: what updates the parameters. batches: how many make an update. added: True for a loss that is a sum.
    """

    # What an update is made of, for messages.
    parts = "batches"

    def __init__(self, optimizer: Any, batches: int, added: bool, threads: int | None) -> None:
        self.optimizer, self.batches, self.added, self.threads = optimizer, batches, added, threads
        # of each parameter that has had a gradient; those that have none in this window hold zeros
        self.sums: dict[Variable, Variable] = {}
        # the parameters that have a gradient in this window
        self.held: frozenset[Variable] = frozenset()
        # batches of this window that were taken, and what their weights sum up to
        self.taken, self.total = 0, 0
        # whether the last update was carried out
        self.carried_out = False
        # read by the step's program: the weight of its batch; by the update: 1 / the sum of all weights
        self.weight, self.scale = Variable(np.float32(1), "weight of the batch"), Variable(np.float32(1), "scale")
        self.programs: Programs[tuple[Program, Guard | None]] = Programs()

    # What a training step asks of an optimiser.

    @property
    def parameters(self) -> Iterable[Variable]:
        return getattr(self.optimizer, "parameters", ())

    def begin(self) -> None:
        """Let the optimiser say whether it could take a step now; it takes one only after the last batch."""
        self.optimizer.begin()
        self.optimizer.undo()

    def undo(self) -> None:
        """Nothing was begun."""

    def structure(self) -> tuple[Hashable, ...]:
        structure: tuple[Hashable, ...] = self.optimizer.structure()
        return structure

    def own_gradients(self, gradients: Mapping[Variable, Any]) -> dict[Variable, Any]:
        own: dict[Variable, Any] = self.optimizer.own_gradients(gradients)
        return own

    def assignments(self, gradients: dict[Variable, Tensor]) -> list[tuple[Variable, Tensor]]:
        """Return what the program of a batch writes: the sums with its gradients added."""
        lift = current().lift
        assignments: list[tuple[Variable, Tensor]] = []
        for p, g in self.own_gradients(gradients).items():
            total = self.sum_of(p)
            assignments.append((total, lift(total) + g * lift(self.weight)))
        return assignments

    def sum_of(self, p: Variable) -> Variable:
        """Return the memory of the sum of a parameter's gradients."""
        if p not in self.sums:
            self.sums[p] = Variable(np.zeros(p.shape, np.float32), f"the sum of gradients of {p.name}")
        return self.sums[p]

    # What the step does before and after a batch.

    def weigh(self, program: Program) -> None:
        """Set the weight of the batch that a step's program is about to take."""
        images = self.weight_of(program.arguments[0].shape)
        if self.weight.data != images:
            self.weight.data = images

    def weight_of(self, shape: Shape) -> int:
        """Return the weight of a batch whose first input has a shape: its images, 1 where losses are added up."""
        return 1 if self.added else (*shape, 1)[0]

    def add(self, program: Program) -> None:
        """Count a batch that a step's program has taken."""
        self.taken += 1
        self.total += int(self.weight.data)
        if not self.held.issuperset(program.updated):
            written = set(program.updated)
            self.held |= {p for p, total in self.sums.items() if total in written}

    @property
    def full(self) -> bool:
        """True if all batches of this window were taken."""
        return self.taken >= self.batches

    def prepare(self, optimizer: Any) -> None:
        """Follow an optimiser that was exchanged, and make an update that an interruption (Ctrl-C) has prevented."""
        self.optimizer = optimizer
        if self.full:
            self.update()

    def flush(self) -> None:
        """Update the parameters from the batches so far, if there are any."""
        if self.taken:
            self.update()

    def words(self) -> str:
        """Return what has become of the sums after a batch that was not carried out."""
        return (
            f"; the batch is left out of its update of {self.batches} batches, of which the sums hold {self.taken}, and"
            " the next call takes its place"
        )

    def update(self) -> None:
        """Update the parameters from the sums of this window, and begin another one.

        Raises NumericsError if an average gradient, or what the optimiser computes from it, is NaN, infinite or too
        large. The parameters are then as they were, and the window is dropped.
        """
        scale, taken = 1.0 if self.added else 1.0 / self.total, self.taken
        if self.scale.data != np.float32(scale):
            self.scale.data = scale
        held = frozenset(p for p in self.held if getattr(p, "trainable", True))
        self.optimizer.begin()
        # 1 if the parameters were updated, 0 if they were not to be, NaN as long as the program has not run: an
        # interruption leaves the window as it is, and the next call makes the update.
        carried_out, self.carried_out = math.nan, False
        try:
            program, guard = self.program(held)
            report = program.results[0] if guard else np.empty(1, np.float32)
            report[0] = math.nan
            try:
                found = [*program.run(), report][0]
            finally:
                carried_out = float(report[0])
            carried_out = 1.0 if guard is None else carried_out
        finally:
            self.carried_out = carried_out == 1
            if not self.carried_out:
                self.optimizer.undo()
            if not math.isnan(carried_out):
                self.drop()
        if guard is not None and not found[0]:
            raise NumericsError(
                f"{guard.problem(found)}, averaged over {taken} {self.parts}; lower the learning rate, or check the"
                " targets. The parameters were left as they were before the update, and the sums of the gradients were"
                " dropped"
            )

    def program(self, held: frozenset[Variable] | None = None) -> tuple[Program, Guard | None]:
        """Return the program that updates these parameters, and what it checks before it writes.

        held: all that a program of a batch has sums for, unless given.
        """
        if held is None:
            held = frozenset(p for p in self.sums if getattr(p, "trainable", True))
        key = held, Same(self.optimizer), self.optimizer.structure()
        return self.programs.find(key, lambda: self.build(held))

    def build(self, held: frozenset[Variable]) -> tuple[Program, Guard | None]:
        """Return what `program` keeps."""
        with tracing() as recording:
            lift = recording.lift
            # In the order of the optimiser's parameters, in which a norm of all of them is summed, and not in the order
            # in which they had their first gradient: a window that goes on from a state has had none.
            places = {p: place for place, p in enumerate(self.parameters)}
            ordered = sorted(self.sums, key=lambda p: places.get(p, len(places)))
            averages = {p: lift(lift(self.sums[p]) * lift(self.scale)) for p in ordered if p in held}
            for variable, value in self.optimizer.assignments(dict(averages)):
                recording.assign(variable, value)
            guarded = guard_updates(recording, None, averages)
            report, guard = guarded or (None, None)
            graph = recording.graph([] if report is None else [report])
        return build(graph, self.threads), guard

    def drop(self) -> None:
        """Begin a window without batches."""
        for p in self.held:
            self.sums[p].data = 0.0
        self.held, self.taken, self.total = frozenset(), 0, 0

    # The state of a window, which a training is stored with.

    def state_dict(self, parameters: list[Variable]) -> dict[str, Ndarray]:
        """Return copies of the sums by the number of the parameter among `parameters`, and the counts."""
        counts = {"batches": self.batches, "taken": self.taken, "total": self.total}
        state = {f"window.{name}": np.array(value, np.int64) for name, value in counts.items()}
        held = {i: self.sums[p] for i, p in enumerate(parameters) if p in self.held}
        return state | {f"window.sum.{i}": np.array(total.data, order="C") for i, total in held.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], parameters: list[Variable]) -> None:
        """Go on in the middle of a window. Raises StateError if it does not fit; then nothing is changed."""
        counts = []
        for name in ("batches", "taken", "total"):
            value = np.asarray(state.get(f"window.{name}", ()))
            if value.shape != () or value.dtype.kind != "i" or value < 0:
                raise StateError(f"window.{name} is {state.get(f'window.{name}')}, it has to be a whole number")
            counts.append(int(value))
        if counts[0] != self.batches:
            raise StateError(f"an update was of {counts[0]} batches and is of {self.batches}: give the same accumulate")
        sums: dict[Variable, Ndarray] = {}
        for name in state.keys() - {f"window.{name}" for name in ("batches", "taken", "total")}:
            number, value = name.removeprefix("window.sum."), np.asarray(state[name])
            place = int(number) if number.isdecimal() else len(parameters)
            if place >= len(parameters) or value.shape != parameters[place].shape or value.dtype != np.float32:
                raise StateError(f"{name}: float32{list(value.shape)} is the sum of no parameter here")
            sums[parameters[place]] = value
        self.drop()
        for p, value in sums.items():
            self.sum_of(p).data = value
        self.held, self.taken, self.total = frozenset(sums), counts[1], counts[2]


def window(optimizer: Any, loss: object, batches: int, threads: int | None) -> Window | None:
    """Return the window of a step that accumulates; None for updates of one batch. Raises ShapeError below 1."""
    if batches < 1:
        raise ShapeError(f"compile_step: accumulate is {batches}; an update takes the gradients of 1 batch or more")
    return None if batches == 1 else Window(optimizer, batches, is_sum(loss), threads)


def is_sum(loss: object) -> bool:
    """Return whether a loss is a sum over its batch, and no mean."""
    # An AuxiliaryLoss holds the loss that decides.
    return "sum" in {getattr(part, "reduction", "mean") for part in (loss, getattr(loss, "loss", None))}
