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


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x))"""

    def forward(self, x: Any) -> Any:
        return 1.0 / (ops.exp(-x) + 1.0)


class SiLU(Module):
    """y = x / (1 + exp(-x))"""

    def forward(self, x: Any) -> Any:
        return x / (ops.exp(-x) + 1.0)


class Hardsigmoid(Module):
    """y = min(max(x + 3, 0), 6) / 6"""

    def forward(self, x: Any) -> Any:
        return ops.clip(x + 3.0, low=0.0, high=6.0) * (1.0 / 6.0)


class Hardswish(Module):
    """y = x min(max(x + 3, 0), 6) / 6"""

    def forward(self, x: Any) -> Any:
        return x * (ops.clip(x + 3.0, low=0.0, high=6.0) * (1.0 / 6.0))
