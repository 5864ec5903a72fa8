"""Optimisers of one's own: what would ignore a schedule or a group's value is an error, and nothing else is."""

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import ShapeError
from foveal.optim.hyper import BELOW_ONE
from foveal.optim.optimizer import UpdateRule

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 3)).astype("float32"), np.array([0, 1, 0, 1, 1, 0])


class Base(optim.Optimizer):
    """Momentum, written as its paper does."""

    state_names = ("v",)
    ranges = {"beta": BELOW_ONE}

    def __init__(self, parameters, lr=0.1, beta=0.9, rows=1, **common):
        self.beta, self.rows = beta, rows
        super().__init__(parameters, lr, **common)

    def update(self, p, g, state, now, group):
        v = now["beta"] * state["v"] + g
        return p - now["lr"] * v, {"v": v}


class OwnRate(Base):
    def update(self, p, g, state, now, group):
        return p - self.lr * g, {}


class GroupRate(Base):
    def update(self, p, g, state, now, group):
        return p - group["lr"] * g, {}


class OwnBeta(Base):
    def update(self, p, g, state, now, group):
        v = (1.0 - self.beta) * state["v"] + g
        return p - now["lr"] * v, {"v": v}


class GroupBeta(Base):
    def update(self, p, g, state, now, group):
        v = group["beta"] * state["v"] + g
        return p - now["lr"] * v, {"v": v}


class OwnDecay(Base):
    decays = False

    def update(self, p, g, state, now, group):
        return p - now["lr"] * (g + p * self.weight_decay), {}


class Steps(Base):
    def update(self, p, g, state, now, group):
        return p - now["lr"] * g / (1 - 0.9**self.steps), {}


class Unset(Base):
    def update(self, p, g, state, now, group):
        return p - now["rate"] * g, {}


class Values(Base):
    def values(self, step, group):
        return {"lr": self.lr, "beta": group["beta"]}


class Derived(Base):
    """Computes with what __init__ made of the number."""

    def __init__(self, parameters, lr=0.1, beta=0.9, **common):
        super().__init__(parameters, lr, beta, **common)
        self.rest = 1.0 - beta

    def update(self, p, g, state, now, group):
        v = (1.0 - self.rest) * state["v"] + g
        return p - now["lr"] * v, {"v": v}


class Corrected(Base):
    """Numbers that `values` makes of hyper-parameters."""

    def values(self, step, group):
        return {"rate": group["lr"] * (1 - group["beta"] ** step), "lr": group["lr"]}

    def update(self, p, g, state, now, group):
        return p - now["rate"] * g, {}


class OwnAdam(optim.Adam):
    """Calls the update of the package."""

    def update(self, p, g, state, now, group):
        new, state = super().update(p, g * 2.0, state, now, group)
        return new, state


class Truth(Base):
    """What is compiled in by its truth alone is in `structure` of the base."""

    decays = False

    def update(self, p, g, state, now, group):
        if group["weight_decay"]:
            g = g + p * now["weight_decay"]
        return p - now["lr"] * g * float(self.rows), {}


def trained(cls, steps=3, schedules=None, groups=None, change=None, **options):
    """The parameters after some steps."""
    nn.seed(0)
    net = nn.Linear(3, 2)
    rule = cls(groups(net) if groups else net.parameters(), **options)
    if schedules:
        rule.schedule(**schedules)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule)
    for i in range(steps):
        if change:
            change(rule, i)
        step(X, Y)
    return net.weight.data.copy()


def falling(step):
    return 0.1 / (step + 1)


def halves(net):
    return [{"params": [net.weight]}, {"params": [net.bias], "lr_factor": 0.5, "beta": 0.5}]


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (OwnRate, {"schedules": {"lr": falling}}, r"OwnRate: update reads self.lr, .*read now\['lr'\]"),
        (OwnRate, {}, r"read now\['lr'\]"),
        (GroupRate, {}, r"reads group\['lr'\], .*read now\['lr'\]"),
        (OwnBeta, {"schedules": {"beta": falling}}, r"reads self.beta, .*read now\['beta'\]"),
        (GroupBeta, {"schedules": {"beta": falling}}, r"reads self.beta, .*read now\['beta'\]"),
        (OwnDecay, {"schedules": {"weight_decay": falling}, "weight_decay": 0.1}, r"reads self.weight_decay"),
        (Steps, {}, r"self.steps, the number of the step, .*values\(self, step, group\)"),
        (Derived, {"schedules": {"beta": falling}}, r"the schedule of beta changes nothing, .*read now\['beta'\]"),
        (Unset, {}, r"reads now\['rate'\], which nobody sets; there are beta, l1, lr, weight_decay"),
        (OwnBeta, {"groups": halves}, r"reads self.beta, but group 1 .* beta 0.5, which would be ignored"),
        (Values, {"groups": halves}, r"values reads self.lr, but group 1 .* lr 0.05, which would be ignored"),
    ],
)
def test_what_would_be_ignored_is_an_error(cls, options, message):
    with pytest.raises(ShapeError, match=message):
        trained(cls, **options)


