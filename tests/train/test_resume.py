"""Nothing is lost: signals, damaged checkpoints, full disks, folders that vanish, and what is said of each."""

import errno
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from foveal import data, nn, train
from foveal.cli import main
from foveal.errors import ArgumentError, DataError, FovealWarning, StateError, Terminated
from foveal.report import Recorder
from foveal.report.record import read_record
from foveal.step import Step
from foveal.train import keeper, run_folder
from foveal.train.checkpoint import MODEL, NetworkDescription
from foveal.train.checkpoints import LAST, PREVIOUS
from foveal.train.keeper import Keeper

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((30, 1, 6, 6), np.float32), np.arange(30) % 3
OPTIONS = {
    "epochs": 3,
    "batch_size": 10,
    "checkpoint_minutes": 0.0,
    "threads": 1,
    "quiet": True,
    "schedule": "constant",
}


def arrays(images=IMAGES):
    return data.from_arrays("set", images, LABELS, IMAGES[:6], LABELS[:6])


def run(folder, *callbacks, images=IMAGES, **more):
    """Train in a folder; three steps in an epoch."""
    nn.seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout(0.3))
    return train.train(arrays(images), net, out=folder, callbacks=callbacks, **{**OPTIONS, "quiet": True, **more})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model file of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return (folder / MODEL).read_bytes()


class At(train.Callback):
    """Does something after so many steps."""

    def __init__(self, step, action):
        self.left, self.action = step, action

    def on_step_end(self, values):
        self.left -= 1
        if self.left == 0:
            self.action()


def send(number):
    """What sends this process a signal."""
    assert threading.current_thread() is threading.main_thread()
    return lambda: os.kill(os.getpid(), number)


def status(folder):
    return json.loads((folder / "run.json").read_text())["status"]


def log(folder):
    return [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_lets_the_step_end_and_saves(number, error, model, tmp_path):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    # Not due by the clock.
    with pytest.raises(error, match=r"Interrupted in epoch 2\. .*resume=.* goes on after step 2 of epoch 2") as raised:
        run(tmp_path, At(5, send(number)), checkpoint_minutes=9)
    assert error is KeyboardInterrupt or raised.value.code == 143
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (status(tmp_path), log(tmp_path)) == ("interrupted", [1])
    seconds = json.loads((tmp_path / "log.jsonl").read_text())["seconds"]
    history = run(None, At(0, None), resume=tmp_path)
    assert (tmp_path / MODEL).read_bytes() == model
    assert (status(tmp_path), log(tmp_path)) == ("ended", [1, 2, 3])
    assert history.lines[1]["seconds"] > seconds
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_a_signal_while_the_network_is_measured(model, tmp_path, monkeypatch):
    def measure(*given):
        send(signal.SIGINT)()
        monkeypatch.undo()
        return train.loop.measure(*given)

    monkeypatch.setattr(train.loop, "measure", measure)
    with pytest.raises(KeyboardInterrupt, match="goes on after step 3 of epoch 1"):
        run(tmp_path, schedule="plateau", accumulate=2, ema=0.5)
    run(None, resume=tmp_path, schedule="plateau", accumulate=2, ema=0.5)
    run(tmp_path / "whole", schedule="plateau", accumulate=2, ema=0.5)
    assert (tmp_path / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()


def test_the_second_signal_ends_at_once(tmp_path):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()
        pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt, match="goes on after step 1 of epoch 1"):
        run(tmp_path, At(2, twice))


def test_before_the_first_step_there_is_nothing_to_finish(tmp_path):
    class Early(train.Callback):
        def on_train_begin(self):
            send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt, match=r"Interrupted in epoch 0\. No model of this run"):
        run(tmp_path, Early())
    assert list(tmp_path.iterdir()) == []


