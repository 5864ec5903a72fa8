"""foveal tune with several workers: the same findings, and what happens when a worker or its parent ends."""

import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import bright_rows
import numpy as np
import pytest
from click.testing import CliRunner

import foveal
from foveal import optim
from foveal.cli import main
from foveal.errors import FovealError, NumericsError, ShapeError
from foveal.train import tune as tuning
from foveal.train import tune_crew
from foveal.train.short_runs import ShortRuns, Task
from foveal.train.tune import Search, tune
from foveal.train.tune_crew import Crew, ending, modules_of, packed
from foveal.train.tune_worker import Answers

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are looked at as Linux and macOS have them")
OPTIONS = {"batch_size": 16, "steps": 30, "seed": 2, "threads": 1, "epochs": 2}
CANDIDATES = [(0.1, 0.9, None, 0.0), (0.2, 0.9, None, 0.0), (0.1, 0.9, 0.8, 0.0)]


@pytest.fixture(scope="module")
def data():
    return bright_rows.dataset()


@pytest.fixture
def task(data):
    settings = tuning.choose(data, tuning.Options(batch_size=16, epochs=2, threads=1, seed=2))
    return Task(data, settings, np.arange(32), np.arange(32, 160))


def runs(pid):
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_findings_do_not_depend_on_the_number_of_workers(data, monkeypatch):
    monkeypatch.setattr(tuning, "MOMENTA", (0.95, 0.9))
    monkeypatch.setattr(tuning, "DECAYS", (1e-3, 0.0))
    alone, lines = tune(data, **OPTIONS), []
    found = tune(data, workers=2, report=lines.append, **OPTIONS)
    assert {**vars(found), "seconds": 0} == {**vars(alone), "seconds": 0}
    assert "2 workers make the short runs, with 1 thread each" in lines
    assert not tune_crew._started.processes


def test_short_runs_side_by_side(task, monkeypatch):
    """Results in order, a run that diverges, a budget that ends, an error, a fork, and a process that is killed."""
    here, called = ShortRuns(task), []
    with Crew(task, 2, lambda: called.append("first")) as crew:
        assert called == ["first"]
        wild = [*CANDIDATES, (1e8, 0.9, None, 0.0)]
        found = list(crew.trials(wild, 30, lambda number: True))
        assert found == [here.trial(candidate, 30) for candidate in wild]
        assert [trial.loss is None for trial in found] == [False, False, False, True]
        assert [t.candidate for t in crew.trials(CANDIDATES, 30, lambda number: number < 2)] == CANDIDATES[:2]
        each, validation = crew.measure()
        assert 0 < each < math.inf
        assert 0 < validation < math.inf
        with pytest.raises(AttributeError, match="nothing") as raised:
            crew.workers[0].ask("nothing")
        assert "In a worker of tune" in raised.value.__notes__[0]
        pids = [worker.process.pid for worker in crew.workers]
        # What a forked child holds of them does not keep them alive.
        assert len(tune_crew._started.processes) == 2
        monkeypatch.setattr(tune_crew, "close_pipes", lambda process: called.append(process.pid))
        tune_crew._started.renew()
        assert sorted(called[1:]) == sorted(pids)
        monkeypatch.undo()
        for worker in crew.workers:
            worker.process.returncode = None
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(FovealError, match=r"one of 2 workers was ended by SIGKILL, .* memory runs out; use fewer"):
            # At once, and not when the run of the other one has ended.
            list(crew.trials([*CANDIDATES, *wild], 10**7, lambda number: True))
    assert not any(map(runs, pids))


