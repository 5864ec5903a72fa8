"""What traced functions read apart from their arguments: changes are followed, nothing is compiled twice in vain."""

import argparse
import types
from dataclasses import dataclass

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ArgumentError, ShapeError, StateError
from foveal.watch import State
from foveal.watch.tokens import MOST_BYTES, MOST_ELEMENTS, Snapshot

X = np.array([[-2.0, -1.0, 1.0, 2.0]], np.float32)


def classifier():
    nn.seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LeakyReLU(0.1), nn.Dropout(0.5))
    return nn.Sequential(inner, nn.Linear(4, 3))


def batch(seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 4), np.float32), rng.integers(0, 3, 6)


def step_of(net):
    return foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.5))


# changes of a model after its first call, which what was compiled before has to follow
CHANGES = {
    "eval": lambda net: net.eval(),
    "norm_eval": lambda net: part(net, "0.1").eval(),
    "dropout": lambda net: setattr(part(net, "0.3"), "p", 0.0),
    "momentum": lambda net: setattr(part(net, "0.1"), "momentum", 0.0),
    "slope": lambda net: setattr(part(net, "0.2"), "negative_slope", 0.9),
    "eps": lambda net: setattr(part(net, "0.1"), "eps", 0.5),
    "layer": lambda net: setattr(part(net, "0"), "2", nn.Tanh()),
    "frozen": lambda net: setattr(part(net, "1").weight, "trainable", False),
    "requires_grad": lambda net: part(net, "0").requires_grad_(False),
    "no_bias": lambda net: setattr(part(net, "0.1"), "bias", None),
}


def part(net, name):
    return dict(net.named_modules())[name]


