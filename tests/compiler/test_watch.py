"""What is compiled follows the model: every attribute of every layer, and what else a traced function reads."""

import copy

import layers
import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import FovealError
from foveal.graph import Graph


class ByNumpy:
    """In place of a program: the graph, computed by NumPy, with its updates."""

    def __init__(self, graph):
        self.graph, self.profiled = graph, True
        self.results = [np.zeros(node.shape, node.type.dtype) for node in graph.outputs]

    def run(self, *arrays, names=(), finite=True):
        both = Graph(self.graph.nodes, self.graph.arguments, self.graph.results(), ())
        values = both.evaluate(*arrays)
        for (variable, _), value in zip(self.graph.updates, values[len(self.graph.outputs) :], strict=True):
            variable.data = value
        for result, value in zip(self.results, values, strict=False):
            result[...] = value
        return [result.copy() for result in self.results]


@pytest.fixture
def by_numpy(monkeypatch):
    """Programs that are not compiled: what they compute is what was traced."""
    for place in ("foveal.api.build", "foveal.step.build"):
        monkeypatch.setattr(place, lambda graph, *_, **__: ByNumpy(graph))


class Scaled(nn.Module):
    """A layer inside of a model that has something to train in any case."""

    def __init__(self, layer):
        self.scale = nn.Parameter(np.ones(()))
        self.layer = layer

    def forward(self, x):
        return self.layer(x * self.scale)


def outcome(call):
    """What a call returns, or how it refuses."""
    try:
        return call()
    except FovealError as error:
        return type(error).__name__, str(error)


def same(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return np.array_equal(a, b, equal_nan=True)


def answer(net, x):
    """Outputs and state after a call."""
    net.__dict__["_calls"] = 0
    return outcome(lambda: net(x)), net.state_dict()


def stepped(net, step, x):
    """Loss, output and state after a training step."""
    step.steps = 0
    return outcome(lambda: (lambda r: [r.loss, r.output])(step(x, np.zeros(1, np.float32)))), net.state_dict()


def mean_of_squares(y, t):
    y = y[0] if isinstance(y, tuple) else y
    return ops.mean(y * y) + ops.sum(t)


def step_of(net):
    return foveal.compile_step(net, mean_of_squares, optim.SGD(net.parameters(), lr=0.1))


def fresh(name, attribute, value, stepping):
    net = Scaled(layers.layer(name))
    setattr(net.layer, attribute, copy.deepcopy(value))
    x = layers.batch(name)
    return stepped(net, step_of(net), x) if stepping else answer(net, x)


def test_the_table_has_every_layer():
    public = {n for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Module)}
    assert public == set(layers.LAYERS) | layers.NOT_CALLED


# in which the mode makes a difference
WITH_MODES = {
    "BatchNorm1d",
    "BatchNorm2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "StochasticDepth",
}
# attributes that nothing here is computed from: the loss of a step takes the first of several results
NO_EFFECT = {
    "places": {"LocallyConnected1d", "LocallyConnected2d"},
    "value": {f"{kind}Pad{n}d" for kind in ("Circular", "Reflection", "Replication") for n in (1, 2)},
    "training": set(layers.LAYERS) - WITH_MODES,
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("stepping", [False, True], ids=["call", "step"])
@pytest.mark.parametrize("name", layers.LAYERS)
def test_every_attribute_is_followed(name, stepping, by_numpy):
    x = layers.batch(name)
    for attribute, held in layers.attributes(layers.layer(name)):
        changed = False
        # A step takes longer to trace, and one other value says whether it follows.
        for value in layers.others(attribute, held)[: 1 if stepping else 2]:
            net = Scaled(layers.layer(name))
            start, step = net.state_dict(), step_of(net)
            before = stepped(net, step, x) if stepping else answer(net, x)
            net.load_state_dict(start)
            refused = outcome(lambda: setattr(net.layer, attribute, copy.deepcopy(value)))  # noqa: B023
            if refused is not None:
                assert attribute in refused[1]
                continue
            want = fresh(name, attribute, value, stepping)
            got = stepped(net, step, x) if stepping else answer(net, x)
            changed |= not same(before, got)
            # The optimiser was made for what the layer had.
            if stepping and isinstance(held, nn.Parameter | nn.Module) and got[0][0] == "StateError":
                assert f"layer.{attribute}" in got[0][1]
                assert "make the optimiser" in got[0][1]
            else:
                assert same(got, want), (attribute, value)
        # Without an effect the comparison would say nothing.
        seen = changed or name in NO_EFFECT.get(attribute, ()) or (stepping and attribute == "return_indices")
        assert seen, attribute
