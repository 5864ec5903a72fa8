"""foveal tune: the range test, the short runs, and what the command line makes of them."""

import errno
import json
import shlex

import bright_rows
import numpy as np
import pytest
from click.testing import CliRunner

import foveal
from foveal import files, nn, optim
from foveal.cli import main
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.train import tune as tuning
from foveal.train.findings import Trial
from foveal.train.range_test import SMOOTHING, range_test, suggest, valley
from foveal.train.tune import tune


@pytest.fixture(scope="module")
def data():
    return bright_rows.dataset()


@pytest.fixture(scope="module")
def setting():
    """A linear classifier, its step after some training, and batches without end."""
    nn.seed(0)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3))
    optimizer = optim.Momentum(net.parameters(), 0.01)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads=1)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 30, 12)).astype("f4"), rng.integers(0, 3, (40, 30))
    x[..., :3] += 2 * np.eye(3, dtype="f4")[y]
    for i in range(3):
        step(x[i], y[i])
    return optimizer, step, [(x[i % 40], y[i % 40]) for i in range(200)]


def state(setting):
    optimizer, step, _ = setting
    arrays = {**step.model.state_dict(), **{f"o.{k}": v for k, v in optimizer.state_dict().items()}}
    return {k: v.tobytes() for k, v in arrays.items()}, step.steps, optimizer.schedules


def test_the_range_test_climbs_and_puts_everything_back(setting):
    optimizer, step, batches = setting
    optimizer.schedule(lr=optim.schedule.constant(0.01))
    before = state(setting)
    found = range_test(step, optimizer, batches)
    assert state(setting) == before
    assert found == range_test(step, optimizer, batches)
    rates = np.array(found.rates)
    assert rates[0] == pytest.approx(1e-7)
    assert np.diff(np.log(rates)) == pytest.approx(np.log(1e8) / 99)
    assert len(found.losses) == len(found.smoothed) == len(rates) <= 100
    assert 1e-4 < found.valley <= found.lowest
    assert found.losses[0] > 1.1 * min(found.smoothed)


def test_the_range_test_stops_where_the_loss_is_four_times_its_best(setting):
    optimizer, step, batches = setting
    found = range_test(step, optimizer, batches, high=1e6, steps=60)
    assert len(found.rates) < 60
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert found.smoothed[-2] <= 4 * min(found.smoothed[:-1])


def test_the_smoothed_loss_is_a_mean_that_leaves_the_start_out(setting):
    optimizer, step, batches = setting
    found = range_test(step, optimizer, batches, steps=20)
    for i in (0, 7, len(found.losses) - 1):
        weights = SMOOTHING ** np.arange(i, -1, -1)
        want = np.average(found.losses[: i + 1], weights=weights)
        assert found.smoothed[i] == pytest.approx(want)


def test_the_valley_is_the_middle_of_the_longest_fall():
    flat, down, up = ([2.0 + i / 100 for i in range(20)], list(np.linspace(1.9, 1.0, 30)), [1.1, 2, 4])
    assert valley(flat + down + up) == pytest.approx(20 + 15, abs=2)
    bumpy = [value + 0.02 * (i % 2) for i, value in enumerate(flat + down)]
    assert valley(bumpy + up) == pytest.approx(20 + 15, abs=4)
    assert valley([1.0, 2.0, 3.0]) == 0
    rates = list(np.logspace(-5, 0, 53))
    middle, steepest, lowest = suggest(rates, flat + down + up)
    assert rates[20] < middle < lowest
    assert rates[19] < steepest <= lowest == rates[47]  # the last five are left out


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"low": 0.0}, "rates have to grow from above 0"),
        ({"low": 1.0, "high": 0.1}, "range test: from 1 to 0.1"),
        ({"steps": 5}, "in 5 steps; .* in 10 steps or more"),
    ],
)
def test_a_range_that_is_none(setting, how, words):
    with pytest.raises(ShapeError, match=words):
        range_test(setting[1], setting[0], setting[2], **how)


