"""Group norm of images that lie channels last, by way of the channels: neighbours in memory are summed in lanes.

A group's values lie in many short pieces there, a few channels of each pixel. So sums run over the pixels of each image
and channel, [N, C], groups add up their channels', and what is computed for each pixel reads [N, C] again.
"""

import math
from typing import Any

import numpy as np

from foveal.kernel.lang import Array, loop, loops, parallel, var
from foveal.ops.elementwise import sqrt
from foveal.ops.kernels import moments
from foveal.ops.norm import group_norm
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor
from foveal.ops.reduce import broadcast_to, sum
from foveal.ops.shape import index, reshape
from foveal.strides import Ndarray, Shape
from foveal.view import View


class GroupMoments(Operator):
    """y[0,n,c] = mean, y[1,n,c] = biased variance of the group of channels of image n that c is in

    Mean and variance for group norm: x [N, C, ...] -> y [2, N, C]. A large mean costs no digits of the variance, and a
    constant has exactly its value as mean and 0 as variance (see channel_moments). Raises ShapeError where the groups
    do not divide the channels.
    """

    name, arity = "group_moments", 1
    cases = (
        Case(((2, 6, 4, 5),), {"groups": 3}),
        Case(((3, 21, 7, 5),), {"groups": 3}),
        Case(((2, 20, 3, 3),), {"groups": 20}),
        Case(((1, 35, 9, 9),), {"groups": 1}, {0: lambda rng, shape: rng.standard_normal(shape) + 1000.0}),
        Case(((3, 10),), {"groups": 5}),
    )

    def normalise(self, x: HasShape, *, groups: int) -> dict[str, Any]:
        return {"groups": int(groups)}

    def shape(self, x: Shape, *, groups: int) -> Shape:
        group_norm.shape(x, groups=groups, eps=0.0)
        return 2, x[0], x[1]

    def numpy(self, x: Ndarray, *, groups: int) -> Ndarray:
        values = x.reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
        return np.repeat(np.stack([values.mean(2), values.var(2)]), x.shape[1] // groups, axis=2)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, groups: int) -> tuple[Tensor, ...]:
        mean = per_image(index(y, i=0), x)
        d_mean, d_var = (per_image(over_groups(index(dy, i=i), groups), x) for i in range(2))
        return ((d_mean + (x - mean) * d_var * 2.0) * share_of(x, groups),)

    def kernel(self, y: Array, x: Array, *, groups: int) -> None:
        (N, C), rest = x.shape[:2], x.shape[2:]
        of_group = C // groups
        share = 1.0 / (of_group * math.prod(rest))
        # threads share the groups; each is read twice, for its mean and for the deviations from it
        for n, g in parallel(N, groups):
            total, squares = var(), var()
            # distances from the first value: those of a constant are exactly 0
            pivot = x[(n, g * of_group, *(0 for _ in rest))]
            for c, *place in loops(of_group, *rest):
                total += x[(n, g * of_group + c, *place)] - pivot
            mean = pivot + total.get() * share
            for c, *place in loops(of_group, *rest):
                d = x[(n, g * of_group + c, *place)] - mean
                squares += d * d
            for c in loop(of_group):
                y[0, n, g * of_group + c], y[1, n, g * of_group + c] = mean, squares.get() * share

    def lower(self, lowering: Lowering, y: View, x: View, *, groups: int) -> None:
        if len(x.shape) < 3 or x.strides[1] != 1:
            # lanes run over channels, which have to be neighbours
            lowering.call(self.kernel, [y], [x], plain=True, groups=groups)
            return
        moments.lower_groups(lowering, y, x, groups)


def per_image(v: Tensor, x: HasShape) -> Tensor:
    """v [N, C] in the shape [N, C, 1, ...], which broadcasts against x [N, C, ...]."""
    return reshape(v, shape=(*v.shape, *[1] * (len(x.shape) - 2)))


def over_groups(v: Tensor, groups: int) -> Tensor:
    """The sum of v [N, C] over the channels of a group, at each of them."""
    (N, C), split = v.shape, (v.shape[0], groups, v.shape[1] // groups)
    if groups == C:
        return v
    total = sum(reshape(v, shape=split), axes=(2,), keepdims=True)
    return reshape(broadcast_to(total, shape=split), shape=(N, C))


def share_of(x: HasShape, groups: int) -> float:
    """One by the number of a group's values in an image of x [N, C, ...]."""
    return groups / math.prod(x.shape[1:])


def normalised(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(var + eps) for the means and variances of x's groups, and 1 / sqrt(var + eps)."""
    both = group_moments(x, groups=groups)
    inverse = per_image(1.0 / sqrt(index(both, i=1) + eps), x)
    return (x - per_image(index(both, i=0), x)) * inverse, inverse


def group_norm_by_channels(x: Tensor, groups: int, eps: float) -> Tensor:
    """What ops.group_norm computes."""
    return normalised(x, groups, eps)[0]


def group_norm_grad_by_channels(dy: Tensor, x: Tensor, groups: int, eps: float) -> Tensor:
    """What ops.group_norm_grad computes."""
    (y, inverse), pixels = normalised(x, groups, eps), tuple(range(2, len(x.shape)))
    sums = (sum(value, axes=pixels) for value in (dy, dy * y))
    centre, slope = (per_image(over_groups(total, groups) * share_of(x, groups), x) for total in sums)
    return (dy - centre - y * slope) * inverse


group_moments = GroupMoments()
