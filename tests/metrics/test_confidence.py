"""Intervals of shares, and temperature scaling."""

import numpy as np
import pytest

from foveal import metrics
from foveal.errors import DataError


@pytest.mark.parametrize(
    ("counts", "expected"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
    [
        ((81, 263), (0.2553, 0.3662)),
        ((15, 148), (0.0624, 0.1605)),
        ((0, 20), (0.0, 0.1611)),
        ((1, 29), (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_are_the_published_ones(counts, expected):
    np.testing.assert_allclose(metrics.wilson_interval(*counts), expected, atol=5e-5)


def test_intervals_of_nothing_and_of_all():
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
    assert metrics.wilson_interval(7, 7)[1] == 1.0
    for wrong in ((3, 2), (-1, 4), (1.5, 4)):
        with pytest.raises(DataError, match="successes"):
            metrics.wilson_interval(*wrong)
    with pytest.raises(DataError, match="confidence is 95"):
        metrics.wilson_interval(1, 2, 95)


def test_the_temperature_that_scores_were_made_with_is_found():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((20_000, 5)) * 2
    p = np.exp(metrics.log_softmax(scores))
    labels = (p.cumsum(1) < rng.random((len(p), 1))).sum(1).clip(max=4)
    assert metrics.fit_temperature(scores * 3, labels) == pytest.approx(3, rel=0.05)
    # logarithms of probabilities are logits
    assert metrics.fit_temperature(metrics.log_softmax(scores * 3), labels) == pytest.approx(3, rel=0.05)
    found = metrics.fit_temperature(scores, labels)
    losses = [metrics.cross_entropy(scores / t, labels) for t in (found, found * 1.01, found / 1.01)]
    assert min(losses) == losses[0]


def test_a_network_that_is_always_right_is_made_as_sure_as_may_be():
    assert metrics.fit_temperature(np.eye(3), [0, 1, 2]) == pytest.approx(0.01)
    with pytest.raises(DataError, match="the logits hold infinity"):
        metrics.fit_temperature([[-np.inf, 0.0]], [1])
