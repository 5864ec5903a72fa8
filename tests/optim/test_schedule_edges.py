"""Schedules at their edges: runs of a few steps, steps after the end, metrics that are not finite, wrong numbers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from foveal import nn, optim
from foveal.errors import ShapeError, StateError
from foveal.optim import schedule
from foveal.train.updates import make_schedules

NAN, INF = math.nan, math.inf
# More steps than any of the runs has.
BEYOND = 40


@pytest.mark.parametrize("name", schedule.NAMES)
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 19, 20, 21])
@pytest.mark.parametrize("epoch", [1, 2, 50])
def test_runs_of_any_length_are_finite_and_at_most_the_rate(name, total, epoch):
    """In any order of the steps, and after the last one. An epoch may be longer than the run."""
    rate = schedule.build(name, 0.1, total, epoch)
    rates = [rate(step) for step in range(BEYOND)]
    assert all(math.isfinite(r) and 0 <= r <= 0.1 * (1 + 1e-12) for r in rates)
    assert [rate(step) for step in reversed(range(BEYOND))] == rates[::-1]
    if not name.startswith("triangular"):
        # A cycle that is longer than the run does not get there; that of one-cycle may have its peak between two steps.
        assert max(rates[:total]) == pytest.approx(0.1, rel=0.15 if name == "one-cycle" else 1e-9)


@pytest.mark.parametrize("name", schedule.NAMES)
def test_a_rate_of_0_stays_0(name):
    for total in (1, 2, 3, 100):
        rate = schedule.build(name, 0.0, total, 1)
        assert not any(rate(step) for step in range(BEYOND))


# The rates of runs of one, two and three steps, as parts of the rate that was asked for.
SHORT = {
    "one-cycle": ([1], [1 / 25, 1], [1 / 25, 1, 1e-5]),
    "constant": ([1], [1, 1], [1, 1, 1]),
    "step": ([1], [1, 0.1], [1, 0.1, 0.01]),
    "multi-step": ([1], [1, 0.1], [1, 0.1, 0.01]),
    "exponential": ([1], [1, 1e-3**0.5], [1, 0.1, 0.01]),
    "linear": ([1], [1, 1 / 2], [1, 2 / 3, 1 / 3]),
    "polynomial": ([1], [1, 1 / 4], [1, 4 / 9, 1 / 9]),
    "cosine": ([1], [1, 1 / 2], [1, 3 / 4, 1 / 4]),
    "cosine-restarts": ([1], [1, 1], [1, 1, 1 / 2]),
    "warm-up-cosine": ([1], [1e-3, 1], [1e-3, 1, 1 / 2]),
    "slanted-triangular": ([1], [1, 1 - 0.93 / 2], [1, 1 - 0.93 / 3, 1 - 0.93 * 2 / 3]),
    "triangular": ([0.1], [0.1, 0.55], [0.1, 0.55, 1]),
    "triangular2": ([0.1], [0.1, 0.55], [0.1, 0.55, 1]),
    "plateau": ([1], [1, 1], [1, 1, 1]),
}


@pytest.mark.parametrize("name", schedule.NAMES)
def test_runs_of_one_to_three_steps(name):
    for total, want in enumerate(SHORT[name], 1):
        rate = schedule.build(name, 0.2, total)
        assert [rate(step) for step in range(total)] == pytest.approx([0.2 * part for part in want])


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_one_cycle_and_its_momentum_from_start_to_end(total, share):
    rate, momentum = schedule.one_cycle(1.0, total, share), schedule.one_cycle_momentum(total, 0.8, 0.9, share)
    rates, momenta = [rate(s) for s in range(total)], [momentum(s) for s in range(total)]
    # The peak lies between two steps where the share of the steps is no whole number.
    assert 0.6 < max(rates) <= 1
    assert 0.8 <= min(momenta) < 0.84
    assert all(0.8 <= m <= 0.9 for m in momenta)
    if total > 1:
        assert (rates[0], momenta[0]) == (pytest.approx(1 / 25), pytest.approx(0.9))
    if total > 2 and share < 0.9:
        assert (rates[-1], momenta[-1]) == (pytest.approx(1e-5), pytest.approx(0.9))
    assert (rate(total + 5), momentum(total + 5)) == (pytest.approx(1e-5), pytest.approx(0.9))


def test_momentum_may_go_down_to_0():
    """From 0.9 to 0 and back; the lowest momentum was once divided by."""
    values = [schedule.one_cycle_momentum(100, low=0.0, high=0.9)(step) for step in range(100)]
    assert (values[0], min(values), values[-1]) == (pytest.approx(0.9), 0, pytest.approx(0.9))
    assert [schedule.one_cycle_momentum(3, low=0.0, high=0.0)(step) for step in range(3)] == [0, 0, 0]


def test_schedules_of_a_run_of_one_step():
    """What `foveal train --momentum-low 0` makes of one batch."""
    settings = SimpleNamespace(schedule="one-cycle", lr=0.1, momentum_low=0.0, freeze_epochs=0, lookahead=None)
    optimizer = optim.Nesterov(nn.Linear(2, 2).parameters(), 0.1)
    for total in (1, 2, 3):
        optimizer.schedule(**make_schedules(optimizer, settings, total, 1))
        for optimizer.steps in range(total + 2):
            optimizer.begin()
            assert 0 < optimizer.lr <= 0.1
            assert 0 <= optimizer.momentum <= 0.9


def test_warm_up_of_no_steps_and_of_more_than_the_run():
    cosine = schedule.cosine(0.1, 10)
    at_once = schedule.warm_up(cosine, 0)
    assert [at_once(step) for step in range(10)] == [cosine(step) for step in range(10)]
    long = [schedule.warm_up(cosine, 1000, 0.1)(step) for step in range(10)]
    assert long == sorted(long)
    assert 0.01 <= long[0] < long[-1] < 0.1


def plateaus(torch, **how):
    """Ours and PyTorch's, and a function that gives both a metric and returns both rates."""
    descent = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(descent, factor=0.5, **how)
    ours = schedule.Plateau(1.0, factor=0.5, **how)

    def both(metric):
        theirs.step(metric)
        ours.update(metric)
        return ours(0), descent.param_groups[0]["lr"]

    return ours, both


