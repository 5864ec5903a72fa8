"""What a training step takes on more threads than this machine has: a model, from its calls on one thread.

    seconds(T) = rest + sum over sections of max(span(T), bytes / rate(T)) + barriers * barrier(T)

A section is what lies between two barriers (`balance.py`). span(T) is how long T threads take for its calls, of which
one thread takes what it was measured to take: iterations are not divided. bytes are those that have to come from memory
or go there, as more than the last-level cache holds is used between two uses of a value; rate(T) is that of copying.
rest is what a step does outside of native code.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foveal.balance import Section, sections
from foveal.bench.timing import Record
from foveal.kernel.builder import PARALLEL_LOOPS
from foveal.kernel.compile import ArraySpec, Kernel, native
from foveal.kernel.lang import PIECES, Array, llc, parallel
from foveal.lower import KernelCall
from foveal.profile import call_seconds
from foveal.program import Program
from foveal.strides import Ndarray
from foveal.view import Buffer, View
from foveal.workers import workers

LINE_BYTES, PAGE_BYTES = 64, 4096
# Calls of a run that measures a barrier, and runs.
EMPTY_CALLS, EMPTY_RUNS = 2000, 20
# GB/s that a machine copies at most, if nothing else is said: four fifths of eight channels of DDR4-3200.
MEMORY_RATE = 160.0


@dataclass(frozen=True)
class Rates:
    """What was measured on one thread and on several.

    threads: how many these are. one, several: GB/s of copying. barrier: seconds of a call that does next to nothing and
    of the barrier after it, on several threads. most: GB/s of copying on any number of threads.
    """

    threads: int
    one: float
    several: float
    barrier: float
    most: float

    def copying(self, threads: int) -> float:
        """Return the GB/s on so many threads: as much for each as one alone has, up to the most."""
        if threads == self.threads:
            return self.several
        return min(threads * self.one, max(self.most, self.several))

    def meeting(self, threads: int) -> float:
        """Return the seconds of a barrier: each thread enters and leaves by writing one line, so they add up."""
        return self.barrier * threads / self.threads if threads > 1 else 0.0


def one_for_each(y: Array, *, count: int) -> None:
    """y[i] = 0, an iteration for each thread."""
    for (i,) in parallel(count):
        y[i * LINE_BYTES // 4] = 0.0


def barrier_seconds(threads: int) -> float:
    """Return how long a call that does next to nothing takes on so many threads, with the barrier after it.

    Where a thread comes late, the others do not wait for it: of several runs the fastest counts of those that most
    threads came to.
    """
    y = np.zeros(threads * LINE_BYTES // 4, np.float32)
    kernel = Kernel(one_for_each, (ArraySpec(y.shape, (1,)),), (("count", threads),))
    code = native([kernel])
    counters = np.zeros((EMPTY_CALLS, PARALLEL_LOOPS * threads), np.int64)
    arguments = np.empty((EMPTY_CALLS, 2), np.int64)
    arguments[:, 0] = y.ctypes.data
    arguments[:, 1] = counters.ctypes.data + np.arange(EMPTY_CALLS) * counters.strides[0]
    records = np.empty((EMPTY_CALLS, 3), np.int64)
    records[:, 0], records[:, 2] = code.addresses[0], 1
    records[:, 1] = arguments.ctypes.data + np.arange(EMPTY_CALLS) * arguments.strides[0]

    times = np.zeros((1 + EMPTY_CALLS, 3), np.int64)

    def once() -> tuple[int, float]:
        counters[:] = times[:] = 0
        before = time.perf_counter()
        workers().run(threads, records.ctypes.data, EMPTY_CALLS, times[1:].ctypes.data)
        seconds = time.perf_counter() - before
        # To the percent, how many of the threads have come.
        return int(100 * times[1:, 2].mean() / threads), seconds / EMPTY_CALLS

    runs = [once() for _ in range(EMPTY_RUNS)]
    most = max(came for came, _ in runs)
    return min(seconds for came, seconds in runs if came >= most - 5)


@dataclass(frozen=True)
class Measured:
    """A step on one thread: its sections, the seconds of its calls, its bytes from memory by section, the rest."""

    name: str
    batch: int
    program: Program
    sections: Sequence[Section]
    seconds: Sequence[float]
    moved: Sequence[int]
    rest: float

    def parts(self, threads: int, rates: Rates) -> tuple[float, float, float]:
        """Return the seconds of the model: sections as they divide, what memory adds to them, barriers."""
        divided = memory = 0.0
        for section, moved in zip(self.sections, self.moved, strict=True):
            span = section.span(self.seconds[section.first : section.stop], threads)
            divided += span
            memory += max(0.0, moved / rates.copying(threads) / 1e9 - span)
        return divided, memory, len(self.sections) * rates.meeting(threads)

    def predicted(self, threads: int, rates: Rates) -> float:
        """Return the seconds of a step on so many threads."""
        return self.rest + math.fsum(self.parts(threads, rates))


def measure(name: str, batch: int, program: Program, step: float) -> Measured:
    """Measure a program that runs on one thread; step: the seconds of its step, of which the rest is in Python."""
    seconds = np.median(call_seconds(program)[0], axis=0)
    found = sections(program)
    moved = np.array(bytes_from_memory(program.schedule.repeated))
    by_section = [int(moved[one.first : one.stop].sum()) for one in found]
    return Measured(name, batch, program, found, seconds.tolist(), by_section, max(0.0, step - float(seconds.sum())))


def size_of(view: View) -> int:
    """Return the bytes of what a view shows, each place once."""
    return 4 * math.prod(n for n, stride in zip(view.shape, view.strides, strict=True) if stride)


def bytes_from_memory(calls: Sequence[KernelCall]) -> list[int]:
    """Return for each call of a step the bytes of its values since whose last use as much has been used as the
    last-level cache holds.

    One step follows another, so what comes before the first use is the end of the step before.
    """
    passed, last = 0, dict[Buffer, int]()
    found: list[int] = []
    for _ in range(2):
        found = []
        for call in calls:
            sizes = {view.buffer: size_of(view) for view in call.views if not view.buffer.per_thread}
            far = [buffer for buffer in sizes if passed - last.get(buffer, -llc()) >= llc()]
            found.append(sum(sizes[buffer] for buffer in far))
            # From the beginning of one call to that of the next, what a call moves itself included.
            last |= dict.fromkeys(sizes, passed)
            passed += sum(sizes.values())
    return found


def counted(one: Measured, threads: Sequence[int]) -> Record:
    """Return what is counted in a step: calls, barriers, pieces, and bytes that threads may dispute."""
    seconds, most = np.array(one.seconds), max(threads)
    pieces = [one.sections[i].pieces for i in range(len(one.sections))]
    of_sections = np.array([seconds[s.first : s.stop].sum() for s in one.sections])
    total = float(of_sections.sum())
    few = {f"under_{n}": float(of_sections[np.array(pieces) < n].sum()) / total for n in threads}
    return {
        "name": one.name,
        "batch": one.batch,
        "calls": len(one.seconds),
        "barriers": len(one.sections),
        "one_piece": float(of_sections[np.array(pieces) == 1].sum()) / total,
        "pieces": int(np.median(pieces)),
        **few,
        "memory_mib": sum(one.moved) / 2.0**20,
        "disputed_kib": disputed_bytes(one, most) / 1024,
        "far": far_share(one.program),
    }


def disputed_bytes(one: Measured, threads: int) -> int:
    """Return the bytes of lines that two threads may write at the same time.

    They are those with counters of several threads, of each parallel loop, and those where one piece of an array ends
    and the next one begins, if pieces are no whole lines.
    """
    found = 0
    for section in one.sections:
        for call, loops in zip(one.program.schedule.repeated[section.first : section.stop], section.loops, strict=True):
            found += len(loops) * math.ceil(8 * threads / LINE_BYTES) * LINE_BYTES
            iterations = max(loops, default=1)
            for view in call.written:
                whole = size_of(view) % (iterations * LINE_BYTES) == 0
                if not whole and not view.buffer.per_thread:
                    found += (min(iterations, PIECES * threads) - 1) * LINE_BYTES
    return found


def far_share(program: Program) -> float:
    """Return the share of the bytes used that lie at the other of two NUMA nodes, each with half of the threads.

    A page lies where the thread is that writes it first: of the arena in the first run, in which the first half of what
    a call writes is written by the first node; arguments and variables are written by the caller. What is read is
    divided as well if it has half as many bytes as the largest array of the call; else both nodes read all of it.
    """
    plan = program.arena_plan
    places = dict(zip(plan.buffers, plan.offsets, strict=True))
    # The node of each page of the arena, -1 before it is written.
    nodes = np.full(plan.size // PAGE_BYTES + 1, -1)
    near = far = 0.0
    for count_them in (False, True):
        for call in program.schedule.repeated:
            largest = max(map(size_of, call.views), default=0)
            for i, view in enumerate(call.views):
                if view.buffer.per_thread:
                    continue
                written, size = i < call.outputs, size_of(view)
                divided = written or 2 * size >= largest
                for node, begin, end in halves(size) if divided else [(0, 0, size), (1, 0, size)]:
                    pages = pages_of(view, places, nodes, begin, end)
                    if written:
                        pages[pages < 0] = node
                    if count_them:
                        share = float(np.mean(pages == node)) if len(pages) else float(node == 0)
                        near, far = near + share * (end - begin), far + (1 - share) * (end - begin)
    return far / max(near + far, 1.0)


def halves(size: int) -> list[tuple[int, int, int]]:
    """Return (node, begin, end) of both halves of so many bytes."""
    return [(0, 0, size // 2), (1, size // 2, size)]


def pages_of(view: View, places: dict[Buffer, int], nodes: Ndarray, begin: int, end: int) -> Ndarray:
    """Return the nodes of the pages of these bytes of a view, which can be set; none outside of the arena."""
    if view.buffer not in places:
        return nodes[:0]
    first = places[view.buffer] + 4 * view.offset
    return nodes[
        (first + begin) // PAGE_BYTES : max((first + end - 1) // PAGE_BYTES, (first + begin) // PAGE_BYTES) + 1
    ]


def predictions(found: Sequence[Measured], rates: Rates, threads: Sequence[int]) -> Iterator[Record]:
    """Yield for each step and each number of threads what the model says: of the step on one, and of what it consists.

    uneven is the share of the step by which sections take longer than their work divided by the threads.
    """
    for one in found:
        work, alone = math.fsum(one.seconds), one.predicted(1, rates)
        for count in threads:
            divided, memory, barriers = one.parts(count, rates)
            total = one.predicted(count, rates)
            yield {
                "name": one.name,
                "batch": one.batch,
                "threads": count,
                "step_ms": 1e3 * total,
                "speedup": alone / total,
                "efficiency": alone / total / count,
                "uneven": (divided - work / count) / total,
                "barriers": barriers / total,
                "memory": memory / total,
                "python": one.rest / total,
            }


def assumptions(rates: Rates) -> list[str]:
    """Return what the predictions take for granted."""
    return [
        f"Copying: {rates.one:.1f} GB/s on one thread, {rates.several:.1f} on {rates.threads}; as much for each thread"
        f" as for one, up to {rates.most:.0f}. A call of a piece for each thread, with its barrier:"
        f" {rates.barrier * 1e6:.2f} us on {rates.threads} threads, in proportion to their number. Cores, clock and"
        " last-level cache are those of this machine, and there is one NUMA node."
    ]
