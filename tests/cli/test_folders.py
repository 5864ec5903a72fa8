"""Folders of images on the command line: from files to a trained network, and to a test of it."""

import json

import pytest
from photos import folder, torn

from foveal.cli import main


def run(*arguments):
    """Run a command and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of grey noise, with a damaged file."""
    root = folder(tmp_path_factory.mktemp("data") / "photos", images=12, name="p{}_a.png", channels=1)
    torn(root / "cat" / "torn.png")
    return root


def test_a_folder_is_trained_and_evaluated(photos, tmp_path, capsys):
    options = ["--image-size", "8", "--model", "small", "--epochs", "1", "--batch-size", "8"]
    assert not run("train", photos, *options, "--out", tmp_path / "run")
    printed = capsys.readouterr().out
    assert "photos: 24 images in 2 classes; 17 train, 2 validation, 5 test" in printed
    assert "left out, truncated: 1 (torn.png)" in printed
    assert "images of 1x8x8: 1.54 KB decoded, in memory; the memory limit is" in printed
    assert not run("evaluate", tmp_path / "run", photos, "--part", "all", "--json")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == 24
    assert "left out, truncated" in captured.err
    assert not run("evaluate", tmp_path / "run", photos, "--json", "--memory-limit", "0", "--data-cache", "off")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == 5
    assert "decoded anew in each epoch" in captured.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strict"], "torn.png: not a readable image"),
        (["--group-by", "x(.)x"], "matches nothing in 'cat/p0_a.png'"),
        (["--split", "a"], "give the share for testing"),
        (["--split", "0.7,0.6"], "give the shares for validation and for testing"),
        (["--image-size", "0"], "give pixels, 96, or rows and columns"),
        (["--memory-limit", "much"], "give bytes with a unit"),
        (["--background", "nocolour"], "give the name of a colour"),
    ],
)
def test_wrong_options_are_one_message(photos, tmp_path, capsys, options, words):
    assert run("train", photos, *options, "--out", tmp_path) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_options_of_image_files_are_for_image_files(tmp_path, capsys):
    assert run("train", "digits", "--group-by", "x", "--out", tmp_path) == 2
    assert "--group-by is for image files, and digits holds none" in capsys.readouterr().err
