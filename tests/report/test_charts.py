"""Figures as SVG: gaps, ends, ticks."""

import math

import pytest

from foveal.report.charts import MAX_POINTS, Axis, Scale, Series, line_chart, thinned


def drawn(y, **axis):
    return line_chart([Series("a", [float(i) for i in range(len(y))], y)], Axis("x"), Axis("y", **axis), "a & b")


def test_what_is_not_finite_is_a_gap():
    made = drawn([1.0, 2.0, None, 3.0, math.nan, math.inf, 4.0, 5.0])
    assert made.count("<polyline") == 2
    assert made.count("<circle") == 5
    assert "a &amp; b" in made
    assert "nan" not in made
    assert "inf" not in made


@pytest.mark.parametrize("y", [[], [None], [0.0], [3.0, 3.0], [1e-300, 1e300], [-1e-9, 1e-9], [1e30, 2e30]])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_any_values_can_be_drawn(y, logarithmic):
    made = drawn(y, logarithmic=logarithmic)
    assert "nan" not in made
    assert made.startswith("<svg")


def test_ticks_are_round_numbers_from_end_to_end():
    assert Scale.of(Axis("x"), [0.03, 0.97]).ticks == pytest.approx((0, 0.2, 0.4, 0.6, 0.8, 1.0))
    assert Scale.of(Axis("x", whole=True), [1.0, 3.0]).ticks == (1, 2, 3)
    powers = Scale.of(Axis("x", logarithmic=True), [0.002, 3.0])
    assert powers.ticks == pytest.approx((0.001, 0.01, 0.1, 1, 10))
    # Where values are close, powers of ten would show nothing.
    assert not Scale.of(Axis("x", logarithmic=True), [1.0, 3.0]).logarithmic
    assert Scale.of(Axis("x", percent=True), [0.0, 1.0]).written(0.2) == "20 %"


def test_of_very_many_points_the_peaks_stay():
    y = [0.0] * 100_000
    y[77_777] = 9.0
    points = list(thinned(Series("a", [float(i) for i in range(len(y))], y)))
    assert len(points) <= 2 * MAX_POINTS
    assert (77_777.0, 9.0) in points
