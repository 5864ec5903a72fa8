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


WHOLE = {"choice": {"m": 4, "tiles": 0, "shared": None}, "ms": {}}
DAMAGED = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"5",
    "nothing": b"null",
    "a text": b'"text"',
    "cut": b'{"whole": {"choice": {"m": 4',
    "no text": bytes(range(256)),
    "nested": b"[" * 100_000,
    "nested tables": b'{"a":' * 100_000,
    "an endless number": b"9" * 5000,
}
ENTRIES = [
    *(None, 5, [], "text", {}, {"choice": None}, {"choice": []}, {"choice": {}}, {"choice": {"m": 4, "more": 1}}),
    *({"choice": {**WHOLE["choice"], "m": m}} for m in (5, -4, 4.0, True, "4", None, [], 10**30, float("nan"))),
    *({"choice": {**WHOLE["choice"], "tiles": tiles}} for tiles in (5, -12, 12.0, "12", None, [], 10**30)),
    *({"choice": {**WHOLE["choice"], "shared": shared}} for shared in ("yes", 2, [], {})),
]


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_reported_and_replaced(content, capsys):
    autotune.path().write_bytes(content)
    assert autotune.load() == {}
    said = capsys.readouterr().err
    assert f"the measured choices in {autotune.path()} are damaged" in said
    assert "measured again" in said
    algorithm = Algorithm(4, 24, "tiles")
    autotune.store("a problem", algorithm, {algorithm: 1.0})
    assert autotune.load() == {"a problem": algorithm}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_damaged_entries_are_left_out_and_the_others_kept(entry, capsys):
    autotune.path().write_text(json.dumps({"whole": WHOLE, "damaged": entry}))
    assert autotune.load() == {"whole": Algorithm(4)}
    assert "1 of 2 entries mean nothing" in capsys.readouterr().err
    assert json.loads(autotune.path().read_text()) == {"whole": WHOLE}


def test_a_choice_that_cannot_compute_the_problem_is_not_taken(monkeypatch, capsys):
    """Minimal filtering of a 5 x 5 kernel, which there is none of."""
    monkeypatch.setenv("FOVEAL_TUNE", "1")
    x, w = np.ones((2, 16, 9, 8), "f4"), np.ones((16, 16, 5, 5), "f4")
    function = foveal.compile(ops.conv2d)
    (node,) = (node for node in function.program(x, w).graph.nodes if node.op is ops.conv2d)
    key = node.op.problem(*(i.shape for i in node.inputs), **node.attributes).key
    autotune.path().write_text(json.dumps({key: WHOLE}))
    np.testing.assert_allclose(foveal.compile(ops.conv2d)(x, w), ops.conv2d(x, w))
    assert "which cannot compute it" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_file_that_others_may_write_to_decides_nothing(mode):
    autotune.store("a problem", Algorithm(4), {Algorithm(4): 1.0})
    autotune.path().chmod(mode)
    assert autotune.load() == {}


def test_the_file_decides_in_later_processes(monkeypatch):
    monkeypatch.setenv("FOVEAL_TUNE", "1")
    # what takes less time must not depend on the machine's load
    monkeypatch.setattr(autotune, "seconds", lambda node, problem, how, build: 2.0 if how == Algorithm(DIRECT) else 1.0)
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
