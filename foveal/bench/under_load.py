"""Inference on one image, and training steps, while other processes want the processors too; several threads that call.

A shared machine is measured: contenders take turns, a fifth of a second each, so that all of them meet the same load.
Beside the median there is the 99th percentile, which is what those see who wait for an answer, and the rate of all
calls together.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from foveal.bench import timing
from foveal.bench.models import ModelWork
from foveal.bench.timing import Bench, Contender, Record, Starting

# Seconds of calls of a contender in a round: many slices of time that the system gives a process.
SLICE = 0.2
# A process that computes and nothing else, until it is ended or its parent is gone. Ctrl-C is for its parent.
BUSY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(end=".", flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Inside of the block so many processes compute without end; yields their numbers.

    They are ended however the block is left. They are in this process's session, since Linux shares the processors out
    among sessions first.
    """
    processes: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-I", "-S", "-c", BUSY, str(os.getpid())]
    try:
        for _ in range(count):
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            process.stdout.read(1)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


@dataclass
class Calls:
    """What was measured of one contender: the seconds of each call, and of all rounds together."""

    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return milliseconds of a call by name, and how many calls a second were answered."""
        milliseconds = 1e3 * np.array(self.seconds)
        return {
            "ms": float(median(milliseconds)),
            "p99_ms": float(np.percentile(milliseconds, 99)),
            "best_ms": float(milliseconds.min()),
            "rate": len(self.seconds) / self.wall,
        }


# Calls of one model by all frameworks, inside of a block, and the operations of a call.
Contenders = Callable[[str, ModelWork, Bench], AbstractContextManager[tuple[dict[str, Contender], int]]]


def records(
    contenders: Contenders,
    works: dict[str, ModelWork],
    loads: Sequence[int],
    callers: int,
    bench: Bench,
    starting: Starting,
) -> Iterator[Record]:
    """Yield a record for each model and each number of busy processes."""
    for name, work in works.items():
        with contenders(name, work, bench) as (calls, _):
            for load in loads:
                starting(f"{name} beside {load} busy processes")
                with busy(load):
                    measured = take_turns(calls, bench.repeats, callers)
                yield record(name, load, callers, bench, measured)


def take_turns(calls: Mapping[str, Contender], repeats: int, callers: int) -> dict[str, Calls]:
    """Let the contenders take turns in `repeats` rounds, each called by so many threads."""
    measured = {name: Calls() for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(timing.PAUSE)
            call()
            started = time.perf_counter()
            threads = [threading.Thread(target=repeat, args=(call, measured[name].seconds)) for _ in range(callers - 1)]
            for thread in threads:
                thread.start()
            repeat(call, measured[name].seconds)
            for thread in threads:
                thread.join()
            measured[name].wall += time.perf_counter() - started
    return measured


def repeat(call: Contender, seconds: list[float]) -> None:
    """Call as long as a turn lasts, at least once."""
    end = time.perf_counter() + SLICE
    while True:
        seconds.append(timing.seconds(call))
        if time.perf_counter() > end:
            return


def record(name: str, load: int, callers: int, bench: Bench, measured: dict[str, Calls]) -> Record:
    """Return the row for the table and for JSON; a ratio is above 1 where Foveal is better."""
    figures = {contender: calls.figures() for contender, calls in measured.items()}
    ours, other = figures.pop("ours"), bench.other
    theirs = min(figures.values(), key=lambda them: them["ms"]) if figures else None
    row: Record = {"name": name, "load": load, "callers": callers, "threads": bench.threads}
    row["calls"] = len(measured["ours"].seconds)
    for key, mine in ours.items():
        row[f"ours_{key}"] = mine
        row[f"{other}_{key}"] = theirs[key] if theirs else None
        ratio = None if theirs is None else mine / theirs[key] if key == "rate" else theirs[key] / mine
        row[f"ratio_{key}"] = ratio
    return row


def columns(other: str) -> dict[str, str]:
    """Return the table's columns in order, with their formats; `other` is the framework compared with."""
    of_figures = {
        f"{who}_{key}": ".2f" if who == "ratio" else form
        for key, form in {"ms": ".3f", "p99_ms": ".3f", "rate": ".0f"}.items()
        for who in ("ours", other, "ratio")
    }
    return {"name": "", "load": "", "callers": "", "calls": "", **of_figures}
