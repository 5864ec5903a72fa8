"""Schedules: functions from the step's number (from 0) to a value, such as the learning rate."""

import math
from collections.abc import Callable

from foveal.errors import ShapeError

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """The same value in every step."""
    return lambda step: value


def between(low: float, high: float, t: float) -> float:
    """From `low` at t = 0 to `high` at t = 1 along half a cosine."""
    return high + (low - high) * (1 + math.cos(math.pi * t)) / 2


def one_cycle(
    peak: float, total: int, start: float = 0.25, div: float = 25.0, final_div: float = 1e5
) -> Schedule:
    """Up from peak/div in the first `start` of all steps, then down to peak/final_div along cosines.

    L. N. Smith 2018, with fastai's constants.
    """
    if total < 1:
        raise ShapeError(f"one_cycle: {total} steps, there has to be at least 1")
    turn = max(1.0, start * total)

    def rate(step: int) -> float:
        if step < turn:
            return between(peak / div, peak, step / turn)
        return between(peak, peak / final_div, min(1.0, (step - turn) / max(1.0, total - 1 - turn)))

    return rate
