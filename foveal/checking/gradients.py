"""gradcheck: analytic gradients against differences in float64, of all that is written with operators or NumPy."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from foveal.arguments import checked
from foveal.checking.differences import STEP, Line, Slope, typical_size
from foveal.checking.native import compare_native
from foveal.checking.report import GradientReport, GradientRow
from foveal.checking.sources import NumpyPair, Quantity, Traced, name_of
from foveal.errors import ArgumentError, ShapeError
from foveal.strides import Ndarray, Shape


@checked
def gradcheck(
    f: Callable[..., Any],
    *arguments: Any,
    backward: Callable[..., Any] | None = None,
    rtol: float = 1e-6,
    elements: int | None = 100,
    directions: int = 3,
    seed: int = 0,
    native: bool = False,
    raise_on_failure: bool = False,
) -> GradientReport:
    """Compare the gradients of f with differences in float64, and return a report: true if all agree, and it prints.

        report = foveal.gradcheck(nn.Conv2d(2, 3, 3), x)            # a layer, or a whole network, and its parameters
        report = foveal.gradcheck(nn.CrossEntropyLoss(), logits, labels)
        report = foveal.gradcheck(lambda x, w: ops.conv2d(x, w, stride=2), x, w)
        report = foveal.gradcheck(conv_forward, x, w, b, {"pad": 1}, backward=conv_backward)
        print(report)

    f: an operator, a layer, a network, a loss, or a function written with operators; the trained parameters that it
    reads are checked as well. With `backward` it is a function of NumPy, which returns the output or (output, cache).
    backward: backward(dy, cache) where f returns a cache, else backward(dy, *arguments) or backward(dy), returns the
    gradient in each array of floats among the arguments, in their order.
    arguments: arrays, one by one or as one tuple. Integers, such as labels, have no gradient and are skipped. To a
    function of NumPy all else, such as a dict of options, is passed on.
    rtol: the relative error |analytic - numeric| / max(|analytic|, |numeric|) up to which both agree, beside rounding.
    elements: how many of each argument are compared one by one, drawn at random where there are more; None for all.
    directions: along how many random directions, in which all elements take part; if one is off, the element is found.
    seed: of what is drawn at random, dropout's masks too. Layers compute in the mode that they are in.
    native: compare the compiled gradients in float32 with those in float64, too; docs/gradients.md has the bound.

    An output that is no number is weighted: what is differentiated is sum(output dy), dy normal random numbers of its
    shape. At a kink, such as relu at 0, a function has two slopes; the report says so, and does not call it wrong.

    Raises ArgumentError or ShapeError for what cannot be checked, such as a function that computes in float32, or one
    that gives another result each time; NumericsError where a gradient is wrong if `raise_on_failure`.
    """
    # A list of numbers is an array.
    first = arguments[0] if len(arguments) == 1 else None
    if isinstance(first, tuple) or (isinstance(first, list) and any(isinstance(x, np.ndarray) for x in first)):
        arguments = tuple(first)
    check_options(arguments, rtol, elements, directions, seed, native and backward is not None)
    rng, note = np.random.default_rng(seed), ""
    source = Traced(f, arguments, rng) if backward is None else NumpyPair(f, backward, arguments, rng)
    limits = Limits(rtol, elements, directions, source.magnitude())
    quantities = source.quantities()
    if not quantities:
        raise ArgumentError(f"gradcheck: {name_of(f)} is given integers only, which have no gradient; give floats")
    rows = [Comparison(quantity, limits, rng).row() for quantity in quantities]
    if native and isinstance(source, Traced):
        rows, note = compare_native(source, rows)
    report = GradientReport(name_of(f), [*rows, *source.skipped], rtol, note)
    if raise_on_failure:
        report.raise_on_failure()
    return report


def check_options(
    arguments: tuple[object, ...], rtol: float, elements: int | None, directions: int, seed: int, native_numpy: bool
) -> None:
    """Raise ShapeError or ArgumentError for options that mean nothing."""
    if elements == 0 and directions == 0:
        raise ShapeError(
            "gradcheck: elements and directions are both 0, so nothing would be compared; give one of them"
        )
    if not rtol > 0 or directions < 0 or (elements is not None and elements < 0) or seed < 0:
        raise ShapeError(
            f"gradcheck: rtol is {rtol}, elements {elements}, directions {directions} and seed {seed}; rtol has to be"
            " more than 0, the others at least 0"
        )
    if not arguments:
        raise ArgumentError("gradcheck: give the arguments that f is called on, such as gradcheck(f, x)")
    if native_numpy:
        raise ArgumentError("gradcheck: native=True is for what Foveal compiles, not for a function of NumPy")


class Limits(NamedTuple):
    """How far and how closely gradients are compared; see gradcheck. magnitude: see differences.Line."""

    rtol: float
    elements: int | None
    directions: int
    magnitude: float


class Comparison:
    """The gradient in one quantity, compared element by element and along random directions."""

    def __init__(self, quantity: Quantity, limits: Limits, rng: np.random.Generator) -> None:
        self.quantity, self.limits, self.rng = quantity, limits, rng
        self.x, self.gradient = quantity.array, quantity.gradient
        self.scale = typical_size(self.x)

    def along(self, direction: Ndarray, step: float | None = None, analytic: float | None = None) -> Slope:
        """The derivative along a direction; `analytic` is that by the gradient, if known."""
        if analytic is None:
            analytic = float(np.sum(self.gradient * direction))
        line = Line(
            lambda t: self.quantity.value(self.x + t * direction), step or STEP * self.scale, self.limits.magnitude
        )
        return line.compare(analytic, self.limits.rtol)

    def at(self, flat: int) -> Slope:
        """The derivative in one element."""
        direction = np.zeros(self.x.shape)
        direction.flat[flat] = 1.0
        step = STEP * max(abs(float(self.x.flat[flat])), self.scale)
        return self.along(direction, step, float(self.gradient.flat[flat]))

    def chosen(self) -> list[int]:
        """The elements that are compared one by one: all, or some, with the one of the largest gradient among them."""
        size, elements = self.x.size, self.limits.elements
        if elements is None or size <= elements:
            return list(range(size))
        drawn = self.rng.choice(size, elements, replace=False)
        largest = int(np.argmax(np.nan_to_num(abs(self.gradient), nan=np.inf, posinf=np.inf)))
        return sorted({largest, *map(int, drawn)}) if elements else []

    def row(self) -> GradientRow:
        name, shape = self.quantity.name, self.x.shape
        if not self.x.size:
            return GradientRow(name, shape, skipped="it has no elements")
        chosen = self.chosen()
        slopes = {flat: self.at(flat) for flat in chosen}
        # Infinity has no directions; the element is among those compared.
        finite = bool(np.isfinite(self.gradient).all())
        straight = [self.straight(slopes) for _ in range(self.limits.directions if finite else 0)]
        crooked = [slope for slope in straight if not slope.agrees]
        worst = max(slopes, key=lambda flat: (not slopes[flat].agrees, slopes[flat].error), default=None)
        if worst is not None and not (crooked and slopes[worst].agrees):
            slope = slopes[worst]
        else:
            # no element was compared; or none of those compared is off by more than rtol, but all together are
            worst, slope = None, max(crooked or straight, key=lambda s: s.error, default=Slope(0.0, 0.0, 0.0, True))
        place = None if worst is None else index(worst, shape)
        kinks = tuple(index(flat, shape) for flat in sorted(slopes) if slopes[flat].kink)
        numbers = slope.error, place, slope.analytic, slope.numeric, slope.agrees
        return GradientRow(name, shape, len(chosen), len(straight), *numbers, kinks)

    def straight(self, slopes: dict[int, Slope]) -> Slope:
        """The derivative along a random direction. Where it is off, an element that is off is added to `slopes`."""
        direction = self.rng.standard_normal(self.x.shape) * np.ones(self.x.shape)
        found = self.along(direction)
        if found.agrees:
            return found
        # what a direction agrees to is the size of its terms, which may cancel
        terms = float(np.linalg.norm(self.gradient * direction))
        if abs(found.analytic - found.numeric) <= self.limits.rtol * terms:
            return replace(found, agrees=True, error=0.0)
        flat = self.search(direction)
        slopes[flat] = self.at(flat)
        # Where the function bends in several elements at once, its slope along a direction says nothing of theirs.
        return replace(found, agrees=True, error=0.0) if found.kink and slopes[flat].agrees else found

    def search(self, direction: Ndarray) -> int:
        """An element whose gradient is off, where that along a direction is: halves of it are compared."""
        low, high = 0, direction.size
        while high - low > 1:
            middle = (low + high) // 2
            gaps = []
            for start, stop in ((low, middle), (middle, high)):
                part = np.zeros(direction.shape)
                part.flat[start:stop] = direction.flat[start:stop]
                slope = self.along(part)
                gaps.append(abs(slope.analytic - slope.numeric))
            low, high = (low, middle) if gaps[0] >= gaps[1] else (middle, high)
        return low


def index(flat: int, shape: Shape) -> tuple[int, ...]:
    """The index of an element by its number in C order."""
    return tuple(int(i) for i in np.unravel_index(flat, shape))
