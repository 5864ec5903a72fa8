"""Layers of two inputs: how alike vectors are, and how far they are from each other."""

import math

from foveal import ops
from foveal.errors import ShapeError
from foveal.kinds import AnyNumber
from foveal.nn.arguments import check_number
from foveal.nn.loss import TINY, focusing
from foveal.nn.loss_regression import absolute
from foveal.nn.module import Module
from foveal.ops.op import Tensor


def check_equal(layer: str, a: Tensor, b: Tensor) -> None:
    """Raise ShapeError unless two inputs have the same shape."""
    if tuple(a.shape) != tuple(b.shape):
        raise ShapeError(
            f"{layer}: the inputs have shapes {tuple(a.shape)} and {tuple(b.shape)}; they have to be equal, so reshape"
            " one of them"
        )


def distance(a: Tensor, b: Tensor, p: float, eps: float, keepdims: bool = False) -> Tensor:
    """(sum of |a - b + eps|^p)^(1/p) over the last axis, which is gone then, or has size 1 with keepdims."""
    d, last = a - b + eps, (len(a.shape) - 1,)
    if p == 2.0:
        return ops.sqrt(ops.maximum(ops.sum(d * d, axes=last, keepdims=keepdims), TINY))
    size = absolute(d)
    if p == math.inf:
        return ops.max(size, axes=last, keepdims=keepdims)
    if p == 1.0:
        return ops.sum(size, axes=last, keepdims=keepdims)
    return focusing(ops.sum(focusing(size, p), axes=last, keepdims=keepdims), 1.0 / p)


class CosineSimilarity(Module):
    """y = sum of a b / (max(|a|, eps) max(|b|, eps)) along an axis, the cosine of the angle between vectors

    It is called as layer(a, b), both [..., D, ...] of the same shape; y lacks the axis. dim: the axis. eps: above 0,
    else ShapeError.
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim, self.eps = dim, check_number(type(self).__name__, "eps", eps, TINY)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        check_equal(type(self).__name__, a, b)
        squared = self.eps * self.eps

        def inverse_length(x: Tensor) -> Tensor:
            return ops.rsqrt(ops.maximum(ops.sum(x * x, axes=self.dim), squared))

        return ops.sum(a * b, axes=self.dim) * inverse_length(a) * inverse_length(b)

    def describe(self) -> str:
        return f"dim={self.dim}, eps={self.eps}"


class PairwiseDistance(Module):
    """y = (sum of |a - b + eps|^p)^(1/p) over the last axis, the distance of vectors

    It is called as layer(a, b), both [..., D] of the same shape; y is [...], or [..., 1] with keepdim. p: above 0, or
    infinity for the largest difference, else ShapeError. eps: added to each difference.
    """

    def __init__(self, p: AnyNumber = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        if not p > 0:
            raise ShapeError(f"PairwiseDistance: p is {p}, it has to be above 0")
        self.p, self.eps, self.keepdim = float(p), eps, keepdim

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        check_equal(type(self).__name__, a, b)
        if not a.shape:
            raise ShapeError("PairwiseDistance: takes vectors [..., D], got one number")
        return distance(a, b, self.p, self.eps, self.keepdim)

    def describe(self) -> str:
        return f"p={self.p}, eps={self.eps}" + (", keepdim=True" if self.keepdim else "")
