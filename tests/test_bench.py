"""The benchmark: what its rows hold, that its counts and its guard are right, and what the command prints."""

import importlib.util
import json
import math
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from foveal.bench import command, models, operators
from foveal.bench.timing import Bench, Row, Times, check_same, operations, turns
from foveal.cli import main
from foveal.errors import FovealError
from foveal.nn import CrossEntropyLoss, Sequential
from foveal.nn.layers import Conv2d, Flatten, Linear
from foveal.ops.op import Case
from foveal.optim import build
from foveal.peak import peak
from foveal.program import compile_step

KEYS = {
    "name", "pass", "batch", "threads", "ours_ms", "torch_ms", "torch_mode", "ratio", "gflops", "peak_share"
}  # fmt: skip
SMALL = "5x5 1->6 forward"
SMALLER = 3 * len(operators.CONVOLUTIONS)  # the rows from here on are small enough for NumPy
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pauses and few calls: these tests check numbers, not speed."""
    monkeypatch.setattr("foveal.bench.timing.PAUSE", 0.0)
    monkeypatch.setattr("foveal.bench.timing.TURN", 0.0005)
    monkeypatch.setattr("foveal.peak.RUNS", 2)


def invoke(*words):
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def test_turns_alternate_and_summarise():
    order = []
    times = turns({name: lambda name=name: order.append(name) for name in "ab"}, repeats=3)
    assert set(times) == {"a", "b"}
    starts = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert starts[-6:] == list("ababab")
    assert all(0 <= t.best <= t.median for t in times.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_peak_is_a_rate_of_this_century(threads):
    assert 0.1 < peak(threads) < 1e6


def test_row_compares_with_the_faster_format():
    theirs = {"contiguous": Times(4.0, 3.0), "channels_last": Times(3.0, 2.5)}
    bench = Bench(threads=1, repeats=1, peak=4.0)
    record = Row(
        "a", "dx", 2, bench, operations=4_000_000, ours=Times(2.0, 1.0), theirs=theirs
    ).record()
    assert set(record) > KEYS
    assert (record["torch_ms"], record["torch_mode"], record["ratio"]) == (
        3.0,
        "channels_last",
        1.5,
    )
    assert (record["gflops"], record["peak_share"]) == (2.0, 0.5)
    assert (record["ours_best_ms"], record["torch_best_ms"], record["ratio_best"]) == (
        1.0,
        2.5,
        2.5,
    )
    assert set(record["torch_modes"]) == set(theirs)


def test_row_without_torch_and_without_counted_operations():
    record = Row("a", "forward", 2, Bench(1, 1, 4.0), operations=0, ours=Times(2.0, 1.0)).record()
    for key in (
        "torch_ms",
        "torch_mode",
        "ratio",
        "gflops",
        "peak_share",
        "torch_best_ms",
        "ratio_best",
    ):
        assert record[key] is None
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("work", operators.Convolution(2, 3, 5, 9, 3, stride=2, padding=1).works())
def test_convolutions_count_as_direct_ones(work):
    N, C, K, P, R = 2, 3, 5, 5, 3
    program = operators.build(work, work.arrays(), threads=1)
    assert operations(program.graph) == 2 * N * K * P * P * C * R * R


def test_groups_and_products_count():
    grouped = operators.Work(
        "g", "forward", "conv2d", Case(((2, 6, 5, 5), (4, 3, 3, 3)), {"groups": 2})
    )
    product = operators.Work(
        "m", "forward", "matmul", Case(((6, 1), (70, 6)), {"ta": True, "tb": True})
    )
    for work, expected in ((grouped, 2 * 2 * 4 * 3 * 3 * 3 * 9), (product, 2 * 1 * 6 * 70)):
        assert operations(operators.build(work, work.arrays(), threads=1).graph) == expected


def test_a_step_counts_no_gradient_of_its_input():
    net = Sequential(Conv2d(2, 4, 3), Flatten(), Linear(4 * 4 * 4, 3))
    step = compile_step(
        net, CrossEntropyLoss(), build("momentum", net.parameters(), lr=0.1), threads=1
    )
    x, labels = np.zeros((5, 2, 6, 6), np.float32), np.zeros(5, np.int32)
    conv, linear = 2 * 5 * 4 * 4 * 4 * 2 * 9, 2 * 5 * 64 * 3
    assert operations(step.program(x, labels).graph) == 2 * conv + 3 * linear


@pytest.mark.parametrize("work", operators.standard()[SMALLER:], ids=lambda work: work.label)
def test_programs_of_the_rows_compute_what_the_operators_say(work):
    arrays = work.arrays()
    program = operators.build(work, arrays, threads=2)
    program.launch()
    wanted = operators.OPS[work.op](
        *arrays[work.direction == operators.BOTH :], **work.case.attributes
    )
    np.testing.assert_allclose(program.results[0], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_every_case_can_be_a_row():
    works = operators.select((), cases=True)
    assert {work.op for work in works} == set(operators.OPS)
    assert len({work.label for work in works}) == len(works)


def test_the_guard_refuses_different_results():
    check_same("row", [1.0, 2.0], [1.0, 2.00001], 1e-4)
    for other in ([1.0, 2.1], [1.0, math.nan], [1.0, 2.0, 3.0]):
        with pytest.raises(FovealError, match="row: "):
            check_same("row", [1.0, 2.0], other, 1e-4)


def test_command_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    result = invoke("ops", SMALL, "--threads", 1, "--repeats", 2, "--json", path)
    assert result.exit_code == 0, result.output
    assert "1 thread(s)" in result.stdout
    assert "conv2d 5x5 1->6 28x28" in result.stdout
    assert "torch" not in result.stdout
    written = json.loads(path.read_text())
    assert written["machine"]["peak_gflops"] > 0
    assert written["machine"]["versions"]["torch"] is None
    (row,) = written["rows"]
    assert set(row) > KEYS
    assert (row["pass"], row["batch"], row["threads"]) == ("forward", 64, 1)
    assert row["operations"] == 2 * 64 * 6 * 28 * 28 * 25
    assert row["gflops"] == pytest.approx(row["operations"] / row["ours_ms"] / 1e6)
    assert row["torch_ms"] is row["ratio"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_missing_torch_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = invoke("ops", SMALL, "--threads", 1, "--repeats", 1, "--against", "torch")
    assert result.exit_code == 0, result.output
    assert "PyTorch is not installed" in result.stdout
    assert 'pip install -e ".[compare]"' in result.stdout
    assert "ours_ms" in result.stdout
    assert "ratio" not in result.stdout


def test_more_threads_than_processors_are_told(monkeypatch):
    monkeypatch.setattr(command, "processors", lambda: 1)
    result = invoke("ops", SMALL, "--threads", 2, "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert "2 threads share 1 processors" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("models", "nix"), "there is no 'nix'; choose from lenet, resnet20"),
        (("ops", "nix"), "no row's name or pass has 'nix' in it"),
        (("ops", "relu"), "--cases adds"),
        (("ops", "--json", "{}/no/rows.json"), "cannot be written"),
        (("ops", "--threads", 0), "0 is not in the range"),
        (("models", "--against", "nix"), "'nix' is not 'torch'"),
    ],
)
def test_errors_are_one_message_and_status_2(words, message, tmp_path):
    result = invoke(*(str(word).format(tmp_path) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@needs_torch
def test_operators_against_torch():
    from foveal.bench import against_torch

    bench = Bench(threads=1, repeats=1, peak=1.0, against=against_torch)
    for work in operators.select(
        ("conv2d case", "_grad case", "batch_norm", "matmul case"), cases=True
    ):
        record = operators.row(work, bench).record()  # raises unless the results agree
        asymmetric = len(set(np.ravel(work.case.attributes.get("padding", 0)))) > 2
        if work.counterpart in against_torch.OPERATORS and not asymmetric:
            assert record["ratio"] > 0
            assert record["torch_mode"] in against_torch.FORMATS


@needs_torch
@pytest.mark.parametrize("name", models.WORKS)
def test_models_against_torch(name, monkeypatch):
    from foveal.bench import against_torch

    work = models.WORKS[name]
    small = models.Work(work.model, batch=4, channels=work.channels, size=work.size)
    bench = Bench(threads=1, repeats=1, peak=1.0, against=against_torch)
    record = models.row(name, small, bench).record()  # raises unless outputs and losses agree
    assert record["ratio"] > 0
    assert set(record["torch_modes"]) == {"contiguous", "channels_last"}
