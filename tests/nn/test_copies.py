"""Copies and pickles of models, optimisers and steps: each has memory of its own, and goes on as the original."""

import copy
import multiprocessing
import pickle

import joblib
import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import StateError
from foveal.optim import schedule

X, LABELS = np.random.default_rng(0).standard_normal((6, 4), np.float32), np.array([0, 1, 2, 0, 1, 2])


class Tied(nn.Module):
    """Two layers that share their weight, a norm with statistics, and one frozen parameter"""

    def __init__(self):
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.blocks = [nn.Dropout(0.25), nn.Linear(4, 3)]
        self.blocks[1].bias.trainable = False

    def forward(self, x):
        x = self.norm(self.second(self.first(x)))
        for block in self.blocks:
            x = block(x)
        return x


def make_step():
    nn.seed(0)
    net = Tied()
    return foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.1), seed=5)


def by_joblib(value, folder):
    joblib.dump(value, folder / "it")
    return joblib.load(folder / "it")


WAYS = {
    "pickle": lambda value, folder: pickle.loads(pickle.dumps(value)),
    "deepcopy": lambda value, folder: copy.deepcopy(value),
    "joblib": by_joblib,
}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("when", ["new", "used"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_model_has_memory_of_its_own(way, when, tmp_path):
    step = make_step()
    net = step.model
    if when == "used":
        step(X, LABELS)
        net.eval()(X)
    made = WAYS[way](net.eval(), tmp_path)
    state = net.state_dict()
    assert equal(made.state_dict(), state)
    assert np.array_equal(made(X), net(X))
    assert made.first.weight is made.second.weight
    assert [p.trainable for p in made.parameters()] == [p.trainable for p in net.parameters()]
    assert [p.strides for p in made.parameters()] == [p.strides for p in net.parameters()]
    # training reaches the state, and what is computed, of the copy alone
    before = made(X)
    foveal.compile_step(made.train(), nn.CrossEntropyLoss(), optim.SGD(made.parameters(), lr=0.5))(X, LABELS)
    assert equal(net.state_dict(), state)
    assert not np.array_equal(made.state_dict()["first.weight"], state["first.weight"])
    assert not np.array_equal(made.eval()(X), before)
    # so does loading
    made.load_state_dict(state)
    assert np.array_equal(made(X), before)
    assert not any(np.shares_memory(a.storage, b.storage) for a in net.parameters() for b in made.parameters())


def test_a_shallow_copy_shares_its_parts():
    net = make_step().model.eval()
    made = copy.copy(net)
    made.blocks = [nn.Identity()]
    assert made.first is net.first
    assert net(X).shape == (6, 3)
    assert made(X).shape == (6, 4)
    layers = copy.copy(net.blocks)
    layers.append(nn.ReLU())
    assert (len(layers), len(net.blocks)) == (3, 2)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 3, 2, 2), (0, 2)])
@pytest.mark.parametrize("kind", [foveal.Variable, nn.Parameter, nn.Buffer])
def test_a_copy_of_a_variable_is_one_memory(kind, shape, make):
    values = np.random.default_rng(1).standard_normal(shape, np.float32)
    original = kind(values, "name")
    made = make(original)
    assert (type(made), made.name, made.strides) == (kind, "name", original.strides)
    assert np.array_equal(made.data, values)
    made.data = values + 1
    assert np.array_equal(made.data, values + 1)
    assert np.array_equal(original.data, values)
    if made.size:
        assert np.shares_memory(made.storage, made.data)
        assert not np.shares_memory(made.storage, original.storage)


def test_counters_count_on():
    counter = nn.Counter()
    counter.data = 7
    made = pickle.loads(pickle.dumps(counter))
    assert (made.data, made.data.dtype) == (7, np.int64)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_step_trains_its_own_model(way, tmp_path):
    step = make_step()
    step(X, LABELS)
    net, made = WAYS[way]((step.model, step), tmp_path)
    assert made.model is net is not step.model
    assert all(a is b for a, b in zip(made.optimizer.parameters, net.parameters(), strict=True))
    # both go on to the same bits, dropout included
    theirs = [made(X, LABELS).loss for _ in range(3)]
    assert [step(X, LABELS).loss for _ in range(3)] == theirs
    assert equal(net.state_dict(), step.model.state_dict())


@pytest.mark.parametrize("name", optim.UpdateRule.registry)
def test_copies_of_optimisers_go_on(name):
    nn.seed(0)
    net = nn.Linear(4, 3)
    optimizer = optim.build(name, net.parameters(), lr=0.01)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer)
    step(X, LABELS)
    copies = [copy.deepcopy(step), pickle.loads(pickle.dumps(step))]
    step(X, LABELS)
    for made in copies:
        made(X, LABELS)
        assert equal(made.model.state_dict(), net.state_dict())
        assert equal(made.optimizer.state_dict(), optimizer.state_dict())


def test_a_shallow_copy_of_an_optimiser_is_refused():
    with pytest.raises(StateError, match=r"Adam: a shallow copy would share.*copy\.deepcopy"):
        copy.copy(make_step().optimizer)


def test_schedules_are_copied_and_not_pickled():
    step = make_step()
    step.optimizer.schedule(lr=schedule.cosine(0.1, 10))
    made = copy.deepcopy(step)
    assert [made(X, LABELS).loss for _ in range(2)] == [step(X, LABELS).loss for _ in range(2)]
    with pytest.raises(StateError, match=r"a schedule cannot be pickled.*set it again"):
        pickle.dumps(step)
    plateau = schedule.Plateau(0.1)
    assert pickle.loads(pickle.dumps(plateau)).state_dict() == plateau.state_dict()
    assert copy.deepcopy(plateau).state_dict() == plateau.state_dict()


def test_losses_and_compiled_functions_are_copied():
    loss = nn.CrossEntropyLoss(weight=np.array([1.0, 2.0, 3.0]))
    net = make_step().model.eval()
    logits = net(X)
    for made in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert np.array_equal(made(logits, LABELS), loss(logits, LABELS))
        assert not np.shares_memory(made.weight.storage, loss.weight.storage)
    compiled = foveal.compile(net.first.forward)
    y = compiled(X)
    made = pickle.loads(pickle.dumps(compiled))
    assert np.array_equal(made(X), y)


def test_models_without_values_are_not_copied():
    with nn.init.without_values():
        net = nn.Linear(4, 4)
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(StateError, match="built without values"):
            make(net)


def trained(step, x, labels):
    """In another process: train, predict and return the model."""
    losses = [step(x, labels).loss for _ in range(2)]
    return step.model, losses, step.model.eval()(x)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_train_and_return_a_model(method):
    step = make_step()
    with multiprocessing.get_context(method).Pool(1) as pool:
        net, losses, y = pool.apply_async(trained, (step, X, LABELS)).get(60)
    assert [step(X, LABELS).loss for _ in range(2)] == losses
    assert equal(net.state_dict(), step.model.state_dict())
    assert np.array_equal(net(X), y)
    assert np.array_equal(step.model.eval()(X), y)
