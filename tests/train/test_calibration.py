"""Temperature and thresholds, stored in the model file of a run, and the model card beside it."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner

import foveal
from foveal import data, metrics
from foveal.cli import main
from foveal.cli.calibrate import finish
from foveal.data.dataset import from_arrays
from foveal.errors import DataError, FovealWarning
from foveal.train import calibrate, load_run, predict, train, write_card
from foveal.train.calibration import for_precision
from foveal.train.files import lock

NAMES = ("dark", "a|b *c*\n", "bright")


@pytest.fixture(scope="module")
def noisy():
    """180 images of three brightnesses that overlap, so that some are taken for others."""
    rng = np.random.default_rng(1)
    y = np.arange(180) % 3
    x = np.clip(np.array((70, 120, 170))[y][:, None, None] + rng.normal(0, 25, 180)[:, None, None], 0, 255)
    x = np.clip(x + rng.integers(-5, 6, (180, 8, 8)), 0, 255).astype("u1")
    whole = from_arrays("set", x[:80], y[:80], x[80:], y[80:], classes=NAMES)
    return replace(whole, images_validation=whole.images_test[:60], y_validation=whole.y_test[:60])


@pytest.fixture
def run(noisy, tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    (folder / "metrics.json").write_bytes((trained / "metrics.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def trained(noisy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(noisy, epochs=6, batch_size=8, threads=1, out=folder, quiet=True)
    return folder


def test_a_temperature_is_fitted_on_the_validation_images_and_stored(run, noisy):
    before, state = load_run(run)
    found = calibrate(run, noisy)
    after, same = load_run(run)
    assert (found.part, found.images) == ("validation", 60)
    assert after == replace(before, temperature=found.temperature)
    assert all(np.array_equal(state[name], same[name]) for name in state | same)
    classifier = foveal.load(run)
    logits = predict(classifier.net, noisy.images_validation, mean=noisy.mean, std=noisy.std)
    assert found.temperature == metrics.fit_temperature(logits, noisy.y_validation) != 1
    assert found.loss <= found.loss_before
    probability = classifier.probabilities(noisy.images_validation)
    assert metrics.calibration(probability, noisy.y_validation).ece == pytest.approx(found.ece, abs=1e-6)
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []
    # Without validation images the test images are taken.
    without = replace(noisy, images_validation=None, y_validation=None)
    assert calibrate(run, without).part == "test"


def test_the_temperature_stays_1_where_nothing_is_wrong(run, noisy):
    classifier = foveal.load(run)
    answer = classifier.probabilities(noisy.images_validation).argmax(1)
    assert calibrate(run, replace(noisy, y_validation=answer)).temperature == 1


def test_thresholds(run, noisy):
    found = calibrate(run, noisy, none_below=0.5)
    assert found.thresholds == dict.fromkeys(NAMES, 0.5)
    assert load_run(run)[0].thresholds == (0.5, 0.5, 0.5)
    answers = foveal.load(run)(noisy.images_validation)
    assert found.answered == pytest.approx(np.mean([not answer.none for answer in answers]))
    found = calibrate(run, noisy, precision=0.9)
    answers = foveal.load(run)(noisy.images_validation)
    right = [a.label == NAMES[y] for a, y in zip(answers, noisy.y_validation, strict=True) if not a.none]
    assert found.accuracy == np.mean(right) >= 0.9
    assert "answered from" in str(found)
    # They go away unless they are asked for again.
    calibrate(run, noisy)
    assert load_run(run)[0].thresholds is None
    for options in ({"none_below": 1.5}, {"precision": 0.0}, {"none_below": 0.5, "precision": 0.5}):
        with pytest.raises(DataError, match="calibrate: "):
            calibrate(run, noisy, **options)


def test_thresholds_for_a_precision():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.9, 0.8, 0.8, 0.9])
    answer = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    probability = np.full((8, 4), 0.0)
    probability[np.arange(8), answer] = score
    probability[:, 3] += 0.01
    # a threshold lies below the score that it was found at, by rounding
    assert_close = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    #                  class 0: right, right, wrong, right; class 1: right, right and wrong at once; class 2 is wrong
    labels = np.array([0, 0, 1, 0, 1, 1, 0, 0])
    assert_close(for_precision(probability, labels, 1.0), [0.8, 0.9, 1.0, 1.0])
    assert_close(for_precision(probability, labels, 0.75), [0.0, 0.9, 1.0, 1.0])
    assert_close(for_precision(probability, labels, 0.6), [0.0, 0.0, 1.0, 1.0])


def test_a_file_that_is_trained_into_or_does_not_fit_is_left_alone(run, noisy):
    content = (run / "model.safetensors").read_bytes()
    held = lock(run / ".lock")
    with pytest.raises(DataError, match="another training writes to this folder"):
        calibrate(run, noisy)
    held.close()
    with pytest.raises(DataError, match="the model takes images of 1x8x8"):
        calibrate(run, from_arrays("other", *2 * (np.zeros((4, 9, 9), "u1"), np.arange(4) % 2)))
    assert (run / "model.safetensors").read_bytes() == content


def test_the_command_stores_what_it_prints(run, noisy, tmp_path):
    part = {
        "x_train": noisy.images_train,
        "y_train": noisy.y_train,
        "x_test": noisy.images_test,
        "y_test": noisy.y_test,
    }
    np.savez(tmp_path / "set.npz", **part, classes=np.array(NAMES))
    done = CliRunner().invoke(main, ["calibrate", str(run), str(tmp_path / "set.npz"), "--none-below", "0.6", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["temperature"] == load_run(run)[0].temperature
    assert found["thresholds"] == dict.fromkeys(NAMES, 0.6)
    assert "Thresholds, below which" in (run / "MODEL.md").read_text()


def test_a_model_is_finished_with_its_card(run, noisy):
    finish(run, noisy)
    assert load_run(run)[0].temperature != 1
    text = (run / "MODEL.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("---\n")
    assert "pipeline_tag: image-classification" in head
    assert "license" not in head
    sections = re.findall(r"^## (.*)$", body, re.MULTILINE)
    expected = ["Model details", "Uses", "How to get started", "Training details", "Evaluation", "Limitations"]
    assert sections == expected
    assert "80 training images, 60 for validation, 100 for testing" in body
    # Names of classes stay one cell of the table, and one line.
    assert r"| a\|b \*c\* | 33 |" in body
    assert "are uncertain" not in body
    assert "calibrated by the temperature" in body
    code = re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]
    assert len(code.splitlines()) == 3
    compile(code, "card", "exec")


def test_few_images_are_said(run, noisy):
    few = {"images_validation": noisy.images_validation[:8], "y_validation": noisy.y_validation[:8]}
    finish(run, replace(noisy, **few, images_test=noisy.images_test[:20], y_test=noisy.y_test[:20]))
    assert load_run(run)[0].temperature == 1
    text = (run / "MODEL.md").read_text()
    assert "Figures of classes with fewer than 30 test images are uncertain: dark" in text
    assert "Its probabilities are not calibrated" in text
    with pytest.warns(FovealWarning, match="8 images say little"):
        calibrate(run, replace(noisy, **few))


def test_a_card_tells_licence_preprocessing_and_how_the_run_was_started(run, noisy):
    description, state = load_run(run)
    how = data.Preprocessing(1, (8, 8), fit="crop", crop=0.5, mean=description.mean, std=description.std)
    for licence, lines in (
        ("BSD-3-Clause", "license: bsd-3-clause\n"),
        ("mine", 'license: other\nlicense_name: "mine"\n'),
    ):
        changed = replace(description, licence=licence, preprocessing=how)
        (run / "model.safetensors").write_bytes(foveal.train.checkpoint.model_bytes(state, changed))
        command = {"words": ["foveal", "train", "a b", "--group-by", "^(.*?)_", "--out", "```"]}
        (run / "run.json").write_text(json.dumps({"command": command, "versions": {"foveal": "9.9"}}))
        text = write_card(run, noisy).read_text()
        assert lines in text
        assert "resized to cover 16 x 16 pixels, of which the centre is cut out (lanczos)" in text
        assert "\n````sh\nfoveal train 'a b' --group-by '^(.*?)_' --out '```'\n````\n" in text
        assert "Versions: foveal 9.9." in text
    (run / "run.json").write_text("{")
    assert "Versions: foveal" in write_card(run, noisy).read_text()
