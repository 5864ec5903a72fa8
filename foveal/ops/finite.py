"""What a program is asked before it writes: are all numbers finite, and which are not."""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loops, parallel, var, where
from foveal.kinds import AnyNumber
from foveal.ops.kernels import magnitudes as magnitudes_kernels
from foveal.ops.kernels.magnitudes import larger
from foveal.ops.op import Case, HasShape, Lowering, Operator
from foveal.strides import Ndarray, Shape
from foveal.view import View

# (number of arrays, limit of each) for arrays after each other
Limits = tuple[tuple[int, AnyNumber], ...]


def limit_of_each(limits: Limits) -> list[float]:
    """The limit of each array."""
    return [limit for count, limit in limits for _ in range(count)]


def mostly_small(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers of which a few are large."""
    return rng.standard_normal(shape) * rng.choice([1.0, 1e10, 1e25], shape, p=[0.9, 0.09, 0.01])


class Magnitudes(Operator):
    """y[1 + i] = the largest |x| of the i-th array, NaN if it holds NaN, and y[0] = 1 if all are small enough, else 0

    Any number of arrays of any shapes -> y [1 + number of arrays]. An array without elements has 0. No gradient.

    limits: pairs (count, limit), for so many arrays after each other; small enough is below the limit. Raises
    ShapeError where there is no array, or the counts are not those of the arrays.
    """

    name, differentiable, any_layout = "magnitudes", False, True
    cases = (
        Case(((7,), (3, 4), (2, 19, 3, 3), ()), {"limits": ((1, math.inf), (3, 8.0))}, smooth=False),
        Case(
            ((40000,), (5,), (33,)),
            {"limits": ((2, 1e30), (1, 1e3))},
            dict.fromkeys((0, 2), mostly_small),
            smooth=False,
        ),
        Case(((5,), (300, 9), (40, 32, 3, 3)), {"limits": ((3, math.inf),)}, {1: mostly_small}, smooth=False),
    )

    def normalise(self, *arrays: HasShape, limits: Limits) -> dict[str, Any]:
        if not arrays:
            raise ShapeError(f"{self.name}: takes one array or more")
        full = tuple((int(count), float(limit)) for count, limit in limits if count)
        if sum(count for count, _ in full) != len(arrays):
            raise ShapeError(f"{self.name}: limits {full} are not for {len(arrays)} arrays; give one for each")
        return {"limits": full}

    def shape(self, *shapes: Shape, limits: Limits) -> Shape:
        return (1 + len(shapes),)

    def numpy(self, *arrays: Ndarray, limits: Limits) -> Ndarray:
        largest = np.array([np.max(abs(x), initial=0) for x in arrays])
        return np.array([(largest < limit_of_each(limits)).all(), *largest], np.result_type(*arrays))

    def kernel(self, y: Array, *arrays: Array, limits: Limits) -> None:
        for _ in parallel(1):
            is_good = var(1.0)
            for i, (x, limit) in enumerate(zip(arrays, limit_of_each(limits), strict=True)):
                largest = var(0.0)
                for index in loops(*x.shape):
                    largest.set(larger(largest.get(), x[index]))
                y[1 + i] = largest
                is_good.set(where(largest.get() < limit, is_good.get(), 0.0))
            y[0] = is_good

    def lower(self, lowering: Lowering, y: View, /, *arrays: View, limits: Limits) -> None:
        magnitudes_kernels.lower(lowering, y, arrays, limits)


magnitudes = Magnitudes()
