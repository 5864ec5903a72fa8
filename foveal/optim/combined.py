"""Optimisers of optimisers: several side by side, and the base of what wraps one."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from foveal.errors import ShapeError
from foveal.ops.op import Tensor
from foveal.optim.optimizer import Assignments, UpdateRule, Value
from foveal.optim.scalars import Scalars
from foveal.trace import current
from foveal.variable import Variable


class Combined(UpdateRule):
    """Optimisers side by side. Its rate is that of the first; the rates of the others keep their ratio to it.

    clip_norm, clip_value: as in Optimizer, of all gradients together.
    """

    def __init__(self, *parts: UpdateRule, clip_norm: float | None = None, clip_value: float | None = None) -> None:
        """Raise ShapeError if there are no optimisers, two share a parameter, or the first has a rate of 0."""
        super().__init__(clip_norm, clip_value)
        if not parts:
            raise ShapeError("Combined: there are no optimisers to combine")
        self.parts = parts
        self.parameters = [p for part in parts for p in part.parameters]
        seen: set[Variable] = set()
        for p in self.parameters:
            if p in seen:
                raise ShapeError(
                    f"{type(self).__name__}: parameter {p.name} {list(p.shape)} belongs to two of the optimisers; give"
                    f" it to one"
                )
            seen.add(p)
        # The rates of the others are stored relative to the first.
        lr = parts[0].lr
        if lr == 0 and len(parts) > 1:
            raise ShapeError(
                f"{type(self).__name__}: the first optimiser's lr is 0, and the others' rates are kept relative to it;"
                " give it a rate"
            )
        self.ratios = [1.0, *(part.lr / lr for part in parts[1:])]

    @property
    def lr(self) -> float:
        return self.parts[0].lr

    @lr.setter
    def lr(self, value: float) -> None:
        for part, ratio in zip(self.parts, self.ratios, strict=True):
            part.lr = value * ratio

    @property
    def weight_decay(self) -> float:
        return self.parts[0].weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        for part in self.parts:
            part.weight_decay = value

    @property
    def momentum(self) -> float | None:
        """The momentum of the first optimiser; setting it sets that of all which have one."""
        return self.parts[0].momentum

    @momentum.setter
    def momentum(self, value: float | None) -> None:
        for part in self.parts:
            if part.momentum is not None:
                part.momentum = value

    def begin(self) -> None:
        super().begin()
        begun: list[UpdateRule] = []
        try:
            for part in self.parts:
                part.begin()
                begun.append(part)
        except BaseException:
            # A part that cannot take the step has not counted it; no other one shall have.
            super().undo()
            for part in begun:
                part.undo()
            raise

    def undo(self) -> None:
        super().undo()
        for part in self.parts:
            part.undo()

    def structure(self) -> tuple[object, ...]:
        return super().structure() + tuple(part.structure() for part in self.parts)

    def own_gradients(self, gradients: Mapping[Variable, Value]) -> dict[Variable, Value]:
        return {p: g for part in self.parts for p, g in part.own_gradients(gradients).items()}

    def assignments(self, gradients: Mapping[Variable, Tensor]) -> Assignments:
        clipped = self.clipped(self.own_gradients(gradients))
        return [pair for part in self.parts for pair in part.assignments(clipped)]

    def state_variables(self) -> dict[str, Variable]:
        return {f"{i}.{k}": v for i, part in enumerate(self.parts) for k, v in part.state_variables().items()}

    def numbers(self) -> dict[str, float]:
        inner = {f"{i}.{k}": v for i, p in enumerate(self.parts) for k, v in p.numbers().items()}
        return {"steps": float(self.steps), **inner}

    def load_numbers(self, numbers: Mapping[str, float]) -> None:
        self.steps = int(numbers["steps"])
        for i, part in enumerate(self.parts):
            part.load_numbers({k: numbers[f"{i}.{k}"] for k in part.numbers()})


class Wrapper(Combined):
    """Base of what does something more to the parameters of another optimiser, in the same step.

    Each parameter has a copy of its shape, which is what the model is worth: `averaged()` puts the copies into the
    model for testing, `swap()` for good. A subclass writes `follow(old, new, copy) -> (new, copy)` with operators.
    statistics: variables that are not trained and are followed as parameters are; whole numbers among them stay as they
    are.
    """

    def __init__(self, inner: UpdateRule, statistics: Iterable[Variable] = ()) -> None:
        super().__init__(inner)
        self.statistics = [variable for variable in statistics if variable.data.dtype == np.float32]
        self.copies = {
            p: Variable(np.zeros(p.shape, np.float32), f"{p.name or i}.{type(self).__name__}")
            for i, p in enumerate([*self.parameters, *self.statistics])
        }
        self.scalars = Scalars("")
        self.swapped = False

    def begin(self) -> None:
        if self.swapped:
            raise ShapeError(
                f"{type(self).__name__}: the model holds the averages now; train after the block `with averaged()`"
            )
        super().begin()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Return a context in which the model's parameters are the copies; before the first, they are unchanged."""
        if self.swapped or self.count() == 0:
            yield
            return
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def count(self) -> int:
        """Return the number of steps that the copies are made of."""
        return self.steps

    def swap(self) -> None:
        """Exchange parameters and copies. Do it once at the end of training to keep the copies."""
        for p, copy in self.copies.items():
            parameter = np.array(p.data)
            p.data = copy.data
            copy.data = parameter
        self.swapped = not self.swapped

    def follow(self, old: Tensor, new: Tensor, copy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameter and its copy after the step, all traced and of one shape.

        old, new: the parameter before and after the inner optimiser's update. copy: the copy before the step.
        """
        raise NotImplementedError

    def assignments(self, gradients: Mapping[Variable, Tensor]) -> Assignments:
        inner, statistics = dict(super().assignments(gradients)), set(self.statistics)
        lift = current().lift
        assignments: Assignments = []
        for p, variable in self.copies.items():
            old = lift(p)
            # A parameter that is frozen, or that the loss does not read, has no assignment, but its copy is kept: it
            # may be swapped in, or the freeze may end. Of a variable that the step has written, that value counts.
            new, copy = self.follow(old, inner.get(p, old), lift(variable))
            assignments.append((variable, copy))
            if p in inner or (p in statistics and new is not old):
                inner[p] = new
        return [*assignments, *inner.items()]

    def state_variables(self) -> dict[str, Variable]:
        copies = {f"{i}.copy": copy for i, copy in enumerate(self.copies.values())}
        return copies | super().state_variables()
