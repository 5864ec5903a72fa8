"""FOVEAL_TUNE: every way is measured, the fastest is kept, and the file decides from then on."""

import json

import numpy as np
import pytest

import foveal
from foveal import autotune, ops
from foveal.ops.kernels.conv import select
from foveal.ops.kernels.conv.cost_model import DIRECT, Algorithm
from foveal.variable import Variable


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    monkeypatch.setattr(select, "measured", {})


def convolution(seed=0):
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s).astype("f4") for s in ((2, 16, 9, 8), (16, 16, 3, 3)))
    filters = Variable(w)
    program = foveal.compile(lambda x: ops.conv2d(x, filters, padding=1)).program(x)
    np.testing.assert_allclose(program.run(x)[0], ops.conv2d(x, w, padding=1), atol=1e-3)
    return [call.kernel.name for call in program.calls]


def test_nothing_is_measured_unless_asked_for():
    convolution()
    assert not autotune.path().exists()
    assert not select.measured


def test_every_candidate_is_timed_and_the_fastest_kept(monkeypatch):
    monkeypatch.setenv("FOVEAL_TUNE", "1")
    convolution()
    ((key, entry),) = json.loads(autotune.path().read_text()).items()
    assert key.startswith("forward N2 C16 K16 P9 Q8")
    assert len(entry["ms"]) == len(set(entry["ms"])) >= 8
    assert select.measured[key] == autotune.algorithm_of(**entry["choice"])


@pytest.mark.parametrize(("share", "kept"), [(0.5, "another"), (0.99, "default"), (2.0, "default")])
def test_another_algorithm_has_to_be_clearly_faster(monkeypatch, share, kept):
    """One candidate takes `share` of the time of all others, the default among them."""
    monkeypatch.setenv("FOVEAL_TUNE", "1")
    others = []

    def seconds(node, problem, how, build):
        others[:] = [c for c in problem.candidates() if c != problem.default()]
        return share if how == others[0] else 1.0

    monkeypatch.setattr(autotune, "seconds", seconds)
    convolution()
    (chosen,) = select.measured.values()
    assert (chosen == others[0]) == (kept == "another")


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_a_file_that_holds_something_else_is_no_error(content):
    autotune.path().write_text(content)
    assert autotune.load() == {}


def test_the_file_decides_in_later_processes(monkeypatch):
    monkeypatch.setenv("FOVEAL_TUNE", "1")
    assert any(name.startswith("winograd") for name in convolution())
    entries = json.loads(autotune.path().read_text())
    for entry in entries.values():
        entry["choice"] = {"m": DIRECT}
    autotune.path().write_text(json.dumps(entries))
    select.measured.clear()
    assert not any(name.startswith("winograd") for name in convolution())


@pytest.mark.parametrize("tile_block", [None, 12])
@pytest.mark.parametrize("parallel_over", [None, "tiles", "filters"])
def test_the_file_gives_back_what_was_stored(tile_block, parallel_over):
    algorithm = Algorithm(4, tile_block, parallel_over)
    autotune.store("a problem", algorithm, {algorithm: 1.0})
    assert autotune.load() == {"a problem": algorithm}


def test_a_choice_stands_in_the_file_under_these_names():
    assert autotune.choice_of(Algorithm(2, 48, "filters")) == {"m": 2, "tiles": 48, "shared": True}
    assert autotune.choice_of(Algorithm(4)) == {"m": 4, "tiles": 0, "shared": None}


def test_a_damaged_file_is_measured_anew(monkeypatch):
    monkeypatch.setenv("FOVEAL_TUNE", "1")
    autotune.path().write_text("{")
    convolution()
    assert json.loads(autotune.path().read_text())
