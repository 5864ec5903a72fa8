"""Transforms against torchvision on fixed draws, against their definitions, and in batches of all sizes."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Philox

from foveal.data import transforms as T
from foveal.data.transforms import operations, pictures, pixels
from foveal.data.transforms.draws import STREAM, Draws
from foveal.errors import ArgumentError, DataError, ShapeError

STORED = json.loads((Path(__file__).parent / "torchvision_values.json").read_text())
# [3, 6, 7]: the image that torchvision was given.
c, i, j = np.mgrid[0:3, 0:6, 0:7]
PICTURE = ((60 * c + 9 * i * i + 6 * j * (c + 1) + 5 * i * j) % 256).astype(np.uint8)
X = PICTURE[None]
PHOTOS = np.random.default_rng(0).integers(0, 256, (12, 3, 20, 18), np.uint8)


def one(*numbers):
    """Numbers of one image, [1, ...]."""
    return np.array(numbers)[None] if len(numbers) > 1 else np.array(numbers)


def affine(how):
    return pictures.affine("", X, one(20.0), one(2, -1), one(0.8), one(12.0, -7.0), None, how, (1, 2, 3))


ENDS = np.array([[[1, 0], [6, 1], [5, 4], [0, 5]]])
BOX = {"top": one(1), "left": one(2), "height": one(4), "width": one(5)}
FIXED = {
    "equalize": lambda _: pixels.equalize(np.tile(X, (1, 1, 8, 8)))[:, :, :6, :7],
    "grayscale": lambda _: pixels.grayscale(X, 3),
    "blur": lambda v: pixels.gaussian_blur(X, (5, 3), one(v)),
    "autocontrast": lambda _: pixels.autocontrast(X),
    "invert": lambda _: pixels.invert(X),
    "resize": lambda v: T.Resize(v["size"])(X),
    "center": lambda v: T.CenterCrop(v["size"])(X),
    "crop": lambda _: T.RandomCrop((6, 7), (1, 2, 3, 0), padding_mode="reflect").transform(X, one(1), one(2)),
    "erase": lambda _: T.RandomErasing(value=(9, 8, 7)).transform(X, one(1), one(2), one(3), one(4)),
    **{f"rotate {how}": lambda v, how=how: pictures.rotate("", X, one(v), how, 7) for how in ("nearest", "bilinear")},
    **{f"affine {how}": lambda _, how=how: affine(how) for how in ("nearest", "bilinear", "bicubic")},
    **{
        f"perspective {how}": lambda _, how=how: pictures.perspective("", X, ENDS, how, 5)
        for how in ("nearest", "bilinear")
    },
    **{
        f"resized_crop {how}": lambda _, how=how: T.RandomResizedCrop((5, 3), interpolation=how).transform(X, **BOX)
        for how in ("bilinear", "bicubic", "lanczos")
    },
}
# Sums of products in another order may round the other way.
ROUNDED = {"hue", "saturation", "blur", "Color"}


@pytest.mark.parametrize("name", STORED["values"])
def test_values_of_torchvision(name):
    value = STORED["values"][name]
    wanted = np.frombuffer(base64.b85decode(value["bytes"]), np.uint8).reshape(value.get("shape", PICTURE.shape))
    if name in operations.OPERATIONS:
        how = operations.How(name, "nearest", None)
        found = operations.OPERATIONS[name](X, one(value["value"]), how)[0]
    elif name in FIXED:
        found = FIXED[name](value.get("value", value))[0]
    else:
        found = getattr(pixels, name)(X, one(value["value"]))[0]
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), wanted, atol=int(name in ROUNDED), rtol=0)


@pytest.mark.parametrize("name", STORED["spaces"])
def test_strengths_of_torchvision(name):
    made = getattr(T, name)()
    found = {
        k: [s.signed] + ([] if s.values is None else [s.values[i] for i in (len(s.values) // 2, -1)])
        for k, s in made.space((48, 64)).items()
    }
    wanted = STORED["spaces"][name]
    assert found.keys() == wanted.keys()
    for operation, numbers in wanted.items():
        np.testing.assert_allclose(found[operation], numbers, atol=6e-4)


ALL = [
    T.RandomCrop(14, padding=3),
    T.RandomCrop(24, pad_if_needed=True, fill=9),
    T.RandomResizedCrop(10),
    T.CenterCrop(9),
    T.Resize((9, 8)),
    T.RandomHorizontalFlip(),
    T.AlternatingHorizontalFlip(),
    T.RandomVerticalFlip(),
    T.RandomRotation(40, "bilinear", fill=1),
    T.RandomAffine(10, (0.1, 0.2), (0.8, 1.2), (-5, 5, 0, 9)),
    T.RandomPerspective(),
    T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    T.Grayscale(),
    T.RandomGrayscale(0.5),
    T.RandomAutocontrast(),
    T.RandomEqualize(),
    T.RandomPosterize(3),
    T.RandomSolarize(0.7),
    T.RandomInvert(),
    T.RandomAdjustSharpness(2),
    T.GaussianBlur(5),
    T.RandomErasing(),
    T.RandomErasing(value="random"),
    T.ToDtype("float32", scale=True),
    T.RandAugment(),
    T.TrivialAugmentWide(),
    T.AutoAugment("svhn"),
    T.AugMix(),
    T.RandomApply([T.RandomInvert(1.0), T.RandomHorizontalFlip()]),
    T.RandomChoice([T.RandomInvert(), T.RandomEqualize(1.0)], p=[1, 3]),
    T.Compose([T.RandomCrop(14, padding=2), T.RandomHorizontalFlip(), T.TrivialAugmentWide()]),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_an_image_gets_the_same_in_any_batch_and_thread(transform):
    before, index = PHOTOS.copy(), np.array([3, 1 << 40, *range(50, 60)])
    whole = transform(PHOTOS, seed=5, epoch=2, index=index)
    assert (before == PHOTOS).all()
    with ThreadPoolExecutor(4) as pool:
        rows = [[0], [1, 2, 3, 4, 5], [11, 6, 7], [10, 9, 8]]
        parts = pool.map(lambda r: transform(PHOTOS[r], seed=5, epoch=2, index=index[r]), rows)
        for r, part in zip(rows, parts, strict=True):
            assert part.dtype == whole.dtype
            assert (part == whole[r]).all()
    assert (transform(PHOTOS[1], seed=5, epoch=2, index=1 << 40) == whole[1]).all()
    floats = transform((PHOTOS / 255).astype(np.float32), seed=5, epoch=2, index=index)
    assert floats.dtype == np.float32
    assert floats.shape == whole.shape
    # Every one that draws gives other images in other epochs.
    fixed = (T.CenterCrop, T.Resize, T.Grayscale, T.ToDtype)
    assert isinstance(transform, fixed) == (transform(PHOTOS, seed=5, epoch=3, index=index) == whole).all()


def test_draws_are_philox_of_each_image():
    index = np.array([0, 5, 1 << 40])
    draws = Draws(7, 3, index)
    words = np.concatenate([draws.words(3), draws.rows(np.arange(3)).words(2)], 1)
    for row, i in zip(words, index.tolist(), strict=True):
        assert (row == Philox(key=[7, STREAM], counter=[0, 0, i, 3]).random_raw(5)).all()
    many = Draws(1, 0, np.arange(20_000))
    assert abs(many.uniform(2, 4).mean() - 3) < 0.02
    assert np.bincount(many.integers(0, 5)).min() > 3800
    assert abs(many.fork(0).uniform().mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many.fork(0).uniform(), many.fork(1).uniform())[0, 1]) < 0.03
    shares = many.rows(np.arange(500)).dirichlet(2.0, 3)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert abs(shares.mean() - 1 / 3) < 1e-9


def test_crops_and_flips_are_parts_of_the_image():
    x = np.arange(5 * 6, dtype=np.uint8).reshape(1, 1, 5, 6)
    assert (T.RandomHorizontalFlip(1.0)(x) == x[..., ::-1]).all()
    assert (T.RandomVerticalFlip(1.0)(x) == x[..., ::-1, :]).all()
    many = np.repeat(x, 200, 0)
    first, second, third = (T.AlternatingHorizontalFlip()(many, seed=1, epoch=epoch) for epoch in (0, 1, 2))
    mirrored = (first == x[..., ::-1]).all((1, 2, 3))
    assert 70 < mirrored.sum() < 130
    assert (first[~mirrored] == x).all()
    assert (second == first[..., ::-1]).all()
    assert (third == first).all()
    crops = T.RandomCrop((2, 3))(many)
    found = {crop.tobytes() for crop in crops}
    assert found == {x[0, :, i : i + 2, j : j + 3].tobytes() for i in range(4) for j in range(4)}
    padded = T.RandomCrop((5, 6), padding=1, fill=99)(many)
    assert {(image[0] == 99).sum() for image in padded} <= {0, 5, 6, 10}
    assert len({image.tobytes() for image in padded}) == 9


def test_resized_crops_keep_to_scale_and_ratio():
    t = T.RandomResizedCrop(8, scale=(0.2, 0.5), ratio=(0.5, 2.0))
    box = t.make_params(Draws(0, 0, np.arange(500)), (500, 3, 60, 90))
    share = box["height"] * box["width"] / 5400
    assert 0.18 < share.min() < 0.25
    assert 0.45 < share.max() < 0.52
    ratio = box["width"] / box["height"]
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2
    assert ((box["top"] + box["height"] <= 60) & (box["left"] + box["width"] <= 90)).all()
    # None fits: the middle, of the nearest ratio.
    box = T.RandomResizedCrop(8, scale=(1, 1), ratio=(0.5, 0.5)).make_params(Draws(0, 0, np.arange(2)), (2, 3, 40, 90))
    assert [box[name].tolist() for name in ("top", "left", "height", "width")] == [
        [0] * 2,
        [35] * 2,
        [40] * 2,
        [20] * 2,
    ]
    assert T.Resize(10, max_size=14)(PHOTOS[:, :, :9]).shape == (12, 3, 7, 14)
    assert T.Resize(None, max_size=10)(PHOTOS).shape == (12, 3, 10, 9)


def test_colours_by_their_definitions():
    grey = np.full((1, 1, 4, 4), 100, np.uint8)
    assert T.ColorJitter(brightness=(2, 2))(grey).tolist() == np.full((1, 1, 4, 4), 200).tolist()
    assert (T.ColorJitter(saturation=1, hue=0.5)(grey) == grey).all()
    assert (T.RandomInvert(1.0)(PHOTOS) == 255 - PHOTOS).all()
    assert (T.RandomPosterize(2, 1.0)(PHOTOS) == PHOTOS // 64 * 64).all()
    assert (T.RandomSolarize(128, 1.0)(PHOTOS) == np.where(PHOTOS < 128, PHOTOS, 255 - PHOTOS)).all()
    assert (T.RandomAutocontrast(1.0)(grey) == grey).all()
    assert T.RandomAutocontrast(1.0)(PHOTOS // 2).max() >= 254
    assert (np.ptp(T.Grayscale(3)(PHOTOS), axis=1) == 0).all()
    # A third of the circle of hues turns red into green.
    red = np.zeros((1, 3, 2, 2), np.uint8)
    red[:, 0] = 200
    assert (np.roll(red, 1, 1) == T.ColorJitter(hue=(1 / 3, 1 / 3))(red)).all()
    flat = np.full((1, 2, 9, 9), 0.25, np.float32)
    np.testing.assert_allclose(T.GaussianBlur(3, 1.0)(flat), flat, rtol=1e-6)


def test_erasing_and_values():
    x = np.full((300, 3, 20, 30), 7, np.uint8)
    erased = (T.RandomErasing(0.5, value=(1, 2, 3))(x) != 7).all(1)
    share = erased.mean((1, 2))
    assert 0.4 < (share > 0).mean() < 0.6
    assert 0.015 < share[share > 0].min() < share.max() < 0.34
    noise = T.RandomErasing(1.0, (0.3, 0.3), (1, 1), "random")(x.astype(np.float32))
    assert abs(noise[noise != 7].mean()) < 0.05
    assert abs(noise[noise != 7].std() - 1) < 0.05
    both = T.Compose([T.ToDtype("float32", scale=True), T.Normalize([0.5], [0.25])])(PHOTOS)
    np.testing.assert_allclose(both, (PHOTOS / 255 - 0.5) / 0.25, atol=1e-5)
    assert (T.ToDtype("uint8", scale=True)(T.ToDtype(scale=True)(PHOTOS)) == PHOTOS).all()


def test_mixtures_mix_images_and_labels_alike():
    y = np.arange(12) % 5
    labels = np.repeat(np.eye(5, dtype="f4")[y][:, :, None, None], 3, 2)
    # Images that are their own labels: what is mixed of one is mixed of the other.
    for seed in range(5):
        x, shares = T.MixUp(num_classes=5)(labels, y, seed=seed)
        np.testing.assert_allclose(x[:, :, 0, 0], shares, atol=1e-6)
        x, shares = T.CutMix(num_classes=5)(np.repeat(np.repeat(labels, 6, 2), 9, 3), y, seed=seed)
        np.testing.assert_allclose(x.mean((2, 3)), shares, atol=1e-5)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    again = T.MixUp(num_classes=5)(PHOTOS, y, seed=4, epoch=1)
    assert again[0].dtype == np.uint8
    assert (again[0] == T.MixUp()(PHOTOS, np.eye(5)[y], seed=4, epoch=1)[0]).all()


def test_a_transform_of_ones_own():
    class Dim(T.Transform):
        def make_params(self, draws, shape):
            return {"factor": draws.uniform(0.5, 1.0)}

        def transform(self, x, factor):
            return (x * factor[:, None, None, None]).astype(x.dtype)

    assert 0.4 < Dim()(PHOTOS).mean() / PHOTOS.mean() < 1
    with pytest.raises(NotImplementedError, match="Transform has to define transform"):
        T.Transform()(PHOTOS)


WRONG = {
    "p": (lambda: T.RandomInvert(1.5), ShapeError, "p is 1.5"),
    "range": (lambda: T.RandomRotation((5, 1)), ShapeError, "degrees is"),
    "size": (lambda: T.RandomCrop((1, 2, 3)), ShapeError, "size is"),
    "padding": (lambda: T.RandomCrop(4, padding=(1, 2, 3)), ShapeError, "padding is"),
    "mode": (lambda: T.RandomCrop(4, padding_mode="wrap"), ShapeError, "padding_mode is"),
    "larger than the image": (lambda: T.RandomCrop(99)(PHOTOS), DataError, "pad_if_needed=True"),
    "reflect": (lambda: T.RandomCrop(4, 20, padding_mode="reflect")(PHOTOS), DataError, "less than a side"),
    "interpolation": (lambda: T.RandomRotation(5, "lanczos"), ShapeError, "choose from nearest, bilinear, bicubic"),
    "antialias": (lambda: T.Resize(4, antialias=False), ShapeError, "always antialiased"),
    "expand": (lambda: T.RandomRotation(40, expand=True)(PHOTOS), DataError, "another size"),
    "fill": (lambda: T.RandomRotation(40, fill=(1, 2))(PHOTOS), DataError, "fill holds 2 numbers"),
    "hue": (lambda: T.ColorJitter(hue=0.7), ShapeError, "hue is"),
    "channels": (lambda: T.RandomEqualize(1.0)(PHOTOS[:, :2]), DataError, "images of 2 channels"),
    "normalised": (lambda: T.TrivialAugmentWide()(PHOTOS.astype("f4") - 9), DataError, "not yet normalised"),
    "threshold": (lambda: T.RandomSolarize(200, 1.0)(PHOTOS.astype("f4") / 255), DataError, "threshold is 200"),
    "kernel": (lambda: T.GaussianBlur(4), ShapeError, "kernel_size is 4"),
    "large kernel": (lambda: T.GaussianBlur(41)(PHOTOS), DataError, "less than a side"),
    "value": (lambda: T.RandomErasing(value="noise"), ShapeError, "value is 'noise'"),
    "bytes": (lambda: T.Normalize([0.5], [0.5])(PHOTOS), DataError, "ToDtype"),
    "no bytes": (lambda: T.ToDtype("uint8")(PHOTOS.astype("f4") * 2), DataError, "are no bytes"),
    "magnitude": (lambda: T.RandAugment(magnitude=31), ShapeError, "from 0 to 30"),
    "policy": (lambda: T.AutoAugment("mnist"), ShapeError, "imagenet, cifar10, svhn"),
    "no list": (lambda: T.Compose(T.RandomInvert()), ShapeError, "it has to be a list"),
    "function": (lambda: T.Compose([abs]), ArgumentError, "transforms holds"),
    "sizes": (lambda: T.RandomApply([T.CenterCrop(4)])(PHOTOS), DataError, "has to be applied to all"),
    "weights": (lambda: T.RandomChoice([T.RandomInvert()], [1, 2]), ShapeError, "one for each transform"),
    "index": (lambda: T.RandomInvert()(PHOTOS, index=[1]), ArgumentError, "for 12 images"),
    "dtype": (lambda: T.RandomInvert()(PHOTOS.astype(int)), DataError, "uint8 (0 to 255) or floats"),
    "classes": (lambda: T.MixUp()(PHOTOS, np.arange(12)), ArgumentError, "num_classes is missing"),
    "labels": (lambda: T.CutMix(num_classes=3)(PHOTOS, np.arange(12)), DataError, "there are 3 classes"),
    "name": (lambda: T.ToTensor, AttributeError, "ToDtype"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_say_what_is_wrong(name):
    call, error, words = WRONG[name]
    with pytest.raises(error) as found:
        call()
    assert words in str(found.value)