SEQUENCES = {
    "NaN first": [NAN, 1.0, 0.9, 0.8, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7, 0.7],
    "NaN alone": [NAN] * 9,
    "infinity first": [INF, INF, INF, 1.0, 0.5, 0.5, 0.5, 0.5, 0.4],
    "infinity alone": [INF] * 9,
    "between": [1.0, NAN, 0.9, INF, 0.8, NAN, NAN, NAN, 0.7, INF, INF, INF, 0.6],
    "after a reduction": [1.0, 1.0, 1.0, 1.0, NAN, NAN, NAN, 0.5, 0.5],
}


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("name", SEQUENCES)
def test_metrics_that_are_not_finite_are_pytorchs(name, mode, cooldown, torch):
    """A bad epoch like any other, and the next finite metric is the best if there was none.

    Of metrics above 0: PyTorch takes any value for an improvement on a negative one that is to be maximised.
    """
    ours, both = plateaus(torch, mode=mode, patience=2, cooldown=cooldown)
    again = schedule.Plateau(1.0, mode, 0.5, 2, cooldown=cooldown)
    for metric in SEQUENCES[name]:
        mine, other = both(metric if mode == "min" else 2 - metric)
        assert mine == pytest.approx(other)
        # A state that was stored in the middle goes on the same way.
        again.load_state_dict(ours.state_dict())
        assert again(0) == mine
    assert ours(0) < 1 or name == "NaN first"
    assert not math.isnan(ours.best)


def test_a_metric_cannot_become_infinitely_good():
    """Where PyTorch takes it as the best for ever, it is no improvement."""
    plateau = schedule.Plateau(1.0, "max", patience=1)
    for metric in (INF, 0.1, 0.2, INF, 0.3, 0.4):
        plateau.update(metric)
    assert (plateau(0), plateau.best) == (1.0, -0.4)


@pytest.mark.parametrize("metric", ["x", None, "1", [1.0, 2.0], 1j])
def test_a_metric_has_to_be_a_number(metric):
    with pytest.raises(ShapeError, match=r"Plateau.update: metric is .*, it has to be a number"):
        schedule.Plateau(0.1).update(metric)


def test_metrics_of_numpy_are_numbers():
    plateau = schedule.Plateau(1.0, patience=0)
    for metric in (np.float32(1), np.array(1.0), 1):
        plateau.update(metric)
    assert plateau(0) == pytest.approx(0.01)


