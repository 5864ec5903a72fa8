"""Tree: what a module consists of, by name."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar, cast, overload

from numpy.typing import ArrayLike

from foveal.errors import ArgumentError, StateError
from foveal.names import nearest
from foveal.nn.parameter import Buffer, Parameter
from foveal.variable import Variable
from foveal.watch import Watched, own_attributes

# Module
Part = TypeVar("Part", bound="Tree[Any]")
# anything with a name
Value = TypeVar("Value")
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

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Part]]:
        """Yield (dotted name, module) of this module and all below it. Raises StateError if one contains itself.

        prefix: what the names begin with. remove_duplicate: True yields a module that is held in several places once,
        under its first name; False under each of its names.
        """
        seen: set[int] = set()
        for name, module in self.below(prefix, ()):
            if not remove_duplicate or id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Part]:
        """Yield this module and all below it, each once."""
        yield from dict.fromkeys(module for _, module in self.named_modules())

    def below(self, prefix: str, above: tuple["Tree[Part]", ...]) -> Iterator[tuple[str, Part]]:
        """Yield what named_modules does, duplicates too. above: the modules that contain this one."""
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
        for prefix, module in self.below("", ()):
            yield from module.own_variables(prefix, kind)

    def own_variables(self, prefix: str, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        """Yield what named_variables does of this module alone, whose name is `prefix`."""
        parts = list(self.parts())
        for group in (Parameter, Buffer):
            for name, value in parts:
                if isinstance(value, group) and isinstance(value, kind):
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each parameter once, under its first name.

        prefix: what the names begin with. recurse: False for those of this module alone. remove_duplicate: False yields
        a shared parameter under each of its names.
        """
        return self.chosen(Parameter, prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """Yield (dotted name, buffer), each buffer once, under its first name; arguments as of named_parameters."""
        return self.chosen(Buffer, prefix, recurse, remove_duplicate)

    def chosen(
        self, kind: type[Kind], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Kind]]:
        """Yield (name, variable) of a kind as named_parameters and named_buffers are asked to."""
        places = self.below(prefix, ()) if recurse else iter([(prefix, cast(Part, self))])
        named = (pair for name, module in places for pair in module.own_variables(name, kind))
        return each_once(named) if remove_duplicate else named

    def buffers(self, recurse: bool = True) -> list[Buffer]:
        """Return all buffers, each once: what belongs to the state and is not trained, such as running statistics.

        recurse: False for those of this module alone.
        """
        return [buffer for _, buffer in self.named_buffers(recurse=recurse)]

    def parameters(self, recurse: bool = True) -> list[Parameter]:
        """Return all parameters, each once, also where layers share it. recurse: False for this module's own alone."""
        if not recurse:
            return [parameter for _, parameter in self.named_parameters(recurse=False)]
        return list(dict.fromkeys(v for v in self.newly_named() if isinstance(v, Parameter)))

    def get_submodule(self, target: str) -> Part:
        """Return the module of a dotted name, "" for this one. Raises ArgumentError that shows names like it."""
        return found(dict(self.below("", ())), target, f"{type(self).__name__} has no layer")

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter of a dotted name. Raises ArgumentError that shows names like it."""
        return found(dict(self.named_variables(Parameter)), target, f"{type(self).__name__} has no parameter")

    def get_buffer(self, target: str) -> Buffer:
        """Return the buffer of a dotted name. Raises ArgumentError that shows names like it."""
        return found(dict(self.named_variables(Buffer)), target, f"{type(self).__name__} has no buffer")

    def add_module(self, name: str, module: Part | None) -> None:
        """Set a module as an attribute: the same as `self.name = module`, for names that are computed."""
        setattr(self, own_name(name), module)

    def register_module(self, name: str, module: Part | None) -> None:
        """Another name of add_module."""
        self.add_module(name, module)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set a parameter as an attribute: the same as `self.name = param`, for names that are computed."""
        setattr(self, own_name(name), param)

    def register_buffer(self, name: str, tensor: ArrayLike | Buffer | None, persistent: bool = True) -> None:
        """Set an array as an attribute that belongs to the state: `self.name = nn.Buffer(tensor)`.

        persistent: False is refused with ArgumentError: an array that is not stored is a plain attribute.
        """
        if not persistent:
            raise ArgumentError(
                f"the buffer {name} belongs to the state; hold what is not stored as self.{name} = array"
            )
        setattr(self, own_name(name), tensor if tensor is None or isinstance(tensor, Buffer) else Buffer(tensor))

    def name_parameters(self) -> None:
        """Give every variable and layer its dotted name, for messages and printed graphs."""
        self.newly_named()

    def newly_named(self) -> list[Variable]:
        """Name the parameters, and return all variables."""
        found: list[Variable] = []
        for prefix, module in self.below("", ()):
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
        list(self.below("", ()))
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


def own_name(name: str) -> str:
    """Return the name of an attribute. Raises ArgumentError unless it can be one: a text without a dot."""
    if not isinstance(name, str) or not name or "." in name:
        raise ArgumentError(f"a part of a module cannot be called {name!r}; choose a text without a dot")
    return name


def found(named: Mapping[str, Value], name: str, problem: str) -> Value:
    """Return what has a name. Raises ArgumentError with the problem, and names like it."""
    if name not in named:
        hint = nearest(str(name), named, 3) or f"it has {', '.join(named) or 'none'}"
        raise ArgumentError(f"{problem} {name!r}; {hint}")
    return named[name]
