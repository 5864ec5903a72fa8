"""Programs in forks end as `python PATH` would end them, so that no failure passes for a success."""

import subprocess

import forked
import pytest

ENDS = {
    "import sys; print(sys.argv, __name__, file=sys.stderr)": 0,
    "raise ValueError": 1,
    "import sys; sys.exit('text')": 1,
    "import sys; sys.exit(3)": 3,
    "import os; os.abort()": -6,
    "import os; os._exit(7)": 7,
    # a module of the tests
    "import checks": 1,
    "import multiprocessing, sys; print(multiprocessing.get_start_method(), *sys.path, sep='\\n', file=sys.stderr)": 0,
    "import os, sys; print(os.environ['OF_THE_TEST'], os.getcwd(), file=sys.stderr)": 0,
}


@pytest.mark.parametrize(("code", "wanted"), ENDS.items())
def test_a_program_ends_in_a_fork_as_in_a_process(code, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", "here")
    found = forked.run_code(code, tmp_path)
    monkeypatch.setattr(forked, "FORKS", False)
    status, errors = forked.run_code(code, tmp_path)
    assert found[0] == status == wanted
    # the traceback in a fork also has the functions that run the program
    assert found[1].splitlines()[-1:] == errors.splitlines()[-1:]
    if wanted == 0:
        assert found[1] == errors


@pytest.mark.parametrize("forks", [forked.FORKS, False])
def test_a_program_that_hangs_is_killed(forks, tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "FORKS", forks)
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run_code("while True: pass", tmp_path, timeout=2)


def test_errors_of_an_earlier_program_are_gone(tmp_path):
    forked.run_code("raise ValueError", tmp_path)
    assert forked.run_code("", tmp_path) == (0, "")
