"""The loss around a network: against the same sums in NumPy, and what the papers ask of directions and lines."""

import numpy as np
import pytest

from foveal import explain, metrics, nn
from foveal.errors import ArgumentError, DataError, NumericsError, ShapeError, StateError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((30, 6), "float32"), RNG.integers(0, 3, 30)
IMAGES = RNG.standard_normal((12, 1, 6, 6), "float32")
LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def linear():
    nn.seed(0)
    return nn.Sequential(nn.Linear(6, 3))


@pytest.fixture
def convolutional():
    nn.seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


def by_numpy(weight, bias):
    return metrics.cross_entropy(X.astype("float64") @ np.asarray(weight, "float64").T + bias, Y)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_landscape_is_the_loss_at_the_weights_plus_the_directions(linear, dimensions):
    before = linear.state_dict()
    linear.train()
    found = explain.loss_landscape(linear, X, Y, LOSS, dimensions=dimensions, points=5, span=(-0.5, 1.0), seed=3)
    assert linear.training
    np.testing.assert_array_equal(found.x, [-0.5, -0.125, 0.25, 0.625, 1.0])
    weight, bias = before["0.weight"], before["0.bias"]
    assert found.loss == pytest.approx(by_numpy(weight, bias), rel=1e-5)
    first, *second = (d["0.weight"] for d in found.directions)
    if dimensions == 1:
        expected = [by_numpy(weight + a * first, bias) for a in found.x]
    else:
        expected = [[by_numpy(weight + a * first + b * second[0], bias) for a in found.x] for b in found.y]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    for name, value in linear.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert f"loss {found.loss:.4g} on 30 images" in str(found)


