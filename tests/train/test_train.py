"""The training loop and its files: what a run leaves, and what it keeps when it ends badly."""

import ast
import errno
import inspect
import json
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import foveal
from foveal import cli, nn, ops, optim
from foveal.cli import folders_options
from foveal.data import from_arrays
from foveal.errors import ArgumentError, DataError, NumericsError, ShapeError, StateError
from foveal.nn import models
from foveal.step import Step
from foveal.train import (
    Options,
    RunFolder,
    RunOptions,
    Settings,
    TrainOptions,
    cross_entropy,
    evaluate,
    load_net,
    load_run,
    run_folder,
    train,
)
from foveal.train.checkpoint import MODEL, model_bytes
from foveal.train.evaluate import EVALUATION_BATCH, predict
from foveal.train.recipes import recipe_for
from foveal.train.settings import choose


@pytest.fixture(scope="session")
def data():
    """Three classes of 8x8 images: a bright row at the top, in the middle, at the bottom."""
    rng = np.random.default_rng(0)

    def part(n):
        x, y = rng.integers(0, 80, (n, 8, 8)).astype(np.uint8), np.arange(n) % 3
        x[np.arange(n), 1 + 3 * y] += 120
        return x, y

    return from_arrays("rows", *part(63), *part(24))


OPTIONS = {"epochs": 2, "batch_size": 20, "quiet": True}


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, train(data, out=out, seed=3, threads=1, **OPTIONS)


def read(path):
    return json.loads(path.read_text())


def broken_step(monkeypatch, at, error):
    """From now on the training step number `at`, counted from 1, raises `error`."""
    whole, count = Step.take, iter(range(1, 1000))

    def take(self, x, labels):
        if next(count) == at:
            raise error
        return whole(self, x, labels)

    monkeypatch.setattr(Step, "take", take)


def test_files_of_a_run(run, data):
    out, metrics = run
    names = ["checkpoints", "log.jsonl", "metrics.json", "model.safetensors", "run.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert read(out / "metrics.json") == metrics
    assert metrics["test"].keys() == {"accuracy", "loss"}
    assert (metrics["seed"], metrics["threads"], metrics["epochs_done"]) == (3, 1, 2)
    assert metrics["seconds"] > 0
    assert metrics["images_per_second"] > 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[-1]["test"] == metrics["test"]
    assert lines[0]["seconds"] < lines[1]["seconds"] <= metrics["seconds"]


def test_the_folder_alone_gives_the_network_back(run, data):
    out, metrics = run
    net, trained = load_net(out)
    assert (trained.model, trained.classes, trained.mean) == (metrics["model"], data.classes, data.mean)
    test = evaluate(net, data.x_test, data.y_test, mean=trained.mean, std=trained.std)
    assert test == metrics["test"]
    assert metrics["parameters"] == sum(p.size for p in net.parameters())


def test_a_run_repeats_bit_by_bit(run, data, tmp_path):
    train(data, out=tmp_path, seed=3, threads=2, **OPTIONS)
    metrics = {**read(tmp_path / "metrics.json"), "threads": 1}
    varying = {"seconds", "images_per_second", "memory_bytes"}  # each thread has scratch memory
    assert {k: v for k, v in metrics.items() if k not in varying} == {
        k: v for k, v in run[1].items() if k not in varying
    }
    first, second = load_file(run[0] / MODEL), load_file(tmp_path / MODEL)
    assert all(np.array_equal(first[name], second[name]) for name in first | second)
    train(data, out=tmp_path / "other", seed=4, threads=2, **OPTIONS)
    third = load_file(tmp_path / "other" / MODEL)
    assert not all(np.array_equal(first[name], third[name]) for name in first)


def test_training_learns(data):
    metrics = train(data, epochs=8, batch_size=21, quiet=True)
    assert metrics["test"]["accuracy"] == 1
    assert metrics["test"]["loss"] < 0.5


def test_threads_hold_for_the_run_only(data):
    before = foveal.get_threads()
    assert train(data=data, threads=before + 1, **OPTIONS)["threads"] == before + 1
    assert foveal.get_threads() == before


def test_a_network_of_ones_own(data, tmp_path):
    net = models.build(recipe_for((8, 8)).model, channels=1, size=(8, 8), classes=3, seed=0)
    assert train(data, model=net, out=tmp_path, **OPTIONS)["model"] is None
    loaded, _ = load_net(tmp_path)
    assert np.array_equal(loaded(data.x_test), net.eval()(data.x_test))
    net.load_state_dict(load_run(tmp_path)[1], strict=True)


def test_a_network_that_cannot_be_described_is_built_by_who_loads_it(data, tmp_path):
    class Own(nn.Module):
        def __init__(self, rule):
            self.net, self.rule = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), rule

        def forward(self, x):
            return self.rule(self.net(x))

    net = Own(lambda x: x * 2.0)
    train(data, model=net, out=tmp_path, **OPTIONS)
    with pytest.raises(StateError, match=r"could not be described.*argument 0 of Own is <function.*load\(path, net\)"):
        load_net(tmp_path)
    loaded, description = load_net(tmp_path, Own(lambda x: x * 2.0))
    assert np.array_equal(loaded(data.x_test), net.eval()(data.x_test))
    assert description.classes == data.classes


