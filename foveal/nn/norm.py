"""Normalisation. All of these take and give x [N, C, ...] of the same shape."""

import math
from typing import Any, ClassVar

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.module import Buffer, Counter, Module, Parameter, check_positive
from foveal.nn.sequence import as_images, as_sequences
from foveal.ops.batch_norm import per_channel
from foveal.trace import current


def check_eps(layer: str, eps: float) -> float:
    if not eps >= 0:
        raise ShapeError(f"{layer}: eps is {eps}, it has to be 0 or more")
    return float(eps)


class Tracking(Module):
    """What batch and instance norm share: affine parameters per channel, running statistics of the training batches.

    running = (1 - momentum) running + momentum batch, with the unbiased variance. track_running_stats off: the
    statistics
    of what is given are used in inference too.
    """

    ranks: ClassVar[tuple[int, ...]]
    takes: ClassVar[str]

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool
    ) -> None:
        layer = type(self).__name__
        check_positive(layer, num_features=num_features)
        if momentum is not None and not 0.0 <= momentum <= 1.0:
            raise ShapeError(
                f"{layer}: momentum is {momentum}, it has to be between 0 and 1, or None for the mean of all batches"
            )
        self.num_features, self.eps, self.momentum = num_features, check_eps(layer, eps), momentum
        self.track_running_stats = track_running_stats
        self.weight = Parameter(np.ones(num_features)) if affine else None
        self.bias = Parameter(np.zeros(num_features)) if affine else None
        if track_running_stats:
            self.running_mean = Buffer(np.zeros(num_features))
            self.running_var = Buffer(np.ones(num_features))
            self.num_batches_tracked = Counter()

    def check(self, x: Any) -> None:
        layer = type(self).__name__
        if len(x.shape) not in self.ranks:
            raise ShapeError(f"{layer}: takes {self.takes}, got shape {x.shape}")
        if x.shape[1] != self.num_features:
            raise ShapeError(
                f"{layer}: x has {x.shape[1]} channels (shape {x.shape}), the layer is made for {self.num_features};"
                f" use {layer}({x.shape[1]})"
            )

    def affine(self) -> tuple[Any, Any]:
        """The scale and the shift of each channel."""
        if self.weight is not None:
            return self.weight, self.bias
        lift, to = current().lift, (self.num_features,)
        return ops.broadcast_to(lift(1.0), shape=to), ops.broadcast_to(lift(0.0), shape=to)

    def by_running_statistics(self, x: Any) -> Any:
        return ops.batch_norm_inference(x, self.running_mean, self.running_var, *self.affine(), eps=self.eps)

    def follow(self, mean: Any, variance: Any, share: Any) -> None:
        """Move the running statistics towards those of a batch."""
        recording = current()
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            old = recording.lift(running)
            recording.assign(running, old * (1.0 - share) + value * share)

    def describe(self) -> str:
        told = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        told += ", affine=False" if self.weight is None else ""
        return told + ("" if self.track_running_stats else ", track_running_stats=False")


