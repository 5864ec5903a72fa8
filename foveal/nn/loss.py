"""Losses: called as loss(output, target), with PyTorch's names and hyper-parameters.

reduction: "mean" or "sum" over all elements give the scalar that a training step needs, "none" one value for each. A
training step calls a loss on Tensors, while it is traced; called on NumPy arrays, a loss computes at once. Before each
run the step calls the loss's `check(target, shape of the output)`, which raises DataError for targets that have no
meaning. Shapes and hyper-parameters that do not fit raise ShapeError.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike

from foveal import ops
from foveal.batch import check_labels
from foveal.errors import DataError, ShapeError
from foveal.kinds import FLOAT32_MAX, FLOAT32_SMALLEST, as_float32, shown
from foveal.nn.arguments import check_number, checked_loss
from foveal.ops.batch_norm import per_channel
from foveal.ops.op import Tensor
from foveal.strides import Ndarray, Shape
from foveal.trace import Symbol, current
from foveal.variable import Variable
from foveal.watch import Watched


class LossFunction(Protocol):
    """Anything that is called as a loss: one of this file, or a function of one's own."""

    def __call__(self, output: Tensor, target: Tensor, /) -> Tensor: ...


# below the smallest probability that matters; its logarithm is finite in float32
TINY = 1e-30
# e^-FLAT is below the smallest float32
FLAT = 104.0


