"""Shapes and strides of arrays, in elements, and the layouts that arrays have in memory."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]

# an array of any shape and dtype
Ndarray = np.ndarray[Any, Any]


def ordered(shape: Shape, order: Sequence[int]) -> Shape:
    """The strides of an array whose axes lie in memory in `order`, outermost first."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def memory_order(strides: Shape) -> Shape:
    """The axes in the order in which they lie in memory, outermost first; axes of equal stride as they stand."""
    return tuple(sorted(range(len(strides)), key=lambda axis: (-strides[axis], axis)))


def contiguous(shape: Shape) -> Shape:
    """The strides of C order."""
    return ordered(shape, range(len(shape)))


def channels_last(shape: Shape) -> Shape:
    """The strides of logical [N, C, H, W] stored as N, H, W, C."""
    return ordered(shape, (0, 2, 3, 1))


def filters_last(shape: Shape) -> Shape:
    """The strides of logical weights [K, C, R, S] stored as R, S, C, K, so that lanes run over filters."""
    return ordered(shape, (2, 3, 1, 0))


def usual(shape: Shape) -> Shape:
    """The strides of arrays whose operator does not choose them: channels last for images, C order for all else."""
    return channels_last(shape) if len(shape) == 4 else contiguous(shape)


def layout_name(shape: Shape, strides: Shape) -> str:
    """The name of a layout in print."""
    known = {"C order": contiguous(shape)}
    if len(shape) == 4:
        known |= {"channels last": channels_last(shape), "R S C K": filters_last(shape)}
    names = [name for name, other in known.items() if same(shape, strides, other)]
    return names[0] if names else f"strides {list(strides)}"


def same(shape: Shape, one: Shape, other: Shape) -> bool:
    """True if two layouts put each element in the same place. The strides of axes of size 1 do not matter."""
    return all(n == 1 or a == b for n, a, b in zip(shape, one, other, strict=True))


def dense(shape: Shape, strides: Shape) -> bool:
    """True if the elements fill their range of memory without gaps or repeats."""
    step = 1
    for stride, n in sorted((stride, n) for stride, n in zip(strides, shape, strict=True) if n != 1):
        if stride != step:
            return False
        step *= n
    return True


def reshaped_strides(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """The strides of the same elements, in C order, in shape `new`; None where that needs a copy."""
    if math.prod(shape) == 0:
        return contiguous(new)
    # runs of neighbouring axes that one stride steps through, as (elements, stride), outermost first
    merged: list[tuple[int, int]] = []
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if merged and merged[-1][1] == n * stride:
            merged[-1] = (merged[-1][0] * n, stride)
        else:
            merged.append((n, stride))
    # from the last axis on, each new axis takes its elements from one run; `left` are those that the run still has
    result: list[int] = []
    runs = iter(reversed(merged))
    left, step = next(runs, (1, 1))
    for n in reversed(new):
        if n == 1:
            result.append(step)
            continue
        if left == 1:
            left, step = next(runs, (1, 1))
        if left % n:
            return None
        result.append(step)
        left, step = left // n, step * n
    return tuple(reversed(result))
