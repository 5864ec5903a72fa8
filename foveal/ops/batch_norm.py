"""Batch normalisation (Ioffe and Szegedy 2015)."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, loops, parallel, var
from foveal.ops.elementwise import positive, sqrt
from foveal.ops.kernels.moments import chunk_moments, merge_chunks, moment_chunks
from foveal.ops.op import Case, Lowering, Operator
from foveal.ops.reduce import sum
from foveal.ops.shape import index, reshape
from foveal.strides import Ndarray, Shape


def channel_axes(x: Shape) -> tuple[int, ...]:
    """All axes but the channels'."""
    return (0, *range(2, len(x)))


def per_channel(v: Any, x: Any) -> Any:
    """v [C] as a shape that broadcasts against x [N, C, ...]."""
    return reshape(v, shape=(1, -1, *[1] * (len(x.shape) - 2)))


class ChannelMoments(Operator):
    """y[0,c] = mean over N, H, W of x; y[1,c] = mean of (x - y[0,c])^2, the biased variance

    Chunks of the batch take mean and squared deviations about it, and are merged as in Chan, Golub and LeVeque 1979,
    so that a large mean costs no digits of the variance.
    """

    name, arity = "channel_moments", 1
    cases = (
        Case(((4, 3, 5, 6),)),
        Case(((64, 20, 3, 3),)),
        Case(((9, 7),), draw={0: lambda rng, shape: rng.standard_normal(shape) + 1000.0}),
        Case(((33, 16, 4, 4),)),
        Case(((3, 5, 7),)),
    )

    def shape(self, x: Shape) -> Shape:
        if len(x) < 2:
            raise ShapeError(f"{self.name}: takes [N, C, ...], got shape {x}")
        return 2, x[1]

    def numpy(self, x: Ndarray) -> Ndarray:
        axes = channel_axes(x.shape)
        return np.stack([x.mean(axes), x.var(axes)])

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        scale = 1.0 / (np.prod(x.shape) / x.shape[1])
        mean, d_mean, d_var = (per_channel(v, x) for v in (index(y, i=0), index(dy, i=0), index(dy, i=1)))
        return ((d_mean + (x - mean) * d_var * 2.0) * float(scale),)

    def kernel(self, y: Any, x: Any) -> None:
        N, C, rest = x.shape[0], x.shape[1], x.shape[2:]
        count = 1.0 / float(np.prod(x.shape) / C)
        for (c,) in parallel(C):
            total, squares = var(), var()
            for n in loop(N):
                for at in loops(*rest):
                    total += x[(n, c, *at)]
            mean = total.get() * count
            for n in loop(N):
                for at in loops(*rest):
                    d = x[(n, c, *at)] - mean
                    squares += d * d
            y[0, c], y[1, c] = mean, squares.get() * count

    def lower(self, to: Lowering, y: Any, x: Any) -> None:
        if len(x.shape) > 2 and x.strides[1] != 1:
            to.call(self.kernel, [y], [x], plain=True)
            return
        rows = x.channels_last_rows()
        chunks = moment_chunks(*rows.shape)
        partial = to.scratch((2, chunks, rows.shape[1]))
        to.call(chunk_moments, [partial], [rows])
        to.call(merge_chunks, [y], [partial], rows=rows.shape[0])


class BatchNorm(Operator):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and biased variance of the batch per channel

    Gradient: Ioffe and Szegedy 2015, section 3, in the form
    dx = gamma / sigma (dy - mean(dy) - xhat mean(dy xhat)).
    """

    name, arity, composite = "batch_norm", 3, True
    cases = (
        Case(((6, 3, 4, 5), (3,), (3,)), {"eps": 1e-5}),
        Case(((8, 20), (20,), (20,)), {"eps": 1e-3}),
        Case(((40, 17, 3, 3), (17,), (17,)), {"eps": 1e-5}),
    )

    def normalise(self, *inputs: Any, eps: float = 1e-5) -> dict[str, Any]:
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

    def vjp(self, dy: Any, y: Any, x: Any, gamma: Any, beta: Any, *, eps: float) -> tuple[Any, ...]:
        moments = channel_moments(x)
        inverse = 1.0 / sqrt(index(moments, i=1) + eps)
        xhat = (x - per_channel(index(moments, i=0), x)) * per_channel(inverse, x)
        axes, count = channel_axes(x.shape), float(np.prod(x.shape) / x.shape[1])
        d_beta, d_gamma = sum(dy, axes=axes), sum(dy * xhat, axes=axes)
        scale = per_channel(gamma * inverse, x)
        centre, slope = (per_channel(d_beta * (1.0 / count), x), per_channel(d_gamma * (1.0 / count), x))
        return (dy - centre - xhat * slope) * scale, d_gamma, d_beta

    def expand(self, x: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
        moments = channel_moments(x)
        return batch_norm_inference(x, index(moments, i=0), index(moments, i=1), gamma, beta, eps=eps)


def check_channels(name: str, x: Shape, *vectors: Shape) -> None:
    if len(x) < 2:
        raise ShapeError(f"{name}: takes [N, C, ...], got shape {x}")
    for v in vectors:
        if v != (x[1],):
            raise ShapeError(
                f"{name}: x has {x[1]} channels (shape {x}), the layer is made for {v[0] if v else v};"
                f" use BatchNorm2d({x[1]})"
            )


class BatchNormInference(Operator):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with given mean and variance: one scale and shift per channel"""

    name, arity, composite = "batch_norm_inference", 5, True
    cases = (
        Case(((2, 3, 4, 5), (3,), (3,), (3,), (3,)), {"eps": 1e-5}, {2: positive}),
        Case(((8, 20), (20,), (20,), (20,), (20,)), {"eps": 1e-3}, {2: positive}),
    )

    def normalise(self, *inputs: Any, eps: float = 1e-5) -> dict[str, Any]:
        return {"eps": float(eps)}

    def shape(self, x: Shape, mean: Shape, var: Shape, gamma: Shape, beta: Shape, *, eps: float) -> Shape:
        check_channels(self.name, x, mean, var, gamma, beta)
        return x

    def numpy(self, x: Ndarray, mean: Ndarray, var: Ndarray, gamma: Ndarray, beta: Ndarray, *, eps: float) -> Ndarray:
        mean, var, gamma, beta = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (mean, var, gamma, beta))
        return (x - mean) / np.sqrt(var + eps) * gamma + beta

    def vjp(self, dy: Any, y: Any, *inputs: Any, eps: float) -> tuple[Any, ...]:
        x, mean, variance, gamma, _ = inputs
        inverse = 1.0 / sqrt(variance + eps)
        centred = x - per_channel(mean, x)
        axes = channel_axes(x.shape)
        d_beta, d_scale = sum(dy, axes=axes), sum(dy * centred, axes=axes)
        scale = gamma * inverse
        d_variance = d_scale * gamma * inverse * inverse * inverse * -0.5
        return dy * per_channel(scale, x), -d_beta * scale, d_variance, d_scale * inverse, d_beta

    def expand(self, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
        scale = gamma / sqrt(var + eps)
        return (x - per_channel(mean, x)) * per_channel(scale, x) + per_channel(beta, x)


channel_moments, batch_norm, batch_norm_inference = (ChannelMoments(), BatchNorm(), BatchNormInference())
