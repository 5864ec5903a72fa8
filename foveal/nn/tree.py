"""Tree: what a module consists of, by name."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar, cast, overload

from foveal.errors import StateError
from foveal.nn.parameter import Buffer, Parameter
from foveal.variable import Variable
from foveal.watch import Watched, own_attributes

# Module
Part = TypeVar("Part", bound="Tree[Any]")
# the class of the variables that Module.named_variables yields
Kind = TypeVar("Kind", bound=Variable)


class Tree(Watched, Generic[Part]):
    """Base of Module: ways through the modules in it and below, and through their parameters and buffers.

    Names and order are PyTorch's: the names of attributes, joined by dots; those of a container's parts are 0, 1, 2,
    ... or its keys.
    """

    def named_children(self) -> Iterator[tuple[str, Part]]:
        """Yield (name, module) of the direct parts, in the order in which they were set."""
        for name, value in self.parts():
            if isinstance(value, Tree):
                yield name, cast(Part, value)

    def children(self) -> Iterator[Part]:
        """Yield the modules that are direct parts, each once."""
        yield from dict.fromkeys(module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Part]]:
        """Yield (dotted name, module) of this module and all below it. Raises StateError if one contains itself.

        A module that is held in several places is yielded under each of its names.
        """
        return self.below(prefix, ())

    def modules(self) -> Iterator[Part]:
        """Yield this module and all below it, each once."""
        yield from dict.fromkeys(module for _, module in self.named_modules())

    def below(self, prefix: str, above: tuple["Tree[Part]", ...]) -> Iterator[tuple[str, Part]]:
        """Yield what named_modules does. above: the modules that contain this one."""
        if any(self is module for module in above):
            raise StateError(
                f"{type(self).__name__} contains itself, as {prefix}; hold what lies above a layer outside of the"
                " model, or as weakref.ref(...)"
            )
        yield prefix, cast(Part, self)
        for name, child in self.named_children():
            yield from child.below(f"{prefix}.{name}" if prefix else name, (*above, self))

    @overload
    def named_variables(self) -> Iterator[tuple[str, Variable]]: ...

    @overload
    def named_variables(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]: ...

    def named_variables(self, kind: type[Variable] = Variable) -> Iterator[tuple[str, Variable]]:
        """Yield (dotted name, variable) of parameters and buffers, under each of their names.

        kind: the class of the variables to yield, Parameter for instance.
        """
        for prefix, module in self.named_modules():
            yield from module.own_variables(prefix, kind)

    def own_variables(self, prefix: str, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        """Yield what named_variables does of this module alone, whose name is `prefix`."""
        parts = list(self.parts())
        for group in (Parameter, Buffer):
            for name, value in parts:
                if isinstance(value, group) and isinstance(value, kind):
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each parameter once, under its first name."""
        return each_once(self.named_variables(Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Yield (dotted name, buffer), each buffer once, under its first name."""
        return each_once(self.named_variables(Buffer))

    def buffers(self) -> list[Buffer]:
        """Return all buffers, each once: what belongs to the state and is not trained, such as running statistics."""
        return [buffer for _, buffer in self.named_buffers()]

    def parameters(self) -> list[Parameter]:
        """Return all parameters, each once, also where layers share it."""
        return list(dict.fromkeys(v for v in self.newly_named() if isinstance(v, Parameter)))

    def name_parameters(self) -> None:
        """Give every variable and layer its dotted name, for messages and printed graphs."""
        self.newly_named()

    def newly_named(self) -> list[Variable]:
        """Name the parameters, and return all variables."""
        found: list[Variable] = []
        for prefix, module in self.named_modules():
            own_attributes(module)["_name"] = prefix
            for name, variable in module.own_variables(prefix, Variable):
                variable.name = name
                found.append(variable)
        return found

    def apply(self, function: Callable[[Part], object]) -> Self:
        """Call a function with every module, parts before what they are part of, each once; return this module.

        `nn.init.apply` gives starting values by the name of a rule.
        """
        # raises where a module contains itself
        list(self.named_modules())
        for module in dict.fromkeys(self.parts_first()):
            function(module)
        return self

    def parts_first(self) -> Iterator[Part]:
        """Yield all modules below this one and this one, parts before what they are part of."""
        for child in self.children():
            yield from child.parts_first()
        yield cast(Part, self)


def each_once(named: Iterator[tuple[str, Kind]]) -> Iterator[tuple[str, Kind]]:
    """Yield (name, variable) where the variable comes for the first time."""
    seen: set[int] = set()
    for name, variable in named:
        if id(variable) not in seen:
            seen.add(id(variable))
            yield name, variable
