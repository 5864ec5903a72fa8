"""No hyper-parameters make weights or an optimiser's state infinite or NaN while the gradients are small and finite."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ShapeError

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
Y = np.zeros((4, 2), np.float32)


def net():
    nn.seed(0)
    return nn.Linear(3, 2)


def slopes_of(size):
    """A loss whose gradient in the outputs is `size`, whatever they are."""
    return lambda y, target: ops.mean(y - target) * size


def trained(make, size=0.0, steps=300):
    model = net()
    optimizer = make(model.parameters())
    step = foveal.compile_step(model, slopes_of(size), optimizer, threads=1)
    for _ in range(steps):
        step(X, Y)
    return model, optimizer


def all_finite(model, optimizer):
    arrays = model.state_dict() | optimizer.state_dict()
    return all(np.isfinite(array).all() for array in arrays.values())


def groups(p, **options):
    return [{"params": p[:1], **options}, {"params": p[1:]}]


# lr times weight decay above 1; without the refusal the weights are infinite after 300 steps, or their norm is
DECAYS = {
    "sgd": (lambda p: optim.SGD(p, 1.0, weight_decay=3.0), "SGD: lr 1 and weight_decay 3.*share.*, 3, .*at most 1"),
    "momentum": (lambda p: optim.Momentum(p, 2.0, weight_decay=4.0), "Momentum: lr 2 and weight_decay 4"),
    "nesterov": (lambda p: optim.Nesterov(p, 2.0, weight_decay=4.0), "Nesterov: lr 2 and weight_decay 4"),
    "decoupled": (lambda p: optim.SGD(p, 3.0, weight_decay=1.0, decoupled=True), "SGD: lr 3 and weight_decay 1"),
    "adamw": (lambda p: optim.AdamW(p, 30.0, weight_decay=0.1), "AdamW: lr 30 and weight_decay 0.1"),
    "nadam": (lambda p: optim.NAdam(p, 1.0, weight_decay=3.0, decoupled=True), "NAdam: lr 1"),
    "adagrad": (lambda p: optim.Adagrad(p, 1.0, weight_decay=3.0, decoupled=True), "Adagrad: lr 1"),
    "rmsprop": (lambda p: optim.RMSprop(p, 1.0, weight_decay=3.0, decoupled=True), "RMSprop: lr 1"),
    "muon": (lambda p: optim.muon(p, 1.0, weight_decay=3.0), "Muon: lr 1 and weight_decay 3"),
    "lamb": (lambda p: optim.LAMB(p, 1.0, weight_decay=3.0, adapt=False), "LAMB: lr 1 and weight_decay 3"),
    "group": (lambda p: optim.SGD(groups(p, weight_decay=3.0), 1.0), "SGD: group 0 has lr 1 and weight_decay 3"),
    "average": (lambda p: optim.EMA(optim.AdamW(p, 30.0, weight_decay=0.1)), "AdamW: lr 30"),
    "lookahead": (lambda p: optim.Lookahead(optim.SGD(p, 3.0, weight_decay=1.0)), "SGD: lr 3"),
}


@pytest.mark.parametrize("name", DECAYS)
def test_decay_of_more_than_the_whole_is_refused_and_changes_nothing(name):
    make, message = DECAYS[name]
    model = net()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    optimizer = make(model.parameters())
    step = foveal.compile_step(model, slopes_of(0.0), optimizer, threads=1)
    state = optimizer.state_dict()
    with pytest.raises(ShapeError, match=message):
        step(X, Y)
    for old, new in ((before, model.state_dict()), (state, optimizer.state_dict())):
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[k], new[k]) for k in old)
    assert optimizer.steps == step.steps == 0


def test_a_schedule_that_leads_there_is_refused_when_it_does():
    model = net()
    optimizer = optim.Combined(
        optim.SGD(model.parameters()[:1], 0.1), optim.AdamW(model.parameters()[1:], 0.1, weight_decay=1.0)
    )
    optimizer.parts[1].schedule(lr=lambda number: 0.5 * (number + 1))
    step = foveal.compile_step(model, slopes_of(1.0), optimizer, threads=1)
    step(X, Y)
    step(X, Y)
    with pytest.raises(ShapeError, match=r"AdamW: lr 1\.5 and weight_decay 1"):
        step(X, Y)
    assert [optimizer.steps, *(part.steps for part in optimizer.parts)] == [2, 2, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, 0.5, weight_decay=2.0),
        lambda p: optim.Nesterov(p, 1.0, momentum=0.99, weight_decay=1.0),
        lambda p: optim.AdamW(p, 1e-2, weight_decay=100.0),
        # its step is as long as the rate says
        lambda p: optim.Adam(p, 1.0, weight_decay=3.0),
    ],
    ids=["sgd", "nesterov", "adamw", "adam"],
)
def test_decay_of_at_most_the_whole_stays_finite(make):
    model, optimizer = trained(make)
    assert all_finite(model, optimizer)
    assert max(np.abs(v).max() for v in model.state_dict().values()) < 100


def p(*shape):
    return nn.Parameter(np.zeros(shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        # of a gradient of 0 these were 0 / 0
        (lambda: optim.Adam([p(2)], eps=1e-50), "Adam: eps is 1e-50, it has to be more than 0, in float32"),
        (lambda: optim.Adam([{"params": [p(2)], "eps": 0.0}]), "Adam: eps is 0.0, it has to be more than 0"),
        (lambda: optim.NAdam([{"params": [p(2)], "eps": 0.0}]), "NAdam: eps is 0.0"),
        (lambda: optim.LAMB([{"params": [p(2)], "eps": -1.0}]), "LAMB: eps is -1.0"),
        (lambda: optim.Adagrad([{"params": [p(2)], "eps": 0.0}]), "Adagrad: eps is 0.0"),
        (lambda: optim.RMSprop([{"params": [p(2)], "eps": 1e-60}]), "RMSprop: eps is 1e-60"),
        (lambda: optim.Muon([{"params": [p(2, 2)], "eps": 0.0}]), "Muon: eps is 0.0"),
        (lambda: setattr(optim.Adam([p(2)]), "eps", 0), "Adam: eps is 0, it has to be more than 0"),
        # products beyond float32
        (lambda: optim.Momentum([p(2)], 0.1, dampening=-1e30), "dampening is -1e\\+30, it has to be a finite number"),
        (lambda: optim.LAMB([p(2)], bounds=(1e30, 1e31)), "LAMB: bounds is .*low below 1e"),
        (lambda: optim.Muon([p(2, 2)], coefficients=(10.0, 0.0, 0.0), ns_steps=50), "Muon: with coefficients"),
    ],
)
def test_numbers_that_divide_by_0_or_overflow_are_refused(wrong, message):
    with pytest.raises(ShapeError, match=message):
        wrong()


def test_options_of_groups_that_are_compiled_in_are_refused():
    for make, message in (
        (
            lambda w: optim.Muon([{"params": w, "ns_steps": 50, "coefficients": (10.0, 0, 0)}]),
            "Muon: with coefficients",
        ),
        (lambda w: optim.LAMB([{"params": w, "bounds": (1e30, 1e31)}]), "LAMB: bounds is"),
    ):
        model = net()
        step = foveal.compile_step(model, slopes_of(1.0), make(model.parameters()[:1]), threads=1)
        with pytest.raises(ShapeError, match=message):
            step(X, Y)


def test_the_rate_of_a_group_has_the_limit_of_every_rate():
    model = net()
    optimizer = optim.SGD(groups(model.parameters(), lr_factor=1e8), 1e8)
    step = foveal.compile_step(model, slopes_of(1.0), optimizer, threads=1)
    with pytest.raises(ShapeError, match="SGD: group 0 has lr 1e\\+16, it has to be at least 0 and below 1e"):
        step(X, Y)


def test_adagrad_s_sum_stays_finite():
    model, optimizer = trained(lambda q: optim.Adagrad(q, 0.1), size=1e19, steps=200)
    assert all_finite(model, optimizer)


def test_a_layer_s_rate_that_float32_cannot_hold_is_refused():
    model = net()
    model.weight.data = np.full((2, 3), 7e18)
    optimizer = optim.LAMB(model.parameters(), eps=1e10, betas=(0.0, 0.0))
    step = foveal.compile_step(model, slopes_of(3e-10), optimizer, threads=1)
    before = model.state_dict()
    with pytest.raises(foveal.errors.NumericsError, match="the trust ratio of an update is inf"):
        step(X, Y)
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())
