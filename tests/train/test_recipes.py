"""Recipes by size and number of images, and what a run finds out before its first step."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from foveal import cli, nn, optim
from foveal.data import from_arrays
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.train import BestEpoch, EarlyStopping, Options, TrainOptions, measured, recipes, settings, train
from foveal.train.feed import settings_and_feed
from foveal.train.recipes import image_size, recipe_for

QUIET = {"batch_size": 16, "quiet": True, "threads": 1}


@pytest.fixture(scope="module")
def data():
    """Three classes of 8x8 images: a bright row at the top, in the middle, at the bottom. Classes differ in number."""
    rng = np.random.default_rng(0)

    def part(labels):
        x = rng.integers(0, 120, (len(labels), 8, 8)).astype(np.uint8)
        x[np.arange(len(labels)), 1 + 3 * labels] += 100
        return x, labels

    return from_arrays("rows", *part(np.repeat([0, 1, 2], [44, 22, 14])), *part(np.arange(24) % 3))


def test_small_sets_get_many_epochs_and_large_ones_few():
    sizes = (60, 200, 1100, 10_000, 50_000, 200_000, 2_000_000)
    found = [recipe_for((32, 32), images) for images in sizes]
    for images, recipe in zip(sizes, found, strict=True):
        assert recipe.batch_size <= images
        assert recipe.steps == recipe.epochs * (images // recipe.batch_size)
    assert [r.epochs for r in found] == sorted((r.epochs for r in found), reverse=True)
    assert [r.batch_size for r in found] == sorted(r.batch_size for r in found)
    # 1,100 photos of a folder have thousands of steps, and not 9 per epoch.
    assert found[2].batch_size == 32
    assert found[2].steps > 2000
    # What is known to work is kept.
    kept = ((8, 8), 1437), ((28, 28), 60_000), ((32, 32), 50_000)
    assert [recipe_for(*known).epochs for known in kept] == [24, 5, 30]
    assert recipe_for((32, 32)).epochs == 30
    assert "1,100 images: 34 steps per epoch of 32" in found[2].reason


def test_the_reason_speaks_of_imbalance():
    labels = np.repeat([0, 2], [100, 5])
    assert "from 5 to 100 images: --balance" in recipe_for((32, 32), 105, labels=labels).reason
    assert "balance" not in recipe_for((32, 32), 100, labels=np.repeat([0, 2], 50)).reason


def test_resnet20_is_trained_by_muon_on_many_images_where_nothing_else_is_asked_for(data):
    many = recipe_for((32, 32), 50_000)
    assert (many.model, many.optimizer, many.lr, many.weight_decay, many.ema) == ("resnet20", "muon", 0.02, 0.01, 0.997)
    assert recipe_for((32, 32), 50_000, preset="best").optimizer == "muon"
    # The rate and the decay of one optimiser are not those of another.
    for options in ({"model": "resnet18-cifar"}, {"optimizer": "nesterov"}, {"minutes": 1e6}, {"preset": "airbench94"}):
        other = recipe_for((32, 32), 50_000, **{"model": "resnet20"} | options if "preset" in options else options)
        assert other.optimizer == "nesterov"
        assert other.lr != many.lr
    assert recipe_for((32, 32), 10_000).optimizer == "nesterov"
    large = replace(data, images_train=np.broadcast_to(np.uint8(7), (50_000, 1, 32, 32)), y_train=np.arange(50_000) % 3)
    for model, optimizer, used in (
        ("ResNet_20", None, "muon"),
        (nn.Identity(), None, "nesterov"),
        (None, "sgd", "sgd"),
        # Its caller decides about its numbers, and about averages.
        (None, optim.muon, "muon"),
    ):
        chosen = settings.choose(large, Options(model=model, optimizer=optimizer))
        assert chosen.optimizer == used
        by_recipe = used == "muon" and optimizer is None
        assert (chosen.weight_decay, chosen.ema) == ((0.01, 0.997) if by_recipe else (5e-4, None))


def test_presets(data):
    usual, fast, best = (recipe_for((32, 32), 1100, preset=name) for name in (None, "fast", "best"))
    assert fast.steps < usual.steps < best.steps
    assert usual.ema is None
    assert 0.9 < best.ema < 1
    assert recipe_for((32, 32), 50_000, preset="best").epochs <= 30
    jordan = recipe_for((32, 32), 50_000, preset="airbench94")
    assert (jordan.model, jordan.batch_size, jordan.epochs) == ("airbench94", 1024, 10)
    assert (jordan.momentum, jordan.label_smoothing) == (0.85, 0.2)
    # One average takes the place of another.
    large = replace(data, images_train=np.broadcast_to(np.uint8(7), (50_000, 1, 32, 32)), y_train=np.arange(50_000) % 3)
    for images, options in ((large, {"model": "resnet20"}), (large, {"preset": "best"}), (data, {"preset": "best"})):
        chosen = settings.choose(images, Options(lookahead=0.95, **options))
        assert (chosen.lookahead, chosen.ema) == (0.95, None)
        assert settings.choose(images, Options(lookahead=0.0, **options)).ema is not None
    with pytest.raises(ShapeError, match="choose from fast, best, airbench94"):
        recipe_for((32, 32), 100, preset="slow")
    with pytest.raises(ShapeError, match="images is 0"):
        recipe_for((32, 32), 0)


def test_the_network_is_chosen_by_the_time(monkeypatch):
    monkeypatch.setattr(recipes, "peak", lambda threads: 50.0 * threads)
    assert recipes.multiply_adds("resnet8-tiny", (3, 32, 32), 10) == 12_501_632
    costs = {"resnet8-tiny": 12_501_632, "resnet20": 40_551_040, "resnet18-cifar": 555_422_720}
    monkeypatch.setattr(recipes, "multiply_adds", lambda model, image, classes: costs[model])
    names = [recipe_for((32, 32), 50_000, minutes=m, threads=2).model for m in (0.5, 300, 100_000)]
    assert names == ["resnet8-tiny", "resnet20", "resnet18-cifar"]


def test_image_size(monkeypatch):
    monkeypatch.setattr(recipes, "peak", lambda threads: 50.0 * threads)
    assert image_size(np.array([[28, 28]] * 5)) == (28, 28)
    photos = np.array([[640, 480], [480, 640], [640, 480], [600, 600]] * 50)
    rows, columns = image_size(photos)
    assert rows in recipes.SIDES
    assert columns >= rows
    # More time and fewer images make larger ones; images are never enlarged.
    assert image_size(photos, minutes=0.1)[0] == 32 < image_size(photos, minutes=1000)[0]
    assert image_size(np.array([[50, 60], [60, 50]]), minutes=1000) == (48, 48)
    # Pages are high, panoramas wide.
    assert image_size(np.array([[210, 297]] * 20), minutes=1000) == (272, 192)
    assert image_size(np.array([[297, 210]] * 20), minutes=1000) == (192, 272)
    with pytest.raises(ShapeError, match="width and height"):
        image_size(np.zeros((3, 3)))


def test_options_go_before_the_recipe(data):
    found = settings.choose(data, Options(preset="airbench94", model="small", ema=0.0, label_smoothing=0.0, lr=0.01))
    assert (found.model, found.ema, found.label_smoothing, found.lr) == ("small", 0.0, 0.0, 0.01)
    # The recipe's momentum belongs to its optimiser.
    assert settings.choose(data, Options(preset="airbench94", optimizer="adagrad", lr="auto")).momentum is None
    # A balanced loss has no label smoothing, which the recipe would have.
    assert settings.choose(data, Options(preset="airbench94", balance=True)).label_smoothing == 0
    for wrong, message in [
        ({"label_smoothing": 1.5}, "from 0 to 1"),
        ({"label_smoothing": 0.1, "balance": True}, "leave one out"),
        ({"patience": -1}, "number of epochs"),
        ({"lr": "auto", "accumulate": 2}, "cannot accumulate"),
    ]:
        with pytest.raises(ShapeError, match=message):
            settings.choose(data, Options(**wrong))


def test_a_run_of_few_steps_says_so(data):
    def said(**options):
        return settings_and_feed(data, TrainOptions(**options))[1].reason

    assert "80 images: 5 steps per epoch of 16, 160 epochs" in said()
    assert "160 updates in all are few: the recipe has about 800" in said(batch_size=80)
    assert said(batch_size=32) == said(minutes=1.0) == ""


def test_the_loss_follows_the_options(data):
    options = TrainOptions(balance=True, validation=0.25)
    chosen, feed = settings_and_feed(data, options)
    # The images that are held out do not count.
    assert feed.counts.tolist() == [33, 17, 10] or feed.counts.sum() == 60
    loss = settings.make_loss(chosen, feed.counts).loss
    assert isinstance(loss, nn.ClassBalancedFocalLoss)
    assert loss.weight.data[2] > loss.weight.data[1] > loss.weight.data[0]
    with pytest.raises(ShapeError, match="for a Dataset"):
        settings.make_loss(chosen, None)
    smooth = settings.make_loss(settings.choose(data, Options(label_smoothing=0.1)), None)
    assert smooth.loss.label_smoothing == 0.1
    assert settings.make_loss(settings.choose(data, Options()), None) is settings.LOSS


def test_class_balanced_focal_loss():
    counts = np.array([100, 10, 0])
    loss = nn.ClassBalancedFocalLoss(counts, beta=0.9, gamma=2.0)
    # Cui et al. 2019, eq. 2; scaled so that an image weighs 1 on average.
    weight = (1 - 0.9) / (1 - 0.9 ** np.array([100.0, 10, 1]))
    weight *= 111 / (weight * [100, 10, 1]).sum()
    np.testing.assert_allclose(loss.weight.data, weight, rtol=1e-5)
    logits, labels = np.random.default_rng(0).standard_normal((8, 3)).astype("float32"), np.arange(8) % 3
    p = np.exp(logits)[np.arange(8), labels] / np.exp(logits).sum(1)
    expected = (weight[labels] * (1 - p) ** 2 * -np.log(p)).mean()
    np.testing.assert_allclose(loss(logits, labels), expected, rtol=1e-5)
    for wrong in ([], [[1, 2]], [-1, 2], [np.nan, 1]):
        with pytest.raises(ShapeError, match="the number of images of each class"):
            nn.ClassBalancedFocalLoss(wrong)
    with pytest.raises(ShapeError, match="beta"):
        nn.ClassBalancedFocalLoss([1, 2], beta=1.0)


class Steps:
    """A training as BestEpoch sees it."""

    names, resumed = ("validation accuracy", "validation loss"), False

    def weights(self):
        return {}


def test_the_best_epoch_is_of_the_lowest_loss_among_equal_accuracies():
    best = BestEpoch()
    best.run = Steps()
    best.on_train_begin()
    for epoch, (accuracy, loss) in enumerate([(0.8, 0.5), (0.9, 0.4), (0.9, 0.3), (0.9, 0.35), (0.7, 0.1)], 1):
        best.on_epoch_end({"epoch": epoch, "validation accuracy": accuracy, "validation loss": loss})
    assert (best.best, best.best_epoch, best.loss) == (0.9, 3, 0.3)
    again = BestEpoch()
    again.load_state_dict({name: np.array(value) for name, value in best.state_dict().items()})
    assert (again.best, again.best_epoch, again.loss, again.waited) == (0.9, 3, 0.3, 2)


def test_patience_ends_a_run_and_keeps_the_best_epoch(data, tmp_path):
    history = train(data, epochs=40, patience=2, validation=0.25, out=tmp_path, seed=1, **QUIET)
    assert "has not improved" in history.stopped
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["restored_epoch"] == history["restored_epoch"] < metrics["epochs_done"] < 40
    accuracies = history.validation["accuracy"]
    assert accuracies[metrics["restored_epoch"] - 1] == max(accuracies)
    with pytest.raises(ArgumentError, match="no validation part"):
        train(data, epochs=2, patience=2, **QUIET)


def test_data_with_a_validation_part_keep_the_best_epoch(data):
    part = from_arrays("part", *(array for pair in [(data.images_test, data.y_test)] * 2 for array in pair))
    # As a folder with such a part gives them.
    for name, value in {"images_validation": part.images_test, "y_validation": part.y_test}.items():
        object.__setattr__(part, name, value)
    history = train(part, epochs=4, seed=1, **QUIET)
    accuracies = history.validation["accuracy"]
    assert accuracies[history["restored_epoch"] - 1] == max(accuracies)
    # A callback of the caller's own decides about that.
    assert "restored_epoch" not in train(part, epochs=2, callbacks=[EarlyStopping(patience=9)], **QUIET)


def test_a_learning_rate_that_was_found_repeats_the_run(data):
    found = train(data, epochs=2, lr="auto", seed=2, **QUIET)
    assert 0 < found["lr"] < 10
    given = train(data, epochs=2, lr=found["lr"], seed=2, **QUIET)
    assert (given["train"], given["test"]) == (found["train"], found["test"])


def test_epochs_that_were_found_repeat_the_run(data, monkeypatch, capsys):
    monkeypatch.setattr(measured, "epoch_seconds", lambda run: 20.0)
    found = train(data, minutes=1.2, model="small", seed=2, batch_size=16, threads=1)
    assert found["epochs"] == len(found.test["loss"]) == 3
    assert "1.2 minutes: 3 epochs of about 20 s, as measured" in " ".join(capsys.readouterr().out.split())
    given = train(data, epochs=3, seed=2, **QUIET)
    assert (given["train"], given["test"]) == (found["train"], found["test"])
    # What has passed before the call counts, and what a command does after it.
    assert train(data, minutes=1.2, seed=2, began=time.perf_counter() - 20, **QUIET)["epochs"] == 2
    monkeypatch.setattr(measured, "FINISHING", 50.0)
    command = {"words": [], "data": "", "options": {"image_size": [8, 8]}}
    assert train(data, minutes=1.2, seed=2, command=command, batch_size=16, threads=1)["epochs"] == 1
    assert "--epochs 1 --image-size 8x8 in place of the time" in " ".join(capsys.readouterr().out.split())
    for wrong in ({"epochs": 2}, {"resume": {}}):
        with pytest.raises(ArgumentError, match="minutes"):
            train(data, minutes=1.0, **wrong, **QUIET)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"ema": 0.99}])
def test_the_average_of_a_short_run_holds_no_more_of_its_start(data, options, tmp_path, monkeypatch):
    recipe = recipe_for(data.size, len(data.y_train), preset="best")
    monkeypatch.setattr(measured, "epoch_seconds", lambda run: 3.0)
    found = train(data, minutes=1.0, model="small", preset="best", out=tmp_path, **options, **QUIET)
    updates = found["epochs"] * -(-(len(data.y_train) // 16) // options.get("accumulate", 1))
    share = (1 - recipe.ema) * recipe.steps / updates
    assert found["ema"] == options.get("ema", round(1 - min(0.5, share), 4))
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["ema"] == found["ema"]
    given = train(data, epochs=found["epochs"], preset="best", **options, **QUIET)
    assert (given["ema"], given["test"]) == (found["ema"], found["test"])


def test_an_epoch_is_measured_with_its_parts_and_its_files(data, tmp_path, monkeypatch):
    def epoch(measuring, short, synchronised):
        monkeypatch.setattr(measured, "measuring_seconds", lambda run: measuring)
        monkeypatch.setattr(measured, "writing_seconds", lambda run, waited: synchronised if waited else short)
        kept = []
        whole = measured.epoch_seconds
        monkeypatch.setattr(measured, "epoch_seconds", lambda run: kept.append(whole(run)) or kept[-1])
        train(data, minutes=1e-6, out=tmp_path, **QUIET)
        monkeypatch.undo()
        return kept[0] / measured.MORE

    assert epoch(100.0, 10.0, 10.0) == pytest.approx(110.0, abs=5)
    # A long epoch waits for the disk, of short ones one in each second.
    assert epoch(100.0, 10.0, 30.0) == pytest.approx(130.0, abs=5)
    monkeypatch.setattr(measured, "SYNCHRONISED", 1e6)
    assert epoch(0.0, 0.0, 1000.0) < 100


def test_steps_that_are_measured_leave_nothing_behind(data, tmp_path, capsys):
    # A time within which there is one epoch.
    found = train(data, minutes=1e-6, seed=2, out=tmp_path, threads=1)
    assert found["epochs"] == 1
    # Where the time went is said, and what helps.
    assert "s were over before the first step" in " ".join(capsys.readouterr().out.split())
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert train(data, epochs=1, seed=2, **QUIET)["test"] == found["test"]


def test_a_batch_that_does_not_fit_is_refused_before_it_is_compiled(data, monkeypatch):
    # A batch of 64 images of 8x8 takes about 7 MB with this network and two threads, each of which has buffers.
    monkeypatch.setattr(measured, "available_memory", lambda: 6e6)
    with pytest.raises(ShapeError, match=r"--batch-size 32 --accumulate 2 makes updates of as many images"):
        train(data, batch_size=64, epochs=1, threads=2, quiet=True)
    monkeypatch.setattr(measured, "available_memory", lambda: 1e5)
    with pytest.raises(ShapeError, match="a single image needs too much"):
        train(data, batch_size=64, epochs=1, threads=2, quiet=True)


def test_on_the_command_line(data, tmp_path, monkeypatch):
    given = {}

    def train(data, **options):
        given.update(options)
        raise DataError("enough is known")

    monkeypatch.setattr("foveal.train.loop.train", train)
    words = "--validation 0.2 --patience 3 --balance --lr auto --preset best --minutes 5 --label-smoothing 0"
    result = CliRunner().invoke(cli.main, ["train", "digits", "--out", str(tmp_path), *words.split()])
    assert "enough is known" in result.output
    expected = {"validation": 0.2, "patience": 3, "balance": True, "lr": "auto", "preset": "best", "minutes": 5.0}
    assert given == {**given, **expected, "label_smoothing": 0.0}
    for wrong in (["--lr", "often"], ["--validation", "1"], ["--preset", "slow"], ["--minutes", "0"]):
        assert CliRunner().invoke(cli.main, ["train", "digits", *wrong]).exit_code == 2
