"""Activations beside relu, gelu and tanh, which are in elementwise.py; all are finite for finite inputs, as are their
gradients.
"""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import lang, maths
from foveal.kernel.lang import Scalar
from foveal.ops.elementwise import Pointwise, Unary, clip, exp, greater, log, tanh, where, with_edges
from foveal.ops.op import Case, HasShape, Operand, Operator, Tensor
from foveal.ops.reduce import check_elements, max, sum
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


class Sigmoid(Unary):
    """y = 1 / (1 + e^-x), pointwise, of x's shape; dy/dx = y (1 - y)"""

    name, cases = "sigmoid", smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return logistic(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * y * (1.0 - y),)

    def scalar(self, x: Scalar) -> Scalar:
        return 1.0 / (maths.exp(-x) + 1.0)


class Silu(Unary):
    """y = x / (1 + e^-x), pointwise, of x's shape: "swish" of Ramachandran, Zoph and Le 2017

    dy/dx = s (1 + x (1 - s)) with s = sigmoid(x).
    """

    name, cases = "silu", smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * logistic(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        s = sigmoid(x)
        return (dy * s * (x * (1.0 - s) + 1.0),)

    def scalar(self, x: Scalar) -> Scalar:
        return x / (maths.exp(-x) + 1.0)


class HardSigmoid(Unary):
    """y = min(max(x + 3, 0), 6) / 6, pointwise, of x's shape: a piecewise linear sigmoid (Howard et al. 2019)

    dy/dx is 1/6 inside of (-3, 3), else 0.
    """

    name, cases = "hardsigmoid", bent()

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.clip(x + 3, 0, 6) / 6

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (where(greater(x, -3.0), where(greater(3.0, x), dy * (1 / 6), 0.0), 0.0),)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.minimum(lang.maximum(x + 3.0, 0.0), 6.0) * (1 / 6)


class HardSwish(Unary):
    """y = x min(max(x + 3, 0), 6) / 6, pointwise, of x's shape: Howard et al. 2019, section 5.2

    dy/dx is 0 below -3, x/3 + 1/2 up to 3, and 1 above.
    """

    name, cases = "hardswish", bent()

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * (np.clip(x + 3, 0, 6) / 6)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        slope = where(greater(3.0, x), x * (1 / 3) + 0.5, 1.0)
        return (where(greater(x, -3.0), dy * slope, 0.0),)

    def scalar(self, x: Scalar) -> Scalar:
        return x * (lang.minimum(lang.maximum(x + 3.0, 0.0), 6.0) * (1 / 6))


class LeakyRelu(Pointwise):
    """y = x above 0, else negative_slope x, pointwise, of x's shape: Maas, Hannun and Ng 2013

    dy/dx at 0 is negative_slope. Raises ShapeError unless negative_slope is finite.
    """

    name, arity, cases = "leaky_relu", 1, bent(negative_slope=0.1)

    def normalise(self, x: Operand, *, negative_slope: float = 0.01) -> dict[str, Any]:
        return {"negative_slope": finite(self.name, "negative_slope", negative_slope)}

    def numpy(self, x: Ndarray, *, negative_slope: float) -> Ndarray:
        return np.where(x > 0, x, x * negative_slope)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, negative_slope: float) -> tuple[Tensor | None, ...]:
        return (where(greater(x, 0.0), dy, dy * negative_slope),)

    def scalar(self, x: Scalar, *, negative_slope: float) -> Scalar:
        return lang.where(x > 0.0, x, x * negative_slope)


class Elu(Pointwise):
    """y = x above 0, else alpha (e^x - 1), pointwise, of x's shape: Clevert et al. 2016, equation 15

    dy/dx is 1 above 0, else alpha e^x. Raises ShapeError unless alpha is finite.
    """

    name, arity = "elu", 1
    cases = (*bent(alpha=0.7), Case(((5, 23),), {"alpha": 1.0}, {0: with_edges}, smooth=False))

    def normalise(self, x: Operand, *, alpha: float = 1.0) -> dict[str, Any]:
        return {"alpha": finite(self.name, "alpha", alpha)}

    def numpy(self, x: Ndarray, *, alpha: float) -> Ndarray:
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, alpha: float) -> tuple[Tensor | None, ...]:
        below = exp(where(greater(x, 0.0), 0.0, x)) * alpha
        return (where(greater(x, 0.0), dy, dy * below),)

    def scalar(self, x: Scalar, *, alpha: float) -> Scalar:
        return lang.where(x > 0.0, x, maths.expm1(lang.minimum(x, 0.0)) * alpha)


# the constants of gelu's approximation; from FLAT on, the tanh in it is 1 in float32, and from -FLAT down it is -1
ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715
FLAT = 10.0


