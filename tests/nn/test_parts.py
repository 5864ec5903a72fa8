"""What belongs to a model: lists and dicts of layers do; what cannot be meant is refused with the way out."""

import collections
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ArgumentError, ShapeError, StateError

X, LABELS = np.random.default_rng(0).standard_normal((5, 4), np.float32), np.array([0, 1, 2, 3, 0])


class Holder(nn.Module):
    """A model that calls everything it holds, one after another"""

    def __init__(self, held=None):
        self.held = held

    def forward(self, x):
        return called(self.held, x)


def called(held, x):
    if isinstance(held, nn.ModuleDict | dict):
        held = list(held.values())
    if isinstance(held, nn.ModuleList | list | tuple):
        for inner in held:
            x = called(inner, x)
        return x
    if isinstance(held, nn.Parameter):
        return x * held
    return held(x) if callable(held) else x


def linears(count):
    return [nn.Linear(4, 4) for _ in range(count)]


HELD = {
    "list": (lambda: linears(2), ["held.0.weight", "held.0.bias", "held.1.weight", "held.1.bias"]),
    "tuple": (lambda: tuple(linears(1)), ["held.0.weight", "held.0.bias"]),
    "dict": (lambda: {"a": nn.Linear(4, 4), 7: nn.PReLU()}, ["held.a.weight", "held.a.bias", "held.7.weight"]),
    "nested": (lambda: [{"a": linears(1)}, (nn.PReLU(),)], ["held.0.a.0.weight", "held.0.a.0.bias", "held.1.0.weight"]),
    "mixed": (lambda: [3, "text", nn.PReLU(), None], ["held.2.weight"]),
    "parameters": (lambda: [nn.Parameter(np.ones(4)), nn.Parameter(np.ones(1))], ["held.0", "held.1"]),
    "ordered": (lambda: OrderedDict(b=nn.PReLU(), a=nn.PReLU()), ["held.b.weight", "held.a.weight"]),
    "module_list": (lambda: nn.ModuleList([nn.PReLU()]), ["held.0.weight"]),
    "sequential": (lambda: nn.Sequential([nn.PReLU(), nn.Tanh()]), ["held.0.weight"]),
}


@pytest.mark.parametrize("kind", HELD)
def test_layers_in_containers_belong_to_the_model(kind):
    make, names = HELD[kind]
    nn.seed(0)
    net = Holder(make())
    assert list(net.state_dict()) == names
    assert [p.name for p in net.parameters()] == names
    assert f"({names[0].split('.')[1]}): " in repr(net) or kind == "parameters"
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.5))
    before, first = net.state_dict(), net(X)
    step(X, LABELS)
    assert all((before[name] != value).any() for name, value in net.state_dict().items())
    assert not np.array_equal(net(X), first)
    net.load_state_dict(before)
    assert np.array_equal(net(X), first)
    assert all(not module.training for _, module in net.eval().named_modules())


def test_names_are_pytorchs(torch):
    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.ModuleDict({"a": torch.nn.PReLU()})])
            self.body = torch.nn.Sequential(OrderedDict(first=torch.nn.Linear(4, 4), act=torch.nn.ReLU()))

    class Ours(nn.Module):
        def __init__(self):
            self.blocks = [nn.Linear(4, 4), {"a": nn.PReLU()}]
            self.body = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), act=nn.ReLU()))

    assert list(Ours().state_dict()) == list(Theirs().state_dict())


def test_layers_appended_later_belong_to_the_model():
    """To the list that the model has, and to the plain one that was assigned when it was empty."""
    net = Holder([])
    assert net.parameters() == []
    for layer in linears(2):
        net.held.append(layer)
    assert len(net.parameters()) == 4
    first = net(X)
    net.held.append(nn.ReLU())
    assert np.array_equal(net(X), first.clip(0))
    net.held[-1] = nn.Identity()
    assert np.array_equal(net(X), first)
    del net.held[1:]
    assert np.array_equal(net(X), net.held[0](X))
    net.held.insert(0, nn.Identity())
    assert list(net.state_dict()) == ["held.1.weight", "held.1.bias"]
    net.held = [*net.held, nn.ReLU()]
    assert [type(m).__name__ for m in net.held] == ["Identity", "Linear", "ReLU"]
    net.held = []
    assert np.array_equal(net(X), X)


def test_a_module_list_is_a_list():
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    layers = nn.ModuleList([a, b])
    layers += [c]
    assert (len(layers), list(layers), layers[-1], list(layers[1:])) == (3, [a, b, c], c, [b, c])
    assert isinstance(layers[1:], nn.ModuleList)
    assert layers.pop(0) is a
    assert (layers.index(c), b in layers, a in layers) == (1, True, False)
    assert list(layers + [a]) == [b, c, a]
    assert getattr(layers, "0") is b
    setattr(layers, "0", a)
    assert layers[0] is a
    with pytest.raises(IndexError):
        layers[5]


