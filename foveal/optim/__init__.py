"""Optimisers, which are traced into the training step, averages of parameters, and schedules."""

from collections.abc import Callable, Iterable
from typing import Any

from foveal.errors import ShapeError
from foveal.optim import schedule
from foveal.optim.adagrad import Adagrad, RMSprop
from foveal.optim.adam import Adam, AdamW, NAdam
from foveal.optim.average import EMA, SWA, update_bn
from foveal.optim.combined import Combined
from foveal.optim.hyper import by_name, no_decay
from foveal.optim.lamb import LAMB
from foveal.optim.lookahead import Lookahead
from foveal.optim.muon import Muon, muon
from foveal.optim.optimizer import Optimizer, Update
from foveal.optim.sgd import SGD, Momentum, Nesterov
from foveal.variable import Variable


def _lookahead(parameters: Iterable[Variable], **how: Any) -> Update:
    return Lookahead(Nesterov(parameters, **how))


BUILDERS: dict[str, Callable[..., Update]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "lamb": LAMB,
    "muon": muon,
    "lookahead": _lookahead,
}
NAMES = tuple(BUILDERS)


def build(name: str, parameters: Iterable[Variable], **how: Any) -> Update:
    """An optimiser by name; `how` holds lr, weight_decay and what else it takes. "lookahead" wraps Nesterov's
    momentum.
    """
    if name not in BUILDERS:
        raise ShapeError(f"there is no optimiser called {name!r}; choose one of {', '.join(NAMES)}")
    return BUILDERS[name](parameters, **how)


__all__ = [
    "EMA",
    "LAMB",
    "NAMES",
    "SGD",
    "SWA",
    "Adagrad",
    "Adam",
    "AdamW",
    "Combined",
    "Lookahead",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "Update",
    "build",
    "by_name",
    "muon",
    "no_decay",
    "schedule",
    "update_bn",
]
