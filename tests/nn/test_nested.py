"""Modules with several inputs and outputs, options, and steps over several targets."""

import numpy as np
import pytest

import foveal
from foveal import data, nn, ops, optim
from foveal.errors import ArgumentError, DataError, FovealError, NumericsError, ShapeError, StateError
from foveal.ops.op import Type

RNG = np.random.default_rng(5)
IMAGE, TEXT = RNG.standard_normal((6, 4), "float32"), RNG.standard_normal((6, 5), "float32")
TARGETS = {"class": RNG.integers(0, 3, 6), "sizes": [RNG.standard_normal((6, 2), "float32")]}


class Two(nn.Module):
    """Two inputs, an option, and outputs in a dict and a list"""

    def __init__(self):
        self.image, self.text = nn.Linear(4, 3), nn.Linear(5, 3)
        self.size = nn.Linear(3, 2)

    def forward(self, image, text, scale=1.0):
        h = self.image(image) + self.text(text) * scale
        return {"class": h, "sizes": [self.size(ops.relu(h))], "note": None}


class Nested(nn.Module):
    """Takes one dict with a list in it"""

    def forward(self, batch):
        first, second = batch["pair"]
        return first * 2, (second, first + second)


CE, MSE = nn.CrossEntropyLoss(), nn.MSELoss()


def both(outputs, targets):
    return CE(outputs["class"], targets["class"]) + MSE(outputs["sizes"][0], targets["sizes"][0]) * 0.5


def two():
    nn.seed(3)
    return Two()


def linear(layer, x):
    return x @ layer.weight.data.T + layer.bias.data


def trained(loss=both):
    net = two()
    return net, foveal.compile_step(net, loss, optim.SGD(net.parameters(), lr=0.1))


def message(error, function):
    with pytest.raises(error) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize("scale", [1.0, 3])
def test_several_inputs_options_and_outputs(scale):
    net = two()
    found = net(IMAGE, TEXT, scale=scale)
    h = linear(net.image, IMAGE) + linear(net.text, TEXT) * scale
    assert np.allclose(found["class"], h, atol=1e-5)
    assert np.allclose(found["sizes"][0], linear(net.size, np.maximum(h, 0)), atol=1e-5)
    assert found["note"] is None
    by_name = net(text=TEXT, image=IMAGE, scale=scale)
    assert np.array_equal(by_name["class"], found["class"])


def test_options_of_another_type_are_compiled_anew():
    class Kinds(nn.Module):
        def forward(self, x, kind):
            return x * (2.0 if kind is True else 5.0 if isinstance(kind, tuple) else 3.0)

    net = Kinds()
    found = [float(net(np.ones(1, "float32"), kind=kind)[0]) for kind in (True, 1, True, (1, 2), 1.0)]
    assert found == [2, 3, 2, 5, 3]
    assert "kind is [1]" in message(ArgumentError, lambda: net(IMAGE, kind=[1]))


def test_nested_inputs_keep_their_collections():
    one, (_, total) = Nested()({"pair": [IMAGE, IMAGE * 3]})
    assert np.allclose(one, 2 * IMAGE)
    assert np.allclose(total, 4 * IMAGE)
    compiled = foveal.compile(lambda d, factor=1: (d["x"] + d["y"][0]) * factor)
    assert np.allclose(compiled({"x": IMAGE, "y": (IMAGE,)}, factor=2), 4 * IMAGE)


