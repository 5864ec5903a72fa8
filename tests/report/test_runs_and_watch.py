"""Runs beside each other, damaged ones too; and a run while it goes on."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from foveal import report
from foveal.cli import main
from foveal.cli.report import KEYS as SORTED_BY
from foveal.errors import DataError, PackageError
from foveal.report.record import read_record
from foveal.report.recorder import MAX_STEPS
from foveal.report.runs import KEYS
from foveal.report.write import Findings, render


def line(epoch, accuracy):
    part = {"loss": 1 / epoch, "accuracy": accuracy}
    return {"epoch": epoch, "lr": 0.1, "train": part, "test": part, "seconds": 1.5 * epoch, "images_per_second": 9.0}


def made_run(folder, accuracies, planned=None):
    folder.mkdir(parents=True)
    lines = [line(epoch, accuracy) for epoch, accuracy in enumerate(accuracies, 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    done = {"epochs": planned or len(lines), "epochs_done": len(lines), "data": "d", "model": "lenet5", "seconds": 9.5}
    (folder / "metrics.json").write_text(json.dumps({**done, "test": lines[-1]["test"]}))
    (folder / "model.safetensors").write_bytes(bytes(2048))
    return folder


@pytest.fixture
def place(tmp_path):
    made_run(tmp_path / "good", [0.5, 0.9])
    made_run(tmp_path / "deep" / "better", [0.6, 0.95])
    made_run(tmp_path / "deep" / "better" / "earlier-1", [0.1])
    made_run(tmp_path / "short", [0.4], planned=9)
    damaged = made_run(tmp_path / "dam<b>aged", [0.7])
    (damaged / "metrics.json").write_text('{"epochs": ')
    interrupted = made_run(tmp_path / "interrupted", [0.2], planned=4)
    (interrupted / "run.json").write_text('{"status": "interrupted"}')
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "log.jsonl").write_text(json.dumps(line(1, 0.3)) + "\n")
    return tmp_path


def test_runs_are_compared_with_damaged_and_unfinished_ones(place):
    found = report.compare(place, "accuracy")
    states = {row["run"]: row["state"] for row in found.rows}
    assert list(states) == ["deep/better", "good", "dam<b>aged", "short", "cut", "interrupted"]
    assert list(states.values()) == ["done", "done", "damaged", "stopped early", "unfinished", "interrupted"]
    assert found.rows[1]["accuracy"] == 0.9
    assert "metrics.json: no JSON object" in found.rows[2]["problem"]
    assert [row["loss"] for row in report.compare(place, "loss").rows] == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    text = found.write_html(place / "all.html").read_text()
    assert "dam&lt;b&gt;aged" in text
    assert text.count("<svg") == 4
    assert len(report.compare(place / "good").rows) == 1


def test_a_run_that_goes_on_and_one_that_was_killed(place):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, host, state in (
        (os.getpid(), socket.gethostname(), "running"),
        (ended.pid, socket.gethostname(), "killed"),
        (os.getpid(), "elsewhere", "running, or killed"),
    ):
        (place / "good" / ".lock").write_text(f"{pid} on {host}")
        assert read_record(place / "good").status == state


def test_watching_ends_with_ctrl_c(place):
    command = [sys.executable, "-c", "from foveal.cli import main; main()", "watch", str(place / "good"), "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = json.loads(watching.stdout.readline())["url"]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert "90.00%" in answer.read().decode()
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=60)
        assert (watching.returncode, errors.strip()) == (0, "")
    finally:
        watching.kill()


def test_runs_on_the_command_line(place, tmp_path_factory):
    result = CliRunner().invoke(main, ["runs", str(place), "--html", str(place / "all.html"), "--sort", "seconds"])
    assert result.exit_code == 0, result.output
    assert "95.00%" in result.stdout
    rows = json.loads(CliRunner().invoke(main, ["runs", str(place), "--json"]).stdout)
    assert {row["run"]: row["size"] for row in rows}["good"] == 2048
    for wrong, message in (
        (place / "nowhere", "there is no such folder"),
        (tmp_path_factory.mktemp("empty"), "there are no runs in it"),
    ):
        with pytest.raises(DataError, match=message):
            report.compare(wrong)
    assert tuple(KEYS) == SORTED_BY
    with pytest.raises(DataError, match="sort is 'size of it'"):
        report.compare(place, "size of it")


WEIRD = (None, True, "text", [], {}, [1], {"loss": "x"}, -1, 1e308, 10**400, float("nan"), float("inf"), "\ud800<b>")


def test_files_with_any_content_make_a_page_and_a_row(tmp_path):
    rng = np.random.default_rng(0)
    weird = lambda: WEIRD[rng.integers(len(WEIRD))]  # noqa: E731
    names = [
        "epoch",
        "epochs",
        "epochs_done",
        "lr",
        "train",
        "test",
        "seconds",
        "data",
        "model",
        "memory_bytes",
        "findings",
    ]
    names += ["images_per_second", "step", "loss", "momentum", "command", "versions", "seed", "status", "parameters"]
    for _ in range(60):
        run = made_run(tmp_path / str(rng.integers(2**60)), [0.5, 0.6])
        for name in ("metrics.json", "steps.json", "run.json", "doctor.json"):
            if rng.random() < 0.7:
                found = json.loads((run / name).read_text()) if (run / name).exists() else {}
                (run / name).write_text(json.dumps(found | {key: weird() for key in rng.choice(names, 6)}))
        if rng.random() < 0.5:
            (run / "log.jsonl").write_text(json.dumps({**line(1, 0.5), **{k: weird() for k in rng.choice(names, 3)}}))
        text = render(read_record(run), Findings())
        assert "<b>" not in text.replace("<figcaption><b>", "")
    found = report.compare(tmp_path, "accuracy")
    assert len(found.rows) == 60
    assert "nan" not in str(found)
    found.write_html(tmp_path / "all.html")


def asked(live, path="/", host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", live.server.server_port, timeout=5)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer, content


def test_a_run_is_watched_from_before_its_first_epoch_to_its_report(tmp_path):
    folder = tmp_path / "later"
    with report.watch(folder) as live:
        answer, text = asked(live)
        assert answer.status == 200
        assert "the run is about to begin" in text
        assert 'http-equiv="refresh"' in text
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        made_run(folder, [0.5, 0.8])
        (folder / ".lock").touch()
        assert "80.00%" in asked(live)[1]
        (folder / "report.html").write_text("the whole report")
        assert asked(live)[1] == "the whole report"
        assert asked(live, method="HEAD")[1] == ""
        assert asked(live, host=f"localhost:{live.server.server_port}")[0].status == 200
        # A new run in the same folder: the report is the older run's.
        steps = {"step": [1], "lr": [0.1], "momentum": [None], "loss": [2.0], "seconds": [], "running": True}
        (folder / "steps.json").write_text(json.dumps(steps))
        found = asked(live)[1]
        assert "Loss of the batches" in found
        assert "80.00%" not in found


def test_nothing_but_the_report_is_served_and_nobody_else_is_answered(tmp_path):
    made_run(tmp_path / "run", [0.5])
    (tmp_path / "secret").write_text("secret")
    with report.watch(tmp_path / "run") as live:
        for path in ("/../secret", "/%2e%2e/secret", "/model.safetensors", "/log.jsonl", "/report.html/../log.jsonl"):
            answer, text = asked(live, path)
            assert answer.status == 404
            assert "secret" not in text
        for host in ("evil.example", f"evil.example:{live.server.server_port}", "127.0.0.1", ""):
            assert asked(live, host=host)[0].status == 403
        with pytest.raises(DataError, match=r"cannot be used .*choose another one"):
            report.watch(tmp_path, live.server.server_port)
    with pytest.raises(DataError, match="port is 70000"):
        report.watch(tmp_path, 70000)
    with pytest.raises(DataError, match="secret is no folder"):
        report.watch(tmp_path / "secret")


def begun(folder, resumed=False):
    recorder = report.Recorder(folder)
    recorder.run = SimpleNamespace(folder=None, optimizer=SimpleNamespace(momentum=0.9), resumed=resumed)
    recorder.on_train_begin()
    return recorder


def test_of_a_long_run_steps_at_equal_distances_are_kept(tmp_path):
    recorder = begun(tmp_path)
    for step in range(1, 3 * MAX_STEPS + 1):
        recorder.on_step_end({"loss": float(step), "lr": 0.1})
    recorder.on_train_end()
    steps = read_record(tmp_path).steps
    assert MAX_STEPS / 2 <= len(steps["step"]) < MAX_STEPS
    assert set(np.diff(steps["step"])) == {4.0}
    # Each loss is the mean of those since the row before.
    np.testing.assert_allclose(steps["loss"], np.array(steps["step"]) - 1.5)
    assert set(steps["momentum"]) == {0.9}


def test_a_recorder_goes_on_where_a_run_is_resumed(tmp_path):
    whole, first = begun(tmp_path / "."), begun(tmp_path)
    for step in range(10):
        for recorder in (whole, *([first] if step < 6 else [])):
            recorder.on_step_end({"loss": float(step), "lr": 0.1})
    second = report.Recorder(tmp_path)
    second.load_state_dict({name: np.array(value) for name, value in first.state_dict().items()})
    second.run = SimpleNamespace(folder=None, optimizer=SimpleNamespace(momentum=0.9), resumed=True)
    second.on_train_begin()
    for step in range(6, 10):
        second.on_step_end({"loss": float(step), "lr": 0.1})
    assert second.rows == whole.rows


def test_without_tensorboardx_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(PackageError, match=r"pip install 'foveal\[tensorboard\]'"):
        report.TensorBoard(tmp_path)
    result = CliRunner().invoke(main, ["train", "digits", "--tensorboard", "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "tensorboardX" in result.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_tensorboards_files_are_written(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = report.TensorBoard(tmp_path / "board")
    writer.run = SimpleNamespace(resumed=False)
    for _ in range(2):
        writer.on_train_begin()
        writer.on_step_end({"loss": 1.0, "lr": 0.1})
        writer.on_epoch_end({"epoch": 1, "train loss": 1.0, "test accuracy": 0.5, "images per second": 9.0})
        writer.on_train_end()
    # Those of the first training are kept apart.
    paths = [path for path in (tmp_path / "board").rglob("*") if path.is_file()]
    assert sorted(path.parent.name for path in paths) == ["board", "earlier-1"]
    for path in paths:
        content = path.read_bytes()
        for tag in (b"step/loss", b"step/lr", b"loss/train", b"accuracy/test", b"run/images_per_second"):
            assert tag in content
