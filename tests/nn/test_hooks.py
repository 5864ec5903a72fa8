"""Forward hooks: what they see, when, what they may replace, and that what is compiled follows."""

import copy
import pickle

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ArgumentError, StateError

RNG = np.random.default_rng(8)
X, LABELS = RNG.standard_normal((5, 4), "float32"), RNG.integers(0, 3, 5)


class Net(nn.Module):
    def __init__(self):
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x, scale=1):
        return self.last(ops.relu(self.first(self.first(x)))) * scale


def net():
    nn.seed(2)
    return Net()


def linear(layer, x):
    return x @ layer.weight.data.T + layer.bias.data


def doubled(module, inputs, output):
    return output * 2.0


def test_hooks_see_numpy_arrays_once_for_each_call_in_order():
    model, seen = net(), []
    model.first.register_forward_hook(lambda m, i, o: seen.append(("first", m, i, o)))
    model.last.register_forward_pre_hook(lambda m, i: seen.append(("before last", m, i, None)))
    model.register_forward_hook(lambda m, i, o: seen.append(("net", m, i, o)))
    y = model(X)
    assert [name for name, *_ in seen] == ["first", "first", "before last", "net"]
    assert all(isinstance(part, np.ndarray) for _, _, inputs, _ in seen for part in inputs)
    once = linear(model.first, X)
    assert np.allclose(seen[0][3], once, atol=1e-5)
    assert np.allclose(seen[1][2][0], once, atol=1e-5)
    assert np.array_equal(seen[0][2][0], X)
    assert np.array_equal(seen[3][3], y)
    model(X)
    assert len(seen) == 8


def test_removing_and_registering_is_noticed():
    model, seen = net(), []
    y = model(X)
    with model.first.register_forward_hook(lambda m, i, o: seen.append(o)) as handle:
        model(X)
        assert len(seen) == 2
    model(X)
    handle.remove()
    assert len(seen) == 2
    with model.last.register_forward_hook(doubled):
        assert np.allclose(model(X), 2 * y, atol=1e-6)
    assert np.array_equal(model(X), y)


def test_what_an_observer_collects_compiles_nothing_anew():
    model, seen = net(), []
    model.first.register_forward_hook(lambda m, i, o: seen.append(o) if isinstance(o, np.ndarray) else None)
    step = foveal.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    for _ in range(3):
        step(X, LABELS)
        model(X)
    assert len(seen) == 6
    assert len(step.programs) == 1
    assert len(model._compiled.programs) == 1


def test_a_hook_that_returns_something_replaces_it_at_inference_and_in_a_step():
    model, other, order = net(), net(), []
    model.last.register_forward_pre_hook(lambda m, i: order.append("seen"))
    model.last.register_forward_hook(doubled)
    other.last.weight.data, other.last.bias.data = 2 * other.last.weight.data, 2 * other.last.bias.data
    assert np.allclose(model(X), other(X), atol=1e-5)
    assert order == ["seen"]
    steps = [foveal.compile_step(m, nn.CrossEntropyLoss(), optim.SGD(m.parameters(), lr=0.1)) for m in (model, other)]
    assert np.isclose(steps[0](X, LABELS).loss, steps[1](X, LABELS).loss, atol=1e-5)
    # The pre-hook sees symbols while the step is traced, and arrays in a call.
    assert order == ["seen", "seen"]
    compiled = foveal.compile(lambda x: model(x))
    assert np.allclose(compiled(X), model(X), atol=1e-6)


def test_pre_hooks_replace_inputs_and_options():
    model = net()
    y = model(X, scale=3)
    with model.register_forward_pre_hook(lambda m, inputs: inputs[0] * 0.0):
        assert np.allclose(model(X), model(X * 0), atol=1e-6)
    with model.register_forward_pre_hook(lambda m, i, named: (i, {"scale": 3}), with_kwargs=True):
        assert np.allclose(model(X), y, atol=1e-5)
    seen = []
    with model.register_forward_hook(lambda m, i, named, o: seen.append((i, named)), with_kwargs=True):
        model(X, scale=2)
    assert seen[0][1] == {"scale": 2}


def test_the_order_of_hooks_is_pytorchs():
    model, seen = net(), []
    model.last.register_forward_hook(lambda m, i, o: seen.append(1))
    model.last.register_forward_hook(lambda m, i, o: seen.append(2))
    model.last.register_forward_hook(lambda m, i, o: seen.append(0), prepend=True)
    model(X)
    assert seen == [0, 1, 2]


def test_a_hook_that_replaces_follows_what_it_reads():
    model, factor = net(), [2.0]
    y = model(X)
    model.register_forward_hook(lambda m, i, o: o * factor[0])
    assert np.allclose(model(X), 2 * y, atol=1e-6)
    factor[0] = 5.0
    assert np.allclose(model(X), 5 * y, atol=1e-5)


def test_hooks_that_cannot_be_compiled_say_so():
    model = net()
    step = foveal.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    with model.last.register_forward_hook(lambda m, i, o: np.exp(o)):
        for call in (lambda: model(X), lambda: step(X, LABELS)):
            with pytest.raises(ArgumentError, match=r"layer last.*hook <lambda> of Linear failed.*isinstance"):
                call()
    with (
        model.last.register_forward_hook(lambda m, i, o: np.ones(3, "float32")),
        pytest.raises(ArgumentError, match=r"returned ndarray where it saw symbols"),
    ):
        model(X)
    with pytest.raises(ArgumentError, match="a hook is 3"):
        model.register_forward_hook(3)
    model = nn.Sequential(nn.BatchNorm1d(4))
    model.register_forward_hook(doubled)
    with pytest.raises(StateError, match=r"running statistics have been updated without it.*net\.eval"):
        model(X)


def test_activations_of_hooked_layers_are_what_the_hooks_leave():
    model = net()
    want = linear(model.last, np.maximum(linear(model.first, linear(model.first, X)), 0))
    seen = []
    model.last.register_forward_hook(doubled)
    model.first.register_forward_hook(lambda m, i, o: seen.append(o))
    assert np.allclose(model.activations(X, ["last"])["last"], 2 * want, atol=1e-5)
    assert len(seen) == 2


def test_copies_and_pickles_keep_hooks():
    model = net()
    y = model(X)
    handle = model.register_forward_hook(doubled)
    copies = [copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    handle.remove()
    assert np.array_equal(model(X), y)
    for one in copies:
        assert np.allclose(one(X), 2 * y, atol=1e-6)


def test_a_layer_with_a_hook_is_not_folded():
    nn.seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    model[1].running_mean.data = [0.5, -0.5]
    x = RNG.standard_normal((2, 1, 5, 5), "float32")
    model[0].register_forward_hook(doubled)
    folded = nn.fold_batch_norm(model, x.shape)
    assert isinstance(folded[1], nn.BatchNorm2d)
    assert np.allclose(folded(x), model(x), atol=1e-5)


def test_a_hook_cannot_change_arrays_in_place_without_an_effect():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()

    def hook(module, inputs, output):
        output[...] = 0

    net[0].register_forward_hook(hook)
    with pytest.raises(ValueError, match="read-only"):
        net(np.ones((1, 3), "float32"))