def test_a_module_dict_is_a_dict():
    a, b = nn.ReLU(), nn.Tanh()
    layers = nn.ModuleDict({"a": a, "items": b})
    assert (list(layers), layers["items"], dict(layers)) == (["a", "items"], b, {"a": a, "items": b})
    layers.update(a=b, c=nn.Linear(4, 4))
    del layers["items"]
    assert list(layers.state_dict()) == ["c.weight", "c.bias"]
    assert layers == layers != nn.ModuleDict(layers)
    for keys in ({"a.b": a}, {"": a}, {1.5: a}, {1: a, "1": b}):
        with pytest.raises(ArgumentError, match="cannot name a part of a model"):
            nn.ModuleDict(keys)


@pytest.mark.parametrize(
    "modules",
    [
        lambda a, b: nn.Sequential(a, b),
        lambda a, b: nn.Sequential([a, b]),
        lambda a, b: nn.Sequential((a, b)),
        lambda a, b: nn.Sequential(m for m in (a, b)),
        lambda a, b: nn.Sequential(nn.ModuleList([a, b])),
        lambda a, b: nn.Sequential(OrderedDict(first=a, second=b)),
        lambda a, b: nn.Sequential({"first": a, "second": b}),
    ],
)
def test_sequential_takes_what_can_be_meant(modules):
    a, b = nn.Linear(4, 4), nn.ReLU()
    net = modules(a, b)
    assert [module for _, module in net.named_children()] == [a, b]
    assert np.array_equal(net(X), b(a(X)))


@dataclass
class Config:
    layer: object


Pair = collections.namedtuple("Pair", "a b")
REFUSED = {
    "set": (lambda: Holder(set(linears(1))), r"Holder\.held is a set .* give a list or a dict"),
    "frozenset": (lambda: Holder(frozenset(linears(1))), r"Holder\.held is a frozenset"),
    "deque": (lambda: Holder(collections.deque(linears(1))), r"Holder\.held is a deque"),
    "UserList": (lambda: Holder(collections.UserList(linears(1))), r"Holder\.held is a UserList"),
    "array": (lambda: Holder(np.array(linears(1), object)), r"Holder\.held is a ndarray"),
    "generator": (lambda: Holder(layer for layer in linears(1)), r"Holder\.held is a generator.*give a list"),
    "map": (lambda: Holder(map(nn.Dropout, [0.1])), r"Holder\.held is a map.*give a list"),
    "object": (lambda: Holder(Config(nn.PReLU())), r"Holder\.held is a Config .* assign them to attributes"),
    "namedtuple": (lambda: Holder(Pair(nn.ReLU(), nn.ReLU())), r"Holder\.held is a Pair"),
    "class": (lambda: nn.Sequential(nn.ReLU), r"part 0 is the class ReLU; write ReLU\(\)"),
    "function": (lambda: nn.Sequential(nn.ReLU(), ops.relu), "part 1 is of type Relu, it has to be a module"),
    "place": (lambda: nn.Sequential(nn.ReLU(), nn.ReLU), r"part 1 is the class ReLU; write ReLU\(\)"),
    "none": (lambda: nn.Sequential(nn.ReLU(), None), "part 1 is of type NoneType, it has to be a module"),
    "name": (lambda: nn.Sequential({"training": nn.ReLU()}), "a part cannot be called 'training'"),
    "dots": (lambda: nn.Sequential({"a.b": nn.ReLU()}), "a part cannot be called 'a.b'"),
    "no_list": (lambda: nn.Sequential(3), "part 0 is of type int, it has to be a module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_no_part_of_the_model_is_refused(name):
    make, words = REFUSED[name]
    with pytest.raises((ArgumentError, ShapeError), match=words):
        make()


def test_sets_that_get_layers_later_are_refused():
    net = Holder(set())
    net.held.add(nn.PReLU())
    with pytest.raises(ArgumentError, match=r"Holder\.held is a set"):
        net.parameters()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("weight", np.zeros((4, 4)), r"Linear\.weight is a Parameter.*Linear\.weight\.data = values.*nn\.Parameter"),
        ("weight", [0.0], "would take it out of the model"),
        ("weight", None, r"None would take it out of the model.*assign nn\.Parameter\(values\)$"),
        ("bias", 0.0, "or None"),
    ],
)
def test_a_parameter_is_not_lost(name, value, words):
    layer = nn.Linear(4, 4)
    with pytest.raises(ArgumentError, match=words):
        setattr(layer, name, value)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_what_may_take_the_place_of_a_part():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(np.eye(4))
    layer.bias = None
    assert np.array_equal(layer(X), X)
    layer.bias = nn.Parameter(np.ones(4))
    assert np.array_equal(layer(X), X + 1)
    net = Holder(nn.ReLU())
    with pytest.raises(ArgumentError, match=r"Holder\.held is a layer, ReLU, and Operator|Relu|would take it out"):
        net.held = ops.relu
    with pytest.raises(ArgumentError, match="Sequential: part 0 cannot be None"):
        setattr(nn.Sequential(nn.ReLU()), "0", None)
    net.held = None
    assert np.array_equal(net(X), X)


