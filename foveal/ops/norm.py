"""Normalisation of each image by itself: layer, group and instance norm, RMS norm, local response norm."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loop, parallel, var, vectors
from foveal.ops.concat import narrow
from foveal.ops.elementwise import exp, greater, log, maximum, sqrt, where
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.reduce import check_elements, mean, sum
from foveal.ops.shape import reshape
from foveal.strides import Ndarray, Shape


def far_from_zero(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Values whose mean is many times their deviation."""
    return rng.standard_normal(shape) + 30.0


def check_eps(name: str, eps: float) -> float:
    """eps as a float; ShapeError, in the name of an operator or layer, where it is below 0."""
    if eps < 0:
        raise ShapeError(f"{name}: eps is {eps}, it has to be 0 or more")
    return float(eps)


class OverAxes(Operator):
    """Base of norms over `axes`, all of which the result keeps."""

    arity, composite = 1, True

    def normalise(self, x: HasShape, *, axes: int | Iterable[int], eps: float = 1e-5) -> dict[str, Any]:
        rank = len(x.shape)
        chosen = (axes,) if isinstance(axes, int) else tuple(axes)
        if not chosen or any(not -rank <= a < rank for a in chosen):
            raise ShapeError(f"{self.name}: axes {axes} are not among those of shape {x.shape}")
        return {"axes": tuple(sorted({a % rank for a in chosen})), "eps": check_eps(self.name, eps)}

    def shape(self, x: Shape, *, axes: tuple[int, ...], eps: float) -> Shape:
        check_elements(self.name, x, axes)
        return x


class Standardize(OverAxes):
    """y = (x - mean) / sqrt(var + eps), with mean and biased variance over `axes`

    Layer norm without scale and shift: x of any shape -> y of the same shape.

    Ba, Kiros and Hinton 2016, equation 3. The variance is the mean square of what is left when the mean is taken away,
    so a large mean costs no digits of it. Gradient: dx = (dy - mean(dy) - y mean(dy y)) / sqrt(var + eps).

    axes: one axis or several, counted from the end where negative. Raises ShapeError where there are none, x lacks one
    of them, or eps is below 0.
    """

    name = "standardize"
    cases = (
        Case(((3, 20),), {"axes": -1}),
        Case(((2, 3, 4, 5),), {"axes": (1, 2, 3), "eps": 1e-3}),
        Case(((2, 18, 3, 5),), {"axes": (2, 3)}, {0: far_from_zero}),
    )

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], eps: float) -> Ndarray:
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)

    def parts(self, x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
        """x - mean, and sqrt(var + eps)."""
        # The mean is taken of the distances from the first value, which for a constant are exactly 0.
        first = x
        for axis in axes:
            first = narrow(first, axis=axis, start=0, length=1)
        centred = x - (first + mean(x - first, axes=axes, keepdims=True))
        return centred, sqrt(mean(centred * centred, axes=axes, keepdims=True) + eps)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], eps: float) -> tuple[Tensor, ...]:
        return (standardize_grad(dy, x, axes=axes, eps=eps),)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], eps: float) -> Tensor:
        centred, deviation = self.parts(x, axes, eps)
        return centred / deviation


class StandardizeGrad(Operator):
    """dx = (dy - mean(dy) - y mean(dy y)) / sqrt(var + eps), where y = standardize(x)

    The gradient of standardize in x: dy and x of one shape -> dx of that shape. Arguments are those of standardize.
    """

    name, arity, composite = "standardize_grad", 2, True
    cases = (
        Case(((3, 20), (3, 20)), {"axes": -1}),
        Case(((2, 3, 4, 5), (2, 3, 4, 5)), {"axes": (1, 2, 3), "eps": 1e-3}),
    )

    def normalise(self, dy: HasShape, x: HasShape, *, axes: int | Iterable[int], eps: float = 1e-5) -> dict[str, Any]:
        return standardize.normalise(x, axes=axes, eps=eps)

    def shape(self, dy: Shape, x: Shape, *, axes: tuple[int, ...], eps: float) -> Shape:
        check_alike(self.name, dy, x)
        return standardize.shape(x, axes=axes, eps=eps)

    def numpy(self, dy: Ndarray, x: Ndarray, *, axes: tuple[int, ...], eps: float) -> Ndarray:
        y = standardize.numpy(x, axes=axes, eps=eps)
        centred = dy - dy.mean(axes, keepdims=True) - y * (dy * y).mean(axes, keepdims=True)
        dx: Ndarray = centred / np.sqrt(x.var(axes, keepdims=True) + eps)
        return dx

    def expand(self, dy: Tensor, x: Tensor, *, axes: tuple[int, ...], eps: float) -> Tensor:
        centred, deviation = standardize.parts(x, axes, eps)
        y = centred / deviation
        slope = mean(dy * y, axes=axes, keepdims=True)
        return (dy - mean(dy, axes=axes, keepdims=True) - y * slope) / deviation


