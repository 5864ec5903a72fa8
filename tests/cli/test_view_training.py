"""foveal explain --view: a run's statistics, similar images, landscape, way, and the code of its layers."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from foveal.cli import main, view_training

pytest.importorskip("matplotlib")


def call(*words):
    """The exit status, standard output and standard error of a command."""
    result = CliRunner().invoke(main, [*map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for name, count in (("POINTS", 5), ("QUERIES", 2), ("SIMILAR", 3)):
        monkeypatch.setattr(view_training, name, count)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    images = (60 * rng.random((40, 8, 8)) + 90 * labels[:, None, None]).astype(np.uint8)
    np.savez(folder / "set.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    words = "--model small --epochs 2 --batch-size 20 --checkpoint-minutes 0 --ema 0.9 --seed 1 --no-report --threads 1"
    status, _, err = call("train", folder / "set.npz", "--out", folder / "run", *words.split())
    assert status == 0, err
    return folder / "run"


def test_statistics_and_landscape_are_of_the_runs_own_data(run):
    status, out, _ = call("explain", run, "--view", "statistics", "--json")
    assert status == 0
    found = json.loads(out)
    assert (found["images"], found["view"]) == (40, "statistics")
    assert [row["kind"] for row in found["layers"]][:3] == ["Conv2d", "BatchNorm2d", "relu"]
    assert (run / "explain-statistics.png").read_bytes()[:4] == b"\x89PNG"
    status, out, _ = call("explain", run, "--view", "landscape", "--seed", 1, "--out", run / "1.svg", "--json")
    assert status == 0
    around = json.loads(out)
    assert (around["seed"], around["loss"]) == (1, found["loss"])
    assert around["arrays"]["losses"]["shape"] == [5, 5]
    assert around["arrays"]["losses"]["min"] <= found["loss"] <= around["arrays"]["losses"]["max"]


def test_similar_images_are_of_the_same_class(run):
    status, out, _ = call("explain", run, "--view", "similar", "--json")
    assert status == 0
    arrays = json.loads(out)["arrays"]
    assert arrays["indices"]["shape"] == [2, 3]
    # The test images are among the training images.
    assert arrays["similarities"]["max"] == pytest.approx(1.0)


def test_the_way_is_on_a_plane_or_on_a_line_and_what_is_missing_is_said(run):
    status, out, _ = call("explain", run, "--view", "path", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["states"] == ["start", "after epoch 2", "trained"]
    assert found["arrays"]["surface"]["shape"] == [5, 5]
    status, out, _ = call("explain", run / "model.safetensors", "--view", "path", "--out", run / "named.png", "--json")
    assert (status, json.loads(out)["states"]) == (0, found["states"])
    last, previous = (run / "checkpoints" / f"{name}.safetensors" for name in ("last", "previous"))
    kept = {path: path.read_bytes() for path in (last, previous)}
    try:
        for path in kept:
            path.unlink()
        status, out, _ = call("explain", run, "--view", "path", "--force")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert status == 0
    assert "loss between start (0) and end (1)" in out
    assert "The run holds two different states, start and trained: a plane goes through three" in out
    assert f"There is no checkpoint {last}." in out
    status, _, err = call("explain", "lenet5", "--view", "path", "--out", run / "none.png")
    assert status == 2
    assert "lenet5: a model by its name has no way of a training; give a run" in err


def test_kernels_are_printed_or_a_page(run):
    status, out, _ = call("explain", run, "--view", "kernels")
    assert status == 0
    assert "conv1 Conv2d + bn1 BatchNorm2d + relu" in out
    assert not (run / "explain-kernels.html").exists()
    status, out, _ = call("explain", run, "--view", "kernels", "--layer", "conv1", "--stage", "loop")
    assert status == 0
    assert "for p, q in loops(P, Q):" in out
    assert "== assembly" not in out
    status, out, _ = call("explain", run, "--view", "kernels", "--layer", "fc", "--out", run / "fc.html")
    assert (status, out) == (0, f"The view is at {run / 'fc.html'}.\n")
    page = (run / "fc.html").read_text()
    assert "<details" in page
    assert "LLVM IR" in page
    assert "<script" not in page
    status, out, _ = call("explain", run, "--view", "kernels", "--layer", "fc", "--json")
    assert json.loads(out)["layers"][0]["layers"] == ["fc"]
    assert json.loads(out)["out"] is None
    status, _, err = call("explain", run, "--view", "kernels", "--seed", 1)
    assert status == 2
    assert "--seed: the view kernels does not take it, but --layer, --stage; leave it out" in err


def test_what_is_no_number_is_null_in_json(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    content = bytearray(path.read_bytes())
    # The values of the file come after its header; the last one of them becomes NaN.
    content[-4:] = np.float32("nan").tobytes()
    path.write_bytes(content)
    status, out, err = call("explain", tmp_path / "run", "--view", "statistics", "--json", "--force")
    assert (status, err) == (0, "")
    found = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert found["loss"] is None
