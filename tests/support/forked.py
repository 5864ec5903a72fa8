"""Programs that run as `python PATH` runs them, each in a fork of one process that has imported what many of them need.

A process of its own would take a second to import it. Where the system has no forks, each gets one.
"""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

NEEDED = ["foveal.ops", "foveal.nn", "foveal.optim", "foveal.train", "sklearn.datasets"]
FORKS = "forkserver" in multiprocessing.get_all_start_methods()


@cache
def python_path() -> list[str]:
    """Where a program finds modules beside those of its own folder; those of tests/support are not among them."""
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"]
    return json.loads(subprocess.check_output(command))


def begin(path: str, folder: str, modules: list[str], environment: dict[str, str], errors: str) -> None:
    """In the fork: run the program, with its output thrown away and its errors in a file. modules: their folders."""
    for place, stream in ((os.devnull, 1), (errors, 2)):
        file = os.open(place, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[:] = [path], [str(Path(path).parent), *modules]
    # what the program starts itself is no matter of this one
    multiprocessing.set_start_method(None, force=True)
    runpy.run_path(path, run_name="__main__")


def run(path: Path, folder: Path, errors: Path, timeout: float = 300) -> tuple[int, str]:
    """Return the exit status of a program that runs in a folder, and its errors, which are written to a file.

    It is killed when it takes longer than `timeout` seconds, and TimeoutExpired is raised. What `atexit` would call is
    called of no fork.
    """
    errors.write_text("")
    if not FORKS:
        with errors.open("wb") as file:
            command = [sys.executable, str(path)]
            ended = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=file, timeout=timeout)
        return ended.returncode, errors.read_text()
    context = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(NEEDED)
    arguments = (str(path), str(folder), python_path(), dict(os.environ), str(errors))
    process = context.Process(target=begin, args=arguments)
    process.start()
    process.join(timeout)
    hangs = process.exitcode is None
    process.kill()
    process.join()
    status = process.exitcode
    process.close()
    if hangs:
        raise subprocess.TimeoutExpired(str(path), timeout, stderr=errors.read_text())
    return status, errors.read_text()


def run_code(code: str, folder: Path, timeout: float = 300) -> tuple[int, str]:
    """Return the exit status and the errors of a program that is given as text; folder: where it may be written."""
    path = folder / "program.py"
    path.write_text(code)
    return run(path, folder, folder / "errors", timeout)