def check_alike(name: str, dy: Shape, x: Shape) -> None:
    """Raise ShapeError unless a gradient dy has the shape of the x that it is the gradient in."""
    if dy != x:
        raise ShapeError(f"{name}: dy {dy} and x {x} have to have the same shape")


class RMSNorm(OverAxes):
    """y = x / sqrt(mean(x^2) + eps), with the mean over `axes`

    Root mean square norm without scale: x of any shape -> y of the same shape.

    Zhang and Sennrich 2019, equation 4. Gradient: dx = (dy - y mean(dy y)) / sqrt(mean(x^2) + eps). The arguments and
    errors are those of standardize.
    """

    name, cases = "rms_norm", Standardize.cases[:2]

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], eps: float) -> Ndarray:
        return x / np.sqrt((x * x).mean(axes, keepdims=True) + eps)

    def root(self, x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
        """sqrt(mean(x^2) + eps)."""
        return sqrt(mean(x * x, axes=axes, keepdims=True) + eps)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], eps: float) -> tuple[Tensor, ...]:
        slope = mean(dy * y, axes=axes, keepdims=True)
        return ((dy - y * slope) / self.root(x, axes, eps),)

    def expand(self, x: Tensor, *, axes: tuple[int, ...], eps: float) -> Tensor:
        return x / self.root(x, axes, eps)


