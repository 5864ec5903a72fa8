"""A training that is saved, loaded by another process and continued has the bits of one that was never stopped."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import foveal
from foveal import nn, optim, train
from foveal.data.augment import crop_and_flip
from foveal.data.loader import Loader
from foveal.errors import ShapeError, StateError
from foveal.train import load_state_dict, state_dict

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((30, 1, 6, 6), np.float32), RNG.integers(0, 3, 30)
# In the middle of an epoch, which has 4 steps; and at the end of the third.
PAUSE, END = 6, 12

AVERAGES = {
    "none": lambda rule: rule,
    "ema": lambda rule: optim.EMA(rule, 0.8),
    "swa": lambda rule: optim.SWA(rule, start=2, every=3),
    "lookahead": lambda rule: optim.Lookahead(rule, k=4),
    "lookahead in ema": lambda rule: optim.EMA(optim.Lookahead(rule, k=4), 0.8),
}
# Every optimiser and every schedule, with the averages in turn.
CONFIGURATIONS = list(
    zip(
        itertools.islice(itertools.cycle(optim.NAMES), max(len(optim.NAMES), len(optim.schedule.NAMES))),
        itertools.cycle(optim.schedule.NAMES),
        itertools.cycle(AVERAGES),
    )
)


class Training:
    """All that a training consists of, built as at its start."""

    def __init__(
        self, optimizer="adamw", schedule="plateau", average="none", seed=0, dropout=0.3, order=None, **options
    ):
        nn.seed(seed)
        layers = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()
        self.net = nn.Sequential(*layers, nn.Linear(64, 3))
        self.rule = AVERAGES[average](optim.build(optimizer, self.net.parameters(), lr=0.01, **options))
        self.schedule = optim.schedule.build(schedule, 0.01, END, 4)
        if schedule == "plateau":
            self.schedule.patience = 0
        self.rule.schedule(lr=self.schedule)
        self.step = foveal.compile_step(self.net, nn.CrossEntropyLoss(), self.rule, threads=1, seed=seed)
        self.noise = np.random.default_rng(seed)
        order = {"seed": 3, "shuffle": True, "drop_last": True, **(order or {})}
        self.loader = Loader(IMAGES, LABELS, 7, mean=[0.5], std=[0.3], augment=crop_and_flip((6, 6)), **order)

    @property
    def more(self):
        return {"loader": self.loader, "generators": {"noise": self.noise}}

    def train(self, until):
        while self.step.steps < until:
            epoch, batch = divmod(self.step.steps, len(self.loader))
            for x, y in itertools.islice(self.loader.epoch(epoch), batch, batch + until - self.step.steps):
                x = x + self.noise.normal(0, 0.1, x.shape).astype(np.float32)
                self.schedule.observe(float(self.step.steps))
                self.step(x, y)
        return self

    def state(self):
        return state_dict(self.step, **self.more)

    def load(self, state):
        load_state_dict(self.step, state, **self.more)
        return self


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


LATER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
import test_state as t
folder = Path(sys.argv[1])
for number, how in enumerate(t.CONFIGURATIONS):
    training = t.Training(*how, seed=1).load(t.load_file(folder / f"{number}.pause"))
    training.train(t.END)
    t.save_file(training.state(), folder / f"{number}.later")
"""


def test_a_training_goes_on_in_another_process(tmp_path):
    """5 steps, saved and loaded, and 5 more are 10 in one go: every optimiser and schedule, averages, dropout."""
    assert {how[0] for how in CONFIGURATIONS} == set(optim.NAMES)
    assert {how[1] for how in CONFIGURATIONS} == set(optim.schedule.NAMES)
    ends = []
    for number, how in enumerate(CONFIGURATIONS):
        training = Training(*how).train(PAUSE)
        save_file(training.state(), tmp_path / f"{number}.pause")
        ends.append(training.train(END).state())
    command = [sys.executable, "-c", LATER, str(tmp_path), os.path.dirname(__file__)]
    subprocess.run(command, check=True, timeout=120)
    for number, (how, end) in enumerate(zip(CONFIGURATIONS, ends, strict=True)):
        assert same(load_file(tmp_path / f"{number}.later"), end), how


