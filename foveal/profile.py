"""Where the time of a program goes, and what the DEBUG ladder shows of it."""

import inspect
import time
from dataclasses import dataclass

import numpy as np

from foveal import debug
from foveal.kernel.compile import Size
from foveal.peak import peak
from foveal.program import Program


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
    program.launch()
    group_of_call = np.array([call.group for call in program.schedule.repeated])
    rows = []
    for _ in range(repeats):
        before = time.perf_counter()
        program.launch(timed=True)
        wall = time.perf_counter() - before
        stamps = program.times[program.prepared :].astype(np.float64)
        ticks = np.diff(stamps, prepend=stamps[0])
        # The clock's rate is unknown, so ticks are shares of the wall time. The first call has no tick before it and
        # gets the mean share.
        ticks[0] = ticks.mean() if len(ticks) > 1 else 1.0
        rows.append(np.bincount(group_of_call, ticks, len(program.groups) + 1) / ticks.sum() * wall)
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
    measured = timings(program)
    total = sum(t.seconds for t in measured)
    for t in sorted(measured, key=lambda t: -t.seconds):
        rate = t.flops / max(t.seconds, 1e-9) / 1e9
        speed = f"{rate:8.1f} {rate / peak_rate:8.0%}" if t.flops else " " * 17
        lines.append(f"{t.seconds * 1e3:8.3f} {t.seconds / total:7.1%} {speed}  {t.kernels}: {t.name}")
    title = f"{total * 1e3:.2f} ms on {program.threads} thread(s), peak {peak_rate:.0f} GFLOP/s"
    debug.show(title, "\n".join(lines))


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
