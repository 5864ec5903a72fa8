"""The benchmark: what its rows hold, that its counts and its guard are right, and what the command prints."""

import importlib
import importlib.util
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from foveal.bench import inference, memory, models, operators, output, scaling
from foveal.bench.against_several import Several
from foveal.bench.timing import Bench, Measurement, Times, check_same, operations
from foveal.cli import main
from foveal.errors import FovealError
from foveal.nn import CrossEntropyLoss, Sequential
from foveal.nn.container import Flatten
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout, StochasticDepth
from foveal.nn.linear import Linear
from foveal.ops.op import Case
from foveal.optim import build
from foveal.peak import copy_rate, peak
from foveal.step import compile_step

KEYS = {"name", "pass", "batch", "threads", "ours_ms", "torch_ms", "torch_mode", "ratio", "gflops", "peak_share"}
SMALL = "5x5 1->6 forward"
SMALLER = 3 * len(operators.CONVOLUTIONS)  # the rows from here on are small enough for NumPy
ALONE = Bench(threads=1, repeats=1, peak=1.0)
EAGER = ("contiguous", "channels_last")
pytestmark = pytest.mark.usefixtures("hurried")


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


needs_torch = needs("torch")


def invoke(*words):
    return CliRunner().invoke(main, ["bench", *map(str, words)])


@pytest.mark.parametrize("threads", [1, 2])
def test_peak_is_a_rate_of_this_century(threads):
    assert 0.1 < peak(threads) < 1e6


def test_a_run_that_measures_the_peak_is_shorter_than_a_slice_of_time():
    """A scheduler gives slices of some milliseconds: longer runs would all be disturbed beside other programs."""
    measured = importlib.import_module("foveal.peak")
    multiply_adds = measured.PARTS * measured.registers() * 3 // 4 * measured.STEPS * measured.UNROLL
    # On a processor of 3 GHz that begins one in each cycle.
    assert multiply_adds / 3e9 < 0.003


@pytest.mark.parametrize("moved", [1, 1000, 1 << 20])
@pytest.mark.parametrize("threads", [1, 2])
def test_copying_is_a_rate_of_this_century(threads, moved):
    assert 0.01 < copy_rate(threads, moved) < 1e5


def test_row_compares_with_the_faster_format():
    theirs = {"contiguous": Times(4.0, 3.0), "channels_last": Times(3.0, 2.5)}
    bench = Bench(threads=1, repeats=1, peak=4.0)
    record = Measurement("a", "dx", 2, bench, operations=4_000_000, ours=Times(2.0, 1.0), theirs=theirs).record()
    assert set(record) > KEYS
    assert (record["torch_ms"], record["torch_mode"], record["ratio"]) == (3.0, "channels_last", 1.5)
    assert (record["gflops"], record["peak_share"]) == (2.0, 0.5)
    assert (record["ours_best_ms"], record["torch_best_ms"], record["ratio_best"]) == (1.0, 2.5, 2.5)
    assert set(record["torch_modes"]) == set(theirs)


def test_row_without_torch_and_without_counted_operations():
    record = Measurement("a", "forward", 2, Bench(1, 1, 4.0), operations=0, ours=Times(2.0, 1.0)).record()
    for key in ("torch_ms", "torch_mode", "ratio", "gflops", "peak_share", "torch_best_ms", "ratio_best"):
        assert record[key] is None
    json.dumps(record, allow_nan=False)


def test_row_of_bytes_has_the_share_of_copying():
    bench = Bench(1, 1, 4.0, copy=lambda moved: moved / 1e6)
    record = Measurement("a", "forward", 2, bench, 0, Times(2.0, 1.0), moved=8_000_000).record()
    assert (record["gbytes"], record["copy_share"]) == (4.0, 0.5)
    assert record["gflops"] is None


def test_only_operators_without_counted_operations_move_bytes():
    rows = {}
    for name in ("relu case 1", "conv2d case 0"):
        (work,) = [w for w in operators.sample_cases() if w.name == name]
        rows[name] = operators.row(work, ALONE)
    shape = operators.OPS["relu"].cases[1].shapes[0]
    assert rows["relu case 1"].moved == 2 * 4 * math.prod(shape)
    assert rows["conv2d case 0"].moved == 0 < rows["conv2d case 0"].operations


