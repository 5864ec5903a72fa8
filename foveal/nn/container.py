"""Layers that hold others, and those that only pass values on."""

from typing import Any

from foveal.nn.module import Module


class Sequential(Module):
    """Modules one after another, named 0, 1, 2, ... as in PyTorch"""

    def __init__(self, *modules: Module) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def forward(self, x: Any) -> Any:
        for _, module in self.children():
            x = module(x)
        return x


class Identity(Module):
    """y = x"""

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """x [N, ...] -> [N, features], in C order"""

    def forward(self, x: Any) -> Any:
        return x.reshape(x.shape[0], -1)
