"""Optimisers of optimisers: several side by side, and the base of what wraps one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.optim.optimizer import Assignments, Scalars, Update
from foveal.trace import current
from foveal.variable import Variable


class Combined(Update):
    """Optimisers side by side. Its rate is the first one's; those of the others keep their ratio to it.

    clip_norm, clip_value: as in Optimizer, of all gradients together.
    """

    def __init__(self, *parts: Update, clip_norm: float | None = None, clip_value: float | None = None) -> None:
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
        first = parts[0].lr
        if first == 0 and len(parts) > 1:
            raise ShapeError(
                f"{type(self).__name__}: the first optimiser's lr is 0, and the others' rates are kept relative to it;"
                " give it a rate"
            )
        self.ratios = [1.0, *(part.lr / first for part in parts[1:])]

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
        """The first one's; setting it sets that of all which have one."""
        return getattr(self.parts[0], "momentum", None)

    @momentum.setter
    def momentum(self, value: float) -> None:
        for part in self.parts:
            if getattr(part, "momentum", None) is not None:
                part.momentum = value

    def begin(self) -> None:
        super().begin()
        for part in self.parts:
            part.begin()

    def undo(self) -> None:
        super().undo()
        for part in self.parts:
            part.undo()

    def structure(self) -> tuple[Any, ...]:
        return super().structure() + tuple(part.structure() for part in self.parts)

    def wanted(self, gradients: Mapping[Variable, Any]) -> dict[Variable, Any]:
        return {p: g for part in self.parts for p, g in part.wanted(gradients).items()}

    def assignments(self, gradients: Mapping[Variable, Any]) -> Assignments:
        clipped = self.clipped(self.wanted(gradients))
        return [pair for part in self.parts for pair in part.assignments(clipped)]

    def held(self) -> dict[str, Variable]:
        return {f"{i}.{k}": v for i, part in enumerate(self.parts) for k, v in part.held().items()}

    def numbers(self) -> dict[str, float]:
        inner = {f"{i}.{k}": v for i, p in enumerate(self.parts) for k, v in p.numbers().items()}
        return {"steps": float(self.steps), **inner}

    def load_numbers(self, numbers: Mapping[str, float]) -> None:
        self.steps = int(numbers["steps"])
        for i, part in enumerate(self.parts):
            part.load_numbers({k: numbers[f"{i}.{k}"] for k in part.numbers()})


class Wrapper(Combined):
    """An optimiser, and something more that happens to its parameters in the same step.

    Each parameter has a copy of its shape. A subclass writes `follow(old, new, copy) -> (new, copy)` with operators.
    """

    def __init__(self, inner: Update) -> None:
        super().__init__(inner)
        self.copies = {
            p: Variable(np.zeros(p.shape, np.float32), f"{p.name or i}.{type(self).__name__}")
            for i, p in enumerate(self.parameters)
        }
        self.scalars = Scalars("")

    def follow(self, old: Any, new: Any, copy: Any) -> tuple[Any, Any]:
        """The parameter and its copy after the step, from the parameter before and after the inner update, all
        traced.
        """
        raise NotImplementedError

    def assignments(self, gradients: Mapping[Variable, Any]) -> Assignments:
        inner = dict(super().assignments(gradients))
        lift = current().lift
        found: Assignments = []
        for p, copy in self.copies.items():
            old = lift(p)
            new, kept = self.follow(old, inner.get(p, old), lift(copy))
            found.append((copy, kept))  # of what is frozen too: it may be swapped in, or thaw
            if p in inner:
                inner[p] = new
        return [*found, *inner.items()]

    def held(self) -> dict[str, Variable]:
        own = {f"{i}.copy": self.copies[p] for i, p in enumerate(self.parameters)}
        return own | super().held()
