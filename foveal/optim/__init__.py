"""Optimisers, which are traced into the training step, and schedules."""

from collections.abc import Callable, Iterable
from typing import Any

from foveal.errors import ShapeError
from foveal.graph import Variable
from foveal.optim import schedule
from foveal.optim.adam import Adam
from foveal.optim.optimizer import Optimizer
from foveal.optim.sgd import SGD, Momentum

BUILDERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": lambda parameters, **how: Momentum(parameters, nesterov=True, **how),
    "adam": Adam,
    "adamw": lambda parameters, **how: Adam(parameters, decoupled=True, **how),
}
NAMES = tuple(BUILDERS)


def build(name: str, parameters: Iterable[Variable], **how: Any) -> Optimizer:
    """An optimiser by name; `how` holds lr, weight_decay and what else it takes."""
    if name not in BUILDERS:
        raise ShapeError(f"there is no optimiser called {name!r}; choose one of {', '.join(NAMES)}")
    return BUILDERS[name](parameters, **how)


__all__ = ["NAMES", "SGD", "Adam", "Momentum", "Optimizer", "build", "schedule"]