class GroupNorm(Operator):
    """y = (x - mean) / sqrt(var + eps), with mean and biased variance of each group of channels of each image

    Group norm without scale and shift: x [N, C, ...] -> y of the same shape.

    The groups are `groups` runs of neighbouring channels: Wu and He 2018, equation 1. One group is layer norm of an
    image, C groups are instance norm (Ulyanov, Vedaldi and Lempitsky 2016).

    Raises ShapeError where the groups do not divide the channels, or eps is below 0.
    """

    name, arity, composite = "group_norm", 1, True
    cases = (
        Case(((2, 6, 4, 5),), {"groups": 3}),
        Case(((3, 20),), {"groups": 4}),
        Case(((2, 18, 5),), {"groups": 2, "eps": 1e-3}, {0: far_from_zero}),
    )

    def normalise(self, x: HasShape, *, groups: int, eps: float = 1e-5) -> dict[str, Any]:
        return {"groups": int(groups), "eps": check_eps(self.name, eps)}

    def shape(self, x: Shape, *, groups: int, eps: float) -> Shape:
        if len(x) < 2:
            raise ShapeError(f"{self.name}: takes [N, C, ...], got shape {x}")
        check_elements(self.name, x, range(1, len(x)))
        if groups < 1 or x[1] % groups:
            raise ShapeError(
                f"{self.name}: {groups} groups do not divide {x[1]} channels (shape {x}); take a divisor of {x[1]}"
            )
        if 0 in x[1:]:
            raise ShapeError(f"{self.name}: there is no mean of no elements, shape {x}")
        return x

    def numpy(self, x: Ndarray, *, groups: int, eps: float) -> Ndarray:
        y = x.reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
        return standardize.numpy(y, axes=(2,), eps=eps).reshape(x.shape)

    def in_groups(self, x: Tensor, groups: int) -> tuple[Tensor, tuple[int, ...]]:
        """x as [N, G, C / G, ...], and the axes of a group's values."""
        N, C, *rest = x.shape
        return reshape(x, shape=(N, groups, C // groups, *rest)), tuple(range(2, 3 + len(rest)))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, groups: int, eps: float) -> tuple[Tensor, ...]:
        return (group_norm_grad(dy, x, groups=groups, eps=eps),)

    def expand(self, x: Tensor, *, groups: int, eps: float) -> Tensor:
        y, axes = self.in_groups(x, groups)
        return reshape(standardize(y, axes=axes, eps=eps), shape=x.shape)


class GroupNormGrad(Operator):
    """dx = (dy - mean(dy) - y mean(dy y)) / sqrt(var + eps), where y = group_norm(x) and means are those of groups

    The gradient of group_norm in x: dy and x [N, C, ...] -> dx of their shape. Arguments are those of group_norm.
    """

    name, arity, composite = "group_norm_grad", 2, True
    cases = (Case(((2, 6, 4, 5), (2, 6, 4, 5)), {"groups": 3}), Case(((3, 20), (3, 20)), {"groups": 4}))

    def normalise(self, dy: HasShape, x: HasShape, *, groups: int, eps: float = 1e-5) -> dict[str, Any]:
        return group_norm.normalise(x, groups=groups, eps=eps)

    def shape(self, dy: Shape, x: Shape, *, groups: int, eps: float) -> Shape:
        check_alike(self.name, dy, x)
        return group_norm.shape(x, groups=groups, eps=eps)

    def numpy(self, dy: Ndarray, x: Ndarray, *, groups: int, eps: float) -> Ndarray:
        dy, y = (a.reshape(a.shape[0], groups, math.prod(a.shape[1:]) // groups) for a in (dy, x))
        return standardize_grad.numpy(dy, y, axes=(2,), eps=eps).reshape(x.shape)

    def expand(self, dy: Tensor, x: Tensor, *, groups: int, eps: float) -> Tensor:
        (dy, axes), (y, _) = group_norm.in_groups(dy, groups), group_norm.in_groups(x, groups)
        return reshape(standardize_grad(dy, y, axes=axes, eps=eps), shape=x.shape)


class LpNormalize(Operator):
    """y = x / max(|x|_p, eps), with the p-norm along one axis

    Vectors scaled to norm 1: x of any shape -> y of the same shape.

    p: 1 or 2. axis: counted from the end where negative. Raises ShapeError for another p, an axis that x lacks, and eps
    not above 0.
    """

    name, arity, composite = "lp_normalize", 1, True
    cases = (
        Case(((3, 20),), {}),
        Case(((2, 3, 4, 5),), {"p": 1, "axis": 1}),
        Case(((2, 4),), {}, {0: lambda rng, shape: np.zeros(shape)}, smooth=False),
    )

    def normalise(self, x: HasShape, *, p: int = 2, axis: int = -1, eps: float = 1e-12) -> dict[str, Any]:
        if p not in (1, 2):
            raise ShapeError(f"{self.name}: p is {p}, it has to be 1 or 2")
        if not -len(x.shape) <= axis < len(x.shape):
            raise ShapeError(f"{self.name}: axis {axis} is not one of those of shape {x.shape}")
        if not eps > 0:
            raise ShapeError(f"{self.name}: eps is {eps}, it has to be above 0")
        return {"p": int(p), "axis": axis % len(x.shape), "eps": float(eps)}

    def shape(self, x: Shape, *, p: int, axis: int, eps: float) -> Shape:
        return x

    def numpy(self, x: Ndarray, *, p: int, axis: int, eps: float) -> Ndarray:
        return x / np.maximum(np.linalg.norm(x, p, axis, keepdims=True), eps)

    def expand(self, x: Tensor, *, p: int, axis: int, eps: float) -> Tensor:
        if p == 1:
            return x / maximum(sum(magnitude(x), axes=(axis,), keepdims=True), eps)
        return x / sqrt(maximum(sum(x * x, axes=(axis,), keepdims=True), eps * eps))


def magnitude(x: Tensor) -> Tensor:
    """|x|, with the gradient 0 at 0; NaN of NaN."""
    return where(x, x, where(greater(0.0, x), -x, x * 0.0))


class ChannelSums(Operator):
    """y[n,c,...] = sum of x[n,i,...] over c - before <= i <= c + after, as far as there are such channels

    Sums of neighbouring channels: x [N, C, ...] -> y of the same shape. Raises ShapeError where x has no channels.
    """

    name, arity = "channel_sums", 1
    cases = (
        Case(((2, 5, 3, 4),), {"before": 2, "after": 1}),
        Case(((1, 20, 2, 3),), {"before": 1, "after": 1}),
        Case(((2, 3, 7),), {"before": 0, "after": 4}),
    )

    def normalise(self, x: HasShape, *, before: int, after: int) -> dict[str, Any]:
        return {"before": before, "after": after}

    def shape(self, x: Shape, *, before: int, after: int) -> Shape:
        if len(x) < 2 or x[1] == 0:
            raise ShapeError(f"{self.name}: takes [N, C, ...] of one channel or more, got shape {x}")
        return x

    def numpy(self, x: Ndarray, *, before: int, after: int) -> Ndarray:
        C = x.shape[1]
        sums = [x[:, max(0, c - before) : c + after + 1].sum(axis=1) for c in range(C)]
        return np.stack(sums, axis=1).astype(x.dtype)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, before: int, after: int) -> tuple[Tensor, ...]:
        return (channel_sums(dy, before=after, after=before),)

    def kernel(self, y: Array, x: Array, *, before: int, after: int) -> None:
        (N, C), pixels = y.shape[:2], y.shape[2:]
        # the channels first ... last have all of their neighbours; those at either end are computed one by one
        middle = max(0, C - before - after)
        first = min(before, C)
        last = first + middle
        lanes = None if y.strides[1] == 1 and x.strides[1] == 1 else 1
        # threads share images and pixels
        for n, *pixel in parallel(N, *pixels):
            for c in [*range(first), *range(last, C)]:
                total = var(0.0)
                for i in range(max(0, c - before), min(C, c + after + 1)):
                    total += x[(n, i, *pixel)]
                y[(n, c, *pixel)] = total
            for v, width in vectors(middle, lanes):
                total = var(0.0, width)
                for j in loop(before + after + 1):
                    total += x.load((n, v + j + (first - before), *pixel), width)
                y.store((n, v + first, *pixel), total, width)


class LocalResponseNorm(Operator):
    """y[n,c] = x[n,c] / (k + alpha / size * sum of x[n,i]^2 over `size` channels i around c)^beta

    Local response norm: x [N, C, L] or [N, C, H, W] -> y of the same shape.

    Krizhevsky, Sutskever and Hinton 2012, section 3.3, with the mean in place of the sum, as in PyTorch and ONNX.

    before: the number of channels before c that count; size // 2 unless given, as in PyTorch, where ONNX has (size - 1)
    // 2. Raises ShapeError where x has another rank, or size is below 1.
    """

    name, arity, composite = "local_response_norm", 1, True
    cases = (
        Case(((2, 5, 3, 4),), {"size": 3, "alpha": 0.5}),
        Case(((2, 6, 5),), {"size": 4, "alpha": 1e-2, "beta": 0.5, "k": 2.0}),
    )

    def normalise(
        self,
        x: HasShape,
        *,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        before: int | None = None,
    ) -> dict[str, Any]:
        if size < 1:
            raise ShapeError(f"{self.name}: size is {size}, it has to be 1 or more channels")
        before = size // 2 if before is None else before
        return {"size": int(size), "alpha": float(alpha), "beta": float(beta), "k": float(k), "before": before}

    def shape(self, x: Shape, *, size: int, alpha: float, beta: float, k: float, before: int) -> Shape:
        if len(x) < 3 or x[1] < 1:
            raise ShapeError(f"{self.name}: takes [N, C, L] or [N, C, H, W] of one channel or more, got shape {x}")
        return x

    def numpy(self, x: Ndarray, *, size: int, alpha: float, beta: float, k: float, before: int) -> Ndarray:
        sums = channel_sums.numpy(x * x, before=before, after=size - 1 - before)
        return x / (k + alpha / size * sums) ** beta

    def expand(self, x: Tensor, *, size: int, alpha: float, beta: float, k: float, before: int) -> Tensor:
        sums = channel_sums(x * x, before=before, after=size - 1 - before)
        return x * exp(log(sums * (alpha / size) + k) * -beta)


standardize, standardize_grad, rms_norm = Standardize(), StandardizeGrad(), RMSNorm()
group_norm, group_norm_grad = GroupNorm(), GroupNormGrad()
lp_normalize, channel_sums = LpNormalize(), ChannelSums()
local_response_norm = LocalResponseNorm()