class Loss(Watched):
    """Base of all losses, which reduce one value for each element to the loss.

    A function (output, target) -> number, written with operators, is loss enough. A class of your own has options, and
    checks the targets before each step:

        class LogCosh(nn.Loss):
            def __call__(self, output, target):
                self.check_pair(output, target)
                d = output - target
                return self.reduce(ops.softplus(-2.0 * d) + d - math.log(2.0))

            def check(self, target, output):
                if (abs(target) > 1e3).any():
                    raise ValueError("LogCosh: a target is beyond 1000")

        step = foveal.compile_step(net, LogCosh(), optimizer)

    __call__(self, output, target): Tensors to a Tensor, by operators; with labels, target is int32 and
    ops.one_hot(target, classes=n) has a 1 in each row. check(self, target, output): called with the array of targets
    and the shape of what the model returns. reduce: by `reduction`, "mean", "sum" or "none".
    """

    #: the words that `reduction` may be
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in self.reductions:
            raise ShapeError(f"{self.name}: reduction is {reduction!r}; choose one of {', '.join(self.reductions)}")
        self.reduction = reduction

    @property
    def name(self) -> str:
        """The name of the loss in messages."""
        return type(self).__name__

    def __init_subclass__(cls) -> None:
        """Check what a loss is called on."""
        if "__call__" in vars(cls):
            cls.__call__ = checked_loss(cls.__call__)  # type: ignore[method-assign]

    def reduce(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """`values` by the reduction; the mean divides by the sum of `weight` where it is given."""
        if self.reduction == "none":
            return values
        if self.reduction == "sum":
            return ops.sum(values)
        return ops.mean(values) if weight is None else ops.sum(values) / ops.sum(weight)

    def check_pair(self, output: Tensor, target: Tensor) -> None:
        """Raise ShapeError unless both are float32 and of the same shape: nothing is broadcast."""
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
        """Raise DataError for a target without meaning. output: the shape of what the model returns."""


def is_integer(x: Tensor | Ndarray) -> bool:
    """True if x holds integers (or truth values), as labels do."""
    return x.node.type.dtype != "float32" if isinstance(x, Symbol) else np.asarray(x).dtype.kind in "iub"


def scaled(x: Tensor, weight: Tensor) -> Tensor:
    """x times the weight, and 0 where the weight is 0, even if x is infinite or NaN there."""
    left_out = ops.equal(weight, 0.0) * (1.0 - ops.is_finite(x))
    return ops.where(left_out, 0.0, x) * weight


def weights_variable(loss: str, name: str, values: ArrayLike | None) -> Variable | None:
    """Weights as memory that programs read; None stays None. Raise ShapeError for negative or infinite ones."""
    if values is None:
        return None
    array = as_float32(np.asarray(values), f"{loss}: {name}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ShapeError(
            f"{loss}: {name} holds {array[~(array >= 0) | np.isinf(array)][0]}; weights have to be finite and 0 or more"
        )
    return Variable(array, name)


@overload
def read(variable: Variable, like: Tensor) -> Tensor: ...


@overload
def read(variable: Variable, like: Ndarray) -> Ndarray: ...


def read(variable: Variable, like: Tensor | Ndarray) -> Tensor | Ndarray:
    """The variable as what `like` is: a Tensor where a function is traced, else an array."""
    return current().lift(variable) if isinstance(like, Symbol) else variable.data


class ClassLoss(Loss):
    """Base of the losses over classes, with labels, weights of classes, and labels that do not count.

    output [N, K, ...], target [N, ...] with labels from 0 to K-1. A logit of -inf is a class of probability 0: the loss
    is infinite where this is the label, and else as if there were no such class. weight [K]: how much each class
    counts, 0 for not at all; the mean divides by the sum of the targets' weights. ignore_index: a label that does not
    count. (PyTorch's default is -100; here it has to be given, so that a wrong label is an error.)
    """

    def __init__(
        self, weight: ArrayLike | None = None, ignore_index: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.weight = weights_variable(self.name, "weight", weight)
        if self.weight is not None and self.weight.data.ndim != 1:
            raise ShapeError(f"{self.name}: weight has shape {self.weight.shape}, it has to be [classes]")
        self.ignore_index = ignore_index

    def check(self, target: Ndarray, output: Shape) -> None:
        if target.dtype != np.int32 or len(output) < 2:
            return
        check_labels(target, output[1], self.ignore_index)
        if self.ignore_index is not None and (target == self.ignore_index).all():
            raise DataError(
                f"every label of the batch is {self.ignore_index}, the one that {self.name} ignores: there is nothing"
                " to learn from; leave such batches out"
            )
        weightless = None if self.weight is None else self.weight.data == 0
        # An ignored label may be no class, so it must not index the weights.
        if weightless is not None and weightless.any() and weightless[target[target != self.ignore_index]].all():
            raise DataError(
                f"every label of the batch is of a class to which {self.name} gives the weight 0: there is nothing to"
                " learn from; leave such batches out"
            )

    def check_classes(self, output: Tensor, target: Tensor) -> int:
        """Return the number of classes. Raise ShapeError where shapes, dtypes or the number of weights do not fit."""
        shape: Shape = tuple(output.shape)
        labels: Shape = tuple(target.shape)
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

    def one_hot(self, output: Tensor, target: Tensor) -> Tensor:
        """1 at the class of each label, 0 elsewhere and for labels that do not count, [N, K, ...]."""
        classes = self.check_classes(output, target)
        hot = ops.one_hot(target, classes=classes)
        # A label outside of the classes has no 1 anyway.
        if self.ignore_index is None or not 0 <= self.ignore_index < classes:
            return hot
        # [K]: 0 for the class that is ignored
        counting = np.ones(classes, np.float32)
        counting[self.ignore_index] = 0
        return hot * per_channel(read(Variable(counting, "kept"), output), output)

    def weighted(self, hot: Tensor) -> Tensor:
        """hot [N, K, ...] times the weight of each class, if there are weights."""
        return hot if self.weight is None else hot * per_channel(read(self.weight, hot), hot)

    def negative_log_likelihood(self, log_p: Tensor, target: Tensor) -> Tensor:
        """-weight log_p at the label, reduced; log_p [N, K, ...]: logarithms of probabilities."""
        hot = self.weighted(self.one_hot(log_p, target))
        return self.reduce(-ops.sum(ops.where(hot, log_p * hot, 0.0), axes=(1,)), self.counted(hot))

    def counted(self, hot: Tensor) -> Tensor | None:
        """What the mean divides by the sum of; None where every label counts 1."""
        return None if self.weight is None and self.ignore_index is None else hot


class CrossEntropyLoss(ClassLoss):
    """-ln softmax(logits)[label]; logits [N, K, ...], labels [N, ...] integers, or probabilities [N, K, ...]

    weight, ignore_index and reduction are those of ClassLoss. label_smoothing e, from 0 to 1: the target is 1 - e at
    the label, and e / K is added for every class (Szegedy et al. 2016, section 7); a logit of -inf then makes the loss
    infinite. With probabilities as targets: -sum_k weight_k target_k ln softmax_k, whose mean divides by the number of
    positions; 0 ln 0 is 0.
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.label_smoothing = check_number(self.name, "label_smoothing", label_smoothing, 0.0, 1.0)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        if not is_integer(target):
            return self.soft(logits, target)
        plain = self.weight is None and self.ignore_index is None and not self.label_smoothing
        if plain and self.reduction == "mean" and len(logits.shape) == 2:
            return ops.softmax_cross_entropy(logits, target)
        classes, e = self.check_classes(logits, target), self.label_smoothing
        log_p = ops.log_softmax(logits, axis=1)
        if not e:
            return self.negative_log_likelihood(log_p, target)
        # [N, K, ...]: 1 at the label; then 1 at all classes of the positions whose label counts
        hot = self.one_hot(logits, target)
        counting = ops.broadcast_to(ops.sum(hot, axes=(1,), keepdims=True), shape=log_p.shape)
        smooth = self.weighted(hot) * (1.0 - e) + self.weighted(counting) * (e / classes)
        return self.reduce(-ops.sum(ops.where(smooth, log_p * smooth, 0.0), axes=(1,)), self.weighted(hot))

    def soft(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of probabilities [N, K, ...] as targets."""
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
        return self.reduce(-ops.sum(scaled(ops.log_softmax(logits, axis=1), self.weighted(target)), axes=(1,)))


class NLLLoss(ClassLoss):
    """-output[label]: cross-entropy of log-probabilities [N, K, ...], as nn.LogSoftmax(1) gives them"""

    def __call__(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        return self.negative_log_likelihood(log_probabilities, target)


class FocalLoss(ClassLoss):
    """-weight_t (1 - p_t)^gamma ln p_t, p = softmax(logits), t the label: Lin et al. 2017, eq. 5

    logits [N, K, ...], labels [N, ...]. gamma: 0 or more; 0 is cross-entropy. weight [K]: the paper's alpha. The mean
    is over all labels that count, each counting 1.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.gamma = check_number(self.name, "gamma", gamma, 0.0)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        hot = self.one_hot(logits, target)
        z = against_others(logits, hot)
        # -ln p_t = -ln sigmoid(z), and 1 - p_t = sigmoid(-z)
        values = ops.softplus(-z) * focusing(ops.sigmoid(-bounded(z)), self.gamma)
        if self.weight is not None or self.ignore_index is not None:
            values = scaled(values, ops.sum(self.weighted(hot), axes=(1,)))
        count = None if self.ignore_index is None else ops.sum(hot, axes=(1,))
        return self.reduce(values, count)


def against_others(logits: Tensor, hot: Tensor) -> Tensor:
    """The logit of the label, minus ln of the sum of e^x over the logits x of all other classes, [N, ...].

    Its sigmoid is the probability of the label, and no digits are lost where that is next to 0 or 1. hot [N, K, ...]: 1
    at the label.
    """
    others = ops.where(hot, -math.inf, logits)
    # of no other class, or of such alone that have probability 0, the largest is -inf, which cannot be subtracted
    largest = ops.maximum(ops.max(others, axes=(1,), keepdims=True), -FLOAT32_MAX)
    total = ops.sum(ops.exp(others - largest), axes=(1,), keepdims=True)
    own = ops.sum(ops.where(hot, logits, 0.0), axes=(1,), keepdims=True)
    # The logarithm comes last: next to logits of 1e10, it would be lost in rounding.
    z = (own - largest) - ops.log(ops.where(total, total, 1.0))
    return z.reshape(*logits.shape[:1], *logits.shape[2:])


def bounded(logits: Tensor) -> Tensor:
    """The logits from -FLAT to FLAT. Beyond, their sigmoid is constant in float32, and so has the gradient 0, which the
    loss, as large as a logit may be, is not multiplied by.
    """
    return ops.clip(logits, low=-FLAT, high=FLAT)


def focusing(x: Tensor, gamma: float) -> Tensor:
    """x^gamma for x >= 0, the factor of focal losses, with a finite gradient at 0 where gamma is 0 or at least 1."""
    # A few products cost less than exp and log, and have the right gradient at 0.
    if gamma == int(gamma) and gamma <= 8:
        y = x if gamma else x * 0.0 + 1.0
        for _ in range(1, int(gamma)):
            y = y * x
        return y
    return ops.exp(ops.log(ops.maximum(x, TINY)) * gamma)


class BCEWithLogitsLoss(Loss):
    """-w (p t ln s(x) + (1 - t) ln(1 - s(x))), s the sigmoid; logits x and targets t of the same shape, t from 0 to 1

    It is computed with softplus, so that no logit is too large: the loss of an infinite logit is 0 where the target
    says the same, else infinite. weight w and pos_weight p broadcast to the target; what they give the weight 0 counts
    0.
    """

    def __init__(
        self, weight: ArrayLike | None = None, reduction: str = "mean", pos_weight: ArrayLike | None = None
    ) -> None:
        super().__init__(reduction)
        self.weight = weights_variable(self.name, "weight", weight)
        self.pos_weight = weights_variable(self.name, "pos_weight", pos_weight)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        self.check_pair(logits, target)
        return self.reduce(self.values(logits, target))

    def values(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each element."""
        # -ln s(x) = softplus(-x) and -ln(1 - s(x)) = softplus(x)
        positive = scaled(ops.softplus(-logits), target)
        if self.pos_weight is not None:
            positive = scaled(positive, self.fitting(self.pos_weight, target))
        y = positive + scaled(ops.softplus(logits), 1.0 - target)
        return y if self.weight is None else scaled(y, self.fitting(self.weight, target))

    def fitting(self, weight: Variable, target: Tensor) -> Tensor:
        """The weights. Raise ShapeError unless they broadcast to the target's shape."""
        try:
            fits = np.broadcast_shapes(weight.shape, target.shape) == tuple(target.shape)
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(
                f"{self.name}: {weight.name} of shape {weight.shape} does not broadcast to the target's"
                f" {tuple(target.shape)}"
            )
        return read(weight, target)

    def check(self, target: Ndarray, output: Shape) -> None:
        check_probabilities(self.name, target)


class BinaryFocalLoss(BCEWithLogitsLoss):
    """-a_t (1 - p_t)^gamma ln p_t with p = sigmoid(logits): Lin et al. 2017, eq. 5; targets 0 and 1, of the same shape

    p_t is p where the target is 1, else 1 - p. a_t is alpha where the target is 1, else 1 - alpha; 1 where alpha is
    None. gamma: 0 or more. alpha: from 0 to 1.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.gamma = check_number(self.name, "gamma", gamma, 0.0)
        self.alpha = None if alpha is None else check_number(self.name, "alpha", alpha, 0.0, 1.0)

    def values(self, logits: Tensor, target: Tensor) -> Tensor:
        # 1 - p_t, the probability of the wrong class
        near = bounded(logits)
        wrong = ops.sigmoid(-near) * target + ops.sigmoid(near) * (1.0 - target)
        y = super().values(logits, target) * focusing(wrong, self.gamma)
        if self.alpha is None:
            return y
        return scaled(y, target * (2.0 * self.alpha - 1.0) + (1.0 - self.alpha))


class BCELoss(Loss):
    """-(t ln p + (1 - t) ln(1 - p)) for probabilities p and targets t of the same shape, t from 0 to 1

    The logarithm of 0 counts as -100, as in PyTorch, and has the gradient 0. Prefer BCEWithLogitsLoss, which loses no
    digits where p is next to 0 or 1.
    """

    def __call__(self, probabilities: Tensor, target: Tensor) -> Tensor:
        self.check_pair(probabilities, target)
        positive, negative = logarithm(probabilities), logarithm(1.0 - probabilities)
        return self.reduce(-(target * positive + (1.0 - target) * negative))

    def check(self, target: Ndarray, output: Shape) -> None:
        check_probabilities(self.name, target)


def logarithm(p: Tensor) -> Tensor:
    """ln p, and -100 for 0, for what is too small for a normal float32, and below 0; NaN of NaN."""
    # The logarithm of anything smaller is -inf.
    ln_p = ops.log(ops.maximum(p, FLOAT32_SMALLEST))
    return ops.where(ops.greater(p, FLOAT32_SMALLEST), ln_p, ops.where(ops.greater(1.0, p), -100.0, p))


def check_probabilities(loss: str, target: Ndarray) -> None:
    """Raise DataError unless all targets lie between 0 and 1."""
    if target.size and not (target.min() >= 0 and target.max() <= 1):
        wrong = float(target.min() if target.min() < 0 else target.max())
        raise DataError(f"{loss}: a target is {wrong:g}; targets lie between 0 and 1")


class AuxiliaryLoss(Watched):
    """loss(logits) + weight times the sum of loss(auxiliary logits): Szegedy et al. 2015, section 5

    For models that return (logits, auxiliary logits, ...) in training, such as GoogLeNet; for a model that returns one
    array it is `loss` itself. weight: 0 or more.
    """

    def __init__(self, loss: LossFunction, weight: float = 0.3) -> None:
        self.loss, self.weight = loss, check_number("AuxiliaryLoss", "weight", weight, 0.0)

    def __call__(self, outputs: Tensor | tuple[Tensor, ...], target: Tensor) -> Tensor:
        if not isinstance(outputs, tuple) or not outputs:
            return self.loss(outputs, target)  # type: ignore[arg-type]
        total, *others = (self.loss(output, target) for output in outputs)
        for other in others if self.weight else ():
            total = total + other * self.weight
        return total

    def check(self, target: Ndarray, output: Shape) -> None:
        """The check of the loss itself, if it has one."""
        if (check := getattr(self.loss, "check", None)) is not None:
            check(target, output)


def class_balanced_weights(counts: Sequence[int], beta: float = 0.999) -> Ndarray:
    """Weights of classes by their effective number of images: Cui et al. 2019, eq. 2, w = (1 - b) / (1 - b^n)

    counts [K]: the number of images of each class, at least 1, else DataError. beta: 0 or more and below 1, else
    ShapeError; 0 makes all weights equal, and towards 1 they become the inverse of the counts. Returns float32 [K],
    which sum to K, for `weight` of CrossEntropyLoss or FocalLoss.
    """
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or not n.size or not np.isfinite(n).all() or (n < 1).any():
        raise DataError(
            f"class_balanced_weights: counts are {shown(counts)}, they have to be the number of images of each class,"
            " at least 1: np.bincount(labels), without the classes that have none"
        )
    check_number("class_balanced_weights", "beta", beta, 0.0)
    if beta >= 1:
        raise ShapeError(f"class_balanced_weights: beta is {beta}, it has to be below 1")
    # 1 - b^n without cancellation where b is next to 1
    effective = -np.expm1(n * math.log1p(beta - 1)) if beta else np.ones_like(n)
    weights = 1 / effective
    return np.asarray(weights * (len(n) / weights.sum()), np.float32)
