"""Where the time of a program goes, and what the DEBUG ladder shows of it."""

import inspect
import time
from dataclasses import dataclass

import numpy as np

from foveal import debug
from foveal.balance import divide, sections
from foveal.kernel.compile import Size
from foveal.peak import peak
from foveal.program import Program
from foveal.strides import Ndarray


@dataclass(frozen=True)
class Timing:
    """One group of a program."""

    #: the operators it computes and what it stores
    name: str
    #: the names of its kernels
    kernels: str
    #: seconds of its calls, with the barriers after them
    seconds: float
    #: multiplications and additions of convolutions and matrix products; 0 for all else
    flops: int


def timings(program: Program, repeats: int = 5) -> list[Timing]:
    """Return the median time of each group, run on the arguments that are in memory now.

    Running changes what a program updates: timing a training step trains.
    """
    return by_group(program, call_seconds(program, repeats)[0])


def call_seconds(program: Program, repeats: int = 5) -> tuple[Ndarray, Ndarray]:
    """Return of each repeated call, in each of some runs, its seconds with the barrier after it, and the seconds that
    the program's threads wait at this barrier, all together: two arrays [repeats, calls].

    A thread that does not come to a section waits as long as that takes. Running changes what a program updates.
    """
    program.launch()
    barriers = np.array(program.schedule.barriers[program.prepared :], bool)
    barriers[-1:] = True
    seconds, waits = (np.zeros((repeats, len(barriers))) for _ in range(2))
    for run in range(repeats):
        before = time.perf_counter()
        program.launch(timed=True)
        wall = time.perf_counter() - before
        begin, sums, counts = program.times[program.prepared, 0], *program.times[program.prepared + 1 :, 1:].T
        stamps = program.times[program.prepared + 1 :, 0]
        ticks = np.diff(stamps, prepend=begin).astype(np.float64)
        # The differences fit where the sums, modulo 2^64, do not.
        waited = np.maximum(counts * stamps - sums, 0).astype(np.float64)
        # The clock's rate is unknown, so ticks are shares of the wall time; equal ones if it did not go on.
        ticks = ticks if ticks.any() else np.ones(len(ticks))
        rate = wall / ticks.sum() if len(ticks) else 0.0
        ends = np.cumsum(ticks)
        begins = np.diff(ends[barriers], prepend=0.0)
        waited[barriers] += np.maximum(program.threads - counts[barriers], 0) * begins
        seconds[run], waits[run] = ticks * rate, np.where(barriers, waited, 0.0) * rate
    return seconds, waits


def by_group(program: Program, seconds: Ndarray) -> list[Timing]:
    """Return the median time of each group, of the seconds of the repeated calls in each of some runs."""
    group_of_call = np.array([call.group for call in program.schedule.repeated], int)
    rows = [np.bincount(group_of_call, run, len(program.groups) + 1) for run in seconds]
    names = [group.what() for group in program.groups] + ["copies of what is updated"]
    flops = [group.flops() for group in program.groups] + [0]
    kernels = [
        " ".join(dict.fromkeys(call.kernel.name for call in program.calls if call.group == i))
        for i in range(len(names))
    ]
    rows_of_groups = zip(names, kernels, np.median(rows, axis=0), flops, strict=True)
    return [Timing(name, kernel, float(s), n) for name, kernel, s, n in rows_of_groups if kernel]


def show_timings(program: Program) -> None:
    """With DEBUG=2, show the time and the share of peak of each group, once per program. To be called after a run."""
    if debug.level() < debug.TIME or program.profiled:
        return
    program.profiled = True
    # The kernel that measures the peak is none of the program's, so its code is not shown.
    with debug.at(debug.TIME):
        peak_rate = peak(program.threads)
    lines = ["      ms   share  GFLOP/s  of peak  kernels: what they compute"]
    seconds, waits = call_seconds(program)
    measured = by_group(program, seconds)
    total = sum(t.seconds for t in measured)
    for t in sorted(measured, key=lambda t: -t.seconds):
        rate = t.flops / max(t.seconds, 1e-9) / 1e9
        speed = f"{rate:8.1f} {rate / peak_rate:8.0%}" if t.flops else " " * 17
        lines.append(f"{t.seconds * 1e3:8.3f} {t.seconds / total:7.1%} {speed}  {t.kernels}: {t.name}")
    if program.threads > 1 and total:
        lines += division(program, np.median(seconds, axis=0).tolist(), float(np.median(waits.sum(axis=1))))
    title = f"{total * 1e3:.2f} ms on {program.threads} thread(s), peak {peak_rate:.0f} GFLOP/s"
    debug.show(title, "\n".join(lines))


def division(program: Program, seconds: list[float], waited: float) -> list[str]:
    """Return the lines about what threads do not share: barriers, calls of one piece, pieces that do not come out even.

    seconds: of each repeated call. waited: seconds that all threads together wait at barriers.
    """
    found, threads, total = sections(program), program.threads, sum(seconds)
    how = divide(found, seconds, threads)
    names = [call.python.op.name if call.python else call.kernel.name for call in program.schedule.repeated]
    single, lost = (f", most in {names[i]}" if i is not None else "" for i in (how.worst_single, how.worst_lost))
    mean, alone, uneven = waited / threads, how.single_seconds / total, how.lost_seconds / total
    return [
        f"{threads} threads meet at {how.barriers} barriers and wait there {mean / total:.1%} of the time,"
        f" {1e6 * mean / max(how.barriers, 1):.1f} us each time",
        f"what cannot be split: {alone:.1%} of the time, in {how.single} calls of one piece{single};"
        f" {uneven:.1%} is lost where pieces do not come out even on {threads} threads{lost}",
    ]


def show(program: Program) -> None:
    """Show what the DEBUG ladder asks for of a program that has been built."""
    level = debug.level()
    if level >= debug.PROGRAM:
        debug.show(program.summary())
    if level >= debug.GRAPH:
        debug.show(str(program.graph))
        debug.show("groups", "\n".join(f"  {group}" for group in program.groups))
        debug.show("layout", str(program.layout))
    if level >= debug.SOURCE:
        lines = []
        for call in program.calls:
            shapes = ", ".join(str(list(view.shape)) for view in call.views)
            # What the call gives is shown by its value.
            given = {k: call.sizes[v.index] if isinstance(v, Size) else v for k, v in call.kernel.static}
            lines.append(f"  {call.kernel.name}({shapes}) {given}")
        debug.show("calls", "\n".join(lines))
        for body in dict.fromkeys(kernel.body for call in program.calls for kernel in call.kernels):
            debug.show(f"{body.__module__}.{body.__qualname__}", inspect.getsource(body))
