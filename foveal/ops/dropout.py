"""Dropout (Srivastava et al. 2014)."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel import random
from foveal.kernel.lang import extract, lanes, parallel, unflatten, where
from foveal.ops.op import Case, Operator
from foveal.strides import Ndarray, Shape


class DropoutMask(Operator):
    """y = 1/(1-p) with probability 1-p, else 0, from the counter-based generator keyed by (seed, step) and `stream`

    key: int32 [4], the 64-bit seed and the 64-bit step as low and high words. The i-th element in C order of `shape`
    has the i-th number, so the mask depends on nothing but (seed, stream, step, index). Philox 2x32-10, Salmon et al.
    2011.
    """

    name, arity, integers, differentiable = "dropout_mask", 1, (0,), False
    cases = (
        Case(((4,),), {"shape": (5, 7), "p": 0.3, "stream": 0}, {0: lambda r, s: r.integers(0, 99, s)}, smooth=False),
        Case(
            ((4,),),
            {"shape": (2, 19, 3, 4), "p": 0.5, "stream": 3},
            {0: lambda r, s: r.integers(0, 99, s)},
            smooth=False,
        ),
    )

    def normalise(self, key: Any, *, shape: Shape, p: float, stream: int) -> dict[str, Any]:
        if not 0.0 <= p < 1.0:
            raise ShapeError(f"dropout: p is {p}, it has to be at least 0 and below 1")
        return {"shape": tuple(shape), "p": float(p), "stream": int(stream)}

    def shape(self, key: Shape, *, shape: Shape, p: float, stream: int) -> Shape:
        return shape

    def numpy(self, key: Ndarray, *, shape: Shape, p: float, stream: int) -> Ndarray:
        bits = random.philox_numpy(np.arange(int(np.prod(shape)), dtype=np.uint64), key, stream)
        return np.where(bits >= threshold(p), np.float32(1.0 / (1.0 - p)), np.float32(0)).reshape(shape)

    def kernel(self, y: Any, key: Any, *, shape: Shape, p: float, stream: int) -> None:
        words = random.mixed_key([key[i] for i in range(4)], stream)
        total = int(np.prod(shape))
        size = lanes()

        def draw(flat: Any, width: int) -> None:
            bits = random.philox(random.counters(flat, width), words)
            keep = where((bits >> 8) < threshold(p) >> 8, 0.0, 1.0 / (1.0 - p))
            for lane in range(width):
                y[unflatten(flat + lane, shape)] = extract(keep, lane)

        for (v,) in parallel(total // size):
            draw(v * size, size)
        if total % size:
            for _ in parallel(1):
                draw(total - total % size, total % size)


def threshold(p: float) -> int:
    """Random words below this are dropped; of 24 bits, so that comparing signed or unsigned is the same."""
    return int(p * (1 << 24)) << 8


dropout_mask = DropoutMask()
