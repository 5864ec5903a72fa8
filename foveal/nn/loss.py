"""Losses: called as loss(output, target), with PyTorch's names and hyper-parameters.

reduction: "mean" or "sum" over all elements give the scalar that a training step needs, "none" one value for each.
A loss's `check(target, shape of the output)` is called by a training step before it runs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foveal import ops
from foveal.api import check_labels
from foveal.errors import DataError, ShapeError
from foveal.ops.batch_norm import per_channel
from foveal.strides import Ndarray, Shape
from foveal.trace import Symbol, current
from foveal.variable import Variable

REDUCTIONS = ("mean", "sum", "none")
LEAST = 1e-30  # under the smallest probability that matters; its logarithm is finite


class Loss:
    """What all losses share."""

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            raise ShapeError(f"{self.name}: reduction is {reduction!r}; choose one of {', '.join(REDUCTIONS)}")
        self.reduction = reduction

    @property
    def name(self) -> str:
        return type(self).__name__

    def reduce(self, values: Any, weight: Any = None) -> Any:
        """`values` by the reduction; the mean divides by the sum of `weight` where it is given."""
        if self.reduction == "none":
            return values
        if self.reduction == "sum":
            return ops.sum(values)
        return ops.mean(values) if weight is None else ops.sum(values) / ops.sum(weight)

    def check_pair(self, output: Any, target: Any) -> None:
        """Numbers are compared with as many numbers: nothing is broadcast."""
        if is_integer(output) or is_integer(target):
            which = "output" if is_integer(output) else "target"
            raise ShapeError(
                f"{self.name}: the {which} holds integers, it has to be float32; convert it with astype('float32')"
            )
        if tuple(output.shape) != tuple(target.shape):
            raise ShapeError(
                f"{self.name}: the output has shape {tuple(output.shape)}, the target {tuple(target.shape)}; they have"
                " to be equal, so reshape one of them"
            )

    def check(self, target: Ndarray, output: Shape) -> None:
        """Raise DataError for a target that cannot be meant."""


def is_integer(x: Any) -> bool:
    return x.node.type.dtype != "float32" if isinstance(x, Symbol) else np.asarray(x).dtype.kind in "iub"


def number(loss: str, what: str, value: float, low: float, high: float = math.inf) -> float:
    if not (low <= value <= high and math.isfinite(value)):
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ShapeError(f"{loss}: {what} is {value}, it has to be at least {low:g}{upper}")
    return float(value)


def vector(loss: str, what: str, values: Any) -> Variable | None:
    """Weights as memory that programs read. None stays None."""
    if values is None:
        return None
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all() or (array < 0).any():
        raise ShapeError(f"{loss}: {what} holds {array.min()}; weights are finite and 0 or more")
    return Variable(array, what)


def held(variable: Variable, like: Any) -> Any:
    """The weights as a symbol where a function is traced, else as an array."""
    return current().lift(variable) if isinstance(like, Symbol) else variable.data


class ClassLoss(Loss):
    """What losses over classes share: labels, weights of classes, labels that do not count.

    output [N, K, ...], target [N, ...] with labels from 0 to K-1. weight [K]: how much each class counts; the mean
    divides
    by the sum of the targets' weights. ignore_index: a label that does not count (PyTorch's default is -100; here it
    has
    to be given, so that a wrong label is an error).
    """

    def __init__(self, weight: Any = None, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = vector(self.name, "weight", weight)
        if self.weight is not None and self.weight.data.ndim != 1:
            raise ShapeError(f"{self.name}: weight has shape {self.weight.shape}, it has to be [classes]")
        self.ignore_index = ignore_index

    def check(self, target: Ndarray, output: Shape) -> None:
        if target.dtype != np.int32:
            return
        check_labels(target, output[1], self.ignore_index)
        if self.ignore_index is not None and (target == self.ignore_index).all():
            raise DataError(
                f"every label of the batch is {self.ignore_index}, the one that {self.name} ignores: there is nothing"
                " to learn from; leave such batches out"
            )

    def check_classes(self, output: Any, target: Any) -> int:
        """The number of classes, after checking shapes."""
        shape, labels = tuple(output.shape), tuple(target.shape)
        if len(shape) < 2 or labels != (shape[0], *shape[2:]):
            raise ShapeError(
                f"{self.name}: logits of shape {shape} and labels of shape {labels}; it takes logits"
                " [N, classes, ...] and one integer label for each place, [N, ...]"
            )
        if not is_integer(target) or is_integer(output):
            raise ShapeError(
                f"{self.name}: labels have to be integers, and logits float32 numbers; convert them with astype"
            )
        classes = shape[1]
        if self.weight is not None and self.weight.shape != (classes,):
            raise ShapeError(
                f"{self.name}: weight has {self.weight.shape[0]} numbers, the logits {classes} classes (shape {shape});"
                " give one weight per class"
            )
        return int(classes)

    def chosen(self, output: Any, target: Any) -> Any:
        """1 at the class of each label, 0 elsewhere and for labels that do not count, [N, K, ...]."""
        classes = self.check_classes(output, target)
        hot = ops.one_hot(target, classes=classes)
        if self.ignore_index is None or not 0 <= self.ignore_index < classes:
            return hot  # a label outside of the classes has no 1 anyway
        kept = np.ones(classes, np.float32)
        kept[self.ignore_index] = 0
        return hot * per_channel(held(Variable(kept, "kept"), output), output)

    def weighted(self, hot: Any) -> Any:
        return hot if self.weight is None else hot * per_channel(held(self.weight, hot), hot)

    def negative_log_likelihood(self, log_p: Any, target: Any) -> Any:
        hot = self.weighted(self.chosen(log_p, target))
        return self.reduce(-ops.sum(log_p * hot, axes=(1,)), self.counted(hot))

    def counted(self, hot: Any) -> Any:
        """What the mean divides by the sum of; None where every label counts 1."""
        return None if self.weight is None and self.ignore_index is None else hot


class CrossEntropyLoss(ClassLoss):
    """-ln softmax(logits)[label]; logits [N, K, ...], labels [N, ...] integers, or probabilities [N, K, ...]

    label_smoothing e: the target is 1 - e at the label and e / K everywhere besides (Szegedy et al. 2016, section 7).
    Probabilities as targets: -sum_k weight_k target_k ln softmax_k, whose mean divides by the number of places.
    """

    def __init__(
        self, weight: Any = None, ignore_index: int | None = None, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.label_smoothing = number(self.name, "label_smoothing", label_smoothing, 0.0, 1.0)

    def __call__(self, logits: Any, target: Any) -> Any:
        if not is_integer(target):
            return self.soft(logits, target)
        plain = self.weight is None and self.ignore_index is None and not self.label_smoothing
        if plain and self.reduction == "mean" and len(logits.shape) == 2:
            return ops.softmax_cross_entropy(logits, target)
        classes, e = self.check_classes(logits, target), self.label_smoothing
        log_p = ops.log_softmax(logits, axis=1)
        if not e:
            return self.negative_log_likelihood(log_p, target)
        hot = self.chosen(logits, target)
        kept = ops.broadcast_to(ops.sum(hot, axes=(1,), keepdims=True), shape=log_p.shape)
        spread = self.weighted(hot) * (1.0 - e) + self.weighted(kept) * (e / classes)
        return self.reduce(-ops.sum(log_p * spread, axes=(1,)), self.weighted(hot))

    def soft(self, logits: Any, target: Any) -> Any:
        if len(target.shape) == len(logits.shape) - 1:
            raise ShapeError(
                f"{self.name}: the target of shape {tuple(target.shape)} is float32; class numbers are int32, and"
                f" probabilities have the shape of the output, {tuple(logits.shape)}"
            )
        self.check_pair(logits, target)
        if self.ignore_index is not None:
            raise ShapeError(
                f"{self.name}: ignore_index={self.ignore_index} is about labels, the target holds probabilities; leave"
                " it out, or give integer labels"
            )
        e = self.label_smoothing
        target = target * (1.0 - e) + e / logits.shape[1] if e else target
        return self.reduce(-ops.sum(ops.log_softmax(logits, axis=1) * self.weighted(target), axes=(1,)))


class NLLLoss(ClassLoss):
    """-output[label]: cross-entropy of log-probabilities [N, K, ...], as nn.LogSoftmax(1) gives them"""

    def __call__(self, log_probabilities: Any, target: Any) -> Any:
        return self.negative_log_likelihood(log_probabilities, target)


class FocalLoss(ClassLoss):
    """-weight_t (1 - p_t)^gamma ln p_t, p = softmax(logits): Lin et al. 2017, eq. 5; the mean is over all labels that
    count

    logits [N, K, ...], labels [N, ...]. weight is the paper's alpha, a number per class. gamma 0 is cross-entropy.
    """

    def __init__(
        self, gamma: float = 2.0, weight: Any = None, ignore_index: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.gamma = number(self.name, "gamma", gamma, 0.0)

    def __call__(self, logits: Any, target: Any) -> Any:
        hot = self.chosen(logits, target)
        log_p = ops.log_softmax(logits, axis=1)
        others = ops.sum(ops.exp(log_p) * (1.0 - hot), axes=(1,))  # 1 - p_t, without losing digits
        values = -ops.sum(log_p * self.weighted(hot), axes=(1,)) * power(others, self.gamma)
        count = None if self.ignore_index is None else ops.sum(hot, axes=(1,))
        return self.reduce(values, count)


def power(x: Any, exponent: float) -> Any:
    """x^exponent for x >= 0, with a finite gradient at 0 where the exponent is 0 or at least 1."""
    if exponent == int(exponent) and exponent <= 8:
        y = x if exponent else x * 0.0 + 1.0
        for _ in range(1, int(exponent)):
            y = y * x
        return y
    return ops.exp(ops.log(ops.maximum(x, LEAST)) * exponent)


class BCEWithLogitsLoss(Loss):
    """-w (p t ln s(x) + (1 - t) ln(1 - s(x))), s the sigmoid; logits x and targets t of the same shape, t from 0 to 1

    Written with softplus, so that no logit is too large. weight w and pos_weight p broadcast against the target.
    """

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.weight = vector(self.name, "weight", weight)
        self.pos_weight = vector(self.name, "pos_weight", pos_weight)

    def __call__(self, logits: Any, target: Any) -> Any:
        self.check_pair(logits, target)
        return self.reduce(self.values(logits, target))

    def values(self, logits: Any, target: Any) -> Any:
        yes = ops.softplus(-logits) * target
        if self.pos_weight is not None:
            yes = yes * self.fitting(self.pos_weight, target)
        y = yes + ops.softplus(logits) * (1.0 - target)
        return y if self.weight is None else y * self.fitting(self.weight, target)

    def fitting(self, weight: Variable, target: Any) -> Any:
        """The weights, after checking that they broadcast to the target's shape."""
        try:
            fits = np.broadcast_shapes(weight.shape, target.shape) == tuple(target.shape)
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(
                f"{self.name}: {weight.name} of shape {weight.shape} does not broadcast to the target's"
                f" {tuple(target.shape)}"
            )
        return held(weight, target)

    def check(self, target: Ndarray, output: Shape) -> None:
        check_probabilities(self.name, target)


