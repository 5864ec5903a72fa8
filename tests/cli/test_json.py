"""--json on every command: one JSON document on standard output, all else on standard error."""

import json
import re

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from foveal import counts
from foveal.cli import bench, main
from foveal.kernel.compile import statistics


def commands(group, path=()):
    """Yield the words and the command of everything that can be run."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_json(words):
    options = [option for option in COMMANDS[words].params if "--json" in option.opts]
    assert [option.is_flag for option in options] == [True]


def test_every_command_says_what_its_json_holds():
    told = {words: command.help or "" for words, command in COMMANDS.items()}
    # Those of `bench` print the columns of their tables, which the group's help tells.
    silent = [words for words, text in told.items() if "--json" not in text and words[0] != "bench"]
    assert silent == []
    assert "--json" in bench.bench.help


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    y = np.arange(40) % 2
    x = (np.random.default_rng(0).integers(0, 60, (40, 8, 8)) + 180 * y[:, None, None]).astype("u1")
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=np.array(["dark", "bright"]))
    Image.new("L", (8, 8), 230).save(folder / "day.png")
    return folder


def document(*words, status=0):
    """Run a command with --json; return what it printed, read, and its standard error."""
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == status, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout), result.stderr


SMALL = ("--epochs", 1, "--batch-size", 8, "--threads", 1)


def test_train_evaluate_predict_and_explain(place):
    run = place / "run"
    found, errors = document("train", place / "set.npz", *SMALL, "--out", run)
    assert found["out"] == str(run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: found[name] for name in metrics} == metrics
    assert [line["epoch"] for line in found["log"]] == [1]
    assert "epoch 1/1: loss" in errors
    assert found["test"]["accuracy"] == document("evaluate", run, place / "set.npz")[0]["accuracy"]
    assert document("predict", run, place / "day.png")[0][0]["image"] == str(place / "day.png")
    assert document("explain", run)[0]["parameters"] == metrics["parameters"]


def test_compile_only_fills_the_cache_and_trains_nothing(place, tmp_path):
    words = [*map(str, ("train", place / "set.npz", *SMALL, "--ema", 0.9, "--out", tmp_path / "run"))]
    found, _ = document(*words, "--compile-only")
    assert [program["kind"] for program in found["programs"]] == ["training step", "inference"]
    assert found["programs"][0]["shape"] == "[8, 1, 8, 8]"
    assert found["kept"].startswith("kept in ")
    assert not (tmp_path / "run").exists()
    before = statistics.compiled
    again = CliRunner().invoke(main, [*words, "--compile-only"])
    assert re.match(r"0 kernels compiled in .* s, \d+ from the cache; kept in ", again.stdout)
    assert CliRunner().invoke(main, [*words, "--compile-only", "--quiet"]).stdout == ""
    # The run itself compiles nothing any more.
    assert CliRunner().invoke(main, [*words, "--quiet"]).exit_code == 0
    assert statistics.compiled == before


def test_doctor_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    counts.add(counts.SHAPES)
    found, _ = document("doctor")
    assert found["self_test"]["passed"]
    assert found["cache"]["folder"] == str(tmp_path / "cache")
    assert found["cache"]["compiled_again"] == {"shapes": 1, "attributes": 0}
    assert {"cpu", "lanes", "registers", "caches", "cores", "threads", "versions"} <= found.keys()
    assert "1 times for another shape, 0 for another attribute" in re.sub(
        r"\s*[│|]\s*", " ", CliRunner().invoke(main, ["doctor"]).stdout.replace("\n", " ")
    )
    (tmp_path / "cache" / ("0" * 40 + ".o")).write_bytes(b"x" * 1000)
    info, _ = document("cache", "info")
    assert info["folder"] == str(tmp_path / "cache")
    assert info["bytes"] >= 1000
    wrote, _ = document("cache", "export", tmp_path / "kernels.bin")
    assert wrote["file"] == str(tmp_path / "kernels.bin")
    assert document("cache", "import", tmp_path / "kernels.bin")[0]["kernels"] == wrote["kernels"]
    cleared, _ = document("cache", "clear")
    assert (cleared["deleted"], cleared["left"]) == (info["files"], 0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_bench(monkeypatch):
    found, _ = document("bench", "ops", "--list", "relu")
    assert "relu" in [row["operator"] for row in found["operators"]]
    # Timings themselves are tests/bench's.
    monkeypatch.setattr(bench, "peak", lambda threads: 1.0)
    monkeypatch.setattr(bench.output, "machine", lambda bench: {"cpu": "x"})
    monkeypatch.setattr(bench.inference, "rows", lambda works, bench, starting: iter(()))
    found, _ = document("bench", "infer", "lenet", "--threads", 1)
    assert found == {"machine": {"cpu": "x"}, "rows": [], "ratios": None}


def test_bench_of_a_curve(monkeypatch, place, torch):
    from foveal.bench import loss_curve

    monkeypatch.setattr(loss_curve, "curves", lambda *given, **named: iter([(1.0, 2.0)] * 9))
    found, errors = document("bench", "curve", place / "set.npz", "--batch-size", 10, "--every", 2)
    assert found["rows"][1] == {"step": 4, "foveal": 1.0, "torch": 2.0, "difference": -0.5}
    assert "4 steps of 10 images" in errors


@pytest.mark.parametrize(
    "words", [("train", "nix"), ("evaluate", "nix", "digits"), ("explain", "nix"), ("cache", "import", "nix")]
)
def test_errors_are_a_message_and_a_status_and_no_json(words):
    result = CliRunner().invoke(main, [*words, "--json"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
