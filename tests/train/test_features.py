"""Embeddings are what the last layer is given, and probes of them are scikit-learn's."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner

from foveal import nn, train
from foveal.cli import main
from foveal.errors import ArgumentError, DataError
from foveal.nn import models

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (9, 1, 8, 8)).astype("uint8")
HOW = {"mean": [0.5], "std": [0.25]}


def test_an_embedding_is_what_the_last_layer_is_given():
    net = models.build("small", channels=1, size=(8, 8), classes=3)
    net.train()
    found = train.features(net, IMAGES, **HOW)
    assert net.training
    logits = train.predict(net, IMAGES, **HOW)
    np.testing.assert_allclose(found @ net.fc.weight.numpy().T + net.fc.bias.numpy(), logits, rtol=1e-4, atol=1e-5)
    # a layer by name, of images their means
    x = (IMAGES / np.float32(255) - 0.5) / 0.25
    expected = net.eval().activations(x, ["conv3"])["conv3"].mean((2, 3))
    np.testing.assert_allclose(train.features(net, IMAGES, layer="conv3", **HOW), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ArgumentError, match="SmallNet has no layer 'conv9'; did you mean"):
        train.features(net, IMAGES, layer="conv9", **HOW)
    own = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    assert train.features(own, IMAGES, **HOW).shape == (9, 72)


def test_probes_on_given_images_and_by_cross_validation():
    y = np.repeat([0, 1, 2], 20)
    x = RNG.normal(size=(60, 4)) + 4 * np.eye(4)[y]
    for kind in ("knn", "linear"):
        given = train.probe(kind, x[::2], y[::2], x[1::2], y[1::2])
        crossed = train.probe(kind, x, y, seed=3)
        assert given.accuracy > 0.9
        assert crossed.accuracy > 0.9
        assert (given.images, given.folds, crossed.images, crossed.folds) == (30, 0, 60, 5)
        assert crossed == train.probe(kind, x, y, seed=3)
        assert train.probe(kind, x, RNG.permutation(y)).accuracy < 0.6
    assert str(train.probe("knn", x[::2], y[::2], x[1::2], y[1::2])).startswith("5 nearest neighbours: ")
    with pytest.raises(ArgumentError, match="kind is 'svm'; choose from knn, linear"):
        train.probe("svm", x, y)
    with pytest.raises(DataError, match="a class has 1 image; cross-validation needs 2 of each, or x_test"):
        train.probe("knn", x[:21], y[:21])
    with pytest.raises(DataError, match="x has vectors of 4 numbers, x_test of 3"):
        train.probe("knn", x, y, x[:, :3], y)
    with pytest.raises(DataError, match=r"y has shape \[2\], and x holds 60 embeddings"):
        train.probe("knn", x, y[:2])


def test_the_command_writes_both_kinds_of_file(tmp_path):
    images, labels = RNG.integers(0, 255, (12, 8, 8)).astype("uint8"), np.arange(12) % 3
    np.savez(
        tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6], classes=[*"abc"]
    )
    run = tmp_path / "run"
    data = str(tmp_path / "set.npz")
    assert CliRunner().invoke(main, ["train", data, "--epochs", "1", "--quiet", "--out", str(run)]).exit_code == 0
    for ending in ("npz", "csv"):
        out = tmp_path / f"found.{ending}"
        result = CliRunner().invoke(main, ["features", str(run), data, "--out", str(out), "--probe", "knn"])
        assert result.exit_code == 0, result.output
        assert "nearest neighbours" in result.output
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    assert found["embeddings"].shape == (18, 64)
    assert found["labels"].tolist() == [*labels, *labels[:6]]
    assert (found["part"][0], found["part"][-1], found["files"][-1]) == ("train", "test", "test/5")
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == [found["classes"][label] for label in found["labels"]]
    assert np.float32(rows[3]["f5"]) == found["embeddings"][3, 5]
    refused = CliRunner().invoke(main, ["features", str(run), data])
    assert refused.exit_code == 2