def test_a_schedule_that_comes_later_is_an_error_as_well():
    def change(rule, i):
        if i == 1:
            rule.schedule(beta=falling)

    with pytest.raises(ShapeError, match=r"read now\['beta'\]"):
        trained(OwnBeta, change=change)


def test_the_same_in_a_wrapper():
    with pytest.raises(ShapeError, match=r"read now\['lr'\]"):
        trained(lambda p: optim.EMA(OwnRate(p), decay=0.9))


def test_a_number_that_nothing_reads_cannot_be_scheduled_later_either():
    def change(rule, i):
        if i == 1:
            rule.schedule(beta=falling)

    with pytest.raises(ShapeError, match="the schedule of beta changes nothing"):
        trained(Derived, change=change)


@pytest.mark.parametrize("cls", [Base, Truth, GroupBeta, Corrected, OwnAdam])
@pytest.mark.parametrize("groups", [None, halves])
def test_what_is_right_is_no_error(cls, groups):
    schedules = {"lr": falling}
    if cls is OwnAdam:
        groups, schedules["momentum"] = None, lambda step: 0.9 - 0.1 * step
    elif cls is not GroupBeta:
        schedules["weight_decay"] = lambda step: 0.01 * step
    if cls is Corrected:
        schedules["beta"] = lambda step: 0.5
    assert np.isfinite(trained(cls, schedules=schedules, groups=groups)).all()


def test_all_of_ranges_is_in_now():
    """A schedule of a number that no `values` mentions."""
    schedules = {"lr": falling, "beta": lambda step: 0.5 + 0.1 * step}
    ours = trained(Base, schedules=schedules)
    names = {"lr": falling, "momentum": schedules["beta"]}
    np.testing.assert_allclose(ours, trained(optim.Momentum, schedules=names, lr=0.1), rtol=1e-6)


def test_what_is_compiled_in_is_compiled_again_when_it_changes():
    def change(rule, i):
        rule.rows = i

    def rate(rule, i):
        rule.lr = 0.1 * i

    ours = trained(Truth, change=change)
    np.testing.assert_allclose(ours, trained(optim.SGD, change=rate, lr=0.1), rtol=1e-6)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda p, g: p - g, "return the new parameter and a dict"),
        (lambda p, g: (p - g, {"w": g}), "list it in state_names"),
        (lambda p, g: (p - g, {"v": 0.0}), "shape"),
        (lambda p, g: (g.sum(), {}), "shape"),
    ],
)
def test_what_update_returns_is_checked(result, message):
    cls = type("Wrong", (Base,), {"update": lambda self, p, g, state, now, group: result(p, g), "__module__": "own"})
    with pytest.raises(ShapeError, match=message):
        trained(cls)


def test_a_name_may_be_registered_again():
    try:
        for rate in (0.1, 0.2):
            cls = type(optim.Optimizer)(
                "Cell", (Base,), {"default_lr": rate, "__module__": "__main__"}, name="cell_optimiser"
            )
            assert UpdateRule.registry["cell_optimiser"] is cls
        with pytest.raises(ValueError, match="Foveal has one"):
            type(optim.Optimizer)("Cell", (Base,), {"default_lr": 1.0, "__module__": "__main__"}, name="sgd")
    finally:
        UpdateRule.registry.pop("cell_optimiser", None)


def test_an_error_in_values_counts_no_step():
    class Failing(Base):
        def values(self, step, group):
            if step == 3:
                raise ZeroDivisionError
            return super().values(step, group)

    rules = []
    with pytest.raises(ZeroDivisionError):
        trained(Failing, change=lambda rule, i: rules.append(rule))
    assert rules[0].steps == 2