@pytest.fixture(scope="module")
def paused():
    """A training with all kinds of parts, and its state."""
    training = Training("momentum", average="ema", clip_norm=1.0).train(PAUSE)
    return training, training.state()


def test_taking_the_state_changes_nothing(paused):
    training, state = paused
    assert same(training.state(), state)


def test_masks_of_dropout_do_not_start_over(paused):
    """The masks after loading are those of the steps that follow, and not those of the first steps."""
    x, y = np.ones((7, 1, 6, 6), np.float32), np.arange(7) % 3
    outputs = []
    for steps in (PAUSE, PAUSE, 0):
        later = Training("momentum", average="ema", clip_norm=1.0, seed=1).load(paused[1])
        later.step.steps = steps
        outputs.append(later.step(x, y).output)
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_calls_outside_of_steps_go_on_too(paused):
    training, _ = paused
    x = np.ones((2, 1, 6, 6), np.float32)
    training.net(x)
    later = Training("momentum", average="ema", clip_norm=1.0).load(training.state())
    assert np.array_equal(training.net(x), later.net(x))


def test_layers_that_are_built_later_start_as_they_would_have():
    training = Training()
    state = training.state()
    expected = nn.Linear(5, 5).weight.data
    nn.seed(77)
    training.load(state)
    assert np.array_equal(nn.Linear(5, 5).weight.data, expected)


def test_modes_and_frozen_parameters_are_restored():
    training = Training()
    training.net.eval()
    training.net.parameters()[0].trainable = False
    later = Training().load(training.state())
    assert [m.training for _, m in later.net.named_modules()] == [False] * 7
    assert [p.trainable for p in later.net.parameters()] == [False] + [True] * 4


OTHERS = {
    "another optimiser": ({"optimizer": "nesterov"}, "options: .*0.kind was .Momentum. and is .Nesterov."),
    "no averages": ({"average": "none"}, "options: .*kind was"),
    "another clip": ({"clip_norm": 2.0}, r"0.clip_norm was 1\.0 and is 2\.0"),
    "no clip": ({"clip_norm": None}, r"0.clip_norm was 1\.0 and is null"),
    "another dropout": ({"dropout": 0.4}, r"layer 3 was .Dropout\(0\.3\). and is .Dropout\(0\.4\)"),
    "another schedule": ({"schedule": "cosine"}, r"has schedule.lr, which there is none of here"),
    "another order": ({"order": {"seed": 4}}, "loader: seed was 3 and is 4"),
    "another batch": ({"order": {"shuffle": False}}, "loader: shuffle was true and is false"),
}


@pytest.mark.parametrize(("how", "words"), OTHERS.values(), ids=OTHERS)
def test_what_was_built_otherwise_is_refused_and_left_alone(paused, how, words):
    how = {"optimizer": "momentum", "average": "ema", "clip_norm": 1.0, "seed": 5, **how}
    other = Training(**how)
    before = other.state()
    with pytest.raises(StateError, match=words):
        other.load(paused[1])
    assert same(other.state(), before)


def test_another_optimiser_is_named_in_few_words():
    """Not with the parameters of each of its parts, of which a network has hundreds."""
    net, loss = nn.Sequential(*(nn.Linear(3, 3) for _ in range(40))), nn.CrossEntropyLoss()
    sgd, combined = optim.SGD(net.parameters(), lr=0.1), optim.build("muon", net.parameters(), lr=0.1)
    state = state_dict(foveal.compile_step(net, loss, sgd))
    with pytest.raises(StateError, match=r"options: kind was .SGD. and is .Combined.; 0\.kind was null") as caught:
        load_state_dict(foveal.compile_step(net, loss, combined), state)
    assert len(str(caught.value)) < 300


def test_a_schedule_with_other_values_is_refused():
    state = Training(schedule="step").train(PAUSE).state()
    with pytest.raises(StateError, match=r"schedules: lr was 0\.001 and is 0\.01"):
        Training(schedule="constant").load(state)


