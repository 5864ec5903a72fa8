"""What the operating system lets a process use."""

import math
import os

import pytest

from foveal import system


def test_processors_are_those_the_process_may_run_on(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert system.processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert system.processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.processors() == 1


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError])
def test_free_memory_is_unlimited_where_the_system_does_not_say(monkeypatch, error):
    def fail(name):
        raise error

    assert 0 < system.free_memory() < math.inf
    monkeypatch.setattr(os, "sysconf", fail)
    assert system.free_memory() == math.inf