def test_integers_among_several_inputs_stay_integers():
    class Coded(nn.Module):
        def forward(self, x, code):
            return x * ops.sum(ops.one_hot(code, classes=4), axes=(1,)).reshape(6, 1)

    assert np.array_equal(Coded()(IMAGE, np.array([0, 1, 2, 3, 0, 1])), IMAGE)
    net = nn.Sequential(nn.Linear(4, 3))

    class Chosen(nn.Module):
        def __init__(self):
            self.net = net

        def forward(self, x, code):
            return self.net(x) * ops.one_hot(code, classes=3)

    step = foveal.compile_step(Chosen(), nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
    assert np.isfinite(step((IMAGE, np.zeros(6, int)), TARGETS["class"]).loss)


def test_a_step_over_several_targets_is_the_sum_of_its_losses():
    net, step = trained()
    before = two()
    result = step((IMAGE, TEXT), TARGETS)
    outputs = before(IMAGE, TEXT)
    want = CE(outputs["class"], TARGETS["class"]) + 0.5 * MSE(outputs["sizes"][0], TARGETS["sizes"][0])
    assert np.isclose(result.loss, want, atol=1e-6)
    assert np.allclose(result.output, outputs["class"], atol=1e-6)
    assert np.allclose(result.outputs["sizes"][0], outputs["sizes"][0], atol=1e-6)
    # The gradient of a parameter that both targets reach, by finite differences in float64.
    slope = (before.image.bias.data - net.image.bias.data) / 0.1
    for i, h in ((0, 1e-2), (2, 1e-2)):
        values = []
        for sign in (1, -1):
            moved = two()
            moved.image.bias.data = moved.image.bias.data + sign * h * np.eye(3)[i]
            y = moved(IMAGE, TEXT)
            values.append(CE(y["class"], TARGETS["class"]) + 0.5 * MSE(y["sizes"][0], TARGETS["sizes"][0]))
        assert np.isclose(slope[i], (float(values[0]) - float(values[1])) / (2 * h), atol=2e-3)


def test_inputs_by_name_in_order_and_in_a_list_are_the_same_step():
    results = []
    for inputs in ((IMAGE, TEXT), [IMAGE, TEXT], {"text": TEXT, "image": IMAGE}):
        net, step = trained()
        step(inputs, TARGETS)
        results.append(net.state_dict())
    for other in results[1:]:
        assert all(np.array_equal(other[name], value) for name, value in results[0].items())


def test_labels_are_checked_wherever_a_loss_is_called_on_them():
    net, step = trained()
    kept = net.state_dict()
    wrong = {**TARGETS, "class": TARGETS["class"] + 3}
    assert "target['class']: label" in message(DataError, lambda: step((IMAGE, TEXT), wrong))
    assert all(np.array_equal(kept[name], value) for name, value in net.state_dict().items())
    # In a function over one target, as the loss says: 255 is ignored.
    plain = nn.Linear(4, 3)
    ignoring = nn.CrossEntropyLoss(ignore_index=255)
    step = foveal.compile_step(plain, lambda o, t: ignoring(o, t) * 2.0, optim.SGD(plain.parameters(), lr=0.1))
    step(IMAGE, np.array([0, 255, 1, 2, 255, 0]))
    assert "label 7" in message(DataError, lambda: step(IMAGE, np.array([0, 255, 1, 2, 7, 0])))


def test_a_module_of_output_and_target_is_a_loss():
    class Weighted(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(np.ones(()))

        def forward(self, output, target):
            return ops.mean(output * target) * self.weight

    net, loss = nn.Linear(4, 4), Weighted()
    step = foveal.compile_step(net, loss, optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1))
    step(IMAGE, IMAGE)
    assert loss.weight.data != 1


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda net, step: net(IMAGE), ArgumentError, "missing a required argument: 'text'; its forward takes (image"),
        (lambda net, step: net(), ArgumentError, "called on no array; its forward takes (image, text, scale=1.0)"),
        (lambda net, step: net(IMAGE, TEXT, 1.0, 2.0), ArgumentError, "too many positional arguments"),
        (lambda net, step: net(IMAGE, TEXT, scales=2), ArgumentError, "unexpected keyword argument 'scales'"),
        (lambda net, step: net(IMAGE, TEXT * np.nan), NumericsError, "input 1 of Two holds nan"),
        (lambda net, step: net(IMAGE, TEXT[:0]), DataError, "input 1 of Two is empty"),
        (lambda net, step: net(IMAGE, texts=TEXT), ArgumentError, "missing a required argument: 'text'"),
        (lambda net, step: step(images=IMAGE), ArgumentError, "'images'; call it as step(x, target)"),
        (lambda net, step: step(IMAGE), ArgumentError, "missing a required argument: 'target'"),
        (lambda net, step: step((IMAGE,), TARGETS), ArgumentError, "missing a required argument: 'text'"),
        (lambda net, step: step({"image": IMAGE}, TARGETS), ArgumentError, "missing a required argument: 'text'"),
        (lambda net, step: step({1: IMAGE}, TARGETS), ArgumentError, "key 1; its keys are names"),
        (lambda net, step: step((IMAGE, TEXT[:0]), TARGETS), DataError, "the input x[1] is empty"),
        (lambda net, step: step((IMAGE, TEXT), {}), ShapeError, "write it as a function of both"),
        (lambda net, step: net.summary((4,)), ArgumentError, "missing a required argument: 'text'"),
    ],
)
def test_wrong_calls_name_what_is_taken(call, error, text):
    assert text in message(error, lambda: call(*trained()))


