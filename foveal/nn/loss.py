"""Losses: called on (output, target), they give a scalar."""

import math
from collections.abc import Callable
from typing import Any

from foveal import ops
from foveal.errors import ShapeError


class CrossEntropyLoss:
    """Mean over the batch of -ln softmax(logits)[label]; logits [N, classes], labels [N] integers"""

    def __call__(self, logits: Any, labels: Any) -> Any:
        return ops.softmax_cross_entropy(logits, labels)


class AuxiliaryLoss:
    """loss(logits) + weight times the sum of loss(auxiliary logits): Szegedy et al. 2015, section 5

    For models that return (logits, auxiliary logits, ...) in training, such as GoogLeNet; of one output it is `loss`.
    """

    def __init__(self, loss: Callable[[Any, Any], Any], weight: float = 0.3) -> None:
        if not 0.0 <= weight < math.inf:
            raise ShapeError(f"AuxiliaryLoss: weight is {weight}, it has to be 0 or more")
        self.loss, self.weight = loss, weight

    def __call__(self, outputs: Any, target: Any) -> Any:
        if not isinstance(outputs, tuple):
            return self.loss(outputs, target)
        total, *others = (self.loss(output, target) for output in outputs)
        for other in others:
            total = total + other * self.weight
        return total
