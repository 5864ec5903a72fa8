"""How contenders are timed."""

import pytest

from foveal.bench.timing import FIRST_CALLS, alternate
from foveal.pace import Pace


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pauses and few calls."""
    monkeypatch.setattr("foveal.bench.timing.PAUSE", 0.0)
    monkeypatch.setattr("foveal.bench.timing.ROUND", 0.0005)


def test_contenders_alternate_and_times_are_summarised(monkeypatch):
    monkeypatch.setattr("foveal.bench.timing.FIRST_SECONDS", 0.0)
    order = []
    times = alternate({name: lambda name=name: order.append(name) for name in "ab"}, repeats=3)
    assert set(times) == {"a", "b"}
    starts = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert starts[-6:] == list("ababab")
    assert all(0 <= t.best <= t.median for t in times.values())


def test_a_program_has_chosen_its_threads_before_it_is_timed(monkeypatch):
    monkeypatch.setattr("foveal.bench.timing.FIRST_SECONDS", 10.0)
    pace, order = Pace(2), []

    def call():
        threads = pace.choose()
        pace.note(threads, 1e-3 * threads)
        order.append(threads)

    alternate({"ours": call}, repeats=1)
    assert pace.measured
    timed = order[FIRST_CALLS + 1 :]
    # all but those that look at the other way
    assert timed.count(1) > 0.9 * len(timed) > 40
