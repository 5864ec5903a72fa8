"""The random masks of dropout: Srivastava et al. 2014."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import random
from foveal.kernel.lang import Array, extract, unflatten
from foveal.ops.kernels import dropout as kernels
from foveal.ops.op import Case, HasShape, Lowering, Operator
from foveal.ops.shape import sizes
from foveal.strides import Ndarray, Shape, contiguous
from foveal.view import View


def words(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """Small integers, for keys."""
    return rng.integers(0, 99, shape)


class DropoutMask(Operator):
    """y = 1/(1-p) with probability 1-p, else 0, independently for each element of an array of the given shape

    key: int32 [4], the 64-bit seed and the 64-bit step as low and high words. stream: n for the n-th random operator of
    a trace, counted from 0 (Trace.stream), so that no two operators draw the same numbers. Element i of y in C order
    has random number i of the counter-based generator with that key and stream, so y depends on nothing but (seed,
    step, stream, i). Philox 2x32-10: Salmon et al. 2011. No gradient. Raises ShapeError unless 0 <= p < 1.
    """

    name, arity, integers, differentiable = "dropout_mask", 1, (0,), False
    cases = (
        Case(((4,),), {"shape": (5, 7), "p": 0.3, "stream": 0}, {0: words}, smooth=False),
        Case(((4,),), {"shape": (2, 19, 3, 4), "p": 0.5, "stream": 3}, {0: words}, smooth=False),
    )

    def normalise(self, key: HasShape, *, shape: Iterable[int], p: float, stream: int) -> dict[str, Any]:
        if not 0.0 <= p < 1.0:
            raise ShapeError(f"dropout_mask: p is {p}, it has to be at least 0 and below 1")
        if key.shape != (4,) or stream < 0:
            raise ShapeError(
                f"dropout_mask: key has shape {key.shape} and stream is {stream}; they are int32 [4], and 0 or more"
            )
        return {"shape": sizes(self.name, shape), "p": float(p), "stream": stream}

    def shape(self, key: Shape, *, shape: Shape, p: float, stream: int) -> Shape:
        if key != (4,):
            raise ShapeError(
                f"dropout_mask: the key has shape {key}, it has to be (4,): seed and step in two words each"
            )
        return shape

    def numpy(self, key: Ndarray, *, shape: Shape, p: float, stream: int) -> Ndarray:
        bits = random.philox_numpy(np.arange(int(np.prod(shape)), dtype=np.uint64), key, stream)
        return np.where(bits >= kernels.threshold(p), np.float32(1.0 / (1.0 - p)), np.float32(0)).reshape(shape)

    def kernel(self, y: Array, key: Array, *, shape: Shape, p: float, stream: int) -> None:
        # vectors of elements in C order, and the scalars that are left
        for flat, width, keep in kernels.drawn(int(np.prod(shape)), key, p, stream, None):
            for lane in range(width):
                y[unflatten(flat + lane, shape)] = extract(keep, lane)

    def lower(self, lowering: Lowering, y: View, key: View, *, shape: Shape, p: float, stream: int) -> None:
        if y.strides == contiguous(y.shape):
            kernels.lower(lowering, y, key, p, stream)
        else:
            lowering.call(self.kernel, [y], [key], plain=True, shape=shape, p=p, stream=stream)


dropout_mask = DropoutMask()
