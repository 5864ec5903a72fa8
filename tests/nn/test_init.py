"""Starting values: their moments and bounds, what they preserve, PyTorch's gains, and what they do to a deep
network.
"""

import math

import numpy as np
import pytest

from foveal import nn
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.nn import init

FILTERS, MATRIX = (64, 32, 3, 3), (300, 500)
FAN_IN, FAN_OUT = 32 * 9, 64 * 9


def drawn(rule, shape=FILTERS, seed=0, **how):
    values = getattr(init, rule)(np.random.Generator(np.random.Philox(seed)), shape, **how)
    assert values.dtype == np.float32
    assert values.shape == shape
    return values.astype(np.float64)


@pytest.mark.parametrize(
    ("rule", "how", "std"),
    [
        ("normal", {}, 0.01),
        ("normal", {"std": 0.3}, 0.3),
        ("uniform", {"low": -0.2, "high": 0.2}, 0.2 / math.sqrt(3)),
        ("xavier_uniform", {}, math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("xavier_normal", {"gain": 5 / 3}, 5 / 3 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("kaiming_uniform", {}, math.sqrt(1 / 3 / FAN_IN)),
        ("kaiming_uniform", {"gain": 1.5, "mode": "fan_out"}, 1.5 / math.sqrt(FAN_OUT)),
        ("kaiming_normal", {}, math.sqrt(2 / FAN_IN)),
        ("kaiming_normal", {"mode": "fan_out"}, math.sqrt(2 / FAN_OUT)),
    ],
)
def test_moments(rule, how, std):
    """Mean and standard deviation, within five of their own standard errors."""
    values = drawn(rule, **how)
    n = values.size
    assert abs(values.mean()) < 5 * std / math.sqrt(n)
    assert abs(values.std() / std - 1) < 5 / math.sqrt(2 * n)
    if "uniform" in rule:
        assert abs(values).max() <= std * math.sqrt(3) * (1 + 1e-6)
        assert abs(values).max() > std * math.sqrt(3) * 0.999


def test_truncated_normal():
    values = drawn("truncated_normal", std=0.5, mean=0.1, low=-0.4, high=1.1)
    assert values.min() >= np.float32(-0.4)
    assert values.max() <= np.float32(1.1)
    bounds = [abs(drawn("truncated_normal")).max() for _ in range(2)]
    assert bounds[0] == bounds[1] <= 2
    # of N(0, 1) cut off at 2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))
    standard = 0.8796
    assert abs(drawn("truncated_normal").std() - standard) < 0.015


def test_constants():
    assert not drawn("zeros").any()
    assert (drawn("ones") == 1).all()
    assert (drawn("constant", value=0.25) == 0.25).all()


@pytest.mark.parametrize("shape", [MATRIX, MATRIX[::-1], (16, 16), FILTERS, (8, 3, 5)])
def test_orthogonal_rows_or_columns(shape):
    values = drawn("orthogonal", shape, gain=2.0).reshape(shape[0], -1)
    values = values if values.shape[0] <= values.shape[1] else values.T
    np.testing.assert_allclose(values @ values.T, 4 * np.eye(len(values)), atol=1e-5)
    other = drawn("orthogonal", shape, seed=1, gain=2.0).reshape(shape[0], -1)
    assert abs(other - drawn("orthogonal", shape, gain=2.0).reshape(shape[0], -1)).max() > 0.01


@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_hands_its_input_on(groups):
    conv = nn.Conv2d(4, 4, (3, 5), padding="same", groups=groups, bias=False)
    conv.weight.data = init.dirac(init.generator(), conv.weight.shape, groups=groups)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(conv(x), x)


def test_partial_dirac_hands_its_input_on_and_draws_the_rest():
    """The first 4 of 6 filters in each of 2 groups copy the group's channels; the others have PyTorch's spread."""
    found = init.partial_dirac(np.random.default_rng(0), (12, 4, 3, 3), groups=2).reshape(2, 6, 4, 3, 3)
    for group in found:
        np.testing.assert_array_equal(group[:4], init.dirac(np.random.default_rng(0), (4, 4, 3, 3)))
        assert 0 < abs(group[4:]).max() < 1 / np.sqrt(36)
    layer = init.apply(nn.Sequential(nn.Conv2d(4, 12, 3, groups=2)), "partial_dirac")[0]
    assert layer.weight.data[1, 1, 1, 1] == 1
    # With fewer filters than channels all of them copy.
    few = init.partial_dirac(np.random.default_rng(0), (2, 4, 3, 3))
    np.testing.assert_array_equal(few, init.dirac(np.random.default_rng(0), (2, 4, 3, 3)))


def test_gains_and_dirac_are_pytorchs(torch):
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.2) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.2))
    want = torch.nn.init.dirac_(torch.empty(6, 2, 3), groups=2)
    np.testing.assert_array_equal(drawn("dirac", (6, 2, 3), groups=2), want.numpy())


