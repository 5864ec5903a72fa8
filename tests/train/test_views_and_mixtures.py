"""Test-time augmentation, and training on mixed images and without mirror images."""

import numpy as np
import pytest

from foveal import data, nn, train
from foveal.data import transforms
from foveal.errors import ArgumentError, ShapeError, StateError
from foveal.metrics import log_softmax

X = np.random.default_rng(0).random((30, 1, 6, 6), "float32")
Y = np.arange(30) % 3
SCALE = {"mean": [0.5], "std": [0.3]}


class Linear:
    """A network in NumPy: scores that depend on where pixels are."""

    def eval(self):
        return self

    def __call__(self, x):
        return x.reshape(len(x), -1) @ np.linspace(-1, 1, 108, dtype="f4").reshape(36, 3) ** 3


def probability(x):
    return np.exp(log_softmax(train.predict(Linear(), x, **SCALE)))


def moved(x, down, right):
    rows, columns = np.clip(np.arange(6) - down, 0, 5), np.clip(np.arange(6) - right, 0, 5)
    return x[:, :, rows][..., columns]


def test_views_are_averaged():
    mirror = X[..., ::-1]
    corners = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    seen = {
        "flip": [X, mirror],
        "crops": [X, *(moved(X, *c) for c in corners)],
        "crops+flip": [X, mirror, *(moved(x, *c) for x in (X, mirror) for c in corners)],
    }
    for name, views in seen.items():
        found = train.predict(Linear(), X, **SCALE, tta=name)
        assert found.dtype == np.float32
        wanted = np.mean([probability(view) for view in views], axis=0)
        np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-4, atol=1e-7)
    # K. Jordan 2024, section 3.5: logits, of which a half is that of the image, of corners of it padded by a pixel.
    plain = train.predict(Linear(), X, **SCALE)

    def both(x):
        return (train.predict(Linear(), x, **SCALE) + train.predict(Linear(), x[..., ::-1], **SCALE)) / 2

    padded = np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    corners = (both(padded[:, :, :6, :6]) + both(padded[:, :, 2:, 2:])) / 2
    found = train.predict(Linear(), X, **SCALE, tta="shifts+flip")
    np.testing.assert_allclose(found, both(X) / 2 + corners / 2, rtol=1e-4, atol=1e-5)
    assert (train.predict(Linear(), X, **SCALE, tta="none") == plain).all()
    with pytest.raises(ShapeError, match="tta 'rotate': choose from flip, crops, crops"):
        train.predict(Linear(), X, **SCALE, tta="rotate")


def network():
    nn.seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


OPTIONS = {"epochs": 2, "batch_size": 10, "quiet": True, "threads": 1}


def test_a_training_takes_mixtures():
    dataset = data.from_arrays("toy", X, Y, X, Y, classes=["a", "b", "c"])
    seen = []
    history = train.train(
        dataset, network(), mix="mixup+cutmix", metrics={"ndim": lambda _, y: seen.append(y.ndim) or y.ndim}, **OPTIONS
    )
    assert (history["mix"], history["flip"]) == ("mixup+cutmix", True)
    # Accuracy, and measures, go by the class with the larger share.
    assert 0 <= history["train"]["accuracy"] <= 1
    assert set(seen) == {1}
    again = train.train(dataset, network(), mix=transforms.MixUp(), **OPTIONS)
    assert again["mix"] == "MixUp"
    assert again["train"]["loss"] != history["train"]["loss"]
    own = train.train((X, Y), network(), mix="cutmix", **OPTIONS)
    assert own["train"]["loss"] > 0


def test_a_state_of_other_transforms_is_refused(tmp_path):
    def run(augment, mix, epochs=1, **more):
        options = {**OPTIONS, "epochs": epochs, "augment": augment, "mix": mix, "schedule": "constant"}
        return train.train((X, Y), network(), **options, **more)

    flip, file = transforms.RandomHorizontalFlip(), tmp_path / "state.safetensors"
    run(flip, "mixup", callbacks=[train.SaveState(file)])
    with pytest.raises(StateError, match=r"transforms was .*p=0.5.* and is .*p=0.1"):
        run(transforms.RandomHorizontalFlip(0.1), "mixup", epochs=2, resume=file)
    with pytest.raises(StateError, match=r"transforms was .*MixUp.* and is .*CutMix"):
        run(flip, "cutmix", epochs=2, resume=file)
    resumed = run(flip, "mixup", epochs=2, resume=file)
    assert resumed.lines[-1]["epoch"] == 2


def test_mirror_images_are_left_out_by_name_and_by_option():
    def flip(name, **options):
        dataset = data.from_arrays(name, X, Y, X, Y)
        return train.train(dataset, network(), augment="crop+flip", **OPTIONS, **options)

    by_name, by_option = flip("mnist"), flip("toy", flip=False)
    assert by_name["flip"] is by_option["flip"] is False
    assert by_name["train"] == by_option["train"]
    assert flip("toy")["train"] != by_option["train"]
    assert flip("mnist", flip=True)["train"] == flip("toy")["train"]
    for name, value in (("flip", False), ("mix", "mixup")):
        with pytest.raises(ArgumentError, match=f"{name} is given beside a Loader"):
            train.train(data.Loader(X, Y, 10), network(), **{name: value}, epochs=1)