class GeluTanh(Unary):
    """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), pointwise, of x's shape: an approximation of gelu

    Hendrycks and Gimpel 2016, section 2.
    With t the tanh, dy/dx = (1 + t)/2 + x/2 (1 - t^2) sqrt(2/pi) (1 + 3 0.044715 x^2).
    """

    name, cases = "gelu_tanh", smooth()

    def numpy(self, x: Ndarray) -> Ndarray:
        return 0.5 * x * (1 + np.tanh(ROOT * (x + CUBIC * x * x * x)))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        # beyond FLAT, 1 - t^2 is 0, and x^2 may be infinite
        near = clip(x, low=-FLAT, high=FLAT)
        t = tanh((near + near * near * near * CUBIC) * ROOT)
        steep = (1.0 - t * t) * (near * near * (3 * CUBIC) + 1.0) * ROOT
        return (dy * 0.5 * ((t + 1.0) + near * steep),)

    def scalar(self, x: Scalar) -> Scalar:
        near = lang.minimum(lang.maximum(x, -FLAT), FLAT)
        half = x * 0.5
        return lang.fma(half, maths.tanh((near + near * near * near * CUBIC) * ROOT), half)


class Softplus(Pointwise):
    """y = ln(1 + e^(beta x)) / beta, and x itself where beta x is above threshold; pointwise, of x's shape

    dy/dx = sigmoid(beta x). Computed as max(x, 0) + ln(1 + e^-|beta x|) / beta: no exponent is above 0, and no digits
    are lost far below 0. Dugas et al. 2001. Raises ShapeError unless beta is above 0 and both are finite.
    """

    name, arity, cases = "softplus", 1, smooth() + smooth(beta=2.5, threshold=3.0)[:1]

    def normalise(self, x: Operand, *, beta: float = 1.0, threshold: float = 20.0) -> dict[str, Any]:
        if not beta > 0:
            raise ShapeError(f"softplus: beta is {beta}, it has to be above 0")
        return {"beta": finite(self.name, "beta", beta), "threshold": finite(self.name, "threshold", threshold)}

    def numpy(self, x: Ndarray, *, beta: float, threshold: float) -> Ndarray:
        soft = np.maximum(x, 0) + np.log1p(np.exp(-abs(x * beta))) / beta
        return np.where(x * beta > threshold, x, soft)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, beta: float, threshold: float) -> tuple[Tensor | None, ...]:
        return (where(greater(x * beta, threshold), dy, dy * sigmoid(x * beta)),)

    def scalar(self, x: Scalar, *, beta: float, threshold: float) -> Scalar:
        z = x * beta
        rest = maths.log1p(maths.exp(lang.minimum(z, -z))) * (1 / beta)
        return lang.where(z > threshold, x, lang.maximum(x, 0.0) + rest)


def finite(operator: str, what: str, value: float) -> float:
    """`value` as a float; ShapeError if it is NaN or infinite."""
    if not math.isfinite(value):
        raise ShapeError(f"{operator}: {what} is {value}, it has to be a finite number")
    return float(value)


class AlongAxis(Operator):
    """Base of softmax and its logarithm. The shift by the maximum keeps every exponent at or below 0."""

    arity, composite = 1, True
    cases = (
        Case(((4, 5),), {"axis": 1}),
        Case(((2, 19, 3, 4),), {"axis": 1}),
        Case(((3, 4, 33),), {"axis": -1}),
        Case(((5, 3),), {"axis": 0}, {0: lambda r, s: r.choice([-1e4, 1e4], s)}, smooth=False),
    )

    def normalise(self, x: HasShape, *, axis: int) -> dict[str, Any]:
        rank = len(x.shape)
        if not -rank <= axis < rank:
            raise ShapeError(f"{self.name}: axis {axis} is not one of the {rank} axes of shape {x.shape}")
        return {"axis": axis % rank}

    def shape(self, x: Shape, *, axis: int) -> Shape:
        check_elements(self.name, x, (axis,))
        return x


class Softmax(AlongAxis):
    """y_i = e^(x_i - m) / sum_j e^(x_j - m) along one axis, with m = max_j x_j; y has x's shape

    dx = y (dy - sum_j dy_j y_j). Raises ShapeError where x has no such axis; a negative one counts from the last.
    """

    name = "softmax"

    def numpy(self, x: Ndarray, *, axis: int) -> Ndarray:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int) -> tuple[Tensor | None, ...]:
        return (y * (dy - sum(dy * y, axes=(axis,), keepdims=True)),)

    def expand(self, x: Tensor, *, axis: int) -> Tensor:
        e = exp(x - max(x, axes=(axis,), keepdims=True))
        return e / sum(e, axes=(axis,), keepdims=True)


class LogSoftmax(AlongAxis):
    """y_i = x_i - m - ln sum_j e^(x_j - m) along one axis, with m = max_j x_j; y has x's shape

    dx = dy - e^y sum_j dy_j. Raises ShapeError where x has no such axis; a negative one counts from the last.
    """

    name = "log_softmax"

    def numpy(self, x: Ndarray, *, axis: int) -> Ndarray:
        z = x - x.max(axis=axis, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=axis, keepdims=True))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, axis: int) -> tuple[Tensor | None, ...]:
        return (dy - exp(y) * sum(dy, axes=(axis,), keepdims=True),)

    def expand(self, x: Tensor, *, axis: int) -> Tensor:
        z = x - max(x, axes=(axis,), keepdims=True)
        return z - log(sum(exp(z), axes=(axis,), keepdims=True))


sigmoid, silu, hardsigmoid, hardswish = Sigmoid(), Silu(), HardSigmoid(), HardSwish()
leaky_relu, elu, gelu_tanh, softplus = LeakyRelu(), Elu(), GeluTanh(), Softplus()
softmax, log_softmax = Softmax(), LogSoftmax()
