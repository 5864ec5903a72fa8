"""net.save and foveal.load: the same network comes back, hostile files do nothing, what cannot be stored says so."""

import copy
import itertools
import json
import random
import sys
import types

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import foveal
from foveal import nn, ops
from foveal.errors import ArgumentError, DataError, StateError
from foveal.nn.architecture import describe
from foveal.nn.init import without_values

X = np.random.default_rng(4).standard_normal((2, 3, 6, 6), "float32")


class Block(nn.Module):
    """Takes a number, a class, an operator and a module"""

    def __init__(self, channels, act=nn.ReLU, last=None, inner=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.act, self.last, self.inner, self.drop = act(), last, inner, [nn.Dropout(0.5)]
        self.scale = 1.0

    def forward(self, x):
        y = self.act(self.norm(self.conv(x))) * self.scale
        for drop in self.drop:
            y = drop(y)
        y = y if self.last is None else self.last(y)
        return y if self.inner is None else self.inner(y)


class Tied(nn.Module):
    def __init__(self):
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(ops.relu(self.a(x)))


class Row(nn.Sequential):
    def __init__(self, sizes, *, bias=True):
        super().__init__(*(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(sizes)))


def stored(net, tmp_path):
    net.save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def same(net, tmp_path, x=X, **options):
    """The network comes back: outputs to the bit, structure, modes, frozen parameters."""
    other = foveal.load(stored(net, tmp_path), **options)
    assert type(other) is type(net)
    assert repr(other) == repr(net)
    assert [m.training for m in other.modules()] == [m.training for m in net.modules()]
    assert [p.trainable for p in other.parameters()] == [p.trainable for p in net.parameters()]
    assert np.array_equal(other.eval()(x), net.eval()(x))
    return other


def sequence():
    nn.seed(0)
    relu = nn.ReLU()
    return nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Dropout(0.5), nn.Conv2d(4, 4, 3), relu, nn.Flatten())


def test_a_sequence_of_layers_and_its_changes(tmp_path):
    net = sequence()
    other = same(net, tmp_path)
    assert other[1] is other[4]
    net[2].p = 0.25
    net.append(nn.Concat(nn.Linear(16, 2), nn.Linear(16, 3), axis=1))
    net.insert(1, nn.BatchNorm2d(4))
    net[1].running_mean.data = [1.0, 2.0, 3.0, 4.0]
    net[0].requires_grad_(False)
    net[0].bias = None
    net.train()[1].eval()
    assert same(net, tmp_path)[3].p == 0.25


def test_a_class_of_ones_own_with_changes(tmp_path):
    nn.seed(1)
    inner = Block(3, nn.SiLU, ops.tanh)
    net = Block(channels=3, inner=nn.Sequential(inner))
    same(net, tmp_path)
    inner.act = nn.Identity()
    inner.scale, inner.extra = 2.0, nn.Linear(2, 2)
    net.drop = [nn.Dropout(0.1), nn.Identity()]
    inner.conv.weight = nn.Parameter(np.ones((3, 3, 3, 3)))
    other = same(net, tmp_path)
    assert other.inner[0].scale == 2.0
    assert other.inner[0].last is ops.tanh
    same(nn.fold_batch_norm(net.eval(), X.shape), tmp_path)


def test_shared_parameters_stay_shared(tmp_path):
    x = X.reshape(-1, 6)
    assert (other := same(Tied(), tmp_path, x)).a.weight is other.b.weight
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    net[1].weight = net[0].weight
    assert (other := same(net, tmp_path, x))[0].weight is other[1].weight


def test_arguments_by_place_and_name(tmp_path):
    net = Row([6, 4, 2], bias=False)
    same(net, tmp_path, X.reshape(-1, 6))
    same(nn.ModuleDict({"a": nn.ModuleList([net, 3, None])})["a"][0], tmp_path, X.reshape(-1, 6))
    held = nn.ModuleDict({"a": nn.ModuleList([net, 3, None]), 7: nn.Parameter(np.ones(3))})
    other = foveal.load(stored(held, tmp_path))
    assert other["a"][1:].to_list() == [3, None]
    assert other[7].shape == (3,)
    assert repr(other) == repr(held)


@pytest.mark.parametrize("name", ["lenet5", "mobilenet_v3_small", "resnet20", "airbench94"])
def test_models_by_name_can_be_described(name):
    channels, *size = nn.models.MODELS[name].image
    with without_values():
        describe(nn.models.build(name, channels=channels, size=tuple(size), classes=10))


