"""Numeric derivatives in float64: central differences, and what is needed to judge a gradient by them.

A central difference (f(x + h d) - f(x - h d)) / 2h is off by h^2 f'''/6, as Taylor's series is cut, and by the rounding
of f, about eps |f| / h. The sum is smallest at h of about eps^(1/3), 6e-6 in float64, in units of x; both are near
1e-10 there. In float32 eps is 6e-8: at h = 1e-6 the rounding alone is as large as a slope of 0.1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from foveal.arguments import check_calls
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import Refused, numbers_array, shown
from foveal.strides import Ndarray

EPS = float(np.finfo(np.float64).eps)
# the step in units of x, at which both errors of a central difference are equally small
STEP = EPS ** (1 / 3)
# how many roundings of the value a difference is allowed
ROUNDINGS = 32
# Ridders' steps begin at this multiple of STEP; each is half of the one before
WIDEST, LEVELS = 64.0, 9
# Numbers that extrapolation cannot tell better than to this share are no derivative.
ROUGH = 1e-3
# the smaller steps at which slopes to both sides are compared: a kink has two at every step
SHRINKING = (1.0, 1 / 8, 1 / 64)


def typical_size(x: Ndarray) -> float:
    """The root mean square of x, 1 where x is 0 or has no elements: what a step is measured by."""
    with np.errstate(over="ignore", under="ignore"):
        size = math.sqrt(float(np.mean(np.square(x)))) if x.size else 0.0
    return size if 0.0 < size < math.inf else 1.0


@dataclass(frozen=True)
class Slope:
    """An analytic derivative along a line beside the numeric one."""

    analytic: float
    numeric: float
    #: the difference, as a share of the larger of both; smaller where it is within what rounding explains
    error: float
    agrees: bool
    #: True where the function bends on the line here; the analytic value agrees if it lies between the two slopes
    kink: bool = False


class Line:
    """A scalar function along a line: value(t) = f(x + t d), with t = 0 where the gradient is asked for.

    step: how far t is moved. magnitude: the size of the terms that the value is a sum of, whose rounding it has.
    """

    def __init__(self, value: Callable[[float], float], step: float, magnitude: float) -> None:
        self.value, self.step, self.magnitude = value, step, magnitude

    def noise(self, step: float) -> float:
        """What rounding makes of a difference with this step."""
        return ROUNDINGS * EPS * self.magnitude / step

    def central(self, step: float) -> float:
        return (self.value(step) - self.value(-step)) / (2 * step)

    def compare(self, analytic: float, rtol: float) -> Slope:
        """The analytic derivative beside the numeric one.

        One central difference settles nearly all; what it contradicts is looked at with other steps: rounding and the
        cut series are reduced by extrapolation, and a kink shows as two slopes that differ at every step.
        """
        numeric = self.central(self.step)
        slope = judged(analytic, numeric, rtol, self.noise(self.step))
        if slope.agrees or not math.isfinite(analytic):
            return slope
        better, doubt = self.extrapolated()
        if doubt <= ROUGH * max(abs(better), abs(analytic), self.noise(self.step)):
            second = judged(analytic, better, rtol, self.noise(self.step) + 2 * doubt)
            if second.agrees:
                return second
            slope = min(slope, second, key=lambda s: s.error)
        sides = self.to_both_sides(analytic, rtol)
        return sides if sides.agrees else replace(slope, kink=sides.kink)

    def to_both_sides(self, analytic: float, rtol: float) -> Slope:
        """The comparison with the slopes to both sides, which differ at a kink: it agrees with all between them."""
        middle, gaps, inside = self.value(0.0), [], False
        for share in SHRINKING:
            step = self.step * share
            ahead, behind = (self.value(step) - middle) / step, (middle - self.value(-step)) / step
            margin = rtol * max(abs(ahead), abs(behind), abs(analytic)) + self.noise(step)
            gaps.append(abs(ahead - behind))
            inside = min(ahead, behind) - margin <= analytic <= max(ahead, behind) + margin
        # Of a smooth function the gap shrinks with the step.
        is_kink = gaps[-1] > gaps[0] / 2 and gaps[-1] > 4 * margin
        numeric = (ahead + behind) / 2
        error = 0.0 if is_kink and inside else relative(analytic, numeric, margin / rtol)
        return Slope(analytic, numeric, error, inside, is_kink)

    def extrapolated(self) -> tuple[float, float]:
        """The derivative from differences of shrinking steps, and how far it may be off (Ridders 1982, section 2)."""
        step, best, doubt = self.step * WIDEST, math.nan, math.inf
        previous: list[float] = []
        for _ in range(LEVELS):
            row, factor = [self.central(step)], 1.0
            for older in previous:
                factor *= 4.0
                row.append((row[-1] * factor - older) / (factor - 1.0))
                change = max(abs(row[-1] - row[-2]), abs(row[-1] - older))
                if change <= doubt:
                    best, doubt = row[-1], change
            previous, step = row, step / 2
        return best, doubt


def relative(a: float, b: float, floor: float) -> float:
    """The difference of two numbers as a share of the larger one, or of `floor` where that is larger still."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if a == b else math.inf
    size = max(abs(a), abs(b), floor)
    return abs(a - b) / size if size else 0.0


def judged(analytic: float, numeric: float, rtol: float, noise: float) -> Slope:
    """The comparison of two derivatives, which may differ by the share rtol, and by `noise`."""
    error = relative(analytic, numeric, noise / rtol)
    return Slope(analytic, numeric, error, error <= rtol)


def numeric_gradient(f: Callable[[Ndarray], object], x: object, step: float | None = None) -> Ndarray:
    """Return the gradient of any NumPy function of one array, by central differences in float64.

        dw = foveal.numeric_gradient(lambda w: np.sum(my_conv(x, w) * dy), w)

    f: called on a float64 array of x's shape; returns a number, or an array whose elements are added up. x: an array of
    numbers of any shape. Returns float64 of x's shape: (f(x + h e) - f(x - h e)) / 2h for each element, with h = 6e-6
    times the element, or the root mean square of x where that is larger; `step` is another h. Good to about 9 digits
    for smooth functions that compute in float64. f is called twice for each element.

    Raises ArgumentError where f returns no number, or computes in float32, which has too few digits for differences.
    """
    try:
        point = numbers_array(x)
    except Refused:
        raise ArgumentError(f"numeric_gradient: x is {shown(x)}, it has to be an array of numbers") from None
    if step is not None and not 0 < step < math.inf:
        raise ShapeError(f"numeric_gradient: step is {step}, it has to be more than 0")
    point = np.array(point, np.float64)
    gradient, size = np.zeros(point.shape), typical_size(point)
    for index in np.ndindex(point.shape):
        at = float(point[index])
        h = step or STEP * max(abs(at), size)
        values = []
        for moved in (at + h, at - h):
            changed = point.copy()
            changed[index] = moved
            with np.errstate(all="ignore"):
                values.append(total(f(changed)))
        gradient[index] = (values[0] - values[1]) / (2 * h)
    return gradient


def total(value: object) -> float:
    """The sum of what a function returned. Raises ArgumentError for what is no float64."""
    try:
        array = numbers_array(value)
    except Refused:
        raise ArgumentError(f"the function returned {shown(value)}; it has to return a number or an array") from None
    if array.dtype in (np.float32, np.float16):
        raise ArgumentError(
            f"the function returned {array.dtype} for a float64 array; differences need float64, so leave out the"
            " conversion inside of it"
        )
    return float(np.sum(array, dtype=np.float64))


check_calls(__name__, ("numeric_gradient",))