def model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.LayerNorm((8, 4, 4)), nn.Flatten(), nn.Linear(128, 10)
    )


def test_apply_draws_weights_and_leaves_norms():
    net = model()
    state = {name: value.copy() for name, value in net.state_dict().items()}
    nn.seed(3)
    assert init.apply(net, "orthogonal", gain=0.5) is net
    after = {name: value.copy() for name, value in net.state_dict().items()}
    changed = {name for name in state if not np.array_equal(state[name], after[name])}
    assert changed == {"0.weight", "0.bias", "5.weight", "5.bias"}
    assert not after["0.bias"].any()
    other = model()
    nn.seed(3)
    again = init.apply(other, "orthogonal", gain=0.5).state_dict()
    assert all(np.array_equal(again[name], after[name]) for name in after)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: init.apply(model(), "he"), "is called 'he'; choose one of zeros, .*kaiming_normal"),
        (lambda: init.apply(model(), init.zeros), r"nn\.init\.apply: rule is .*the name of a rule: zeros, ones"),
        (lambda: drawn("xavier_normal", (8,)), "shape \\(8,\\) has no fan in and out"),
        (lambda: drawn("kaiming_normal", mode="both"), "mode is 'both'; choose 'fan_in' or 'fan_out'"),
        (lambda: drawn("orthogonal", (4, 0)), "has no fan in and out"),
        (lambda: drawn("dirac", (4, 4)), "it takes \\[K, C, ...\\]"),
        (lambda: drawn("dirac", (4, 4, 3), groups=3), "in 3 group"),
        (lambda: drawn("truncated_normal", low=1, high=1), "leave nothing to draw"),
        (lambda: init.calculate_gain("maxout"), "no gain is known for 'maxout'; choose one of"),
    ],
)
def test_what_has_no_meaning_is_one_clear_error(build, words):
    with pytest.raises(ShapeError, match=words):
        build()


def deep(width=256, layers=30):
    parts = (part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU()))
    return nn.Sequential(*parts)


def batch(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_thirty_layers_vanish_or_live():
    """Each relu layer multiplies the second moment by width var(w) / 2, backwards as well."""
    nn.seed(0)
    net, x = deep(), batch(64, 256)
    for rule, per_layer in (("normal", 256 * 1e-4 / 2), ("xavier_normal", 0.5), ("kaiming_normal", 1)):
        report = nn.variance_report(init.apply(net, rule), x)
        for growth in (report.growth, report.gradient_growth):
            assert abs(math.log10(growth) - 29 * math.log10(per_layer)) < 1.5


def test_a_report_is_what_layers_compute():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU())
    x = batch(4, 2, 9, 8)
    state = {name: value.copy() for name, value in net.state_dict().items()}
    report = nn.variance_report(net, x)
    assert [(r.name, r.kind, r.shape) for r in report.rows] == [
        ("0", "Conv2d", (4, 3, 4, 3)),
        ("1", "BatchNorm2d", (4, 3, 4, 3)),
        ("2", "ReLU", (4, 3, 4, 3)),
    ]
    assert all(np.array_equal(state[name], value) for name, value in net.state_dict().items())
    y = dict(net.named_children())["0"](x)
    assert report.row("0").variance == pytest.approx(y.var(dtype=np.float64), rel=1e-5)
    assert report.row("0").mean == pytest.approx(y.mean(dtype=np.float64), rel=1e-4)
    # in training mode
    assert report.row("1").variance == pytest.approx(1, rel=1e-3)
    assert report.row("1").zeros == 0
    assert 0.3 < report.row("2").zeros < 0.7
    assert report.row("2").gradient_variance == pytest.approx(1, rel=0.3)
    assert report.row("1").gradient_variance < report.row("2").gradient_variance
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "output", "mean", "variance", "zeros", "gradient's", "variance"]
    assert lines[2].split()[:3] == ["0", "Conv2d", "3x4x3"]


def test_a_report_of_a_model_with_shortcuts_and_dropout():
    report = nn.variance_report(nn.models.build("resnet20", channels=1, size=(16, 16), classes=10), batch(4, 1, 16, 16))
    assert len(report.rows) > 40
    net = nn.Sequential(nn.Linear(100, 100), nn.Dropout(0.5))
    assert 0.4 < nn.variance_report(net, batch(8, 100)).row("1").zeros < 0.6


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (np.zeros((0, 3)), DataError, "is empty"),
        (np.full((2, 3), np.nan, np.float32), NumericsError, "holds nan"),
        (batch(2, 4), ShapeError, "4"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(x, kind, words):
    with pytest.raises(kind, match=words):
        nn.variance_report(nn.Sequential(nn.Linear(3, 2)), x)
    with pytest.raises(ShapeError, match="has no layer 'nix'; it has 0"):
        nn.variance_report(nn.Sequential(nn.Linear(3, 2)), batch(2, 3)).row("nix")
