"""Processes that judge cases: each is started anew after its end."""

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from .judge import Case

ROOT = Path(__file__).parents[2]
# Seconds on the clock after which a worker is ended. A busy machine may need some more than the worker's own limit.
HANGS = 40.0


class Worker:
    """A process that judges; it is started anew after its end."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def verdict(self, case: Case) -> tuple[str, str]:
        """Return what the process says of a case, or how it ended."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(case) + "\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANGS)
        line = process.stdout.readline() if ready else ""
        if line:
            kind, details = json.loads(line)
            return kind, details
        self.close(kill=not ready)
        return ("hang", f"no answer in {HANGS:.0f} s") if not ready else ("crash", f"status {process.returncode}")

    def close(self, kill: bool = False) -> None:
        if self.process is not None:
            if kill:
                self.process.kill()
            self.process.communicate()
            self.process = None


def judged(cases: list[Case], jobs: int) -> Iterator[tuple[Case, str, str]]:
    """Judge all cases by that many workers, and yield each with its verdict, in order."""
    with ThreadPoolExecutor(jobs) as pool:
        parts = [cases[i::jobs] for i in range(jobs)]
        yield from (result for results in pool.map(judge_all, parts) for result in results)


def judge_all(cases: list[Case]) -> list[tuple[Case, str, str]]:
    worker = Worker()
    try:
        return [(case, *worker.verdict(case)) for case in cases]
    finally:
        worker.close()
