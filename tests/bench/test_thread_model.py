"""What is counted in a step and what a model makes of it on more threads, on programs small enough to count by hand."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from foveal import cli, ops
from foveal.balance import Section
from foveal.bench import models, output, thread_model
from foveal.bench.thread_model import Measured, Rates
from foveal.build import build
from foveal.kernel.target import assume, current
from foveal.ops.op import Type
from foveal.trace import trace

RATES = Rates(threads=2, one=20.0, several=30.0, barrier=1e-6, most=100.0)


def test_rates_of_more_threads():
    assert [RATES.copying(threads) for threads in (1, 2, 4, 8, 64)] == [20.0, 30.0, 80.0, 100.0, 100.0]
    assert [RATES.meeting(threads) for threads in (1, 2, 8)] == pytest.approx([0.0, 1e-6, 4e-6])


def test_a_step_is_what_it_consists_of():
    # 4 pieces of 1 s, one of 2 s, 64 of 1/16 s that need 8 GB from memory
    sections = [Section(i, i + 1, ((n,),)) for i, n in enumerate((4, 1, 64))]
    one = Measured("net", 1, None, sections, [4.0, 2.0, 4.0], [0, 0, 8 * 10**9], rest=0.5)
    assert one.parts(1, RATES) == pytest.approx((10.0, 0.0, 0.0))
    assert one.parts(2, RATES) == pytest.approx((2.0 + 2.0 + 2.0, 0.0, 3e-6))
    assert one.parts(64, RATES) == pytest.approx((1.0 + 2.0 + 1 / 16, 8 / 100 - 1 / 16, 96e-6))
    assert one.predicted(2, RATES) == pytest.approx(6.5 + 3e-6)
    (row,) = thread_model.predictions([one], RATES, [64])
    assert row["speedup"] == pytest.approx(10.5 / one.predicted(64, RATES))
    parts = sum(row[name] for name in ("uneven", "barriers", "memory", "python"))
    assert parts + 10 / 64 * 1e3 / row["step_ms"] == pytest.approx(1)
    assert set(output.PREDICTED_THREAD_COLUMNS) == set(row)


SIZE = 1 << 16


def exp_of_sum():
    """Values of 256 KiB: y = exp(a), then y + the sum of all y."""
    return build(trace(lambda a: (y := ops.exp(a)) + ops.sum(y), Type((SIZE,))), threads=1)


def test_bytes_from_memory_are_those_that_a_cache_has_lost():
    calls = exp_of_sum().schedule.repeated
    sizes = [{view.buffer: thread_model.size_of(view) for view in call.views} for call in calls]
    touched = [sum(one.values()) for one in sizes]
    assert max(touched) >= 2 * 4 * SIZE
    for cache, want in ((1 << 30, [0] * len(calls)), (1, touched)):
        with assume(dataclasses.replace(current(), llc=cache)):
            assert thread_model.bytes_from_memory(calls) == want


def test_what_is_counted():
    one = thread_model.measure("net", 1, exp_of_sum(), 1.0)
    row = thread_model.counted(one, (8, 64))
    assert set(output.counted_columns((8, 64))) == set(row)
    assert row["calls"] == len(one.seconds) == sum(len(section.loops) for section in one.sections)
    assert row["barriers"] == len(one.sections)
    assert 0 <= row["one_piece"] <= row["under_8"] <= row["under_64"] <= 1
    # eight counters of 8 bytes are a line
    assert 1024 * row["disputed_kib"] >= 64 * 8 * row["calls"]


def test_pages_lie_where_they_were_written_first():
    # the argument is written by the caller, on the first node; so half of what is read, and nothing of what is written
    assert thread_model.far_share(build(trace(ops.exp, Type((SIZE,))), threads=1)) == pytest.approx(0.25)

    def chain(y):
        for _ in range(8):
            y = ops.max_pool2d(y, kernel_size=3, stride=1, padding=1)
        return y

    # values of one size in the arena, divided alike: the argument alone is far, one of 16 that are read or written
    program = build(trace(chain, Type((4, 16, 32, 32))), threads=1)
    assert thread_model.far_share(program) == pytest.approx(1 / 32, rel=0.01)


@pytest.mark.parametrize("words", ["0", "a", "8,,16", "-1", "2000"])
def test_numbers_of_threads_that_are_none(words):
    result = CliRunner().invoke(cli.main, ["bench", "threads", "--predict", words])
    assert (result.exit_code, "is no number of threads from 1 to 1024" in result.stderr) == (2, True)


def test_the_command_predicts(monkeypatch):
    monkeypatch.setattr("foveal.bench.timing.PAUSE", 0.0)
    for name, value in (("peak.RUNS", 2), ("peak.COPY_RUNS", 1), ("peak.COPY_BYTES", 1 << 20)):
        monkeypatch.setattr(f"foveal.{name}", value)
    monkeypatch.setattr("foveal.bench.output.LARGE", 1 << 20)
    monkeypatch.setattr("foveal.bench.models.WORKS", {"lenet": dataclasses.replace(models.WORKS["lenet"], batch=2)})
    words = ["bench", "threads", "--predict", "8,64", "--threads", "2", "--repeats", "1"]
    result = CliRunner().invoke(cli.main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (row,) = found["rows"]
    assert row["error"] == pytest.approx(row["model_ms"] / row["many_ms"] - 1)
    assert [one["threads"] for one in found["predicted"]] == [8, 64]
    assert found["counted"][0]["barriers"] > 10
    assert "as much for each thread as for one, up to 160." in found["assumptions"][0]
    assert np.isfinite([one["step_ms"] for one in found["predicted"]]).all()
