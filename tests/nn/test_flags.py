"""What flags and counts may be: 0 and 1 for False and True, None for no bias, whole floats for steps."""

import numpy as np
import pytest

from foveal import data, nn, optim
from foveal.errors import ArgumentError, ShapeError

LAYERS = {
    "Linear": lambda **how: nn.Linear(3, 2, **how),
    "Conv1d": lambda **how: nn.Conv1d(3, 2, 3, **how),
    "Conv2d": lambda **how: nn.Conv2d(3, 2, 3, **how),
    "ConvTranspose1d": lambda **how: nn.ConvTranspose1d(3, 2, 3, **how),
    "ConvTranspose2d": lambda **how: nn.ConvTranspose2d(3, 2, 3, **how),
    "LocallyConnected2d": lambda **how: nn.LocallyConnected2d(3, 2, 8, 3, **how),
    "LayerNorm": lambda **how: nn.LayerNorm(3, **how),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_of_none_is_no_bias(name):
    for no in (None, False, 0, np.False_):
        assert LAYERS[name](bias=no).bias is None
    assert LAYERS[name](bias=1).bias is not None
    with pytest.raises(ShapeError, match=f"{name}: bias is 'no', it has to be True or False; None is False"):
        LAYERS[name](bias="no")


@pytest.mark.parametrize("flag", [0, 1, np.int64(0), np.True_, True])
def test_0_and_1_are_flags(flag):
    layer = nn.Linear(3, 2)
    layer.weight.trainable = flag
    assert layer.weight.trainable is bool(flag)
    layer.weight.requires_grad = 1 - int(flag)
    assert layer.weight.trainable is not bool(flag)
    assert layer.requires_grad_(flag).bias.trainable is bool(flag)
    layer.training = flag
    assert layer.training is bool(flag)
    pool = nn.MaxPool2d(2)
    pool.ceil_mode = flag
    assert pool.ceil_mode is bool(flag)


@pytest.mark.parametrize("wrong", [2, -1, 0.5, "yes", None])
def test_other_values_are_no_flags(wrong):
    layer = nn.Linear(3, 2)
    with pytest.raises(ArgumentError, match=f"trainable is {wrong!r}, it has to be True or False"):
        layer.weight.trainable = wrong
    with pytest.raises(ArgumentError, match=f"Linear.training is {wrong!r}, it has to be True or False"):
        layer.training = wrong
    assert layer.training is layer.weight.trainable is True


SCHEDULES = {
    "step": lambda n: optim.schedule.step(0.1, n),
    "multi_step": lambda n: optim.schedule.multi_step(0.1, [n, 2 * n]),
    "linear": lambda n: optim.schedule.linear(0.1, n),
    "polynomial": lambda n: optim.schedule.polynomial(0.1, n),
    "cosine": lambda n: optim.schedule.cosine(0.1, n),
    "cosine_restarts": lambda n: optim.schedule.cosine_restarts(0.1, n, 2 * n / n if isinstance(n, float) else 2),
    "sequence": lambda n: optim.schedule.sequence([lambda s: 0.1, lambda s: 0.2], [n]),
    "warm_up": lambda n: optim.schedule.warm_up(optim.schedule.constant(0.1), n),
    "triangular": lambda n: optim.schedule.triangular(0.1, 0.2, n, n),
    "slanted_triangular": lambda n: optim.schedule.slanted_triangular(0.1, n),
    "lookahead": lambda n: optim.schedule.lookahead(0.9, n, n),
    "one_cycle": lambda n: optim.schedule.one_cycle(0.1, n),
    "one_cycle_momentum": lambda n: optim.schedule.one_cycle_momentum(n),
    "build": lambda n: optim.schedule.build("triangular", 0.1, n, n),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_whole_floats_are_counts_of_steps(name):
    want = SCHEDULES[name](100)
    for count in (100.0, np.float32(100), np.int16(100)):
        made = SCHEDULES[name](count)
        assert [made(s) for s in range(0, 250, 7)] == [want(s) for s in range(0, 250, 7)]
    for wrong in (100.5, np.nan, np.inf, "100"):
        with pytest.raises(ShapeError, match="has to be"):
            SCHEDULES[name](wrong)


def test_whole_floats_are_counts_of_steps_of_averages():
    rule = optim.SWA(optim.Lookahead(optim.SGD([nn.Parameter([1.0])], 0.1), k=5.0), start=10.0, every=2.0)
    assert (rule.start, rule.every, rule.parts[0].k) == (10, 2, 5)
    assert type(rule.parts[0].k) is int
    assert optim.schedule.Plateau(0.1, patience=2.0).patience == 2
    with pytest.raises(ShapeError, match=r"SWA: every is 1\.5, it has to be a whole number"):
        optim.SWA(optim.SGD([nn.Parameter([1.0])], 0.1), every=1.5)


def test_notes_on_parameters_have_a_way_out():
    p = nn.Parameter([1.0], "w")
    with pytest.raises(ArgumentError, match=r"no attribute 'tag'.*notes\[p\] = .*class Noted\(nn.Parameter\)"):
        p.tag = "frozen later"

    class Noted(nn.Parameter):
        """A parameter with a note."""

    q = Noted([1.0])
    q.tag = "frozen later"
    assert {p: "a"}[p] == "a"
    assert q.tag == "frozen later"


def test_fields_of_a_dataset_are_named():
    x, y = np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1])
    with pytest.raises(ArgumentError, match=r"fields images_train and images_test, x_train is made.*from_arrays"):
        data.Dataset(name="d", x_train=x, y_train=y, x_test=x, y_test=y, classes=("a", "b"))
    with pytest.raises(ArgumentError, match="missing a required argument: 'images_train'"):
        data.Dataset(name="d")
