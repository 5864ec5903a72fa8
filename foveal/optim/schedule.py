"""Schedules: a value, such as the learning rate, for each step, whose number counts from 0.

    optimizer.schedule(lr=schedule.warm_up(schedule.cosine(0.1, 1000), 100))

sets the rate before each step. Names and closed forms are those of torch.optim.lr_scheduler, counted in steps. Any
function of the step's number will do in place of a schedule, and so does an object that is called so:

    def staircase(step):
        return 0.1 * 0.5 ** (step // 100)

    class Cooling:
        def __init__(self, value, pace):
            self.value, self.pace = value, pace

        def __call__(self, step):
            return self.value / (1 + self.pace * step)

    optimizer.schedule(lr=schedule.warm_up(Cooling(0.1, 0.01), 20), weight_decay=staircase)

One that reacts to the loss derives from Schedule and defines `observe(self, loss)`, which the training loop calls after
each epoch; one whose state is to be saved with a training also defines state_dict() and load_state_dict(state).

A schedule raises ShapeError for numbers of steps below 1, and for NaN or infinity; 100.0 steps are 100. It has a value
for every step, also after the last one that it was made for.
"""

import copy
import copyreg
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from foveal.arguments import check_calls, checked
from foveal.errors import ShapeError, StateError
from foveal.kinds import AnyNumber, Steps, shown
from foveal.names import meant

# more steps than any run takes
LAST_STEP = 1 << 62


class Schedule:
    """A value for each step: schedule(step) -> value, with steps counted from 0.

    Schedule(f) of a function f(step), or a subclass with a `__call__(self, step)`; see the examples of this module.
    """

    def __init__(self, value_at: Callable[[int], float]) -> None:
        self.value_at = value_at

    def __call__(self, step: int) -> float:
        if not isinstance(step, int | np.integer) or not 0 <= step < LAST_STEP:
            raise ShapeError(f"a schedule was asked for step {shown(step)}; steps are counted from 0")
        return self.value_at(step)

    def __deepcopy__(self, memo: dict[int, object]) -> "Schedule":
        made = object.__new__(type(self))
        made.__dict__.update(copy.deepcopy(vars(self), memo))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Raise StateError for schedules of this file that are functions made by functions: these are not pickled."""
        if "<locals>" in getattr(vars(self).get("value_at"), "__qualname__", ""):
            raise StateError(
                "a schedule cannot be pickled; take it off before (optimizer.schedules = {}) and set it again"
                " afterwards with optimizer.schedule(...)"
            )
        return copyreg.__newobj__, (type(self),), vars(self)  # type: ignore[attr-defined]

    def observe(self, loss: float) -> None:
        """Take note of an epoch's mean training loss; only schedules that react to the loss do anything."""


def constant(value: float) -> Schedule:
    """The same value in every step."""
    return Schedule(lambda step: value)


