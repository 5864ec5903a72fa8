"""Trainings that are killed at random moments and inside of a checkpoint's system calls end in the same bits.

Children are forks of one process, which has imported and compiled everything. One trains and is killed by SIGKILL, the
next two resume its run and are killed too, and then the run is resumed to its end: on one thread what was begun on two,
and the other way round.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from foveal import data, files, nn, optim, train
from foveal.train import checkpoints, run_file, run_folder

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((30, 1, 6, 6), np.float32), np.arange(30) % 3
SET = data.from_arrays("set", IMAGES, LABELS, IMAGES[:6], LABELS[:6])
# Three steps in an epoch, so that a window of two ends each; a checkpoint after every step and every epoch.
OPTIONS = {
    "epochs": 3,
    "batch_size": 7,
    "accumulate": 2,
    "ema": 0.8,
    "optimizer": "adamw",
    "augment": "crop+flip",
    "validation": 0.2,
    "checkpoint_minutes": 0.0,
    "quiet": True,
}


def training(folder, threads, **more):
    """Train in a folder, or go on there."""
    nn.seed(5)
    layers = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()
    stop = train.EarlyStopping(patience=5)
    net = nn.Sequential(*layers, nn.Linear(64, 3))
    # The loss falls, so that the rate is lowered after the second epoch.
    rate = optim.schedule.Plateau(0.01, mode="max", patience=0)
    return train.train(SET, net, out=folder, threads=threads, callbacks=[stop], schedule=rate, **OPTIONS, **more)


def result(folder):
    """The bits of a run: of its model, the numbers of its log but for times, and those of its last state."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    numbers = [{name: line[name] for name in ("epoch", "lr", "train", "validation", "test")} for line in lines]
    best = json.loads((folder / "metrics.json").read_text())["best_epoch"]
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "ended"
    state = checkpoints.read_checkpoint(folder / "checkpoints/last.safetensors", facts["id"])
    parts = {name: array.tobytes() for name, array in state.items() if not name.startswith(("run/", "callback"))}
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), numbers, best, parts


OPERATIONS = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "write")


class Counted:
    """Counts the changes of the file system, and kills the process at the n-th, before it or in the middle."""

    def __init__(self, at=0, inside=0):
        """inside: counts those that belong to a checkpoint alone."""
        self.count, self.at, self.inside, self.kill_inside = 0, at, 0, inside
        self.within, whole = False, run_folder.write_checkpoint

        def write_checkpoint(folder, content):
            self.within = True
            whole(folder, content)
            self.within = False

        run_folder.write_checkpoint = write_checkpoint
        for name in OPERATIONS[:-1]:
            setattr(os, name, self.counted(getattr(os, name)))
        for module in (files, run_folder, checkpoints):
            module.write_synchronised = self.write
        files.write_soon = run_folder.write_soon = self.write

    def counted(self, real):
        def function(*arguments, **options):
            self.one_more()
            # A process that is killed leaves what the system has, be it on the disk or not.
            return None if real.__name__ == "fsync" else real(*arguments, **options)

        return function

    def one_more(self):
        self.count += 1
        self.inside += self.within
        if self.count == self.at or (self.within and self.inside == self.kill_inside):
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, path, content):
        half = len(content) // 2
        with path.open("wb") as file:
            file.write(content[:half])
            file.flush()
            self.one_more()
            file.write(content[half:])


def killed(train, at=0, inside=0, seconds=0.0):
    """Train in a child that is killed at its n-th operation, or after so many seconds; return whether it was.

    inside: the n-th of those that belong to checkpoints.
    """
    child = os.fork()
    if not child:
        try:
            Counted(at, inside)
            train()
        finally:
            os._exit(0)
    if not at and not inside:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def resumed(folder, threads):
    """Go on with what a killed training left; it may have come to nothing, or to its end."""
    path = run_file.run_path(folder)
    status = json.loads(path.read_text()) if path.exists() else {"id": "older"}
    if status["id"] == "older":
        training(folder, threads)
    elif status["status"] != "ended":
        training(folder, threads, resume=folder)
    else:
        # Whatever comes next tidies up.
        run_folder.RunFolder(folder, goes_on=True).close()


def dry_run(folder):
    """How many operations a training has, how many of them belong to checkpoints, and how long it takes."""
    started, (reading, writing) = time.perf_counter(), os.pipe()
    if not (child := os.fork()):
        counted = Counted()
        training(folder, 2)
        os.write(writing, json.dumps([counted.count, counted.inside]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return *json.loads(os.read(reading, 1 << 16)), time.perf_counter() - started


def kill_and_resume(place, full):
    """Check that each of many trainings that are killed, three times, ends in the bits of one that was not."""
    training(place / "whole", 1)
    expected = result(place / "whole")
    assert len({line["lr"] for line in expected[1]}) == 2
    operations, inside, duration = dry_run(place / "counted")
    assert result(place / "counted") == expected
    # The disk is not waited for.
    os.fsync = lambda handle: None
    rng = random.Random(0)
    # What kills first, and what kills the trainings that go on after it.
    ats = range(1, operations + 1) if full else rng.sample(range(1, operations + 1), 1)
    series = [[{"at": at}, {"at": rng.randint(1, 12)}, {"inside": rng.randint(1, 4)}] for at in ats]
    firsts = range(1, inside - 11) if full else rng.sample(range(1, inside - 11), 4)
    series += [[{"inside": at}, {"inside": rng.randint(1, 4)}, {"inside": rng.randint(1, 4)}] for at in firsts]
    series += [[{"seconds": rng.uniform(0, duration / part)} for part in (2, 4, 4)] for _ in range(70 if full else 7)]
    kills = {"at": 0, "inside": 0, "seconds": 0}
    for number, hows in enumerate(series):
        folder, threads = place / str(number), 1 + number % 2
        # Every third one begins where there is an older run.
        if number % 3 == 0:
            shutil.copytree(place / "whole", folder)
            facts = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps({**facts, "id": "older"}))
        for how, train_on in zip(hows, (training, resumed, resumed), strict=True):
            kills[min(how)] += killed(partial(train_on, folder, threads), **how)
        resumed(folder, 3 - threads)
        assert result(folder) == expected, hows
        assert sorted(path.name for path in folder.iterdir() if path.name[0] == ".") == [], hows
        if number % 3 == 0:
            assert json.loads((folder / "earlier-1" / "run.json").read_text())["id"] == "older", hows
        shutil.rmtree(folder)
    return operations, inside, *kills.values()


@pytest.mark.long
def test_killed_trainings_end_in_the_same_bits(tmp_path, request):
    """21 kills at random moments, 13 inside of system calls of checkpoints, 2 at others; --full: at each of them."""
    full = request.config.getoption("--full")
    script = (
        f"import sys; sys.path[:0] = [{os.path.dirname(__file__)!r}]; import test_kills, pathlib;"
        f" print(*test_kills.kill_and_resume(pathlib.Path({str(tmp_path)!r}), {full}))"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=1800 if full else 300
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    operations, inside, *kills = map(int, ended.stdout.split())
    print(f"{operations} operations in a training, {inside} of them in checkpoints; kills: {kills}")
    # One that has ended when its time comes is none that is killed.
    assert kills[1] >= (inside if full else 10)
