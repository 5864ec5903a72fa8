"""Figures as SVG: curves, and the bars of a reliability diagram.

They are drawn here and not by Matplotlib because a report has to be there always, and Matplotlib is an extra; because
these take a few kilobytes each, and no second to import; and because their colours are the page's, so that they follow
its dark and its light side. `plot_...` of `foveal.metrics` returns Matplotlib's figures of the same things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from foveal.display import escaped
from foveal.metrics import Calibration

# Of a figure, and what its labels take, in pixels.
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
# Colours that the page has for curves; the next ones are dashed.
COLOURS = 8
# Points of a curve at most; more of them are not seen.
MAX_POINTS = 600
# Points of a curve that have a dot each.
DOTTED = 30


@dataclass(frozen=True)
class Series:
    """One curve: points in order; where y is None or not finite, there is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    #: The number of its colour; its place among the curves if not given.
    colour: int | None = None


@dataclass(frozen=True)
class Axis:
    """What stands at an axis, and how values become places."""

    label: str
    #: The lowest and the highest value; of the data if not given.
    low: float | None = None
    high: float | None = None
    #: True for powers of ten at equal distances, where the values are spread widely enough.
    logarithmic: bool = False
    #: True to write shares as percentages.
    percent: bool = False
    #: True for values that are whole numbers, such as epochs.
    whole: bool = False


