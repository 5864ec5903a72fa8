"""Layers that drop values at random in training."""

from typing import Any

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.module import Module
from foveal.trace import current


class Dropout(Module):
    """In training each element is 0 with probability p, else divided by 1 - p; the identity else."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p < 1.0:
            raise ShapeError(f"Dropout: p is {p}, it has to be at least 0 and below 1")
        self.p = p

    def forward(self, x: Any) -> Any:
        if not self.training or self.p == 0.0:
            return x
        recording = current()
        if recording.key is None:
            raise ShapeError(
                "Dropout in training mode inside of foveal.compile has no random numbers to draw from; call the model"
                " itself, use foveal.compile_step, or model.eval() for inference"
            )
        return x * ops.dropout_mask(recording.key, to=x.shape, p=self.p, stream=recording.stream())

    def describe(self) -> str:
        return str(self.p)
