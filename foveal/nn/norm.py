"""Normalisation layers. Each takes x [N, C, ...] and returns y of the same shape."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.kinds import name_kind
from foveal.nn.arguments import BiasLike, check_number, check_positive, is_number
from foveal.nn.init import filled
from foveal.nn.module import Buffer, Counter, Module, Parameter
from foveal.nn.one_dimensional import as_images, as_sequences
from foveal.ops.batch_norm import per_channel
from foveal.ops.between_shards import moments_over_shards
from foveal.ops.op import HasShape, Tensor
from foveal.trace import current

# the sizes of the last axes; one number for one axis
AxesSizes = Annotated[int | Sequence[int], "of the last axes"]
name_kind(AxesSizes, "an int or a tuple of ints, the sizes of the last axes", int | Sequence[int])


class Tracking(Module):
    """Base of batch and instance norm, which scale and shift each channel, and have running statistics of the training
    batches.

    num_features: C. eps: what is added to variances, 0 or more. momentum: after each training batch running = (1 -
    momentum) running + momentum batch, with the unbiased variance; from 0 to 1, or None. affine: True gives weight [C]
    and bias [C], which are trained. track_running_stats: False keeps no running statistics, and inference uses those of
    its input. Raises ShapeError for other values.
    """

    ranks: ClassVar[tuple[int, ...]]
    takes: ClassVar[str]

    required = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool
    ) -> None:
        layer = type(self).__name__
        check_positive(layer, num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, check_number(layer, "eps", eps, 0.0), momentum
        self.track_running_stats = track_running_stats
        self.weight = Parameter(filled(num_features, 1.0)) if affine else None
        self.bias = Parameter(filled(num_features)) if affine else None
        if track_running_stats:
            self.running_mean = Buffer(filled(num_features))
            self.running_var = Buffer(filled(num_features, 1.0))
            self.num_batches_tracked = Counter()

    def check_attribute(self, name: str, value: Any) -> None:
        layer = type(self).__name__
        if name == "eps":
            check_number(layer, name, value, 0.0)
        if name == "momentum" and value is not None and not (is_number(value) and 0.0 <= value <= 1.0):
            raise ShapeError(
                f"{layer}: momentum is {value!r}, it has to be between 0 and 1, or None for the mean of all batches"
            )
        if name == "track_running_stats" and value and "weight" in vars(self) and not hasattr(self, "running_mean"):
            raise ShapeError(
                f"{layer}: it was made without running statistics, track_running_stats cannot become True; make the"
                " layer again with track_running_stats=True"
            )

    def check(self, x: Tensor) -> None:
        """Raise ShapeError unless x has one of the layer's ranks and its number of channels."""
        layer = type(self).__name__
        if len(x.shape) not in self.ranks:
            raise ShapeError(f"{layer}: takes {self.takes}, got shape {x.shape}")
        if x.shape[1] != self.num_features:
            raise ShapeError(
                f"{layer}: x has {x.shape[1]} channels (shape {x.shape}), the layer is made for {self.num_features};"
                f" use {layer}({x.shape[1]})"
            )

    def affine(self) -> tuple[HasShape, HasShape]:
        """The scale [C] and the shift [C] of each channel; 1 and 0 where the layer has none."""
        lift, shape = current().lift, (self.num_features,)
        weight: HasShape = ops.broadcast_to(lift(1.0), shape=shape) if self.weight is None else self.weight
        bias: HasShape = ops.broadcast_to(lift(0.0), shape=shape) if self.bias is None else self.bias
        return weight, bias

    def by_running_statistics(self, x: Tensor) -> Tensor:
        """x normalised by the running mean and variance: what inference does."""
        return ops.batch_norm_inference(x, self.running_mean, self.running_var, *self.affine(), eps=self.eps)

    def update_running(self, mean: Tensor, variance: Tensor, share: float | Tensor) -> None:
        """Move the running statistics towards those of a batch, each [C]; share: the weight of the batch."""
        recording = current()
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            old = recording.lift(running)
            recording.assign(running, old * (1.0 - share) + value * share)

    def describe(self) -> str:
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        text += ", affine=False" if self.weight is None else ""
        return text + ("" if self.track_running_stats else ", track_running_stats=False")