class BinaryFocalLoss(BCEWithLogitsLoss):
    """-a_t (1 - p_t)^gamma ln p_t with p = sigmoid(logits): Lin et al. 2017, eq. 5, for targets 0 and 1

    p_t is p where the target is 1, else 1 - p; a_t likewise alpha or 1 - alpha, and 1 where alpha is None.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.gamma = number(self.name, "gamma", gamma, 0.0)
        self.alpha = None if alpha is None else number(self.name, "alpha", alpha, 0.0, 1.0)

    def values(self, logits: Any, target: Any) -> Any:
        wrong = ops.sigmoid(-logits) * target + ops.sigmoid(logits) * (1.0 - target)
        y = super().values(logits, target) * power(wrong, self.gamma)
        if self.alpha is None:
            return y
        return y * (target * (2.0 * self.alpha - 1.0) + (1.0 - self.alpha))


class BCELoss(Loss):
    """-(t ln p + (1 - t) ln(1 - p)) for probabilities p; the logarithms are at least -100, as in PyTorch

    BCEWithLogitsLoss loses no digits where p is next to 0 or 1; prefer it.
    """

    def __call__(self, probabilities: Any, target: Any) -> Any:
        self.check_pair(probabilities, target)
        yes = ops.maximum(ops.log(ops.maximum(probabilities, LEAST)), -100.0)
        no = ops.maximum(ops.log(ops.maximum(1.0 - probabilities, LEAST)), -100.0)
        return self.reduce(-(target * yes + (1.0 - target) * no))

    def check(self, target: Ndarray, output: Shape) -> None:
        check_probabilities(self.name, target)


def check_probabilities(loss: str, target: Ndarray) -> None:
    if target.size and not (target.min() >= 0 and target.max() <= 1):
        wrong = float(target.min() if target.min() < 0 else target.max())
        raise DataError(f"{loss}: a target is {wrong:g}; targets lie between 0 and 1")


class MSELoss(Loss):
    """(y - t)^2"""

    def __call__(self, output: Any, target: Any) -> Any:
        self.check_pair(output, target)
        d = output - target
        return self.reduce(d * d)


class L1Loss(Loss):
    """|y - t|; the gradient where they are equal is 0"""

    def __call__(self, output: Any, target: Any) -> Any:
        self.check_pair(output, target)
        return self.reduce(magnitude(output - target))


def magnitude(d: Any) -> Any:
    return ops.relu(d) + ops.relu(-d)


class HuberLoss(Loss):
    """d^2 / 2 up to |d| = delta, delta (|d| - delta / 2) beyond; d = y - t (Huber 1964)"""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = number(self.name, "delta", delta, LEAST)

    def __call__(self, output: Any, target: Any) -> Any:
        self.check_pair(output, target)
        return self.reduce(huber(output - target, self.delta))


def huber(d: Any, delta: float) -> Any:
    far = magnitude(d)
    near = ops.minimum(far, delta)
    return near * near * 0.5 + (far - near) * delta


class SmoothL1Loss(Loss):
    """d^2 / (2 beta) up to |d| = beta, |d| - beta / 2 beyond; d = y - t (Girshick 2015, eq. 3). beta 0 is L1Loss"""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = number(self.name, "beta", beta, 0.0)

    def __call__(self, output: Any, target: Any) -> Any:
        self.check_pair(output, target)
        d = output - target
        return self.reduce(huber(d, self.beta) * (1 / self.beta) if self.beta else magnitude(d))


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

    def check(self, target: Ndarray, output: Shape) -> None:
        if (own := getattr(self.loss, "check", None)) is not None:
            own(target, output)


def class_balanced_weights(counts: Sequence[int], beta: float = 0.999) -> Ndarray:
    """Weights of classes by their effective number of images: Cui et al. 2019, eq. 2, w = (1 - b) / (1 - b^n)

    counts [K]: images of each class, at least 1. beta from 0 (all equal) towards 1 (by the inverse of the counts).
    Returns float32 [K], which sum to K; for `weight` of CrossEntropyLoss or FocalLoss.
    """
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or not n.size or not np.isfinite(n).all() or (n < 1).any():
        raise DataError(
            f"class_balanced_weights: counts are {counts!r}; each class needs at least 1 image, so leave out those that"
            " have none"
        )
    number("class_balanced_weights", "beta", beta, 0.0)
    if beta >= 1:
        raise ShapeError(f"class_balanced_weights: beta is {beta}, it has to be below 1")
    # 1 - b^n without cancellation where b is next to 1
    effective = -np.expm1(n * math.log1p(beta - 1)) if beta else np.ones_like(n)
    weights = 1 / effective
    return np.asarray(weights * (len(n) / weights.sum()), np.float32)
