"""The learning rate range test (L. N. Smith 2017, section 3.3): the loss while the rate grows from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from foveal import optim
from foveal.errors import NumericsError, ShapeError
from foveal.step import Step
from foveal.strides import Ndarray
from foveal.train.findings import RangeTest

# Rates from LOW to HIGH in TEST_STEPS steps. HIGH is beyond what any network here can be trained with.
LOW, HIGH, TEST_STEPS = 1e-7, 10.0, 100
# Decay of the moving average that smooths the losses. The test stops at CEILING times the lowest smoothed loss.
SMOOTHING, CEILING = 0.98, 4.0


def range_test(
    step: Step,
    optimizer: optim.UpdateRule,
    batches: Iterable[tuple[Ndarray, Ndarray]],
    low: float = LOW,
    high: float = HIGH,
    steps: int = TEST_STEPS,
) -> RangeTest:
    """Train for `steps` steps while the rate grows geometrically from `low` to `high`, and record the loss.

    Ends early when the smoothed loss is 4 times its lowest value, or the loss is no number. The model, the optimiser
    and the count of steps are restored afterwards. Raises ShapeError for a range that does not grow or less than 10
    steps, NumericsError if the loss stops being a number within 10 steps.
    """
    if not 0 < low < high or steps < 10:
        raise ShapeError(
            f"range test: from {low:g} to {high:g} in {steps} steps; rates have to grow from above 0, in 10 steps or"
            f" more"
        )
    rates, losses, smoothed = [], [], []
    # The moving average of the losses, without correction for its start, and the lowest smoothed loss.
    average, best = 0.0, math.inf
    with restored(step, optimizer):
        for i, (x, labels) in zip(range(steps), batches, strict=False):
            optimizer.lr = low * (high / low) ** (i / (steps - 1))
            try:
                loss = step(x, labels).loss
            except NumericsError:
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            rates.append(optimizer.lr)
            losses.append(loss)
            # The average starts at 0; dividing by the sum of the weights corrects for that, as in Adam.
            smoothed.append(average / (1 - SMOOTHING ** (i + 1)))
            best = min(best, smoothed[-1])
            if smoothed[-1] > CEILING * best:
                break
    if len(rates) < 10:
        raise NumericsError(
            f"range test: the loss stopped being a number after {len(rates)} steps at a rate of no more than"
            f" {rates[-1] if rates else low:g}; look at the data and the model"
        )
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), *suggest(rates, smoothed))


@contextmanager
def restored(step: Step, optimizer: optim.UpdateRule) -> Iterator[None]:
    """Restore the model, the optimiser and the count of steps at the end of the block. Inside, no schedules are set."""
    model: Any = step.model
    weights, state, steps, schedules = model.state_dict(), optimizer.state_dict(), step.steps, optimizer.schedules
    optimizer.schedules = {}
    try:
        yield
    finally:
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        step.steps, optimizer.schedules = steps, schedules


def suggest(rates: list[float], smoothed: list[float]) -> tuple[float, float, float]:
    """Return the rates in the middle of the longest fall of the loss, where it falls fastest, and where it is lowest.

    rates, smoothed: of each step. The first tenth and the last five steps are left out: at the start the smoothed loss
    is still noisy, at the end it diverges.
    """
    start, stop = len(rates) // 10, max(len(rates) - 5, len(rates) // 10 + 4)
    rates, smoothed = rates[start:stop], smoothed[start:stop]
    slopes = np.gradient(np.array(smoothed), np.log(rates))
    return (rates[valley(smoothed)], rates[int(np.argmin(slopes))], rates[int(np.argmin(smoothed))])


def valley(losses: list[float]) -> int:
    """Return the index of the middle of the longest fall, as fastai's `valley` does.

    Let n(i) be the length of the longest decreasing subsequence of the losses that ends at i. The fall ends at the i
    with the largest n, and is taken to have begun n steps before.
    """
    lengths = [1] * len(losses)
    for i, loss in enumerate(losses):
        lengths[i] = 1 + max((lengths[j] for j in range(i) if loss < losses[j]), default=0)
    end = int(np.argmax(lengths))
    begin = max(0, end - lengths[end])
    return begin + (end - begin) // 2