@pytest.mark.parametrize("missing", ["loader", "generators"])
def test_the_loader_and_the_generators_are_asked_for(paused, missing):
    training, state = paused
    more = {name: value for name, value in training.more.items() if name != missing}
    with pytest.raises(StateError, match=f"it has {missing}.*, which there is none of here.*give the loader"):
        load_state_dict(training.step, state, **more)
    with pytest.raises(StateError, match=f"it lacks {missing}"):
        training.load(state_dict(training.step, **more))


def damaged(state):
    """Each array of a state in turn: gone, of another shape, of another type, not finite or out of range."""
    for name, array in state.items():
        yield f"{name} is gone", {other: state[other] for other in state if other != name}
        yield f"{name} is longer", {**state, name: np.concatenate([array.ravel(), array.ravel(), array.ravel()[:1]])}
        yield f"{name} is text", {**state, name: np.array("text")}
        if array.dtype.kind == "f" and array.shape == () and name.startswith("optimizer"):
            yield f"{name} is NaN", {**state, name: np.array(np.nan)}
    yield "a part more", {**state, "more/x": np.zeros(3)}
    yield "an array more", {**state, "model/more": np.zeros(3)}
    yield "an unknown version", {**state, "version": np.array(2)}
    yield "nothing", {}
    yield "steps before the first", {**state, "step/steps": np.array(-1)}


def test_a_state_that_is_damaged_changes_nothing(paused):
    _, state = paused
    other = Training("momentum", average="ema", clip_norm=1.0, seed=5)
    before = other.state()
    for what, bad in damaged(state):
        words = "the stored training does not fit|the state of a training has|has to be an array of numbers"
        with pytest.raises((StateError, ShapeError), match=words):
            pytest.fail(f"{what}: {other.load(bad)}")
        assert same(other.state(), before), what
    other.load(state)
    assert same(other.state(), state)


def test_the_averages_are_not_stored_in_place_of_the_parameters(paused):
    training, _ = paused
    state = training.state()
    with training.rule.averaged(), pytest.raises(StateError, match="EMA: the model holds the averages now"):
        training.state()
    assert same(training.state(), state)


def test_a_step_alone_has_a_state():
    first, second = Training(seed=7).step, Training(seed=0).step
    first.steps = 2**40
    second.load_state_dict(first.state_dict())
    assert second.steps == 2**40
    assert np.array_equal(second.key, first.key)
    for bad in ({}, {"seed": first.key[:2]}, {**first.state_dict(), "more": 1}, {"seed": [1, 2], "steps": 3}):
        with pytest.raises(StateError, match="no state of a step"):
            second.load_state_dict(bad)


def test_what_has_no_state_is_named():
    class Plain:
        net = nn.Linear(3, 3)
        parameters = net.parameters

        def __call__(self, x):
            return self.net(x)

    step = foveal.compile_step(Plain(), nn.CrossEntropyLoss(), optim.AdamW(Plain.net.parameters()))
    with pytest.raises(StateError, match=r"the step trains Plain with AdamW; .* needs an nn\.Module"):
        state_dict(step)
    with pytest.raises(ShapeError, match=r"generators is \{'noise': 3\}, it has to be a dictionary of Generators"):
        state_dict(Training().step, generators={"noise": 3})
    with pytest.raises(StateError, match="the generator 'a/b' has a / in its name"):
        state_dict(Training().step, generators={"a/b": np.random.default_rng()})


class StateAt(train.Callback):
    """Keeps the state of the training after so many steps, and lets it go on."""

    def __init__(self, steps):
        self.steps, self.state = steps, None

    def on_step_end(self, values):
        self.steps -= 1
        if self.steps == 0:
            self.state = self.run.state_dict()


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_callback_may_take_the_state_after_any_step(steps, accumulate):
    """Epochs have 3 batches, of which the last is smaller; a plateau needs the loss of the whole epoch."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((10, 4), "float32"), rng.integers(0, 3, 10)

    def run(**more):
        nn.seed(1)
        net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2))
        options = {"epochs": 3, "batch_size": 4, "accumulate": accumulate, "schedule": "plateau", "quiet": True}
        return net, train.train(data, net, **options, **more)

    taken = StateAt(steps)
    whole, history = run(callbacks=[taken])
    resumed, later = run(resume=taken.state, callbacks=[StateAt(0)])
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array)
    assert later.train["loss"] == history.train["loss"]
