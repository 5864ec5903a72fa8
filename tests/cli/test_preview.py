"""foveal data preview, and the options about how images are varied."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from foveal.cli import main


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def place(tmp_path):
    y = np.arange(40) % 4 % 3
    x = (np.random.default_rng(0).integers(0, 60, (40, 32, 24, 3)) + 60 * y[:, None, None, None]).astype("u1")
    classes = ["dark", "grey", "\N{SNOWMAN} bright", "none of them"]
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=np.array(classes))
    return tmp_path


def test_preview_writes_a_sheet(place):
    words = ("data", "preview", place / "set.npz", "--images", 2, "--variants", 3, "--out", place / "new" / "sheet.png")
    result = invoke(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "6 images of 3 classes, each 3 times by trivial" in result.output
    page = Image.open(place / "new" / "sheet.png")
    assert page.size[0] > 4 * 48
    assert page.size[1] > 6 * 64
    assert len(page.getcolors(10**6)) > 50
    first = (place / "new" / "sheet.png").read_bytes()
    assert invoke(*words).exit_code == 0
    assert (place / "new" / "sheet.png").read_bytes() == first
    told = json.loads(invoke(*words, "--augment", "photos", "--no-flip", "--classes", 2, "--json").stdout)
    assert (told["augment"], told["flip"], told["classes"]) == ("photos", False, ["dark", "grey"])
    assert [row["index"] for row in told["rows"]] == [0, 3, 1, 5]
    assert (place / "new" / "sheet.png").read_bytes() != first


def test_preview_takes_floats(place):
    result = invoke("data", "preview", "digits", "--augment", "none", "--out", place / "digits.png")
    assert "10 images of 10 classes, each 8 times by none" in result.output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--out", "sheet.jpg"), "ends in .png"),
        (
            ("--augment", "wave"),
            "'wave' is not one of shift, crop+flip, crop+alternate, translate+alternate, crop, photos, trivial, none",
        ),
        (("--variants", "0"), "0 is not in the range"),
    ],
)
def test_wrong_words_are_one_message(place, words, error):
    result = invoke("data", "preview", place / "set.npz", *words)
    assert result.exit_code == 2
    assert error in result.output


def test_options_about_images_are_checked_before_anything_is_read():
    for words, names in (
        (("train", "nothing", "--mix", "blend"), "mixup, cutmix, mixup+cutmix, none"),
        (
            ("train", "nothing", "--augment", "blend"),
            "shift, crop+flip, crop+alternate, translate+alternate, crop, photos, trivial, none",
        ),
        (("evaluate", "run", "nothing", "--tta", "blend"), "flip, crops, crops+flip, shifts+flip, none"),
        (("predict", "run", "a.png", "--tta", "blend"), "flip, crops, crops+flip, shifts+flip, none"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        assert f"'blend' is not one of {names}" in result.output
