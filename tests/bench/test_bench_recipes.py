"""foveal bench recipes: recipes beside searches, in a file of lines that is gone on with."""

import json

import numpy as np
from click.testing import CliRunner

from foveal import cli
from foveal.bench import recipes
from foveal.data import from_arrays


def test_sets_are_cut_with_so_many_images_of_each_class():
    rng = np.random.default_rng(1)
    part = rng.integers(0, 255, (600, 8, 8)).astype(np.uint8), np.arange(600) % 3
    data = from_arrays("rows", *part, *part)
    found = recipes.cut(data, "few", 7)
    assert np.bincount(found.y_train).tolist() == [7, 7, 7]
    assert np.bincount(recipes.cut(data, "tail", 0).y_train).tolist() == [200, 35, 5]
    assert len(recipes.cut(data, "all", None).y_train) == len(found.y_test) == 600
    again = recipes.cut(data, "few", 7)
    np.testing.assert_array_equal(found.images_train, again.images_train)


def test_runs_that_are_known_are_not_repeated(tmp_path, monkeypatch):
    ran = []

    def accuracy(data, recipe, numbers, seed):
        ran.append(numbers)
        return len(ran) / 10

    monkeypatch.setattr(recipes, "accuracy", accuracy)
    words = ["bench", "recipes", str(tmp_path), "--set", "digits", "--lines", str(tmp_path / "lines"), "--json"]
    for runs in ("2", "3"):
        result = CliRunner().invoke(cli.main, [*words, "--runs", runs])
        assert result.exit_code == 0, result.output
    # The recipe and two runs, then a third.
    assert len(ran) == len(set(ran)) == 4
    (row,) = json.loads(result.stdout)["rows"]
    best = ran[-1]
    assert (row["recipe"], row["best"], row["lr"], row["augment"]) == (0.1, 0.4, best.lr, best.augment)
    assert "| digits | 1,437 | 10.00% | 40.00% |" in CliRunner().invoke(cli.main, [*words[:-1], "--runs", "3"]).stdout


def test_a_run_trains():
    data = recipes.cut(recipes.load("digits"), "few", 10)
    recipe = recipes.Recipe("small", 2, 20, 0.05, steps=10, augment="shift")
    for augment in ("none", "shift", "trivial"):
        numbers = recipes.Numbers(0.05, 20, 5e-4, augment=augment)
        assert 0.1 < recipes.accuracy(data, recipe, numbers, 0) < 1


def test_a_search_has_other_augmentations_than_the_recipe():
    recipe = recipes.Recipe("small", 2, 20, 0.05, steps=10, augment="shift")
    assert {numbers.augment for numbers in recipes.searched(recipe, 6)} == {"shift", "trivial", "none"}
