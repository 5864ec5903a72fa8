"""Test-time augmentation as a part of a model: who chooses it, where it is measured and stored, and who follows it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import foveal
from foveal import metrics
from foveal.cli import main
from foveal.cli.calibrate import finish
from foveal.data import from_arrays
from foveal.errors import ArgumentError, ShapeError
from foveal.nn.models.weights import read_file
from foveal.report.predictions import read_predictions
from foveal.train import TrainOptions, averaged, load_net, load_run, predict, train
from foveal.train.feed import settings_and_feed
from foveal.train.held_out import held_out_of

OPTIONS = {"epochs": 2, "batch_size": 16, "threads": 1, "seed": 1, "model": "small"}
RNG = np.random.default_rng(0)


def images(count, channels=1):
    """Noise with a bright column on the left, in the middle or on the right."""
    labels = np.arange(count) % 3
    x = RNG.integers(0, 200, (count, channels, 8, 8)).astype("u1")
    x[np.arange(count), :, :, 1 + 3 * labels] += 50
    return x, labels


SMALL = "--batch-size 16 --threads 1 --model small --no-check"
COMMON = f"{SMALL} --epochs 2 --seed 1 --ema 0.8 --validation 0.2"
DATA = from_arrays("columns", *images(300), *images(60))


def save(folder):
    """Write the data as the command line takes them."""
    d = DATA
    np.savez(folder / "set.npz", x_train=d.images_train, y_train=d.y_train, x_test=d.images_test, y_test=d.y_test)


def command(folder, words):
    """Train on the data beside a folder, into it."""
    return CliRunner().invoke(main, ["train", str(folder.parent / "set.npz"), *words.split(), "--out", str(folder)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a share held out, an average of parameters, and flips, which change what the network says."""
    folder = tmp_path_factory.mktemp("views") / "run"
    save(folder.parent)
    done = command(folder, f"{COMMON} --tta flip")
    assert done.exit_code == 0, done.output
    return folder, done.output


def logits_of(run, tta):
    net, described = load_net(run)
    return predict(net, DATA.images_test, mean=described.mean, std=described.std, tta=tta)


def test_presets_choose_views_that_the_network_was_trained_on():
    colour = from_arrays("photos", *images(90, 3), *images(9, 3))
    large = [np.zeros((9, 3, 32, 32), "u1"), np.arange(9) % 3] * 2
    grown = from_arrays("photos", *large)

    def chosen(data, **options):
        settings, feed = settings_and_feed(data, TrainOptions(**options))
        assert feed.description.tta == settings.tta
        return settings.tta

    assert chosen(grown) is chosen(grown, preset="fast") is chosen(grown, preset="best", tta="none") is None
    assert (chosen(grown, preset="best"), chosen(grown, preset="airbench94")) == ("crops+flip", "shifts+flip")
    # Where a mirror image is of another class, and where none are trained on.
    for options in ({"flip": False}, {"augment": "crop"}, {"augment": "none"}):
        assert chosen(grown, preset="best", **options) == "crops"
    assert chosen(replace(grown, name="svhn"), preset="best") == "crops"
    # Of 8 pixels, one is too much; what is asked for is done.
    assert (chosen(colour, preset="best"), chosen(colour, preset="best", tta="crops")) == (None, "crops")
    assert chosen(replace(grown, name="svhn"), tta="flip") == "flip"
    for wrong, error in (({"tta": "rotate"}, "tta 'rotate'"), ({"tta": "flip", "flip": False}, "no flip")):
        with pytest.raises(ShapeError, match=error):
            settings_and_feed(grown, TrainOptions(**wrong))
    with pytest.raises(ArgumentError, match="tta is stored in the model file of a Dataset"):
        train((np.zeros((4, 1, 8, 8), "f4"), np.arange(4) % 2), foveal.nn.Flatten(), tta="flip")


def test_a_model_is_measured_with_its_views_at_the_end(run):
    folder, output = run
    found = json.loads((folder / "metrics.json").read_text())
    assert (found["tta"], found["averaged"]["views"], found["averaged"]["count"]) == ("flip", "flip", 2)
    assert set(found["averaged"]) == {"views", "count", "validation", "test"}
    for part, tta in ((found["averaged"]["test"], "flip"), (found["test"], None)):
        logits = logits_of(folder, tta)
        assert part["accuracy"] == metrics.accuracy(logits, DATA.y_test)
        assert part["loss"] == pytest.approx(metrics.cross_entropy(logits, DATA.y_test), rel=1e-5)
    assert found["averaged"]["test"]["loss"] != found["test"]["loss"]
    accuracy = f"test accuracy {found['test']['accuracy']:.2%}, averaged over 2 views"
    assert accuracy in " ".join(output.split())
    # Nothing else of the run is changed by it.
    words = (
        "--epochs 2 --batch-size 16 --threads 1 --seed 1 --model small --ema 0.8 --validation 0.2 --quiet --no-report"
    )
    plain = folder.parent / "plain"
    done = CliRunner().invoke(main, ["train", str(folder.parent / "set.npz"), *words.split(), "--out", str(plain)])
    assert done.exit_code == 0, done.output
    ours, theirs = read_file(folder / "model.safetensors")[1], read_file(plain / "model.safetensors")[1]
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours | theirs)
    without = json.loads((plain / "metrics.json").read_text())
    assert (without["test"], without["tta"]) == (found["test"], None)
    assert "averaged" not in without
    assert "tta" not in read_file(plain / "model.safetensors")[0]["foveal"]