def test_losses_that_cannot_take_what_there_is_name_the_way_out():
    _, step = trained(nn.CrossEntropyLoss())
    assert "write it as a function of both" in message(ShapeError, lambda: step((IMAGE, TEXT), TARGETS["class"]))


def test_all_that_takes_a_batch_takes_several_inputs():
    net, step = trained()
    kinds = {"class": Type((6,), "int32"), "sizes": [Type((6, 2))]}
    graph = step.trace((Type((6, 4)), Type((6, 5))), kinds)
    assert [node.name for node in graph.arguments] == ["x[0]", "x[1]", "target['class']", "target['sizes'][0]", "key"]
    assert step.program((IMAGE, TEXT), TARGETS) is step.program((IMAGE, TEXT), TARGETS)
    found = net.activations((IMAGE, TEXT), ["image"])
    assert np.allclose(found["image"], linear(net.image, IMAGE), atol=1e-5)
    assert set(net.activations({"text": TEXT, "image": IMAGE})) == {"image", "text", "size"}


def test_batch_norms_of_several_inputs_are_folded():
    class Joined(nn.Module):
        def __init__(self):
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, a, b):
            return {"y": self.norm(self.conv(a)) + b}

    nn.seed(1)
    net = Joined()
    net.norm.running_var.data = [2.0, 0.5]
    a, b = RNG.standard_normal((2, 1, 5, 5), "float32"), RNG.standard_normal((2, 2, 3, 3), "float32")
    folded = nn.fold_batch_norm(net, [a.shape, b.shape])
    assert isinstance(folded.norm, nn.Identity)
    assert np.allclose(folded(a, b)["y"], net.eval()(a, b)["y"], atol=1e-5)


def test_running_statistics_of_several_inputs():
    class Normed(nn.Module):
        def __init__(self):
            self.norm = nn.BatchNorm1d(4)

        def forward(self, a, b):
            return self.norm(a + b)

    net = Normed()
    optim.update_bn(net, [((IMAGE, IMAGE * 2), TARGETS["class"]), ({"a": IMAGE, "b": IMAGE * 4}, None)])
    assert np.allclose(net.norm.running_mean.data, 4 * IMAGE.mean(0), atol=1e-5)


def test_what_holds_itself_is_refused():
    """At any depth, as an argument of a step, of a compiled function and of a module."""
    endless = [IMAGE]
    endless.append(endless)
    book = {}
    book["book"] = book
    net, two = Nested(), Two()
    step = foveal.compile_step(two, both, optim.SGD(two.parameters(), lr=0.1))
    for value, kind in ((endless, "list"), ({"image": IMAGE, "more": endless}, "list"), (book, "dict")):
        for call in (net, foveal.compile(net), lambda value: step(value, TARGETS), lambda value: step(IMAGE, value)):
            with pytest.raises(ArgumentError, match=f"a {kind} holds itself"):
                call(value)


HOLD_THEMSELVES = {
    "grad": lambda value: foveal.grad(lambda x: ops.sum(x[0]))(value),
    "wrt": lambda value: foveal.value_and_grad(lambda x: ops.sum(x), wrt=value)(IMAGE),
    "warm_up": lambda value: foveal.warm_up(Nested(), value),
    "add": lambda value: foveal.Variable(IMAGE) + value,
    "layer": lambda value: nn.Conv2d(1, 2, 3, stride=value),
    "loader": lambda value: list(data.Loader([(tuple(value), 1), ({"a": value}, 1)], batch_size=2)),
}


@pytest.mark.parametrize("call", HOLD_THEMSELVES.values(), ids=HOLD_THEMSELVES)
def test_what_holds_itself_is_refused_by_every_call(call):
    """With a message of Foveal, not with Python's of the depth of calls."""
    arrays, numbers, variables = [IMAGE], [1, 2], [nn.Parameter(IMAGE)]
    for value in (arrays, numbers, variables):
        value.append(value)
        with pytest.raises(FovealError):
            call(value)


