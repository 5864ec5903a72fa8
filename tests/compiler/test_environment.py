"""Variables of the environment: a value that means nothing is named, with those that mean something."""

import warnings

import pytest

from foveal import autotune, debug
from foveal.distributed import launch
from foveal.errors import FovealError, FovealWarning
from foveal.kernel import pool

SWITCHES = {"FOVEAL_TUNE": autotune.requested, "FOVEAL_ALONE": launch.launched}


@pytest.mark.parametrize("text", ["loud", "-1", "1.5", "true", "9" * 5000])
def test_a_debug_that_is_no_level_is_said_once(monkeypatch, text):
    """No error, as other programs have a variable of this name too."""
    monkeypatch.setenv("DEBUG", text)
    debug.unknown.cache_clear()
    with pytest.warns(FovealWarning, match=f"DEBUG is '{text[:40]}', which is no level, .* give 1 to 6, or 0"):
        assert debug.level() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert debug.level() == 0


@pytest.mark.parametrize(("text", "level"), [("", 0), ("0", 0), ("3", 3), ("6", 6), ("9", 9)])
def test_levels_are_taken(monkeypatch, text, level):
    monkeypatch.setenv("DEBUG", text)
    assert debug.level() == level


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_0_or_1(monkeypatch, name):
    for launched in (*launch.SIZES, *launch.OTHERS):
        monkeypatch.delenv(launched, raising=False)
    for text in ("", "0", "1"):
        monkeypatch.setenv(name, text)
        assert SWITCHES[name]() is (text == "1" and name == "FOVEAL_TUNE")
    for text in ("yes", "2", " 1"):
        monkeypatch.setenv(name, text)
        with pytest.raises(FovealError, match=f"{name} is '{text}': give 1 to switch it on, 0 or nothing"):
            SWITCHES[name]()


def test_a_number_of_compiling_processes_is_a_number(monkeypatch):
    monkeypatch.setenv("FOVEAL_JOBS", "many")
    with pytest.raises(FovealError, match="FOVEAL_JOBS is 'many': give a number"):
        pool.jobs()
