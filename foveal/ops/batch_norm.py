"""Batch normalisation (Ioffe and Szegedy 2015)."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loop, loops, parallel, var
from foveal.ops.elementwise import positive, sqrt
from foveal.ops.kernels import moments
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor
from foveal.ops.reduce import sum
from foveal.ops.shape import index, reshape
from foveal.strides import Ndarray, Shape
from foveal.view import View


def channel_axes(x: Shape) -> tuple[int, ...]:
    """All axes of x [N, C, ...] but the channels'."""
    return (0, *range(2, len(x)))


def per_channel(v: Tensor, x: HasShape) -> Tensor:
    """v [C] in the shape [1, C, 1, ...], which broadcasts against x [N, C, ...]."""
    return reshape(v, shape=(1, -1, *[1] * (len(x.shape) - 2)))


class ChannelMoments(Operator):
    """y[0,c] = mean of x[:,c], y[1,c] = mean of (x[:,c] - y[0,c])^2, the biased variance

    Mean and variance of each channel over all other axes: x [N, C, ...] -> y [2, C].

    Each chunk of the batch takes its mean and the squared deviations from it; chunks are merged as in Chan, Golub and
    LeVeque 1979, so that a large mean costs no digits of the variance; a constant channel has exactly its value as mean
    and 0 as variance. Raises ShapeError where x has no channels.
    """

    name, arity, channel_reduction = "channel_moments", 1, "moments"
    cases = (
        Case(((4, 3, 5, 6),)),
        Case(((64, 20, 3, 3),)),
        Case(((9, 7),), draw={0: lambda rng, shape: rng.standard_normal(shape) + 1000.0}),
        Case(((33, 16, 4, 4),)),
        Case(((3, 5, 7),)),
    )

    def normalise(self, x: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, x: Shape) -> Shape:
        check_channels(self.name, x)
        if 0 in (x[0], *x[2:]):
            raise ShapeError(f"{self.name}: there is no mean of no elements, shape {x}")
        return 2, x[1]

    def numpy(self, x: Ndarray) -> Ndarray:
        axes = channel_axes(x.shape)
        return np.stack([x.mean(axes), x.var(axes)])

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        # 1 / the number of values of a channel
        scale = 1.0 / (np.prod(x.shape) / x.shape[1])
        mean, d_mean, d_var = (per_channel(v, x) for v in (index(y, i=0), index(dy, i=0), index(dy, i=1)))
        return ((d_mean + (x - mean) * d_var * 2.0) * float(scale),)

    def kernel(self, y: Array, x: Array) -> None:
        N, C, rest = x.shape[0], x.shape[1], x.shape[2:]
        share = 1.0 / float(np.prod(x.shape) / C)
        # threads share the channels; each is read twice, for its mean and for the deviations from it
        for (c,) in parallel(C):
            total, squares = var(), var()
            # distances from the first value: those of a constant are exactly 0
            pivot = x[(0, c, *(0 for _ in rest))]
            for n in loop(N):
                for place in loops(*rest):
                    total += x[(n, c, *place)] - pivot
            mean = pivot + total.get() * share
            for n in loop(N):
                for place in loops(*rest):
                    d = x[(n, c, *place)] - mean
                    squares += d * d
            y[0, c], y[1, c] = mean, squares.get() * share

    def lower(self, lowering: Lowering, y: View, x: View) -> None:
        if len(x.shape) > 2 and x.strides[1] != 1:
            # lanes run over channels, which have to be neighbours
            lowering.call(self.kernel, [y], [x], plain=True)
            return
        # [N H W, C]
        moments.lower(lowering, y, x.channels_last_rows())


