"""Layers that hold others, and those that only pass values on."""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.module import Module
from foveal.ops.op import Tensor


class Sequential(Module):
    """Modules one after another, named 0, 1, 2, ... as in PyTorch"""

    def __init__(self, *modules: Module) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def forward(self, x: Tensor) -> Tensor:
        for _, module in self.children():
            x = module(x)
        return x


class Concat(Sequential):
    """The results of several modules on the same input, side by side along an axis; the modules are named 0, 1, 2, ...

    x [N, C, H, W] -> [N, the sum of their channels, P, Q] with axis=1; all other axes have to agree.
    """

    def __init__(self, *modules: Module, axis: int = 1) -> None:
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
