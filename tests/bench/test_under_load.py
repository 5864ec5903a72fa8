"""The benchmark beside busy processes: they run while it measures, and are gone afterwards, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from foveal.bench import under_load
from foveal.bench.timing import Bench
from foveal.cli import main


def exists(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_busy_processes_run_inside_of_the_block_alone(error):
    numbers = []
    with nullcontext() if error is None else pytest.raises(error), under_load.busy(2) as running:
        numbers += running
        assert all(map(exists, numbers))
        if error:
            raise error
    assert len(set(numbers)) == 2
    assert not any(map(exists, numbers))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes know their parent")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_busy_processes_end_with_the_benchmark(number):
    script = """
import time
from foveal.bench import under_load
with under_load.busy(2) as numbers:
    print(*numbers, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    numbers = [int(word) for word in process.stdout.readline().split()]
    assert len(numbers) == 2
    process.send_signal(number)
    process.communicate(timeout=60)
    end = time.monotonic() + 30
    while any(map(exists, numbers)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(exists, numbers))


def test_contenders_take_turns_and_all_their_calls_count(monkeypatch):
    monkeypatch.setattr(under_load, "SLICE", 0.002)
    order = []
    measured = under_load.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3, callers=4)
    # one call before each turn is not timed
    assert sum(len(calls.seconds) for calls in measured.values()) == len(order) - 6
    assert [name for name, after in zip(order, [*order[1:], ""], strict=True) if name != after] == list("ababab")
    assert all(calls.wall >= 3 * 0.002 for calls in measured.values())


def test_a_row_compares_with_the_faster_of_the_others():
    calls = {name: under_load.Calls([1e-3 * n for n in times], 1.0) for name, times in
             {"ours": [2, 4, 30], "slow": [9, 9, 9], "fast": [6, 6, 6, 6]}.items()}  # fmt: skip
    row = under_load.record("net", 2, 1, Bench(1, 1, 1.0), calls)
    assert (row["load"], row["callers"], row["calls"]) == (2, 1, 3)
    assert (row["ours_ms"], row["torch_ms"], row["ratio_ms"]) == pytest.approx((4, 6, 1.5))
    assert row["ours_p99_ms"] == pytest.approx(29.48)
    assert (row["ours_rate"], row["torch_rate"], row["ratio_rate"]) == pytest.approx((3, 4, 0.75))


@pytest.mark.parametrize(("command", "callers"), [("infer", ["--callers", "2"]), ("models", [])])
def test_the_commands_measure_beside_each_number_of_processes(command, callers, monkeypatch):
    monkeypatch.setattr(under_load, "SLICE", 0.002)
    monkeypatch.setattr("foveal.peak.RUNS", 2)
    monkeypatch.setattr("foveal.peak.COPY_RUNS", 1)
    monkeypatch.setattr("foveal.bench.output.LARGE", 1 << 20)
    typed = ["bench", command, "lenet", "--load", "0,1", *callers, "--repeats", "1", "--threads", "1"]
    for words in ([], ["--json"]):
        result = CliRunner().invoke(main, [*typed, *words])
        assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["name"], row["load"], row["callers"]) for row in rows] == [
        ("lenet", load, 2 if callers else 1) for load in (0, 1)
    ]
    assert all(0 < row["ours_best_ms"] <= row["ours_ms"] <= row["ours_p99_ms"] for row in rows)


@pytest.mark.parametrize("text", ["x", "-1", "1,,2", "2000", ""])
def test_what_is_no_number_of_processes_is_refused(text):
    result = CliRunner().invoke(main, ["bench", "infer", "lenet", "--load", text])
    assert result.exit_code == 2
    assert "is no number of processes from 0 to 1024" in result.stderr


LISTS = [
    (("infer", "--load", "0,1,0"), "0 is given 2 times"),
    (("threads", "--predict", "8,08"), "8 is given 2 times"),
    (("ops", "--against", "torch", "--modes", "contiguous,contiguous"), "contiguous is given 2 times"),
]


@pytest.mark.parametrize(("typed", "words"), LISTS)
def test_what_a_list_names_twice_is_refused(typed, words):
    result = CliRunner().invoke(main, ["bench", *typed])
    assert result.exit_code == 2
    assert words in result.stderr