def test_ratios_are_summed_up_by_pass():
    def record(way, ratio):
        return {"name": "a", "pass": way, "ratio": ratio}

    found = output.summary([record("dx", 4.0), record("dw", 1.0), record("dx", None)])
    assert found["all"]["geometric_mean"] == pytest.approx(2.0)
    assert found["dx"] == {"rows": 1, "geometric_mean": pytest.approx(4.0), "smallest": 4.0, "smallest_name": "a dx"}
    assert found["all"]["smallest_name"] == "a dw"
    assert output.summary([record("dx", None)]) is None


@pytest.mark.parametrize("work", operators.ConvolutionShape(2, 3, 5, 9, 3, stride=2, padding=1).works())
def test_convolutions_count_as_direct_ones(work):
    N, C, K, P, R = 2, 3, 5, 5, 3
    program = operators.build(work, work.arrays(), threads=1)
    assert operations(program.graph) == 2 * N * K * P * P * C * R * R


def test_groups_and_products_count():
    grouped = operators.OperatorWork("g", "forward", "conv2d", Case(((2, 6, 5, 5), (4, 3, 3, 3)), {"groups": 2}))
    product = operators.OperatorWork("m", "forward", "matmul", Case(((6, 1), (70, 6)), {"ta": True, "tb": True}))
    for work, expected in ((grouped, 2 * 2 * 4 * 3 * 3 * 3 * 9), (product, 2 * 1 * 6 * 70)):
        assert operations(operators.build(work, work.arrays(), threads=1).graph) == expected


def test_a_step_counts_no_gradient_of_its_input():
    net = Sequential(Conv2d(2, 4, 3), Flatten(), Linear(4 * 4 * 4, 3))
    step = compile_step(net, CrossEntropyLoss(), build("momentum", net.parameters(), lr=0.1), threads=1)
    x, labels = np.zeros((5, 2, 6, 6), np.float32), np.zeros(5, np.int32)
    conv, linear = 2 * 5 * 4 * 4 * 4 * 2 * 9, 2 * 5 * 64 * 3
    assert operations(step.program(x, labels).graph) == 2 * conv + 3 * linear


