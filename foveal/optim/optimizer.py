"""The base of all optimisers. An update is written with operators and becomes part of the step's program."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from foveal.errors import ShapeError
from foveal.graph import Variable
from foveal.trace import current


class Optimizer:
    """Holds the state of each parameter, and the numbers that change from step to step.

    A subclass names its state and writes `update(p, g, state, now) -> (new p, new state)` with operators. Numbers that
    change (the learning rate, corrections by step) are scalars in memory, set by `begin` before a step, so that changing
    them compiles nothing anew.

    lr: learning rate. weight_decay: lambda. decoupled: p <- p - lr lambda p beside the update (Loshchilov and Hutter 2019)
    instead of g <- g + lambda p (L2).
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    scalar_names: ClassVar[tuple[str, ...]] = ("lr",)

    def __init__(
        self,
        parameters: Iterable[Variable],
        lr: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ShapeError(f"{type(self).__name__}: there are no parameters to optimise")
        self.check("lr", lr, lr >= 0)
        self.check("weight_decay", weight_decay, weight_decay >= 0)
        self.lr, self.weight_decay, self.decoupled = float(lr), float(weight_decay), decoupled
        self.steps = 0
        self.scalars = {name: Variable(np.float32(0), name) for name in self.scalar_names}
        self.state = {
            p: {
                name: Variable(np.zeros(p.shape, np.float32), f"{p.name}.{name}")
                for name in self.state_names
            }
            for p in self.parameters
        }

    def check(self, name: str, value: float, good: bool) -> None:
        if not good or not np.isfinite(value):
            raise ShapeError(f"{type(self).__name__}: {name} is {value}, which is out of its range")

    def values(self, step: int) -> dict[str, float]:
        """The scalars for the step of that number (from 1), in double precision."""
        return {"lr": self.lr}

    def begin(self) -> None:
        """Set the scalars for the next step."""
        self.steps += 1
        for name, value in self.values(self.steps).items():
            self.scalars[name].data = value

    def undo(self) -> None:
        """The step that was begun did not take place."""
        self.steps -= 1

    def update(
        self, p: Any, g: Any, state: dict[str, Any], now: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The new parameter and the new state, from the old ones and this step's scalars; all are traced."""
        raise NotImplementedError

    def assignments(self, gradients: dict[Variable, Any]) -> list[tuple[Variable, Any]]:
        """(variable, new value) of all parameters and states, traced: what a step's program writes."""
        lift = current().lift
        now = {name: lift(scalar) for name, scalar in self.scalars.items()}
        found: list[tuple[Variable, Any]] = []
        for p, g in gradients.items():
            if p not in self.state:
                continue  # in the model but not in this optimiser: left as it is
            old = lift(p)
            if self.weight_decay and not self.decoupled:
                g = g + old * self.weight_decay
            new, state = self.update(
                old, g, {name: lift(v) for name, v in self.state[p].items()}, now
            )
            if self.weight_decay and self.decoupled:
                new = new - old * (now["lr"] * self.weight_decay)
            found.append((p, new))
            found.extend((self.state[p][name], value) for name, value in state.items())
        return found
