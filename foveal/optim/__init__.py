"""Optimisers, which are traced into the training step, averages of parameters, and schedules.

optimizer.py   the base classes: tracing an update, clipping, weight decay, schedules, saving; the registry of names
scalars.py     numbers in memory that a step reads, such as the rate
reads.py       what an optimiser's update reads as numbers of Python, so that schedules would be ignored
hyper.py       the ranges of hyper-parameters, and groups of parameters
norm_biases.py the biases of batch norms as a group with a larger rate
sgd.py         SGD, Momentum, Nesterov
adagrad.py     Adagrad, RMSprop
adam.py        Adam, AdamW, NAdam
lamb.py        LAMB
muon.py        Muon, and `muon`, which gives it the matrices and AdamW the rest
combined.py    several optimisers in one step, and the base of what wraps one
lookahead.py   Lookahead
average.py     averages of the parameters: EMA, SWA
surfaces.py    surfaces of two variables, on which optimisers are compared
trajectory.py  the paths of optimisers on a surface, as arrays and as a figure
schedule.py    schedules of the learning rate and the momentum
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from foveal.arguments import check_calls
from foveal.errors import ShapeError
from foveal.names import meant, missing_in
from foveal.optim import schedule, surfaces

# Importing an optimiser registers it; `foveal train --help` lists the names in this order.
# isort: off
from foveal.optim.sgd import SGD, Momentum, Nesterov
from foveal.optim.adagrad import Adagrad, RMSprop
from foveal.optim.adam import Adam, AdamW, NAdam
from foveal.optim.lamb import LAMB
from foveal.optim.muon import Muon, muon
from foveal.optim.lookahead import Lookahead

# isort: on
from foveal.optim.average import EMA, SWA, update_bn
from foveal.optim.combined import Combined
from foveal.optim.hyper import Parameters, Range, by_name, no_decay
from foveal.optim.norm_biases import faster_norm_biases
from foveal.optim.optimizer import Optimizer, UpdateRule
from foveal.optim.trajectory import plot_trajectory, trajectory


class RegisteredNames(Sequence[str]):
    """The names of all registered optimisers, in the order in which they were registered; also of later ones."""

    def __getitem__(self, index: Any) -> Any:
        return tuple(UpdateRule.registry)[index]

    def __len__(self) -> int:
        return len(UpdateRule.registry)


NAMES = RegisteredNames()


def build(name: str, parameters: Parameters, **options: Any) -> UpdateRule:
    """Return an optimiser by its name in NAMES; options: lr, weight_decay and all else that it takes.

    "muon" is Muon for matrices with AdamW for the rest; "lookahead" wraps Nesterov's momentum. Raises ShapeError that
    lists the names if there is none of this name.
    """
    if name not in UpdateRule.registry:
        raise ShapeError(f"there is no optimiser called {name!r}{meant(name, NAMES)}; choose one of {', '.join(NAMES)}")
    return UpdateRule.registry[name].build(parameters, **options)


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
    "Range",
    "UpdateRule",
    "build",
    "by_name",
    "faster_norm_biases",
    "muon",
    "no_decay",
    "plot_trajectory",
    "schedule",
    "surfaces",
    "trajectory",
    "update_bn",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__


# Type checkers would take every name for one that exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(missing_in("foveal.optim", name, __all__), name=name)
