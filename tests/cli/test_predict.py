"""foveal predict: folders, patterns, standard input, lists of paths; a table, JSON, lines of JSON, CSV."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import foveal
from foveal.cli import answers, main
from foveal.cli.predict import print_answers
from foveal.cli.streams import Stream
from foveal.data.dataset import from_arrays
from foveal.train import train
from foveal.train.checkpoint import load_run, model_bytes

NAMES = ("dark", "middle", "bright")
VALUES = dict(zip(NAMES, (20, 120, 230), strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, and a folder of photos in two folders, with a file that is no image, a hidden one and a damaged one."""
    folder = tmp_path_factory.mktemp("predict")
    y = np.arange(40) % 3
    values = np.array(list(VALUES.values()))[y]
    x = (values[:, None, None] + np.random.default_rng(1).integers(-15, 16, (40, 8, 8))).astype("u1")
    data = from_arrays("set", x, y, x, y, classes=NAMES)
    train(data, epochs=10, batch_size=8, threads=1, out=folder / "run", quiet=True)
    for path in ("photos/b/bright.JPG", "photos/b/dark[1].png", "photos/middle.bmp"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        value = VALUES[next(name for name in NAMES if name in path)]
        Image.new("L", (9, 9), value).save(folder / path)
    for path in ("photos/notes.txt", "photos/.hidden.png", "photos/b/bad.png"):
        (folder / path).write_bytes(b"hello")
    return folder


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


def invoke(*words, input=None):
    return CliRunner().invoke(main, ["predict", "run", *map(str, words)], input=input)


def found(*words, status=0, input=None):
    """Paths and classes by --json."""
    result = invoke(*words, "--json", input=input)
    assert result.exit_code == status, result.output
    return [(entry["image"], entry["class"]) for entry in json.loads(result.stdout)]


BELOW = [("photos/middle.bmp", "middle"), ("photos/b/bright.JPG", "bright"), ("photos/b/dark[1].png", "dark")]


def test_a_folder_is_answered_with_all_that_is_in_it():
    assert found("photos", status=1) == BELOW
    result = invoke("photos", "--jsonl")
    assert result.exit_code == 1
    assert "Error: photos/b/bad.png: not a readable image" in result.stderr
    assert "2 files that are no images, or hidden, were left out." in result.stderr
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == [path for path, _ in BELOW]


def test_patterns_and_names_that_look_like_one():
    assert found("photos/b/[bd]*g", status=1) == BELOW[2:]
    assert found("photos/**/*.bmp") == BELOW[:1]
    assert found("photos/**", status=1) == sorted(BELOW)
    assert found("photos/b/dark[1].png") == BELOW[2:]
    # A folder that matches is answered as a folder.
    assert found("phot?s", status=1) == BELOW
    nothing = invoke("photos/*.gif")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert "photos/*.gif: no such image" in nothing.stderr


def test_an_empty_folder_is_said(tmp_path):
    result = invoke("photos/middle.bmp", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}: holds no images" in result.stderr


def test_an_image_on_standard_input(place):
    content = (place / "photos/b/bright.JPG").read_bytes()
    assert found("-", input=content) == [("-", "bright")]
    assert found("photos/middle.bmp", "-", input=content) == [BELOW[0], ("-", "bright")]
    broken = invoke("-", input=b"hello")
    assert broken.exit_code == 2
    assert "the image: not a readable image" in broken.stderr
    nothing = invoke("-", input=b"")
    assert nothing.exit_code == 2
    assert "standard input is empty; pipe an image into it" in nothing.stderr


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_a_list_of_paths(end, tmp_path):
    text = end.join(["photos/middle.bmp", "", "photos/b/dark[1].png", "nix.png"])
    (tmp_path / "list").write_text(text, newline="")
    assert found("--paths-from", "-", input=text, status=1) == [BELOW[0], BELOW[2]]
    assert found("photos/b/bright.JPG", "--paths-from", tmp_path / "list", status=1) == [BELOW[1], BELOW[0], BELOW[2]]


def test_wrong_words_are_refused():
    for words, message in (
        ((), "Missing argument 'IMAGE...'"),
        (("-", "-"), "can be read once"),
        (("-", "--paths-from", "-"), "can be read once"),
        (("photos", "--json", "--csv"), "--json and --csv are given; choose one"),
        (("photos", "--top", "0"), "--top"),
        (("photos", "--none-below", "1.5"), "--none-below"),
        (("--paths-from", "nowhere"), "--paths-from nowhere: cannot be read: No such file"),
    ):
        result = invoke(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_top_and_csv():
    (entry,) = json.loads(invoke("photos/middle.bmp", "--json", "--top", 2).stdout)
    assert entry["top"][0]["class"] == "middle"
    assert (len(entry["top"]), entry["probability"], entry["none"]) == (2, entry["top"][0]["probability"], False)
    rows = list(csv.DictReader(io.StringIO(invoke("photos", "--csv", "--top", 9).stdout)))
    assert [(row["image"], row["class"]) for row in rows] == BELOW
    assert list(rows[0])[4:] == [f"{name}_{rank}" for rank in (1, 2, 3) for name in ("top", "probability")]
    # A batch of another size adds in another order.
    assert float(rows[0]["probability"]) == float(rows[0]["probability_1"]) == pytest.approx(entry["probability"], 1e-6)


def test_none_of_these(place, tmp_path):
    result = invoke("photos/middle.bmp", "--json", "--none-below", 1)
    (entry,) = json.loads(result.stdout)
    assert (entry["class"], entry["none"], entry["top"][0]["class"]) == ("none of these", True, "middle")
    assert "Note: probabilities are as the network gives them; `foveal calibrate run DATA`" in result.stderr
    assert "none of these" in invoke("photos/middle.bmp", "--none-below", 1).stdout
    # The model file's own thresholds count where none is given.
    description, state = load_run("run")
    changed = replace(description, thresholds=(0.0, 1.0, 0.0), temperature=1.1)
    (tmp_path / "model.safetensors").write_bytes(model_bytes(state, changed))

    def classes(*words):
        result = CliRunner().invoke(main, ["predict", str(tmp_path), *words, "--json"])
        assert result.stderr == ""
        return [entry["class"] for entry in json.loads(result.stdout)]

    both = "photos/middle.bmp", "photos/b/dark[1].png"
    assert classes(*both) == ["none of these", "dark"]
    assert classes(*both, "--none-below", "0") == ["middle", "dark"]


def test_tables_of_many_images(monkeypatch):
    monkeypatch.setattr(answers, "_ROWS", 2)
    result = invoke(*["photos/middle.bmp"] * 5, "--top", 1)
    assert result.exit_code == 0
    assert result.stdout.count("probability") == 3
    assert result.stdout.count("photos/middle.bmp") == 5


def test_a_reader_that_stops_ends_the_work(capsys):
    output, drawn = Stream(1), []
    output.error = BrokenPipeError()

    def photos():
        while True:
            drawn.append(1)
            yield "photos/middle.bmp"

    options = {"top": 1, "none_below": None, "tta": None}
    assert print_answers(foveal.load("run"), photos(), "jsonl", options, output) == (1, 0)
    assert len(drawn) < 200
    assert json.loads(capsys.readouterr().out)["class"] == "middle"
