"""What this room asks of a network, and small questions to networks, variables and results."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from foveal.graph import Node
from foveal.names import asked_for, nearest
from foveal.ops.op import Tensor
from foveal.strides import Shape
from foveal.trace import Symbol
from foveal.variable import Variable


class Model(Protocol):
    """The part of nn.Module that is used here; nn stands above this room and cannot be imported."""

    training: bool

    def __call__(self, x: Tensor, /) -> object: ...

    def eval(self) -> "Model": ...

    def train(self) -> "Model": ...

    def name_parameters(self) -> None: ...

    def parameters(self) -> Sequence[Variable]: ...

    def named_modules(self) -> Iterator[tuple[str, "Model"]]: ...

    def named_variables(self) -> Iterator[tuple[str, Variable]]: ...


# Names that an error lists.
MAX_NAMES = 8


def near(name: str, known: Iterable[str]) -> str:
    """Return a part of a message: the names that are like the one that there is not, else the first of all."""
    # The model itself has no name, or one in brackets.
    names = [one for one in dict.fromkeys(known) if one and not one.startswith("(")]
    # Names of layers differ in few letters, so that many are alike; of a short one, those that it is a part of.
    if question := nearest(name, names, 5) or asked_for([one for one in names if name and name in one][:5]):
        return question
    return f"it has {', '.join(names[:MAX_NAMES])}{', ...' if len(names) > MAX_NAMES else ''}"


class HasModes(Protocol):
    """A model whose layers have modes of their own."""

    def named_modules(self) -> Iterator[tuple[str, Any]]: ...


@contextmanager
def modes_restored(model: HasModes) -> Iterator[None]:
    """After the block each module is in training or evaluation mode as it was before."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def trains(variable: Variable) -> bool | None:
    """True for a parameter that is trained, False for a frozen one, None for a buffer."""
    trainable: bool | None = getattr(variable, "trainable", None)
    return trainable


def own_variables(module: Model) -> list[tuple[str, Variable]]:
    """Names and variables that a module holds itself, without those of its parts."""
    return [(name, value) for name, value in module.named_variables() if "." not in name]


def main_output(result: object) -> Symbol | None:
    """The first tensor of what a traced model returned; None if there is none."""
    while isinstance(result, tuple | list) and result:
        result = result[0]
    return result if isinstance(result, Symbol) else None


def float_outputs(result: object) -> list[Symbol]:
    """All float tensors that a traced model returned, such as the outputs of auxiliary classifiers.

    Integers, such as the indices of a max pooling, are left out: they have no gradient.
    """
    if isinstance(result, tuple | list):
        return [y for part in result for y in float_outputs(part)]
    return [result] if isinstance(result, Symbol) and result.node.type.dtype == "float32" else []


def output_node(result: object) -> Node | None:
    """The node of a result's first tensor."""
    output = main_output(result)
    return None if output is None else output.node


def output_shape(result: object) -> Shape:
    """The shape of a result's first tensor; () if there is none."""
    node = output_node(result)
    return () if node is None else node.shape
