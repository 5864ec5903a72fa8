"""What ranks exchange during a step: jobs in one order on all ranks, in a thread that stays inside of MPI.

The thread works while the main one computes: native code and MPI run without Python's lock. Where MPI cannot be called
by two threads, and on one rank, the jobs are done when the step waits for them.
"""

import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from foveal.distributed.elastic import Broken
from foveal.distributed.ranks import Ranks
from foveal.errors import warn

# Seconds that a step which is broken off gives its thread to leave MPI.
LEAVING = 5.0

Job = Callable[[Ranks], None]

# Whether a warning has said that nothing is exchanged beside the computation.
_told: list[bool] = []


class Progress:
    """How many jobs were given and done, and what has gone wrong. The thread knows this, and not the Exchange."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.given = self.done = 0
        self.problem: BaseException | None = None
        self.changed = threading.Condition()

    def carry_out(self, job: Job) -> None:
        """Do a job, unless one before it has failed."""
        try:
            if self.problem is None:
                # What a step that fails sends is not finite.
                with np.errstate(all="ignore"):
                    job(self.ranks)
        except BaseException as error:
            self.problem = error
        with self.changed:
            self.done += 1
            self.changed.notify_all()


class Exchange:
    """Jobs of a step, which are done one after the other. All ranks give the same ones."""

    def __init__(self, ranks: Ranks, overlaps: bool) -> None:
        self.overlaps = overlaps
        self.progress = Progress(ranks.beside() if overlaps else ranks)
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        if overlaps:
            name = "foveal-ranks"
            self.thread = threading.Thread(target=work, args=(self.progress, self.jobs), daemon=True, name=name)
            self.thread.start()
            weakref.finalize(self, self.jobs.put, None)

    def give(self, job: Job) -> None:
        """Add a job, which is called with the ranks. Raises Broken if one before it has found that a rank is gone."""
        if isinstance(self.progress.problem, Broken):
            raise self.progress.problem
        self.progress.given += 1
        self.jobs.put(job)

    def wait(self) -> None:
        """Return when all jobs are done. Raises what one of them has raised."""
        progress, began = self.progress, time.perf_counter()
        while not self.overlaps and progress.done < progress.given:
            job = self.jobs.get()
            assert job is not None
            progress.carry_out(job)
        with progress.changed:
            while progress.done < progress.given:
                progress.changed.wait()
        progress.ranks.traffic.waited += time.perf_counter() - began
        if progress.problem is not None:
            raise progress.problem

    @property
    def idle(self) -> bool:
        """True if all jobs were done, and none has failed."""
        return self.progress.done == self.progress.given and self.progress.problem is None

    def leave(self) -> None:
        """End, unless all jobs were done: then another step may follow."""
        if not self.idle:
            self.end()

    def end(self) -> None:
        """Do nothing more; what is under way is broken off."""
        self.progress.ranks.broken_off = self.overlaps
        self.progress.problem = self.progress.problem or RuntimeError("the step was broken off")
        self.jobs.put(None)
        if self.thread is not None:
            self.thread.join(LEAVING)


def work(progress: Progress, jobs: "SimpleQueue[Job | None]") -> None:
    """Do jobs until there is None."""
    while (job := jobs.get()) is not None:
        progress.carry_out(job)
        # The thread keeps nothing of a step alive.
        del job


def overlapping(ranks: Ranks) -> bool:
    """Return whether a thread can exchange arrays while another one computes; says once where MPI does not allow it."""
    if ranks.size == 1:
        return False
    if not ranks.allows_threads() and not _told:
        _told.append(True)
        if ranks.first:
            warn(
                "this MPI cannot be called by several threads (MPI_THREAD_MULTIPLE), so gradients are exchanged after"
                " the backward pass, and not during it; the results are the same. Open MPI and MPICH can do both"
            )
    return ranks.allows_threads()
