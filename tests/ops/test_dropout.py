"""Dropout of elements, of channels and of residual branches: what is dropped together, how often, and what is
refused.
"""

import numpy as np
import pytest

import foveal
from foveal import nn
from foveal.autodiff import gradients
from foveal.build import build
from foveal.errors import ShapeError
from foveal.ops.op import Type
from foveal.trace import current, trace

# layer, shape of x, shape of its mask: 1 along axes whose elements are dropped together
LAYERS = {
    "elements": (lambda p: nn.Dropout(p), (40, 50), (40, 50)),
    "channels": (lambda p: nn.Dropout2d(p), (20, 100, 3, 5), (20, 100, 1, 1)),
    "channels_1d": (lambda p: nn.Dropout1d(p), (20, 100, 7), (20, 100, 1)),
    "images": (lambda p: nn.StochasticDepth(p, "row"), (2000, 2, 2, 3), (2000, 1, 1, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_belongs_together_is_dropped_together(name):
    make, shape, mask_shape = LAYERS[name]
    p, layer = 0.3, make(0.3)
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    y, again = layer(x), layer(x)
    mask = (y / x)[tuple(slice(0, n) for n in mask_shape)]
    np.testing.assert_allclose(y, x * np.broadcast_to(mask, shape), rtol=1e-6)
    dropped = mask == 0
    np.testing.assert_allclose(mask[~dropped], 1 / (1 - p), rtol=1e-6)
    # a share p of n independent elements is dropped, within five standard deviations
    assert abs(dropped.mean() - p) < 5 * np.sqrt(p * (1 - p) / mask.size)
    assert (y != again).any()
    assert layer.eval()(x).tobytes() == x.tobytes()


def test_a_branch_is_dropped_for_the_whole_batch():
    layer, x = nn.StochasticDepth(0.5, "batch"), np.ones((8, 3, 2, 2), np.float32)
    found = [np.unique(layer(x)).tolist() for _ in range(20)]
    assert {len(values) for values in found} == {1}
    assert {value for values in found for value in values} == {0.0, 2.0}


def test_the_gradient_is_dropped_alike():
    layer = nn.Dropout2d(0.5)

    def both(x, dy, key):
        current().key = key
        y = layer(x)
        return [y, *gradients(y, [x], dy)]

    x = np.ones((4, 9, 2, 3), np.float32)
    graph = trace(both, Type(x.shape), Type(x.shape), Type((4,), "int32"))
    y, dx = build(graph, threads=1).run(x, x, np.array([1, 0, 2, 0], np.int32))
    assert y.tobytes() == dx.tobytes()


EVERYTHING = {
    "Dropout": (lambda library: library.Dropout(1.0), (3, 4)),
    "Dropout1d": (lambda library: library.Dropout1d(1.0), (2, 3, 4)),
    "Dropout2d": (lambda library: library.Dropout2d(1), (2, 3, 4, 5)),
    "StochasticDepth": (lambda library: nn.StochasticDepth(1.0, "row"), (2, 3, 4)),
    "StochasticDepth, batch": (lambda library: nn.StochasticDepth(1.0, "batch"), (2, 3, 4)),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_probability_of_1_drops_everything(name, torch):
    make, shape = EVERYTHING[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x.flat[0] = np.inf
    both = foveal.value_and_grad(lambda a: make(nn)(a).sum())
    y, dx = both(x)
    assert y == 0
    assert not dx.any()
    layer = make(nn)
    if "Stochastic" not in name:
        finite = np.nan_to_num(x, posinf=1.0)
        np.testing.assert_array_equal(layer(finite), make(torch.nn)(torch.tensor(finite)).numpy())
    x.flat[0] = 1.0
    assert layer.eval()(x).tobytes() == x.tobytes()


REFUSED = {
    "p": (lambda: nn.Dropout(1.5), "Dropout: p is 1.5, it has to be between 0 and 1"),
    "p_channels": (lambda: nn.Dropout2d(-0.1), "Dropout2d: p is -0.1"),
    "p_depth": (lambda: nn.StochasticDepth(1.1, "row"), "StochasticDepth: p is 1.1"),
    "mode": (lambda: nn.StochasticDepth(0.1, "rows"), 'mode is \'rows\', it has to be "row" or "batch"'),
    "rank": (lambda: nn.Dropout2d(0.1), r"Dropout2d: takes images \[N, C, H, W\], got shape \(2, 3, 4\)"),
    "rank_1d": (lambda: nn.Dropout1d(0.1)(np.ones((2, 3), np.float32)), r"takes sequences \[N, C, L\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_dropout_is_refused(name):
    layer, words = REFUSED[name]
    with pytest.raises(ShapeError, match=words):
        layer()(np.ones((2, 3, 4), np.float32))


def test_integers_are_refused():
    with pytest.raises(ShapeError, match="is int32, it has to be float32"):
        nn.Dropout(0.5)(np.ones((2, 3), np.int32))
