"""Pointwise operators: the output at an index depends on the inputs at that index. Shapes broadcast as in NumPy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import lang, maths
from foveal.ops.kernels import pointwise
from foveal.ops.op import Case, Operator
from foveal.ops.reduce import sum_to
from foveal.strides import Ndarray, Shape


def positive(rng: np.random.Generator, shape: Shape) -> Ndarray:
    return rng.uniform(0.3, 3.0, shape)


def away_from_zero(rng: np.random.Generator, shape: Shape) -> Ndarray:
    return rng.uniform(0.2, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def with_edges(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers of every size: both zeros, subnormal ones, where functions bend, where they have flattened."""
    edges = [0.0, 1e-40, 1e-4, 0.5, 0.625, 1.0, 2.0, 3.9, 5.0, 9.1, 30.0, 100.0]
    return rng.choice(np.array([*edges, *(-v for v in edges)]), shape)


class Pointwise(Operator):
    """`scalar` is the operator on one element (or on lanes of them) in the kernel language; it is what gets fused."""

    def shape(self, *shapes: Shape, **attributes: Any) -> Shape:
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            listed = " and ".join(map(str, shapes))
            raise ShapeError(
                f"{self.name}: shapes {listed} do not broadcast; counted from the right, sizes have to be equal or 1"
            ) from None

    def scalar(self, *values: Any) -> Any:
        raise NotImplementedError

    def kernel(self, y: Any, *inputs: Any, **attributes: Any) -> None:
        steps = ((self.name, tuple(sorted(attributes.items())), tuple(range(len(inputs)))),)
        pointwise.pointwise(y, *inputs, outputs=1, steps=steps, results=(len(inputs),))


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


class Add(Pointwise):
    """y = a + b"""

    name, arity, cases = "add", 2, BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a + b

    def vjp(self, dy: Any, y: Any, a: Any, b: Any) -> tuple[Any, ...]:
        return sum_to(dy, a.shape), sum_to(dy, b.shape)

    def scalar(self, a: Any, b: Any) -> Any:
        return a + b


class Subtract(Pointwise):
    """y = a - b"""

    name, arity, cases = "subtract", 2, BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a - b

    def vjp(self, dy: Any, y: Any, a: Any, b: Any) -> tuple[Any, ...]:
        return sum_to(dy, a.shape), sum_to(-dy, b.shape)

    def scalar(self, a: Any, b: Any) -> Any:
        return a - b


class Multiply(Pointwise):
    """y = a b"""

    name, arity, cases = "multiply", 2, BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a * b

    def vjp(self, dy: Any, y: Any, a: Any, b: Any) -> tuple[Any, ...]:
        return sum_to(dy * b, a.shape), sum_to(dy * a, b.shape)

    def scalar(self, a: Any, b: Any) -> Any:
        return a * b


class Divide(Pointwise):
    """y = a / b"""

    name, arity = "divide", 2
    cases = drawn(BINARY, np.random.Generator.standard_normal, away_from_zero)

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a / b

    def vjp(self, dy: Any, y: Any, a: Any, b: Any) -> tuple[Any, ...]:
        return sum_to(dy / b, a.shape), sum_to(-dy * y / b, b.shape)

    def scalar(self, a: Any, b: Any) -> Any:
        return a / b


class Maximum(Pointwise):
    """y = max(a, b); where both are equal the gradient goes to a"""

    name, arity, cases = "maximum", 2, BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.maximum(a, b)

    def vjp(self, dy: Any, y: Any, a: Any, b: Any) -> tuple[Any, ...]:
        second = greater(b, a)
        return sum_to(dy * (1.0 - second), a.shape), sum_to(dy * second, b.shape)

    def scalar(self, a: Any, b: Any) -> Any:
        return lang.maximum(a, b)


class Minimum(Pointwise):
    """y = min(a, b), NaN if one is; where both are equal the gradient goes to a"""

    name, arity, cases = "minimum", 2, BINARY

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.minimum(a, b)

    def vjp(self, dy: Any, y: Any, a: Any, b: Any) -> tuple[Any, ...]:
        second = greater(a, b)
        return sum_to(dy * (1.0 - second), a.shape), sum_to(dy * second, b.shape)

    def scalar(self, a: Any, b: Any) -> Any:
        return lang.where((b < a) | (b != b), b, a)


class Greater(Pointwise):
    """y = 1 where a > b, else 0"""

    name, arity, differentiable = "greater", 2, False
    cases = tuple(Case(c.shapes, smooth=False) for c in BINARY)

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a > b).astype(np.result_type(a, b))

    def scalar(self, a: Any, b: Any) -> Any:
        return lang.where(a > b, 1.0, 0.0)


class Equal(Pointwise):
    """y = 1 where a = b, else 0"""

    name, arity, differentiable = "equal", 2, False
    cases = tuple(
        Case(c.shapes, draw=dict.fromkeys((0, 1), lambda r, s: r.integers(0, 3, s).astype("f4")), smooth=False)
        for c in BINARY
    )

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a == b).astype(np.result_type(a, b))

    def scalar(self, a: Any, b: Any) -> Any:
        return lang.where(a == b, 1.0, 0.0)