class BatchNorm2d(Tracking):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel: Ioffe and Szegedy 2015, algorithm 1

    x [N, C, H, W]. In training, mean and variance are those of the batch; in inference they are the running ones. Of a
    step on shards (foveal.compile_step) each shard is normalised by itself, unless sync_batch_norm is True. momentum
    None: the running statistics are the mean of all batches.
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

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        # The operators take [N, C] or [N, C, H, W].
        if len(x.shape) == 3:
            return as_sequences(self.normalised(as_images(type(self).__name__, x)))
        return self.normalised(x)

    def normalised(self, x: Tensor) -> Tensor:
        """x [N, C] or [N, C, H, W] normalised; in training the running statistics are updated as well."""
        if not self.training and self.track_running_stats:
            return self.by_running_statistics(x)
        weight = current().shard_weight
        if self.training and weight is not None:
            return self.over_shards(x, weight)
        y = ops.batch_norm(x, *self.affine(), eps=self.eps)
        if self.training and self.track_running_stats:
            # [2, C]: mean and biased variance over `count` values of each channel
            moments, count = ops.channel_moments(x), float(np.prod(x.shape) / x.shape[1])
            self.track(moments[0], moments[1] * (count / (count - 1.0)))
        return y

    def over_shards(self, x: Tensor, weight: float) -> Tensor:
        """`normalised` in training, by the moments of all shards of the batch; weight: what the loss of this one
        counts.
        """
        y = ops.batch_norm_over_shards(x, *self.affine(), eps=self.eps, weight=weight)
        if self.track_running_stats:
            # [3, C]: mean, biased variance, number of values
            moments = moments_over_shards(x, weight)
            self.track(moments[0], moments[1] * (moments[2] / (moments[2] - 1.0)))
        return y

    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Count a batch, and move the running statistics towards its mean and unbiased variance, each [C]."""
        recording = current()
        batches = recording.lift(self.num_batches_tracked) + 1.0
        recording.assign(self.num_batches_tracked, batches)
        self.update_running(mean, variance, 1.0 / batches if self.momentum is None else self.momentum)


class BatchNorm1d(BatchNorm2d):
    """Batch norm of features [N, C] or sequences [N, C, L]"""

    ranks, takes = (2, 3), "features [N, C] or sequences [N, C, L]"


class InstanceNorm2d(Tracking):
    """y = weight (x - mean) / sqrt(var + eps) + bias, with mean and variance of each image and channel

    x [N, C, H, W] of more than one pixel: Ulyanov, Vedaldi and Lempitsky 2016. With track_running_stats, inference uses
    the running means of the images' statistics; momentum None leaves those as they are, as in PyTorch.
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

    def forward(self, x: Tensor) -> Tensor:
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
            # [N, C, 1, 1], then per image and channel [N, C], averaged over the images to [C]
            mean = x.mean(axes=axes, keepdims=True)
            centred = x - mean
            variance = (centred * centred).mean(axes=axes) * (count / (count - 1.0))
            share = 0.0 if self.momentum is None else self.momentum
            self.update_running(mean.reshape(*x.shape[:2]).mean(axes=0), variance.mean(axes=0), share)
        return scale_and_shift(ops.standardize(x, axes=axes, eps=self.eps), self.weight, self.bias)


class InstanceNorm1d(InstanceNorm2d):
    """Instance norm of sequences [N, C, L]"""

    ranks, takes = (3,), "sequences [N, C, L]"


def scale_and_shift(y: Tensor, weight: Parameter | None, bias: Parameter | None) -> Tensor:
    """weight[c] y[n,c,...] + bias[c], without what is None."""
    lift = current().lift
    y = y if weight is None else y * per_channel(lift(weight), y)
    return y if bias is None else y + per_channel(lift(bias), y)


