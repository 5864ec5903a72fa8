"""Pointwise operators: the output at an index depends on the inputs at that index. Shapes broadcast as in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import lang, maths
from foveal.ops import nest
from foveal.ops.op import Case, Ndarray, Operator, Shape
from foveal.ops.reduce import sum_to


def positive(rng: np.random.Generator, shape: Shape) -> Ndarray:
    return rng.uniform(0.3, 3.0, shape)


def away_from_zero(rng: np.random.Generator, shape: Shape) -> Ndarray:
    return rng.uniform(0.2, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


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
        steps = ((self.name, (), tuple(range(len(inputs)))),)
        nest.pointwise(y, *inputs, outputs=1, steps=steps, results=(len(inputs),))


UNARY = (Case(((4, 5),)), Case(((2, 3, 7, 9),)), Case(((),)), Case(((1, 67),)))
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
        Case(
            c.shapes,
            draw=dict.fromkeys((0, 1), lambda r, s: r.integers(0, 3, s).astype("f4")),
            smooth=False,
        )
        for c in BINARY
    )

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a == b).astype(np.result_type(a, b))

    def scalar(self, a: Any, b: Any) -> Any:
        return lang.where(a == b, 1.0, 0.0)


class Where(Pointwise):
    """y = a where condition > 0, else b; what is not chosen does not matter, NaN included"""

    name, arity = "where", 3
    cases = (
        Case(((4, 5), (4, 5), (4, 5))),
        Case(((1, 3, 1, 1), (2, 3, 4, 5), ())),
        Case(((), (9,), (9,))),
    )

    def numpy(self, condition: Ndarray, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.where(condition > 0, a, b)

    def vjp(self, dy: Any, y: Any, condition: Any, a: Any, b: Any) -> tuple[Any, ...]:
        return (
            None,
            sum_to(where(condition, dy, 0.0), a.shape),
            sum_to(where(condition, 0.0, dy), b.shape),
        )

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


class IsFinite(Pointwise):
    """y = 1 where x is neither NaN nor infinite, else 0"""

    name, arity, differentiable = "is_finite", 1, False
    cases = (
        Case(
            ((7,),),
            draw={0: lambda r, s: np.array([0, 1, -1, np.nan, np.inf, -np.inf, 3e38])},
            smooth=False,
        ),
    )

    def numpy(self, x: Ndarray) -> Ndarray:
        return np.isfinite(x).astype(x.dtype)

    def scalar(self, x: Any) -> Any:
        return lang.where(x - x == 0.0, 1.0, 0.0)


add, subtract, multiply, divide = Add(), Subtract(), Multiply(), Divide()
maximum, greater, equal, where = Maximum(), Greater(), Equal(), Where()
relu, exp, log, sqrt, is_finite = Relu(), Exp(), Log(), Sqrt(), IsFinite()