PROGRAM = """
import numpy as np
from foveal.data import from_arrays
from foveal.train.tune import tune

x, y = np.random.default_rng(0).integers(0, 255, (160, 8, 8)).astype(np.uint8), np.arange(160) % 3
data = from_arrays("rows", x, y, x, y)
tune(data, batch_size=16, steps=10**6, epochs=2, threads=1, workers=2, report=lambda line: print(line, flush=True))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_no_worker_is_left_when_the_program_ends(number, tmp_path):
    """A program without a guard around what it does."""
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"TMPDIR": str(tmp_path), "FOVEAL_JOBS": "1"}
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as program:
        while "2 workers make" not in (line := program.stdout.readline()):
            assert line, program.stderr.read()
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
        until = time.monotonic() + 120
        while len(pids := children.read_text().split()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        # As Ctrl-C at a terminal, but that goes to the workers' parent alone.
        program.send_signal(number)
        program.wait(120)
        said = program.stderr.read()
    until = time.monotonic() + 60
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(map(runs, pids))
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_the_images_are_shared_and_not_copied(task, tmp_path):
    with tempfile.TemporaryFile() as file:
        content, places = packed(task, file)
        assert len(content) < 5000
        assert sum(length for _, length in places) >= task.data.images_train.nbytes
        served = Answers()
        served.begin((), content, places, os.dup(file.fileno()))
    sent = served.runs.task
    assert np.array_equal(sent.data.images_train, task.data.images_train)
    assert len(sent.data.images_test) == 1
    assert not sent.data.images_train.flags.writeable
    # Where a file is mapped already, its name is sent; a part of it is not the file.
    np.save(tmp_path / "x.npy", task.data.images_train)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for images, copied in ((mapped, 0), (mapped[:100], 6400)):
        of_file = replace(task, data=replace(task.data, images_train=images))
        with tempfile.TemporaryFile() as file:
            content, places = packed(of_file, file)
            buffers = [os.pread(file.fileno(), length, first) for first, length in places]
        assert [len(buffer) for buffer in buffers if len(buffer) > 3000] == [copied] * (copied > 0)
        assert np.array_equal(pickle.loads(content, buffers=buffers).data.images_train, images)
    assert packed(task, None)[1] == []


def test_a_program_whose_main_thread_ends_does_not_wait(tmp_path):
    """The thread that searches is a daemon, and its short runs would take hours."""
    *lines, call = PROGRAM.strip().splitlines()
    lines += [
        "import threading, time",
        "from foveal.train import tune_crew",
        "asked, ask = threading.Event(), tune_crew.Worker.ask",
        "tune_crew.Worker.ask = lambda self, name, *rest: (name == 'trial' and asked.set(), ask(self, name, *rest))[1]",
        f"threading.Thread(target=lambda: {call}, daemon=True).start()",
        "assert asked.wait(100)",
        "time.sleep(0.5)",
    ]
    (tmp_path / "program.py").write_text("\n".join(lines))
    subprocess.run([sys.executable, tmp_path / "program.py"], check=True, timeout=120)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_disk_that_is_full(task):
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with full, pytest.raises(FovealError, match="let TMPDIR name another folder"):
        packed(task, full)


def test_no_folder_for_temporary_files(task, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FovealError, match=r"holds the images for the workers \(No such file .* let TMPDIR name"):
        Crew(task, 2, lambda: None).__enter__()


def test_how_a_process_has_ended():
    assert ending(1) == "has ended with status 1"
    assert ending(-15) == "was ended by SIGTERM"
    assert ending(-40) == "was ended by signal 40"


def test_an_optimizer_that_a_worker_cannot_import():
    with pytest.raises(FovealError, match="a worker cannot import nowhere_parts, which defines the optimizer"):
        Answers().begin(("nowhere_parts",), b"", [])


def test_the_length_of_short_runs_counts_with_the_workers(data):
    """16 short runs one after the other, in 8 rounds by two, in 5 by four."""
    settings = tuning.choose(data, tuning.Options(batch_size=16, epochs=10**4, threads=1))
    search, found = Search(data, settings, True, None, 100.0, 1, lambda line: None), {}
    search.prepare(16)
    search.left = lambda: 80.0
    for count in (1, 2, 4):
        search.made_by = type("Makers", (), {"count": count, "measure": lambda self: (0.01, 1.0)})()
        search.choose_steps()
        found[count] = search.findings.steps
    assert found == {1: 400, 2: 900, 4: 1500}


def test_workers_that_cannot_be(data, task, monkeypatch):
    for count in (0, 1000):
        with pytest.raises(ShapeError, match=f"tune: {count} workers; choose from 1 to 256"):
            tune(data, workers=count)
    own = replace(task, settings=replace(task.settings, optimizer="own"))
    for module in ("__main__", "own_parts"):
        monkeypatch.setitem(optim.UpdateRule.registry, "own", type("Own", (), {"__module__": module}))
        if module != "__main__":
            assert modules_of(own) == (module,)
            continue
        with pytest.raises(FovealError, match=r"'own' is defined in this program .* or leave workers out"):
            modules_of(own)
    monkeypatch.setattr(sys, "executable", "/usr/bin/editor")
    with pytest.raises(FovealError, match=r"no worker can be started: .* leave workers out"):
        Crew(task, 2, lambda: None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(FovealError, match="a worker cannot be started: No such file"), Crew(task, 2, lambda: None):
        pass


def test_as_many_workers_as_memory_suffices_for(data, monkeypatch):
    settings, lines = tuning.choose(data, tuning.Options(batch_size=16, threads=4)), []
    search = Search(data, settings, True, 30, 1.0, 4, lines.append)
    search.prepare(16)
    for available, count in ((10 << 30, 4), (700 << 20, 2), (1 << 20, 1)):
        monkeypatch.setattr(tuning, "available_memory", lambda n=available: float(n))
        monkeypatch.setattr(tuning, "Crew", lambda task, count, first: (count, task.settings.threads))
        monkeypatch.setattr(tuning, "nullcontext", lambda here: (1, 4))
        assert search.makers() == (count, 4 // count)
    said = [line for line in lines if "of memory" in line]
    assert [line.partition(":")[0] for line in said] == [f"{n} of 4 workers are used" for n in (2, 1)]


def test_more_workers_than_short_runs_at_once(data, monkeypatch):
    found, lines = [], []
    monkeypatch.setattr(Search, "run", lambda search: found.append((search.workers, search.settings.threads)))
    for options in ({"threads": 3}, {"threads": None}):
        tune(data, workers=9, report=lines.append, **{**OPTIONS, **options})
    assert lines == ["4 of 9 workers are used: no more short runs are independent of each other"] * 2
    assert found == [(4, 12), (4, foveal.get_threads())]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_command_is_given_where_every_short_run_diverges(data, monkeypatch, workers):
    test_rates = ShortRuns.test_rates
    wild = {"valley": 200.0, "steepest": 300.0, "lowest": 600.0}
    monkeypatch.setattr(ShortRuns, "test_rates", lambda runs: replace(test_rates(runs), **wild))
    with pytest.raises(NumericsError, match="in all short runs, at rates of 60, 200, 300; look at"):
        tune(data, workers=workers, **{**OPTIONS, "steps": 200})


def test_the_option_of_the_command(tmp_path, monkeypatch):
    def stop(data, **options):
        raise FovealError(f"asked for {options['workers']}")

    monkeypatch.setattr(tuning, "tune", stop)
    result = CliRunner().invoke(main, ["tune", "digits", "--workers", "3"])
    assert (result.exit_code, result.output) == (2, "Error: asked for 3\n")
    assert "--workers" in CliRunner().invoke(main, ["tune", "--help"]).output