def test_other_threads_and_other_handlers_are_left_alone(model, tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path / "thread",))
    thread.start()
    thread.join()
    assert (tmp_path / "thread" / MODEL).read_bytes() == model
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *given: heard.append(given))
    try:
        run(tmp_path / "own", At(2, send(signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(heard) == 1
    assert status(tmp_path / "own") == "ended"


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that was interrupted in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", At(5, send(signal.SIGINT)))
    return tmp_path / "run"


def damage(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_known_by_its_checksum(stopped, model):
    damage(stopped / "checkpoints" / LAST)
    with pytest.warns(FovealWarning, match=r"last\.safetensors: damaged, its checksum.*checkpoint before it is used"):
        run(None, resume=stopped)
    assert (stopped / MODEL).read_bytes() == model


def test_without_a_whole_checkpoint_there_is_an_error(stopped):
    damage(stopped / "checkpoints" / LAST)
    (stopped / "checkpoints" / PREVIOUS).write_bytes(b"")
    with pytest.raises(StateError, match=r"last\.safetensors: damaged.*previous\.safetensors.*train again"):
        run(None, resume=stopped)


def test_what_would_change_the_bits_is_refused(stopped, model):
    for words, more in (
        ("lr was 0.* and is 0.5, which cannot change", {"lr": 0.5}),
        ("epochs was 3 and is 2", {"epochs": 2}),
        ("schedule was constant and is one-cycle", {"schedule": "one-cycle"}),
    ):
        with pytest.raises(ArgumentError, match=words):
            run(None, resume=stopped, **more)
    with pytest.raises(DataError, match=r"not those that it was trained on \(train items: their contents have changed"):
        run(None, resume=stopped, images=IMAGES[::-1])
    with pytest.raises(DataError, match="there is no run to go on with"):
        run(None, resume=stopped.parent)
    run(None, resume=stopped, threads=2)
    assert (stopped / MODEL).read_bytes() == model
    with pytest.raises(ArgumentError, match="the run has ended, after 3 epochs"):
        run(None, resume=stopped)


def test_more_epochs_and_another_folder(stopped, tmp_path):
    """A rate that is constant is the same for any number of epochs."""
    run(tmp_path / "other", resume=stopped, epochs=4)
    run(tmp_path / "whole", epochs=4)
    assert (tmp_path / "other" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    assert log(tmp_path / "other") == [1, 2, 3, 4]
    assert status(stopped) == "interrupted"


def full(monkeypatch, name, times):
    """Let a function of the run's folder fail so often from the second call on, as on a full disk."""
    whole, calls = getattr(run_folder, name), []

    def function(*given):
        calls.append(given)
        if 1 < len(calls) <= 1 + times:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*given)

    monkeypatch.setattr(run_folder, name, function)


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_training_goes_on(tmp_path, monkeypatch, model):
    full(monkeypatch, "write_checkpoint", 1)
    words = r"no checkpoint after step 2 of epoch 1: .*No space left.*goes on; the last one was written after step 1"
    with pytest.warns(FovealWarning, match=words):
        run(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == model
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [LAST, PREVIOUS]


def test_short_epochs_do_not_wait_for_the_disk_and_the_last_one_does(tmp_path, monkeypatch):
    waited, whole, counts = [], os.fsync, {}
    monkeypatch.setattr(os, "fsync", lambda handle: waited.append(handle) or whole(handle))
    for name, seconds in (("each", 0.0), ("some", 1e9)):
        monkeypatch.setattr(keeper, "SYNCHRONISED", seconds)
        waited.clear()
        run(tmp_path / name, epochs=6, checkpoint_minutes=9)
        counts[name] = len(waited)
    # Of six epochs the first and the last are waited for: three files, and the names in two folders, one of them twice.
    assert counts["some"] == counts["each"] - 4 * 6
    assert (tmp_path / "each" / MODEL).read_bytes() == (tmp_path / "some" / MODEL).read_bytes()
    assert log(tmp_path / "some") == [1, 2, 3, 4, 5, 6]
    # Where another epoch was the last one, it is waited for when the folder is closed.
    folder = run_folder.RunFolder(tmp_path / "own")
    folder.save({}, NetworkDescription({}), {"epoch": 1}, {})
    folder.save({}, NetworkDescription({}), {"epoch": 2}, {}, synchronised=False)
    waited.clear()
    folder.close()
    assert len(waited) == 4


def test_an_epoch_that_cannot_be_written_is_written_by_the_next(tmp_path, monkeypatch, model):
    full(monkeypatch, "write_synchronised", 1)
    with pytest.warns(FovealWarning, match=r"epoch 1: .*No space left on device.*The training goes on"):
        run(tmp_path)
    assert (tmp_path / MODEL).read_bytes() == model
    assert log(tmp_path) == [1, 2, 3]


def test_a_folder_that_vanishes_is_made_anew(tmp_path, model):
    folder = tmp_path / "run"
    run(folder, At(5, lambda: shutil.rmtree(folder)))
    assert (folder / MODEL).read_bytes() == model
    assert (log(folder), status(folder)) == ([1, 2, 3], "ended")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_log_of_ones_own_has_no_line_twice(name, tmp_path):
    """The interruption comes after the second line is written, and the last checkpoint is of the step before."""

    class Late(train.Callback):
        def on_epoch_end(self, values):
            if values["epoch"] == 2:
                raise KeyboardInterrupt

    path = tmp_path / name
    with pytest.raises(KeyboardInterrupt, match="goes on after step 3 of epoch 2"):
        run(tmp_path / "run", train.Log(path), Late())
    before = path.read_text().splitlines()
    run(None, train.Log(path), train.Callback(), resume=tmp_path / "run")
    rows = len(before) - 2
    assert len(path.read_text().splitlines()) == rows + 3
    assert path.read_text().splitlines()[: rows + 1] == before[: rows + 1]
    assert log(tmp_path / "run") == [1, 2, 3]


def test_files_that_change_are_named_once(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(b"picture")
    keeper = Keeper(None, 3.0, list(map(str, paths)))
    keeper.check_files()
    paths[1].write_bytes(b"another")
    os.utime(paths[1], (1, 1))
    paths[2].unlink()
    with pytest.warns(FovealWarning, match=r"1\.png and 1 more: changed or removed since the training began"):
        keeper.check_files()
    keeper.check_files()


def test_an_older_run_stays_until_the_first_epoch_is_done(tmp_path, model, capsys):
    run(tmp_path, lr=0.5)
    older = (tmp_path / MODEL).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, At(2, send(signal.SIGINT)))
    assert (tmp_path / MODEL).read_bytes() == older
    assert status(tmp_path) == "ended"
    # A third run keeps the second, which had a checkpoint, and from there that goes on.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, At(2, send(signal.SIGINT)), lr=0.25, quiet=False)
    assert "holds a run that has not ended. This one begins anew" in capsys.readouterr().out
    run(None, resume=tmp_path / "earlier-1")
    assert (tmp_path / "earlier-1" / MODEL).read_bytes() == model
    run(None, resume=tmp_path, lr=0.25)
    assert (tmp_path / "earlier-2" / MODEL).read_bytes() == older
    assert log(tmp_path) == [1, 2, 3]


def test_steps_and_findings_of_two_runs_do_not_mix(tmp_path):
    def recorded(number, *callbacks, **more):
        run(tmp_path, Recorder(tmp_path, {"findings": [], "number": number}), *callbacks, **more)

    def found(folder):
        return len(json.loads((folder / "steps.json").read_text())["step"]), json.loads(
            (folder / "doctor.json").read_text()
        )["number"]

    recorded(1, epochs=1)
    (tmp_path / ".steps.json.123.tmp").write_text("of a process that was killed")
    seen = []
    with pytest.raises(KeyboardInterrupt):
        recorded(2, At(1, lambda: seen.append(read_record(tmp_path))), At(2, send(signal.SIGINT)))
    # Who watches sees the run that goes on; in the folder the older one stays as it was.
    assert (seen[0].doctor["number"], seen[0].lines, seen[0].run["status"]) == (2, [], "running")
    assert found(tmp_path) == (3, 1)
    assert not list(tmp_path.glob(".*.tmp"))
    run(None, Recorder(tmp_path), resume=tmp_path)
    assert found(tmp_path) == (9, 2)
    assert found(tmp_path / "earlier-1") == (3, 1)
    assert len(read_record(tmp_path / "earlier-1").steps["step"]) == 3


def test_the_model_is_that_of_the_best_epoch(tmp_path):
    """The rate is so high that the last epoch is not the best one."""
    kept = {}

    class Keep(train.Callback):
        def on_epoch_end(self, values):
            kept[values["epoch"]] = (values["validation accuracy"], -values["validation loss"], self.run.weights())

    history = run(tmp_path, Keep(), validation=0.4, epochs=8, batch_size=6, lr=0.5, optimizer="sgd")
    best = max(kept, key=lambda epoch: kept[epoch][:2])
    assert history["best_epoch"] == best < 8
    assert history["validation"]["accuracy"] == kept[best][0]
    _, state = train.load_run(tmp_path)
    assert all(np.array_equal(state[name], array) for name, array in kept[best][2].items())
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs_done"] == 8


def test_early_stopping_that_was_killed_at_its_end(tmp_path, monkeypatch):
    def go(folder, **more):
        stop = train.EarlyStopping("train loss", mode="max", patience=0, restore_best=True)
        return run(folder, stop, **more)

    go(tmp_path / "whole")
    # As if it had been killed after its last checkpoint.
    monkeypatch.setattr(train.EarlyStopping, "on_train_end", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run")
    monkeypatch.undo()
    history = go(None, resume=tmp_path / "run")
    assert "has not improved" in history.stopped
    assert (tmp_path / "run" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    assert status(tmp_path / "run") == "ended"


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_line(tmp_path, monkeypatch):
    images = np.repeat((IMAGES * 255).astype("u1"), 2, axis=2).repeat(2, axis=3)[:, 0, :8, :8]
    np.savez(tmp_path / "set.npz", x_train=images, y_train=LABELS, x_test=images[:6], y_test=LABELS[:6])
    options = "--epochs", 2, "--batch-size", 10, "--lr", 0.05, "--quiet", "--out"
    whole, taken = Step.take, []

    def take(self, x, labels):
        taken.append(1)
        if len(taken) == 2:
            send(signal.SIGTERM)()
        return whole(self, x, labels)

    assert invoke("train", tmp_path / "set.npz", *options, tmp_path / "whole").exit_code == 0
    monkeypatch.setattr(Step, "take", take)
    run = tmp_path / "run"
    ended = invoke("train", tmp_path / "set.npz", *options, run)
    assert ended.exit_code == 143
    assert f"`foveal train --resume {run}` goes on after step 2 of epoch 1." in ended.stderr
    command = json.loads((run / "run.json").read_text())["command"]
    assert command["words"][:3] == ["foveal", "train", str(tmp_path / "set.npz")]
    assert command["words"][2:] == list(map(str, (tmp_path / "set.npz", *options, run)))
    for words, given in (
        (f"--lr 0.5: {run} was started with 0.05", ("--lr", 0.5)),
        ("the schedule one-cycle is laid over all epochs", ("--epochs", 3)),
    ):
        refused = invoke("train", "--resume", run, *given)
        assert (refused.exit_code, words in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    # The data may have been moved, and what is given again as it was is no change.
    (tmp_path / "moved").mkdir()
    (tmp_path / "set.npz").rename(tmp_path / "moved" / "set.npz")
    ended = invoke("train", tmp_path / "moved" / "set.npz", "--resume", run, "--threads", 1, "--lr", 0.05)
    assert ended.exit_code == 0, ended.output
    assert (run / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    assert "there is nothing left to do" in invoke("train", "--resume", run).stdout
    assert invoke("train").exit_code == invoke("train", "--resume", tmp_path / "nowhere").exit_code == 2


def test_a_command_that_was_killed_after_its_training_still_does_the_rest(tmp_path, monkeypatch):
    images = np.repeat(np.arange(3, dtype=np.float32) / 3, 60)[RNG.permutation(180)]
    labels = np.round(images * 3).astype(np.int64)
    # Some labels are wrong, so that there is a temperature to find.
    labels[::7] = 0
    images = images[:, None, None, None] * np.ones((1, 1, 6, 6), np.float32)
    for split, part in (("train", slice(60)), ("validation", slice(60, 150)), ("test", slice(150, None))):
        folder = tmp_path / "photos" / split
        for i, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
            (folder / "abc"[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * image[0]).astype(np.uint8)).save(folder / "abc"[label] / f"{i}.png")
    options = "--model", "small", "--epochs", 2, "--image-size", "16x16", "--quiet", "--no-check", "--out"
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert invoke("train", tmp_path / "photos", *options, whole).exit_code == 0
    assert train.load_run(whole)[0].temperature != 1

    def killed(*given, **options):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr("foveal.train.calibration.calibrate", killed)
        assert invoke("train", tmp_path / "photos", *options, run).exit_code == 9
    assert invoke("train", "--resume", run).exit_code == 0
    for name in (MODEL, "MODEL.md", "predictions.npz"):
        assert (run / name).read_bytes() == (whole / name).read_bytes().replace(b"whole", b"run"), name
    assert (run / "report.html").exists()
    # Later, too, images are read as the run read them.
    written = invoke("report", run, tmp_path / "photos", "--json")
    assert (written.exit_code, "The worst mistakes" in (run / "report.html").read_text()) == (0, True), written.output
    assert "nothing left to do" in invoke("train", "--resume", run).stdout
    (tmp_path / "photos").rename(tmp_path / "gone")
    assert f"{tmp_path / 'photos'}: " in invoke("report", run, tmp_path / "photos", "--split", "0.5").stderr
    # What was typed is what makes the same run.
    words = json.loads((run / "run.json").read_text())["command"]["words"]
    assert words == ["foveal", "train", str(tmp_path / "photos"), *map(str, options), str(run)]