def test_what_was_trained_is_what_is_run(run):
    folder, _ = run
    described = load_run(folder)[0]
    assert described.tta == "flip"
    # 60 images were held out by a share, which are enough to calibrate by.
    assert described.temperature != 1
    classifier = foveal.load(folder)
    probability = {tta: np.exp(metrics.log_softmax(logits_of(folder, tta))) for tta in ("flip", None)}
    for asked, used in ((None, "flip"), ("none", None)):
        found = classifier.probabilities(DATA.images_test, asked)
        wanted = np.exp(metrics.log_softmax(np.log(probability[used]) / described.temperature))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        words = [
            "evaluate",
            str(folder),
            str(folder.parent / "set.npz"),
            "--json",
            *(["--tta", asked] if asked else []),
        ]
        told = json.loads(CliRunner().invoke(main, words).stdout)
        assert told["tta"] == used
        assert told["loss"] == pytest.approx(metrics.cross_entropy(np.log(probability[used]), DATA.y_test), rel=1e-5)
        assert told["calibrated"]["temperature"] == described.temperature
        assert told["calibrated"]["loss"] == pytest.approx(metrics.cross_entropy(np.log(wanted), DATA.y_test), rel=1e-4)
    shown = CliRunner().invoke(main, ["evaluate", str(folder), str(folder.parent / "set.npz")]).stdout
    assert "averaged over 2 views (flip)" in shown
    assert "as the network says" in shown
    np.testing.assert_allclose(read_predictions(folder)["test"].probability, probability["flip"], atol=1e-5)
    page = (folder / "report.html").read_text()
    assert "mean of 2 views (flip)" in page
    assert "test loss, calibrated" in page
    card = (folder / "MODEL.md").read_text()
    assert "takes 2 times as long" in card
    assert re_spaced("as the network says and", card)
    assert "240 training images, 60 for validation, 60 for testing" in card


def re_spaced(words, text):
    """True if the words are in a text, wherever its lines end."""
    return words in " ".join(text.split())


def test_what_a_run_held_out_is_found_again_by_calibrate_and_report(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    before, source = load_run(folder)[0].temperature, str(run[0].parent / "set.npz")
    done = CliRunner().invoke(main, ["calibrate", str(folder), source, "--threads", "1", "--json"])
    found = json.loads(done.stdout)
    assert (found["part"], found["images"]) == ("validation", 60)
    assert found["temperature"] == pytest.approx(before, rel=1e-4)
    parts = read_predictions(folder)
    assert CliRunner().invoke(main, ["report", str(folder), source, "--threads", "1", "--quiet"]).exit_code == 0
    for name, part in read_predictions(folder).items():
        np.testing.assert_allclose(part.probability, parts[name].probability, atol=1e-6)
    assert set(parts) == {"validation", "test"}
    # Of other data nothing was held out.
    assert held_out_of(folder, DATA) is not None
    assert held_out_of(folder, from_arrays("columns", *images(300), *images(60))) is None


def test_the_card_counts_what_a_run_held_out_beside_a_validation_part_of_the_data(tmp_path):
    data = replace(DATA, images_validation=DATA.images_test[:30], y_validation=DATA.y_test[:30])
    train(data, validation=0.2, out=tmp_path / "run", quiet=True, **OPTIONS)
    finish(tmp_path / "run", data)
    assert "240 training images, 60 for validation" in (tmp_path / "run" / "MODEL.md").read_text()


def test_few_images_that_are_held_out_do_not_calibrate(tmp_path):
    train(DATA, validation=0.1, out=tmp_path / "run", quiet=True, **OPTIONS)
    held_out = settings_and_feed(DATA, TrainOptions(validation=0.1, **OPTIONS))[1].parts["validation"]
    finish(tmp_path / "run", DATA, held_out)
    assert load_run(tmp_path / "run")[0].temperature == 1
    assert "cross-entropy" in (tmp_path / "run" / "MODEL.md").read_text()


def test_a_run_without_a_folder_measures_what_the_network_holds():
    net = foveal.nn.Sequential(foveal.nn.Flatten(), foveal.nn.Linear(64, 3))
    options = {**OPTIONS, "model": net, "tta": "crops"}
    history = train(DATA, quiet=True, **options)
    logits = predict(net, DATA.images_test, mean=DATA.mean, std=DATA.std, tta="crops")
    assert history["averaged"]["test"]["accuracy"] == metrics.accuracy(logits, DATA.y_test)
    assert history["averaged"]["count"] == 5


def test_a_run_that_was_killed_at_its_end_goes_on_with_its_views_and_its_minutes(tmp_path, monkeypatch):
    save(tmp_path)
    # An epoch takes longer than that, so that there is one.
    words = f"{SMALL} --minutes 1e-6 --quiet --no-report --tta crops"

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(averaged, "measure", stop)
        assert command(tmp_path / "run", words).exit_code == 130
    for _ in range(2):
        done = CliRunner().invoke(main, ["train", "--resume", str(tmp_path / "run"), "--quiet", "--no-report"])
        assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (found["minutes"], found["epochs"], found["averaged"]["views"]) == (1e-6, 1, "crops")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["minutes"] == 1e-6
    assert load_run(tmp_path / "run")[0].tta == "crops"