def test_classes_that_no_import_path_leads_to(tmp_path):
    class Local(nn.Module):
        def __init__(self, size):
            self.fc = nn.Linear(size, 2)

        def forward(self, x):
            return self.fc(x)

    net, x = nn.Sequential(Local(6)), X.reshape(-1, 6)
    path = stored(net, tmp_path)
    with pytest.raises(StateError, match=r"class .*Local, and test_saving has no.*cls=Local\).*load\(path, net\)"):
        foveal.load(path)
    same(net, tmp_path, x, cls=Local)
    same(net, tmp_path, x, cls=[nn.ReLU, Local])
    built = nn.Sequential(Local(6))
    assert foveal.load(path, built) is built
    assert np.array_equal(built(x), net(x))


def test_nothing_that_a_file_names_is_imported_or_called(tmp_path):
    path = stored(nn.Sequential(nn.Linear(2, 2)), tmp_path)
    arrays = load_file(path)

    def linear(**changes):
        return {"class": "foveal.nn:Linear", "args": [2, 2], **changes}

    hostile = {
        "antigravity:fly": "not imported",
        "os:system": "has no module",
        "foveal.nn.saving:load": "has no module",
        "foveal.nn.secret:Net": "not imported",
        "builtins:eval": "has no module",
        "foveal.nn:__init__": "has no module",
        "foveal.nn:Linear.forward": "has no module",
        "a b": "in place of the name of a class",
        "x" * 300 + ":y": "in place of the name of a class",
    }
    found = [({"class": name, "args": ["true"]}, text) for name, text in hostile.items()]
    found += [
        (3, "in place of the description"),
        ({"class": 3}, "in place of the description"),
        (linear(args=3), "in place of a list"),
        (linear(args=[{"class": "os:system"}, 2]), "has no module"),
        (linear(args=[{"float": "1e9"}, 2]), "in place of a value"),
        (linear(args=[{"operator": "unlink"}, 2]), "in place of a value"),
        (linear(args=[10**12, 10**12]), "cannot be made|does not fit|do not fit|no memory"),
        (linear(args=[1 << 20, 1 << 20]), "do not fit"),
        (linear(options={"self": 3}), "cannot be made"),
        (linear(set={"_hooks": 3}), "is no part of a module"),
        (linear(set={"__class__": 3}), "is no part of a module"),
        (linear(set={"weight": 3}), "weight"),
        (linear(set={"weight": {"parameter": [1 << 40, 4]}}), "in place of a shape"),
        (linear(inside={"weight": {}}), "which is no module"),
        (linear(shared=[["weight", "nothing"]]), "no two places"),
        (linear(shared=[3]), "in place of a list"),
        ({"class": "foveal.nn:Sequential", "parts": [[{}, 3]]}, "in place of a key"),
        ({"class": "foveal.nn:Sequential", "parts": [["0", 3]]}, "cannot be made"),
    ]
    before = set(sys.modules)
    for description, text in found:
        entry = {"network": {"description": description, "training": True, "other_mode": [], "frozen": []}}
        save_file(arrays, path, metadata={"foveal": json.dumps(entry)})
        with pytest.raises(StateError, match=text) as caught:
            foveal.load(path)
        assert str(path) in str(caught.value)
    assert set(sys.modules) == before


VALUES = (
    None,
    True,
    3,
    -1,
    10**30,
    "x",
    "foveal.nn:ModuleDict",
    "weight",
    [],
    {},
    [[]],
    {"parameter": [2]},
    {"tuple": []},
)


