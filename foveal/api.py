"""What users call: compile a function, its gradients, or a whole training step, for the shapes it is called with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from foveal import debug
from foveal.autodiff import gradients
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.graph import Graph
from foveal.ops import is_finite, where
from foveal.ops.op import Tensor, Type
from foveal.passes.recompute import FAST, MEMORY
from foveal.profile import report
from foveal.program import Program
from foveal.strides import Ndarray, Shape
from foveal.trace import Symbol, Trace, trace, tracing
from foveal.variable import Variable

INT32 = np.iinfo(np.int32)


def as_argument(x: Any, what: str) -> Ndarray:
    """An array that a program takes: float32, or int32 for integers. Other kinds are refused, not rounded."""
    array = np.asarray(x)
    if array.dtype in (np.float32, np.int32):
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize != 1:
        if array.size and (array.min() < INT32.min or array.max() > INT32.max):
            raise DataError(f"{what} holds integers beyond 32 bits; programs compute with int32")
        return array.astype(np.int32)
    raise ShapeError(
        f"{what} has dtype {array.dtype}; programs take float32 (or int32 labels): convert it, e.g."
        " x.astype('float32') / 255 for bytes"
    )


def check_finite(x: Ndarray, what: str) -> None:
    """Refuse NaN and infinity, naming the first."""
    with np.errstate(all="ignore"):
        if math.isfinite(float(x.sum())):  # one fast pass; a finite sum has finite parts
            return
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise NumericsError(
            f"{what} holds {x[index]} at index {index} ({len(bad)} of {x.size} values are NaN or infinite);"
            " clean the data. Nothing was computed"
        )


class Compiled:
    """A function that runs as native code. Each new combination of argument shapes is traced and compiled once."""

    def __init__(self, function: Callable[..., Any], threads: int | None = None) -> None:
        self.function, self.threads = function, threads
        self.programs: dict[Any, tuple[Program, bool]] = {}

    def program(self, *arrays: Any) -> Program:
        """The program for arguments like these."""
        return self._find([as_argument(x, f"argument {i}") for i, x in enumerate(arrays)])[0]

    def _find(self, arrays: list[Ndarray]) -> tuple[Program, bool]:
        key = tuple((a.shape, str(a.dtype)) for a in arrays)
        if key not in self.programs:
            single = True

            def traced(*symbols: Symbol) -> Any:
                nonlocal single
                result = self.function(*symbols)
                single = not isinstance(result, tuple | list)
                return result

            graph = trace(traced, *(Type(*k) for k in key))
            self.programs[key] = Program(graph, self.threads), single
        return self.programs[key]

    def __call__(self, *arrays: Any) -> Any:
        given = [as_argument(x, f"argument {i}") for i, x in enumerate(arrays)]
        program, single = self._find(given)
        results = program.run(*given)
        report(program)
        return results[0] if single else results


def compile(function: Callable[..., Any], threads: int | None = None) -> Compiled:
    """`function`, written with foveal operators, as native code: NumPy arrays in, NumPy arrays out."""
    return Compiled(function, threads)


def value_and_grad(
    function: Callable[..., Any], wrt: Sequence[int | Variable] = (0,), threads: int | None = None
) -> Compiled:
    """(value, gradients...) of a scalar `function` in the arguments (by position) and variables listed in `wrt`."""

    def both(*symbols: Symbol) -> list[Any]:
        y = function(*symbols)
        chosen = [symbols[w] if isinstance(w, int) else y.trace.lift(w) for w in wrt]
        return [y, *gradients(y, chosen)]

    return Compiled(both, threads)


def grad(function: Callable[..., Any], wrt: int | Variable = 0, threads: int | None = None) -> Callable[..., Any]:
    """The gradient of a scalar `function` in one argument or variable."""
    both = value_and_grad(function, (wrt,), threads)
    return lambda *arrays: both(*arrays)[1]


class Model(Protocol):
    """What compile_step needs of a model; nn.Module is one."""

    def __call__(self, x: Any) -> Any: ...

    def parameters(self) -> list[Any]: ...


class Update(Protocol):
    """What compile_step needs of an optimiser; optim.Optimizer is one."""

    def begin(self) -> None: ...

    def undo(self) -> None: ...

    def structure(self) -> tuple[Any, ...]: ...

    def assignments(self, gradients: dict[Variable, Any]) -> list[tuple[Variable, Any]]: ...


@dataclass(frozen=True)
class StepResult:
    """loss: the mean over the batch before the update. output: what the model gave, [N, classes], the first if
    several.
    """

    loss: float
    output: Ndarray


class Step:
    """One training step as one native program: forward, loss, backward and update; see compile_step."""

    def __init__(
        self,
        model: Model,
        loss: Callable[..., Any],
        optimizer: Update,
        threads: int | None,
        seed: int,
        memory: str = FAST,
    ) -> None:
        if memory not in MEMORY:
            raise ShapeError(f"memory {memory!r} is not known; choose one of {', '.join(MEMORY)}")
        self.model, self.loss, self.optimizer, self.threads = model, loss, optimizer, threads
        self.memory = memory
        self.key = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 0, 0], np.uint32)
        self.programs: dict[Any, Program] = {}
        self.steps = 0

    def trace(self, x: Type, target: Type) -> Graph:
        """The step's graph: outputs loss and model output; updates the parameters, the optimiser's state and
        statistics.

        Every update keeps the old value unless the loss is finite, so a step that fails leaves the model as it was.
        """
        with tracing() as recording:
            image = recording.argument(x, "x")
            labels = recording.argument(target, "target")
            recording.key = recording.argument(Type((4,), "int32"), "key")
            outputs = self.model(image)
            output = outputs[0] if isinstance(outputs, tuple) and outputs else outputs
            if not isinstance(output, Symbol):
                raise ShapeError(
                    f"the model returned {type(output).__name__}, a training step needs one array, or a tuple whose"
                    f" first is what it predicts"
                )
            y = self.measured(outputs, labels)
            if y.shape != ():
                raise ShapeError(f"the loss has shape {y.shape}, a training step needs a scalar; take its mean")
            parameters = [p for p in self.model.parameters() if p.trainable]
            slopes = gradients(y, [recording.lift(p) for p in parameters])
            for variable, value in self.optimizer.assignments(dict(zip(parameters, slopes, strict=True))):
                recording.assign(variable, value)
            self.guard(recording, is_finite(y))
            return recording.graph([y, output])

    def measured(self, outputs: Any, labels: Symbol) -> Any:
        """The loss of all that the model returned."""
        try:
            return self.loss(outputs, labels)
        except (ShapeError, AttributeError, TypeError) as error:
            if isinstance(outputs, tuple):
                raise ShapeError(
                    f"the model returned {len(outputs)} arrays, which the loss cannot take ({error}); for auxiliary"
                    " classifiers wrap it, as nn.AuxiliaryLoss(nn.CrossEntropyLoss())"
                ) from error
            raise

    @staticmethod
    def guard(recording: Trace, good: Tensor) -> None:
        for variable, node in list(recording.updates.items()):
            old = Symbol(recording, recording.variables[variable])
            recording.updates[variable] = recording.lift(where(good, Symbol(recording, node), old)).node

    @staticmethod
    def report(program: Program) -> None:
        """DEBUG=2: timing runs the step, so what it updates is put back afterwards."""
        if debug.level() >= debug.TIME and not program.reported:
            kept = [(variable, variable.storage.copy()) for variable, _ in program.graph.updates]
            report(program)
            for variable, storage in kept:
                variable.storage[:] = storage
                variable.version += 1

    def program(self, x: Any, target: Any) -> Program:
        """The program for a batch like this."""
        x, target = as_argument(x, "the input x"), as_argument(target, "the target")
        key = (x.shape, target.shape, target.dtype.name, self.optimizer.structure())
        if key not in self.programs:
            graph = self.trace(Type(x.shape), Type(target.shape, target.dtype.name))
            self.programs[key] = Program(graph, self.threads, memory=self.memory)
        return self.programs[key]

    def check(self, target: Ndarray, output: Shape) -> None:
        """The loss says what its targets have to be; else integers are labels of the output's last axis."""
        own = getattr(self.loss, "check", None)
        if own is not None:
            own(target, output)
        elif target.dtype == np.int32:
            check_labels(target, output[-1])

    def __call__(self, x: Any, target: Any) -> StepResult:
        """Train on one batch: x [N, ...] float32, target [N] integer labels (or what the loss takes).

        Raises DataError for labels outside of the classes, NumericsError for NaN or infinity in x or in the loss; the
        parameters are then as they were before.
        """
        x, target = as_argument(x, "the input x"), as_argument(target, "the target")
        if x.size == 0:
            raise DataError(f"the batch is empty (shape {x.shape}); a step needs at least one image")
        check_finite(x, "the input x")
        program = self.program(x, target)
        self.check(target, program.graph.outputs[1].shape)
        key = self.key.copy()
        key[2:] = self.steps & 0xFFFFFFFF, self.steps >> 32
        self.optimizer.begin()
        loss, output = program.run(x, target, key.view(np.int32))
        value = float(loss)
        if not math.isfinite(value):
            self.optimizer.undo()
            raise NumericsError(
                f"the loss is {value} in step {self.steps + 1}; lower the learning rate, or check the targets."
                " The parameters were left as they were before the step"
            )
        self.steps += 1
        self.report(program)
        return StepResult(value, output)


def check_labels(labels: Ndarray, classes: int, ignored: int | None = None) -> None:
    """Every label is one of 0 .. classes-1, or the one that is ignored."""
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"label {int(labels.flat[at])} at position {at} is not one of the model's {classes} classes (0 to"
            f" {classes - 1}); correct the labels, or build the model with more classes"
        )


def compile_step(
    model: Model,
    loss: Callable[..., Any],
    optimizer: Update,
    threads: int | None = None,
    seed: int = 0,
    memory: str = FAST,
) -> Step:
    """A whole training step, step(x, labels) -> loss and output, as one program.

    The loss is called as loss(model(x), target), with the tuple if the model returns several arrays. `threads` is a
    matter
    of speed only: the same seed gives the same bits on any number. `seed` feeds random operators (dropout), together
    with
    the count of steps. With memory="low" cheap values are computed again for the gradients instead of being kept: less
    memory, some more time.
    """
    return Step(model, loss, optimizer, threads, seed, memory)
