"""The domain that a kernel goes through: arrays broadcast over it, its axes merged and cut. Numbers alone."""

import math

from foveal.kernel.builder import lanes
from foveal.ops.kernels import reduction
from foveal.strides import Shape
from foveal.view import View

# Number of partial sums a reduction is split into when its output is too small to keep all threads busy: enough for 16
# threads to have two each. A constant, because the number of threads must not change the order of sums.
CHUNKS = 32
# Elements that each partial sum has at least; adding up smaller parts would cost as much as they save.
MIN_CHUNK_SIZE = 512
# Vectors in a row of a long reduced axis, which is split into two axes so that threads can share it.
ROW_VECTORS = 64


def broadcast_strides(x: View, domain: Shape) -> Shape:
    """Return x's strides over the domain: 0 along the axes that x is broadcast along."""
    missing = len(domain) - len(x.shape)
    present = [0 if n == 1 else s for n, s in zip(x.shape, x.strides, strict=True)]
    return (*[0] * missing, *present)


def merge_axes(
    shape: Shape, strides: list[Shape], sort_strides: Shape, flags: tuple[bool, ...] | None = None
) -> tuple[Shape, list[Shape], tuple[bool, ...]]:
    """Merge axes that are neighbours in memory in every array, so that kernels have few and long loops.

    The axes are sorted by `sort_strides`, outermost first; axes of size 1 are dropped. Two axes are merged where
    their flags (reduced or kept) agree. Returns the new shape, each array's strides, and the flags.
    """
    flags = flags or (False,) * len(shape)
    axes = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -sort_strides[a])
    # size, the stride in each array, flag
    runs: list[tuple[int, list[int], bool]] = []
    for a in axes:
        steps = [s[a] for s in strides]
        if runs:
            n, outer, flag = runs[-1]
            if flag == flags[a] and all(o == s * shape[a] for o, s in zip(outer, steps, strict=True)):
                runs[-1] = (n * shape[a], steps, flag)
                continue
        runs.append((shape[a], steps, flags[a]))
    # A reduction over axes of size 1 keeps one of them.
    if any(flags) and not any(flag for *_, flag in runs):
        runs.append((1, [0] * len(strides), True))
    merged = [tuple(run[1][i] for run in runs) for i in range(len(strides))]
    return tuple(run[0] for run in runs), merged, tuple(run[2] for run in runs)


def split_axis(shape: Shape, strides: list[Shape]) -> tuple[Shape, list[Shape], tuple[bool, ...]]:
    """Split one long reduced axis into rows of at most ROW_VECTORS vectors, so that threads can share them."""
    (n,) = shape
    row = next((d for d in range(min(n, ROW_VECTORS * lanes()), lanes() - 1, -1) if n % d == 0), n)
    if row == n:
        return shape, strides, (True,)
    return (n // row, row), [(s[0] * row, s[0]) for s in strides], (True, True)


def reduction_chunks(shape: Shape, reduced: tuple[bool, ...]) -> int:
    """Return how many parts the first reduced axis is cut into. The shape alone decides, so sums keep their order."""
    last = len(shape) - 1
    # independent outputs that threads can share: elements of the kept axes, blocks of vectors along the last one
    outputs = math.prod(n for a, n in enumerate(shape) if not reduced[a] and a != last)
    if not reduced[last]:
        outputs *= -(-shape[last] // (reduction.COLUMN_VECTORS * lanes()))
    first = next(a for a in range(len(shape)) if reduced[a])
    # Half as many outputs as chunks occupy the threads already. The last axis is what vectors run along: it is not cut.
    if outputs >= CHUNKS // 2 or first == last or not outputs:
        return 1
    total = math.prod(n for a, n in enumerate(shape) if reduced[a] or a == last)
    return max(1, min(shape[first], CHUNKS // outputs, total // MIN_CHUNK_SIZE))