class BatchNorm2d(Tracking):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel: Ioffe and Szegedy 2015, algorithm 1; x [N, C, H, W]

    In training the statistics are the batch's, else the running ones. momentum None: those are the mean of all batches.
    """

    ranks: ClassVar[tuple[int, ...]] = (4,)
    takes = "images [N, C, H, W]"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Any) -> Any:
        self.check(x)
        if len(x.shape) == 3:
            return as_sequences(self.normalised(as_images(type(self).__name__, x)))
        return self.normalised(x)

    def normalised(self, x: Any) -> Any:
        if not self.training and self.track_running_stats:
            return self.by_running_statistics(x)
        y = ops.batch_norm(x, *self.affine(), eps=self.eps)
        if self.training and self.track_running_stats:
            moments, count = ops.channel_moments(x), float(np.prod(x.shape) / x.shape[1])
            recording = current()
            batches = recording.lift(self.num_batches_tracked) + 1.0
            recording.assign(self.num_batches_tracked, batches)
            share = 1.0 / batches if self.momentum is None else self.momentum
            self.follow(moments[0], moments[1] * (count / (count - 1.0)), share)
        return y


class BatchNorm1d(BatchNorm2d):
    """Batch norm of features [N, C] or sequences [N, C, L]"""

    ranks, takes = (2, 3), "features [N, C] or sequences [N, C, L]"


class InstanceNorm2d(Tracking):
    """y = weight (x - mean) / sqrt(var + eps) + bias, mean and variance of each image and channel; x [N, C, H, W]

    Ulyanov, Vedaldi and Lempitsky 2016. With track_running_stats, inference uses the running means of the images'
    statistics; momentum None leaves those as they are, as in PyTorch.
    """

    ranks: ClassVar[tuple[int, ...]] = (4,)
    takes = "images [N, C, H, W]"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Any) -> Any:
        self.check(x)
        if not self.training and self.track_running_stats:
            return self.by_running_statistics(x)
        axes, count = tuple(range(2, len(x.shape))), math.prod(x.shape[2:])
        if count < 2:
            raise ShapeError(
                f"{type(self).__name__}: one value per channel and image (shape {x.shape}) has no variance; normalise"
                " larger images, or use GroupNorm"
            )
        if self.training and self.track_running_stats:
            mean = x.mean(axes=axes, keepdims=True)
            centred = x - mean
            variance = (centred * centred).mean(axes=axes) * (count / (count - 1.0))
            share = 0.0 if self.momentum is None else self.momentum
            self.follow(mean.reshape(*x.shape[:2]).mean(axes=0), variance.mean(axes=0), share)
        y = ops.standardize(x, axes=axes, eps=self.eps)
        return y if self.weight is None else per_channel_affine(y, self.weight, self.bias)


class InstanceNorm1d(InstanceNorm2d):
    """Instance norm of sequences [N, C, L]"""

    ranks, takes = (3,), "sequences [N, C, L]"


def per_channel_affine(y: Any, weight: Any, bias: Any) -> Any:
    lift = current().lift
    return y * per_channel(lift(weight), y) + per_channel(lift(bias), y)


class GroupNorm(Module):
    """x standardized over each of num_groups runs of channels of an image, then weight x + bias per channel

    Wu and He 2018. x [N, C, ...].
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        check_positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ShapeError(f"GroupNorm: num_groups={num_groups} does not divide num_channels={num_channels}")
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps = check_eps("GroupNorm", eps)
        self.weight = Parameter(np.ones(num_channels)) if affine else None
        self.bias = Parameter(np.zeros(num_channels)) if affine else None

    def forward(self, x: Any) -> Any:
        if len(x.shape) < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(f"GroupNorm: takes [N, {self.num_channels}, ...], got shape {x.shape}")
        y = ops.group_norm(x, groups=self.num_groups, eps=self.eps)
        return y if self.weight is None else per_channel_affine(y, self.weight, self.bias)

    def describe(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class LayerNorm(Module):
    """x standardized over its last axes, whose sizes are normalized_shape, then weight x + bias element by element

    Ba, Kiros and Hinton 2016. weight and bias have normalized_shape.
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        layer = type(self).__name__
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        if not self.normalized_shape:
            raise ShapeError(f"{layer}: normalized_shape is empty, it has to have an axis or more")
        for size in self.normalized_shape:
            check_positive(layer, normalized_shape=size)
        self.eps = check_eps(layer, eps)
        self.weight = Parameter(np.ones(self.normalized_shape)) if elementwise_affine else None
        with_bias = elementwise_affine and bias
        self.bias = Parameter(np.zeros(self.normalized_shape)) if with_bias else None

    def forward(self, x: Any) -> Any:
        count = len(self.normalized_shape)
        if x.shape[-count:] != self.normalized_shape:
            raise ShapeError(
                f"{type(self).__name__}: x of shape {x.shape} does not end in normalized_shape {self.normalized_shape}"
            )
        y = self.normalised(x, tuple(range(-count, 0)))
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def normalised(self, x: Any, axes: tuple[int, ...]) -> Any:
        return ops.standardize(x, axes=axes, eps=self.eps)

    def describe(self) -> str:
        told = f"{self.normalized_shape}, eps={self.eps}"
        return told if self.weight is not None else f"{told}, elementwise_affine=False"


class RMSNorm(LayerNorm):
    """y = weight x / sqrt(mean(x^2) + eps) over the last axes, whose sizes are normalized_shape: Zhang and Sennrich
    2019

    eps None: 2^-23, the distance of float32 numbers at 1.
    """

    def __init__(self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True) -> None:
        eps = float(np.finfo(np.float32).eps) if eps is None else eps
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)

    def normalised(self, x: Any, axes: tuple[int, ...]) -> Any:
        return ops.rms_norm(x, axes=axes, eps=self.eps)


class LocalResponseNorm(Module):
    """y[n,c] = x[n,c] / (k + alpha / size * sum of x[n,i]^2 over `size` channels around c)^beta; x [N, C, ...]

    Krizhevsky, Sutskever and Hinton 2012, section 3.3.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        check_positive("LocalResponseNorm", size=size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Any) -> Any:
        return ops.local_response_norm(x, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k)

    def describe(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
