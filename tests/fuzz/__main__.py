"""The fuzzing command: see tests/fuzz/__init__.py. Ends with status 1 if there is a finding."""

import argparse
import collections
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from .judge import Case
from .samples import SAMPLES

# Seconds on the clock after which a worker is ended. A busy machine may need some more than the worker's own limit.
HANGS = 40.0
GOOD = ("read", "refused")


class Worker:
    """A process that judges; it is started anew after its end."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def verdict(self, case: Case) -> tuple[str, str]:
        """Return what the process says of a case, or how it ended."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


def keep(case: Case, folder: Path) -> Path:
    """Write the damaged file of a case into the folder and return its path."""
    name, files = case.files()
    path = folder / f"{case.format}-{case.seed}-{case.number}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files[name])
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Read damaged files of every format.")
    parser.add_argument("--files", type=int, default=1000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0, help="of all files")
    parser.add_argument("--format", choices=SAMPLES, help="this format alone")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this file of the format alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    default = Path(tempfile.gettempdir()) / "foveal-fuzz"
    parser.add_argument("--keep", type=Path, default=default, metavar="FOLDER", help="where files of findings go")
    options = parser.parse_args()
    formats = [options.format] if options.format else list(SAMPLES)
    # The valid sample of each format first, which is number 0.
    each = -(-options.files // len(formats))
    numbers = range(each + 1) if options.only is None else [options.only]
    cases = [Case(format, options.seed, number) for number in numbers for format in formats]
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for case, kind, details in judged(cases, max(1, min(options.jobs, len(cases)))):
        counts[case.format, kind if kind in GOOD else "findings"] += 1
        if kind not in GOOD:
            path = keep(case, options.keep)
            print(
                f"{case.format}: {kind}: {details}\n    {path}\n    python -m tests.fuzz --format {case.format}"
                f" --seed {case.seed} --only {case.number}"
            )
    for format in formats:
        shares = ", ".join(f"{counts[format, word]} {word}" for word in (*GOOD, "findings"))
        print(f"{format} (seed {options.seed}): {shares}")
    return int(any(word == "findings" for _, word in counts))


sys.exit(main())
