"""Names from outside (of classes, files, data sets) and photos: mapped, escaped, and answered one by one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from foveal import debug
from foveal.cli import main
from foveal.names import printable

# ESC starts commands of a terminal; the last character has what follows written from right to left.
NASTY = "\x1b[2Jgrey\r\x07\x9b\u202e"
SHOWN = r"\x1b[2Jgrey\r\x07\x9b\u202e"
# As much of it as stands on a line of a table, which folds long names.
START = r"\x1b[2Jgrey"
NAMES = ("dark", NASTY, "bright")
BRIGHTNESS = (20, 120, 230)


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def save(path, names, order, classes=True):
    """40 images of 8x8, of the classes `order` in turn; names: of what their labels count."""
    of = np.array(order)[np.arange(40) % len(order)]
    noise = np.random.default_rng(1).integers(-15, 16, (40, 8, 8))
    x = (np.array(BRIGHTNESS)[of][:, None, None] + noise).astype(np.uint8)
    y = np.array([names.index(NAMES[k]) for k in of])
    extra = {"classes": np.array(names)} if classes else {}
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, **extra)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    data = save(folder / "\x1b[31mset.npz", NAMES, (0, 1, 2))
    # As many images and as large batches as in test_cli.py, so that most kernels are the same.
    options = ("--epochs", 10, "--batch-size", 8, "--threads", 1, "--out", folder / "run")
    result = invoke("train", data, *options)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    for name, value in zip(("night", "dusk", "day"), BRIGHTNESS, strict=True):
        Image.new("L", (9, 9), value).save(folder / f"{name}.png")
    return folder


def evaluated(folder, data):
    result = invoke("evaluate", folder / "run", data, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_evaluate_goes_by_the_names_of_classes(place, tmp_path):
    whole = evaluated(place, save(tmp_path / "a.npz", NAMES, (0, 1, 2)))
    assert whole["accuracy"] == 1
    other = evaluated(place, save(tmp_path / "b.npz", ("bright", "dark", NASTY), (0, 1, 2)))
    assert (other["accuracy"], other["confusion"]) == (1, whole["confusion"])
    # Class 0 of these is the model's last one, and the first one does not occur.
    fewer = evaluated(place, save(tmp_path / "c.npz", ("bright", NASTY), (1, 2)))
    assert fewer["accuracy"] == 1
    assert [entry["images"] for entry in fewer["classes"]] == [0, 20, 20]
    # Labels without names mean the model's classes in their order.
    assert evaluated(place, save(tmp_path / "d.npz", NAMES, (0, 1, 2), classes=False))["accuracy"] == 1


def test_evaluate_refuses_classes_that_the_model_does_not_know(place, tmp_path):
    path = save(tmp_path / "a.npz", ("dark", "bright", NASTY, "dusk"), (0, 1, 2))
    result = invoke("evaluate", place / "run", path)
    assert result.exit_code == 2
    assert "the model has 3 classes, a 4, and a has 'dusk', which the model does not know" in result.stderr
    result = invoke("evaluate", place / "run", save(tmp_path / "b.npz", NAMES, (0, 1), classes=False))
    assert result.exit_code == 2
    assert "only one of them has names" in result.stderr


def test_one_bad_photo_leaves_the_others_answered(place):
    (place / "bad.png").write_bytes(b"hello")
    photos = [place / name for name in ("night.png", "bad.png", "nix.png", "day.png")]
    result = invoke("predict", place / "run", *photos, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [(entry["image"], entry["class"]) for entry in found] == [
        (str(photos[0]), "dark"),
        (str(photos[3]), "bright"),
    ]
    assert f"Error: {photos[1]}: not a readable image" in result.stderr
    assert f"Error: {photos[2]}: no such image" in result.stderr
    table = invoke("predict", place / "run", *photos)
    assert table.exit_code == 1
    assert "bright" in table.stdout
    none = invoke("predict", place / "run", *photos[1:3], "--json")
    assert (none.exit_code, none.stdout) == (2, "")
    assert invoke("predict", place / "run", photos[0]).exit_code == 0


def test_many_photos_are_answered_in_their_order(place):
    names = [("night", "dusk", "day")[i % 3] for i in range(40)]
    result = invoke("predict", place / "run", *(place / f"{name}.png" for name in names), "--json")
    classes = dict(zip(("night", "dusk", "day"), NAMES, strict=True))
    assert [entry["class"] for entry in json.loads(result.stdout)] == [classes[name] for name in names]


def test_eps_inside_of_a_png_starts_nothing(place, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    (place / "drawing.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    result = invoke("predict", place / "run", place / "drawing.png")
    assert result.exit_code == 2
    assert "formats that are read are PNG, JPEG" in result.stderr


def unsafe(text):
    return [c for c in text if c != "\n" and printable(c) != c]


def test_names_do_not_reach_the_terminal_as_they_are(place, tmp_path):
    dusk = tmp_path / "\x1b]0;title\x07.png"
    dusk.write_bytes((place / "dusk.png").read_bytes())
    absent = tmp_path / "\x1b[31m\u202eabsent.png"
    data = place / "\x1b[31mset.npz"
    for words, out, err in (
        (("predict", place / "run", dusk, absent), START, r"\x1b[31m\u202eabsent.png: no such image"),
        (("evaluate", place / "run", data), START, ""),
        (("evaluate", place / "run", data, "--threshold", "x\x1b"), "", SHOWN),
        (("train", absent), "", r"\x1b[31m\u202eabsent.png: there is no such file"),
        (("evaluate", place / "run", data, absent), "", r"unexpected extra argument"),
        (("explain", absent), "", "there is no such run"),
        (("\x1bnix",), "", "No such command"),
    ):
        result = invoke(*words)
        assert out in result.stdout
        assert err in result.stderr
        assert unsafe(result.output) == []


def test_undecodable_file_names_are_shown(place):
    """In a process of its own: click's runner has no file names that are not UTF-8."""
    name = os.fsencode(place) + b"/\xff\xfe.png"
    words = [
        sys.executable,
        "-m",
        "foveal",
        "predict",
        os.fsencode(place / "run"),
        os.fsencode(place / "day.png"),
        name,
    ]
    ended = subprocess.run(words, capture_output=True)
    assert ended.returncode == 1
    assert rb"\xff\xfe.png: no such image" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_printable_escapes_what_a_terminal_obeys_and_nothing_else():
    assert printable(NASTY) == SHOWN
    assert printable("\udcff") == r"\xff"
    kept = "Größe 42\tübung\n日本 👩\u200d🔬 [red]"
    assert printable(kept) == kept
    everything = "".join(map(chr, range(0x110000)))
    shown = printable(everything)
    assert shown.encode()
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)


def test_debug_output_is_escaped(capsys):
    debug.show("\x1b[31mtitle", "text\x07\n")
    assert capsys.readouterr().err == "-- \\x1b[31mtitle\ntext\\x07\n\n"
