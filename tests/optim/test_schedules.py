"""Schedules: 1,000 steps of each against torch.optim.lr_scheduler."""

import itertools
import math

import numpy as np
import pytest

from foveal.errors import ShapeError
from foveal.optim import schedule

STEPS = 1000


def by_torch(torch, make, steps=STEPS, lr=0.1):
    """(rate, momentum) in each step, as PyTorch's scheduler sets them."""
    descent = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr, momentum=0.9)
    scheduler = make(descent, torch.optim.lr_scheduler)
    values = []
    for _ in range(steps):
        group = descent.param_groups[0]
        values.append((group["lr"], group["momentum"]))
        descent.step()
        if len(values) < steps:  # OneCycleLR ends with its last step
            scheduler.step()
    return np.array(values).T


def close(function, want):
    got = np.array([function(step) for step in range(len(want))])
    assert abs(got - want).max() <= 1e-6 * abs(want).max()


LOW = {"base_momentum": 0.8, "max_momentum": 0.95}
# PyTorch's one cycle turns one step earlier, and its last divisor counts from the first rate
TURN = (0.25 * STEPS - 1) / STEPS
SCHEDULES = {
    "constant": (schedule.constant(0.1), lambda d, s: s.ConstantLR(d, 1.0)),
    "step": (schedule.step(0.1, 30, 0.9), lambda d, s: s.StepLR(d, 30, 0.9)),
    "multi-step": (schedule.multi_step(0.1, [100, 101, 700]), lambda d, s: s.MultiStepLR(d, [100, 101, 700])),
    "exponential": (schedule.exponential(0.1, 0.99), lambda d, s: s.ExponentialLR(d, 0.99)),
    "linear": (schedule.linear(0.1, 400, 0.2, 0.9), lambda d, s: s.LinearLR(d, 0.2, 0.9, total_iters=400)),
    "polynomial": (schedule.polynomial(0.1, 800, 2.0), lambda d, s: s.PolynomialLR(d, 800, power=2.0)),
    "cosine": (schedule.cosine(0.1, 300, 1e-3), lambda d, s: s.CosineAnnealingLR(d, 300, eta_min=1e-3)),
    "restarts": (
        schedule.cosine_restarts(0.1, 70, low=1e-3),
        lambda d, s: s.CosineAnnealingWarmRestarts(d, 70, eta_min=1e-3),
    ),
    "longer restarts": (
        schedule.cosine_restarts(0.1, 70, 2),
        lambda d, s: s.CosineAnnealingWarmRestarts(d, 70, T_mult=2),
    ),
    "warm-up": (
        schedule.warm_up(schedule.cosine(0.1, 900), 100, 0.01),
        lambda d, s: s.SequentialLR(d, [s.LinearLR(d, 0.01, total_iters=100), s.CosineAnnealingLR(d, 900)], [100]),
    ),
    "triangular": (schedule.triangular(0.01, 0.1, 70, 30), lambda d, s: s.CyclicLR(d, 0.01, 0.1, 70, 30, **LOW)),
    "triangular2": (
        schedule.triangular(0.01, 0.1, 70, mode="triangular2"),
        lambda d, s: s.CyclicLR(d, 0.01, 0.1, 70, mode="triangular2", **LOW),
    ),
    "exp_range": (
        schedule.triangular(0.01, 0.1, 70, mode="exp_range", gamma=0.998),
        lambda d, s: s.CyclicLR(d, 0.01, 0.1, 70, mode="exp_range", gamma=0.998, **LOW),
    ),
    "one cycle": (
        schedule.one_cycle(0.1, STEPS, TURN, final_div=25e4),
        lambda d, s: s.OneCycleLR(d, 0.1, STEPS, pct_start=0.25),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # PyTorch's SequentialLR warns of itself
@pytest.mark.parametrize("name", SCHEDULES)
def test_1000_steps_equal_torch(name, torch):
    ours, make = SCHEDULES[name]
    close(ours, by_torch(torch, make)[0])


def test_momentum_against_the_rate_equals_torch(torch):
    cycle = by_torch(torch, lambda d, s: s.OneCycleLR(d, 0.1, STEPS, pct_start=0.25))
    close(schedule.one_cycle_momentum(STEPS, start=TURN), cycle[1])
    triangle = by_torch(torch, lambda d, s: s.CyclicLR(d, 0.01, 0.1, 70, 30, **LOW))
    close(schedule.triangular(0.95, 0.8, 70, 30), triangle[1])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"mode": "max", "factor": 0.5, "patience": 3, "cooldown": 4, "threshold": 0.05},
        {"threshold_mode": "abs", "threshold": 0.1, "patience": 0, "factor": 0.9, "low": 1e-3},
    ],
    ids=str,
)
def test_plateau_equals_torch(how, torch):
    metrics = np.cumsum(np.random.default_rng(1).standard_normal(STEPS)) / 10 - np.arange(STEPS) / 300
    descent = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    theirs = {**how, "min_lr": how.get("low", 0.0)}
    theirs.pop("low", None)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(descent, **theirs)
    ours = schedule.Plateau(0.1, **how)
    again = schedule.Plateau(0.1, **how)
    values = set()
    for step, metric in enumerate(metrics):
        scheduler.step(metric)
        ours.update(metric)
        if step == 500:
            again.load_state_dict(ours.state_dict())
        elif step > 500:
            again.update(metric)
        assert ours(step) == pytest.approx(descent.param_groups[0]["lr"], rel=1e-6)
        values.add(ours(step))
    assert again(STEPS) == ours(STEPS)
    assert len(values) > 2


