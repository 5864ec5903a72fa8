"""Augmentations by name, and what a loader does with transforms, functions and mixtures."""

import numpy as np
import pytest

from foveal.data import Loader, augment, augmentation, transforms
from foveal.errors import DataError, ShapeError

X = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 12), np.uint8)
Y = np.arange(20) % 4


def batches(batch_size=20, epoch=0, **options):
    loader = Loader(X, Y, batch_size, seed=3, channels="first", **options)
    return np.concatenate([x for x, _ in loader.epoch(epoch, fill=False)])


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
@pytest.mark.parametrize("flip", [True, False])
def test_every_name_gives_images_of_the_size(name, flip):
    # Training images may be stored larger than a network takes them.
    for size in ((16, 12), (12, 11)):
        found = batches(augment=augmentation(name, size, flip))
        assert found.shape == (20, 3, *size)
        assert found.dtype == np.float32
    assert augmentation("none", (16, 12)) is None


@pytest.mark.parametrize("name", augment.WITHOUT_MIRROR)
def test_no_flip_leaves_mirror_images_out(name):
    # Bright at the left: turned by less than 45 degrees, it stays there.
    ramp = np.broadcast_to(np.linspace(200, 30, 12).astype(np.uint8), (200, 3, 16, 12))
    found = {}
    for flip in (True, False):
        loader = Loader(ramp, np.zeros(200, int), 200, augment=augmentation(name, (16, 12), flip), channels="first")
        x = next(loader.epoch(0))[0].mean((1, 2))
        # Where the image is not padded or inverted: the middle.
        found[flip] = (np.diff(x[:, 3:9], axis=1) > 0).all(1).mean()
    assert found[True] > 0.3
    assert found[False] < 0.08


@pytest.mark.parametrize("name", ["photos", "trivial", ["trivial", transforms.RandomErasing()]])
def test_a_loader_gives_an_image_the_same_in_batches_of_any_size(name):
    whole = batches(augment=name)
    for size in (3, 7):
        assert (batches(size, augment=name) == whole).all()
    rows = np.array([4, 17, 9])
    assert (batches(3, augment=name, rows=rows) == whole[rows]).all()
    assert (batches(augment=name, epoch=1) != whole).any()
    pairs = Loader(list(zip(X, Y, strict=True)), batch_size=6, seed=3, channels="first", augment=name)
    assert (np.concatenate([x for x, _ in pairs.epoch(0, fill=False)]) == whole).all()
    stream = Loader(lambda: zip(X, Y, strict=True), batch_size=6, seed=3, channels="first", augment=name, prefetch=2)
    assert (np.concatenate([x for x, _ in stream.epoch(0, fill=False)]) == whole).all()
    shuffled = Loader(X, Y, 6, seed=3, channels="first", augment=name, shuffle=True)
    assert (np.concatenate([x for x, _ in shuffled.epoch(0, fill=False)]) == whole[shuffled.order(0)]).all()


def test_transforms_get_bytes_and_functions_get_floats():
    seen = []

    def note(x, rng):
        seen.append(x.dtype)
        return x

    class Note(transforms.Transform):
        def transform(self, x):
            seen.append(x.dtype)
            return x

    batches(augment=[Note(), note, Note()], mean=[0.5], std=[0.2])
    assert seen == [np.uint8, np.float32, np.float32]


def test_presets_by_size_number_and_mirror_images():
    assert augment.preset((8, 8), 1000, True) == "shift"
    assert augment.preset((28, 28), 60_000, False) == "shift"
    assert augment.preset((32, 32), 50_000, True) == "crop+flip"
    assert augment.preset((32, 32), 50_000, False) == "crop"
    assert augment.preset((32, 32), 500, True) == "trivial"
    assert augment.preset((64, 48), 200, True) == "photos"
    kept = ["cifar10", "fashion-mnist", "FashionMNIST", "flowers", "designs", "photos of digital clocks"]
    assert [augment.mirrors_keep_class(name) for name in kept] == [True] * 6
    lost = ["mnist", "digits", "SVHN", "emnist-letters", "GTSRB", "my_digits_2"]
    assert [augment.mirrors_keep_class(name) for name in lost] == [False] * 6


def test_a_mixing_loader_gives_shares_of_classes():
    for mix in ("mixup", "cutmix", "mixup+cutmix", transforms.MixUp(alpha=0.2, num_classes=4)):
        loader = Loader(X, Y, 8, mix=mix, seed=1, channels="first")
        first = list(loader.epoch(0))
        assert [y.shape for _, y in first] == [(8, 4), (8, 4), (4, 4)]
        for x, y in first:
            assert y.dtype == x.dtype == np.float32
            np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
        again = list(loader.epoch(0))
        assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
        assert not (next(loader.epoch(1))[1] == first[0][1]).all()
    assert next(Loader(X, Y, 8, mix="none").epoch(0))[1].shape == (8,)
    # Names say how many classes there are, also those that no label is of.
    named = Loader(X, Y, 8, mix="mixup", classes=list("abcdef"), channels="first")
    assert next(named.epoch(0))[1].shape == (8, 6)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ShapeError, match=r"mix 'blend': choose from mixup, cutmix, mixup\+cutmix, none"):
        Loader(X, Y, mix="blend")
    with pytest.raises(DataError, match="mix needs labels that are classes"):
        Loader(X, Y.astype(np.float32), mix="mixup")
    with pytest.raises(DataError, match="several inputs or targets cannot be mixed"):
        next(Loader(((X, X), Y), mix=transforms.MixUp(num_classes=4)).epoch(0))
