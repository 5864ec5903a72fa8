"""Losses that a training step computes often enough to have operators; the others are layers, in nn/loss.py."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import lang
from foveal.kernel.lang import F32, I32, Array, cast, loop, loops, parallel
from foveal.ops.elementwise import exp, log, where
from foveal.ops.kernels import one_hot as one_hot_kernels
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor
from foveal.ops.reduce import broadcast_to, max, mean, sum
from foveal.strides import Ndarray, Shape
from foveal.view import View


def labels(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Labels of five classes."""
    return rng.integers(0, 5, shape)


def with_impossible_classes(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Logits of which some, but none of the first two classes, are -inf."""
    drawn = rng.choice([-np.inf, -1.0, 0.5, 2.0], shape)
    drawn[:, :2] = rng.standard_normal((shape[0], 2))
    return drawn


class OneHot(Operator):
    """y[n,k,...] = 1 where labels[n,...] = k, else 0; labels [N, ...], integers, give y [N, classes, ...]

    All are 0 for a label that is not one of the classes. No gradient. Raises ShapeError unless classes is 1 or more.
    """

    name, arity, integers, differentiable = "one_hot", 1, (0,), False
    cases = (
        Case(((7,),), {"classes": 5}, {0: labels}, smooth=False),
        Case(((2, 3, 4),), {"classes": 3}, {0: lambda r, s: r.integers(-1, 4, s)}, smooth=False),
    )

    def normalise(self, labels: HasShape, *, classes: int) -> dict[str, Any]:
        if classes < 1:
            raise ShapeError(f"one_hot: {classes} classes, there has to be at least 1")
        return {"classes": int(classes)}

    def shape(self, labels: Shape, *, classes: int) -> Shape:
        if not labels:
            raise ShapeError("one_hot: labels have no axis; they have to be [N, ...]")
        return labels[0], classes, *labels[1:]

    def numpy(self, labels: Ndarray, *, classes: int) -> Ndarray:
        numbers = np.arange(classes).reshape(1, -1, *[1] * (labels.ndim - 1))
        return (labels[:, None] == numbers).astype(np.float32)

    def kernel(self, y: Array, labels: Array, *, classes: int) -> None:
        for (n,) in parallel(y.shape[0]):
            for rest in loops(*y.shape[2:]):
                label = cast(labels[(n, *rest)], F32)
                for k in loop(classes):
                    y[(n, k, *rest)] = lang.where(label == cast(cast(k, I32), F32), 1.0, 0.0)

    def lower(self, lowering: Lowering, y: View, labels: View, *, classes: int) -> None:
        if len(y.shape) == 2 and y.strides[1] == 1:
            one_hot_kernels.lower(lowering, y, labels)
        else:
            lowering.call(self.kernel, [y], [labels], plain=True, classes=classes)


class SoftmaxCrossEntropy(Operator):
    """y = mean_n ( ln sum_k exp(x[n,k] - m_n) - (x[n,t_n] - m_n) ) with m_n = max_k x[n,k] and labels t

    x: logits [N, classes]; labels: integers [N]; y is a scalar. The shift by the largest logit keeps every exponent at
    or below 0, so y is finite for logits of any finite size whose differences are; a logit of -inf is a class of
    probability 0. dx = dy (softmax(x) - one_hot(t)) / N. Raises ShapeError for other shapes.
    """

    name, arity, integers, composite = "softmax_cross_entropy", 2, (1,), True
    cases = (
        Case(((4, 5), (4,)), {}, {1: labels}),
        Case(((3, 33), (3,)), {}, {1: labels}),
        Case(((6, 5), (6,)), {}, {0: lambda r, s: r.choice([-1e4, 1e4], s), 1: labels}, smooth=False),
        Case(((6, 5), (6,)), {}, {0: with_impossible_classes, 1: lambda r, s: r.integers(0, 2, s)}, smooth=False),
    )

    def normalise(self, x: HasShape, labels: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, x: Shape, labels: Shape) -> Shape:
        if len(x) != 2 or labels != x[:1]:
            raise ShapeError(
                f"{self.name}: logits of shape {x} and labels of shape {labels}; it takes logits [N, classes] and"
                " one integer label per row [N]"
            )
        if 0 in x:
            raise ShapeError(f"{self.name}: there is no mean of no elements, logits of shape {x}")
        return ()

    def numpy(self, x: Ndarray, labels: Ndarray) -> Ndarray:
        z = x - x.max(axis=1, keepdims=True)
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(x)), labels])

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor | None, ...]:
        e = exp(x - max(x, axes=(1,), keepdims=True))
        softmax = e / sum(e, axes=(1,), keepdims=True)
        scale = broadcast_to(dy * (1.0 / x.shape[0]), shape=x.shape)
        return (softmax - one_hot(labels, classes=x.shape[1])) * scale, None

    def expand(self, x: Tensor, labels: Tensor) -> Tensor:
        z = x - max(x, axes=(1,), keepdims=True)
        # what is not chosen may be infinite, so it is left out and not multiplied by 0
        chosen = sum(where(one_hot(labels, classes=x.shape[1]), z, 0.0), axes=(1,))
        return mean(log(sum(exp(z), axes=(1,))) - chosen)


one_hot, softmax_cross_entropy = OneHot(), SoftmaxCrossEntropy()
