"""Messages between the shards of a batch while they are computed, and batch norm over all of them (Ioffe and Szegedy
2015; over the images of several processes as in Peng et al. 2018, MegDet, section 3.3).

A training step that is made with sync_batch_norm=True pauses at a message until all shards are there, adds up what they
give, `addend`, in float64 and along the tree of foveal.distributed, and goes on with what each gets of it, `result`.
Everywhere else a shard is alone, and a message gives back what it is given.

A program computes the gradients of the loss L_s of its own shard s. The loss of the batch is sum_s w_s L_s / W, where
w_s is the number of images of a loss that is a mean and W their sum, or where all of them are 1 for a loss that is a
sum. A gradient in a value of shard s is therefore W / w_s times that of the batch, and w_s weighs it when it leaves the
shard:

    y_s = sum_t x_t               has the gradient    dx_s = 1 / w_s sum_t w_t dy_t
    y_s = 1 / w_s sum_t w_t x_t   has the gradient    dx_s = sum_t dy_t
"""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.ops.batch_norm import (
    BatchNorm,
    batch_norm_inference,
    channel_axes,
    channel_moments,
    check_channels,
    per_channel,
)
from foveal.ops.concat import concatenate
from foveal.ops.elementwise import positive, sqrt
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.reduce import sum
from foveal.ops.shape import index, reshape
from foveal.strides import Ndarray, Shape


class Message(Operator):
    """An operator that knows what the other shards of the batch give: its output follows from the sum over all of them.

    weight: w_s of the shard, more than 0.
    """

    between_shards = True

    def addend(self, *inputs: Any, **attributes: Any) -> Ndarray:
        """What this shard gives: float64 [elements]."""
        raise NotImplementedError

    def elements(self, *inputs: Any, **attributes: Any) -> int:
        """How many numbers a shard gives."""
        raise NotImplementedError

    def result(self, *given: Any, **attributes: Any) -> Ndarray:
        """(total, shape): the output, of that shape, from the sum of what all shards give."""
        raise NotImplementedError

    def numpy(self, *inputs: Ndarray, **attributes: Any) -> Ndarray:
        shape = self.shape(*(x.shape for x in inputs), **attributes)
        return self.result(self.addend(*inputs, **attributes), shape, **attributes).astype(inputs[0].dtype)


class ShardSums(Message):
    """y[i] = sum over shards of input i, or 1 / w_s sum_t w_t x_t where `of_loss`: gradients of the shards' own losses

    Vectors of one shape [...], up to any number -> y [inputs, ...].
    """

    name = "shard_sums"
    cases = (Case(((5,), (5,)), {"weight": 3.0, "of_loss": True}), Case(((2, 4),), {"weight": 7.0}))

    def normalise(self, *vectors: HasShape, weight: float = 1.0, of_loss: bool = False) -> dict[str, Any]:
        return {"weight": float(weight), "of_loss": of_loss}

    def shape(self, *vectors: Shape, weight: float, of_loss: bool) -> Shape:
        return len(vectors), *same_shape(self.name, vectors)

    def elements(self, *vectors: Shape, weight: float, of_loss: bool) -> int:
        return len(vectors) * math.prod(vectors[0])

    def addend(self, *vectors: Ndarray, weight: float, of_loss: bool) -> Ndarray:
        return np.stack(vectors).astype(np.float64).reshape(-1) * (weight if of_loss else 1.0)

    def result(self, total: Ndarray, shape: Shape, *, weight: float, of_loss: bool) -> Ndarray:
        return total.reshape(shape) / (weight if of_loss else 1.0)

    def vjp(self, dy: Tensor, y: Tensor, *vectors: Tensor, weight: float, of_loss: bool) -> tuple[Tensor | None, ...]:
        slopes = [index(dy, i=i) for i in range(len(vectors))]
        both = shard_sums(*slopes, weight=weight, of_loss=not of_loss)
        return tuple(index(both, i=i) for i in range(len(vectors)))


def same_shape(name: str, shapes: tuple[Shape, ...]) -> Shape:
    """The one shape of all inputs. Raises ShapeError where there are several, or no input."""
    if len(set(shapes)) != 1:
        raise ShapeError(f"{name}: takes arrays of one shape, got {', '.join(map(str, shapes)) or 'none'}")
    return shapes[0]