def test_a_loss_that_is_no_number_from_the_start(setting):
    optimizer, step, batches = setting
    broken = [(np.full_like(x, 3e38), y) for x, y in batches]
    before = state(setting)
    with pytest.raises(NumericsError, match="stopped being a number after 0 steps"):
        range_test(step, optimizer, broken)
    assert state(setting) == before


OPTIONS = {"batch_size": 16, "steps": 30, "seed": 2, "threads": 1, "epochs": 2}


@pytest.fixture(scope="module")
def found(data):
    lines = []
    return tune(data, report=lines.append, **OPTIONS), lines


def test_the_best_of_the_short_runs_is_chosen(found):
    made, lines = found
    for runs, names in (
        (made.rates, ("lr",)),
        (made.momenta, ("momentum", "momentum_low")),
        (made.decays, ("weight_decay",)),
    ):
        best = min(runs, key=Trial.order)
        assert [getattr(best, name) for name in names] == [getattr(made, name) for name in names]
        assert len(runs) == len(set(runs)) >= 2
    assert {t.momentum for t in made.momenta} >= {0.9, 0.95, 0.97, 0.99}
    assert any(t.momentum_low is not None for t in made.momenta)
    assert {t.weight_decay for t in made.decays} >= {0.0, 1e-5, 1e-4, 1e-3}
    assert {made.batch_size, made.steps} == {16, 30}
    for words in ("falls longest about", "held out", "momentum: ", "weight decay: "):
        assert any(words in line for line in lines)


def test_the_same_seed_finds_the_same_and_the_budget_ends_it(found, data):
    again = tune(data, **OPTIONS)
    first = found[0]
    assert {**vars(again), "seconds": 0} == {**vars(first), "seconds": 0}
    lines = []
    short = tune(data, report=lines.append, budget=0.01, **{**OPTIONS, "steps": None})
    assert len(short.rates) == 1
    assert any("the budget is used up" in line for line in lines)


def test_a_tune_that_cannot_be(data):
    for how in ({"budget": 0}, {"steps": 5}):
        with pytest.raises(ShapeError, match="runs have at least 30 steps"):
            tune(data, **how)


def test_the_command_that_is_printed_is_accepted(data, found, tmp_path, monkeypatch):
    """On the command line: files, the numbers, the picture or a sentence, and a command that trains."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -e '.[plot]')")
    monkeypatch.setattr(tuning, "tune", lambda *args, **options: found[0])
    rng = np.random.default_rng(0)
    x, y = bright_rows.rows(160, rng)
    np.savez(tmp_path / "my rows.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["tune", str(tmp_path / "my rows.npz"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "tune.png").read_bytes()[:4] == b"\x89PNG"
    saved = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert saved["range_test"]["valley"] == found[0].range_test.valley
    assert saved["command"] in result.output
    _, *words = shlex.split(saved["command"])
    trained = CliRunner().invoke(main, [*words, "--quiet", "--out", str(tmp_path / "run")])
    assert trained.exit_code == 0, trained.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("lr", "momentum", "momentum_low", "weight_decay", "batch_size", "optimizer"):
        assert metrics[name] == getattr(found[0], name)
    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    plain = ["tune", words[1], "--out", str(tmp_path / "plain")]
    assert "as matplotlib is not installed: pip" in CliRunner().invoke(main, plain).output
    assert json.loads(CliRunner().invoke(main, [*plain, "--json"]).stdout) == saved
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["tune.json"]


def test_files_are_replaced_as_a_whole(found, tmp_path, monkeypatch):
    """A disk that is full leaves the older file; the next tune removes what a killed one left."""

    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    tuning.save(found[0], tmp_path, "foveal train rows")
    before = (tmp_path / "tune.json").read_text()
    (tmp_path / ".tune.json.12.tmp").write_text("part")
    monkeypatch.setattr(files, "write_synchronised", full)
    with pytest.raises(DataError, match="No space left on device; choose another --out"):
        tuning.save(found[0], tmp_path, "foveal train others")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("tune.json", before)]
