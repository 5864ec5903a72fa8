"""Confident learning, by hand and on digits with planted errors, and what is written about them."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

import foveal
from foveal import data, nn, train
from foveal.cli import main
from foveal.doctor import label_errors, probing
from foveal.doctor.confident import confident
from foveal.doctor.label_errors import LabelErrors
from foveal.doctor.pictures import ArrayPictures
from foveal.errors import DataError

PLANTED = 0.05


def test_a_share_that_a_weak_network_makes_is_doubted():
    pictures = ArrayPictures(data.load("digits"))

    def told(share):
        joint = np.eye(2, dtype=np.int64)
        return " ".join(LabelErrors("a", "probe", 4, 10, share, joint, ("x", "y"), (), 1.0, pictures).lines())

    assert "a weak network" in told(0.35)
    assert "a weak network" not in told(0.05)


def test_confident_learning_by_hand():
    """Thresholds are 0.6 for class 0 and 0.8 for class 1: what a small example comes to by the paper's definitions."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    of_one = np.array([0.1, 0.1, 1.0, 0.9, 0.9, 0.6])
    found = confident(labels, np.stack([1 - of_one, of_one], 1))
    np.testing.assert_allclose(found.thresholds, [0.6, 0.8])
    # The last one reaches neither threshold.
    assert found.counted.tolist() == [0, 0, 1, 1, 1, -1]
    assert found.joint.tolist() == [[2, 1], [0, 2]]
    assert found.wrong.tolist() == [2]
    # The rows of the joint are scaled to three images each: 1 of 6 is off the diagonal.
    assert found.share == pytest.approx(1 / 6)


def test_the_most_likely_errors_come_first_and_classes_without_images_are_no_likely_ones():
    labels = np.array([0, 0, 0, 0, 1, 1])
    rows = [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.8, 0.1], [0.02, 0.98, 0], [0.1, 0.2, 0.7], [0.3, 0.7, 0]]
    found = confident(labels, np.array(rows))
    assert found.wrong.tolist() == [3, 2]
    assert not np.isfinite(found.thresholds[2])
    with pytest.raises(DataError, match="5 labels and 6 rows"):
        confident(labels[:5], np.array(rows))


def test_folds_have_the_same_share_of_each_class():
    labels = np.repeat([0, 1, 2], [40, 21, 7])
    fold = probing.folds_of(labels, 4, seed=1)
    for k, count in enumerate((40, 21, 7)):
        sizes = np.bincount(fold[labels == k], minlength=4)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1
    assert (fold == probing.folds_of(labels, 4, seed=1)).all()


def test_a_probe_judges_each_image_by_a_classifier_without_it():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = (np.eye(3)[labels] * 3 + rng.standard_normal((90, 3))).astype(np.float32)
    found = probing.by_probe(features, labels, 3, 3, 0, lambda count: None)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    inside = probing.folds_of(labels, 3, 0) == 1
    scaled = (features - features.mean(0, dtype=float)) / features.std(0, dtype=float)
    model = LogisticRegression(C=probing.STRENGTH / 60, max_iter=1000).fit(scaled[~inside], labels[~inside])
    np.testing.assert_allclose(found[inside], model.predict_proba(scaled[inside]), atol=1e-3)


def test_features_are_what_the_last_linear_layer_gets():
    nn.seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x = np.random.default_rng(0).random((6, 1, 2, 2), np.float32)
    with probing.Penultimate(net) as features:
        found = train.predict(features, x, mean=(0.0,), std=(1.0,))
    np.testing.assert_allclose(found, np.asarray(net.activations(x)["2"]), rtol=1e-6)
    # The hook is gone.
    assert np.asarray(net(x)).shape == (6, 3)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Digits, 5 % of whose training labels are wrong, as a data set and as a file; a run on them; the wrong rows."""
    digits, folder = data.load("digits"), tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(5)
    labels = digits.y_train.copy()
    wrong = rng.choice(len(labels), round(PLANTED * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    arrays = {"x_train": digits.images_train, "y_train": labels, "x_test": digits.images_test, "y_test": digits.y_test}
    np.savez(folder / "digits.npz", **arrays)
    noisy = data.load(folder / "digits.npz")
    train.train(noisy, epochs=2, seed=1, quiet=True, out=folder / "run")
    return folder, noisy, set(wrong.tolist()), digits.y_train


def test_planted_label_errors_are_found(planted):
    folder, noisy, wrong, truth = planted
    found = label_errors(folder / "run", noisy, folds=2, epochs=4, quiet=True)
    rows = [error.index for error in found.errors]
    right = [row for row in rows if row in wrong]
    assert len(right) > 0.75 * len(wrong)
    assert len(right) > 0.75 * len(rows)
    assert np.mean([found.errors[rows.index(row)].likely == str(truth[row]) for row in right]) > 0.9
    assert found.share == pytest.approx(PLANTED, abs=0.03)
    # The surest come first.
    assert set(rows[: len(wrong) // 2]) <= wrong
    assert found.joint.sum() <= found.images == len(noisy.y_train)
    assert "likely wrong, by networks trained without the image in question (2 folds)" in str(found)


def test_the_command_writes_a_page_and_a_table(planted, tmp_path):
    folder, *_ = planted
    run = CliRunner().invoke(
        main, ["data", "label-errors", str(folder / "run"), str(folder / "digits.npz"), "--method", "probe", "--json"]
    )
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    with (folder / "run" / "label-errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [error["image"] for error in said["errors"]]
    assert list(rows[0]) == ["image", "part", "given", "likely", "p_given", "p_likely"]
    assert float(rows[0]["p_likely"]) > float(rows[0]["p_given"])
    page = (folder / "run" / "label-errors.html").read_text()
    assert page.count("<figure") == min(300, len(rows))
    assert said["html"].endswith("label-errors.html")


def test_what_cannot_be_judged_is_said(planted, tmp_path):
    folder, noisy, *_ = planted
    with pytest.raises(DataError, match="folds is 1; give 2 or more"):
        label_errors(folder / "run", noisy, folds=1, quiet=True)
    one = data.from_arrays(
        "one",
        np.concatenate([noisy.images_train[noisy.y_train != 3], noisy.images_train[noisy.y_train == 3][:1]]),
        np.append(noisy.y_train[noisy.y_train != 3], 3),
        noisy.images_test,
        noisy.y_test,
    )
    with pytest.raises(DataError, match="class '3' has one image, which nothing else can judge"):
        label_errors(folder / "run", one, quiet=True)
    nn.seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    train.train(noisy, net, epochs=1, quiet=True, out=tmp_path / "own")
    with pytest.raises(DataError, match="a network of one's own, which cannot be built anew"):
        label_errors(tmp_path / "own", noisy, quiet=True)
    assert foveal.doctor.label_errors(tmp_path / "own", noisy, method="probe", quiet=True).images == len(noisy.y_train)