def test_an_older_run_is_kept(data, tmp_path, capsys):
    for _ in range(3):
        train(data, out=tmp_path, **{**OPTIONS, "epochs": 1, "quiet": False})
        (tmp_path / "notes.txt").write_text("mine")
        assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} >= {"earlier-1", "earlier-2", "notes.txt"}
    load_net(tmp_path / "earlier-1")
    printed = capsys.readouterr().out
    assert "before is now in" in printed
    assert "epoch 1/1: loss" in printed


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NumericsError("the loss is nan"), "epoch 2, step 2: the loss is nan.*lower learning rate than"),
        (KeyboardInterrupt(), "Interrupted in epoch 2"),
    ],
)
def test_a_run_that_ends_badly_keeps_its_last_epoch(data, tmp_path, monkeypatch, error, words):
    broken_step(monkeypatch, at=5, error=error)  # three steps per epoch
    with pytest.raises(type(error), match=words) as raised:
        train(data, out=tmp_path, **OPTIONS)
    assert f"model of epoch 1 is kept at {tmp_path / MODEL}" in str(raised.value)
    assert read(tmp_path / "metrics.json")["epochs_done"] == 1
    load_net(tmp_path)


def test_a_run_that_ends_before_its_first_epoch_touches_nothing(data, tmp_path, monkeypatch):
    train(data, out=tmp_path, **OPTIONS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    broken_step(monkeypatch, at=1, error=NumericsError("the loss is nan"))
    with pytest.raises(NumericsError, match=r"epoch 1, step 1.*No model of this run"):
        train(data, out=tmp_path, **OPTIONS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_schedule_momentum_clipping_and_averages_are_what_they_are_called(data, tmp_path):
    how = {"optimizer": "adamw", "schedule": "step", "momentum": 0.8, "weight_decay": 0.1}
    metrics = train(data, out=tmp_path, clip_norm=1.0, ema=0.9, lr=0.01, **how, **OPTIONS)
    assert {name: metrics[name] for name in how} == how
    assert (metrics["clip_norm"], metrics["ema"]) == (1.0, 0.9)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    # six steps, the rate falls to a tenth after every two of them
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 1e-4])
    net, trained = load_net(tmp_path)  # the averages are what is kept
    kept = evaluate(net, data.x_test, data.y_test, mean=trained.mean, std=trained.std)
    assert kept == metrics["test"]
    assert train(data, lr=0.01, **how, **OPTIONS)["test"] != metrics["test"]


