"""Shapes and strides of arrays, in elements."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]


Ndarray = np.ndarray[Any, Any]


def ordered(shape: Shape, order: Sequence[int]) -> Shape:
    """Strides, in elements, of an array whose axes lie in memory in `order`, outermost first."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def contiguous(shape: Shape) -> Shape:
    """Strides of C order."""
    return ordered(shape, range(len(shape)))


def channels_last(shape: Shape) -> Shape:
    """Strides of logical [N, C, H, W] stored as N, H, W, C."""
    return ordered(shape, (0, 2, 3, 1))


def filters_last(shape: Shape) -> Shape:
    """Strides of logical weights [K, C, R, S] stored as R, S, C, K: lanes run over filters."""
    return ordered(shape, (2, 3, 1, 0))


def usual(shape: Shape) -> Shape:
    """Channels last for images, C order for all else."""
    return channels_last(shape) if len(shape) == 4 else contiguous(shape)


def layout_name(shape: Shape, strides: Shape) -> str:
    """What a layout is called in print."""
    known = {"C order": contiguous(shape)}
    if len(shape) == 4:
        known |= {"channels last": channels_last(shape), "R S C K": filters_last(shape)}
    names = [name for name, other in known.items() if same(shape, strides, other)]
    return names[0] if names else f"strides {list(strides)}"


def same(shape: Shape, one: Shape, other: Shape) -> bool:
    """Whether two layouts are one; the strides of axes of size 1 mean nothing."""
    return all(n == 1 or a == b for n, a, b in zip(shape, one, other, strict=True))


def dense(shape: Shape, strides: Shape) -> bool:
    """Whether the elements fill their range of memory without gaps or repeats."""
    step = 1
    for s, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n != 1):
        if s != step:
            return False
        step *= n
    return True


def reshaped_strides(shape: Shape, strides: Shape, to: Shape) -> Shape | None:
    """Strides of the same elements, in C order, in another shape; None where that needs a copy."""
    if math.prod(shape) == 0:
        return contiguous(to)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    merged: list[tuple[int, int]] = []  # runs of axes that are evenly spaced together
    for n, s in old:
        if merged and merged[-1][1] == n * s:
            merged[-1] = (merged[-1][0] * n, s)
        else:
            merged.append((n, s))
    found: list[int] = []
    runs = iter(reversed(merged))
    left, step = next(runs, (1, 1))
    for n in reversed(to):
        if n == 1:
            found.append(step)
            continue
        if left == 1:
            left, step = next(runs, (1, 1))
        if left % n:
            return None
        found.append(step)
        left, step = left // n, step * n
    return tuple(reversed(found))