def test_one_cycle_begins_turns_and_ends_where_it_should():
    rate, momentum = schedule.one_cycle(1.0, 100), schedule.one_cycle_momentum(100)
    assert [rate(0), rate(25), rate(99)] == pytest.approx([1 / 25, 1.0, 1e-5])
    assert [momentum(0), momentum(25), momentum(99)] == pytest.approx([0.95, 0.85, 0.95])
    rising = [rate(step) for step in range(26)]
    assert rising == sorted(rising)


@pytest.mark.parametrize("name", schedule.NAMES)
def test_schedules_by_name_fit_a_run_of_any_length(name):
    for total, epoch in ((1, 1), (7, 7), (500, 50)):
        rates = [schedule.build(name, 0.1, total, epoch)(step) for step in range(total)]
        assert all(math.isfinite(rate) and 0 <= rate <= 0.1 + 1e-12 for rate in rates)
        assert max(rates) > 0
    assert (max(rates) > min(rates)) == (name not in ("constant", "plateau"))


def test_only_a_plateau_reacts_to_the_loss():
    for name in schedule.NAMES:
        rate = schedule.build(name, 0.1, 100, 10)
        before = [rate(step) for step in range(100)]
        # 4 epochs without an improvement, and a patience of 2
        for _ in range(4):
            rate.observe(1.0)
        after = [rate(step) for step in range(100)]
        assert (after != before) == (name == "plateau"), name


ERRORS = {
    "step: step_size is 0, it has to be at least 1": lambda: schedule.step(0.1, 0),
    r"multi_step: milestones \[3, 2\] have": lambda: schedule.multi_step(0.1, [3, 2]),
    "exponential: gamma is 0": lambda: schedule.exponential(0.1, 0),
    "linear: total is 0": lambda: schedule.linear(0.1, 0),
    "cosine: total is -1": lambda: schedule.cosine(0.1, -1),
    "cosine_restarts: period is 0": lambda: schedule.cosine_restarts(0.1, 0),
    "warm_up: start is 2": lambda: schedule.warm_up(schedule.constant(0.1), 5, 2),
    "2 schedules need 1 milestones": lambda: schedule.sequence([schedule.constant(1)] * 2, []),
    "triangular: up is 0": lambda: schedule.triangular(0.1, 1, 0),
    "triangular: mode 'x' is not one of triangular": lambda: schedule.triangular(0.1, 1, 5, mode="x"),
    "slanted_triangular: total is 0": lambda: schedule.slanted_triangular(0.1, 0),
    "slanted_triangular: start is 0.23, first 2 and last": lambda: schedule.slanted_triangular(0.1, 9, first=2),
    "lookahead: decay is 1": lambda: schedule.lookahead(1, 10),
    "lookahead: total is 0, it": lambda: schedule.lookahead(0.9, 0),
    "one_cycle: total is 0": lambda: schedule.one_cycle(0.1, 0),
    "Plateau: mode 'x'": lambda: schedule.Plateau(0.1, "x"),
    "Plateau: factor is 1": lambda: schedule.Plateau(0.1, factor=1),
    "no schedule called 'x'; choose one of one-cycle": lambda: schedule.build("x", 0.1, 10),
}


@pytest.mark.parametrize("words", ERRORS)
def test_errors_name_what_is_wrong(words):
    with pytest.raises(ShapeError, match=words):
        ERRORS[words]()


def test_a_sequence_counts_from_each_milestone():
    parts = [lambda step: step, lambda step: 100 + step, lambda step: 200 + step]
    joined = schedule.sequence(parts, [3, 5])
    assert list(map(joined, range(7))) == [0, 1, 2, 100, 101, 200, 201]
    assert next(itertools.dropwhile(lambda i: joined(i) < 200, itertools.count())) == 5
