"""Layers that hold others, and those that only pass values on."""

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Self, SupportsIndex, overload

from foveal import ops
from foveal.arguments import call_errors
from foveal.errors import ArgumentError, PlaceError, ShapeError
from foveal.nn.module import Module, ModuleList
from foveal.ops.op import Tensor
from foveal.watch import own_attributes


class Sequential(Module):
    """Modules one after another, named 0, 1, 2, ... as in PyTorch

    modules: one by one, in one list, or in one dict by name. Raises ArgumentError for anything but modules.

    It is used as a list: net[0], net[-1], net[1:3] (a Sequential of the same modules, under their names), len(net),
    `for module in net`, net[2] = module, del net[2], append, extend, insert, pop. Numbered modules are numbered anew
    when one is put in or taken out; modules of a dict keep their names, and others get the next free number.
    """

    #: A file describes it by what is in it.
    made_of_parts: ClassVar[bool] = True

    # add_named says more of what is no module than the annotation does.
    @call_errors("Sequential")
    def __init__(self, *modules: Module | Iterable[Module] | Mapping[str, Module]) -> None:
        self.add_named(self.named(modules))

    def add_named(self, named: Iterable[tuple[object, object]]) -> None:
        """Add modules at the end, under their names; ArgumentError for names and values that cannot be meant."""
        kind = type(self).__name__
        for name, module in named:
            if isinstance(module, type):
                raise ArgumentError(f"{kind}: part {name} is the class {module.__name__}; write {module.__name__}()")
            if not isinstance(module, Module):
                raise ArgumentError(
                    f"{kind}: part {name} is of type {type(module).__name__}, it has to be a module; give nn.ReLU() for"
                    " a function such as ops.relu, or derive from nn.Module and call it in forward"
                )
            if not isinstance(name, str) or not name or "." in name or hasattr(self, name):
                raise ArgumentError(f"{kind}: a part cannot be called {name!r}; choose a text without a dot")
            setattr(self, name, module)

    def __setattr__(self, name: str, value: object) -> None:
        if value is None and isinstance(own_attributes(self).get(name), Module):
            raise ArgumentError(f"{type(self).__name__}: part {name} cannot be None; nn.Identity() leaves it out")
        super().__setattr__(name, value)

    @staticmethod
    def named(modules: tuple[object, ...]) -> list[tuple[str, object]]:
        """Return (name, module) of the parts."""
        first = modules[0] if len(modules) == 1 else None
        if isinstance(first, Mapping):
            return list(first.items())
        if (isinstance(first, Iterable) and not isinstance(first, Module | str)) or isinstance(first, ModuleList):
            modules = tuple(first)
        return [(str(i), module) for i, module in enumerate(modules)]

    def forward(self, x: Tensor) -> Tensor:
        for _, module in self.named_children():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(list(self.named_children()))

    def __bool__(self) -> bool:
        """True, also of one without modules: it is a function, whatever is in it."""
        return True

    def __iter__(self) -> Iterator[Module]:
        return iter([module for _, module in self.named_children()])

    @overload
    def __getitem__(self, index: SupportsIndex) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...

    def __getitem__(self, index: SupportsIndex | slice) -> "Module | Sequential":
        named = list(self.named_children())
        if isinstance(index, slice):
            return self.with_modules(dict(named[index]))
        return named[self.place_of(index)][1]

    def with_modules(self, modules: Mapping[str, Module]) -> "Sequential":
        """Return some of the modules in a container of this kind."""
        return Sequential(modules)

    def place_of(self, index: SupportsIndex) -> int:
        """Return the place of a module, counted from the start. Raises ArgumentError where there is none."""
        kind, count = type(self).__name__, len(self)
        if not isinstance(index, SupportsIndex):
            raise ArgumentError(f"{kind}: modules have places 0, 1, ..., not {index!r}; names are attributes")
        place = operator.index(index)
        if not -count <= place < count:
            raise PlaceError(f"{kind}: there is no module {place}; it has {count}")
        return place % count

    def __setitem__(self, index: SupportsIndex, module: Module) -> None:
        setattr(self, list(self.named_children())[self.place_of(index)][0], module)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        named = list(self.named_children())
        del named[index if isinstance(index, slice) else self.place_of(index)]
        self.rearrange(named)

    def append(self, module: Module) -> Self:
        """Add a module at the end, and return this container."""
        return self.insert(len(self), module)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end, and return this container."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before that of a place, and return this container."""
        named: list[tuple[str, Module]] = list(self.named_children())
        names = {name for name, _ in named}
        named.insert(index, (next(str(i) for i in itertools.count(len(named)) if str(i) not in names), module))
        self.rearrange(named)
        return self

    def pop(self, index: SupportsIndex = -1) -> Module:
        """Take a module out, the last one if no place is given, and return it."""
        module = self[operator.index(index)]
        del self[index]
        return module

    def rearrange(self, named: list[tuple[str, Module]]) -> None:
        """Hold these modules in this order; numbered ones are numbered anew."""
        old = list(self.named_children())
        if all(name.isdecimal() for name, _ in named):
            named = [(str(i), module) for i, (_, module) in enumerate(named)]
        for name, _ in old:
            delattr(self, name)
        try:
            self.add_named(named)
        except ArgumentError:
            # nothing is lost
            for name, _ in list(self.named_children()):
                delattr(self, name)
            self.add_named(old)
            raise


