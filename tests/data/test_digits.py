"""The digits that Foveal reads are scikit-learn's, and so is their split into training and test part."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from foveal import data
from foveal.data.formats import digits
from foveal.errors import DataError


def test_images_and_split_are_scikit_learns():
    bunch, read = load_digits(), data.load("digits")
    x_train, x_test, y_train, y_test = train_test_split(
        bunch.images / 16, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0
    )
    for ours, theirs in ((read.images_train, x_train), (read.images_test, x_test)):
        np.testing.assert_array_equal(ours, theirs[:, None])
    for ours, theirs in ((read.y_train, y_train), (read.y_test, y_test)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(20))
def test_any_labels_are_split_as_scikit_learn_does(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(6), rng.integers(5, 40, 6)))
    tested = int(rng.integers(10, 20))
    train, test = digits.stratified(labels, tested, np.random.RandomState(seed))
    theirs = train_test_split(np.arange(len(labels)), test_size=tested, stratify=labels, random_state=seed)
    np.testing.assert_array_equal(train, theirs[0])
    np.testing.assert_array_equal(test, theirs[1])


def test_missing_scikit_learn_is_reported(monkeypatch):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        data.load("digits")
