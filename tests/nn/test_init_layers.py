"""What `init.apply` promises of each class of layer: the variance of outputs and of gradients."""

import math

import numpy as np
import pytest

from foveal import nn
from foveal.autodiff import gradients
from foveal.errors import ArgumentError, ShapeError
from foveal.nn import init
from foveal.ops.op import Type
from foveal.trace import trace

# Of each: the layer, an input, and the rows or columns at the border of outputs and of gradients that are left out, as
# fewer taps meet there.
LAYERS = {
    "Linear": (lambda: nn.Linear(40, 200), (200, 40), 0),
    "Conv1d": (lambda: nn.Conv1d(16, 40, 5, padding=2), (8, 16, 80), 4),
    "Conv1d, groups": (lambda: nn.Conv1d(32, 64, 5, padding=2, groups=8), (8, 32, 60), 4),
    "Conv2d": (lambda: nn.Conv2d(8, 40, 3, padding=1), (4, 8, 24, 24), 2),
    "Conv2d, groups": (lambda: nn.Conv2d(32, 64, 3, padding=1, groups=8), (4, 32, 20, 20), 2),
    "Conv2d, depthwise": (lambda: nn.Conv2d(256, 256, 3, padding=1, groups=256), (2, 256, 12, 12), 2),
    "Conv2d, depthwise, more filters": (lambda: nn.Conv2d(64, 256, 3, padding=1, groups=64), (4, 64, 12, 12), 2),
    "Conv2d, dilated": (lambda: nn.Conv2d(8, 40, 3, padding=2, dilation=2), (4, 8, 24, 24), 4),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(40, 16, 5), (8, 40, 60), 4),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(40, 10, 3), (4, 40, 20, 20), 2),
    "ConvTranspose2d, groups": (lambda: nn.ConvTranspose2d(64, 32, 3, groups=8), (4, 64, 16, 16), 2),
    "ConvTranspose2d, depthwise": (lambda: nn.ConvTranspose2d(256, 256, 3, groups=256), (2, 256, 10, 10), 2),
    "LocallyConnected2d": (lambda: nn.LocallyConnected2d(8, 16, 12, 3, padding=1), (16, 8, 12, 12), 2),
    "LocallyConnected2d, shared": (
        lambda: nn.LocallyConnected2d(8, 40, 24, 3, padding=1, shared_weights=True),
        (4, 8, 24, 24),
        2,
    ),
}
# The mean square of a few thousand values, or of filters with as many weights, is known to about this.
CLOSE = 0.12


def variances(layer, shape, border):
    """The variance of the outputs, and of the gradients of the inputs, on inputs and gradients of variance 1."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape)

    def both(symbol, dy):
        y = layer(symbol)
        return [y, *gradients(y, [symbol], dy)]

    outputs = trace(layer, Type(shape)).outputs[0].shape
    y, dx = trace(both, Type(shape), Type(outputs)).evaluate(x, rng.standard_normal(outputs))
    inside = (slice(None), slice(None), *(slice(border, -border) for _ in shape[2:])) if border else ()
    return (y[inside] ** 2).mean(), (dx[inside] ** 2).mean()


@pytest.mark.parametrize("rule", ["kaiming_normal", "kaiming_uniform"])
@pytest.mark.parametrize("name", LAYERS)
def test_fan_in_keeps_outputs_and_fan_out_gradients(name, rule):
    make, shape, border = LAYERS[name]
    nn.seed(1)
    layer = init.apply(make(), rule, mode="fan_in", gain=1.0)
    assert variances(layer, shape, border)[0] == pytest.approx(1, rel=CLOSE)
    layer = init.apply(make(), rule, mode="fan_out", gain=1.0)
    assert variances(layer, shape, border)[1] == pytest.approx(1, rel=CLOSE)


@pytest.mark.parametrize("rule", ["xavier_normal", "xavier_uniform"])
@pytest.mark.parametrize("name", LAYERS)
def test_xavier_lies_between_both(name, rule):
    """With var(w) = 2 / (n + m) outputs have 2 n / (n + m) and gradients 2 m / (n + m), which add up to 2."""
    make, shape, border = LAYERS[name]
    nn.seed(1)
    assert sum(variances(init.apply(make(), rule), shape, border)) == pytest.approx(2, rel=CLOSE)


def test_strides_are_not_counted():
    """With stride 2 one of four taps of an output, or of an input, is left."""
    nn.seed(1)
    layer = init.apply(nn.Conv2d(8, 40, 2, stride=2), "kaiming_normal", mode="fan_out", gain=1.0)
    assert variances(layer, (4, 8, 24, 24), 0)[1] == pytest.approx(1 / 4, rel=CLOSE)
    layer = init.apply(nn.ConvTranspose2d(40, 8, 2, stride=2), "kaiming_normal", gain=1.0)
    assert variances(layer, (4, 40, 12, 12), 0)[0] == pytest.approx(1 / 4, rel=CLOSE)


@pytest.mark.parametrize("name", LAYERS)
def test_orthogonal_filters_of_each_group(name):
    """Each output is a sum of weights of length 1, or each input is, where a group has fewer of them."""
    make, shape, border = LAYERS[name]
    nn.seed(1)
    layer = init.apply(make(), "orthogonal")
    filters = as_filters(layer)
    G, K, *taps = filters.shape
    matrices = filters.reshape(G, K, -1)
    wide = matrices if math.prod(taps) >= K else matrices.swapaxes(1, 2)
    np.testing.assert_allclose(
        wide @ wide.swapaxes(1, 2), np.broadcast_to(np.eye(wide.shape[1]), (G, *wide.shape[1:2] * 2)), atol=1e-5
    )
    if math.prod(taps) >= K:
        assert variances(layer, shape, border)[0] == pytest.approx(1, rel=CLOSE)


def as_filters(layer):
    """[G, K/G, C/G, ...] of the layer's weight, by the definition of its class."""
    weight, groups = layer.weight.data, getattr(layer, "groups", 1)
    if isinstance(layer, nn.LocallyConnected2d) and not layer.shared_weights:
        return weight.swapaxes(1, 2)
    if isinstance(layer, nn.ConvTranspose2d):
        return weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    return weight.reshape(groups, -1, *weight.shape[1:])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False),
        lambda: nn.ConvTranspose2d(6, 6, 3, padding=1, groups=3, bias=False),
        lambda: nn.ConvTranspose2d(6, 6, 3, padding=1, bias=False),
        lambda: nn.LocallyConnected2d(6, 6, 5, 3, padding=1, bias=False),
    ],
)
def test_dirac_follows_the_groups_of_the_layer(layer):
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(init.apply(layer(), "dirac")(x), x)


