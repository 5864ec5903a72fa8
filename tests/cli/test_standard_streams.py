"""Standard output and standard error that are full, closed or read no further, and errors that nobody foresaw."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import foveal.data
from foveal import workers
from foveal.cli import main
from foveal.errors import FovealError
from foveal.system import max_threads
from foveal.train import train

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def ended(*words, **options):
    """Run the command line in a process of its own; return its status and the lines on standard error."""
    command = [sys.executable, "-m", "foveal", *map(str, words)]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, **options)
    return result.returncode, result.stderr.splitlines()


def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    y = np.arange(40) % 2
    x = (np.random.default_rng(0).integers(0, 60, (40, 8, 8)) + 180 * y[:, None, None]).astype("u1")
    path = tmp_path_factory.mktemp("streams") / "set.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


@pytest.fixture(scope="module")
def run(data):
    """The folder of a run on the data."""
    folder = data.parent / "run"
    train(foveal.data.load(data), epochs=1, batch_size=8, threads=1, out=folder, quiet=True)
    return folder


def trained(data, folder, **options):
    """Train with standard output as given; return status and lines."""
    words = ("train", data, "--epochs", 1, "--batch-size", 8, "--threads", 1, "--out", folder)
    result = ended(*words, **options)
    assert (folder / "metrics.json").exists()
    return result


@needs_full
def test_training_goes_on_when_its_output_is_full_and_says_so_once(data, tmp_path):
    with FULL.open("w") as full:
        status, lines = trained(data, tmp_path, stdout=full)
    assert status == 0
    (line,) = lines
    assert line.startswith("Warning: standard output cannot be written: No space left on device; what")


def test_training_goes_on_when_nobody_reads(data, tmp_path):
    writing = closed_pipe()
    status, lines = trained(data, tmp_path, stdout=writing)
    os.close(writing)
    assert status == 0
    (line,) = lines
    assert "Broken pipe" in line


def test_training_goes_on_without_any_stream(data, tmp_path):
    close = "import os, sys; os.closerange(0, 3); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    words = ["-m", "foveal", "train", data, "--epochs", "1", "--batch-size", "8", "--threads", "1", "--out", tmp_path]
    result = subprocess.run([sys.executable, "-c", close, *map(str, words)], timeout=60)
    assert result.returncode == 0
    assert (tmp_path / "metrics.json").exists()


def test_a_command_whose_output_nobody_reads_ends_quietly():
    writing = closed_pipe()
    assert ended("explain", "lenet5", stdout=writing) == (141, [])
    os.close(writing)


@needs_full
def test_a_command_whose_output_is_full_says_so():
    with FULL.open("w") as full:
        for words in (("explain", "lenet5"), ("--help",)):
            status, lines = ended(*words, stdout=full)
            assert (status, lines) == (2, ["Error: standard output cannot be written: No space left on device"])


@needs_full
def test_errors_keep_their_status_when_standard_error_is_full():
    with FULL.open("w") as full:
        result = subprocess.run([sys.executable, "-m", "foveal", "explain", "nix"], stderr=full, timeout=60)
    assert result.returncode == 2


def test_a_name_that_the_terminal_cannot_show(run, tmp_path):
    """Names of files that are no UTF-8, and a terminal that knows ASCII alone."""
    image = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("L", (8, 8), 200).save(os.fsdecode(image))
    command = [sys.executable, "-m", "foveal", "predict", str(run), image]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert result.returncode == 0, result.stderr
    assert b"caf\\xe9.png" in result.stdout


def test_lines_of_libraries_do_not_stand_before_the_message(run, tmp_path):
    # The pixels of a TIFF that libtiff unpacks, damaged.
    path = tmp_path / "torn.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path, compression="tiff_lzw")
    raw = path.read_bytes()
    path.write_bytes(raw[:20] + bytes(2000) + raw[2020:])
    status, lines = ended("predict", run, path, stdout=subprocess.DEVNULL)
    assert status
    (line,) = lines
    assert "torn.tif: not a readable image" in line


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError("Unable to allocate 3 TiB"), 2, "not enough memory (Unable to allocate 3 TiB); use smaller"),
        (OSError(36, "File name too long", "nnn"), 2, "nnn: File name too long"),
        (OSError("no number"), 2, "no number"),
        (FovealError("a message"), 2, "Error: a message"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ZeroDivisionError("division\nby zero"), 1, "fault in Foveal (ZeroDivisionError: division); please report it"),
        (RecursionError("too deep"), 1, "please report it with"),
    ],
)
def test_each_kind_of_error_is_one_message(monkeypatch, tmp_path, error, status, words):
    def fail(**options):
        raise error

    monkeypatch.setattr(main.commands["doctor"], "callback", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == status
    (line,) = result.stderr.split("\n")[-2:-1]
    assert words in line
    if status == 1:
        (kept,) = tmp_path.iterdir()
        assert str(kept) in line
        assert type(error).__name__ in kept.read_text()


def test_a_fault_shows_its_traceback_where_debug_asks_for_it(monkeypatch):
    def fail(**options):
        raise ZeroDivisionError

    monkeypatch.setattr(main.commands["doctor"], "callback", fail)
    monkeypatch.setenv("DEBUG", "1")
    assert isinstance(CliRunner().invoke(main, ["doctor"]).exception, ZeroDivisionError)


def test_warnings_of_others_are_left_out_and_foveals_are_lines():
    code = (
        "import warnings, foveal.errors, click; from foveal.cli import main;"
        "Own = type('Own', (UserWarning,), {'__module__': 'foveal.errors'});"
        "main.add_command(click.Command('warn', callback=lambda: [warnings.warn(kind('said')) for kind in"
        " (Own, RuntimeWarning, UserWarning, DeprecationWarning)])); main(['warn'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (result.returncode, result.stderr) == (0, "Warning: said\n")
    assert warnings.filters


def test_more_threads_than_can_pay_are_refused(data):
    most = max_threads()
    for count in (most + 1, 5000, 100_000, 10**6):
        result = CliRunner().invoke(main, ["train", str(data), "--threads", str(count)])
        assert result.exit_code == 2
        assert f"{count} threads: more than {most}" in result.stderr
    with pytest.raises(FovealError, match="5000000 threads: more than"):
        workers.set_threads(5_000_000)
