"""Statistics of activations, gradients and parameters: against PyTorch's autograd, and by hand."""

import numpy as np
import pytest

import foveal
from foveal import explain, nn, ops, optim
from foveal.errors import DataError, ShapeError, StateError
from foveal.explain import layer_statistics

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 2, 7, 7), "float32")
Y = RNG.integers(0, 3, 24)


def made():
    nn.seed(1)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 6)
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.parametrize("training", [False, True])
def test_agree_with_pytorch(training, monkeypatch):
    torch = pytest.importorskip("torch")
    net = made()
    t = torch.nn
    twin = t.Sequential(
        t.Conv2d(2, 4, 3), t.BatchNorm2d(4), t.ReLU(), t.MaxPool2d(2), t.Flatten(), t.Linear(16, 6), t.Tanh()
    )
    twin.append(t.Linear(6, 3))
    state = net.state_dict()
    twin.load_state_dict({name: torch.tensor(value) for name, value in state.items()}, strict=False)
    twin.double().train(training)
    values, x = [], torch.tensor(X, dtype=torch.float64)
    for layer in twin:
        x = layer(x)
        x.retain_grad()
        values.append(x)
    loss = t.functional.cross_entropy(x, torch.tensor(Y))
    loss.backward()

    # In evaluation mode the images are taken in parts, which changes nothing.
    monkeypatch.setattr(layer_statistics, "BATCH", 10)
    found = explain.statistics(net, X, Y, nn.CrossEntropyLoss(), training=training)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert [row.name for row in found.layers] == ["0", "1", "2", "3", "5", "6", "7"]
    for row in found.layers:
        value = values[int(row.name)]
        a, g = value.detach().numpy(), value.grad.numpy()
        assert row.shape == a.shape[1:]
        scale = {"rel": 1e-4, "abs": 1e-5}
        assert (row.mean, row.std) == (pytest.approx(a.mean(), **scale), pytest.approx(a.std(), **scale))
        assert row.zeros == pytest.approx((a == 0).mean(), abs=1e-3)
        assert row.gradient_mean == pytest.approx(g.mean(), rel=1e-3, abs=1e-7)
        assert row.gradient_std == pytest.approx(g.std(), rel=1e-3)
    for name, parameter in twin.named_parameters():
        row, w, g = found.parameter(name), parameter.detach().numpy(), parameter.grad.numpy()
        assert row.norm == pytest.approx(np.linalg.norm(w))
        assert row.gradient_norm == pytest.approx(np.linalg.norm(g), rel=1e-3, abs=1e-6)
        assert row.gradient_std == pytest.approx(g.std(), rel=1e-3, abs=1e-6)
        ratio = np.linalg.norm(g) / np.linalg.norm(w) if w.any() else np.nan
        assert row.gradient_ratio == pytest.approx(ratio, rel=1e-3, nan_ok=True, abs=1e-5)
    # Nothing is trained, and running statistics stay as they are.
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


class Functional(nn.Module):
    """A network whose activation functions are operators in its forward."""

    def __init__(self):
        self.conv, self.linear = nn.Conv2d(2, 4, 3), nn.Linear(100, 5)

    def forward(self, x):
        hidden = ops.relu(self.conv(x)).reshape((x.shape[0], 100))
        return ops.sigmoid(self.linear(hidden))


def test_dead_and_saturated_units_are_counted():
    net = Functional()
    # One filter is below 0 for every image; of the others some values are.
    net.conv.bias.data = np.array([-100, 0.1, 0, 0], "float32")
    net.linear.weight.data = np.sign(net.linear.weight.data)
    found = explain.statistics(net, X, np.zeros((24, 5), "float32"), nn.MSELoss())
    assert [(row.name, row.kind) for row in found.layers] == [
        ("conv", "Conv2d"),
        ("", "relu"),
        ("linear", "Linear"),
        ("", "sigmoid"),
    ]
    relu, sigmoid = found.layers[1], found.layers[3]
    z = net.eval().activations(X, ["conv"])["conv"]
    assert (relu.dead, relu.units) == (1, 4)
    assert relu.zeros == (z <= 0).mean()
    y = net(X)
    assert 0 < sigmoid.saturated == pytest.approx(((y < 0.02) | (y > 0.98)).mean(), abs=1e-6)
    assert sigmoid.dead is found.layers[0].dead is relu.saturated is None
    # What is dead has no gradient, nor has its filter.
    assert found.parameter("conv.weight").gradient_norm > 0
    assert "1/4" in str(found)


@pytest.mark.parametrize(
    ("layer", "dead", "saturated"),
    [
        (nn.ReLU6(), 1, 0.25),
        (nn.Hardtanh(), None, 0.75),
        (nn.Softsign(), None, 0.5),
        (nn.PReLU(), 1, None),
        (nn.SELU(), 1, None),
        (nn.GELU(), 1, None),
        (nn.Tanh(), None, 0.75),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_each_activation_function_has_its_own_flat_ends(layer, dead, saturated):
    x = np.tile(np.array([-100, 2, 0.5, 100], "float32"), (3, 1))
    net = nn.Sequential(nn.Identity(), layer)
    row = explain.statistics(net, x, x, nn.MSELoss()).layers[-1]
    assert (row.kind, row.dead, row.saturated) == (type(layer).__name__, dead, saturated)


def test_the_size_of_an_update_is_that_of_the_step():
    net = made()
    before = net.state_dict()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.5))
    slopes = explain.statistics(net, X, Y, nn.CrossEntropyLoss(), training=True)
    step(X, Y.astype("int32"))
    found = explain.statistics(net, X, Y, nn.CrossEntropyLoss(), before=before)
    for name in ("0.weight", "5.weight", "7.bias"):
        assert found.parameter(name).update_ratio == pytest.approx(
            0.5 * slopes.parameter(name).gradient_ratio, rel=1e-3
        )
    assert "update/|w|" in str(found)
    with pytest.raises(StateError, match=r"before has no 0.weight of shape \[4, 2, 3, 3\]; give net.state_dict\(\)"):
        explain.statistics(net, X, Y, nn.CrossEntropyLoss(), before={})


def test_what_does_not_fit_is_named():
    net, loss = made(), nn.CrossEntropyLoss()
    with pytest.raises(DataError, match="24 images and labels of shape"):
        explain.statistics(net, X, Y[:3], loss)
    with pytest.raises(DataError, match="3"):
        explain.statistics(net, X, np.full(24, 3), loss)
    with pytest.raises(ShapeError, match=r"the loss returned .* it has to be a function of outputs and targets"):
        explain.statistics(net, X, Y, lambda output, target: output)
    with pytest.raises(ShapeError, match="no statistics of a layer '9'; there are those of 0, 1"):
        explain.statistics(net, X, Y, loss).layer("9")


def test_the_figure_has_a_row_for_each_layer():
    pytest.importorskip("matplotlib")
    found = explain.statistics(made(), X, Y, nn.CrossEntropyLoss())
    figure = explain.plot_statistics(found, title="what training sees")
    first, _, third, fourth = figure.axes
    names = [text.get_text() for text in first.get_yticklabels()]
    assert names == [f"{row.name} {row.kind}" for row in found.layers]
    np.testing.assert_array_equal(third.lines[0].get_xdata(), [row.gradient_std for row in found.layers])
    assert [text.get_text() for text in fourth.get_yticklabels()] == ["0.weight", "5.weight", "7.weight"]
