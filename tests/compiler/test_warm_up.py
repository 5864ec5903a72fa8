"""warm_up compiles and changes nothing; what another program is for is said and counted."""

import os
import subprocess
import sys

import numpy as np
import pytest

import foveal
from foveal import counts, debug, nn, optim
from foveal.errors import ArgumentError, ShapeError
from foveal.kernel.compile import statistics

SHAPE = (4, 1, 6, 6)
X, Y = np.random.default_rng(0).standard_normal(SHAPE).astype("float32"), np.array([0, 1, 2, 0])


def made():
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 3))
    optimizer = optim.Momentum(net.parameters(), lr=0.1)
    return net, optimizer, foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, seed=3)


def state(net, optimizer, step):
    return {**net.state_dict(), **{f"o.{n}": v for n, v in optimizer.state_dict().items()}, **step.state_dict()}


def test_no_bit_changes_and_nothing_is_compiled_afterwards():
    plain, warmed = made(), made()
    before = state(*warmed)
    found = foveal.warm_up(warmed[0], [SHAPE, (2, 1, 6, 6)], step=warmed[2])
    assert [(program.kind, program.shape) for program in found.programs] == [
        ("inference", SHAPE),
        ("inference", (2, 1, 6, 6)),
        ("training step", SHAPE),
        ("training step", (2, 1, 6, 6)),
    ]
    assert found.compiled + found.from_cache > 0
    assert found.step is warmed[2]
    assert warmed[0].training
    after = state(*warmed)
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    # The same steps, and the same calls of random layers, as without it.
    known = statistics.compiled, statistics.from_disk
    for _ in range(2):
        losses = [step(X, Y).loss for _, _, step in (plain, warmed)]
        assert losses[0] == losses[1]
    assert np.array_equal(warmed[0].eval()(X), plain[0].eval()(X))
    assert (statistics.compiled, statistics.from_disk) == known
    assert np.array_equal(plain[0].train()(X), warmed[0].train()(X))


def test_the_update_of_a_step_that_accumulates_is_compiled_too():
    net, optimizer, _ = made()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, accumulate=2)
    found = foveal.warm_up(net, SHAPE, step=step, inference=False)
    assert [program.kind for program in found.programs] == ["training step", "update"]
    known, before = (statistics.compiled, statistics.from_disk), net.state_dict()
    for _ in range(2):
        step(X, Y)
    assert (statistics.compiled, statistics.from_disk) == known
    assert not np.array_equal(net.state_dict()["4.weight"], before["4.weight"])


def test_what_was_compiled_is_told():
    net, optimizer, _ = made()
    first = foveal.warm_up(net, SHAPE, loss=nn.CrossEntropyLoss(), optimizer=optimizer)
    assert [program.kind for program in first.programs] == ["inference", "training step"]
    again = foveal.warm_up(net, SHAPE, step=first.step)
    assert (again.compiled, again.from_cache) == (0, 0)
    text = str(again)
    assert text.startswith("0 kernels compiled in ")
    assert "[4, 1, 6, 6]" in text
    assert again.as_json()["programs"][0]["shape"] == "[4, 1, 6, 6]"
    assert "table" in again._repr_html_()


def test_modes_are_left_as_they_are():
    net, _, step = made()
    net.eval()
    net[1].train()
    foveal.warm_up(net, [X], step=step)
    assert [module.training for module in net] == [False, True, False, False, False]
    # The step was compiled in training mode, in which it will run.
    known = statistics.compiled, statistics.from_disk
    net.train()
    step(X, Y)
    assert (statistics.compiled, statistics.from_disk) == known


def test_other_targets_and_what_does_not_fit():
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    options = {"loss": nn.MSELoss(), "optimizer": optim.SGD(net.parameters(), lr=0.1)}
    found = foveal.warm_up(net, [SHAPE], targets=[(4, 1)], inference=False, **options)
    assert len(found.programs) == 1
    with pytest.raises(ShapeError, match=r"compiled the step for integer labels, int32 \[4\]; give targets"):
        foveal.warm_up(net, [SHAPE], **options)
    for wrong, words in (
        ({"targets": [(4, 1), (4, 1)], **options}, "2 targets and 1 shapes"),
        ({"loss": nn.MSELoss()}, "needs a loss and an optimizer"),
        ({"step": found.step, **options}, "not both"),
    ):
        with pytest.raises(ArgumentError, match=words):
            foveal.warm_up(net, [SHAPE], **wrong)
    for shapes in ("x", [(4, "x")], [(4, -1)], 3):
        with pytest.raises(ShapeError, match="is no shape"):
            foveal.warm_up(net, shapes)


def told(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("-- another program for ") for line in lines if "another program" in line]


def test_another_program_says_what_is_new(capsys, monkeypatch):
    counted = []
    monkeypatch.setattr(counts, "add", counted.append)
    net, optimizer, step = made()
    with debug.at(debug.PROGRAM):
        net(X)
        assert told(capsys) == []
        net(X[:2])
        assert told(capsys) == ["Sequential: argument 0 is float32 [2, 1, 6, 6], was float32 [4, 1, 6, 6]"]
        net.eval()(X)
        assert told(capsys) == ["Sequential: BatchNorm2d 1 and 1 more: training is False, was True"]
        net.train()(X)
        assert told(capsys) == []
        step(X, Y)
        step(X[:3], Y[:3])
        (line,) = told(capsys)
        x, target = "input is float32 [3, 1, 6, 6], was float32 [4, 1, 6, 6]", "target is int32 [3], was int32 [4]"
        assert line == f"a step of Sequential: {x}; {target}"
        net[2].p = 0.25
        step(X, Y)
        assert told(capsys) == ["a step of Sequential: Dropout 2: p is 0.25, was 0.5"]
        net[0].weight.trainable = False
        step(X, Y)
        assert told(capsys) == ["a step of Sequential: Parameter 0.weight: trainable is False, was True"]
        optimizer.clip_norm = 1.0
        step(X, Y)
        assert told(capsys) == ["a step of Sequential: another optimizer, or setting of it that is compiled in"]
    with debug.at(0):
        net(X[:1])
    assert capsys.readouterr().err == ""
    assert counted == ["shapes", "attributes", "shapes", "attributes", "attributes", "attributes", "shapes"]


def test_counts_survive_the_process(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    for name in ("shapes", "shapes", "attributes"):
        counts.add(name)
    code = "from foveal import counts; counts.add(counts.SHAPES); print(counts.counted())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "{'shapes': 3, 'attributes': 1}\n"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()} == {0o600}
    counts.clear()
    assert counts.counted() == {"shapes": 0, "attributes": 0}


def test_where_nothing_may_be_written_nothing_is_counted(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEAL_CACHE", os.devnull)
    counts.add(counts.SHAPES)
    assert counts.counted()["shapes"] == 0
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "shapes.count").symlink_to(tmp_path / "elsewhere")
    counts.add(counts.SHAPES)
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert counts.counted()["shapes"] == 0


def test_a_run_in_another_process_adds_nothing_to_the_cache_folder(tmp_path):
    made = "import foveal, numpy as np; from foveal import nn; net = nn.Linear(3, 2).eval(); "
    tmp_path.chmod(0o700)

    def files_after(code):
        environment = {**os.environ, "FOVEAL_CACHE": str(tmp_path)}
        subprocess.run([sys.executable, "-c", made + code], env=environment, check=True)
        return {path.name for path in tmp_path.iterdir() if path.suffix == ".o"}

    warmed = files_after("foveal.warm_up(net, [(4, 3)])")
    assert warmed
    assert files_after("net(np.zeros((4, 3), np.float32))") == warmed
