"""A run's folder holds one whole run whatever happens while it is written."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from foveal.errors import DataError
from foveal.train import RunFolder, load_run, run_folder
from foveal.train.checkpoint import LOG, METRICS, MODEL, SAVED, ModelDescription

DESCRIPTION = ModelDescription(None, "rows", 1, (8, 8), ("a", "b"), (0.0,), (1.0,), (0.0, 1.0))
VISIBLE = sorted([MODEL, LOG, METRICS])


def save(folder, run, epoch):
    """Save an epoch of a run, whose number stands in each file."""
    state = {"run": np.full(50, run, np.float32), "epoch": np.full(50, epoch, np.float32)}
    folder.save(state, DESCRIPTION, {"run": run, "epoch": epoch}, {"run": run, "epochs_done": epoch})


def finished(path, run, epochs):
    """Leave a run of some epochs in a folder."""
    folder = RunFolder(path)
    for epoch in range(1, epochs + 1):
        save(folder, run, epoch)
    folder.close()


def whole(path):
    """(run, epochs) of the one run that lies in a folder; fails unless all files are of it."""
    _, state = load_run(path)
    run, epochs = int(state["run"][0]), int(state["epoch"][0])
    assert json.loads((path / METRICS).read_text()) == {"run": run, "epochs_done": epochs}
    lines = [json.loads(line) for line in (path / LOG).read_text().splitlines()]
    assert lines == [{"run": run, "epoch": epoch} for epoch in range(1, epochs + 1)]
    return run, epochs


def runs_side_by_side(path):
    """The numbers of the runs that files in the folder belong to, as somebody who looks sees them."""
    runs = {json.loads((path / METRICS).read_text())["run"]} if (path / METRICS).exists() else set()
    if (path / LOG).exists():
        runs |= {json.loads(line)["run"] for line in (path / LOG).read_text().splitlines() if line.endswith("}")}
    return runs | ({int(load_run(path / MODEL)[1]["run"][0])} if (path / MODEL).exists() else set())


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """What a process leaves when it is killed does not depend on what is on the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


OPERATIONS = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync")


class Failing:
    """From the n-th change of the file system on, one fails, or all do as if the process had been killed."""

    def __init__(self, monkeypatch, at, killed):
        self.count, self.at, self.killed = 0, at, killed
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))

    def failing(self, real):
        def function(*args, **options):
            self.count += 1
            if self.count == self.at or (self.killed and self.count > self.at):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        return function


def attempt(path, run, epochs, at, killed):
    """Train over what lies in the folder, with a failure at one operation; gives the operations, and if it failed."""
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, at, killed)
        folder = None
        try:
            folder = RunFolder(path)
            for epoch in range(1, epochs + 1):
                save(folder, run, epoch)
            failed = False
        except DataError:
            failed = True
        if folder is not None and killed:
            folder._lock.close()
        elif folder is not None:
            folder.close()
    return failing.count, failed


@pytest.mark.parametrize("killed", [False, True], ids=["fails", "killed"])
@pytest.mark.parametrize("older", [False, True])
def test_whatever_fails_one_whole_run_is_left(tmp_path, older, killed):
    """At each operation in turn: two epochs of run 2 in an empty folder, or over a run 1."""
    finished(tmp_path / "older", 1, 1)
    for at in range(1, 100):
        path = tmp_path / str(at)
        if older:
            shutil.copytree(tmp_path / "older", path)
        count, failed = attempt(path, 2, 2, at, killed)
        # A new run is there, or the older one, and what lies side by side is of one of them.
        assert len(runs_side_by_side(path)) <= 1
        assert (path / MODEL).exists() or not older or not failed
        seen = None
        if older or (path / MODEL).exists() or (path / SAVED).exists():
            seen = int(load_run(path)[1]["run"][0])
            assert seen in (1, 2)
        # The next run finishes and tidies up before anything else.
        folder = RunFolder(path)
        if seen is not None:
            assert whole(path)[0] == seen
        folder.close()
        names = sorted(item.name for item in path.iterdir())
        assert [name for name in names if name[0] == "."] == []
        if older and seen == 2:
            assert whole(path / "earlier-1") == (1, 1)
        if not failed and count < at:
            assert names == (["earlier-1"] if older else []) + VISIBLE
            assert whole(path) == (2, 2)
            return
    raise AssertionError("there are more operations than expected")


