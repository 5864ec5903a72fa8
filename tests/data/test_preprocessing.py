"""Preprocessing: paths, bytes, PIL images and arrays become the same pixels; sizes follow torchvision's rules."""

import io

import numpy as np
import pytest
from PIL import Image

from foveal import data
from foveal.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def photo(tmp_path):
    """A PNG of 30 rows and 40 columns, and its pixels [H, W, 3]."""
    pixels = RNG.integers(0, 256, (30, 40, 3), "uint8")
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def test_all_sources_of_an_image_give_the_same_bytes(photo):
    path, pixels = photo
    read = data.Preprocessing(3, (16, 20)).read
    expected = read(path)
    assert (expected.shape, expected.dtype) == ((3, 16, 20), np.uint8)
    for source in (str(path), path.read_bytes(), Image.open(path), pixels, np.moveaxis(pixels, 2, 0)):
        assert np.array_equal(read(source), expected)
    # As read_image gives it, which has floats.
    assert np.array_equal(data.read_image(path, 3, 16, 20), data.scaled(expected))


def test_an_image_of_the_right_size_stays_as_it_is(photo):
    _, pixels = photo
    assert np.array_equal(data.Preprocessing(3, (30, 40)).read(pixels), np.moveaxis(pixels, 2, 0))
    grey = pixels[:, :, 0]
    for array in (grey, grey[None], grey[:, :, None]):
        assert np.array_equal(data.Preprocessing(1, (30, 40)).read(array), grey[None])


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    # torchvision's Resize(256) of images of (width, height).
    [((640, 480), 224, (341, 256)), ((480, 640), 224, (256, 341)), ((500, 333), 224, (384, 256))],
)
def test_crop_resizes_as_torchvision_does(size, side, expected):
    made = data.Preprocessing(3, (side, side), fit="crop", crop=224 / 256)
    assert made.resized == (256, 256)
    assert made.covering(size) == expected


def test_crop_takes_the_centre(photo):
    _, pixels = photo
    made = data.Preprocessing(3, (15, 15), fit="crop", crop=0.5)
    # Its shorter side is 30 already, so nothing is resized; torchvision's CenterCrop begins at round(7.5), round(12.5).
    assert np.array_equal(made.read(pixels), np.moveaxis(pixels[8:23, 12:27], 2, 0))


def test_transparency_lies_on_the_background():
    image = np.zeros((5, 6, 4), "uint8")
    for background in ((255, 255, 255), (0, 0, 0), (10, 20, 30)):
        found = data.Preprocessing(3, (4, 4), background=background).read(image)
        assert (found == np.array(background, "uint8")[:, None, None]).all()
    assert (data.Preprocessing(1, (4, 4)).read(image) == 255).all()


def test_what_is_no_image_is_refused(photo):
    path, pixels = photo
    read = data.Preprocessing(3, (8, 8)).read
    for wrong, message in (
        (pixels.astype("float32"), r"is no image; give uint8 \[H, W\]"),
        (np.zeros((5, 6, 7), "uint8"), "neither the first nor the last axis can be the channels"),
        (np.zeros((3, 6, 3), "uint8"), "both the first and the last axis can be the channels"),
        (np.zeros((0, 6, 3), "uint8"), "is no image"),
        (b"hello", "not a readable image"),
        (path.read_bytes()[:900], "not a readable image"),
        (path.with_name("nothing.png"), "no such image"),
    ):
        with pytest.raises(DataError, match=message):
            read(wrong)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 2}, "2 channels"),
        ({"size": (0, 4)}, r"size \(0, 4\)"),
        ({"fit": "pad"}, "choose from stretch, crop"),
        ({"crop": 0.5}, "crop 0.5 with fit 'stretch'"),
        ({"fit": "crop", "crop": 1.5}, "crop 1.5"),
        ({"interpolation": "nearest"}, "choose from lanczos"),
        ({"background": (0, 0, 256)}, "background"),
    ],
)
def test_values_that_there_cannot_be_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        data.Preprocessing(**{"channels": 3, "size": (4, 4)} | fields)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    Image.fromarray(np.full((800, 640, 3), 90, "uint8")).save(path)
    seen = []
    fitted = data.Preprocessing.fitted
    monkeypatch.setattr(
        data.Preprocessing, "fitted", lambda self, image: seen.append(image.size) or fitted(self, image)
    )
    assert data.Preprocessing(3, (32, 32)).read(path).shape == (3, 32, 32)
    assert data.Preprocessing(3, (400, 32)).read(path.read_bytes()).shape == (3, 400, 32)
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "PNG")
    data.Preprocessing(3, (32, 32)).read(buffer.getvalue())
    assert seen == [(80, 100), (640, 800), (640, 800)]