class ShardMoments(Message):
    """y[0,c], y[1,c] = mean and biased variance of channel c over all shards, y[2,c] = the number of its values there

    moments [2, C], mean and biased variance of each channel in this shard -> y [3, C].

    Shards give n, n mean and n (var + mean^2). In float64 the mean costs the variance about 2^-53 mean^2: less than
    what float32 has lost of values that lie so far from 0.

    count: n, the number of values of each channel in this shard. Raises ShapeError for other shapes.
    """

    name, arity = "shard_moments", 1
    cases = (Case(((2, 5),), {"count": 12, "weight": 3.0}, {0: positive}),)

    def normalise(self, moments: HasShape, *, count: int, weight: float = 1.0) -> dict[str, Any]:
        return {"count": int(count), "weight": float(weight)}

    def shape(self, moments: Shape, *, count: int, weight: float) -> Shape:
        if len(moments) != 2 or moments[0] != 2 or count < 1:
            raise ShapeError(
                f"{self.name}: takes moments [2, C] of 1 value or more per channel, got shape {moments} of {count}"
            )
        return 3, moments[1]

    def elements(self, moments: Shape, *, count: int, weight: float) -> int:
        return 1 + 2 * moments[1]

    def addend(self, moments: Ndarray, *, count: int, weight: float) -> Ndarray:
        mean, variance = moments.astype(np.float64)
        return np.concatenate([[count], count * mean, count * (variance + mean * mean)])

    def result(self, total: Ndarray, shape: Shape, *, count: int, weight: float) -> Ndarray:
        values, (mean, square) = total[0], total[1:].reshape(2, -1) / total[0]
        # Rounding may leave a little less than nothing of a constant channel's variance.
        return np.stack([mean, np.maximum(square - mean * mean, 0.0), np.full_like(mean, values)])

    def vjp(self, dy: Tensor, y: Tensor, moments: Tensor, *, count: int, weight: float) -> tuple[Tensor | None, ...]:
        slopes = shard_sums(index(dy, i=0), index(dy, i=1), weight=weight, of_loss=True)
        share, d_mean, d_var = float(count) / index(y, i=2), index(slopes, i=0), index(slopes, i=1)
        between = index(moments, i=0) - index(y, i=0)
        rows = (share * (d_mean + between * d_var * 2.0), share * d_var)
        return (concatenate(*(reshape(row, shape=(1, -1)) for row in rows), axis=0),)


class BatchNormOverShards(BatchNorm):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and biased variance of the whole batch per channel

    Batch normalisation in training over all shards of a batch: x [N, C, ...] of one shard, gamma [C], beta [C] -> y of
    x's shape.

    Gradient, with M values of a channel in the batch and the weights w of the shards' losses (see the module):

        dx = gamma / sigma (dy - A / M - xhat B / M)
        A = 1 / w_s sum_t w_t (sum dy)_t,   B = 1 / w_s sum_t w_t (sum dy xhat)_t

    where (...)_t is a sum over the values of shard t. dgamma and dbeta are those of the shard alone: the step adds
    them up with all other gradients.

    eps: what keeps sigma from 0. weight: w_s. Raises ShapeError where gamma or beta has another number of channels.
    """

    name, arity, composite = "batch_norm_over_shards", 3, True
    cases = (
        Case(((6, 3, 4, 5), (3,), (3,)), {"eps": 1e-5, "weight": 6.0}),
        Case(((8, 20), (20,), (20,)), {"eps": 1e-3}),
        Case(((3, 4, 7), (4,), (4,)), {"eps": 1e-3, "weight": 1.0}),
    )

    def normalise(
        self, x: HasShape, gamma: HasShape, beta: HasShape, *, eps: float = 1e-5, weight: float = 1.0
    ) -> dict[str, Any]:
        return {"eps": float(eps), "weight": float(weight)}

    def shape(self, x: Shape, gamma: Shape, beta: Shape, *, eps: float, weight: float) -> Shape:  # type: ignore[override]
        check_channels(self.name, x, gamma, beta)
        # One value per channel is enough, as other shards have more.
        if 0 in x:
            raise ShapeError(f"{self.name}: there is no mean of no elements, shape {x}")
        return x

    def numpy(  # type: ignore[override]
        self, x: Ndarray, gamma: Ndarray, beta: Ndarray, *, eps: float, weight: float
    ) -> Ndarray:
        return super().numpy(x, gamma, beta, eps=eps)

    def vjp(  # type: ignore[override]
        self, dy: Tensor, y: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float, weight: float
    ) -> tuple[Tensor, ...]:
        whole = moments_over_shards(x, weight=weight)
        inverse = 1.0 / sqrt(index(whole, i=1) + eps)
        xhat = (x - per_channel(index(whole, i=0), x)) * per_channel(inverse, x)
        axes = channel_axes(x.shape)
        d_beta, d_gamma = sum(dy, axes=axes), sum(dy * xhat, axes=axes)
        sums = shard_sums(d_beta, d_gamma, weight=weight, of_loss=True)
        share = 1.0 / index(whole, i=2)
        centre, slope = (per_channel(index(sums, i=i) * share, x) for i in range(2))
        return (dy - centre - xhat * slope) * per_channel(gamma * inverse, x), d_gamma, d_beta

    def expand(  # type: ignore[override]
        self, x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float, weight: float
    ) -> Tensor:
        whole = moments_over_shards(x, weight=weight)
        return batch_norm_inference(x, index(whole, i=0), index(whole, i=1), gamma, beta, eps=eps)


def moments_over_shards(x: Tensor, weight: float) -> Tensor:
    """Mean, biased variance and number of values of each channel of x [N, C, ...] over all shards of the batch: [3, C].

    weight: w_s of this shard.
    """
    return shard_moments(channel_moments(x), count=math.prod(x.shape) // x.shape[1], weight=weight)


shard_sums, shard_moments, batch_norm_over_shards = ShardSums(), ShardMoments(), BatchNormOverShards()