def test_momentum_is_cycled_and_a_plateau_observes_the_loss(data, monkeypatch):
    seen, losses = [], []
    whole = foveal.compile_step

    def compile_step(net, loss, optimizer, **options):
        step = whole(net, loss, optimizer, **options)
        seen.append(optimizer)
        return step

    monkeypatch.setattr(foveal, "compile_step", compile_step)
    train(data, momentum=0.95, momentum_low=0.8, **OPTIONS)
    values = [seen[0].schedules["momentum"](step) for step in range(6)]
    assert max(values) == pytest.approx(0.95)
    assert min(values) < 0.85
    assert seen[0].momentum == values[5]
    plateau = optim.schedule.Plateau
    monkeypatch.setattr(plateau, "update", lambda self, metric: losses.append(metric))
    log = train(data, schedule="plateau", **OPTIONS)
    assert len(losses) == 2
    assert losses[1] == log["train"]["loss"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 64}, "batch size 64 is larger than the 63 training images"),
        ({"model": "nonet"}, "no model called 'nonet'; choose one of"),
        ({"optimizer": "lion"}, "optimizer 'lion': choose from"),
        ({"lr": 0.0}, "lr is 0.0: it must be more than 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"epochs": 0}, "epochs is 0"),
        ({"schedule": "wave"}, "schedule 'wave': choose from one-cycle"),
        ({"optimizer": "sgd", "momentum": 0.9}, "optimizer sgd: has no momentum"),
        ({"momentum": 1.5}, r"momentum is 1\.5, it has to be at least 0 and below 1"),
        ({"momentum_low": 0.99}, r"momentum_low is 0\.99: it has to be from 0 to the momentum, 0\.9"),
        ({"momentum_low": 0.8, "schedule": "cosine"}, "momentum is cycled with one-cycle only"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"clip_norm": 0}, "clip_norm is 0, it has to be more than 0"),
        ({"ema": 1.0}, r"EMA: decay is 1\.0"),
    ],
)
def test_options_that_do_not_fit(data, options, words):
    with pytest.raises((DataError, ShapeError), match=words):
        train(data, **{**OPTIONS, **options})


def test_the_function_shows_its_options():
    """inspect, help and editors see the fields of TrainOptions, with their defaults."""
    data, net, *options = inspect.signature(train).parameters.values()
    assert (data.name, data.annotation, net.name, net.default) == ("data", "Any", "net", None)
    assert [option.name for option in options] == [f.name for f in fields(TrainOptions) if f.name != "net"]
    given = {f.name: f.default for f in fields(TrainOptions) if f.default is not MISSING}
    assert {option.name: option.default for option in (net, *options) if option.name in given} == given
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_an_option_that_there_is_not_is_one_error_before_anything_is_done(data, tmp_path):
    words = r"no option 'epoch' \(did you mean 'epochs'\?\); the options are net, model, epochs, .*, resume$"
    with pytest.raises(TypeError, match=words):
        train(data, epoch=3, out=tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"train: takes data, a network and options by name.*from_arrays"):
        train(np.zeros((4, 8, 8)), np.zeros(4))
    assert not (tmp_path / "run").exists()


SOURCES = {name: Path(foveal.__file__).parent / name for name in ("train/settings.py", "train/loop.py", "cli/train.py")}
NAMES = {field.name for field in fields(RunOptions)}


