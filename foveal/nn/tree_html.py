"""A network as HTML: a tree of layers that unfolds, with the shapes and the number of their parameters."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from foveal.display import folded
from foveal.nn.parameter import Buffer, Parameter
from foveal.variable import Variable

# Layers below this depth are folded at first, and so are all of a network of more children than that.
OPENED, MANY = 1, 40


class Shown(Protocol):
    """The part of a Module that is shown."""

    def describe(self) -> str: ...

    def named_children(self) -> Iterator[tuple[str, Any]]: ...

    def parameters(self) -> Sequence[Parameter]: ...

    def own_variables(self, prefix: str, kind: type[Variable]) -> Iterator[tuple[str, Variable]]: ...


def tree(module: Shown, name: str = "", depth: int = 0) -> str:
    """Return a module and all below it as a tree: its hyper-parameters, its variables, its parts."""
    own = [(n, v) for n, v in module.own_variables("", Variable) if isinstance(v, Parameter | Buffer)]
    children = list(module.named_children())
    numbers = sum(parameter.size for parameter in module.parameters())
    frozen = sum(parameter.size for parameter in module.parameters() if not parameter.trainable)
    counted = f"  {numbers:,} parameters" if numbers else ""
    counted += f", {frozen:,} frozen" if frozen else ""
    head = f"{f'({name}) ' if name else ''}{type(module).__name__}({module.describe()}){counted}"
    lines = [folded(f"{n}  {'x'.join(map(str, v.shape)) or 'number'}{kind(v)}", (), False) for n, v in own]
    parts = [tree(child, child_name, depth + 1) for child_name, child in children]
    return folded(head, [*lines, *parts], depth < OPENED and len(children) <= MANY)


def kind(variable: Variable) -> str:
    """Return what a variable is where it is not trained."""
    if isinstance(variable, Parameter):
        return "" if variable.trainable else "  frozen"
    return "  buffer"
