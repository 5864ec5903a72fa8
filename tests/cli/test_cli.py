"""The command line: what is printed, and that every error is one message and a status."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import foveal
from foveal.cli import main
from foveal.cli.doctor import cache_size
from foveal.kernel import target


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data (dark and bright 8x8 images), a run on it, and two pictures."""
    folder = tmp_path_factory.mktemp("cli")
    y = np.arange(40) % 2
    x = (np.random.default_rng(0).integers(0, 60, (40, 8, 8)) + 180 * y[:, None, None]).astype("u1")
    names = np.array(["dark", "bright"])
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=names)
    for name, value in (("night.png", 20), ("day.png", 230)):
        Image.new("RGB", (30, 20), (value,) * 3).save(folder / name)
    options = ("--epochs", 8, "--batch-size", 8, "--threads", 1, "--out", folder / "run")
    result = invoke("train", folder / "set.npz", *options)
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_train_tells_and_writes(place):
    folder, printed = place
    assert "set: 40 training and 40 test images, 1x8x8, 2 classes" in printed
    assert "epoch 8/8: loss" in printed
    assert "model.safetensors" in printed
    names = {
        "model.safetensors",
        "log.jsonl",
        "metrics.json",
        "run.json",
        "checkpoints",
        "MODEL.md",
        "report.html",
        "predictions.npz",
        "steps.json",
    }
    assert names == {path.name for path in (folder / "run").iterdir()}


