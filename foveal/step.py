"""compile_step: forward, loss, backward and update of a network as one native program."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from foveal import debug, forks
from foveal.api import as_argument, check_finite
from foveal.arguments import checked
from foveal.autodiff import gradients_where_read
from foveal.build import build
from foveal.errors import ArgumentError, DataError, NumericsError, ShapeError, StateError, warn
from foveal.graph import Graph
from foveal.guard import Guard, guard_updates
from foveal.kernel.runtime import prepare
from foveal.kinds import shown
from foveal.ops.op import Tensor, Type
from foveal.passes.recompute import FAST, MEMORY
from foveal.profile import show_timings
from foveal.program import Program
from foveal.programs import Programs
from foveal.strides import Ndarray, Shape
from foveal.trace import Symbol, tracing
from foveal.trained import check_optimizer, check_used, parameters_of
from foveal.variable import Variable
from foveal.watch import Same, State

# What the optimiser's part of a program's key is, for DEBUG=1.
SETTINGS = "optimizer, or setting of it that is compiled in"
# Of the parameters that a loss does not read, a warning names this many.
MAX_NAMED = 5

Value = TypeVar("Value")


class ModelLike(Protocol):
    """What compile_step needs of a model; nn.Module is one. A parameter is a Variable with a flag `trainable`."""

    def __call__(self, x: Any) -> Any: ...

    def parameters(self) -> list[Any]: ...


class OptimizerLike(Protocol):
    """What compile_step needs of an optimiser; optim.Optimizer is one."""

    def begin(self) -> None:
        """Set the scalars in memory, such as the learning rate, for the next step."""

    def undo(self) -> None:
        """Take the last `begin` back, after a step that failed."""

    def structure(self) -> tuple[Hashable, ...]:
        """Return everything that is compiled into the step; another value means another program."""

    def own_gradients(self, gradients: Mapping[Variable, Value]) -> dict[Variable, Value]:
        """Return what is given for the parameters that this optimiser trains, and leave the others out."""

    def assignments(self, gradients: dict[Variable, Tensor]) -> list[tuple[Variable, Tensor]]:
        """Return the new values of parameters and of the optimiser's state. Called while the step is traced.

        gradients: of the parameters that the loss reads; the others and their state stay as they are.
        """


@dataclass(frozen=True)
class StepResult:
    """What a training step returns."""

    #: the loss before the update; the losses of nn are means over the batch
    loss: float
    #: what the model returned, [N, classes] for a classifier; of several arrays the first
    output: Ndarray


class Step:
    """One training step as one native program: forward, loss, backward and update; see compile_step."""

    def __init__(
        self,
        model: ModelLike,
        loss: Callable[[Any, Any], Any],
        optimizer: OptimizerLike,
        threads: int | None,
        seed: int,
        memory: str = FAST,
    ) -> None:
        if isinstance(loss, type):
            raise ArgumentError(f"compile_step: loss is the class {loss.__name__}; make one first: {loss.__name__}()")
        if memory not in MEMORY:
            raise ShapeError(f"memory {memory!r} is not known; choose one of {', '.join(MEMORY)}")
        self.model, self.loss, self.optimizer, self.threads = model, loss, optimizer, threads
        self.memory = memory
        check_optimizer(model, loss, optimizer)
        # The key of random operators: 64 bits of seed, then 64 bits that count the steps.
        self.key = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 0, 0], np.uint32)
        self.state = State()
        self.programs: Programs[tuple[Program, Guard]] = Programs(names=("", "inputs", "targets", SETTINGS))
        self.steps = 0
        # The parameters that a warning has named as not read by the loss.
        self.named: set[Variable] = set()
        # held during a step: threads take turns
        self.turn = forks.Locked()

    def trace(self, x: Type, target: Type) -> Graph:
        """Return the step's graph."""
        return self.traced(x, target)[0]

    def traced(self, x: Type, target: Type) -> tuple[Graph, Guard]:
        """Return the step's graph, and what it checks before it writes.

        Its outputs are the loss, the model's output and the report of guard.py; it updates the parameters, the
        optimiser's state and running statistics. Every update keeps the old value unless all is finite, so a step that
        fails leaves the model as it was.
        """
        with tracing() as recording:
            image = recording.argument(x, "x")
            labels = recording.argument(target, "target")
            recording.key = recording.argument(Type((4,), "int32"), "key")
            # forward
            outputs = self.model(image)
            # The loss may hold a network that another step trains, as a generator's loss holds its critic.
            owned = parameters_of(self.model, self.loss)
            check_used(owned, recording)
            output = outputs[0] if isinstance(outputs, tuple) and outputs else outputs
            if not isinstance(output, Symbol):
                raise ShapeError(
                    f"the model returned {type(output).__name__}; a training step needs one array, or a tuple whose"
                    f" first element is the prediction"
                )
            y = self.loss_of(outputs, labels)
            if y.shape != ():
                raise ShapeError(f"the loss has shape {y.shape}; a training step needs a scalar: take its mean")
            # backward
            parameters = [p for p in owned if p.trainable]
            slopes = gradients_where_read(y, [recording.lift(p) for p in parameters])
            read = {p: slope for p, slope in zip(parameters, slopes, strict=True) if slope is not None}
            self.name_unread(p for p in parameters if p not in read)
            # update
            for variable, value in self.optimizer.assignments(dict(read)):
                recording.assign(variable, value)
            guarded = guard_updates(recording, y, read)
            # There is a loss.
            assert guarded is not None
            report, guard = guarded
            return recording.graph([y, output, report]), guard

    def name_unread(self, parameters: Iterable[Variable]) -> None:
        """Warn, once for each, of parameters that the optimiser is to train and that the loss does not read."""
        unread = [p for p in self.optimizer.own_gradients(dict.fromkeys(parameters)) if p not in self.named]
        if not unread:
            return
        self.named.update(unread)
        names = ", ".join(p.name or f"one of shape {p.shape}" for p in unread[:MAX_NAMED])
        more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
        warn(
            f"the loss does not read {len(unread)} of the model's parameters, which stay as they are, without weight"
            f" decay: {names}{more}. Use them in forward, or set trainable = False where this is meant"
        )

    def loss_of(self, outputs: Tensor | tuple[Tensor, ...], labels: Symbol) -> Symbol:
        """Return the loss of everything that the model returned."""
        try:
            y = self.loss(outputs, labels)
        except (ShapeError, DataError, AttributeError, TypeError) as error:
            if isinstance(outputs, tuple):
                raise ShapeError(
                    f"the model returned {len(outputs)} arrays, which the loss cannot take ({error}); for auxiliary"
                    " classifiers wrap it, as nn.AuxiliaryLoss(nn.CrossEntropyLoss())"
                ) from error
            raise
        if not isinstance(y, Symbol):
            raise ShapeError(f"the loss returned {shown(y)}; a training step needs one scalar written with operators")
        return y

    @staticmethod
    def show_timings(program: Program) -> None:
        """With DEBUG=2, show the timings. Timing runs the step, so what it updates is put back afterwards."""
        if debug.level() >= debug.TIME and not program.profiled:
            kept = [(variable, variable.storage.copy()) for variable, _ in program.graph.updates]
            show_timings(program)
            for variable, storage in kept:
                variable.storage[:] = storage
                variable.touch()

    def program(self, x: ArrayLike, target: ArrayLike) -> Program:
        """Return the program for a batch of this shape."""
        return self._find(as_argument(x, "the input x"), as_argument(target, "the target", labels=True))[0]

    def _find(self, x: Ndarray, target: Ndarray) -> tuple[Program, Guard]:
        number = self.state.number(self.model, self.loss, self.memory, self.threads)
        optimizer = Same(self.optimizer), self.optimizer.structure()

        def make() -> tuple[Program, Guard]:
            check_optimizer(self.model, self.loss, self.optimizer)
            with self.state.reading(number):
                graph, guard = self.traced(Type(x.shape), Type(target.shape, target.dtype.name))
            return build(graph, self.threads, memory=self.memory), guard

        key = number, (Type(x.shape),), (Type(target.shape, target.dtype.name),), optimizer
        return self.programs.find(key, make, f"a step of {type(self.model).__name__}", self.state)

    def state_dict(self) -> dict[str, Ndarray]:
        """Return what random operators draw from: the seed and the number of steps taken, as arrays.

        `foveal.train.state_dict` returns the state of the whole training.
        """
        return {"seed": self.key[:2].copy(), "steps": np.array(self.steps, np.int64)}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on from a `state_dict`. Raises StateError if the state is none; then nothing is changed."""
        seed, steps = (np.asarray(state.get(name, ())) for name in ("seed", "steps"))
        fits = (seed.shape, seed.dtype.name, steps.shape, steps.dtype.kind) == ((2,), "uint32", (), "i")
        if state.keys() != {"seed", "steps"} or not fits or steps < 0:
            raise StateError(f"no state of a step: {dict(state)}; it has seed, uint32 [2], and steps, an integer")
        self.key[:2], self.steps = seed, int(steps)

    def failure(self, loss: float, guard: Guard, report: Ndarray) -> str:
        """Return the message for a step that was not carried out."""
        problem, way_out = f"the loss is {loss} in step {self.steps + 1}", "lower the learning rate"
        if math.isfinite(loss):
            problem += f", but {guard.problem(report)}"
            way_out = f"look for a division by 0, or a root or logarithm of 0, in the model, {way_out}"
        return f"{problem}; {way_out}, or check the targets. The parameters were left as they were before the step"

    def check(self, target: Ndarray, output: Shape) -> None:
        """Check the targets as the loss says; without a `check` of its own, integers are labels of the last axis."""
        check = getattr(self.loss, "check", None)
        if check is not None:
            check(target, output)
        elif target.dtype == np.int32:
            check_labels(target, output[-1])

    def __call__(self, x: ArrayLike, target: ArrayLike) -> StepResult:
        """Train on one batch: x [N, ...] float32, target [N] integer labels (or what the loss takes).

        Raises DataError for labels that are not among the classes, NumericsError for NaN or infinity in x or in the
        loss. The parameters are then as they were before. Python threads that share a step take turns.
        """
        with self.turn.lock:
            return self.take(x, target)

    def take(self, x: ArrayLike, target: ArrayLike) -> StepResult:
        """Train on one batch."""
        x, target = as_argument(x, "the input x"), as_argument(target, "the target", labels=True)
        if x.size == 0:
            raise DataError(f"the batch is empty (shape {x.shape}); a step needs at least one image")
        check_finite(x, "the input x")
        program, guard = self._find(x, target)
        self.check(target, program.graph.outputs[1].shape)
        # Random operators draw other numbers in each step, and the same ones when a run is repeated.
        key = self.key.copy()
        key[2:] = self.steps & 0xFFFFFFFF, self.steps >> 32
        report = program.results[2]
        report[0] = math.nan
        self.optimizer.begin()
        try:
            loss, output, found = program.run(x, target, key.view(np.int32))
        finally:
            # An interruption (Ctrl-C) is raised before the program's native run or after all of it, never in between.
            # So the report tells whether the step was carried out, also where `run` does not return.
            if report[0] == 1:
                self.steps += 1
            else:
                self.optimizer.undo()
        value = float(loss)
        if not found[0]:
            raise NumericsError(self.failure(value, guard, found))
        self.show_timings(program)
        return StepResult(value, output)


def check_labels(labels: Ndarray, classes: int, ignored: int | None = None) -> None:
    """Raise DataError if a label is not one of 0 .. classes - 1, nor the one that is ignored."""
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"label {int(labels.flat[position])} at position {position} is not one of the model's {classes} classes (0"
            f" to {classes - 1}); correct the labels, or build the model with more classes"
        )


@checked
def compile_step(
    model: ModelLike,
    loss: Callable[[Any, Any], Any],
    optimizer: OptimizerLike,
    threads: int | None = None,
    seed: int = 0,
    memory: str = FAST,
) -> Step:
    """Return a whole training step, step(x, labels) -> loss and output, as one native program.

    loss: called as loss(model(x), target), with the tuple if the model returns several arrays: one of foveal.nn, or a
    function written with operators. If it has parameters of its own, by `parameters()`, they are trained as the model's
    are.
    optimizer: made for parameters of the model; those of the model that it lacks keep their values, as in fine-tuning.
    threads: how many native threads run it. This changes the speed only: the same seed gives the same bits.
    seed: feeds random operators (dropout), together with the number of steps taken.
    memory: "low" computes cheap values again for the gradients instead of keeping them: less memory, some more time.

    The step follows changes of the model, the loss and the optimiser: modes, frozen parameters, replaced layers (see
    foveal.watch). A deep copy of it, or a pickle, has copies of all three.

    Raises ArgumentError for a class in place of a loss; ShapeError for another `memory`, and at the first call if
    model, loss and batch do not fit each other; StateError for an optimiser of parameters that are not the model's.
    """
    step = Step(model, loss, optimizer, threads, seed, memory)
    prepare()
    return step
