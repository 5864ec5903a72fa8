"""`foveal bench compile`: what its processes measure, and what becomes of that in its rows."""

import pytest

from foveal.bench import compiling, output
from foveal.bench.timing import Bench
from foveal.errors import FovealError, ShapeError


def test_a_warm_process_finds_what_the_cold_one_has_compiled(tmp_path):
    cold, warm = (
        compiling.child("inference", "lenet5", 1, texts, str(tmp_path))["inference"] for texts in (False, True)
    )
    assert cold["compiled"] == cold["kernels"] == warm["kernels"] > 5
    assert warm["compiled"] == warm["code_mib"] == 0.0
    assert cold["ir_mib"] is None
    assert 0 < cold["code_mib"] < warm["ir_mib"] < 4


def test_a_process_that_fails_is_reported(tmp_path):
    with pytest.raises(FovealError, match="the process for nix ended with status 1: KeyError: 'nix'"):
        compiling.child("step", "nix", 1, False, str(tmp_path))


def test_rows_are_passes_of_the_models_that_take_their_images(monkeypatch):
    calls = []

    def child(kind, name, threads, texts, folder):
        calls.append((kind, threads, texts))
        one = dict.fromkeys(("s", "cpu_s", "model_s", "kernels", "compiled", "code_mib", "ir_mib"), 1)
        return {label: None if label == compiling.SIZE else one for label in compiling.passes(kind, name)}

    monkeypatch.setattr(compiling, "child", child)
    rows = list(compiling.records(compiling.select(["LeNet-5"]), True, Bench(2, 1, 1.0), lambda what: None))
    assert [(row["pass"], row["batch"], row["size"]) for row in rows] == [
        ("step", 128, 28),
        ("new batch size", 80, 28),
        ("inference", 1, 28),
    ]
    assert all(set(row) == set(output.COMPILE_COLUMNS) for row in rows)
    assert calls == [(kind, 2, texts) for kind in ("step", "inference") for texts in (False, True)]


def test_of_several_rounds_the_shortest_times_count(monkeypatch):
    seconds = iter([4.0, 1.0, 3.0, 2.0, 8.0, 5.0, 6.0, 7.0])

    def child(kind, name, threads, texts, folder):
        one = {"s": next(seconds), "cpu_s": 1, "model_s": 1, "kernels": 9, "compiled": 9, "code_mib": 1, "ir_mib": None}
        return dict.fromkeys(compiling.passes(kind, name), one)

    monkeypatch.setattr(compiling, "child", child)
    rows = list(compiling.records(["lenet5"], False, Bench(2, 2, 1.0), lambda what: None))
    assert [(row["cold_s"], row["warm_s"], row["kernels"]) for row in rows] == [(3, 1, 9)] * 3 + [(6, 5, 9)]


def test_models_are_chosen_by_name():
    assert compiling.select(()) == compiling.models.NAMES
    assert compiling.select(["resnet20", "ResNet-20"]) == ("resnet20",)
    assert compiling.shape("resnet50") == (16, 3, 96)
    with pytest.raises(ShapeError, match="no model called 'nix'"):
        compiling.select(["nix"])