def step(value: float, step_size: Steps, gamma: float = 0.1) -> Schedule:
    """value gamma^(step // step_size)"""
    _at_least_one("step", step_size=step_size)
    _factor("step", value, gamma)
    return Schedule(lambda step: value * _power(gamma, step // step_size))


def multi_step(value: float, milestones: Sequence[Steps], gamma: float = 0.1) -> Schedule:
    """value gamma^(number of milestones that are reached)"""
    if not _rising(milestones):
        raise ShapeError(f"multi_step: milestones {list(milestones)} have to be steps in rising order, from 0 on")
    _factor("multi_step", value, gamma)
    return Schedule(lambda step: value * _power(gamma, bisect_right(milestones, step)))


def exponential(value: float, gamma: float) -> Schedule:
    """value gamma^step"""
    _factor("exponential", value, gamma)
    if not 0 < gamma <= 1:
        raise ShapeError(f"exponential: gamma is {gamma}, it has to be more than 0 and at most 1")
    return Schedule(lambda step: value * gamma**step)


def linear(value: float, total: Steps, start: float = 1 / 3, end: float = 1.0) -> Schedule:
    """From value start to value end in `total` steps along a line, then constant."""
    _at_least_one("linear", total=total)
    return Schedule(lambda step: value * (start + (end - start) * min(step, total) / total))


def polynomial(value: float, total: Steps, power: float = 1.0) -> Schedule:
    """value (1 - step / total)^power, 0 from `total` on"""
    _at_least_one("polynomial", total=total)
    if power <= 0:
        raise ShapeError(f"polynomial: power is {power}, it has to be more than 0")
    return Schedule(lambda step: value * (1 - min(step, total) / total) ** power)


def between(low: float, high: float, t: float) -> float:
    """Return the value between `low` at t = 0 and `high` at t = 1 along half a cosine."""
    return high + (low - high) * (1 + math.cos(math.pi * t)) / 2


def cosine(value: float, total: Steps, low: float = 0.0) -> Schedule:
    """Along half a cosine down to `low` in `total` steps, then up again (Loshchilov and Hutter 2017, equation 5)."""
    _at_least_one("cosine", total=total)
    return Schedule(lambda step: between(value, low, step / total))


def cosine_restarts(value: float, period: Steps, factor: Steps = 1, low: float = 0.0) -> Schedule:
    """`cosine`, starting over after `period` steps, then after `factor` times as many steps each time.

    SGDR: the same paper and equation as `cosine`.
    """
    _at_least_one("cosine_restarts", period=period, factor=factor)

    def at(step: int) -> float:
        length = period
        if factor == 1:
            step %= length
        else:
            while step >= length:
                step, length = step - length, length * factor
        return between(value, low, step / length)

    return Schedule(at)


def sequence(schedules: Sequence[Callable[[int], float]], milestones: Sequence[Steps]) -> Schedule:
    """One schedule after the other; each counts its own steps from its milestone on."""
    if len(schedules) != len(milestones) + 1 or not _rising(milestones):
        raise ShapeError(
            f"sequence: {len(schedules)} schedules need {len(schedules) - 1} milestones in rising order, from 0 on, not"
            f" {list(milestones)}"
        )

    def at(step: int) -> float:
        number = bisect_right(milestones, step)
        return schedules[number](step - (milestones[number - 1] if number else 0))

    return Schedule(at)


def warm_up(then: Callable[[int], float], total: Steps, start: float = 1e-3) -> Schedule:
    """Along a line from `start` times the first value of `then` up to it in `total` steps, then as `then` says.

    Goyal et al. 2017, section 2.2. With total = 0 there is no warm-up.
    """
    if not 0 <= start <= 1:
        raise ShapeError(f"warm_up: start is {start}, it has to be from 0 to 1")
    if total < 0:
        raise ShapeError(f"warm_up: total is {total}, it has to be at least 0")
    if total == 0:
        return Schedule(then)
    return sequence([linear(then(0), total, start), then], [total])


def triangular(
    low: float, high: float, up: Steps, down: Steps | None = None, mode: str = "triangular", gamma: float = 1.0
) -> Schedule:
    """Along lines from `low` up to `high` in `up` steps and back in `down` steps (`up` unless given), again and again.

    L. N. Smith 2017, section 3. mode: "triangular"; "triangular2" halves the height after each cycle; "exp_range"
    multiplies it by gamma^step.
    """
    down = up if down is None else down
    _at_least_one("triangular", up=up, down=down)
    _factor("triangular", low, gamma)
    heights: dict[str, Callable[[int], float]] = {
        "triangular": lambda step: 1.0,
        "triangular2": lambda step: 0.5 ** (step // (up + down)),
        "exp_range": lambda step: _power(gamma, step),
    }
    if mode not in heights:
        raise ShapeError(f"triangular: mode {mode!r} is not one of {', '.join(heights)}")

    def at(step: int) -> float:
        # The step within its cycle, and the height there as a part of the full one.
        position = step % (up + down)
        height = position / up if position <= up else (up + down - position) / down
        return low + (high - low) * height * heights[mode](step)

    return Schedule(at)


def slanted_triangular(
    peak: float, total: Steps, start: float = 0.23, first: float = 0.2, last: float = 0.07
) -> Schedule:
    """Along a line from first peak up to `peak`, then along another down to last peak, in `total` steps.

    The rise takes the share `start` of all steps. Howard and Ruder 2018, section 3.2, with the numbers of K. Jordan's
    airbench94 (2024), where `last` is the share of the step after the last one.
    """
    _at_least_one("slanted_triangular", total=total)
    if not (0 <= start <= 1 and 0 <= first <= 1 and 0 <= last <= 1):
        raise ShapeError(
            f"slanted_triangular: start is {start}, first {first} and last {last}; they have to be from 0 to 1"
        )
    up = int(start * total)

    def at(step: int) -> float:
        if step < up:
            return peak * (first + (1 - first) * step / up)
        down = min(1.0, (step - up) / (total - up)) if up < total else 1.0
        return peak * (1 - (1 - last) * down)

    return Schedule(at)


def lookahead(decay: float, total: Steps, k: Steps = 5) -> Schedule:
    """alpha of an `optim.Lookahead` of k steps, whose slow weights become a moving average with this decay per step.

    1 - decay^k (t / total)^3 in step t, counted from 1: at first the weights go back to what they are, in the end to an
    average over many steps (K. Jordan, 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024, section 3.4).
    """
    _at_least_one("lookahead", total=total, k=k)
    if not 0 <= decay < 1:
        raise ShapeError(f"lookahead: decay is {decay}, it has to be at least 0 and below 1")
    return Schedule(lambda step: 1 - decay**k * min(1.0, (step + 1) / total) ** 3)


def one_cycle(peak: float, total: Steps, start: float = 0.25, div: float = 25.0, final_div: float = 1e5) -> Schedule:
    """Up from peak/div to `peak`, then down to peak/final_div, both along half a cosine, in `total` steps.

    The rise takes the share `start` of all steps. L. N. Smith 2018, with fastai's constants. A run of two steps has the
    first value and the peak, and a run of one step the peak alone.
    """
    if not (div > 0 and final_div > 0):
        raise ShapeError(f"one_cycle: div is {div} and final_div is {final_div}, they have to be more than 0")
    return _cycle("one_cycle", peak / div, peak, peak / final_div, total, start)


def _cycle(name: str, first: float, summit: float, last: float, total: int, share: float) -> Schedule:
    """From `first` to `summit` in the share of the steps, then to `last` at the last of `total` steps."""
    _at_least_one(name, total=total)
    if not 0 <= share <= 1:
        raise ShapeError(f"{name}: start is {share}, it has to be from 0 to 1")
    # The step, not necessarily a whole number, of the summit. One step before it there is at least, unless it is the
    # only one.
    at = min(max(1.0, share * total), total - 1.0)
    fall = total - 1 - at

    def value(step: int) -> float:
        if step < at:
            return between(first, summit, step / at)
        return between(summit, last, min(1.0, (step - at) / fall) if fall else float(step > at))

    return Schedule(value)


def one_cycle_momentum(total: Steps, low: float = 0.85, high: float = 0.95, start: float = 0.25) -> Schedule:
    """Momentum that goes against one_cycle's rate: from `high` down to `low` while the rate rises, then back up."""
    return _cycle("one_cycle_momentum", high, low, high, total, start)


class Plateau(Schedule):
    """Multiply the value by `factor` when a metric has not improved for more than `patience` calls of `update`.

    update(metric) is called once per epoch. mode: "min" if a lower metric is better, "max" if a higher one is. An
    improvement is a change by more than `threshold` times the best metric so far (threshold_mode="rel"), or by more
    than `threshold` itself ("abs"). A metric of NaN or infinity is no improvement, the first one either. After a
    reduction, `cooldown` calls are not counted. The value stays at least `low`; reductions by less than `eps` are left
    out.
    """

    def __init__(
        self,
        value: float,
        mode: str = "min",
        factor: float = 0.1,
        patience: Steps = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: Steps = 0,
        low: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """Raise ShapeError for an unknown mode, a factor outside of 0 to 1, and numbers below 0."""
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ShapeError(
                f"Plateau: mode {mode!r} with threshold_mode {threshold_mode!r}; they are min or max, and rel or abs"
            )
        numbers = {"factor": factor, "patience": patience, "threshold": threshold, "cooldown": cooldown, "eps": eps}
        if not 0 < factor < 1:
            raise ShapeError(f"Plateau: factor is {factor}, it has to be between 0 and 1")
        for name, number in numbers.items():
            if number < 0:
                raise ShapeError(f"Plateau: {name} is {number}, it has to be at least 0")
        self.value, self.factor, self.patience, self.cooldown = value, factor, patience, cooldown
        self.sign = 1 if mode == "min" else -1
        self.threshold, self.relative = threshold, threshold_mode == "rel"
        self.low, self.eps = low, eps
        # The best metric, infinite before there is one; the calls since then; the calls that are still not counted.
        self.best, self.bad, self.cooling = math.inf, 0, 0

    def __call__(self, step: int) -> float:
        return self.value

    def observe(self, loss: float) -> None:
        self.update(loss)

    @checked
    def update(self, metric: AnyNumber) -> None:
        """Count the calls without an improvement, and reduce the value after too many of them."""
        # A metric to be maximised is compared with the opposite sign.
        metric = self.sign * metric
        margin = abs(self.best) * self.threshold if self.relative else self.threshold
        if math.isfinite(metric) and (self.best == math.inf or metric < self.best - margin):
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.value * self.factor, self.low)
            if self.value - lower > self.eps:
                self.value = lower
            self.cooling, self.bad = self.cooldown, 0

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "best": self.best, "bad": self.bad, "cooling": self.cooling}

    @checked
    def load_state_dict(self, state: Mapping[str, AnyNumber]) -> None:
        if missing := [name for name in self.state_dict() if name not in state]:
            raise StateError(f"Plateau: the stored state lacks {', '.join(missing)}")
        # The best metric is infinite before there is one.
        wrong = [
            name
            for name in self.state_dict()
            if not math.isfinite(state[name]) and (name != "best" or state[name] != math.inf)
        ]
        if wrong:
            raise StateError(f"Plateau: the stored {wrong[0]} is {state[wrong[0]]}, it has to be a finite number")
        self.value, self.best = state["value"], state["best"]
        self.bad, self.cooling = int(state["bad"]), int(state["cooling"])


def _at_least_one(schedule: str, **counts: int) -> None:
    """Raise ShapeError that names the schedule and the count unless all counts are 1 or more."""
    for name, count in counts.items():
        if not count >= 1:
            raise ShapeError(f"{schedule}: {name} is {count}, it has to be at least 1")


def _rising(milestones: Sequence[float]) -> bool:
    """Return True for steps, from 0 on, in rising order."""
    return list(milestones) == sorted(set(milestones)) and all(0 <= m < math.inf for m in milestones)


def _factor(schedule: str, value: float, gamma: float) -> None:
    """Raise ShapeError unless gamma, whose powers the value is multiplied by, is at least 0."""
    if gamma < 0:
        raise ShapeError(f"{schedule}: gamma is {gamma}, it has to be at least 0")


def _power(gamma: float, exponent: int) -> float:
    """Return gamma^exponent; infinity, which an optimiser refuses by name, where it is too large for a float."""
    try:
        return float(gamma**exponent)
    except OverflowError:
        return math.inf


# The schedules of `foveal train --schedule` by name. Each is built from the rate at the start (or at the peak), the
# number of all steps, and the number of steps in an epoch.
BUILDERS: dict[str, Callable[[float, int, int], Schedule]] = {
    "one-cycle": lambda lr, total, epoch: one_cycle(lr, total),
    "constant": lambda lr, total, epoch: constant(lr),
    "step": lambda lr, total, epoch: step(lr, max(1, total // 3)),
    "multi-step": lambda lr, total, epoch: multi_step(lr, sorted({total // 2, total * 3 // 4} - {0})),
    "exponential": lambda lr, total, epoch: exponential(lr, 1e-3 ** (1 / total)),
    "linear": lambda lr, total, epoch: linear(lr, total, start=1.0, end=0.0),
    "polynomial": lambda lr, total, epoch: polynomial(lr, total, power=2.0),
    "cosine": lambda lr, total, epoch: cosine(lr, total),
    "cosine-restarts": lambda lr, total, epoch: cosine_restarts(lr, epoch, factor=2),
    "warm-up-cosine": lambda lr, total, epoch: _warm_cosine(lr, total),
    "slanted-triangular": lambda lr, total, epoch: slanted_triangular(lr, total),
    "triangular": lambda lr, total, epoch: triangular(lr / 10, lr, 2 * epoch),
    "triangular2": lambda lr, total, epoch: triangular(lr / 10, lr, 2 * epoch, mode="triangular2"),
    "plateau": lambda lr, total, epoch: Plateau(lr, patience=2),
}
NAMES = tuple(BUILDERS)


def _warm_cosine(lr: float, total: int) -> Schedule:
    """Warm up during 5 % of the steps, one at least unless it is the only one, then follow half a cosine."""
    warm = min(max(1, total // 20), total - 1)
    return warm_up(cosine(lr, max(1, total - warm)), warm)


def build(name: str, lr: float, total: Steps, epoch: Steps = 1) -> Schedule:
    """Return the schedule of that name for a run of `total` steps with `epoch` steps in an epoch.

    lr: the rate at the start, or at the peak of a cycle. Raises ShapeError that lists the names if there is none, and
    for a rate below 0 or less than one step.
    """
    if name not in BUILDERS:
        raise ShapeError(f"there is no schedule called {name!r}{meant(name, NAMES)}; choose one of {', '.join(NAMES)}")
    _at_least_one(name, total=total, epoch=epoch)
    if lr < 0:
        raise ShapeError(f"{name}: lr is {lr}, it has to be at least 0")
    return BUILDERS[name](lr, total, epoch)


FUNCTIONS = (
    "constant step multi_step exponential linear polynomial cosine cosine_restarts sequence warm_up triangular"
    " slanted_triangular lookahead one_cycle one_cycle_momentum build"
)
check_calls(__name__, ("Plateau", *FUNCTIONS.split()))