def after(change, net, first):
    """Outputs of a call, loss and state of a step, with the change made before or after a first call and step."""
    x, labels = batch()
    start = net.state_dict()
    step = step_of(net)
    if first:
        net(x)
        step(x, labels)
        step.steps = 0
        net.__dict__["_calls"] = 0
        change(net)
        net.load_state_dict({k: v for k, v in start.items() if k in net.state_dict()})
    else:
        change(net)
        step = step_of(net)
    y = net(x)
    if first and set(start) != set(net.state_dict()):
        with pytest.raises(StateError, match=r"made for 0\.1\.bias \[4\].*make the optimiser"):
            step(x, labels)
        step = step_of(net)
    result = step(x, labels)
    return [y, result.loss, result.output, *net.state_dict().values()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_first_call_is_followed(change):
    got = after(CHANGES[change], classifier(), first=True)
    want = after(CHANGES[change], classifier(), first=False)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_frozen_parameter_stays_and_thaws():
    net, (x, labels) = classifier(), batch()
    step, weight = step_of(net), part(net, "1").weight
    step(x, labels)
    for flag, name in ((False, "trainable"), (True, "requires_grad"), (False, "requires_grad")):
        setattr(weight, name, flag)
        assert weight.trainable is weight.requires_grad is flag
        before = weight.data.copy()
        step(x, labels)
        assert np.array_equal(weight.data, before) is not flag
    # a state that comes back has its program
    assert len(step.programs) == 2


def test_a_replaced_parameter_is_read():
    net = classifier().eval()
    x, labels = batch()
    first, step = net(x), step_of(net)
    step(x, labels)
    part(net, "1").weight = nn.Parameter(np.zeros((3, 4)))
    assert np.array_equal(net(x), np.broadcast_to(part(net, "1").bias.data, (6, 3)))
    assert not np.array_equal(net(x), first)
    with pytest.raises(StateError, match=r"SGD was made for 1\.weight \[3, 4\], not among.*net\.parameters\(\)"):
        step(x, labels)


def test_modes_that_come_back_compile_nothing_anew(monkeypatch):
    built = []
    build = foveal.api.build
    for place in ("foveal.api.build", "foveal.step.build"):
        monkeypatch.setattr(place, lambda *given, **named: built.append(1) or build(*given, **named))
    net, (x, labels) = classifier(), batch()
    step = step_of(net)
    for _ in range(3):
        net.train()
        step(x, labels)
        net(x)
        net.eval()
        net(x)
    # what no trace reads is no reason to trace again
    net.epoch, part(net, "0").history = 3, [0.1]
    net(x)
    net.train()
    step(x, labels)
    assert len(built) == 3


def test_a_mixture_of_earlier_values_is_a_combination_of_its_own():
    net = nn.Sequential(nn.LeakyReLU(0.5), nn.LeakyReLU(0.5))
    x = np.full((1, 4), -1, np.float32)
    for slopes in ((0.5, 0.5), (0.25, 0.25), (0.25, 0.5), (0.5, 0.25), (0.25, 0.25), (0.5, 0.5)):
        part(net, "0").negative_slope, part(net, "1").negative_slope = slopes
        assert np.array_equal(net(x), x * np.float32(-slopes[0] * slopes[1]) * -1)
    assert len(net.__dict__["_compiled"].programs) == 4


class WithMethods(nn.Module):
    __slots__ = ("slope",)

    def __init__(self):
        self.inner, self.slope = nn.Identity(), 1.0

    def scaled(self, x):
        return x * 2.0

    @staticmethod
    def shifted(x):
        return x + 1.0

    def forward(self, x):
        return self.shifted(self.scaled(self.inner(x))) * self.slope


def test_what_takes_the_place_of_a_method_or_a_class_is_followed():
    net = WithMethods()
    assert np.array_equal(net(X), X * 2 + 1)
    net.scaled = lambda x: x * 3.0
    assert np.array_equal(net(X), X * 3 + 1)
    net.shifted = lambda x: x
    assert np.array_equal(net(X), X * 3)
    net.inner.forward = lambda x: x * 2.0
    assert np.array_equal(net(X), X * 6)
    net.slope = 2.0
    assert np.array_equal(net(X), X * 12)
    del net.inner.forward
    net.inner.__class__ = nn.ReLU
    assert np.array_equal(net(X), np.maximum(X, 0) * 6)
    net.forward = lambda x: x
    assert np.array_equal(net(X), X)
    del net.forward
    assert np.array_equal(net(X), np.maximum(X, 0) * 6)
    assert len(net.__dict__["_compiled"].programs) == 7


def test_a_step_first_run_in_evaluation_mode_trains_afterwards():
    net, (x, labels) = classifier(), batch()
    step = step_of(net.eval())
    step(x, labels)
    assert (part(net, "0.1").num_batches_tracked.data == 0).all()
    net.train()
    step(x, labels)
    assert part(net, "0.1").num_batches_tracked.data == 1


def test_a_state_that_has_not_changed_is_not_looked_through(monkeypatch):
    """An unchanged call compares two numbers, however many layers there are."""
    net, x = nn.Sequential([nn.Linear(4, 4) for _ in range(30)]).eval(), batch()[0]
    net(x)
    looked = []
    monkeypatch.setattr("foveal.watch.state.Read.holds", lambda *given: looked.append(1) or True)
    for _ in range(10):
        net(x)
    assert not looked
    nn.Linear(4, 4)
    net(x)
    assert looked


@dataclass
class Config:
    slope: float = 2.0
    other: object = None


class Configured(nn.Module):
    def __init__(self, config):
        self.config = config

    def forward(self, x):
        return x * slope_in(self.config)


def slope_in(config):
    if isinstance(config, dict):
        return config["slope"]
    if isinstance(config, list | np.ndarray) and not isinstance(config, Options):
        return float(config[0])
    return config.other.slope if getattr(config, "other", None) else config.slope


def put(config, value):
    if isinstance(config, dict):
        config["slope"] = value
    elif isinstance(config, list | np.ndarray) and not isinstance(config, Options):
        config[0] = value
    else:
        (getattr(config, "other", None) or config).slope = value


class Slots:
    __slots__ = ("slope",)

    def __init__(self):
        self.slope = 2.0


class Options(list):
    slope = 0.0


def options():
    made = Options([1.0])
    made.slope = 2.0
    return made


CONFIGS = {
    "dict": lambda: {"slope": 2.0},
    "list": lambda: [2.0],
    "array": lambda: np.array([2.0, 3.0]),
    "dataclass": Config,
    "nested": lambda: Config(other=Config()),
    "namespace": lambda: types.SimpleNamespace(slope=2.0),
    "arguments": lambda: argparse.Namespace(slope=2.0),
    "slots": Slots,
    "list with attributes": options,
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_changes_in_place_is_followed(kind):
    config = CONFIGS[kind]()
    net = Configured(config)
    function = foveal.compile(lambda x: x * slope_in(config))
    for value in (2.0, 3.0, 2.0):
        put(config, value)
        assert np.array_equal(net(X), X * np.float32(value))
        assert np.array_equal(function(X), X * np.float32(value))
    assert len(net.__dict__["_compiled"].programs) == len(function.programs) == 2


scale = nn.LeakyReLU(0.5)
factor = 2.0


def helper(x):
    return scale(x) * factor


def test_functions_follow_their_closures_globals_and_what_they_call(monkeypatch):
    inner, number = nn.LeakyReLU(0.5), 1.0
    functions = [foveal.compile(lambda x: inner(x) * number), foveal.compile(lambda x: helper(x))]
    slope = foveal.grad(lambda x: ops.sum(inner(x) * number))
    of_globals = foveal.grad(lambda x: ops.sum(x * factor))

    def check(a, b):
        assert np.array_equal(of_globals(X), np.full(X.shape, b))
        assert np.array_equal(functions[0](X), np.where(X > 0, X, X * np.float32(inner.negative_slope)) * a)
        assert np.array_equal(functions[1](X), np.where(X > 0, X, X * np.float32(scale.negative_slope)) * b)
        assert np.array_equal(slope(X), np.where(X > 0, 1, np.float32(inner.negative_slope)) * a)

    check(1, 2)
    number, inner.negative_slope = 3.0, 0.25
    monkeypatch.setattr(scale, "negative_slope", 0.125)
    check(3, 2)
    monkeypatch.setattr("test_reads.factor", 4.0)
    inner = nn.LeakyReLU(0.75)
    check(3, 4)


def test_a_function_follows_what_is_assigned_to_it_in_its_place():
    def scaled(x, by=2.0, *, more=1.0):
        return x * by * more

    function = foveal.compile(scaled)
    for name, value, factor in (
        ("__defaults__", (3.0,), 3),
        ("__kwdefaults__", {"more": 4.0}, 12),
        ("__code__", (lambda x, by, *, more: x - by - more).__code__, None),
    ):
        function(X)
        setattr(scaled, name, value)
        assert np.array_equal(function(X), X - 3 - 4 if factor is None else X * np.float32(factor))


def test_losses_are_followed():
    net, (x, labels) = classifier().eval(), batch()
    loss = nn.CrossEntropyLoss()
    step = foveal.compile_step(net, loss, optim.SGD(net.parameters(), lr=0.0))
    plain = step(x, labels).loss
    loss.label_smoothing = 0.5
    smooth = step(x, labels).loss
    fresh = foveal.compile_step(net, nn.CrossEntropyLoss(label_smoothing=0.5), optim.SGD(net.parameters(), lr=0.0))
    assert smooth == fresh(x, labels).loss != plain
    step.loss = nn.AuxiliaryLoss(nn.CrossEntropyLoss())
    assert step(x, labels).loss == plain
    step.loss.loss.label_smoothing = 0.5
    assert step(x, labels).loss == smooth


class Trainer:
    """Whose loss is a method, and which counts its steps"""

    smoothing = 0.0

    def __init__(self):
        self.net, self.done, self.history, self.weight = classifier().eval(), 0, [], 1.0
        self.traced = 0

    @property
    def factor(self):
        return self.weight * 2.0

    def loss(self, y, t):
        self.traced += 1
        return nn.CrossEntropyLoss(label_smoothing=self.smoothing)(y, t) * self.scaled()

    def scaled(self):
        return self.factor


@pytest.mark.parametrize("wrap", [lambda t: t.loss, lambda t: lambda y, target: t.loss(y, target)])
def test_an_object_that_counts_is_followed_in_what_its_loss_reads(wrap):
    trainer, (x, labels) = Trainer(), batch()
    step = foveal.compile_step(trainer.net, wrap(trainer), optim.SGD(trainer.net.parameters(), lr=0.0))
    for _ in range(3):
        first = step(x, labels).loss
        trainer.done += 1
        trainer.history.append(first)
    assert trainer.traced == 1
    trainer.weight = 2.0
    assert step(x, labels).loss == first * 2
    trainer.smoothing = 0.5
    assert step(x, labels).loss != first * 2
    assert trainer.traced == 3


def test_what_is_far_inside_of_others_is_not_looked_at():
    inner = outer = Config()
    for _ in range(2000):
        outer = Config(other=outer)
    net = Configured(outer)
    outer.other = Config(slope=3.0)
    outer.other.other = inner
    assert net(X).shape == X.shape
    link = chain = []
    for _ in range(2000):
        link.append([])
        link = link[0]
    assert np.array_equal(foveal.compile(lambda x: x * float(len(chain)))(X), X)


class Writing(nn.Module):
    """A layer that keeps what it has seen, as for a look at it later"""

    def __init__(self):
        self.scale = nn.Parameter(np.ones(()))
        self.calls, self.seen, self.made = 0, [], None

    def forward(self, x):
        self.calls += 1
        self.features = x * self.scale
        self.seen.append(self.features)
        self.seen.append(self.calls)
        if self.made is None:
            self.made = nn.LeakyReLU(0.5)
        return self.made(self.features)


def test_what_a_forward_writes_itself_is_no_reason_to_trace_it_again():
    net = Writing()
    for x in (X, X, np.vstack([X, X]), X, np.vstack([X, X])):
        net(x)
    assert net.calls == len(net.__dict__["_compiled"].programs) == 2
    net.made.negative_slope = 0.25
    assert np.array_equal(net(X), np.where(X > 0, X, X / 4))
    net.made = nn.ReLU()
    assert np.array_equal(net(X), X.clip(0))


def test_functions_that_count_their_calls_are_traced_once():
    calls, count = [], 0

    def function(x):
        nonlocal count
        count += 1
        calls.append(count)
        return x * 2.0

    compiled = foveal.compile(function)
    for _ in range(3):
        compiled(X)
    assert calls == [1]


def test_numbers_that_python_takes_for_equal_are_told_apart():
    net = Configured([1])
    seen = []
    for value in (1, True, 1.0, 0.0, -0.0, float("nan"), float("nan")):
        net.config = [value, 10**5000]
        net(X)
        seen.append(len(net.__dict__["_compiled"].programs))
    assert seen == [1, 2, 3, 4, 5, 6, 6]


def test_large_collections_count_as_they_are():
    """Comparing them in each call would take longer than computing."""
    numbers, array = list(range(MOST_ELEMENTS + 1)), np.zeros(MOST_BYTES // 8 + 1)
    for value in (numbers, array, set(numbers), dict.fromkeys(numbers)):
        net = Configured(Config(other=None, slope=2.0))
        net.config.large = value
        net(X)
        state = net.__dict__["_compiled"].state
        assert [s for guard in state.latest[0].changeable for s in guard.snapshots if s.value is value] == []


def test_a_snapshot_sees_what_changed():
    for value, change in (([1], lambda v: v.append(2)), ({1}, lambda v: v.add(2)), (np.zeros(2), lambda v: v.fill(1))):
        snapshot = Snapshot(value)
        assert snapshot.holds()
        change(value)
        assert not snapshot.holds()


def test_a_state_remembers_a_bounded_number_of_combinations():
    net, state = Configured(Config()), State()
    for i in range(100):
        net.config.slope = i
        with state.reading(state.number(net)):
            slope_in(net.config)
    assert len(state.entries) == 64
    assert len({entry.number for entry in state.entries}) == 64


@pytest.mark.parametrize(
    ("layer", "name", "value", "words"),
    [
        (lambda: nn.Conv2d(1, 1, 3), "padding", "x", "padding"),
        (lambda: nn.Conv2d(1, 1, 3), "stride", None, "stride"),
        (lambda: nn.Conv2d(1, 1, 3), "padding_mode", "mirror", "padding_mode is 'mirror'"),
        (lambda: nn.LeakyReLU(), "negative_slope", "steep", "negative_slope"),
        (lambda: nn.MaxPool2d(2), "kernel_size", "x", "kernel_size"),
        (lambda: nn.MaxPool2d(2), "ceil_mode", 2, "ceil_mode is 2, it has to be True or False"),
        (lambda: nn.GELU(), "approximate", "sinh", "approximate is 'sinh'"),
        (lambda: nn.Dropout(), "p", 1.5, "p is 1.5"),
        (lambda: nn.StochasticDepth(0.5, "row"), "mode", "column", "mode is 'column'"),
        (lambda: nn.BatchNorm2d(1), "momentum", 7, "momentum is 7"),
        (lambda: nn.BatchNorm2d(1), "eps", float("nan"), "eps is nan"),
        (lambda: nn.BatchNorm2d(1, track_running_stats=False), "track_running_stats", True, "made without running"),
        (lambda: nn.ReLU(), "training", "yes", "training is 'yes', it has to be True or False"),
    ],
)
def test_attributes_that_mean_nothing_are_refused_by_name(layer, name, value, words):
    x = np.ones((1, 1, 4, 4), np.float32)
    net = nn.Sequential(layer())
    net(x)
    with pytest.raises((ShapeError, ArgumentError), match=words):
        (setattr(part(net, "0"), name, value), net(x))


def test_an_error_of_a_layer_of_ones_own_is_left_as_it_is():
    class Wrong(nn.Module):
        def forward(self, x):
            return x.no_such_method()

    with pytest.raises(AttributeError, match="no_such_method"):
        nn.Sequential(Wrong())(X)