def test_each_filter_of_a_direction_has_the_norm_of_the_filter_and_the_rest_stays(convolutional):
    found = explain.loss_landscape(convolutional, IMAGES, np.zeros(12, int), LOSS, dimensions=2, points=2)
    state = convolutional.state_dict()
    for direction in found.directions:
        for name, axes in (("0.weight", (1, 2, 3)), ("5.weight", 1)):
            lengths = [np.sqrt((values.astype("float64") ** 2).sum(axes)) for values in (direction[name], state[name])]
            np.testing.assert_allclose(*lengths, rtol=1e-6)
        # Biases, and scale and shift of the batch norm.
        assert not any(direction[name].any() for name in ("0.bias", "1.weight", "1.bias", "5.bias"))
    assert "1.running_mean" not in found.directions[0]
    # With other seeds there are other directions, with the same one the same bits.
    again, other = (
        explain.loss_landscape(convolutional, IMAGES, np.zeros(12, int), LOSS, dimensions=1, points=2, seed=seed)
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(again.directions[0]["0.weight"], found.directions[0]["0.weight"])
    assert (other.directions[0]["0.weight"] != again.directions[0]["0.weight"]).all()


def test_a_batch_norm_takes_the_scale_of_filters_away(convolutional):
    """Which is why filters are normalised: with weights 8 times as large the landscape is the same (section 4)."""
    convolutional[1].eps = 0.0
    kept = [explain.loss_landscape(convolutional, IMAGES, np.zeros(12, int), LOSS, dimensions=1, points=5).losses]
    for name, factor in (("0.weight", 8), ("0.bias", 8), ("1.running_mean", 8), ("1.running_var", 64)):
        state = convolutional.state_dict()
        convolutional.load_state_dict(state | {name: factor * state[name]})
    kept.append(explain.loss_landscape(convolutional, IMAGES, np.zeros(12, int), LOSS, dimensions=1, points=5).losses)
    np.testing.assert_allclose(*kept, rtol=1e-5)


def test_the_line_goes_from_the_start_to_the_network(linear):
    end = linear.state_dict()
    start = {name: RNG.standard_normal(value.shape).astype("float32") for name, value in end.items()}
    found = explain.loss_line(linear, X, Y, LOSS, start, span=(-0.5, 1.5), points=9)
    mixed = lambda name, a: (1 - a) * start[name].astype("float64") + a * end[name]  # noqa: E731
    expected = [by_numpy(mixed("0.weight", a), mixed("0.bias", a)) for a in found.along]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    there_and_back = explain.loss_line(linear, X, Y, LOSS, end, start, points=3)
    assert there_and_back.losses[-1] == pytest.approx(found.losses[2], rel=1e-6)
    np.testing.assert_array_equal(linear.state_dict()["0.weight"], end["0.weight"])


def test_running_statistics_lie_on_the_line_and_end_where_a_variance_would_be_negative(convolutional):
    end, y = convolutional.state_dict(), np.zeros(12, int)
    start = {**end, "1.running_var": 3 * end["1.running_var"], "1.running_mean": end["1.running_mean"] + 1}
    found = explain.loss_line(convolutional, IMAGES, y, LOSS, start, span=(0.0, 2.0), points=5)
    convolutional.load_state_dict({**end, "1.running_var": np.full(4, 2, "float32"), "1.running_mean": np.full(4, 0.5)})
    expected = metrics.cross_entropy(convolutional.eval()(IMAGES), y)
    assert found.losses[1] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(np.isnan(found.losses), [False, False, False, False, True])
    assert str(found).splitlines()[-1].split() == ["2", "-"]


@pytest.mark.parametrize("count", [3, 6])
def test_the_way_lies_on_the_plane_of_the_principal_components(linear, count):
    names = [f"epoch {i}" for i in range(count)]
    states = {n: {k: RNG.standard_normal(v.shape) for k, v in linear.state_dict().items()} for n in names}
    found = explain.loss_path(linear, X, Y, LOSS, states, points=4, margin=0.5)
    vectors = np.stack([np.concatenate([s["0.weight"].ravel(), s["0.bias"]]) for s in states.values()])
    differences = vectors - vectors[-1]
    # [2, D], up to the signs
    axes = np.linalg.svd(differences)[2][:2]
    axes *= np.sign((differences @ axes.T)[0])[:, None]
    coordinates = differences @ axes.T
    np.testing.assert_allclose(found.points, coordinates, atol=1e-8)
    away = np.linalg.norm(differences - coordinates @ axes, axis=1)[:-1] / np.linalg.norm(differences, axis=1)[:-1]
    np.testing.assert_allclose(found.off[:-1], away, atol=1e-7)
    assert found.off.max() < 1e-6 or count > 3
    low, high = coordinates[:, 0].min(), coordinates[:, 0].max()
    assert (found.x[0], found.x[-1]) == pytest.approx((low - 0.5 * (high - low), high + 0.5 * (high - low)))
    loss = lambda v: by_numpy(v[:18].reshape(3, 6), v[18:])  # noqa: E731
    np.testing.assert_allclose(found.losses, [loss(v) for v in vectors], rtol=1e-4)
    surface = [[loss(vectors[-1] + a * axes[0] + b * axes[1]) for a in found.x] for b in found.y]
    np.testing.assert_allclose(found.surface, surface, rtol=1e-4)
    assert found.names == tuple(names)
    assert "epoch 0" in str(found)


def test_what_does_not_fit_is_named(linear):
    state = linear.state_dict()
    moved = {name: value + 1 for name, value in state.items()}
    with pytest.raises(DataError, match="2 states, of which fewer than 3 are different: a plane goes through three"):
        explain.loss_path(linear, X, Y, LOSS, {"start": state, "end": moved})
    line = {"0": state, "1": moved, "2": {name: value + 2 for name, value in state.items()}}
    with pytest.raises(DataError, match="all states lie on one line; use loss_line"):
        explain.loss_path(linear, X, Y, LOSS, line)
    with pytest.raises(StateError, match=r"a state has no 0.bias of shape \[3\]; give what net.state_dict\(\)"):
        explain.loss_line(linear, X, Y, LOSS, {"0.weight": state["0.weight"]})
    with pytest.raises(ShapeError, match="dimensions is 3, it has to be 1 or 2"):
        explain.loss_landscape(linear, X, Y, LOSS, dimensions=3)
    with pytest.raises(ShapeError, match="points is 1, it has to be from 2"):
        explain.loss_landscape(linear, X, Y, LOSS, points=1)
    with pytest.raises(ArgumentError, match="seed is -1"):
        explain.loss_landscape(linear, X, Y, LOSS, seed=-1)
    linear[0].weight.data = np.full((3, 6), np.nan)
    with pytest.raises(NumericsError, match="the loss of the network is nan"):
        explain.loss_landscape(linear, X, Y, LOSS)


def test_figures_show_the_numbers(linear):
    pytest.importorskip("matplotlib")
    state = linear.state_dict()
    others = [{k: RNG.standard_normal(v.shape) for k, v in state.items()} for _ in range(2)]
    curve = explain.loss_landscape(linear, X, Y, LOSS, dimensions=1, points=5)
    np.testing.assert_array_equal(explain.plot_loss_landscape(curve).axes[0].lines[0].get_ydata(), curve.losses)
    square = explain.loss_landscape(linear, X, Y, LOSS, points=4)
    assert [axis.get_ylabel() for axis in explain.plot_loss_landscape(square).axes] == ["second direction", "loss"]
    line = explain.loss_line(linear, X, Y, LOSS, others[0], points=5)
    np.testing.assert_array_equal(explain.plot_loss_line(line).axes[0].lines[0].get_ydata(), line.losses)
    way = explain.loss_path(linear, X, Y, LOSS, {"a": others[0], "b": others[1], "c": state}, points=4)
    axis = explain.plot_loss_path(way).axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), way.points)
    assert {text.get_text() for text in axis.texts} == {"a", "b", "c"}
