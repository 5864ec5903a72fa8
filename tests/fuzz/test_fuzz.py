"""A short run of the fuzzing command, and that it finds what is wrong."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from foveal.errors import DataError

from . import judge, pool
from .samples import SAMPLES

CASE = judge.Case("bmp", 0, 1)


def test_damaged_files_of_every_format_are_one_message_or_right(tmp_path):
    options = ["--files", "200", "--seed", "0", "--jobs", "1", "--keep", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz", *options]
    ended = subprocess.run(command, cwd=pool.ROOT, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert not list(tmp_path.iterdir())
    assert len(ended.stdout.splitlines()) == len(SAMPLES)


def test_a_file_depends_on_format_seed_and_number_alone():
    cases = [judge.Case(format, 3, number) for format in SAMPLES for number in (0, 1, 2)]
    assert all(case.files() == case.files() for case in cases)
    assert len({str(case.files()) for case in cases}) == len(cases)


def reader(result):
    """A reader of images that returns or raises the result, or calls it."""

    def read(path, channels, height, width):
        found = result() if callable(result) else result
        if isinstance(found, Exception):
            raise found
        return found

    return read


RIGHT = np.zeros((3, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (RIGHT, "read"),
        (RIGHT[:1], "wrong result"),
        (RIGHT - 1, "wrong result"),
        (RIGHT + np.nan, "wrong result"),
        (KeyError("k"), "KeyError is raised"),
        (MemoryError(), "MemoryError is raised"),
        (DataError("two\nlines"), "more than one line"),
        (DataError("no name"), "a message that does not name the file"),
        (lambda: warnings.warn("a warning", stacklevel=1), "UserWarning is raised"),
        (RIGHT.astype(np.float64), "wrong result"),
    ],
)
def test_what_is_wrong_is_found(monkeypatch, tmp_path, result, kind):
    monkeypatch.setattr(judge, "read_image", reader(result))
    assert judge.judge(CASE, tmp_path)[0] == kind


def test_what_takes_too_long_or_too_much_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(judge, "read_image", reader(RIGHT))
    with monkeypatch.context() as patch:
        # before and after
        patch.setattr(judge, "peak", iter([5, 5 + judge.MAX_BYTES + 1]).__next__)
        assert judge.judge(CASE, tmp_path)[0] == "memory"
    monkeypatch.setattr(judge, "MAX_SECONDS", 0.0)
    assert judge.judge(CASE, tmp_path)[0] == "slow"


@pytest.mark.skipif(not judge.peak(), reason="this system does not say how much memory a process has held")
def test_memory_that_was_freed_again_counts():
    """In a process of its own, where no garbage of other tests is freed at the same time."""
    code = """
import numpy as np
from tests.fuzz import judge
np.ones(3 * 10**7)
judge.reset_peak()
before = judge.peak()
np.ones(10**7)
assert 7 * 10**7 < judge.peak() - before < 9 * 10**7
"""
    subprocess.run([sys.executable, "-c", code], cwd=pool.ROOT, check=True, timeout=60)


def test_a_worker_that_ends_or_hangs_is_a_finding(monkeypatch):
    worker = pool.Worker()
    assert worker.verdict(judge.Case("nix", 0, 0)) == ("crash", "status 1")
    monkeypatch.setattr(pool, "HANGS", 0.0)
    assert worker.verdict(CASE)[0] == "hang"
    assert worker.process is None