@pytest.fixture(scope="module")
def trees():
    return {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def test_an_option_is_declared_in_two_places(trees):
    """As a field, and on the command line; as a field of Settings too if `choose` derives its value."""
    declared = {
        node.name: [line.target.id for line in node.body if isinstance(line, ast.AnnAssign)]
        for node in trees["train/settings.py"].body
        if isinstance(node, ast.ClassDef)
    }
    assert sorted(declared["Options"] + declared["RunOptions"]) == sorted(NAMES)
    functions = [n for n in trees["train/settings.py"].body if isinstance(n, ast.FunctionDef)]
    (settings_of,) = (n for n in functions if n.name == "settings_of")
    derived = [k.arg for n in ast.walk(settings_of) if isinstance(n, ast.Call) for k in n.keywords if k.arg is not None]
    assert sorted(derived) == sorted(declared["Settings"])
    on_the_command_line = [parameter.name for parameter in cli.train.params]
    of_data = ["data", "data_dir", "checked", *folders_options._NAMES]
    assert sorted(on_the_command_line) == sorted(
        [*NAMES, *of_data, "as_json", "compile_only", "resume", "report", "tensorboard", "rank_timeout", "elastic"]
    )


def test_no_option_is_passed_on_by_hand(trees):
    """No call hands a local variable on as the option of its name, and no function has two options as parameters."""
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Name) and node.arg in NAMES - {"optimizer"}:
                assert node.arg != node.value.id, f"{name}:{node.value.lineno} passes {node.arg} on"
            elif isinstance(node, ast.FunctionDef):
                parameters = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]}
                assert len(parameters & NAMES) <= 1, f"{name}: {node.name} repeats {sorted(parameters & NAMES)}"


def test_settings_hold_every_option(data):
    options = Options(seed=7, clip_norm=2.0, ema=0.5, memory="low", momentum=0.7, lr=0.3)
    settings = choose(data, options)
    recipe = recipe_for(data.size, len(data.images_train))
    for field in fields(Options):
        given = getattr(options, field.name)
        if given is not None:
            assert getattr(settings, field.name) == given
    assert (settings.model, settings.epochs, settings.batch_size) == (recipe.model, recipe.epochs, recipe.batch_size)
    assert (settings.schedule, settings.augment) == ("one-cycle", recipe.augment)
    assert {field.name for field in fields(Settings)} == {field.name for field in fields(Options)} | {"augment"}


def test_the_rate_of_another_optimiser_is_its_own(data):
    recipe = recipe_for(data.size, len(data.images_train))
    for name in optim.NAMES:
        lr = choose(data, Options(optimizer=name)).lr
        assert lr == (recipe.lr if name == recipe.optimizer else optim.UpdateRule.registry[name].default_lr)


def test_a_new_optimiser_is_one_class(data):
    """Defined outside of the package it is known by name: to `build`, to `train` and to the command line."""
    try:

        class SignDescent(optim.Optimizer, name="sign"):
            """p <- p - lr sign(g): Bernstein et al. 2018, algorithm 1."""

            default_lr = 0.003

            def update(self, p, g, state, now, group):
                return p - now["lr"] * (ops.greater(g, 0.0) - ops.greater(0.0, g)), {}

        assert "sign" in optim.NAMES
        metrics = train(data, optimizer="sign", weight_decay=0.0, epochs=6, batch_size=21, quiet=True)
        assert (metrics["optimizer"], metrics["lr"]) == ("sign", 0.003)
        assert metrics["test"]["accuracy"] > 0.9
        assert "|sign]" in CliRunner().invoke(cli.main, ["train", "--help"], terminal_width=400).output
        with pytest.raises(ShapeError, match="optimizer sign: has no momentum"):
            train(data, optimizer="sign", momentum=0.5, **OPTIONS)
    finally:
        optim.UpdateRule.registry.pop("sign", None)
    with pytest.raises(ShapeError, match="optimizer 'sign': choose from sgd"):
        train(data, optimizer="sign", **OPTIONS)


def test_out_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file: cannot be written: .*choose another --out"):
        train(data, out=tmp_path / "file", **OPTIONS)


