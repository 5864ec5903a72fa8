"""Folders of images on the command line: from files to a trained network, and to a test of it."""

import json
import shutil
from itertools import pairwise

import pytest
from photos import folder, photo, torn

from foveal import data
from foveal.cli import main
from foveal.cli.folders_options import learned_before
from foveal.train.run_file import division_of


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


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder with three photos of each of twelve people, and a run on it in which these stay together."""
    place = tmp_path_factory.mktemp("people")
    root = folder(place / "people", images=0)
    for person in range(12):
        for i in range(3):
            photo(root / ("cat", "dog")[person % 2] / f"p{person:02d}_{i}.png", seed=10 * person + i)
    options = ["--group-by", "^(.*?)_", "--split", "0.2,0.3", "--image-size", "8", "--model", "small", "--epochs", "1"]
    assert not run("train", root, *options, "--out", place / "run", "--quiet", "--no-report", "--no-check")
    return root, place / "run"


@pytest.mark.parametrize("options", [[], ["--split", "0.5"]], ids=["as it was", "another split is given"])
def test_what_a_run_was_trained_on_is_never_tested(people, capsys, options):
    root, trained = people
    assert not run("evaluate", trained, root, "--json", *options)
    captured = capsys.readouterr()
    before = data.scan(root, group_by="^(.*?)_", split=(0.2, 0.3))
    assert json.loads(captured.out)["images"] == len(before.rows("test"))
    assert "(as in the training)" in captured.err
    assert (data.scan(root, before=division_of(trained)).parts == before.parts).all()
    assert (data.scan(root).parts != before.parts).any()


def test_a_folder_that_moved_and_grew_is_divided_as_it_was(people, tmp_path):
    root, trained = people
    before = data.scan(root, group_by="^(.*?)_", split=(0.2, 0.3))
    moved = shutil.copytree(root, tmp_path / "moved")
    of_training = before.paths[before.rows("train")[0]]
    person = moved / of_training.removeprefix(f"{root}/").replace("_0.", "_9.")
    for path in (person, moved / "cat" / "a_0.png"):
        photo(path, seed=999)
    grown = data.scan(moved, before=division_of(trained))
    parts = {path.removeprefix(f"{moved}/"): part for path, part in zip(grown.paths, grown.parts, strict=True)}
    # Another photo of someone who was trained on is no test.
    assert parts.pop(str(person.relative_to(moved))) == "train"
    assert parts.pop("cat/a_0.png") == "test"
    was = zip(before.paths, before.parts, strict=True)
    assert parts == {path.removeprefix(f"{root}/"): part for path, part in was}
    assert "2 of them are new since" in repr(grown)


@pytest.mark.parametrize("command", [["report"], ["features", "--probe", "knn"]], ids=lambda c: c[0])
def test_commands_on_a_run_read_its_images_as_it_did(people, capsys, command):
    root, trained = people
    assert not run(command[0], trained, root, *command[1:])
    printed = capsys.readouterr()
    assert "as in the training" in printed.out
    assert "images of 3x8x8" in printed.out


def test_a_run_on_files_says_how_it_read_them(people):
    expected = data.transforms_of(people[1])
    assert (expected.size, expected.background, expected.crop) == ((8, 8), (255, 255, 255), 1.0)


def test_the_command_that_a_run_keeps_can_be_given_again(photos, tmp_path):
    options = ["--model", "small", "--epochs", "1", "--split", "0.1,0.3", "--background", "#0ac81e"]
    options += ["--image-size", "8x9", "--no-check", "--no-report", "--quiet"]
    assert not run("train", photos, *options, "--out", tmp_path / "run")
    words = json.loads((tmp_path / "run" / "run.json").read_text())["command"]["words"]
    again = dict(pairwise(words))
    assert [again[name] for name in ("--split", "--background", "--image-size")] == ["0.1,0.3", "#0ac81e", "8x9"]


def test_a_start_from_weights_that_know_the_test_images_is_said(people):
    root, trained = people
    said = learned_before(trained, data.scan(root).dataset((8, 8), quiet=True))
    assert said is not None
    assert "images for validation and testing are among those that" in said
    same = data.scan(root, group_by="^(.*?)_", split=(0.2, 0.3)).dataset((8, 8), quiet=True)
    assert learned_before(trained, same) is None
    assert learned_before("resnet18", same) is None


def test_a_run_that_has_just_begun_in_the_folder_says_nothing_of_the_model_there(people, tmp_path):
    trained = shutil.copytree(people[1], tmp_path / "run")
    before = division_of(trained)
    (trained / ".started").mkdir()
    (trained / ".started" / "run.json").write_text(json.dumps({"data": {"files": {}}, "command": None}))
    assert division_of(trained) == division_of(trained / "model.safetensors") == before
    assert before.parts