class Concat(Sequential):
    """The results of several modules on the same input, side by side along an axis; the modules are named 0, 1, 2, ...

    x [N, C, H, W] -> [N, the sum of their channels, P, Q] with axis=1; all other axes have to agree.
    """

    #: A file describes it by what is in it.
    made_of_parts: ClassVar[bool] = True

    def __init__(self, *modules: Module | Iterable[Module] | Mapping[str, Module], axis: int = 1) -> None:
        super().__init__(*modules)
        self.axis = axis

    def with_modules(self, modules: Mapping[str, Module]) -> "Concat":
        return Concat(modules, axis=self.axis)

    def forward(self, x: Tensor) -> Tensor:
        return ops.concatenate(*(module(x) for _, module in self.named_children()), axis=self.axis)

    def describe(self) -> str:
        return f"axis={self.axis}"


class Identity(Module):
    """y = x"""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """The axes from start_dim to end_dim as one, in C order: x [N, ...] -> [N, features]

    Negative axes count from the last. Raises ShapeError where x has no such axes.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        if not x.shape:
            raise ShapeError("Flatten: takes x [N, ...], got one number")
        if (self.start_dim, self.end_dim) == (1, -1):
            return x.reshape(x.shape[0], -1)
        rank = len(x.shape)
        if not (-rank <= self.start_dim < rank and -rank <= self.end_dim < rank):
            raise ShapeError(f"Flatten: x of shape {x.shape} has no axes {self.start_dim} to {self.end_dim}")
        start, end = self.start_dim % rank, self.end_dim % rank
        if start > end:
            raise ShapeError(f"Flatten: axis {self.start_dim} of shape {x.shape} comes after axis {self.end_dim}")
        return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])

    def describe(self) -> str:
        usual = (self.start_dim, self.end_dim) == (1, -1)
        return "" if usual else f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """One axis as several, in C order: x [..., n, ...] -> [..., *unflattened_size, ...], the reverse of Flatten

    dim: the axis; a negative one counts from the last. unflattened_size: sizes whose product is n, of which one may be
    -1, what is left. Raises ShapeError where they do not fit.
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)
        if not self.unflattened_size or min(self.unflattened_size) < -1 or self.unflattened_size.count(-1) > 1:
            raise ShapeError(
                f"Unflatten: unflattened_size is {unflattened_size!r}; give sizes of 0 or more, of which one may be -1"
            )

    def forward(self, x: Tensor) -> Tensor:
        rank = len(x.shape)
        if not -rank <= self.dim < rank:
            raise ShapeError(f"Unflatten: x of shape {x.shape} has no axis {self.dim}")
        axis, sizes, count = self.dim % rank, self.unflattened_size, x.shape[self.dim]
        if -1 in sizes:
            rest = -math.prod(sizes)
            if rest and count % rest == 0:
                sizes = tuple(count // rest if n == -1 else n for n in sizes)
        if math.prod(sizes) != count:
            raise ShapeError(
                f"Unflatten: axis {self.dim} of shape {x.shape} has {count} elements, and {self.unflattened_size}"
                " another number; give sizes with that product"
            )
        return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])

    def describe(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
