"""Convolutions with filters that are the same in every run: what tests/ops/test_prepared_filters.py computes with them.

As a script: run each case between guard pages, and print how many there are.
"""

import checks
import numpy as np

from foveal import ops
from foveal.build import build
from foveal.ops.op import Type
from foveal.trace import trace
from foveal.variable import Variable

FEW, TILES = "correlate_few_pixels", "winograd_few_tiles"
# the kernel that is expected, x, w, attributes
CASES = [
    (FEW, (1, 140, 3, 3), (70, 140, 3, 3), {"padding": 1}),
    (FEW, (2, 33, 2, 3), (37, 33, 3, 3), {"padding": (1, 0, 2, 1)}),
    (FEW, (1, 48, 9, 7), (70, 48, 3, 3), {"padding": 1, "stride": (3, 2)}),
    (FEW, (3, 20, 6, 5), (40, 20, 1, 1), {"stride": 2}),
    (FEW, (1, 9, 9, 9), (66, 9, 5, 4), {"padding": (2, 1), "stride": (2, 3), "dilation": (2, 1)}),
    (FEW, (1, 130, 1, 5), (72, 130, 5, 3), {"padding": 2}),
    (TILES, (1, 40, 8, 8), (70, 40, 3, 3), {"padding": 1}),
    (TILES, (1, 33, 33, 31), (72, 33, 3, 3), {"padding": (0, 1, 2, 0)}),
    (TILES, (1, 140, 7, 6), (70, 140, 3, 3), {"padding": 1}),
    (TILES, (1, 32, 32, 30), (80, 32, 3, 3), {"padding": 1, "stride": 2}),
    (TILES, (1, 40, 14, 13), (70, 40, 3, 3), {"padding": 1}),
]


def inputs(x, w, how):
    """x, an array that is added to the convolution, and filters; all random."""
    rng = np.random.default_rng(0)
    image, filters = (rng.standard_normal(shape).astype(np.float32) for shape in (x, w))
    y = ops.conv2d(image.astype(np.float64), filters.astype(np.float64), **how)
    return image, rng.standard_normal(y.shape).astype(np.float32), filters


def graph_of(image, extra, filters, how):
    """relu(conv + extra), and the sum of conv + extra per channel, for filters in a variable."""
    weight = Variable(filters)

    def function(x, e):
        total = ops.conv2d(x, weight, **how) + e
        return [ops.relu(total), ops.sum(total, axes=(0, 2, 3))]

    return trace(function, Type(image.shape), Type(extra.shape)), weight


def wanted(image, extra, filters, how):
    total = ops.conv2d(image.astype(np.float64), filters.astype(np.float64), **how) + extra
    return [np.maximum(total, 0), total.sum((0, 2, 3))]


def agree(found, want):
    return all(checks.error(got, one) < checks.LIMIT for got, one in zip(found, want, strict=True))


if __name__ == "__main__":
    from foveal.checking.guard_pages import allocator

    for _, *case in CASES:
        arrays = inputs(*case)
        for at_end in (True, False):
            program = build(graph_of(*arrays, case[2])[0], threads=2, allocate=allocator(at_end))
            assert agree(program.run(*arrays[:2]), wanted(*arrays, case[2])), case
    print(len(CASES))
