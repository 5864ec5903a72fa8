"""Every option of every command with values that cannot be meant: status 2 and one line that says so, or it runs."""

import random

import click
import numpy as np
import pytest
from click.testing import CliRunner

import foveal.data
from foveal.cli import main
from foveal.errors import ShapeError
from foveal.explain import explain
from foveal.explain.windows import AxisWindow
from foveal.nn import models
from foveal.train import train

WHOLE = ("-1", str(10**12), str(2**70), "1" * 5000, "1e400", "nan", "inf", "", "1.5", "x")
REAL = ("-1", "1e400", "-inf", "inf", "nan", "1e308", "", "x")
WORDS = ("", "é", "n" * 5000, "-1", "[red]", "\x1b[31m", "\udcff")
# What stands before the option.
STARTS = {
    "train": ("train", "{}/set.npz", "--quiet", "--out", "{}/out", "--batch-size", "8", "--epochs", "1"),
    "tune": ("tune", "{}/set.npz", "--out", "{}/out", "--batch-size", "8", "--epochs", "1", "--steps", "3"),
    "evaluate": ("evaluate", "{}/run", "{}/set.npz"),
    "predict": ("predict", "{}/run", "{}/nix.png"),
    "explain": ("explain", "lenet5"),
    "bench models": ("bench", "models", "nix"),
    "bench infer": ("bench", "infer", "nix"),
    "bench ops": ("bench", "ops", "nix"),
    "bench memory": ("bench", "memory", "nix"),
    "bench threads": ("bench", "threads", "nix"),
    "bench ranks": ("bench", "ranks", "nix"),
    "bench curve": ("bench", "curve", "{}/nix"),
}


def command_of(name):
    command = main
    for word in name.split():
        command = command.get_command(click.Context(command), word)
    return command


def nasty(option):
    """The values that are tried for an option."""
    # The last imports PyTorch, which takes seconds.
    if option.is_flag or option.name in ("out", "path", "model"):
        return ()
    if isinstance(option.type, click.types.IntParamType):
        return WHOLE
    return REAL if isinstance(option.type, click.types.FloatParamType) else WORDS


OPTIONS = [
    (name, option)
    for name in STARTS
    for option in command_of(name).params
    if isinstance(option, click.Option) and nasty(option)
]
# What runs: none of these values is out of range for it.
RUNS = {("explain", "depth", str(10**12)), ("explain", "depth", str(2**70))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    y = np.arange(40) % 2
    x = (np.random.default_rng(0).integers(0, 60, (40, 8, 8)) + 180 * y[:, None, None]).astype("u1")
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    train(foveal.data.load(folder / "set.npz"), epochs=1, batch_size=8, threads=1, out=folder / "run", quiet=True)
    return folder


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name} {option.opts[-1]}" for name, option in OPTIONS])
def test_values_that_cannot_be_meant(place, name, option):
    for value in nasty(option):
        words = [*(word.format(place) for word in STARTS[name]), option.opts[-1], value]
        result = CliRunner().invoke(main, words)
        assert isinstance(result.exception, SystemExit | None), (value, result.exception)
        if (name, option.name, value) in RUNS:
            assert result.exit_code == 0
            continue
        assert (result.exit_code, result.stdout) == (2, ""), (value, result.output)
        # Click shows the usage first.
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, value
        assert result.stderr.splitlines()[-1] == errors[0], value


@pytest.mark.parametrize(
    "image",
    ["3x1000000x1000000", "0x0x0", "3x-1x4", f"{10**18}x8x8", f"3x{10**18}x1", "", "x", "xx", "3x8x8x8", "²x8x8"]
    + ["9" * 5000 + "x3x3", "1e3x8x8", " 3x8x8 ", "infx8x8", "3x16385x8"],
)
def test_images_that_cannot_be_explained(image):
    result = CliRunner().invoke(main, ["explain", "lenet5", "--input", image])
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


def test_an_image_as_large_as_is_said_can_be_explained():
    result = CliRunner().invoke(main, ["explain", "small", "--input", "3x16384x16", "--batch", "1000"])
    assert result.exit_code == 0
    with pytest.raises(ShapeError, match="at most 1,000,000 channels"):
        explain(models.build("small", channels=1, size=(8, 8), classes=2), (1, 20_000, 8))


def test_whether_windows_read_all_is_what_they_leave_unread():
    draw = random.Random(0)
    for _ in range(500):
        numbers = [draw.randint(1, 12), *(draw.randint(1, 4) for _ in range(3)), draw.randint(0, 3), draw.randint(0, 3)]
        window = AxisWindow(*numbers)
        assert window.reads_all == (window.outputs > 0 and not window.unread()), window


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xc3\x28" * 50, "no text in UTF-8"),
        (b"a" * 1_000_001, "more than 1,000,000 letters"),
        (b"ic" + b"9" * 5000 + b"ih3oc1kh1", "cannot be read from '99999"),
        (b"ic3ih8oc4kh3sh0", "has sh 0, it has to be 1 or more"),
        (b"g0ic3ih8oc4kh3", "has g 0"),
        (b"ic3ih0oc4kh3", "has ih 0"),
    ],
)
def test_files_of_shapes_that_cannot_be_meant(tmp_path, content, words):
    path = tmp_path / "shapes"
    path.write_bytes(content)
    result = CliRunner().invoke(main, ["bench", "ops", "--shapes", str(path)])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert words in line


def test_a_device_is_no_file_of_shapes():
    result = CliRunner().invoke(main, ["bench", "ops", "--shapes", "/dev/zero"])
    assert result.exit_code == 2
    assert "not a file of shapes" in result.stderr