class GroupNorm(Module):
    """y = weight (x - mean) / sqrt(var + eps) + bias, with mean and variance over a group of channels of each image

    x [N, C, ...]: Wu and He 2018. num_groups: the number of runs of neighbouring channels into which num_channels = C
    is divided. weight [C], bias [C], unless affine is False. Raises ShapeError where the groups do not divide the
    channels.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        check_positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ShapeError(
                f"GroupNorm: num_groups={num_groups} does not divide num_channels={num_channels}; choose a divisor"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps = eps
        self.weight = Parameter(filled(num_channels, 1.0)) if affine else None
        self.bias = Parameter(filled(num_channels)) if affine else None

    def check_attribute(self, name: str, value: Any) -> None:
        if name == "eps":
            check_number("GroupNorm", name, value, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        if len(x.shape) < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(f"GroupNorm: takes [N, {self.num_channels}, ...], got shape {x.shape}")
        y = ops.group_norm(x, groups=self.num_groups, eps=self.eps)
        return scale_and_shift(y, self.weight, self.bias)

    def describe(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class LayerNorm(Module):
    """y = weight (x - mean) / sqrt(var + eps) + bias, with mean and variance over the last axes: Ba, Kiros and Hinton
    2016

    normalized_shape: the sizes of those axes, an int for one. weight and bias have that shape; elementwise_affine False
    leaves out both, bias False the bias. Raises ShapeError for x that does not end in normalized_shape.
    """

    def __init__(
        self, normalized_shape: AxesSizes, eps: float = 1e-5, elementwise_affine: bool = True, bias: BiasLike = True
    ) -> None:
        layer = type(self).__name__
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        if not self.normalized_shape:
            raise ShapeError(f"{layer}: normalized_shape is empty, it has to have one axis or more")
        for size in self.normalized_shape:
            check_positive(layer, normalized_shape=size)
        self.eps = eps
        self.weight = Parameter(filled(self.normalized_shape, 1.0)) if elementwise_affine else None
        with_bias = elementwise_affine and bias
        self.bias = Parameter(filled(self.normalized_shape)) if with_bias else None

    def check_attribute(self, name: str, value: Any) -> None:
        if name == "eps":
            check_number(type(self).__name__, name, value, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        count = len(self.normalized_shape)
        if x.shape[-count:] != self.normalized_shape:
            raise ShapeError(
                f"{type(self).__name__}: x of shape {x.shape} does not end in normalized_shape {self.normalized_shape}"
            )
        y = self.normalised(x, tuple(range(-count, 0)))
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def normalised(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """x normalised over `axes`, without weight and bias."""
        return ops.standardize(x, axes=axes, eps=self.eps)

    def describe(self) -> str:
        text = f"{self.normalized_shape}, eps={self.eps}"
        return text if self.weight is not None else f"{text}, elementwise_affine=False"


class RMSNorm(LayerNorm):
    """y = weight x / sqrt(mean(x^2) + eps), with the mean over the last axes: Zhang and Sennrich 2019

    normalized_shape: the sizes of those axes, an int for one. eps None: 2^-23, the distance of float32 numbers at 1.
    """

    def __init__(self, normalized_shape: AxesSizes, eps: float | None = None, elementwise_affine: bool = True) -> None:
        eps = float(np.finfo(np.float32).eps) if eps is None else eps
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)

    def normalised(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return ops.rms_norm(x, axes=axes, eps=self.eps)


class LocalResponseNorm(Module):
    """y[n,c] = x[n,c] / (k + alpha / size * sum of x[n,i]^2 over `size` channels around c)^beta; x [N, C, ...]

    Krizhevsky, Sutskever and Hinton 2012, section 3.3, with PyTorch's division of alpha by size.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        check_positive("LocalResponseNorm", size=size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return ops.local_response_norm(x, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k)

    def describe(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