def test_layers_start_with_pytorchs_distribution(torch):
    """Its fan-in is that of the shape, also where a transposed convolution has another one."""
    for ours, theirs in (
        (nn.Conv2d(64, 64, 3, groups=8), torch.nn.Conv2d(64, 64, 3, groups=8)),
        (nn.ConvTranspose2d(64, 32, 3), torch.nn.ConvTranspose2d(64, 32, 3)),
        (nn.ConvTranspose2d(64, 64, 3, groups=4), torch.nn.ConvTranspose2d(64, 64, 3, groups=4)),
        (nn.Linear(50, 300), torch.nn.Linear(50, 300)),
    ):
        # Both draw weights and biases up to one bound, which the largest of thousands of weights is close to; of a few
        # dozen biases the largest may be far below.
        bound = float(abs(theirs.weight.detach()).max())
        assert abs(ours.weight.data).max() == pytest.approx(bound, rel=0.01)
        assert 0.5 * bound < float(abs(theirs.bias.detach()).max()) < 1.01 * bound
        assert 0.5 * bound < abs(ours.bias.data).max() < 1.01 * bound


def test_values_of_plain_layers_are_those_of_the_rule():
    """Bit by bit: the fans of a layer without groups follow from the shape."""
    for make in (lambda: nn.Conv2d(4, 6, 3), lambda: nn.Linear(7, 5), lambda: nn.ConvTranspose2d(4, 4, 3)):
        for rule in set(init.RULES) - {"dirac", "partial_dirac", "orthogonal"}:
            nn.seed(5)
            layer = make()
            nn.seed(7)
            got = init.apply(layer, rule).weight.data
            nn.seed(7)
            assert np.array_equal(got, init.RULES[rule](init.generator(), layer.weight.shape)), rule


def test_a_rule_that_refuses_a_layer_changes_none():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    before = net.state_dict()
    with pytest.raises(ShapeError, match="dirac"):
        init.apply(net, "dirac")
    with pytest.raises(ArgumentError, match="kaiming_normal: there is no option 'mod'; it takes gain, mode"):
        init.apply(net, "kaiming_normal", mod="fan_out")
    with pytest.raises(ArgumentError, match="zeros: there is no option 'gain'; it takes none"):
        init.apply(net, "zeros", gain=1)
    assert all(np.array_equal(value, before[name]) for name, value in net.state_dict().items())


def test_attributes_called_weight_that_are_no_parameters_are_left():
    class Weighted(nn.Module):
        def __init__(self):
            self.weight = 0.5
            self.loss = nn.BCEWithLogitsLoss(weight=np.full((2, 3), 2.0))
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x) * self.weight

    net = init.apply(Weighted(), "zeros")
    assert net.weight == 0.5
    assert (net.loss.weight.data == 2).all()
    assert not net.linear.weight.data.any()


def test_filters_of_groups_that_do_not_divide_are_refused():
    with pytest.raises(ShapeError, match=r"3 group\(s\) do not divide filters of shape \(4, 2\)"):
        init.orthogonal(init.generator(), (4, 2), groups=3)
