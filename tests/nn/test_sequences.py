"""Sequential is used as a list, and modules are walked through, as in PyTorch."""

from collections import OrderedDict

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import ArgumentError, PlaceError, StateError

X, LABELS = np.random.default_rng(0).standard_normal((5, 4), np.float32), np.array([0, 1, 2, 3, 0])

# what is done to Sequential(a, b, c), with a fourth module d, in the words of both libraries
CHANGES = {
    "append": lambda net, d: net.append(d),
    "extend": lambda net, d: net.extend([d, d]),
    "insert first": lambda net, d: net.insert(0, d),
    "insert": lambda net, d: net.insert(1, d),
    "insert from the end": lambda net, d: net.insert(-1, d),
    "set": lambda net, d: net.__setitem__(1, d),
    "set the last": lambda net, d: net.__setitem__(-1, d),
    "delete": lambda net, d: net.__delitem__(0),
    "delete a slice": lambda net, d: net.__delitem__(slice(0, 2)),
    "pop": lambda net, d: net.pop(-1),
    "pop the first": lambda net, d: net.pop(0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_sequence_are_pytorchs(torch, change):
    ours, theirs = (
        library.Sequential(library.Linear(4, 4), library.ReLU(), library.PReLU()) for library in (nn, torch.nn)
    )
    for net, library in ((ours, nn), (theirs, torch.nn)):
        CHANGES[change](net, library.Tanh())
    named = [(name, type(module).__name__) for name, module in ours.named_children()]
    assert named == [(name, type(module).__name__) for name, module in theirs._modules.items()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert len(ours) == len(theirs)


def test_places_and_slices_are_those_of_lists():
    parts = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh()]
    net = nn.Sequential(parts)
    assert list(net) == parts
    assert [net[i] for i in range(-4, 4)] == parts + parts
    for places in (slice(1, 3), slice(None, -1), slice(None, None, 2), slice(5, 9)):
        assert list(net[places]) == parts[places]
    assert [name for name, _ in net[1:3].named_children()] == ["1", "2"]
    assert net[:2][0].weight is net[0].weight
    np.testing.assert_array_equal(net[:2](X), np.maximum(net[0](X), 0))
    assert nn.Sequential()
    both = nn.Concat(nn.ReLU(), nn.Tanh(), nn.Sigmoid(), axis=0)
    assert both[1:](X).shape == (10, 4)


def test_named_parts_keep_their_names():
    net = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), act=nn.ReLU()))
    net.append(nn.Tanh()).insert(1, nn.Sigmoid())
    assert [name for name, _ in net.named_children()] == ["first", "3", "act", "2"]
    assert isinstance(net.pop(0), nn.Linear)
    assert [name for name, _ in net.named_children()] == ["3", "act", "2"]
    assert net.act is net[1]


def test_what_was_compiled_follows_a_changed_sequence():
    net = nn.Sequential(nn.Linear(4, 4))
    first = net(X)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
    step(X, LABELS)
    before = net(X)
    assert not np.array_equal(first, before)
    net.append(nn.ReLU())
    np.testing.assert_array_equal(net(X), np.maximum(before, 0))
    np.testing.assert_array_equal(step(X, LABELS).output, np.maximum(before, 0))
    del net[1]
    assert net(X).min() < 0


WRONG = {
    "place": (lambda net: net[2], PlaceError, "there is no module 2; it has 2"),
    "negative": (lambda net: net[-3], PlaceError, "there is no module -3; it has 2"),
    "name": (lambda net: net["0"], ArgumentError, "places 0, 1, ..., not '0'"),
    "pop": (lambda net: nn.Sequential().pop(), PlaceError, "there is no module -1; it has 0"),
    "class": (lambda net: net.append(nn.ReLU), ArgumentError, "part 2 is the class ReLU"),
    "function": (lambda net: net.insert(0, np.tanh), ArgumentError, "it has to be a module"),
    "number": (lambda net: net.__setitem__(0, 3), ArgumentError, "is a layer, Linear, and int would take it out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_change_is_refused_and_changes_nothing(case):
    call, error, message = WRONG[case]
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    parts = list(net.named_children())
    with pytest.raises(error) as raised:
        call(net)
    assert message in str(raised.value)
    assert list(net.named_children()) == parts


def test_modules_parameters_and_buffers_are_listed_once():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.BatchNorm1d(4), nn.Sequential(shared, nn.ReLU()))
    assert list(net.children()) == [net[0], net[1], net[2]]
    assert list(net.modules()) == [net, shared, net[1], net[2], net[2][1]]
    names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [name for name, _ in net.named_parameters()] == names
    assert [parameter for _, parameter in net.named_parameters()] == net.parameters()
    assert [name for name, _ in net.named_buffers()] == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert [buffer for _, buffer in net.named_buffers()] == net.buffers()


def test_apply_calls_a_function_with_each_module_once():
    shared, seen = nn.Linear(4, 4), []
    net = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared))
    assert net.apply(seen.append) is net
    assert seen == [shared, net[1][0], net[1], net]
    net.apply(lambda module: isinstance(module, nn.Linear) and setattr(module.bias, "data", 7.0 * np.ones(4)))
    assert (shared.bias.data == 7).all()
    net[1].inner = net
    with pytest.raises(StateError, match="contains itself"):
        net.apply(seen.append)
