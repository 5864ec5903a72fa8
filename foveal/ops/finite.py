"""What a program is asked before it writes: are all numbers finite, and which are not."""

import math
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loops, parallel, var, where
from foveal.ops.kernels.expression import streaming_lanes
from foveal.ops.kernels.magnitudes import larger, magnitudes_of_parts, merge_magnitudes, part_count
from foveal.ops.op import Case, HasShape, Lowering, Operator
from foveal.strides import Ndarray, Shape
from foveal.view import View

# Gradients below have squares that are finite, with room for what an optimiser adds to them. An infinite square would
# stay in its averages for ever.
LIMIT = 2.0**63


def mostly_small(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Numbers of which a few are large."""
    return rng.standard_normal(shape) * rng.choice([1.0, 1e10, 1e25], shape, p=[0.9, 0.09, 0.01])


class Magnitudes(Operator):
    """y[1 + i] = the largest |x| of the i-th array, NaN if it holds NaN, and y[0] = 1 if all are small enough, else 0

    Any number of arrays of any shapes -> y [1 + number of arrays]. Small enough is finite for the first `exact` arrays,
    and below 2^63, so that the square is finite, for the others. An array without elements has 0. No gradient.
    Raises ShapeError where there is no array.
    """

    name, differentiable, any_layout = "magnitudes", False, True
    cases = (
        Case(((7,), (3, 4), (2, 19, 3, 3), ()), {"exact": 1}, smooth=False),
        Case(((40000,), (5,), (33,)), {"exact": 2}, dict.fromkeys((0, 2), mostly_small), smooth=False),
        Case(((5,), (300, 9), (40, 32, 3, 3)), {}, {1: mostly_small}, smooth=False),
    )

    def normalise(self, *arrays: HasShape, exact: int = 0) -> dict[str, Any]:
        if not arrays:
            raise ShapeError(f"{self.name}: takes one array or more")
        return {"exact": int(exact)}

    def shape(self, *shapes: Shape, exact: int) -> Shape:
        return (1 + len(shapes),)

    def numpy(self, *arrays: Ndarray, exact: int) -> Ndarray:
        largest = np.array([np.max(abs(x), initial=0) for x in arrays])
        limits = [math.inf if i < exact else LIMIT for i in range(len(arrays))]
        return np.array([(largest < limits).all(), *largest], np.result_type(*arrays))

    def kernel(self, y: Array, *arrays: Array, exact: int) -> None:
        for _ in parallel(1):
            is_good = var(1.0)
            for i, x in enumerate(arrays):
                largest = var(0.0)
                for index in loops(*x.shape):
                    largest.set(larger(largest.get(), x[index]))
                y[1 + i] = largest
                limit = math.inf if i < exact else LIMIT
                is_good.set(where(largest.get() < limit, is_good.get(), 0.0))
            y[0] = is_good

    def lower(self, lowering: Lowering, y: View, /, *arrays: View, exact: int) -> None:
        # the elements of each array as they follow each other in memory, whatever its layout
        flat = [View(x.buffer, (math.prod(x.shape),), (1,), x.offset) for x in arrays]
        parts = part_count([x.shape[0] for x in flat])
        partial = lowering.scratch((len(flat), parts, streaming_lanes()))
        lowering.call(magnitudes_of_parts, [partial], flat)
        lowering.call(merge_magnitudes, [y], [partial], exact=exact, limit=LIMIT)


magnitudes = Magnitudes()
