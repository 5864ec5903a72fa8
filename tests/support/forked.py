"""Programs that run as `python PATH` runs them, each in a fork of one process that has imported what many of them need.

A process of its own would take a second to import it. Where the system has no forks, each gets one.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

NEEDED = ["foveal.ops", "foveal.nn", "foveal.optim", "foveal.train", "sklearn.datasets"]
FORKS = "forkserver" in multiprocessing.get_all_start_methods()


def begin(path: str, folder: str, environment: dict[str, str], errors: str) -> None:
    """In the fork: run the program, with its output thrown away and its errors in a file."""
    for place, stream in ((os.devnull, 1), (errors, 2)):
        file = os.open(place, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0:0] = [path], [str(Path(path).parent)]
    runpy.run_path(path, run_name="__main__")


def run(path: Path, folder: Path, errors: Path, timeout: float = 300) -> tuple[int, str]:
    """Return the exit status of a program that runs in a folder, and its errors, which are written to a file.

    It is killed when it takes longer than `timeout` seconds. What `atexit` would call is called of no fork.
    """
    errors.touch()
    if not FORKS:
        with errors.open("wb") as file:
            command = [sys.executable, str(path)]
            ended = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=file, timeout=timeout)
        return ended.returncode, errors.read_text()
    context = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(NEEDED)
    process = context.Process(target=begin, args=(str(path), str(folder), dict(os.environ), str(errors)))
    process.start()
    process.join(timeout)
    process.kill()
    process.join()
    status = process.exitcode
    process.close()
    return status, errors.read_text()


def run_code(code: str, folder: Path, timeout: float = 300) -> tuple[int, str]:
    """Return the exit status and the errors of a program that is given as text; folder: where it may be written."""
    path = folder / "program.py"
    path.write_text(code)
    return run(path, folder, folder / "errors", timeout)
