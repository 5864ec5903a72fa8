"""Losses of predicted distributions: Kullback-Leibler divergence, and likelihoods of counts and of numbers."""

import math

from foveal import ops
from foveal.errors import DataError, ShapeError
from foveal.nn.arguments import check_number
from foveal.nn.loss import TINY, Loss, scaled
from foveal.nn.loss_margin import SeveralInputs
from foveal.ops.op import Tensor
from foveal.strides import Ndarray, Shape


def check_not_negative(loss: str, target: Ndarray) -> None:
    """Raise DataError unless all targets are 0 or more."""
    if target.size and not target.min() >= 0:
        raise DataError(f"{loss}: a target is {target.min():g}; targets are 0 or more")


class KLDivLoss(Loss):
    """t (ln t - x), x logarithms of probabilities and t probabilities of the same shape [N, ...]; 0 ln 0 is 0

    reduction: "batchmean" divides the sum by N, which is the divergence of the textbooks; "mean" divides it by the
    number of all elements. log_target: True takes ln t as the target.
    """

    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def __call__(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        self.check_pair(log_probabilities, target)
        if self.log_target:
            values = ops.exp(target) * (target - log_probabilities)
        else:
            own = ops.where(target, target * ops.log(ops.where(target, target, 1.0)), 0.0)
            values = own - scaled(log_probabilities, target)
        if self.reduction != "batchmean":
            return self.reduce(values)
        if not values.shape:
            raise ShapeError(f"{self.name}: batchmean is for outputs [N, ...], got one number; use reduction='sum'")
        return ops.sum(values) * (1.0 / values.shape[0])

    def check(self, target: Ndarray, output: Shape) -> None:
        if not self.log_target:
            check_not_negative(self.name, target)


class PoissonNLLLoss(Loss):
    """e^x - t x for counts t of which x is the logarithm of the expected number; of the same shape

    log_input: False takes the expected number itself, x - t ln(x + eps). full: True adds Stirling's approximation of
    ln t!, t ln t - t + ln(2 pi t) / 2, where t is above 1. eps: above 0.
    """

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.log_input, self.full, self.eps = log_input, full, check_number(self.name, "eps", eps, TINY)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        values = ops.exp(output) - target * output
        if not self.log_input:
            values = output - target * ops.log(output + self.eps)
        if self.full:
            # ln 1 where it is not added
            many = ops.greater(target, 1.0)
            t = ops.where(many, target, 1.0)
            values = values + ops.where(many, t * ops.log(t) - t + ops.log(t * (2.0 * math.pi)) * 0.5, 0.0)
        return self.reduce(values)

    def check(self, target: Ndarray, output: Shape) -> None:
        check_not_negative(self.name, target)


class GaussianNLLLoss(SeveralInputs):
    """(ln v + (x - t)^2 / v) / 2 for numbers t that are normally distributed with mean x and variance v

    Called as loss(x, t, v), all of one shape. Variances below eps count as eps. full: True adds ln(2 pi) / 2. eps:
    above 0.
    """

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.full, self.eps = full, check_number(self.name, "eps", eps, TINY)

    def __call__(self, output: Tensor, target: Tensor, variance: Tensor) -> Tensor:
        self.check_inputs(output, target, variance)
        v, d = ops.maximum(variance, self.eps), output - target
        values = (ops.log(v) + d * d / v) * 0.5
        return self.reduce(values + 0.5 * math.log(2.0 * math.pi) if self.full else values)
