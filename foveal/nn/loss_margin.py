"""Losses with a margin: of scores, of signs, of classes, and of pairs and triples of vectors.

Those of several inputs are called as in PyTorch, such as loss(anchor, positive, negative).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from foveal import ops
from foveal.arguments import checked
from foveal.errors import DataError, ShapeError
from foveal.kinds import AnyNumber
from foveal.nn.arguments import check_number
from foveal.nn.loss import ClassLoss, Loss, focusing, is_integer, read, weights_variable
from foveal.nn.similarity import distance
from foveal.ops.op import Tensor
from foveal.strides import Ndarray, Shape

# what PyTorch adds to the squared length of vectors in CosineEmbeddingLoss
LENGTH_EPS = 1e-12


def check_signs(loss: str, target: Ndarray) -> None:
    """Raise DataError unless all targets are 1 or -1."""
    values = np.asarray(target)
    wrong = values[abs(values) != 1]
    if wrong.size:
        raise DataError(f"{loss}: a target is {wrong.flat[0]:g}; targets are 1 or -1")


class SignLoss(Loss):
    """Base of losses whose targets are 1 or -1, float32 of the output's shape."""

    def check(self, target: Ndarray, output: Shape) -> None:
        check_signs(self.name, target)


class HingeEmbeddingLoss(SignLoss):
    """x where the target is 1, max(0, margin - x) where it is -1; x and targets of the same shape

    x is a distance, such as |a - b|. margin: a number.
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        return self.reduce(ops.where(ops.greater(target, 0.0), output, ops.relu(self.margin - output)))


class SoftMarginLoss(SignLoss):
    """ln(1 + e^(-t x)); x and targets t, 1 or -1, of the same shape"""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        return self.reduce(ops.softplus(-(target * output)))


class MultiMarginLoss(ClassLoss):
    """sum over classes k but the label t of max(0, margin - x_t + x_k)^p / K: Crammer and Singer 2001

    output [N, K], labels [N]. p: 1 or 2. margin: a number. weight [K]: what the loss of each label is multiplied by;
    the mean is over all labels, each counting 1. Raises ShapeError for other values.
    """

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: ArrayLike | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(weight, None, reduction)
        if p not in (1, 2):
            raise ShapeError(f"{self.name}: p is {p}, it has to be 1 or 2")
        self.p, self.margin = p, margin

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        if len(output.shape) != 2:
            raise ShapeError(f"{self.name}: takes an output [N, classes], got shape {tuple(output.shape)}")
        hot = self.one_hot(output, target)
        own = ops.sum(ops.where(hot, output, 0.0), axes=1, keepdims=True)
        beyond = ops.where(hot, 0.0, focusing(ops.relu(output - own + self.margin), self.p))
        values = ops.sum(beyond, axes=1) * (1.0 / output.shape[1])
        return self.reduce(values if self.weight is None else values * ops.sum(self.weighted(hot), axes=1))


class MultiLabelSoftMarginLoss(Loss):
    """-the mean over classes of t ln s(x) + (1 - t) ln(1 - s(x)), s the sigmoid; x and t of the same shape [N, K, ...]

    It is BCEWithLogitsLoss with one value for each image. Targets t lie between 0 and 1. weight [K]: how much each
    class counts.
    """

    def __init__(self, weight: ArrayLike | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = weights_variable(self.name, "weight", weight)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.check_pair(output, target)
        if len(output.shape) < 2:
            raise ShapeError(f"{self.name}: takes an output [N, classes], got shape {tuple(output.shape)}")
        values = ops.softplus(-output) * target + ops.softplus(output) * (1.0 - target)
        if self.weight is not None:
            if self.weight.shape != (output.shape[-1],):
                raise ShapeError(
                    f"{self.name}: weight has shape {self.weight.shape}, the output {output.shape[-1]} classes (shape"
                    f" {tuple(output.shape)}); give one weight per class"
                )
            values = values * read(self.weight, values)
        return self.reduce(ops.mean(values, axes=len(output.shape) - 1))

    def check(self, target: Ndarray, output: Shape) -> None:
        if target.size and not (target.min() >= 0 and target.max() <= 1):
            raise DataError(f"{self.name}: targets lie between {target.min():g} and {target.max():g}; give 0 to 1")


class SeveralInputs(Loss):
    """Base of losses that are called on more than an output and a target."""

    def __init_subclass__(cls) -> None:
        """Check what a loss is called on; what cannot be computed is NaN or infinite, as in programs."""
        if "__call__" in vars(cls):
            call: Callable[..., Tensor] = vars(cls)["__call__"]
            cls.__call__ = checked(np.errstate(all="ignore")(call))  # type: ignore[method-assign]

    def check_inputs(self, *inputs: Tensor) -> None:
        """Raise ShapeError unless all are float32 and have the same shape."""
        for other in inputs[1:]:
            self.check_pair(inputs[0], other)

    def check_target(self, target: Tensor, shape: Shape) -> None:
        """Raise ShapeError unless a target is float32 and has this shape, DataError unless its values are 1 or -1."""
        if is_integer(target):
            raise ShapeError(f"{self.name}: the target holds integers, it has to be float32; use astype('float32')")
        if tuple(target.shape) != shape:
            raise ShapeError(f"{self.name}: the target has shape {tuple(target.shape)}, it has to be {shape}")
        if isinstance(target, np.ndarray):
            check_signs(self.name, target)


class MarginRankingLoss(SeveralInputs):
    """max(0, margin - t (a - b)), where t is 1 if a is to be the larger one, else -1

    Called as loss(a, b, t), all of one shape. margin: a number.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def __call__(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        self.check_inputs(a, b)
        self.check_target(target, tuple(a.shape))
        return self.reduce(ops.relu(self.margin - target * (a - b)))


class CosineEmbeddingLoss(SeveralInputs):
    """1 - cos(a, b) where the target is 1, max(0, cos(a, b) - margin) where it is -1

    Called as loss(a, b, target) on vectors a and b [N, D] (or [D]) and targets [N] (or []). margin: from -1 to 1.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = check_number(self.name, "margin", margin, -1.0, 1.0)

    def __call__(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        self.check_inputs(a, b)
        if len(a.shape) not in (1, 2):
            raise ShapeError(f"{self.name}: takes vectors [N, D] or [D], got shape {tuple(a.shape)}")
        last = len(a.shape) - 1
        self.check_target(target, tuple(a.shape[:last]))
        squares = [ops.sum(x * x, axes=last) + LENGTH_EPS for x in (a, b)]
        cosine = ops.sum(a * b, axes=last) / ops.sqrt(squares[0] * squares[1])
        return self.reduce(ops.where(ops.greater(target, 0.0), 1.0 - cosine, ops.relu(cosine - self.margin)))


class TripletMarginLoss(SeveralInputs):
    """max(0, d(a, p) - d(a, n) + margin) of an anchor a, what is like it, p, and what is not, n: Balntas et al. 2016

    Called as loss(anchor, positive, negative), each [N, D] (or [D]). d is the p-norm of the difference plus eps; p
    above 0, or infinity. margin: above 0. swap: True takes the smaller of d(a, n) and d(p, n).
    """

    def __init__(
        self, margin: float = 1.0, p: AnyNumber = 2.0, eps: float = 1e-6, swap: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if not (margin > 0 and p > 0):
            raise ShapeError(f"{self.name}: margin is {margin} and p is {p}, both have to be above 0")
        self.margin, self.p, self.eps, self.swap = margin, float(p), eps, swap

    def __call__(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        self.check_inputs(anchor, positive, negative)
        if not anchor.shape:
            raise ShapeError(f"{self.name}: takes vectors [N, D] or [D], got one number")
        near = distance(anchor, positive, self.p, self.eps)
        far = distance(anchor, negative, self.p, self.eps)
        if self.swap:
            far = ops.minimum(far, distance(positive, negative, self.p, self.eps))
        return self.reduce(ops.relu(near - far + self.margin))
