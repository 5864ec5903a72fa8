"""Losses of predicted numbers: mean squares, absolute values, and what lies between the two."""

from foveal import ops
from foveal.nn.arguments import check_number
from foveal.nn.loss import TINY, Loss
from foveal.ops.op import Tensor


class MSELoss(Loss):
    """(y - t)^2; output y and target t of the same shape"""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        d = output - target
        return self.reduce(d * d)


class L1Loss(Loss):
    """|y - t|; output y and target t of the same shape; the gradient where they are equal is 0"""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        return self.reduce(absolute(output - target))


def absolute(d: Tensor) -> Tensor:
    """|d|, with the gradient 0 at 0."""
    return ops.relu(d) + ops.relu(-d)


class HuberLoss(Loss):
    """d^2 / 2 up to |d| = delta, delta (|d| - delta / 2) beyond; d = y - t (Huber 1964)

    output y and target t of the same shape. delta: above 0.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = check_number(self.name, "delta", delta, TINY)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        inner, rest = parts(output - target, self.delta)
        return self.reduce(inner * inner * 0.5 + rest * self.delta)


def parts(d: Tensor, bend: float) -> tuple[Tensor, Tensor]:
    """|d| as two summands: what lies up to the bend, and what lies beyond it."""
    size = absolute(d)
    inner = ops.minimum(size, bend)
    return inner, size - inner


class SmoothL1Loss(Loss):
    """d^2 / (2 beta) up to |d| = beta, |d| - beta / 2 beyond; d = y - t (Girshick 2015, eq. 3)

    output y and target t of the same shape. beta: 0 or more; 0 is L1Loss.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = check_number(self.name, "beta", beta, 0.0)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        d = output - target
        # Of a smaller beta the inverse would be infinite, and the quadratic part is none in float32.
        if self.beta < TINY:
            return self.reduce(absolute(d))
        inner, rest = parts(d, self.beta)
        # Divided before they are summed, large distances stay finite.
        return self.reduce(inner * (inner * (1 / self.beta)) * 0.5 + rest)
