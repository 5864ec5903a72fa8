"""Normalisation of each image by itself: layer, group and instance norm, RMS norm, local response norm."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, parallel, var, vectors
from foveal.ops.elementwise import exp, greater, log, maximum, sqrt, where
from foveal.ops.op import Case, Operator
from foveal.ops.reduce import mean, sum
from foveal.ops.shape import reshape
from foveal.strides import Ndarray, Shape


def far_from_zero(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Values whose mean is many times their deviation."""
    return rng.standard_normal(shape) + 30.0


def check_eps(name: str, eps: float) -> float:
    if eps < 0:
        raise ShapeError(f"{name}: eps is {eps}, it has to be 0 or more")
    return float(eps)


class OverAxes(Operator):
    """What is taken together: `axes`, all of which stay."""

    arity, composite = 1, True

    def normalise(self, x: Any, *, axes: Any, eps: float = 1e-5) -> dict[str, Any]:
        rank = len(x.shape)
        chosen = (axes,) if isinstance(axes, int) else tuple(axes)
        if not chosen or any(not -rank <= a < rank for a in chosen):
            raise ShapeError(f"{self.name}: axes {axes} are not among those of shape {x.shape}")
        return {"axes": tuple(sorted({a % rank for a in chosen})), "eps": check_eps(self.name, eps)}

    def shape(self, x: Shape, *, axes: tuple[int, ...], eps: float) -> Shape:
        return x


class Standardize(OverAxes):
    """y = (x - mean) / sqrt(var + eps), with mean and biased variance over `axes`: Ba, Kiros and Hinton 2016, equation
    3

    The variance is the mean square of what is left when the mean is taken away, so a large mean costs no digits of it.
    Gradient: dx = (dy - mean(dy) - y mean(dy y)) / sqrt(var + eps).
    """

    name = "standardize"
    cases = (
        Case(((3, 20),), {"axes": -1}),
        Case(((2, 3, 4, 5),), {"axes": (1, 2, 3), "eps": 1e-3}),
        Case(((2, 18, 3, 5),), {"axes": (2, 3)}, {0: far_from_zero}),
    )

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], eps: float) -> Ndarray:
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)

    def parts(self, x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any]:
        """x - mean, and sqrt(var + eps)."""
        centred = x - mean(x, axes=axes, keepdims=True)
        return centred, sqrt(mean(centred * centred, axes=axes, keepdims=True) + eps)

    def vjp(self, dy: Any, y: Any, x: Any, *, axes: tuple[int, ...], eps: float) -> tuple[Any, ...]:
        _, deviation = self.parts(x, axes, eps)
        slope = mean(dy * y, axes=axes, keepdims=True)
        return ((dy - mean(dy, axes=axes, keepdims=True) - y * slope) / deviation,)

    def expand(self, x: Any, *, axes: tuple[int, ...], eps: float) -> Any:
        centred, deviation = self.parts(x, axes, eps)
        return centred / deviation


class RMSNorm(OverAxes):
    """y = x / sqrt(mean(x^2) + eps) over `axes`: Zhang and Sennrich 2019, equation 4

    Gradient: dx = (dy - y mean(dy y)) / sqrt(mean(x^2) + eps).
    """

    name, cases = "rms_norm", Standardize.cases[:2]

    def numpy(self, x: Ndarray, *, axes: tuple[int, ...], eps: float) -> Ndarray:
        return x / np.sqrt((x * x).mean(axes, keepdims=True) + eps)

    def root(self, x: Any, axes: tuple[int, ...], eps: float) -> Any:
        return sqrt(mean(x * x, axes=axes, keepdims=True) + eps)

    def vjp(self, dy: Any, y: Any, x: Any, *, axes: tuple[int, ...], eps: float) -> tuple[Any, ...]:
        slope = mean(dy * y, axes=axes, keepdims=True)
        return ((dy - y * slope) / self.root(x, axes, eps),)

    def expand(self, x: Any, *, axes: tuple[int, ...], eps: float) -> Any:
        return x / self.root(x, axes, eps)


