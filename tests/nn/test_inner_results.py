"""`net.activations` gives what inner layers return, by name."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ArgumentError, DataError

IMAGES = np.random.default_rng(0).standard_normal((3, 1, 8, 8), np.float32)


def network():
    nn.seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(body, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))


def test_all_layers_by_name_in_the_order_of_their_calls():
    net = network().eval()
    found = net.activations(IMAGES)
    assert list(found) == ["0.0", "0.1", "0.2", "0", "1", "2", "3"]
    np.testing.assert_array_equal(found["3"], net(IMAGES))
    np.testing.assert_array_equal(found["0"], found["0.2"])
    np.testing.assert_array_equal(found["0.2"], np.maximum(found["0.1"], 0))
    np.testing.assert_allclose(found["0.0"], net[0][0](IMAGES), rtol=1e-5, atol=1e-6)
    assert found["1"].shape == (3, 4, 3, 3)


def test_those_that_are_wanted():
    net = network().eval()
    everything = net.activations(IMAGES)
    for names in (["1"], ("0.1", "3"), []):
        found = net.activations(IMAGES, names)
        assert list(found) == list(names)
        for name in names:
            np.testing.assert_allclose(found[name], everything[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(net.activations(IMAGES, [""])[""], net(IMAGES))


def test_what_was_compiled_follows_the_model():
    net = network().eval()
    before = net.activations(IMAGES, ["0"])["0"]
    net[0][2] = nn.Tanh()
    after = net.activations(IMAGES, ["0"])["0"]
    np.testing.assert_array_equal(before, np.maximum(before, 0))
    assert after.min() < 0
    net[0][2] = nn.ReLU()
    np.testing.assert_array_equal(net.activations(IMAGES, ["0"])["0"], before)
    net.train()
    mean = net[0][1].running_mean.data.copy()
    net.activations(IMAGES, ["3"])
    assert (net[0][1].running_mean.data != mean).all()


class Branches(nn.Module):
    """A layer called twice, one that returns two arrays, and one that is not called"""

    def __init__(self):
        self.act, self.pool, self.unused = nn.Tanh(), nn.MaxPool2d(2, return_indices=True), nn.ReLU()

    def forward(self, x):
        y, _ = self.pool(self.act(x))
        return self.act(y)


def test_several_calls_and_several_results_are_lists():
    net = Branches()
    found = net.activations(IMAGES)
    assert sorted(found) == ["act", "pool"]
    first, second = found["act"]
    np.testing.assert_allclose(first, np.tanh(IMAGES), rtol=1e-6)
    largest, indices = found["pool"]
    assert largest.shape == indices.shape == (3, 1, 4, 4)
    np.testing.assert_allclose(second, np.tanh(largest), rtol=1e-6)


class Probe(nn.Module):
    """A classifier on an inner layer of another network"""

    def __init__(self, body, name):
        self.body, self.name, self.head = body, name, nn.Linear(4, 2)

    def forward(self, x):
        return self.head(ops.mean(self.body.activations(x, [self.name])[self.name], axes=(2, 3)))


def test_an_activation_is_a_feature_extractor():
    body = network()
    net = Probe(body, "0.1")
    assert net(IMAGES).shape == (3, 2)
    before = net.state_dict()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.head.parameters(), lr=0.1))
    step(IMAGES, np.array([0, 1, 1]))
    changed = {name for name, value in net.state_dict().items() if not np.array_equal(value, before[name])}
    assert {"head.weight", "head.bias"} == {name for name in changed if "running" not in name and "num" not in name}


def test_wrong_names_and_images_are_refused():
    net = network()
    with pytest.raises(ArgumentError, match=r"Sequential has no layer '0\.9'; did you mean '0"):
        net.activations(IMAGES, ["0.9"])
    with pytest.raises(ArgumentError, match=r"has no layer 'relu'; see net\.named_modules"):
        net.activations(IMAGES, ["relu"])
    with pytest.raises(ArgumentError, match="Branches does not call its layer 'unused'"):
        Branches().activations(IMAGES, ["unused"])
    with pytest.raises(DataError, match="the input of Sequential is empty"):
        net.activations(IMAGES[:0])