ERRORS = {
    "constant: value is nan, it has to be a finite number": lambda: schedule.constant(NAN),
    "constant: value is 'x', it has to be a number": lambda: schedule.constant("x"),
    "step: value is inf": lambda: schedule.step(INF, 3),
    "step: step_size is nan": lambda: schedule.step(1, NAN),
    "step: gamma is -0.1, it has to be at least 0": lambda: schedule.step(1, 3, -0.1),
    r"multi_step: milestones \[-1, 3\] have": lambda: schedule.multi_step(1, [-1, 3]),
    r"multi_step: milestones is \[nan\], it has to be": lambda: schedule.multi_step(1, [NAN]),
    "exponential: gamma is nan": lambda: schedule.exponential(1, NAN),
    "linear: total is inf": lambda: schedule.linear(1, INF),
    "linear: end is inf": lambda: schedule.linear(1, 3, end=INF),
    "polynomial: power is 0, it has to be more than 0": lambda: schedule.polynomial(1, 3, 0),
    "polynomial: power is -1": lambda: schedule.polynomial(1, 3, -1),
    "cosine: low is nan": lambda: schedule.cosine(1, 3, NAN),
    "cosine_restarts: factor is 0": lambda: schedule.cosine_restarts(1, 3, 0),
    "cosine_restarts: value is nan": lambda: schedule.cosine_restarts(NAN, 3),
    "sequence: 2 schedules need 1 milestones": lambda: schedule.sequence([schedule.constant(1)] * 2, [-3]),
    "warm_up: total is -1": lambda: schedule.warm_up(schedule.constant(1), -1),
    "warm_up: start is nan": lambda: schedule.warm_up(schedule.constant(1), 3, NAN),
    "triangular: high is inf": lambda: schedule.triangular(0, INF, 3),
    "one_cycle: div is 0": lambda: schedule.one_cycle(1, 3, div=0),
    "one_cycle: start is 1.5, it has to be from 0 to 1": lambda: schedule.one_cycle(1, 3, 1.5),
    "one_cycle_momentum: low is nan": lambda: schedule.one_cycle_momentum(3, NAN),
    "Plateau: value is nan": lambda: schedule.Plateau(NAN),
    "Plateau: patience is -1, it has to be at least 0": lambda: schedule.Plateau(1, patience=-1),
    "Plateau: threshold is nan": lambda: schedule.Plateau(1, threshold=NAN),
    "Plateau: factor is 'x'": lambda: schedule.Plateau(1, factor="x"),
    "cosine: total is 0": lambda: schedule.build("cosine", 0.1, 0),
    "exponential: total is 0": lambda: schedule.build("exponential", 0.1, 0),
    "cosine-restarts: epoch is 0": lambda: schedule.build("cosine-restarts", 0.1, 10, 0),
    "cosine: lr is -0.1, it has to be at least 0": lambda: schedule.build("cosine", -0.1, 10),
    "build: lr is nan": lambda: schedule.build("one-cycle", NAN, 10),
}


@pytest.mark.parametrize("words", ERRORS)
def test_numbers_without_meaning_are_one_message(words):
    with pytest.raises(ShapeError, match=words):
        ERRORS[words]()


def test_growth_without_bound_is_refused_by_the_optimiser_and_not_an_overflow():
    assert schedule.step(0.1, 1, 10.0)(400) == INF
    assert schedule.step(0.1, 1, 2.0)(3) == pytest.approx(0.8)
    optimizer = optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    optimizer.schedule(lr=schedule.step(0.1, 1, 10.0))
    optimizer.steps = 400
    with pytest.raises(ShapeError, match="SGD: lr is inf"):
        optimizer.begin()
    assert optimizer.steps == 400
    with pytest.raises(ShapeError, match=r"SGD: the schedule of lr is 0.1; give a function"):
        optimizer.schedule(lr=0.1)


@pytest.mark.parametrize("wrong", [{"best": NAN}, {"best": -INF}, {"value": NAN}, {"bad": INF}, {"cooling": NAN}])
def test_a_stored_state_without_meaning_is_refused(wrong):
    plateau = schedule.Plateau(0.1, patience=0)
    state = plateau.state_dict()
    with pytest.raises(StateError, match=f"Plateau: the stored {next(iter(wrong))} is .*, it has to be a finite"):
        plateau.load_state_dict({**state, **wrong})
    plateau.load_state_dict(state)
    assert plateau.state_dict() == state
