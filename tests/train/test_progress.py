"""What a person sees of a training in a notebook, and what is said of its compilation."""

import importlib.util
import io

import numpy as np
import pytest
from rich.console import Console

from foveal import data, train
from foveal.kernel.compile import statistics
from foveal.train import progress, settings, tally

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((16, 1, 8, 8)).astype("float32"), np.arange(16) % 2
SET = data.from_arrays("set", IMAGES, LABELS, IMAGES, LABELS)


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_a_bar_if_it_has_the_widgets_for_it(widgets, monkeypatch):
    notebook = Console(file=io.StringIO(), force_jupyter=True)
    monkeypatch.setattr(progress, "find_spec", lambda name: widgets or None)
    assert progress.is_live(notebook) == widgets
    assert not progress.is_live(Console(file=io.StringIO(), force_jupyter=False, force_terminal=False))
    assert progress.is_live(Console(file=io.StringIO(), force_jupyter=False, force_terminal=True))


def test_what_was_compiled_is_said_once(capsys, monkeypatch):
    options = {"epochs": 1, "batch_size": 8, "threads": 1}
    train.train(SET, **options)
    first = capsys.readouterr().out
    before = statistics.compiled
    train.train(SET, **options)
    assert statistics.compiled == before
    assert "compiled in" not in capsys.readouterr().out
    # As if the first step had compiled five kernels.
    monkeypatch.setattr(progress.ProgressDisplay, "begin", compiling(progress.ProgressDisplay.begin))
    train.train(SET, **options)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "compiled in" in line)
    assert line.startswith("5 kernels compiled in ")
    assert line.endswith(progress.kept())
    assert "epoch 1/1" in first


def test_an_average_that_is_tested_and_kept_is_said(capsys):
    for options, said in (({}, "), 1"), ({"ema": 0.9}, "), EMA 0.9, 1"), ({"lookahead": 0.5}, "), lookahead 0.5, 1")):
        chosen = settings.choose(SET, settings.Options(threads=1, **options))
        progress.ProgressDisplay(quiet=False).begin("set", chosen, "small", 2, lambda: None, None)
        assert f"(one-cycle{said} thread, seed 0" in capsys.readouterr().out.replace("\n", " ")


def compiling(begin):
    def begun(*given):
        begin(*given)
        statistics.compiled += 5

    return begun


def test_waiting_for_images_is_counted_and_said_above_3_percent(capsys):
    clock = tally.Clock(seconds=9.0, steps=5)
    assert list(clock.timed(iter("abc"))) == ["a", "b", "c"]
    assert 0 < clock.waited < 1
    clock.waited = 1.0
    assert clock.waiting() == 0.1
    results = {"train": {"loss": 1.0}, "train_images": 3, "images_per_second": 3.0}
    for share, seconds, said in ((0.02, 200.0, False), (0.1, 30.0, True), (0.1, 10.0, False)):
        progress.ProgressDisplay(quiet=False).end({**results, "seconds": seconds}, None, share)
        assert ("waited for its images 10% of the time" in capsys.readouterr().out) == said


def test_a_summary_is_a_text_in_a_notebook_too(monkeypatch):
    from foveal import nn

    net = nn.Sequential(nn.Linear(3, 2))
    expected = str(net.summary((3,)))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(net.summary((3,))) == repr(net.summary((3,))) == expected
    assert "Linear" in expected


@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="IPython is not installed")
def test_a_notebook_shows_figures_and_tables():
    from IPython.core.formatters import DisplayFormatter

    formats, _ = DisplayFormatter().format(SET)
    assert "text/html" in formats