@pytest.mark.parametrize("work", operators.standard()[SMALLER:], ids=lambda work: work.label)
def test_programs_of_the_rows_compute_what_the_operators_say(work):
    arrays = work.arrays()
    program = operators.build(work, arrays, threads=2)
    program.launch()
    wanted = operators.OPS[work.op](*arrays[work.direction == operators.BOTH :], **work.case.attributes)
    np.testing.assert_allclose(program.results[0], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_every_case_can_be_a_row():
    works = operators.sample_cases()
    assert {work.op for work in works} == set(operators.OPS)
    assert len({work.label for work in works}) == len(works)


def test_the_guard_refuses_different_results():
    check_same("row", [1.0, 2.0], [1.0, 2.00001], 1e-4)
    for other in ([1.0, 2.1], [1.0, math.nan], [1.0, 2.0, 3.0]):
        with pytest.raises(FovealError, match="row: "):
            check_same("row", [1.0, 2.0], other, 1e-4)


def test_command_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    result = invoke("ops", SMALL, "--threads", 1, "--repeats", 2, "--save", path)
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


def test_missing_torch_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = invoke("ops", SMALL, "--threads", 1, "--repeats", 1, "--against", "torch")
    assert result.exit_code == 0, result.output
    assert "PyTorch is not installed" in result.stdout
    assert 'pip install -e ".[compare]"' in result.stdout
    assert "ours_ms" in result.stdout
    assert "ratio" not in result.stdout


def test_more_threads_than_processors_are_reported(monkeypatch):
    monkeypatch.setattr("foveal.system.processors", lambda: 1)
    result = invoke("ops", SMALL, "--threads", 2, "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert "2 threads share 1 processors" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("models", "nix"), "there is no model 'nix'; choose from lenet, resnet20"),
        (("infer", "nix"), "there is no model 'nix'"),
        (("models", "--modes", "nix,compile"), "'nix' is none of contiguous, channels_last, compile"),
        (("memory", "--against", "torch", "--modes", "compile"), "'compile' is none of contiguous, channels_last"),
        (("ops", "--modes", "contiguous"), "--modes are PyTorch's, which is not compared with; add --against torch"),
        (("infer", "--against", "openvino", "--modes", "compile"), "add --against torch"),
        (("ops", "--batch", 3), "give some with --shapes"),
        (("ops", "--shapes", "{}/nix"), "does not exist"),
        (
            ("ops", "nix"),
            "no row's name or pass has 'nix' in it; the passes are forward, dx, dw, both, names begin with",
        ),
        (("ops", "conv9d"), "has 'conv9d' in it (did you mean 'conv2d'?); the passes"),
        (("ops", "--list", "sofmax"), "no operator's name has 'sofmax' in it (did you mean 'softmax'"),
        (("ops", "--list", "relu", "nix"), "no operator's name has 'nix' in it"),
        (("models", "resnet21"), "there is no model 'resnet21' (did you mean 'resnet20'?); choose from lenet"),
        (("ops", "sqrt"), "--cases adds"),
        (("ops", "--save", "{}/no/rows.json"), "cannot be written"),
        (("ops", "--save", "/dev/null"), "/dev/null is no file"),
        (("ops", "--threads", 0), "0 is not in the range"),
        (("models", "--against", "nix"), "'nix' is not 'torch'"),
    ],
)
def test_errors_are_one_message_and_status_2(words, message, tmp_path):
    result = invoke(*(str(word).format(tmp_path) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.long
@needs_torch
def test_operators_against_torch():
    from foveal.bench import against_torch, torch_operators

    bench = Bench(threads=1, repeats=1, peak=1.0, against=against_torch)
    works = operators.standard() + operators.sample_cases()
    names = ("conv2d case", "_grad case", "batch_norm case", "matmul case", "lu case", "clip case")
    for work in operators.select((*names, "imum case", "erf case", "tanh case"), works, cases=True):
        record = operators.row(work, bench).record()  # raises unless the results agree
        how = work.case.attributes
        lacking = torch_operators.symmetric(how.get("padding", 0)) is None or "counted" in how
        lacking |= work.op.startswith("avg") and how.get("dilation", 1) != 1
        if work.counterpart in torch_operators.OPERATORS and not lacking:
            assert record["ratio"] > 0
            assert record["torch_mode"] in torch_operators.FORMATS


def small(name):
    """A work that is quick in a test."""
    work = models.WORKS[name]
    size = {"resnet18-224": 48, "mobilenetv2": 64}.get(name, work.size)
    return replace(work, batch=4, size=size)


@needs_torch
@pytest.mark.parametrize("name", ["lenet", "resnet20"])  # test_models.py has the others' steps
def test_models_against_torch(name):
    from foveal.bench import against_torch

    bench = Bench(threads=1, repeats=1, peak=1.0, against=against_torch, modes=EAGER)
    record = models.row(name, small(name), bench).record()  # raises unless they agree
    assert record["ratio"] > 0
    assert set(record["torch_modes"]) == set(EAGER)


def test_models_that_are_measured_only_if_they_are_named():
    assert list(models.select([])) == list(models.WORKS)
    assert list(models.select(["densenet121", "lenet"])) == ["lenet", "densenet121"]
    drops = (Dropout, StochasticDepth)
    net = models.select(["efficientnet_b0"])["efficientnet_b0"].build()
    assert all(module.p == 0 for _, module in net.named_modules() if isinstance(module, drops))


@needs_torch
def test_models_that_are_measured_if_named_have_a_counterpart():
    from foveal.bench import torch_models

    assert {work.model for work in models.NAMED_ONLY.values()} <= set(torch_models.MODELS)


@needs_torch
def test_a_model_that_torch_cannot_compile_is_compared_without(monkeypatch, capsys):
    from foveal.bench import against_torch

    def fails(net):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(against_torch.torch, "compile", fails)
    bench = Bench(threads=1, repeats=1, peak=1.0, against=against_torch)
    for rows in (models.row, inference.row):
        record = rows("lenet", small("lenet"), bench).record()
        assert set(record["torch_modes"]) == set(EAGER)
        message = "lenet5: compared without torch.compile, which failed: no compiler\n"
        assert capsys.readouterr().err == message


@needs_torch
def test_a_compiled_step_starts_from_the_same_parameters(monkeypatch):
    """Its first step, which compiles, is undone."""
    from foveal.bench import against_torch

    monkeypatch.setattr(against_torch.torch, "compile", lambda net: net)
    bench = Bench(1, 1, 1.0, against_torch, modes=("compile",))
    assert set(models.row("resnet20", small("resnet20"), bench).theirs) == {"compile"}


@needs_torch
def test_a_compilation_that_takes_too_long_is_ended():
    from foveal.bench import against_torch

    def endless():
        with against_torch.time_limit(0.01):
            while True:
                pass

    with pytest.raises(TimeoutError, match="more than 0 s"):
        endless()


# without the one whose blocks are those of ResNet-18, and whose first layer is that of ResNet-20
@pytest.mark.parametrize("name", [name for name in models.WORKS if name != "resnet18-cifar"])
def test_inference_agrees(name):
    """With each framework that is installed."""
    installed = [name for name in ("torch", "onnxruntime", "openvino") if importlib.util.find_spec(name) is not None]
    if not installed:
        pytest.skip("neither PyTorch, nor ONNX Runtime, nor OpenVINO is installed")
    others = Several([importlib.import_module(f"foveal.bench.against_{name}") for name in installed])
    record = inference.row(name, small(name), Bench(1, 1, 1.0, others, EAGER)).record()  # raises unless they agree
    assert {mode.partition(":")[0] for mode in record["others_modes"]} == set(installed)
    assert record["others_ms"] / record["ours_ms"] == pytest.approx(record["ratio"])
    assert record["pass"] == "inference"


@pytest.mark.parametrize("against", [pytest.param(name, marks=needs(name)) for name in ("onnxruntime", "openvino")])
def test_onnxruntime_and_openvino_are_for_inference_alone(against):
    other = importlib.import_module(f"foveal.bench.against_{against}")
    with pytest.raises(FovealError, match="inference alone"):
        models.row("lenet", small("lenet"), Bench(1, 1, 1.0, other))
    with pytest.raises(FovealError, match="inference alone"):
        other.operator_calls("conv2d", [], {}, EAGER)


@needs("onnxruntime")
@needs("openvino")
def test_the_fastest_of_several_frameworks_counts():
    arguments = ("--against", "onnxruntime", "--against", "openvino", "--batch", 3, "--threads", 1, "--repeats", 1)
    result = invoke("infer", "lenet", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (row,) = found["rows"]
    assert row["batch"] == 3
    assert set(row["others_modes"]) == {"onnxruntime: all optimisations", "openvino: latency"}
    assert row["others_ms"] == min(times["ms"] for times in row["others_modes"].values())
    assert re.fullmatch(r"onnxruntime [\d.]+, openvino [\d.]+", found["machine"]["versions"]["others"])


def test_a_framework_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("foveal.cli.bench.installed", lambda name: False)
    result = invoke("infer", "lenet", "--against", "openvino", "--threads", 1, "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert "OpenVINO is not installed here, so Foveal is measured alone; to compare with it: pip" in result.output


def test_threads_are_timed_and_compared():
    (record,) = scaling.records({"lenet": small("lenet")}, None, Bench(2, 1, 1.0), lambda what: None)
    assert record["speedup"] == record["one_ms"] / record["many_ms"]
    assert set(output.THREAD_COLUMNS) <= set(record)


@pytest.mark.long
@needs_torch
def test_memory_is_measured_in_processes_of_their_own():
    from foveal.bench import against_torch

    bench = Bench(1, 1, 1.0, against_torch, modes=("contiguous",))
    work = models.ModelWork("lenet5", batch=512, channels=1, size=28)
    (record,) = memory.records({"lenet": work}, bench, lambda what: None)
    assert set(output.MEMORY_COLUMNS) <= set(record)
    activations = 512 * 6 * 28 * 28 * 4 / 2**20
    assert record["ours_mib"] > record["arena_mib"] > activations / 4
    # of the compiler, whose work is in the cache, nothing is left in memory
    assert record["ours_mib"] - record["arena_mib"] < 20
    assert record["torch_mib"] > activations
    assert record["ratio"] == record["ours_mib"] / record["torch_mib"]


def test_a_process_that_fails_is_reported():
    with pytest.raises(FovealError, match=r"process for foveal ended with status 1: .*nix"):
        memory.child("foveal", models.ModelWork("nix", 1, 1, 28), threads=1)


def test_operators_are_listed_with_how_they_are_compiled(tmp_path):
    result = invoke("ops", "--list", "conv2d", "softmax", "reshape", "--save", tmp_path / "list.json")
    assert result.exit_code == 0, result.output
    found = {row["operator"]: row for row in json.loads((tmp_path / "list.json").read_text())["operators"]}
    assert found["conv2d"]["way"] == "native kernel"
    assert "correlate" in found["conv2d"]["kernels"]
    assert found["reshape"]["way"] == "view"
    assert found["softmax_cross_entropy"]["way"].startswith("composite of max, subtract, exp")
    assert "relu" not in found
    result = invoke("ops", "--list", "nix")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no operator's name has 'nix' in it" in result.stderr
