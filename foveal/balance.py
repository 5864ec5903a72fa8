"""How the calls of a program divide among threads: what cannot be split, and what is lost where pieces do not come out
even.

Threads take the iterations of a call's parallel loops, and go on to the next call as long as no barrier stands between
the two. So what lies between two barriers, a section, is divided as a whole: two calls of one piece each keep two
threads busy if no barrier separates them.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from foveal.kernel.counting import parallel_iterations
from foveal.kernel.target import current
from foveal.program import Program

# A loop with more iterations per thread than this counts as one that can be divided anywhere, where threads do not come
# to it at the same time.
MANY = 8


@dataclass(frozen=True)
class Section:
    """Repeated calls of a program, up to and with one that a barrier follows.

    first, stop: the numbers of its first call and of the one after its last, among the repeated ones.
    loops: for each call the iterations of its parallel loops.
    """

    first: int
    stop: int
    loops: tuple[tuple[int, ...], ...]

    @property
    def pieces(self) -> int:
        """Into how many pieces it can be divided; what runs in Python is one."""
        return max(1, sum(map(sum, self.loops)))

    def span(self, seconds: Sequence[float], threads: int) -> float:
        """Return how long so many threads take that are equally fast, if one alone takes these seconds for each call.

        The iterations of a call are taken to be alike. Each goes to the thread that is free first.
        """
        free = [0.0] * threads
        for loops, total in zip(self.loops, seconds, strict=True):
            each = total / max(1, sum(loops))
            for iterations in loops or (1,):
                free = divided(free, iterations, each)
        return max(free)

    def lost(self, seconds: Sequence[float], threads: int) -> float:
        """Return the share of the threads' time in which they find nothing to do."""
        total = sum(seconds)
        return 1 - total / (threads * self.span(seconds, threads)) if total > 0 else 0.0


def divided(free: list[float], iterations: int, each: float) -> list[float]:
    """Return when threads are free that were free at these times, and then share so many iterations."""
    threads = len(free)
    if min(free) == max(free):
        whole, rest = divmod(iterations, threads)
        return [free[0] + each * (whole + (i < rest)) for i in range(threads)]
    if iterations > MANY * threads:
        return levelled(free, iterations * each)
    heapq.heapify(free)
    for _ in range(iterations):
        heapq.heapreplace(free, free[0] + each)
    return free


def levelled(free: list[float], work: float) -> list[float]:
    """Return when threads are free that share work which can be divided anywhere: those that are free first do more."""
    ordered = sorted(free)
    for count in range(1, len(ordered) + 1):
        level = (sum(ordered[:count]) + work) / count
        if count == len(ordered) or level <= ordered[count]:
            return [level] * count + ordered[count:]
    return ordered


def sections(program: Program) -> list[Section]:
    """Return the sections of the repeated calls of a program. No barrier is needed after the last one."""
    calls, target = program.schedule.repeated, current()
    loops = [parallel_iterations(call.kernel, call.sizes, target) for call in calls]
    barriers = program.schedule.barriers[program.prepared :]
    # What runs in Python ends the native run before it, and a new one begins behind it.
    ends = [i + 1 for i, barrier in enumerate(barriers) if barrier or i + 1 == len(calls)]
    return [Section(a, b, tuple(loops[a:b])) for a, b in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Division:
    """How a run on several threads divides.

    barriers: how many there are, the end of the run included. single, single_seconds: sections of one piece, and their
    seconds.
    lost_seconds: those that other sections would save if they could be divided anywhere.
    worst_single, worst_lost: the longest call, by its number, of the section that takes the most of either; None if
    there is none.
    """

    barriers: int
    single: int
    single_seconds: float
    lost_seconds: float
    worst_single: int | None
    worst_lost: int | None


def divide(found: Sequence[Section], seconds: Sequence[float], threads: int) -> Division:
    """Return how a run divides, whose calls have taken these seconds on so many threads."""
    # By the number of the section's longest call.
    single: dict[int, float] = {}
    lost: dict[int, float] = {}
    for section in found:
        own = list(seconds[section.first : section.stop])
        total, longest = math.fsum(own), section.first + own.index(max(own))
        if section.pieces == 1:
            single[longest] = total
        else:
            lost[longest] = total * section.lost(own, threads)
    worst = [max(part, key=part.__getitem__) if any(part.values()) else None for part in (single, lost)]
    return Division(len(found), len(single), math.fsum(single.values()), math.fsum(lost.values()), *worst)
