"""The report of a run: one page that needs nothing else, whatever the run and the names of its classes are."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

from foveal import data, metrics, nn, report, train
from foveal.cli import main
from foveal.errors import DataError
from foveal.report.about import command as command_of
from foveal.report.predictions import Predictions, read_predictions
from foveal.report.record import Record, read_record
from foveal.report.scores import Ranked, Scores, confidence_for

HOSTILE = ("<script>alert(1)</script>", 'day" onload="x', "n\x1b[31might\u202e")
MOST_BYTES = 2_000_000
VOID = {"meta", "img", "br", "path", "circle", "rect", "polyline"}


class Page(HTMLParser):
    """Reads a page: what is open is closed, what it links to, its texts by tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    def of(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


def read(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < MOST_BYTES
    # Nothing is run, and nothing comes from elsewhere.
    assert "script" not in page.tags
    assert not [name for _, attributes in page.attributes for name in attributes if name.startswith("on")]
    assert set(re.findall(r"https?://[^\s\"<>)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.of("img"))
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in page.of("svg"))
    assert all(head["scope"] in ("col", "row") for head in page.of("th"))
    targets = {attributes.get("id") for _, attributes in page.attributes}
    assert {link["href"].removeprefix("#") for link in page.of("a")} <= targets
    return page, text


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (rng.integers(0, 90, (60, 8, 8)) + 80 * y[:, None, None]).astype("u1")
    return data.from_arrays("bright<er>", x, y, x[:30], y[:30], classes=HOSTILE)


def network():
    nn.seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(4, 3))


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a<b>"
    options = {"epochs": 2, "batch_size": 10, "momentum_low": 0.8, "optimizer": "nesterov", "threads": 1}
    callbacks = [report.Recorder(folder)]
    train.train(dataset, network(), out=folder, callbacks=callbacks, validation=0.2, quiet=True, **options)
    return folder


def test_the_report_shows_everything_and_needs_nothing_else(run, dataset):
    path = report.write(run, data=dataset)
    page, text = read(path)
    for heading in (
        "Training",
        "Learning rate and momentum",
        "Class by class",
        "Confusion",
        "Precision, recall and ROC",
        "Calibration",
        "Thresholds",
        "The worst mistakes",
        "Filters and feature maps",
        "Speed and memory",
        "How to repeat it",
    ):
        assert heading in page.texts
    shown = "".join(page.texts)
    assert "<script>alert(1)</script>" in shown
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "prefers-color-scheme:dark" in text
    assert "foveal train 'bright<er>'" in shown
    assert "Grad-CAM" in shown
    assert [p.name for p in run.glob(".report*")] == []


def test_predictions_are_those_of_the_model(run, dataset):
    report.write(run, data=dataset)
    with np.load(run / "predictions.npz") as file:
        assert set(file["part"]) == {"test"}
        assert file["probability"].dtype == np.float32
        net, described = train.load_net(run)
        logits = train.predict(net, dataset.images_test, mean=described.mean, std=described.std)
        np.testing.assert_allclose(file["probability"], np.exp(metrics.log_softmax(logits)), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(file["label"], dataset.y_test)
        np.testing.assert_array_equal(file["index"], np.arange(30))


def test_without_the_data_it_shows_what_was_measured_with_them(run, dataset):
    report.write(run, data=dataset)
    page, text = read(report.write(run))
    assert "Confusion" in page.texts
    assert "The worst mistakes" not in page.texts
    assert "adds images and measures anew" in text
    # Of another model they say nothing.
    kept = (run / "predictions.npz").read_bytes()
    model = run / "model.safetensors"
    before = model.read_bytes()
    try:
        model.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert read_predictions(run) == {}
        (run / "predictions.npz").write_bytes(kept[: len(kept) // 2])
        model.write_bytes(before)
        assert read_predictions(run) == {}
    finally:
        model.write_bytes(before)


def test_a_validation_part_that_the_training_held_out_fits_temperature_and_thresholds(dataset, tmp_path):
    recorder = report.Recorder(tmp_path)
    train.train(
        dataset, network(), out=tmp_path, epochs=1, batch_size=10, validation=0.2, callbacks=[recorder], quiet=True
    )
    _, text = read(report.write(tmp_path, recorder.run.net, dataset, validation=recorder.run.held_out))
    assert "fitted on 12 validation images" in text
    assert "picked on the validation images" in text
    assert {name: len(part.label) for name, part in read_predictions(tmp_path).items()} == {
        "validation": 12,
        "test": 30,
    }
    # They are kept where the report is made again.
    assert "fitted on 12 validation images" in read(report.write(tmp_path, data=dataset))[1]


def test_a_run_that_was_stopped_early_and_one_without_test_images(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 1, 8, 8), "float32"), rng.integers(0, 3, 20)
    folder = tmp_path / "own"
    stop = lambda values: False  # noqa: E731
    train.train((x, y), network(), out=folder, epochs=9, batch_size=10, callbacks=[stop], quiet=True)
    page, text = read(report.write(folder))
    assert "of 9: stopped early" in text
    assert "Training" in page.texts
    assert "trained on arrays" in text


def test_the_command_the_versions_and_the_findings_are_shown_as_their_files_tell_them(run):
    command = {"words": ["foveal", "train", "my photos", "--seed", "3"]}
    facts = {"command": command, "seed": 3, "versions": {"foveal": "9.9", "cpu": "<b>"}, "status": "ended"}
    (run / "run.json").write_text(json.dumps(facts))
    finding = {"severity": "warning", "count": 7, "text": "7 images are <dark>", "way_out": "look at them"}
    (run / "doctor.json").write_text(json.dumps({"findings": [finding, "no finding"], "warnings": 1}))
    page, _ = read(report.write(run))
    for text in ("foveal train 'my photos' --seed 3", "9.9", "<b>", "7 images are <dark>", "look at them"):
        assert text in page.texts
    (run / "doctor.json").write_text('{"findings": []}')
    assert "nothing to complain about" in read(report.write(run))[1]
    (run / "doctor.json").unlink()
    (run / "run.json").write_text("[]")
    assert "damaged: run.json: no JSON object" in read(report.write(run))[1]
    (run / "run.json").unlink()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a run, there is neither a log nor a model"):
        report.write(tmp_path)
    (tmp_path / "log.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match=r"not a run: log\.jsonl, line 1: no JSON object"):
        report.write(tmp_path)


def predictions(classes, images, sure=3.0):
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, images)
    scores = rng.standard_normal((images, classes)) + sure * (np.arange(classes) == label[:, None])
    p = np.exp(metrics.log_softmax(scores)).astype(np.float32)
    return Predictions("test", np.arange(images), label, p, images)


def test_of_a_thousand_classes_the_worst_are_shown():
    scores = Scores({"test": predictions(1000, 1500, 6.0)}, [f"class {k}" for k in range(1000)])
    made = [scores.by_class(), scores.confusion(), scores.curves(), scores.calibration(), scores.thresholds()]
    assert all(made)
    assert sum(map(len, made)) < MOST_BYTES / 2
    assert "100 of the lowest F1 of 1,000" in made[0]
    Page("".join(made))


def test_curves_and_areas_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive, scores = rng.random(200) < 0.3, rng.integers(0, 20, 200) / 20
    ranked = Ranked.of(positive, scores)
    assert ranked.auc == pytest.approx(metrics.roc_auc(positive, scores), abs=1e-12)
    assert ranked.average_precision == pytest.approx(metrics.average_precision(positive, scores), abs=1e-12)
    roc, curve = metrics.roc_curve(positive, scores), metrics.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(ranked.roc, (roc.x, roc.y))
    np.testing.assert_allclose(ranked.precision_recall, (curve.x[::-1], curve.y[::-1]))


def test_the_confidence_for_a_wanted_share_of_right_answers():
    part = predictions(4, 500, 1.5)
    for wanted in (0.8, 0.95):
        t = confidence_for(part, wanted)
        assert part.right[part.confidence >= t].mean() >= wanted
        lower = part.confidence[part.confidence < t]
        assert part.right[part.confidence >= lower.max()].mean() < wanted
    assert confidence_for(Predictions("test", np.arange(1), np.array([1]), np.array([[0.6, 0.4]]), 1), 0.5) is None


def test_what_a_time_chose_stands_in_its_place(run):
    # The epochs that fit into a time depend on the machine, and without it images get another size.
    words = ["foveal", "train", "my photos", "--minutes", "3", "--image-size=64", "--seed", "3"]
    command = {"words": words, "options": {"image_size": [32, 48]}}
    record = Record(run, metrics={"model": "small", "epochs": 7}, run={"command": command})
    assert command_of(record) == "foveal train 'my photos' --seed 3 --model small --epochs 7 --image-size 32x48"


def test_the_command_line_writes_it_and_leaves_it_out(tmp_path, dataset):
    arrays = {"x_train": dataset.images_train, "y_train": dataset.y_train, "x_test": dataset.images_test}
    np.savez(tmp_path / "set.npz", **arrays, y_test=dataset.y_test, classes=np.array(["a", "b", "c"]))
    words = ["train", str(tmp_path / "set.npz"), "--epochs", "1", "--batch-size", "8", "--threads", "1"]
    plain = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "plain"), "--no-report"])
    assert plain.exit_code == 0, plain.output
    assert not (tmp_path / "plain" / "report.html").exists()
    made = CliRunner().invoke(main, ["report", str(tmp_path / "plain"), str(tmp_path / "set.npz"), "--json"])
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    assert found["bytes"] == len((tmp_path / "plain" / "report.html").read_bytes())
    whole = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "whole"), "--json"])
    assert whole.exit_code == 0, whole.output
    assert "The report is at" in whole.stderr
    read(tmp_path / "whole" / "report.html")
    # The bits are the same, with a report and without one.
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "whole")}) == 1
    assert read_record(tmp_path / "whole").steps["step"] == [float(i) for i in range(1, 8)]


def test_thresholds_are_on_the_probabilities_that_predict_gives():
    validation, test = predictions(3, 400, 2.0), predictions(3, 300, 2.0)
    parts = {"validation": validation, "test": test}
    plain, scores = Scores(parts, "abc"), Scores(parts, "abc", 0.25)
    chosen = np.exp(metrics.log_softmax(4 * validation.logits))
    for wanted in (0.9, 0.95):
        t = confidence_for(scores.picked, wanted)
        given = chosen.max(1) >= t - 1e-6
        assert t > confidence_for(plain.picked, wanted)
        assert validation.right[given].mean() >= wanted
        assert f">{t:.3f}</td>" in scores.thresholds()
    # A temperature changes no answer.
    assert "calibrated with T = 0.25" in scores.thresholds()
    assert "calibrated" not in plain.thresholds()
    np.testing.assert_array_equal(scores.tried.predicted, test.predicted)
    np.testing.assert_array_equal(scores.part.probability, test.probability)