class Where(Pointwise):
    """y = a where condition > 0, else b; what is not chosen does not matter, NaN included"""

    name, arity = "where", 3
    cases = (Case(((4, 5), (4, 5), (4, 5))), Case(((1, 3, 1, 1), (2, 3, 4, 5), ())), Case(((), (9,), (9,))))

    def numpy(self, condition: Ndarray, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.where(condition > 0, a, b)

    def vjp(self, dy: Any, y: Any, condition: Any, a: Any, b: Any) -> tuple[Any, ...]:
        return (None, sum_to(where(condition, dy, 0.0), a.shape), sum_to(where(condition, 0.0, dy), b.shape))

    def scalar(self, condition: Any, a: Any, b: Any) -> Any:
        return lang.where(condition > 0.0, a, b)


class Relu(Pointwise):
    """y = max(x, 0); the gradient at 0 is 0"""

    name, arity, cases = "relu", 1, UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.maximum(x, 0)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (where(y, dy, 0.0),)

    def scalar(self, x: Any) -> Any:
        return lang.maximum(x, 0.0)


class Clip(Pointwise):
    """y = min(max(x, low), high); the gradient at both ends is 0"""

    name, arity = "clip", 1
    cases = tuple(Case(c.shapes, {"low": -0.5, "high": 0.75}) for c in UNARY)

    def normalise(self, x: Any, *, low: float, high: float) -> dict[str, Any]:
        if not low < high:
            raise ShapeError(f"clip: low={low} has to be below high={high}")
        return {"low": float(low), "high": float(high)}

    def numpy(self, x: Ndarray, *, low: float, high: float) -> Ndarray:
        return np.clip(x, low, high)

    def vjp(self, dy: Any, y: Any, x: Any, *, low: float, high: float) -> tuple[Any, ...]:
        return (where(greater(y, low), where(greater(high, y), dy, 0.0), 0.0),)

    def scalar(self, x: Any, *, low: float, high: float) -> Any:  # type: ignore[override]
        y = lang.maximum(x, low)
        return lang.where(y > high, high, y)


class Gelu(Pointwise):
    """y = x Phi(x) = x/2 (1 + erf(x / sqrt 2)): Hendrycks and Gimpel 2016, in its exact form

    dy/dx = Phi(x) + x e^(-x^2/2) / sqrt(2 pi).
    """

    name, arity, cases = "gelu", 1, CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        return x * 0.5 * (1 + erf.numpy(x * math.sqrt(0.5)))

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        below = (erf(x * math.sqrt(0.5)) + 1.0) * 0.5
        density = exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return (dy * (below + x * density),)

    def scalar(self, x: Any) -> Any:
        half = x * 0.5
        return lang.fma(half, maths.erf(x * math.sqrt(0.5)), half)


class Tanh(Pointwise):
    """y = tanh x"""

    name, arity, cases = "tanh", 1, CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.tanh(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (dy * (1.0 - y * y),)

    def scalar(self, x: Any) -> Any:
        return maths.tanh(x)


class Erf(Pointwise):
    """y = 2/sqrt(pi) int_0^x e^(-t^2) dt"""

    name, arity, cases = "erf", 1, CURVED

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.vectorize(math.erf, otypes=[x.dtype])(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (dy * exp(-x * x) * (2 / math.sqrt(math.pi)),)

    def scalar(self, x: Any) -> Any:
        return maths.erf(x)


class Exp(Pointwise):
    """y = e^x"""

    name, arity, cases = "exp", 1, UNARY

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.exp(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (dy * y,)

    def scalar(self, x: Any) -> Any:
        return maths.exp(x)


class Log(Pointwise):
    """y = ln x"""

    name, arity, cases = "log", 1, drawn(UNARY, positive)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.log(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (dy / x,)

    def scalar(self, x: Any) -> Any:
        return maths.log(x)


class Sqrt(Pointwise):
    """y = x^(1/2)"""

    name, arity, cases = "sqrt", 1, drawn(UNARY, positive)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.sqrt(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (0.5 * dy / y,)

    def scalar(self, x: Any) -> Any:
        return lang.sqrt(x)


class Rsqrt(Pointwise):
    """y = x^(-1/2)"""

    name, arity, cases = "rsqrt", 1, drawn(UNARY, positive)

    def numpy(self, x: Ndarray) -> Ndarray:
        return 1 / np.sqrt(x)

    def vjp(self, dy: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (-0.5 * dy * y * y * y,)

    def scalar(self, x: Any) -> Any:
        return maths.rsqrt(x)


class IsFinite(Pointwise):
    """y = 1 where x is neither NaN nor infinite, else 0"""

    name, arity, differentiable = "is_finite", 1, False
    cases = (Case(((7,),), draw={0: lambda r, s: np.array([0, 1, -1, np.nan, np.inf, -np.inf, 3e38])}, smooth=False),)

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.isfinite(x).astype(x.dtype)

    def scalar(self, x: Any) -> Any:
        return lang.where(x - x == 0.0, 1.0, 0.0)


add, subtract, multiply, divide = Add(), Subtract(), Multiply(), Divide()
maximum, minimum, clip = Maximum(), Minimum(), Clip()
greater, equal, where, is_finite = Greater(), Equal(), Where(), IsFinite()
exp, log, sqrt, rsqrt = Exp(), Log(), Sqrt(), Rsqrt()
relu, gelu, tanh, erf = Relu(), Gelu(), Tanh(), Erf()
