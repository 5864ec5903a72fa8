"""What a training step needs of a model, a loader and an optimiser; which parameters it trains, if all agree."""

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from foveal.errors import StateError
from foveal.ops.op import Tensor
from foveal.trace import Trace
from foveal.variable import Variable

Value = TypeVar("Value")


class ModelLike(Protocol):
    """What compile_step needs of a model; nn.Module is one. A parameter is a Variable with a flag `trainable`."""

    def __call__(self, x: Any) -> Any: ...

    def parameters(self) -> list[Any]: ...


class LoaderLike(Protocol):
    """What a step on shards needs of a loader; foveal.data.Loader is one."""

    def shares(self, epoch: int, shards: int, own: range, first: int = 0) -> Iterator[list[tuple[Any, Any]]]:
        """Yield the shards of each batch whose numbers are among `own`."""


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


def parameters_of(*owners: object) -> list[Any]:
    """Return the parameters of a model and of what else has some, such as a loss with weights; each once."""
    found = (owner.parameters() for owner in owners if hasattr(owner, "parameters"))
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def check_optimizer(model: object, loss: object, optimizer: object) -> None:
    """Raise StateError if the optimiser was made for parameters that are not the model's: a step would not move them.

    The model may have more: those keep their values.
    """
    owned = set(parameters_of(model, loss))
    strays = [p for p in getattr(optimizer, "parameters", ()) if p not in owned]
    if strays:
        raise StateError(
            f"{type(optimizer).__name__} was made for {named(strays)}, not among the parameters of"
            f" {type(model).__name__}; make the optimiser for net.parameters() of the network that is trained, again"
            " after a layer or a parameter of it was replaced"
        )


def check_used(owned: Sequence[Variable], recording: Trace) -> None:
    """Raise StateError if the model has computed with trainable parameters that are no part of it."""
    listed = set(owned)
    strays = [v for v in recording.variables if getattr(v, "trainable", False) and v not in listed]
    if strays:
        raise StateError(
            f"the model computes with {named(strays)}, which model.parameters() does not list, so that no optimiser"
            " would train it; assign the layer, or a list or dict of layers, to an attribute of the model, or freeze it"
            " with requires_grad_(False)"
        )


def named(variables: Sequence[Variable]) -> str:
    """Return a few variables in words."""
    shown = ", ".join(f"{v.name or 'a parameter without a name'} {list(v.shape)}" for v in variables[:3])
    return shown if len(variables) <= 3 else f"{shown} and {len(variables) - 3} more"
