"""Activations beside relu, gelu and tanh (elementwise.py). All are finite, with finite gradients, for finite inputs."""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import lang, maths
from foveal.ops.elementwise import Pointwise, clip, exp, greater, log, tanh, where, with_edges
from foveal.ops.op import Case, Operator
from foveal.ops.reduce import max, sum
from foveal.strides import Ndarray, Shape


def smooth(**attributes: Any) -> tuple[Case, ...]:
    """Cases for functions without a bend."""
    return Case(((2, 3, 7, 9),), attributes), Case(((5, 23),), attributes, {0: with_edges})


def bent(**attributes: Any) -> tuple[Case, ...]:
    """Cases for functions with bends, which random numbers do not meet."""
    wide = {0: lambda rng, shape: 5.0 * rng.standard_normal(shape)}
    return Case(((2, 3, 7, 9),), attributes), Case(((3, 67),), attributes, wide)


def logistic(x: Ndarray) -> Ndarray:
    """1 / (1 + e^-x) in NumPy, whose exponent is never above 0."""
    e = np.exp(-abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


class Sigmoid(Pointwise):
    """y = 1 / (1 + e^-x); dy/dx = y (1 - y)"""

    name, arity, cases = "sigmoid", 1, smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return logistic(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (dy * y * (1.0 - y),)

    def scalar(self, x: Any) -> Any:
        return 1.0 / (maths.exp(-x) + 1.0)


class Silu(Pointwise):
    """y = x / (1 + e^-x), "swish" (Ramachandran et al. 2017); dy/dx = s (1 + x (1 - s)) with s = sigmoid(x)"""

    name, arity, cases = "silu", 1, smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * logistic(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        s = sigmoid(x)
        return (dy * s * (x * (1.0 - s) + 1.0),)

    def scalar(self, x: Any) -> Any:
        return x / (maths.exp(-x) + 1.0)


class HardSigmoid(Pointwise):
    """y = min(max(x + 3, 0), 6) / 6: sigmoid in three straight pieces (Howard et al. 2019); dy/dx = 1/6 inside of (-3,
    3)
    """

    name, arity, cases = "hardsigmoid", 1, bent()

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.clip(x + 3, 0, 6) / 6

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (where(greater(x, -3.0), where(greater(3.0, x), dy * (1 / 6), 0.0), 0.0),)

    def scalar(self, x: Any) -> Any:
        return lang.minimum(lang.maximum(x + 3.0, 0.0), 6.0) * (1 / 6)


class HardSwish(Pointwise):
    """y = x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, eq. 1); dy/dx = 0 below -3, x/3 + 1/2 up to 3, then 1"""

    name, arity, cases = "hardswish", 1, bent()

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * (np.clip(x + 3, 0, 6) / 6)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        slope = where(greater(3.0, x), x * (1 / 3) + 0.5, 1.0)
        return (where(greater(x, -3.0), dy * slope, 0.0),)

    def scalar(self, x: Any) -> Any:
        return x * (lang.minimum(lang.maximum(x + 3.0, 0.0), 6.0) * (1 / 6))


class LeakyRelu(Pointwise):
    """y = x above 0, else negative_slope x; dy/dx at 0 is `negative_slope`"""

    name, arity, cases = "leaky_relu", 1, bent(negative_slope=0.1)

    def normalise(self, x: Any, *, negative_slope: float = 0.01) -> dict[str, Any]:
        return {"negative_slope": finite(self.name, "negative_slope", negative_slope)}

    def numpy(self, x: Ndarray, *, negative_slope: float) -> Ndarray:
        return np.where(x > 0, x, x * negative_slope)

    def vjp(self, dy: Any, y: Any, x: Any, *, negative_slope: float) -> tuple[Any, ...]:
        return (where(greater(x, 0.0), dy, dy * negative_slope),)

    def scalar(self, x: Any, *, negative_slope: float) -> Any:  # type: ignore[override]
        return lang.where(x > 0.0, x, x * negative_slope)


class Elu(Pointwise):
    """y = x above 0, else alpha (e^x - 1) (Clevert et al. 2016, eq. 15); dy/dx = 1 above 0, else alpha e^x

    e^x - 1 = 2 t / (1 - t) with t = tanh(x / 2), which loses no digits near 0.
    """

    name, arity = "elu", 1
    cases = (*bent(alpha=0.7), Case(((5, 23),), {"alpha": 1.0}, {0: with_edges}, smooth=False))

    def normalise(self, x: Any, *, alpha: float = 1.0) -> dict[str, Any]:
        return {"alpha": finite(self.name, "alpha", alpha)}

    def numpy(self, x: Ndarray, *, alpha: float) -> Ndarray:
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))

    def vjp(self, dy: Any, y: Any, x: Any, *, alpha: float) -> tuple[Any, ...]:
        below = exp(where(greater(x, 0.0), 0.0, x)) * alpha
        return (where(greater(x, 0.0), dy, dy * below),)

    def scalar(self, x: Any, *, alpha: float) -> Any:  # type: ignore[override]
        t = maths.tanh(lang.minimum(x, 0.0) * 0.5)
        return lang.where(x > 0.0, x, t * (2.0 * alpha) / (1.0 - t))


ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715


class GeluTanh(Pointwise):
    """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): Hendrycks and Gimpel 2016, the approximation

    With t the tanh, dy/dx = (1 + t)/2 + x/2 (1 - t^2) sqrt(2/pi) (1 + 3 0.044715 x^2).
    """

    name, arity, cases = "gelu_tanh", 1, smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return 0.5 * x * (1 + np.tanh(ROOT * (x + CUBIC * x * x * x)))

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        near = clip(x, low=-FLAT, high=FLAT)  # beyond, 1 - t^2 is 0, and x^2 may be infinite
        t = tanh((near + near * near * near * CUBIC) * ROOT)
        steep = (1.0 - t * t) * (near * near * (3 * CUBIC) + 1.0) * ROOT
        return (dy * 0.5 * ((t + 1.0) + near * steep),)

    def scalar(self, x: Any) -> Any:
        near = lang.minimum(lang.maximum(x, -FLAT), FLAT)
        half = x * 0.5
        return lang.fma(half, maths.tanh((near + near * near * near * CUBIC) * ROOT), half)


FLAT = 10.0  # from here on gelu is 0 below and x above


class Softplus(Pointwise):
    """y = ln(1 + e^(b x)) / b, and x itself where b x is above `threshold`; dy/dx = sigmoid(b x)

    Computed as max(x, 0) + ln(1 + e^-|b x|) / b: no exponent above 0, and no digits lost far below 0.
    """

    name, arity, cases = "softplus", 1, smooth() + smooth(beta=2.5, threshold=3.0)[:1]

    def normalise(self, x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> dict[str, Any]:
        if not beta > 0:
            raise ShapeError(f"softplus: beta is {beta}, it has to be above 0")
        return {"beta": finite(self.name, "beta", beta), "threshold": finite(self.name, "threshold", threshold)}

    def numpy(self, x: Ndarray, *, beta: float, threshold: float) -> Ndarray:
        soft = np.maximum(x, 0) + np.log1p(np.exp(-abs(x * beta))) / beta
        return np.where(x * beta > threshold, x, soft)

    def vjp(self, dy: Any, y: Any, x: Any, *, beta: float, threshold: float) -> tuple[Any, ...]:
        return (where(greater(x * beta, threshold), dy, dy * sigmoid(x * beta)),)

    def scalar(self, x: Any, *, beta: float, threshold: float) -> Any:  # type: ignore[override]
        z = x * beta
        rest = maths.log1p(maths.exp(lang.minimum(z, -z))) * (1 / beta)
        return lang.where(z > threshold, x, lang.maximum(x, 0.0) + rest)


def finite(operator: str, what: str, value: float) -> float:
    if not math.isfinite(value):
        raise ShapeError(f"{operator}: {what} is {value}, it has to be a finite number")
    return float(value)


class AlongAxis(Operator):
    """What softmax and its logarithm share. The shift by the largest keeps every exponent at or below 0."""

    arity, composite = 1, True
    cases = (
        Case(((4, 5),), {"axis": 1}),
        Case(((2, 19, 3, 4),), {"axis": 1}),
        Case(((3, 4, 33),), {"axis": -1}),
        Case(((5, 3),), {"axis": 0}, {0: lambda r, s: r.choice([-1e4, 1e4], s)}, smooth=False),
    )

    def normalise(self, x: Any, *, axis: int) -> dict[str, Any]:
        rank = len(x.shape)
        if not -rank <= axis < rank:
            raise ShapeError(f"{self.name}: axis {axis} is not one of the {rank} axes of shape {x.shape}")
        return {"axis": axis % rank}

    def shape(self, x: Shape, *, axis: int) -> Shape:
        return x


class Softmax(AlongAxis):
    """y_i = e^(x_i - m) / sum_j e^(x_j - m) along an axis, m = max x; the gradient is y (dy - sum_j dy_j y_j)"""

    name = "softmax"

    def numpy(self, x: Ndarray, *, axis: int) -> Ndarray:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    def vjp(self, dy: Any, y: Any, x: Any, *, axis: int) -> tuple[Any, ...]:
        return (y * (dy - sum(dy * y, axes=(axis,), keepdims=True)),)

    def expand(self, x: Any, *, axis: int) -> Any:
        e = exp(x - max(x, axes=(axis,), keepdims=True))
        return e / sum(e, axes=(axis,), keepdims=True)


class LogSoftmax(AlongAxis):
    """y_i = x_i - m - ln sum_j e^(x_j - m) along an axis, m = max x; the gradient is dy - e^y sum_j dy_j"""

    name = "log_softmax"

    def numpy(self, x: Ndarray, *, axis: int) -> Ndarray:
        z = x - x.max(axis=axis, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=axis, keepdims=True))

    def vjp(self, dy: Any, y: Any, x: Any, *, axis: int) -> tuple[Any, ...]:
        return (dy - exp(y) * sum(dy, axes=(axis,), keepdims=True),)

    def expand(self, x: Any, *, axis: int) -> Any:
        z = x - max(x, axes=(axis,), keepdims=True)
        return z - log(sum(exp(z), axes=(axis,), keepdims=True))


sigmoid, silu, hardsigmoid, hardswish = Sigmoid(), Silu(), HardSigmoid(), HardSwish()
leaky_relu, elu, gelu_tanh, softplus = LeakyRelu(), Elu(), GeluTanh(), Softplus()
softmax, log_softmax = Softmax(), LogSoftmax()