class BatchNorm(Operator):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and biased variance of the batch per channel

    Batch normalisation in training: x [N, C, ...], gamma [C], beta [C] -> y of x's shape.

    Ioffe and Szegedy 2015, algorithm 1. Gradient: section 3 there, in the form dx = gamma / sigma (dy - mean(dy) - xhat
    mean(dy xhat)), with sigma = sqrt(var + eps), xhat = (x - mean) / sigma.

    eps: what keeps sigma from 0. Raises ShapeError where gamma or beta has another number of channels than x, or a
    channel has one value only.
    """

    name, arity, composite = "batch_norm", 3, True
    cases = (
        Case(((6, 3, 4, 5), (3,), (3,)), {"eps": 1e-5}),
        Case(((8, 20), (20,), (20,)), {"eps": 1e-3}),
        Case(((40, 17, 3, 3), (17,), (17,)), {"eps": 1e-5}),
    )

    def normalise(self, x: HasShape, gamma: HasShape, beta: HasShape, *, eps: float = 1e-5) -> dict[str, Any]:
        return {"eps": float(eps)}

    def shape(self, x: Shape, gamma: Shape, beta: Shape, *, eps: float) -> Shape:
        check_channels(self.name, x, gamma, beta)
        if x[0] * int(np.prod(x[2:])) < 2:
            raise ShapeError(
                f"{self.name}: one value per channel (shape {x}) has no variance; use a larger batch, or model.eval()"
            )
        return x

    def numpy(self, x: Ndarray, gamma: Ndarray, beta: Ndarray, *, eps: float) -> Ndarray:
        mean, variance = channel_moments.numpy(x)
        return batch_norm_inference.numpy(x, mean, variance, gamma, beta, eps=eps)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> tuple[Tensor, ...]:
        both = channel_moments(x)
        inverse = 1.0 / sqrt(index(both, i=1) + eps)
        xhat = (x - per_channel(index(both, i=0), x)) * per_channel(inverse, x)
        axes, count = channel_axes(x.shape), float(np.prod(x.shape) / x.shape[1])
        d_beta, d_gamma = sum(dy, axes=axes), sum(dy * xhat, axes=axes)
        scale = per_channel(gamma * inverse, x)
        centre, slope = (per_channel(d_beta * (1.0 / count), x), per_channel(d_gamma * (1.0 / count), x))
        return (dy - centre - xhat * slope) * scale, d_gamma, d_beta

    def expand(self, x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> Tensor:
        both = channel_moments(x)
        return batch_norm_inference(x, index(both, i=0), index(both, i=1), gamma, beta, eps=eps)


def check_channels(name: str, x: Shape, *vectors: Shape) -> None:
    """Raise ShapeError unless x is [N, C, ...] and each of the vectors [C]."""
    if len(x) < 2:
        raise ShapeError(f"{name}: takes [N, C, ...], got shape {x}")
    for v in vectors:
        if v != (x[1],):
            raise ShapeError(
                f"{name}: x has {x[1]} channels (shape {x}), the layer is made for {v[0] if v else v};"
                f" use BatchNorm2d({x[1]})"
            )


class BatchNormInference(Operator):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with given mean and variance: one scale and shift per channel

    Batch normalisation in inference: x [N, C, ...]; mean, var, gamma, beta [C] -> y of x's shape.

    Ioffe and Szegedy 2015, algorithm 2. Raises ShapeError where a vector has another number of channels than x.
    """

    name, arity, composite = "batch_norm_inference", 5, True
    cases = (
        Case(((2, 3, 4, 5), (3,), (3,), (3,), (3,)), {"eps": 1e-5}, {2: positive}),
        Case(((8, 20), (20,), (20,), (20,), (20,)), {"eps": 1e-3}, {2: positive}),
    )

    def normalise(
        self, x: HasShape, mean: HasShape, var: HasShape, gamma: HasShape, beta: HasShape, *, eps: float = 1e-5
    ) -> dict[str, Any]:
        return {"eps": float(eps)}

    def shape(self, x: Shape, mean: Shape, var: Shape, gamma: Shape, beta: Shape, *, eps: float) -> Shape:
        check_channels(self.name, x, mean, var, gamma, beta)
        return x

    def numpy(self, x: Ndarray, mean: Ndarray, var: Ndarray, gamma: Ndarray, beta: Ndarray, *, eps: float) -> Ndarray:
        mean, var, gamma, beta = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (mean, var, gamma, beta))
        return (x - mean) / np.sqrt(var + eps) * gamma + beta

    def vjp(self, dy: Tensor, y: Tensor, *inputs: Tensor, eps: float) -> tuple[Tensor, ...]:
        x, mean, variance, gamma, _ = inputs
        inverse = 1.0 / sqrt(variance + eps)
        centred = x - per_channel(mean, x)
        axes = channel_axes(x.shape)
        d_beta, d_scale = sum(dy, axes=axes), sum(dy * centred, axes=axes)
        scale = gamma * inverse
        d_variance = d_scale * gamma * inverse * inverse * inverse * -0.5
        return dy * per_channel(scale, x), -d_beta * scale, d_variance, d_scale * inverse, d_beta

    def expand(self, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> Tensor:
        scale = gamma / sqrt(var + eps)
        return (x - per_channel(mean, x)) * per_channel(scale, x) + per_channel(beta, x)


channel_moments, batch_norm, batch_norm_inference = (ChannelMoments(), BatchNorm(), BatchNormInference())
