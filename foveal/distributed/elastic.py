"""Going on without the ranks that are gone: a job of Open MPI that was started with `mpiexec --with-ft ulfm`.

All that ranks do together is a row of exchanges: a step's sums, a broadcast, and so on. Nobody completes one of them
before all have begun it, so that two ranks are never apart by more than one, and what each returns is the same on all
ranks. Where a rank is gone, the messages of the others fail. They then make a communicator of those that are left
(Bland et al. 2013, "Post-failure recovery of MPI communication capability": Revoke, Agree, Shrink), and compare how
many exchanges each has completed. A rank that has completed one more than another hands over what it returned; if
nobody has, all repeat it.

Of a step that is the sum of the gradients, from which every rank makes the same update. A step that is repeated is
divided anew: the shards of a batch, and their sums along the tree, are the same whoever takes them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from foveal.errors import RankError

# What mpiexec --with-ft ulfm puts into the environment of the processes that it starts.
ENABLED = "OMPI_MCA_mpi_ft_enable"
YES = ("1", "t", "true", "enabled", "yes", "y")
# Seconds that MPI_Finalize is given in a job that has lost ranks, some of whose parts may wait for them.
ENDING = 60
# Tags of messages: of what ranks exchange, and of what they tell each other when they have come to their end.
ARRAYS, LEAVING = 11, 13

Value = TypeVar("Value")


class Broken(Exception):
    """A message has failed, as a rank is gone, or as another rank has found that one is."""

    def __init__(self, requests: list[Any]) -> None:
        super().__init__("a rank is gone")
        # Messages that are under way hold the memory that they may still be written to.
        self.requests = requests


class Group(Protocol):
    """What is asked of ranks here; `Ranks` is one."""

    communicator: Any
    timeout: float
    rank: int
    size: int
    hosts: list[str]
    numbers: list[int]
    arrays: int
    shrunk: int

    @property
    def first(self) -> bool:
        """True for rank 0."""

    def name(self, rank: int) -> str:
        """Return a rank and its machine for messages."""

    def tell_end(self) -> None:
        """Tell the other ranks that this one has come to its end."""

    def all_of(self, value: Value) -> list[Value]:
        """Return on each rank what each of them gives, in their order."""


class Elastic:
    """What the ranks of an elastic job know of their exchanges, and how they go on when some are gone."""

    def __init__(self, ranks: Group) -> None:
        self.ranks = ranks
        # How many exchanges are completed, and what the last one returned.
        self.completed, self.last = 0, None
        # True inside of an exchange, whose parts are none by themselves.
        self.within = False
        # True once this rank has come to its end.
        self.leaving = False
        # Returns what is under way, in words, such as "step 3".
        self.where: Callable[[], str] = str
        # Requests that have failed.
        self.broken: list[Any] = []

    def exchange(self, attempt: Callable[[], Value]) -> Value:
        """Return what a function returns in which all ranks take part; those that are left repeat it."""
        self.within = True
        try:
            result = self.completed_by(attempt)
        finally:
            self.within = False
        self.completed, self.last = self.completed + 1, result  # type: ignore[assignment]
        return result

    def completed_by(self, attempt: Callable[[], Value]) -> Value:
        """Return what a function returns here, or what it has returned elsewhere."""
        while True:
            try:
                return attempt()
            except Broken as broken:
                self.broken.append(broken.requests)
                if handed_over := self.go_on():
                    result: Value = handed_over[0]
                    return result

    def go_on(self, agreed: bool = False) -> tuple[Any] | None:
        """Go on with the ranks that are left; return what the exchange has returned if some have completed it."""
        while True:
            self.shrink(agreed)
            agreed = False
            try:
                return self.level()
            except Broken as broken:
                self.broken.append(broken.requests)

    def shrink(self, agreed: bool) -> None:
        """Make a communicator of the ranks that are left, and say which are gone."""
        from mpi4py import MPI

        ranks, before = self.ranks, self.ranks.communicator
        with self.deadline():
            before.Revoke()
            if not agreed:
                agree(before, 0)
            after = before.Shrink()
        after.Set_errhandler(MPI.ERRORS_RETURN)
        left = MPI.Group.Translate_ranks(after.Get_group(), None, before.Get_group())
        gone = [ranks.name(rank) for rank in range(ranks.size) if rank not in left]
        ranks.communicator, ranks.rank, ranks.size = after, after.Get_rank(), after.Get_size()
        ranks.shrunk += 1
        ranks.hosts, ranks.numbers = [ranks.hosts[i] for i in left], [ranks.numbers[i] for i in left]
        # One that is gone by then may have come to its end as well.
        if gone and ranks.first and not self.leaving:
            where = self.where()
            verb, count = "is" if len(gone) == 1 else "are", ranks.size
            go_on = f"{count} ranks go on" if count > 1 else f"{ranks.name(0)} goes on alone"
            print(f"{', '.join(gone)} {verb} gone; {go_on}{f' with {where}' if where else ''}.", file=sys.stderr)
            sys.stderr.flush()

    def level(self) -> tuple[Any] | None:
        """Let all ranks have completed the same exchanges; return what the last one has returned if others say it."""
        ranks = self.ranks
        completed = ranks.all_of(self.completed)
        most = max(completed)
        if min(completed) == most:
            return None
        # All of them hold the same, and the first one gives it.
        giver = completed.index(most)
        found = ranks.all_of(self.last if ranks.rank == giver else None)[giver]
        return (found,) if self.completed < most else None

    def leave(self) -> None:
        """Wait until all ranks have come to their end, since one that is behind may need what another one knows."""
        ranks = self.ranks
        ranks.arrays, self.within, self.leaving = LEAVING, True, True
        self.leave_together()
        import mpi4py

        if self.broken and mpi4py.rc.finalize is not False and hasattr(signal, "alarm"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(ENDING)

    def leave_together(self) -> None:
        """Return once all ranks that are left have called this."""
        ranks = self.ranks
        while ranks.size > 1:
            ranks.tell_end()
            try:
                ranks.all_of(None)
                there = 1
            except Broken as broken:
                self.broken.append(broken.requests)
                there = 0
                ranks.communicator.Revoke()
            with self.deadline():
                if agree(ranks.communicator, there):
                    return
            ranks.arrays = ARRAYS
            self.go_on(agreed=True)
            ranks.arrays = LEAVING

    @contextmanager
    def deadline(self) -> Iterator[None]:
        """End the job unless the block, in which this process waits within MPI, ends in time."""
        ranks = self.ranks

        def end() -> None:
            from mpi4py import MPI

            print(
                f"{ranks.name(ranks.rank)}: a rank is gone, and another one has not answered for {ranks.timeout:.0f}"
                " seconds. The checkpoints are whole: go on with --resume",
                file=sys.stderr,
                flush=True,
            )
            MPI.COMM_WORLD.Abort(1)

        timer = threading.Timer(ranks.timeout, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def agree(communicator: Any, there: int) -> bool:
    """Return, alike on all ranks that are left, whether each of them gives 1, and none has gone unnoticed."""
    from mpi4py import MPI

    try:
        return bool(communicator.Agree(there))
    except MPI.Exception:
        return False


def is_lost(error: Any, statuses: list[Any]) -> bool:
    """Return whether an error of MPI says that a rank is gone. statuses: of the messages that were waited for."""
    from mpi4py import MPI

    codes = [error.Get_error_class()]
    if codes[0] == MPI.ERR_IN_STATUS:
        codes = [MPI.Get_error_class(status.Get_error()) for status in statuses]
    lost = {getattr(MPI, f"ERR_{name}", None) for name in ("PROC_FAILED", "PROC_FAILED_PENDING", "REVOKED")}
    return any(code in lost for code in codes)


def prepare_elastic() -> None:
    """Prepare a job that goes on without the ranks that are gone; called before MPI begins.

    Raises RankError, with the way to start it, where the launcher or the MPI cannot do so.
    """
    how = "start the job with Open MPI 5: mpiexec --with-ft ulfm -n 4 ..."
    if os.environ.get(ENABLED, "").lower() not in YES:
        raise RankError(f"elastic: this process was not started with fault tolerance; {how}; or leave elastic out")
    import mpi4py

    if "mpi4py.MPI" not in sys.modules:
        # MPI_Finalize may wait for ranks that are gone. All have agreed to end before (`leave`), so it can be left out.
        mpi4py.rc.finalize = False
    from mpi4py import MPI

    if not hasattr(MPI.Comm, "Shrink") or "Open MPI" not in MPI.Get_library_version():
        raise RankError(
            f"elastic: {MPI.Get_library_version().splitlines()[0][:60]} cannot go on without a rank, or mpi4py is older"
            f" than 4.1; {how}; or leave elastic out"
        )
