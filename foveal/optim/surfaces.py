"""Surfaces of two variables on which optimisers are compared, written with operators: functions (x, y) -> z."""

from __future__ import annotations

from foveal.ops.op import Tensor


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """z = (x^2 - y^2) / 2 + y^4 / 4: a saddle at (0, 0), minima at (0, 1) and (0, -1)."""
    square = y * y
    return (x * x - square) * 0.5 + square * square * 0.25


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """z = (1 - x)^2 + 100 (y - x^2)^2: a bent valley with its minimum at (1, 1) (Rosenbrock 1960)."""
    along, across = 1.0 - x, y - x * x
    return along * along + across * across * 100.0


def bowl(x: Tensor, y: Tensor) -> Tensor:
    """z = (x^2 + 20 y^2) / 2: a long bowl, whose curvatures differ by a factor of 20."""
    return (x * x + y * y * 20.0) * 0.5


def beale(x: Tensor, y: Tensor) -> Tensor:
    """z = (1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2: plains, and a minimum at (3, 0.5)."""
    first, second, third = (c - x + x * power for c, power in ((1.5, y), (2.25, y * y), (2.625, y * y * y)))
    return first * first + second * second + third * third


def wells(x: Tensor, y: Tensor) -> Tensor:
    """z = (x^2 - 1)^2 + 0.3 x + y^2 / 2: two minima, near (-1, 0) and (1, 0), of which the left one is lower."""
    square = x * x - 1.0
    return square * square + x * 0.3 + y * y * 0.5


SURFACES = {"saddle": saddle, "rosenbrock": rosenbrock, "bowl": bowl, "beale": beale, "wells": wells}
