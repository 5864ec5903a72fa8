"""Parameters that the loss does not read: no update, no decay, no change of state, and one warning that names them."""

import warnings

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import FovealWarning
from foveal.trace import current

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
Y = np.zeros((4, 2), np.float32)


def loss(y, target):
    return ops.mean((y - target) * (y - target))


class Net(nn.Module):
    """Two layers: the head is trained, the spare is used as `how` says."""

    def __init__(self, how=lambda y, spare: y):
        nn.seed(0)
        self.head, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)
        self.how = how

    def forward(self, x):
        return self.how(self.head(x), self.spare(x))


def trained(make, net, steps=3, batches=(4,)):
    """The net after some steps, its optimiser, and the texts of the warnings."""
    optimizer = make(net.parameters())
    step = foveal.compile_step(net, loss, optimizer, threads=1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for i in range(steps):
            for n in batches:
                step(X[:n] + np.float32(i), Y[:n])
    assert all(w.category is FovealWarning and w.filename == __file__ for w in seen)
    return optimizer, [str(w.message) for w in seen]


RULES = {
    **{name: lambda p, name=name: optim.build(name, p, lr=0.1, weight_decay=0.1) for name in optim.NAMES},
    "L1": lambda p: optim.SGD(p, 0.1, l1=0.1),
    "decoupled": lambda p: optim.Momentum(p, 0.1, weight_decay=0.1, decoupled=True),
    "clipped": lambda p: optim.AdamW(p, 0.1, weight_decay=0.1, clip_norm=1.0, clip_value=0.5),
    "EMA": lambda p: optim.EMA(optim.AdamW(p, 0.1, weight_decay=0.1)),
    "SWA": lambda p: optim.SWA(optim.SGD(p, 0.1, weight_decay=0.1)),
    "lookahead of k = 1": lambda p: optim.Lookahead(optim.SGD(p, 0.1, weight_decay=0.1), k=1),
}


@pytest.mark.parametrize("name", RULES)
def test_they_stay_as_they_are(name):
    net = Net()
    before = net.state_dict()
    optimizer, seen = trained(RULES[name], net)
    after = net.state_dict()
    for key, value in after.items():
        assert np.array_equal(value, before[key]) == key.startswith("spare"), key
    names = ("the loss does not read 2 of the model's parameters", "spare.weight, spare.bias")
    assert len(seen) == 1
    assert all(words in seen[0] for words in names)
    if hasattr(optimizer, "averaged"):
        with optimizer.averaged():
            assert np.array_equal(net.spare.weight.data, before["spare.weight"])


def test_their_state_stays_too():
    net = Net()
    optimizer, _ = trained(lambda p: optim.Adam(p, 0.1, weight_decay=0.1), net)
    state = optimizer.state_dict()
    # in the order of the parameters: head.weight, head.bias, spare.weight, spare.bias
    assert state["0.mean"].any()
    assert not state["2.mean"].any()
    assert not state["3.square"].any()


@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
@pytest.mark.parametrize(
    ("how", "moves"),
    [
        (lambda y, spare: y, False),
        # A gradient of value 0 is a gradient.
        (lambda y, spare: y + spare * 0.0, True),
        # Comparisons have none.
        (lambda y, spare: y * (y * 0.0 + 1.0) + 0.0 * greater(spare), False),
    ],
    ids=["unread", "times 0", "compared"],
)
def test_what_has_a_gradient_is_pytorchs_answer(rule, how, moves, torch):
    net = Net(how)
    state = {name: torch.from_numpy(value) for name, value in net.state_dict().items()}
    _, seen = trained(lambda p: getattr(optim, rule)(p, 0.1, weight_decay=0.1), net)
    head, spare = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    theirs = torch.nn.ModuleDict({"head": head, "spare": spare})
    theirs.load_state_dict(state)
    descent = getattr(torch.optim, rule)(theirs.parameters(), 0.1, weight_decay=0.1)
    for i in range(3):
        x = torch.from_numpy(X) + i
        descent.zero_grad()
        (how(head(x), spare(x)) ** 2).mean().backward()
        descent.step()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(net.state_dict()[name], value.numpy(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(net.spare.weight.data, state["spare.weight"].numpy()) != moves
    assert bool(seen) != moves


def greater(x):
    """1 where x > 0, of Tensors and of PyTorch's."""
    return (x > 0).float() if hasattr(x, "float") else ops.greater(x, 0.0)


def test_each_is_named_once_whatever_the_number_of_batches_and_shapes():
    _, seen = trained(RULES["sgd"], Net(), batches=(4, 2, 3))
    assert len(seen) == 1


def test_what_is_not_to_be_trained_is_not_named():
    net = Net()
    net.spare.weight.trainable = net.spare.bias.trainable = False
    assert trained(RULES["adamw"], net)[1] == []
    net = Net()
    assert trained(lambda p: optim.SGD(net.head.parameters(), 0.1), net)[1] == []
    net = Net()
    groups = optim.by_name(net.parameters(), {"spare.*": {"frozen": True}})
    assert trained(lambda p: optim.SGD(groups, 0.1), net)[1] == []


class Many(nn.Module):
    """One parameter that is read and 20 that are not."""

    def __init__(self):
        self.read = nn.Parameter(np.ones(2))
        for i in range(20):
            setattr(self, f"p{i}", nn.Parameter(np.ones(2)))

    def forward(self, x):
        return ops.narrow(x, axis=1, start=0, length=2) * current().lift(self.read)


def test_of_many_the_first_are_named():
    _, (seen,) = trained(RULES["sgd"], Many())
    assert "does not read 20 of the model's parameters" in seen
    assert "p0, p1, p2, p3, p4 and 15 more" in seen


def test_gradients_of_what_is_not_read_are_zeros():
    """Whoever asks for a gradient gets an array."""
    net = Net()
    net.name_parameters()
    both = foveal.value_and_grad(lambda x: ops.sum(net(x)), (0, net.spare.weight), threads=1)
    assert not both(X)[1][1].any()
