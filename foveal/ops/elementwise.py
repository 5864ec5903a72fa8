"""Pointwise operators: an element of the output depends on the inputs' elements at the same index.

Shapes broadcast as in NumPy. Gradients are formulas for one element: where an input was repeated, autodiff.py adds up
its gradient. Further activations are in activation.py.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import lang, maths
from foveal.kernel.lang import Array, Scalar
from foveal.kinds import AnyNumber
from foveal.ops.kernels import pointwise
from foveal.ops.op import Case, Operand, Operator, Tensor
from foveal.strides import Ndarray, Shape


def positive(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers between 0.3 and 3."""
    return rng.uniform(0.3, 3.0, shape)


def not_above_zero(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers from -100 to 0, most of them near 0."""
    return -abs(rng.standard_normal(shape)) * rng.choice([1.0, 5.0, 30.0], shape)


def away_from_zero(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers of both signs whose absolute value is 0.2 to 2."""
    return rng.uniform(0.2, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def with_edges(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers of every size: both zeros, subnormal ones, where functions bend, where they have flattened."""
    edges = [0.0, 1e-40, 1e-4, 0.5, 0.625, 1.0, 2.0, 3.9, 5.0, 9.1, 30.0, 100.0]
    return rng.choice(np.array([*edges, *(-v for v in edges)]), shape)


class Pointwise(Operator):
    """Base of operators whose output at an index depends on the inputs there alone, as those of this file.

    `scalar` is the operator on one element, or on lanes of elements, in the kernel language (foveal.kernel.lang, and
    foveal.kernel.maths for exp, log, tanh): several of them become one kernel. `shape` is that of the inputs, broadcast
    as in NumPy; gradients have the shape of y, and are summed up for inputs that were repeated.

        class Softsign(ops.Pointwise):
            name, arity = "softsign", 1

            def numpy(self, x):
                return x / (1 + abs(x))

            def vjp(self, dy, y, x):
                slope = 1.0 - ops.maximum(y, -y)
                return (dy * slope * slope,)

            def scalar(self, x):
                return x / (lang.maximum(x, -x) + 1.0)

        softsign = Softsign()
    """

    @property
    def has_scalar(self) -> bool:
        """False where a user's operator has no `scalar`, so that it has a kernel of its own, or none."""
        return self.of_package or type(self).scalar is not Operator.scalar

    @property
    def has_kernel(self) -> bool:
        return self.has_scalar or self.composite or type(self).kernel is not Pointwise.kernel

    def shape(self, *shapes: Shape, **attributes: Any) -> Shape:
        if len(set(shapes)) == 1:
            return shapes[0]
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            listed = " and ".join(map(str, shapes))
            raise ShapeError(
                f"{self.name}: shapes {listed} do not broadcast; counted from the right, sizes have to be equal or 1"
            ) from None

    def kernel(self, y: Array, *inputs: Array, **attributes: Any) -> None:
        steps = ((self.key, tuple(sorted(attributes.items())), tuple(range(len(inputs)))),)
        pointwise.pointwise(y, *inputs, outputs=1, steps=steps, results=(len(inputs),))


class Unary(Pointwise):
    """A pointwise operator of one input, without attributes."""

    arity = 1

    def normalise(self, x: Operand) -> dict[str, Any]:
        return {}


class Binary(Pointwise):
    """A pointwise operator of two inputs, without attributes."""

    arity = 2

    def normalise(self, a: Operand, b: Operand) -> dict[str, Any]:
        return {}


UNARY = (Case(((4, 5),)), Case(((2, 3, 7, 9),)), Case(((),)), Case(((1, 67),)))
CURVED = (*UNARY, Case(((5, 23),), draw={0: with_edges}))
BINARY = (
    Case(((4, 5), (4, 5))),
    Case(((2, 3, 5, 4), (3, 1, 1))),
    Case(((2, 1, 3), (4, 1))),
    Case(((), (3,))),
    Case(((2, 19, 3, 3), (1, 19, 1, 1))),
)


def drawn(cases: tuple[Case, ...], *draw: Callable[..., Ndarray]) -> tuple[Case, ...]:
    """The same cases with other inputs."""
    return tuple(Case(c.shapes, c.attributes, dict(enumerate(draw)), c.smooth) for c in cases)


class Add(Binary):
    """y = a + b, pointwise; shapes broadcast"""

    name, cases = "add", BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a + b

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        return dy, dy

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return a + b


class Subtract(Binary):
    """y = a - b, pointwise; shapes broadcast"""

    name, cases = "subtract", BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a - b

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        return dy, -dy

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return a - b


class Multiply(Binary):
    """y = a b, pointwise; shapes broadcast"""

    name, cases = "multiply", BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a * b

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        return dy * b, dy * a

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return a * b


class Divide(Binary):
    """y = a / b, pointwise; shapes broadcast"""

    name = "divide"
    cases = drawn(BINARY, np.random.Generator.standard_normal, away_from_zero)

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a / b

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        return dy / b, -dy * y / b

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return a / b


class Maximum(Binary):
    """y = max(a, b), pointwise; shapes broadcast

    Where both are equal the gradient goes to a.
    """

    name, cases = "maximum", BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.maximum(a, b)

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        second = greater(b, a)
        return where(second, 0.0, dy), where(second, dy, 0.0)

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.maximum(a, b)


class Minimum(Binary):
    """y = min(a, b), pointwise, NaN if one is; shapes broadcast

    Where both are equal the gradient goes to a.
    """

    name, cases = "minimum", BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.minimum(a, b)

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        second = greater(a, b)
        return where(second, 0.0, dy), where(second, dy, 0.0)

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where((b < a) | (b != b), b, a)


class Greater(Binary):
    """y = 1 where a > b, else 0, pointwise; shapes broadcast; no gradient"""

    name, differentiable = "greater", False
    cases = tuple(Case(c.shapes, smooth=False) for c in BINARY)

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a > b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(a > b, 1.0, 0.0)


class Equal(Binary):
    """y = 1 where a = b, else 0, pointwise; shapes broadcast; no gradient"""

    name, differentiable = "equal", False
    cases = tuple(
        Case(c.shapes, draw=dict.fromkeys((0, 1), lambda r, s: r.integers(0, 3, s).astype("f4")), smooth=False)
        for c in BINARY
    )

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a == b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(a == b, 1.0, 0.0)


class Where(Pointwise):
    """y = a where condition > 0, else b, pointwise; shapes broadcast

    What is not chosen does not matter, NaN included. The condition has no gradient.
    """

    name, arity = "where", 3
    cases = (Case(((4, 5), (4, 5), (4, 5))), Case(((1, 3, 1, 1), (2, 3, 4, 5), ())), Case(((), (9,), (9,))))

    def normalise(self, condition: Operand, a: Operand, b: Operand) -> dict[str, Any]:
        return {}

    def numpy(self, condition: Ndarray, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.where(condition > 0, a, b)

    def vjp(self, dy: Tensor, y: Tensor, condition: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        return None, where(condition, dy, 0.0), where(condition, 0.0, dy)

    def scalar(self, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(condition > 0.0, a, b)


class Relu(Unary):
    """y = max(x, 0), pointwise, of x's shape: Nair and Hinton 2010; dy/dx at 0 is 0"""

    name, cases = "relu", UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.maximum(x, 0)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (where(y, dy, 0.0),)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.maximum(x, 0.0)


class Clip(Pointwise):
    """y = min(max(x, low), high), pointwise, of x's shape; dy/dx at both ends is 0

    Raises ShapeError unless low is below high.
    """

    name, arity = "clip", 1
    cases = tuple(Case(c.shapes, {"low": -0.5, "high": 0.75}) for c in UNARY)

    def normalise(self, x: Operand, *, low: AnyNumber, high: AnyNumber) -> dict[str, Any]:
        if not low < high:
            raise ShapeError(f"clip: low={low} has to be below high={high}")
        return {"low": float(low), "high": float(high)}

    def numpy(self, x: Ndarray, *, low: float, high: float) -> Ndarray:
        return np.clip(x, low, high)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, low: float, high: float) -> tuple[Tensor | None, ...]:
        return (where(greater(y, low), where(greater(high, y), dy, 0.0), 0.0),)

    def scalar(self, x: Scalar, *, low: float, high: float) -> Scalar:
        y = lang.maximum(x, low)
        return lang.where(y > high, high, y)


class Gelu(Unary):
    """y = x Phi(x) = x/2 (1 + erf(x / sqrt 2)), pointwise, of x's shape: Hendrycks and Gimpel 2016, the exact form

    dy/dx = Phi(x) + x e^(-x^2/2) / sqrt(2 pi).
    """

    name, cases = "gelu", CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * 0.5 * (1 + erf.numpy(x * math.sqrt(0.5)))

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * gelu_slope(x),)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.gelu(x)


class GeluSlope(Unary):
    """y = Phi(x) + x phi(x), the derivative of gelu, pointwise, of x's shape; phi(x) = e^(-x^2/2) / sqrt(2 pi)

    dy/dx = phi(x) (2 - x^2).
    """

    name, cases = "gelu_slope", CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        # of infinite x the second summand is 0 as well
        near = np.clip(x, -40, 40)
        density = np.exp(near * near * -0.5) / math.sqrt(2 * math.pi)
        return (0.5 * (1 + erf.numpy(x * math.sqrt(0.5))) + near * density).astype(x.dtype)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        # phi is 0 in float32 where the square is cut off
        square = minimum(x * x, 400.0)
        return (dy * exp(square * -0.5) * (2.0 - square) * (1 / math.sqrt(2 * math.pi)),)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.gelu_slope(x)


class Tanh(Unary):
    """y = tanh x, pointwise, of x's shape; dy/dx = 1 - y^2"""

    name, cases = "tanh", CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.tanh(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * (1.0 - y * y),)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.tanh(x)


class Erf(Unary):
    """y = 2/sqrt(pi) int_0^x e^(-t^2) dt, pointwise, of x's shape; dy/dx = 2/sqrt(pi) e^(-x^2)"""

    name, cases = "erf", CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.vectorize(math.erf, otypes=[x.dtype])(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * exp(-x * x) * (2 / math.sqrt(math.pi)),)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.erf(x)


class Exp(Unary):
    """y = e^x, pointwise, of x's shape; dy/dx = y"""

    name, cases = "exp", UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.exp(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * y,)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.exp(x)


class ExpToZero(Unary):
    """y = e^x for x up to 0, pointwise, of x's shape; dy/dx = y

    What softmax and its relatives take of the distance from a maximum. Above 0 only up to 80.
    """

    name, cases = "exp_to_zero", drawn(UNARY, not_above_zero)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.exp(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy * y,)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.exp_to_zero(x)


class Log(Unary):
    """y = ln x, pointwise, of x's shape; dy/dx = 1/x"""

    name, cases = "log", drawn(UNARY, positive)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.log(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (dy / x,)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.log(x)


class Sqrt(Unary):
    """y = x^(1/2), pointwise, of x's shape; dy/dx = 1/(2 y)"""

    name, cases = "sqrt", drawn(UNARY, positive)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.sqrt(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (0.5 * dy / y,)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.sqrt(x)


class Rsqrt(Unary):
    """y = x^(-1/2), pointwise, of x's shape; dy/dx = -y^3/2"""

    name, cases = "rsqrt", drawn(UNARY, positive)

    def numpy(self, x: Ndarray) -> Ndarray:
        return 1 / np.sqrt(x)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (-0.5 * dy * y * y * y,)

    def scalar(self, x: Scalar) -> Scalar:
        return maths.rsqrt(x)


class IsFinite(Unary):
    """y = 1 where x is neither NaN nor infinite, else 0, pointwise, of x's shape; no gradient"""

    name, differentiable = "is_finite", False
    cases = (Case(((7,),), draw={0: lambda r, s: np.array([0, 1, -1, np.nan, np.inf, -np.inf, 3e38])}, smooth=False),)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.isfinite(x).astype(x.dtype)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.where(x - x == 0.0, 1.0, 0.0)


add, subtract, multiply, divide = Add(), Subtract(), Multiply(), Divide()
maximum, minimum, clip = Maximum(), Minimum(), Clip()
greater, equal, where, is_finite = Greater(), Equal(), Where(), IsFinite()
exp, exp_to_zero, log, sqrt, rsqrt = Exp(), ExpToZero(), Log(), Sqrt(), Rsqrt()
relu, gelu, gelu_slope = Relu(), Gelu(), GeluSlope()
tanh, erf = Tanh(), Erf()