def test_a_full_disk_leaves_the_older_run(tmp_path):
    finished(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    folder = RunFolder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DataError, match="cannot be written: File too large; choose another --out"):
            save(folder, 2, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
import test_run_folder as t
path, rng = Path(sys.argv[1]), random.Random(0)
t.finished(path, 0, 1)
for run in range(1, 13):
    child = os.fork()
    if not child:
        folder = t.RunFolder(path)
        for epoch in range(1, 10**6):
            t.save(folder, run, epoch)
    time.sleep(rng.uniform(0.005, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(t.runs_side_by_side(path)) == 1, run
    seen = int(t.load_run(path)[1]["run"][0])
    folder = t.RunFolder(path)
    assert t.whole(path)[0] == seen, run
    folder.close()
kept = [t.whole(place)[0] for place in path.glob("earlier-*")]
assert len(kept) == len(set(kept)), kept
print(sorted(item.name for item in path.iterdir() if item.name[0] == "."))
"""


def test_processes_killed_at_random_moments_leave_whole_runs(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), os.path.dirname(__file__)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_second_training_into_the_folder_is_refused(tmp_path):
    first = RunFolder(tmp_path)
    save(first, 1, 1)
    with pytest.raises(DataError, match=rf"another training writes to this folder \(process {os.getpid()} on .*--out"):
        RunFolder(tmp_path)
    save(first, 1, 2)
    first.close()
    first.close()
    assert whole(tmp_path) == (1, 2)
    RunFolder(tmp_path).close()
    assert sorted(item.name for item in tmp_path.iterdir()) == VISIBLE


def test_a_lock_that_ended_with_its_process_is_taken(tmp_path):
    (tmp_path / run_folder.LOCK).write_text("1 on a machine that was switched off")
    finished(tmp_path, 1, 1)
    assert sorted(item.name for item in tmp_path.iterdir()) == VISIBLE


def test_temporary_files_of_killed_runs_are_removed_and_those_of_others_are_not(tmp_path):
    left = [f".{MODEL}.123.tmp", f".{METRICS}.4.tmp", ".77.tmp"]
    mine = ["notes.tmp", ".notes.5.tmp", f"{MODEL}.bak", f".{MODEL}.tmp"]
    for name in left + mine:
        (tmp_path / name).write_text("part")
    (tmp_path / run_folder.SAVING).mkdir()
    (tmp_path / run_folder.SAVING / MODEL).write_text("part")
    (tmp_path / run_folder.LINKING).mkdir()
    finished(tmp_path, 1, 1)
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(mine + VISIBLE)


def test_a_model_that_was_saved_and_not_moved_is_the_one_that_is_loaded(tmp_path, monkeypatch):
    finished(tmp_path, 1, 2)
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(folder, "_publish", lambda line=None: None)
    save(folder, 2, 1)
    assert load_run(tmp_path)[1]["run"][0] == 2
    monkeypatch.undo()
    folder.close()
    assert whole(tmp_path) == (2, 1)
    assert whole(tmp_path / "earlier-1") == (1, 2)


def test_without_links_an_older_run_is_copied(tmp_path, monkeypatch):
    finished(tmp_path, 1, 2)

    def no_links(*args, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    finished(tmp_path, 2, 1)
    assert (whole(tmp_path), whole(tmp_path / "earlier-1")) == ((2, 1), (1, 2))


def test_the_log_grows_in_its_place(tmp_path):
    """Whoever follows it sees the lines of later epochs."""
    folder = RunFolder(tmp_path)
    save(folder, 1, 1)
    with (tmp_path / LOG).open() as followed:
        followed.read()
        save(folder, 1, 2)
        assert json.loads(followed.read()) == {"run": 1, "epoch": 2}
    folder.close()
