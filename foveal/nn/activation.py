"""Activations."""

from typing import Any

from foveal import ops
from foveal.nn.module import Module


class ReLU(Module):
    """y = max(x, 0)"""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class ReLU6(Module):
    """y = min(max(x, 0), 6)"""

    def forward(self, x: Any) -> Any:
        return ops.clip(x, low=0.0, high=6.0)


class GELU(Module):
    """y = x/2 (1 + erf(x / sqrt 2)), PyTorch's default form"""

    def forward(self, x: Any) -> Any:
        return ops.gelu(x)


class Tanh(Module):
    """y = tanh x"""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)
