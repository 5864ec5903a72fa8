"""Comparisons and logic, pointwise: 1 where something holds, else 0. None of them has a gradient.

A comparison with NaN does not hold, but for not_equal. Logic takes every number but 0 as true, as NumPy does.
"""

from collections.abc import Callable

import numpy as np

from foveal.kernel import lang
from foveal.kernel.lang import Scalar
from foveal.ops.elementwise import BINARY, UNARY, Binary, Unary
from foveal.ops.op import Case
from foveal.strides import Ndarray, Shape


def small(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Whole numbers from -1 to 1, of which many are equal, and NaN."""
    return rng.choice([-1.0, 0.0, 1.0, np.nan], shape)


def with_equals(
    cases: tuple[Case, ...], draw: Callable[[np.random.Generator, Shape], Ndarray] = small
) -> tuple[Case, ...]:
    """The same cases with inputs that are often equal."""
    return tuple(Case(c.shapes, draw=dict.fromkeys(range(len(c.shapes)), draw), smooth=False) for c in cases)


class Comparison(Binary):
    """Base of comparisons and logic of two inputs."""

    differentiable = False
    cases = with_equals(BINARY)


class Less(Comparison):
    """y = 1 where a < b, else 0, pointwise; shapes broadcast; no gradient"""

    name = "less"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a < b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(a < b, 1.0, 0.0)


class LessEqual(Comparison):
    """y = 1 where a <= b, else 0, pointwise; shapes broadcast; no gradient"""

    name = "less_equal"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a <= b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(a <= b, 1.0, 0.0)


class GreaterEqual(Comparison):
    """y = 1 where a >= b, else 0, pointwise; shapes broadcast; no gradient"""

    name = "greater_equal"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a >= b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(a >= b, 1.0, 0.0)


class NotEqual(Comparison):
    """y = 1 where a differs from b, else 0, pointwise; shapes broadcast; no gradient"""

    name = "not_equal"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return (a != b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where(a != b, 1.0, 0.0)


class LogicalAnd(Comparison):
    """y = 1 where neither a nor b is 0, else 0, pointwise; shapes broadcast; no gradient"""

    name = "logical_and"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.logical_and(a, b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where((a != 0.0) & (b != 0.0), 1.0, 0.0)


class LogicalOr(Comparison):
    """y = 1 where a or b is not 0, else 0, pointwise; shapes broadcast; no gradient"""

    name = "logical_or"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.logical_or(a, b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where((a != 0.0) | (b != 0.0), 1.0, 0.0)


class LogicalXor(Comparison):
    """y = 1 where one of a and b is 0 and the other is not, else 0, pointwise; shapes broadcast; no gradient"""

    name = "logical_xor"

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.logical_xor(a, b).astype(np.result_type(a, b))

    def scalar(self, a: Scalar, b: Scalar) -> Scalar:
        return lang.where((a != 0.0) ^ (b != 0.0), 1.0, 0.0)


class LogicalNot(Unary):
    """y = 1 where x is 0, else 0, pointwise, of x's shape; no gradient"""

    name, differentiable = "logical_not", False
    cases = with_equals(UNARY)

    def numpy(self, x: Ndarray) -> Ndarray:
        return (x == 0).astype(x.dtype)

    def scalar(self, x: Scalar) -> Scalar:
        return lang.where(x == 0.0, 1.0, 0.0)


less, less_equal, greater_equal, not_equal = Less(), LessEqual(), GreaterEqual(), NotEqual()
logical_and, logical_or, logical_xor, logical_not = LogicalAnd(), LogicalOr(), LogicalXor(), LogicalNot()