@pytest.mark.parametrize("name", ["grad", "Trainable", "requires_gradient", "weight"])
def test_parameters_have_no_other_attributes(name):
    with pytest.raises(ArgumentError, match=f"Parameter has no attribute '{name}'.*data, name, trainable"):
        setattr(nn.Linear(1, 1).weight, name, False)


def test_a_parameter_of_ones_own_class_may_have_more():
    class Tagged(nn.Parameter):
        pass

    p = Tagged(np.ones(2))
    p.tag = "mine"
    assert p.tag == "mine"


def test_flags_are_true_or_false():
    net = nn.Sequential(nn.Linear(4, 4), nn.PReLU())
    assert net.requires_grad_(False) is net
    assert [p.trainable for p in net.parameters()] == [False] * 3
    assert net.parameters()[0].requires_grad_().requires_grad is True
    with pytest.raises(ArgumentError, match="trainable is 'no', it has to be True or False"):
        net.parameters()[0].trainable = "no"


def test_an_optimiser_of_another_network_is_refused():
    net, other = nn.Linear(4, 4), nn.Linear(4, 4)
    both = [*net.parameters(), *other.parameters()]
    for parameters in (other.parameters(), both):
        with pytest.raises(StateError, match=r"SGD was made for weight \[4, 4\], bias \[4\], not among .* of Linear"):
            foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(parameters, lr=0.1))
    # as in fine-tuning: what the optimiser lacks stays as it is
    before = net.state_dict()
    foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD([net.bias], lr=0.1))(X, LABELS)
    assert np.array_equal(net.weight.data, before["weight"])
    assert not np.array_equal(net.bias.data, before["bias"])


class Called(Holder):
    def forward(self, x):
        return self.held(x)


class Viewed(nn.Module):
    def forward(self, x):
        return x.view(-1)


def test_what_pytorch_takes_and_foveal_does_not_names_the_way_out():
    with pytest.raises(ArgumentError, match=r"ModuleList has no forward\(x\).*nn\.Sequential"):
        Called(linears(2))(X)
    with pytest.raises(AttributeError, match=r"no 'view'.*ops\.reshape"):
        Viewed()(X)
    net = nn.Linear(4, 4)
    sgd = optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ArgumentError, match=r"class CrossEntropyLoss; make one first: CrossEntropyLoss\(\)"):
        foveal.compile_step(net, nn.CrossEntropyLoss, sgd)
    with pytest.raises(ShapeError, match="something that can be called with two arguments"):
        foveal.compile_step(net, nn.ReLU(), sgd)


def test_layers_that_only_the_computation_knows_are_refused():
    hidden = nn.Linear(4, 4)

    class Outside(nn.Linear):
        def forward(self, x):
            return hidden(super().forward(x))

    net = Outside(4, 4)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(StateError, match=r"computes with .*\[4, 4\].*no optimiser.*requires_grad_\(False\)"):
        step(X, LABELS)
    hidden.requires_grad_(False)
    step(X, LABELS)


def test_the_parameters_of_a_loss_are_trained():
    class Scaled(nn.Module):
        def __init__(self):
            self.scale, self.loss = nn.Parameter(np.ones(())), nn.CrossEntropyLoss()

        def __call__(self, output, target):
            return self.loss(output * self.scale, target)

    net, loss = nn.Linear(4, 4), Scaled()
    step = foveal.compile_step(net, loss, optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1))
    step(X, LABELS)
    assert loss.scale.data != 1


def test_a_loss_may_hold_a_network_that_another_step_trains():
    net, critic = nn.Linear(4, 4), nn.Linear(4, 4)
    loss = nn.CrossEntropyLoss()
    step = foveal.compile_step(
        net, lambda output, target: loss(critic(output), target), optim.SGD(net.parameters(), lr=1)
    )
    before, held = net.state_dict(), critic.state_dict()
    step(X, LABELS)
    assert not np.array_equal(net.weight.data, before["weight"])
    assert np.array_equal(critic.weight.data, held["weight"])


def test_a_loss_that_takes_one_array_is_refused():
    class OfOne(nn.Module):
        def forward(self, output):
            return ops.mean(output)

    net = nn.Linear(4, 4)
    with pytest.raises(ShapeError, match=r"compile_step: loss is OfOne\(\).* can be called with two arguments"):
        foveal.compile_step(net, OfOne(), optim.SGD(net.parameters(), lr=0.1))


@pytest.mark.parametrize("held", [nn.ModuleList([nn.ReLU()]), nn.ModuleDict({"a": nn.ReLU()})])
def test_what_only_holds_modules_is_not_called(held):
    with pytest.raises(ArgumentError, match=r"has no forward\(x\); call the modules in it, or make an nn\.Sequential"):
        held(X)


def test_a_model_that_contains_itself_is_refused():
    net = Holder()
    net.held = nn.Sequential(net)
    with pytest.raises(StateError, match=r"Holder contains itself, as held\.0"):
        net.parameters()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4)])
def test_norms_without_weight_keep_their_bias(norm):
    plain = norm(X)
    norm.bias.data = np.full(4, 3.0)
    norm.weight = None
    assert np.abs(norm(X) - (plain + 3)).max() < 1e-6