def test_quiet_prints_nothing_and_out_has_a_default(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = invoke("train", place[0] / "set.npz", "--epochs", 1, "--batch-size", 8, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "runs" / "set" / "metrics.json").exists()


def test_evaluate(place):
    folder, _ = place
    result = invoke("evaluate", folder / "run", folder / "set.npz", "--json")
    measured = json.loads(result.stdout)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert {"accuracy": measured["accuracy"], "loss": measured["loss"]} == metrics["test"]
    assert [entry["class"] for entry in measured["classes"]] == ["dark", "bright"]
    assert np.sum(measured["confusion"]) == measured["images"] == 40
    assert 0 <= measured["calibration"]["ece"] <= 1
    table = invoke("evaluate", folder / "run", folder / "set.npz").stdout
    for words in (f"{measured['accuracy']:.2%}", "precision", "(macro)", "taken for which", "ECE"):
        assert words in table


def test_evaluate_picks_a_threshold(place):
    folder, _ = place
    words = ("evaluate", folder / "run", folder / "set.npz", "--threshold", "bright")
    found = json.loads(invoke(*words, "--by", "cost=1:5", "--json").stdout)["threshold"]
    assert (found["class"], found["by"]) == ("bright", "cost=1:5")
    assert found["cost"] == found["false_positives"] + 5 * found["false_negatives"]
    for curve in (found["precision_recall_curve"], found["roc_curve"]):
        assert len({len(values) for values in curve.values()}) == 1
    assert found["roc_curve"]["threshold"][0] is None
    assert "false negatives" in invoke(*words, "--by", "recall=0.9").stdout


def test_explain(place):
    folder, _ = place
    found = json.loads(invoke("explain", folder / "run", "--json").stdout)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert (found["input"], found["parameters"]) == ([1, 1, 8, 8], metrics["parameters"])
    assert found["layers"][-1]["output"] == [1, 2]
    found = json.loads(invoke("explain", "LeNet-5", "--json").stdout)
    assert (found["input"], found["parameters"]) == ([1, 1, 28, 28], 61_706)
    words = ("explain", "resnet20", "--input", "3x32x32", "--classes", 7, "--depth", 1)
    table = invoke(*words, "--batch", 4).stdout
    assert "(64 + 1)*7" in table
    assert "CifarResNet on 4 images of 3x32x32" in table
    assert "BasicBlock" not in table


def test_predict(place):
    folder, _ = place
    pictures = [folder / "night.png", folder / "day.png"]
    result = invoke("predict", folder / "run", *pictures, "--json")
    found = json.loads(result.stdout)
    assert [entry["class"] for entry in found] == ["dark", "bright"]
    assert [entry["image"] for entry in found] == list(map(str, pictures))
    for entry in found:
        assert sum(top["probability"] for top in entry["top"]) == pytest.approx(1)
    assert "bright" in invoke("predict", folder / "run", pictures[1]).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "nix"), "Error: nix: there is no such file"),
        (("train", "digts"), "digts: there is no such file, folder or data set (did you mean 'digits'?); DATA is"),
        (("train", "{}/set.npz", "--pretrained", "resnt18"), "no weights called 'resnt18' (did you mean 'resnet18'?)"),
        (("train", "{}/set.npz", "--batch-size", 41), "Error: batch size 41 is larger than the 40"),
        (("train", "{}/set.npz", "--epochs", 0), "0 is not in the range"),
        (("train", "{}/set.npz", "--lr", 0), "is not in the range"),
        (("train", "{}/set.npz", "--threads", 0), "0 is not in the range"),
        (("train", "{}/set.npz", "--model", "nix"), "'nix' is not one of"),
        (("train", "{}/set.npz", "--optimizer", "nix"), "'nix' is not one of sgd"),
        (("train", "{}/set.npz", "--optimizer", "adan"), "'adan' (did you mean 'adam'?) is not one of sgd"),
        (("train", "{}/set.npz", "--schedule", "nix"), "'nix' is not one of one-cycle"),
        (("train", "{}/set.npz", "--momentum", 1), "is not in the range"),
        (("train", "{}/set.npz", "--optimizer", "sgd", "--momentum", 0.5), "has no momentum"),
        (("tune", "nix"), "Error: nix: there is no such file"),
        (("tune", "{}/set.npz", "--batch-size", 8, "--steps", 5), "at least 30 steps"),
        (("evaluate", "{}", "{}/set.npz"), "not a run"),
        (("evaluate", "{}/run", "digits"), "has 2 classes, digits 10"),
        (("predict", "{}/run", "{}/nix.png"), "nix.png: no such image"),
        (("predict", "{}/run", "{}/set.npz"), "set.npz: not a readable image"),
        (("predict", "{}/run"), "Missing argument"),
        (("evaluate", "{}/run", "{}/set.npz", "--threshold", "cat"), "knows the classes dark, bright"),
        (("evaluate", "{}/run", "{}/set.npz", "--by", "luck"), "rule 'luck': give f1, precision=0.9"),
        (("explain", "lenet5", "--input", "3x224"), "--input '3x224': give channels, rows and columns"),
        (("explain", "lenet5", "--input", "3x-1x5"), "give channels, rows and columns of one image"),
        (("explain", "lenet5", "--input", "1x8x8"), "images of 8x8 are too small, it needs 12x12"),
        (("explain", "{}/run", "--input", "1x1x1"), "use a smaller kernel, more padding, or a larger"),
        (("explain", "nix", "--input", "3x224x224"), "nix: no model has this name and there is no such run; models"),
        (("explain", "resnt18"), "no model has this name (did you mean 'resnet18'?) and there is no such run; models"),
        (("explain", "{}", "--input", "3x224x224"), "not a run"),
        (("nix",), "No such command"),
    ],
)
def test_errors_are_one_message_and_status_2(place, words, message):
    result = invoke(*(str(word).format(place[0]) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_images_of_another_size_or_scale_are_refused(place):
    folder, _ = place
    y = np.arange(4) % 2
    for name, x, words in (
        ("size", np.zeros((4, 9, 9), np.uint8), "takes images of 1x8x8, size holds 1x9x9"),
        ("scale", np.full((4, 8, 8), -1.5), "from 0 to 1, those of scale go from -1.5 to -1.5"),
    ):
        path = folder / f"{name}.npz"
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
        result = invoke("evaluate", folder / "run", path)
        assert result.exit_code == 2
        assert words in result.stderr


def test_ctrl_c_ends_with_130(place, monkeypatch):
    def compile_step(*args, **options):
        def step(x, labels):
            raise KeyboardInterrupt

        return step

    monkeypatch.setattr(foveal, "compile_step", compile_step)
    result = invoke("train", place[0] / "set.npz", "--quiet", "--out", place[0] / "other")
    assert result.exit_code == 130
    assert "Interrupted in epoch 1. No model of this run was written" in result.stderr


def test_ctrl_c_while_the_command_line_is_imported(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    command = [sys.executable, "-c", "from foveal.__main__ import main; main()", "train", "digits"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "\nInterrupted.\n")


def test_doctor():
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for word in ("CPU", "vector width", "threads", "LLVM", "cache size", "ran right"):
        assert word in result.stdout
    host = target.host()
    for name, size in (("level 1 data", host.l1), ("level 2", host.l2), ("last level", host.llc)):
        (line,) = (line for line in result.stdout.splitlines() if name in line)
        assert f"{size >> 10:,} KiB planned with" in line


def test_doctor_says_what_the_machine_reports_of_its_caches():
    assert cache_size(1 << 20, 1280 << 10) == "1,024 KiB planned with; this machine reports 1,280 KiB"
    assert cache_size(1 << 15, None) == "32 KiB planned with; not reported by this machine"


def test_doctor_clears_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    (tmp_path / ("0" * 40 + ".o")).write_bytes(b"x" * 1000)
    result = invoke("doctor", "--clear-cache")
    assert "Deleted 1 files, 0.0 MB" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_is_light():
    """`foveal --help` loads none of the heavy packages."""
    code = (
        "import sys; from foveal.cli import main; main(['--help'], standalone_mode=False); "
        "heavy = {'sklearn', 'PIL', 'safetensors', 'rich.progress', 'torch'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("train", "tune", "evaluate", "predict", "explain", "bench", "doctor"):
        assert f"  {command}  " in result.stdout
