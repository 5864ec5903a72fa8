"""Losses: called on (output, target), they give a scalar."""

from typing import Any

from foveal import ops


class CrossEntropyLoss:
    """Mean over the batch of -ln softmax(logits)[label]; logits [N, classes], labels [N] integers"""

    def __call__(self, logits: Any, labels: Any) -> Any:
        return ops.softmax_cross_entropy(logits, labels)
