"""Random masks of dropout, drawn in C order."""

import math
from collections.abc import Iterator
from typing import Any

from foveal.kernel import random
from foveal.kernel.compile import ArraySpec, Size
from foveal.kernel.lang import Array, Index, Scalar, lanes, parallel_vectors, where
from foveal.ops.op import Lowering
from foveal.view import View


def lower(lowering: Lowering, y: View, key: View, p: float, stream: int) -> None:
    """Call the kernel, which gets the number of elements from the call, on y in C order."""
    n = math.prod(y.shape)
    specs = [ArraySpec((Size(0),), (1,)), key.spec]
    static: dict[str, Any] = {"p": p, "stream": stream, "tail": n % lanes()}
    lowering.call(dropout_in_order, [y.reshaped((n,))], [key], specs=specs, sizes=[n], **static)


def drawn(n: Index, key: Array, p: float, stream: int, tail: int | None) -> Iterator[tuple[Index, int, Scalar]]:
    """The first n elements, shared out among the threads: (first, how many, their values). tail: as of `vectors`."""
    mixed = random.mixed_key([key[i] for i in range(4)], stream)
    for flat, width in parallel_vectors(n, tail=tail):
        bits = random.philox(random.counters(flat, width), mixed)
        yield flat, width, where((bits >> 8) < threshold(p) >> 8, 0.0, 1.0 / (1.0 - p))


def dropout_in_order(y: Array, key: Array, *, p: float, stream: int, tail: int) -> None:
    """The mask of any number of elements that lie in C order: y [n]. tail: how many are left by whole vectors."""
    for first, width, values in drawn(y.extents[0], key, p, stream, tail):
        y.store((first,), values, width)


def threshold(p: float) -> int:
    """Random words below this are dropped. It has 24 bits, so that comparing signed or unsigned words is the same."""
    return int(p * (1 << 24)) << 8