def test_a_loader_refuses_a_dict_that_holds_itself():
    book = {"image": IMAGE}
    book["book"] = book
    with pytest.raises(ArgumentError, match="a dict holds itself"):
        list(data.Loader([(book, 1)] * 2, batch_size=2))
    with pytest.raises(ArgumentError, match="a dict holds itself"):
        foveal.warm_up(Nested(), book)


def test_what_holds_itself_is_refused_wherever_arrays_are_looked_for():
    """In the arguments of a gradient, in what it is taken in, and in shapes and lists of layers."""
    arrays, numbers, texts, layers, book = [IMAGE], [1.0], ["x"], [nn.ReLU()], {}
    for endless in (arrays, numbers, texts, layers):
        endless.append(endless)
    book["book"] = book
    slope = foveal.grad(lambda x, more: ops.sum(x))
    for call in (
        lambda: slope(IMAGE, arrays),
        lambda: slope(IMAGE, numbers),
        lambda: slope(IMAGE, more=book),
        lambda: foveal.grad(ops.sum, wrt=texts),
        lambda: foveal.grad(ops.sum, wrt=book),
        lambda: foveal.warm_up(nn.ReLU(), book),
        lambda: foveal.warm_up(nn.ReLU(), arrays),
        lambda: setattr(Nested(), "layers", layers),
        lambda: nn.ModuleList(layers),
    ):
        with pytest.raises(ArgumentError, match="holds itself"):
            call()


def deep(value, depth, kind):
    for _ in range(depth):
        value = {"a": value} if kind is dict else kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_what_is_nested_too_deeply_is_one_clear_error(kind):
    """Also where Python's limit on the depth of calls would be met first."""
    net, take = Nested(), foveal.compile(lambda value: ops.relu(next(iter(foveal.structure.flattened(value)[0]))))
    np.testing.assert_array_equal(take(deep(IMAGE, 90, kind)), np.maximum(IMAGE, 0))
    deepest, number = deep(IMAGE, 400, kind), deep(1.0, 400, kind)
    slope = foveal.grad(lambda x, more: ops.sum(x))
    for call in (
        lambda: take(deepest),
        lambda: net(deepest),
        lambda: foveal.structure.flattened(deepest),
        lambda: slope(IMAGE, deepest),
        lambda: slope(IMAGE, number),
        lambda: foveal.grad(ops.sum, wrt=number),
        lambda: foveal.warm_up(Nested(), number),
    ):
        with pytest.raises(ArgumentError, match="more than 100 lists, tuples or dicts are nested"):
            call()


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_layers_in_what_is_nested_too_deeply_are_one_clear_error(kind):
    net, layers = nn.Sequential(nn.Linear(2, 2)), deep(nn.ReLU(), 2000, kind)
    for call in (
        lambda: setattr(net, "more", layers),
        lambda: (nn.ModuleDict if kind is dict else nn.ModuleList)(layers),
        lambda: nn.ModuleList([layers]),
    ):
        with pytest.raises(ArgumentError, match="more than 100 lists, tuples or dicts are nested"):
            call()
    with pytest.raises(ShapeError, match="Conv2d: kernel_size is a"):
        nn.Conv2d(1, 1, deep(3, 2000, kind))
    # A module may keep what has no layers in it.
    net.more = deep(1.0, 2000, kind)
    assert net(np.ones((1, 2), np.float32)).shape == (1, 2)


def test_a_module_may_keep_what_holds_itself_and_no_layers(tmp_path):
    book, names = {}, ["a"]
    book["book"], book["names"] = book, names
    names.append(names)

    class Keeping(nn.Module):
        def __init__(self, book):
            super().__init__()
            self.book, self.fc = book, nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x) if self.book["names"][0] == "a" else x

    net = Keeping(book)
    x = np.ones((1, 2), np.float32)
    assert not np.array_equal(net(x), x)
    assert list(net.state_dict()) == ["fc.weight", "fc.bias"]
    names[0] = "b"
    assert np.array_equal(net(x), x)
    # recorded arguments, and attributes that have changed
    net.more = book
    nested = Nested()
    nested.more = book
    for one in (net, nested):
        with pytest.raises(StateError, match="stored"):
            one.save(tmp_path / "net")