def places(found, path=()):
    """Yield the path to each value inside of JSON."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_damaged_descriptions_load_or_are_refused(tmp_path):
    net = nn.Sequential(Block(3, nn.SiLU, inner=nn.Conv2d(3, 2, 1)), nn.Dropout(0.2), nn.ModuleList([nn.ReLU(), None]))
    net[0].norm, net[1].p = nn.BatchNorm2d(3), 0.1
    path = stored(net, tmp_path)
    with safe_open(path, "np") as file:
        entry = json.loads(file.metadata()["foveal"])
    arrays, rng = load_file(path), random.Random(7)
    every, messages = list(places(entry)), []
    for _ in range(200):
        changed = copy.deepcopy(entry)
        *above, last = rng.choice(every)
        holder = changed
        for key in above:
            holder = holder[key]
        holder[last] = copy.deepcopy(rng.choice(VALUES))
        save_file(arrays, path, metadata={"foveal": json.dumps(changed)})
        try:
            foveal.load(path)
        except StateError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(str(path) in message for message in messages)
    assert not any("\n" in message for message in messages if "cannot be" in message)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, "holds weights and not how"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"network": NaN}', "is damaged"),
        ("3", "does not say how"),
        ('{"network": {"description": {"class": "foveal.nn:ReLU"}}}', "do not fit"),
        ('{"model": "small"}', "data, channels, .* missing"),
    ],
)
def test_damaged_entries(tmp_path, entry, text):
    path = tmp_path / "net.safetensors"
    save_file({"weight": np.ones((2, 2), "float32")}, path, metadata={"foveal": entry} if entry else None)
    with pytest.raises(StateError, match=text):
        foveal.load(path)


def test_modes_and_frozen_parameters_that_do_not_exist(tmp_path):
    path = stored(nn.Linear(2, 2), tmp_path)
    with safe_open(path, "np") as file:
        entry = json.loads(file.metadata()["foveal"])
    for field, value in (("frozen", ["x"]), ("other_mode", [3]), ("frozen", None)):
        changed = {"network": entry["network"] | {field: value}}
        save_file(load_file(path), tmp_path / "other", metadata={"foveal": json.dumps(changed)})
        with pytest.raises(StateError, match=r"which the network does not have|are damaged"):
            foveal.load(tmp_path / "other")


def test_what_cannot_be_stored_says_so_and_leaves_the_file(tmp_path):
    path = stored(nn.Linear(2, 2), tmp_path)
    kept = path.read_bytes()
    moved = Row([2, 2, 2])
    del moved[0]
    other = sequence()
    other[0].forward = lambda x: x
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda m, i, o: o * 2.0)
    hooked(np.ones((1, 2), "float32"))
    for net, text in (
        (Block(3, act=lambda: nn.ReLU()), "Block\\(act=...\\) is <function.*cannot be stored"),
        (moved, "Row has lost 1"),
        (other, "forward is <function"),
        (hooked, "a hook of Linear replaces"),
    ):
        with pytest.raises(StateError, match=text):
            net.save(path)
    with pytest.raises(DataError, match="cannot be written"):
        nn.ReLU().save(tmp_path / "nowhere" / "net")
    with pytest.raises(DataError, match="no such file"):
        foveal.load(tmp_path / "nothing")
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_class_whose_constructor_has_changed(tmp_path):
    place = types.ModuleType("place_of_own")
    sys.modules[place.__name__] = place
    try:
        exec(OLD, place.__dict__)
        path = stored(place.Own(2), tmp_path)
        exec(OLD.replace("size", "size, more"), place.__dict__)
        with pytest.raises(StateError, match=r"Own cannot be made.*missing.*may have changed"):
            foveal.load(path)
    finally:
        del sys.modules[place.__name__]
    with pytest.raises(StateError, match=r"which this process has not imported.*--code FILE"):
        foveal.load(path)


OLD = """
from foveal import nn
class Own(nn.Module):
    def __init__(self, size):
        self.fc = nn.Linear(size, 2)
"""


def test_layers_without_arguments_take_none():
    with pytest.raises(ArgumentError, match=r"Tanh takes no arguments; call it as Tanh\(\)"):
        nn.Tanh(3)


class Sized(nn.Module):
    """A network that is made from numbers, and keeps one of them."""

    def __init__(self, classes, option=None):
        self.option = option
        self.linear = nn.Linear(3, classes)

    def forward(self, x):
        return self.linear(x)


def test_numbers_of_numpy_are_stored_as_those_of_python(tmp_path):
    labels = np.array([0, 2, 1])
    for option in (np.float32(0.5), [np.int64(1)], {"a": np.True_, np.int64(3): 1}):
        net = Sized(labels.max() + 1, option)
        net.save(tmp_path / "net.safetensors")
        assert foveal.load(tmp_path / "net.safetensors").option == option
    with pytest.raises(StateError, match=r"argument 1 of Sized has the key \(1, 2\)"):
        Sized(2, {(1, 2): 3}).save(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "description",
    [
        {"class": "foveal.nn:BatchNorm2d", "args": [1 << 36]},
        {"class": "foveal.nn:GroupNorm", "args": [1, 1 << 36]},
        {"class": "foveal.nn:LayerNorm", "args": [1 << 36]},
        {"class": "foveal.nn:PReLU", "args": [1 << 36]},
        {"class": "foveal.nn:Linear", "args": [1 << 18, 1 << 18]},
        {"class": "foveal.nn:Identity", "set": {"a": {"parameter": [1 << 40]}}},
    ],
    ids=lambda description: description["class"],
)
def test_a_small_file_that_describes_a_network_of_terabytes_is_refused_without_them(tmp_path, description):
    entry = {"description": description, "training": True, "other_mode": [], "frozen": []}
    written = json.dumps({"network": entry})
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "net.safetensors", metadata={"foveal": written})
    with pytest.raises(StateError, match="fit this"):
        foveal.load(tmp_path / "net.safetensors")
