"""Layers that hold others, and those that only pass values on."""

from collections.abc import Iterable, Mapping

from foveal import ops
from foveal.errors import ArgumentError, ShapeError
from foveal.nn.module import Module, ModuleList
from foveal.ops.op import Tensor
from foveal.watch import own_attributes


class Sequential(Module):
    """Modules one after another, named 0, 1, 2, ... as in PyTorch

    modules: one by one, in one list, or in one dict by name. Raises ArgumentError for anything but modules.
    """

    def __init__(self, *modules: Module | Iterable[Module] | Mapping[str, Module]) -> None:
        kind = type(self).__name__
        for name, module in self.named(modules):
            if isinstance(module, type):
                raise ArgumentError(f"{kind}: part {name} is the class {module.__name__}; write {module.__name__}()")
            if not isinstance(module, Module):
                raise ArgumentError(
                    f"{kind}: part {name} is a {type(module).__name__}, it has to be a module; give nn.ReLU() for a"
                    " function such as ops.relu, or derive from nn.Module and call it in forward"
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
        for _, module in self.children():
            x = module(x)
        return x


class Concat(Sequential):
    """The results of several modules on the same input, side by side along an axis; the modules are named 0, 1, 2, ...

    x [N, C, H, W] -> [N, the sum of their channels, P, Q] with axis=1; all other axes have to agree.
    """

    def __init__(self, *modules: Module | Iterable[Module] | Mapping[str, Module], axis: int = 1) -> None:
        super().__init__(*modules)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return ops.concatenate(*(module(x) for _, module in self.children()), axis=self.axis)

    def describe(self) -> str:
        return f"axis={self.axis}"


class Identity(Module):
    """y = x"""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """x [N, ...] -> [N, features], in C order"""

    def forward(self, x: Tensor) -> Tensor:
        if not x.shape:
            raise ShapeError("Flatten: takes x [N, ...], got one number")
        return x.reshape(x.shape[0], -1)