class GroupNorm(Operator):
    """x [N, C, ...] standardized over each of `groups` runs of channels, image by image: Wu and He 2018, equation 1

    One group is layer norm of an image, C groups are instance norm (Ulyanov, Vedaldi and Lempitsky 2016).
    """

    name, arity, composite = "group_norm", 1, True
    cases = (
        Case(((2, 6, 4, 5),), {"groups": 3}),
        Case(((3, 20),), {"groups": 4}),
        Case(((2, 18, 5),), {"groups": 2, "eps": 1e-3}, {0: far_from_zero}),
    )

    def normalise(self, x: Any, *, groups: int, eps: float = 1e-5) -> dict[str, Any]:
        return {"groups": int(groups), "eps": check_eps(self.name, eps)}

    def shape(self, x: Shape, *, groups: int, eps: float) -> Shape:
        if len(x) < 2:
            raise ShapeError(f"{self.name}: takes [N, C, ...], got shape {x}")
        if groups < 1 or x[1] % groups:
            raise ShapeError(
                f"{self.name}: {groups} groups do not divide {x[1]} channels (shape {x}); take a divisor of {x[1]}"
            )
        return x

    def numpy(self, x: Ndarray, *, groups: int, eps: float) -> Ndarray:
        y = x.reshape(x.shape[0], groups, -1)
        return standardize.numpy(y, axes=(2,), eps=eps).reshape(x.shape)

    def expand(self, x: Any, *, groups: int, eps: float) -> Any:
        N, C, *rest = x.shape
        y = reshape(x, shape=(N, groups, C // groups, *rest))
        return reshape(standardize(y, axes=range(2, 3 + len(rest)), eps=eps), shape=x.shape)


class LpNormalize(Operator):
    """y = x / max(|x|_p, eps), with the norm along one axis; p is 1 or 2"""

    name, arity, composite = "lp_normalize", 1, True
    cases = (
        Case(((3, 20),), {}),
        Case(((2, 3, 4, 5),), {"p": 1, "axis": 1}),
        Case(((2, 4),), {}, {0: lambda rng, shape: np.zeros(shape)}, smooth=False),
    )

    def normalise(self, x: Any, *, p: int = 2, axis: int = -1, eps: float = 1e-12) -> dict[str, Any]:
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

    def expand(self, x: Any, *, p: int, axis: int, eps: float) -> Any:
        if p == 1:
            return x / maximum(sum(magnitude(x), axes=(axis,), keepdims=True), eps)
        return x / sqrt(maximum(sum(x * x, axes=(axis,), keepdims=True), eps * eps))


def magnitude(x: Any) -> Any:
    """|x|, with the gradient 0 at 0."""
    return where(x, x, where(greater(0.0, x), -x, 0.0))


class ChannelSums(Operator):
    """y[n,c,...] = sum of x[n,i,...] over c - before <= i <= c + after, as far as there are such channels"""

    name, arity = "channel_sums", 1
    cases = (
        Case(((2, 5, 3, 4),), {"before": 2, "after": 1}),
        Case(((1, 20, 2, 3),), {"before": 1, "after": 1}),
        Case(((2, 3, 7),), {"before": 0, "after": 4}),
    )

    def shape(self, x: Shape, *, before: int, after: int) -> Shape:
        if len(x) < 2:
            raise ShapeError(f"{self.name}: takes [N, C, ...], got shape {x}")
        return x

    def numpy(self, x: Ndarray, *, before: int, after: int) -> Ndarray:
        C = x.shape[1]
        return np.stack([x[:, max(0, c - before) : c + after + 1].sum(axis=1) for c in range(C)], axis=1).astype(
            x.dtype
        )

    def vjp(self, dy: Any, y: Any, x: Any, *, before: int, after: int) -> tuple[Any, ...]:
        return (channel_sums(dy, before=after, after=before),)

    def kernel(self, y: Any, x: Any, *, before: int, after: int) -> None:
        (N, C), pixels = y.shape[:2], y.shape[2:]
        middle = max(0, C - before - after)  # channels whose window is whole
        first, last = (min(before, C), min(before, C) + middle)
        lanes = None if y.strides[1] == 1 and x.strides[1] == 1 else 1
        for n, *at in parallel(N, *pixels):
            for c in [*range(first), *range(last, C)]:
                total = var(0.0)
                for i in range(max(0, c - before), min(C, c + after + 1)):
                    total += x[(n, i, *at)]
                y[(n, c, *at)] = total
            for v, width in vectors(middle, lanes) if middle else ():
                total = var(0.0, width)
                for j in loop(before + after + 1):
                    total += x.load((n, v + j + (first - before), *at), width)
                y.store((n, v + first, *at), total, width)


class LocalResponseNorm(Operator):
    """y[n,c] = x[n,c] / (k + alpha / size * sum of x[n,i]^2 over `size` channels i around c)^beta

    Krizhevsky, Sutskever and Hinton 2012, section 3.3, with the mean in place of the sum as PyTorch and ONNX have it.
    before: how many of the channels lie before c; size // 2 as in PyTorch unless given, ONNX has (size - 1) // 2.
    """

    name, arity, composite = "local_response_norm", 1, True
    cases = (
        Case(((2, 5, 3, 4),), {"size": 3, "alpha": 0.5}),
        Case(((2, 6, 5),), {"size": 4, "alpha": 1e-2, "beta": 0.5, "k": 2.0}),
    )

    def normalise(
        self, x: Any, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, before: int | None = None
    ) -> dict[str, Any]:
        if size < 1:
            raise ShapeError(f"{self.name}: size is {size}, it has to be 1 or more channels")
        before = size // 2 if before is None else before
        return {"size": int(size), "alpha": float(alpha), "beta": float(beta), "k": float(k), "before": before}

    def shape(self, x: Shape, *, size: int, **how: Any) -> Shape:
        if len(x) < 3:
            raise ShapeError(f"{self.name}: takes [N, C, L] or [N, C, H, W], got shape {x}")
        return x

    def numpy(self, x: Ndarray, *, size: int, alpha: float, beta: float, k: float, before: int) -> Ndarray:
        sums = channel_sums.numpy(x * x, before=before, after=size - 1 - before)
        return x / (k + alpha / size * sums) ** beta

    def expand(self, x: Any, *, size: int, alpha: float, beta: float, k: float, before: int) -> Any:
        sums = channel_sums(x * x, before=before, after=size - 1 - before)
        return x * exp(log(sums * (alpha / size) + k) * -beta)


standardize, rms_norm, group_norm = Standardize(), RMSNorm(), GroupNorm()


lp_normalize, channel_sums = LpNormalize(), ChannelSums()


local_response_norm = LocalResponseNorm()