def test_a_disk_that_is_full_later_names_what_is_kept(data, tmp_path, monkeypatch):
    written = iter(range(5))

    def write_synchronised(path, content):
        if next(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(run_folder, "write_synchronised", write_synchronised)
    with pytest.raises(DataError, match=r"epoch 2: .*No space left on device.*model of epoch 1 is kept at"):
        train(data, out=tmp_path, **OPTIONS)
    assert read(tmp_path / "metrics.json")["epochs_done"] == 1
    load_net(tmp_path)
    monkeypatch.undo()
    train(data, out=tmp_path, **OPTIONS)


def test_a_second_training_into_the_folder_is_refused_before_it_computes(data, tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(DataError, match="another training writes to this folder"):
        train(data, out=tmp_path, **OPTIONS)
    folder.close()
    train(data, out=tmp_path, **OPTIONS)


def test_files_that_are_not_a_run(run, tmp_path):
    with pytest.raises(DataError, match=r"not a run, there is no .*model\.safetensors"):
        load_run(tmp_path)
    (tmp_path / MODEL).write_bytes((run[0] / MODEL).read_bytes()[:-5])
    with pytest.raises(StateError, match=r"model\.safetensors: damaged"):
        load_run(tmp_path)
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / MODEL)
    with pytest.raises(StateError, match="not written by `foveal train`"):
        load_run(tmp_path)
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / MODEL, metadata={"foveal": "{}"})
    with pytest.raises(StateError, match="description of the model is damaged"):
        load_run(tmp_path)


def test_a_model_file_that_does_not_fit_names_the_parameters(run, tmp_path):
    trained, state = load_run(run[0])
    name = sorted(state)[0]
    state["stranger"] = state.pop(name)
    (tmp_path / MODEL).write_bytes(model_bytes(state, trained))
    with pytest.raises(StateError, match=f"do not fit {trained.model}") as raised:
        load_net(tmp_path)
    assert name in str(raised.value)
    assert "stranger" in str(raised.value)


def test_weights_of_any_layout_survive_the_file(run, tmp_path):
    trained, _ = load_run(run[0])
    state = {"turned": np.arange(6.0).reshape(2, 3).T, "count": np.array(7)}
    (tmp_path / MODEL).write_bytes(model_bytes(state, trained))
    _, back = load_run(tmp_path)
    np.testing.assert_array_equal(back["turned"], state["turned"])
    assert back["count"].shape == ()


class Fixed:
    """A network whose logits are the first K pixels."""

    def eval(self):
        return self

    def __call__(self, x):
        return x.reshape(len(x), -1)[:, :3]


def test_evaluation_leaves_each_layer_in_its_mode():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.9))
    x, y = np.random.default_rng(0).standard_normal((10, 1, 2, 2)).astype(np.float32), np.arange(10) % 3
    for frozen in (False, True):
        modes = [frozen, True, frozen, True]
        for (_, module), mode in zip(net.named_modules(), modes, strict=True):
            module.training = mode
        first = evaluate(net, x, y, mean=(0.0,), std=(1.0,))
        assert [module.training for _, module in net.named_modules()] == modes
        # nothing was dropped, and nothing is compiled again
        assert evaluate(net, x, y, mean=(0.0,), std=(1.0,)) == first
        assert len(net.__dict__["_compiled"].programs) == 1
    x[0] = np.nan
    with pytest.raises(NumericsError):
        evaluate(net, x, y, mean=(0.0,), std=(1.0,))
    assert [module.training for _, module in net.named_modules()] == modes


def test_metrics_of_known_logits():
    x = np.zeros((300, 1, 2, 2), np.float32)
    x[:, 0, 0, 0] = 1e4
    y = np.arange(300) % 3
    assert len(x) > EVALUATION_BATCH
    test = evaluate(Fixed(), x, y, mean=(0.0,), std=(1.0,))
    assert test == {"accuracy": pytest.approx(1 / 3), "loss": pytest.approx(2e4 / 3)}
    logits = np.random.default_rng(0).standard_normal((5, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert cross_entropy(logits, y[:5]) == pytest.approx(-np.log(p[np.arange(5), y[:5]]).mean())


def test_metrics_refuse_nan_and_unknown_labels():
    x = np.zeros((4, 1, 2, 2), np.float32)
    with pytest.raises(DataError, match="label 3 at index 3 is none of the 3 classes, 0 to 2"):
        evaluate(Fixed(), x, np.arange(4), mean=(0.0,), std=(1.0,))
    x[2] = np.nan
    with pytest.raises(NumericsError, match="1 of 4 images, first for image 2"):
        predict(Fixed(), x, mean=(0.0,), std=(1.0,))