@dataclass(frozen=True)
class Scale:
    """An axis with its ends and its ticks known."""

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[float, ...]
    percent: bool

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float]) -> Scale:
        """Return the scale of an axis for these finite values, of which there may be none."""
        low = axis.low if axis.low is not None else min(values, default=0.0)
        high = axis.high if axis.high is not None else max(values, default=1.0)
        positive = [value for value in values if value > 0]
        if axis.logarithmic and len(positive) == len(values) and values and high / low > 30:
            bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
            powers = range(bottom, top + 1, max(1, (top - bottom) // 5))
            return cls(10.0**bottom, 10.0**top, True, tuple(10.0**n for n in powers), False)
        if high <= low:
            # One value only: it stands in the middle.
            pad = abs(low) * 0.1 or 0.5
            low, high = low - pad, high + pad
        step = round_step((high - low) / 5, axis.whole)
        # Ends that are not given are put on ticks.
        low = low if axis.low is not None or axis.whole else math.floor(low / step + 1e-9) * step
        high = high if axis.high is not None or axis.whole else math.ceil(high / step - 1e-9) * step
        first = math.ceil(low / step - 1e-9)
        ticks = [(first + i) * step for i in range(int((high - low) / step + 1e-9) + 1)]
        return cls(low, high, False, tuple(tick for tick in ticks if tick <= high + step * 1e-6), axis.percent)

    def place(self, value: float) -> float:
        """Return where a value stands, from 0 to 1."""
        if self.logarithmic:
            return (math.log10(max(value, 1e-300)) - math.log10(self.low)) / math.log10(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def written(self, tick: float) -> str:
        """Return a tick as text."""
        if self.percent:
            return f"{100 * tick:.4g} %"
        # Rounding would show 0.30000000000000004 and -0.
        text = f"{0.0 if abs(tick) < 1e-12 * max(abs(self.low), abs(self.high)) else tick:.5g}"
        return f"{tick:,.0f}" if 1e4 <= abs(tick) < 1e7 and not self.logarithmic else text


def round_step(least: float, whole: bool) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    step = next(step for factor in (1, 2, 5, 10) if (step := factor * power) >= least * (1 - 1e-9))
    return max(1.0, step) if whole else step


def finite(values: Sequence[float | None]) -> list[float]:
    """Return the values that can be drawn."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def line_chart(series: Sequence[Series], x: Axis, y: Axis, description: str, diagonal: bool = False) -> str:
    """Return a figure of curves as SVG. description: what readers hear who do not see it. diagonal: from 0 to 1."""
    across = Scale.of(x, [v for one in series for v in finite(one.x)])
    up = Scale.of(y, [v for one in series for v in finite(one.y)])
    right, down = places(across, up)
    parts = [frame(across, up, x.label, y.label, right, down)]
    if diagonal:
        parts.append(f'<path class="guess" d="M{right(0):.1f},{down(0):.1f}L{right(1):.1f},{down(1):.1f}"/>')
    for number, one in enumerate(series):
        colour = number if one.colour is None else one.colour
        kind = f"curve c{colour % COLOURS}" + (" dashed" if colour >= COLOURS else "")
        for run in runs_of(one, right, down):
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in run)
            if len(run) > 1:
                parts.append(f'<polyline class="{kind}" points="{points}"/>')
            if len(one.x) <= DOTTED or len(run) == 1:
                parts += [
                    f'<circle class="dot c{colour % COLOURS}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in run
                ]
    return svg("".join(parts), description)


def places(across: Scale, up: Scale) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Return functions from values to pixels, to the right and downwards; what lies beyond the ends stands there."""

    def clipped(place: float) -> float:
        return min(max(place, 0.0), 1.0)

    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return (
        lambda value: LEFT + wide * clipped(across.place(value)),
        lambda value: TOP + high * (1 - clipped(up.place(value))),
    )


def runs_of(
    series: Series, right: Callable[[float], float], down: Callable[[float], float]
) -> Iterator[list[tuple[float, float]]]:
    """Yield the pieces of a curve between its gaps, as pixels; of very many points those that are seen."""
    run: list[tuple[float, float]] = []
    for x, y in thinned(series):
        if y is None or not math.isfinite(y):
            if run:
                yield run
            run = []
            continue
        point = right(x), down(y)
        # Steps of less than a pixel are not seen.
        if len(run) < 2 or math.dist(run[-1], point) >= 0.8:
            run.append(point)
        else:
            run[-1] = point
    if run:
        yield run


def thinned(series: Series) -> Iterator[tuple[float, float | None]]:
    """Yield the points of a curve; of too many, the lowest and the highest of each few, so that peaks stay."""
    points = list(zip(series.x, series.y, strict=True))
    # Curves such as ROC go far within few points, so that only those with a great number of points are thinned.
    few = -(-len(points) // MAX_POINTS)
    if few <= 2 or len(set(series.x)) < len(series.x):
        yield from points
        return
    for start in range(0, len(points), 2 * few):
        some = points[start : start + 2 * few]
        known = [i for i, (_, y) in enumerate(some) if y is not None and math.isfinite(y)]
        if not known:
            yield some[0][0], None
            continue
        lowest, highest = (f(known, key=lambda i: some[i][1] or 0.0) for f in (min, max))
        yield from (some[i] for i in sorted({lowest, highest}))


def frame(
    across: Scale,
    up: Scale,
    x_label: str,
    y_label: str,
    right: Callable[[float], float],
    down: Callable[[float], float],
) -> str:
    """Return the grid, the ticks and the labels of a figure."""
    end, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in up.ticks:
        y = down(tick)
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{end}"/>')
        parts.append(f'<text class="end" x="{LEFT - 7}" y="{y + 4:.1f}">{up.written(tick)}</text>')
    for tick in across.ticks:
        x = right(tick)
        parts.append(f'<path class="grid" d="M{x:.1f},{TOP}V{bottom}"/>')
        parts.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 17}">{across.written(tick)}</text>')
    parts.append(f'<path class="frame" d="M{LEFT},{TOP}V{bottom}H{end}"/>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text class="middle label" x="{(LEFT + end) / 2}" y="{HEIGHT - 6}">{escaped(x_label)}</text>')
    turned = f'transform="translate(13 {middle}) rotate(-90)"'
    parts.append(f'<text class="middle label" {turned}>{escaped(y_label)}</text>')
    return "".join(parts)


def svg(content: str, description: str) -> str:
    """Return a figure with its description for readers who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escaped(description)}">{content}</svg>'
    )


def reliability_chart(found: Calibration, description: str) -> str:
    """Return a reliability diagram: accuracy by confidence, a bar for each bin that holds images."""
    right, down = places(Scale.of(UNIT_X, []), Scale.of(UNIT_Y, []))
    parts = [frame(Scale.of(UNIT_X, []), Scale.of(UNIT_Y, []), UNIT_X.label, UNIT_Y.label, right, down)]
    for one in found.bins:
        if one.images == 0:
            continue
        x, wide = right(one.low) + 1, right(one.high) - right(one.low) - 2
        top, sure = down(one.accuracy), down(one.confidence)
        told = f"<title>{one.images:,} images, confidence {one.confidence:.3f}, accuracy {one.accuracy:.3f}</title>"
        bar = (
            f'<rect class="bar" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{down(0) - top:.1f}">{told}</rect>'
        )
        high, tall = min(top, sure), abs(top - sure)
        gap = f'<rect class="gap" x="{x:.1f}" y="{high:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
        parts += [bar, gap]
    parts.append(f'<path class="guess" d="M{right(0)},{down(0)}L{right(1)},{down(1)}"/>')
    return svg("".join(parts), description)


# Of curves and diagrams from 0 to 1.
UNIT_X, UNIT_Y = Axis("confidence", 0.0, 1.0), Axis("accuracy", 0.0, 1.0, percent=True)
