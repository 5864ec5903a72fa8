"""Whether a launcher of MPI has started this process, and what happens to all ranks when one of them fails.

An exception that nobody catches ends all ranks, as with `python -m mpi4py`: its rank prints it, and MPI's Abort ends
the others, which would wait for it.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from foveal.distributed.elastic import prepare_elastic
from foveal.distributed.ranks import TIMEOUT, Ranks
from foveal.errors import FovealError, PackageError, RankError
from foveal.system import switched_on

# What launchers of MPI put into the environment of the processes that they start, how many these are: Open MPI, PMI
# (MPICH, Intel MPI, Slurm's pmi2), MVAPICH; and srun, with MPI or without.
OPEN_MPI, SLURM = "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"
SIZES = (OPEN_MPI, "PMI_SIZE", "MV2_COMM_WORLD_SIZE", SLURM)
# What others put there: PMIx, Cray.
OTHERS = ("PMIX_RANK", "PALS_RANKID")
# Set to 1 by a user whose processes a launcher starts and that are to train each by itself.
ALONE = "FOVEAL_ALONE"
# Seconds that other ranks let rank 0 fail first, so that what is wrong everywhere is said once.
AFTER_FIRST = 0.5
# Seconds in which the launcher may find out that a machine cannot be reached, after a rank has said that it misses
# another one. A launcher that probes its connections (docs/howto/many-machines.md) ends the job then. Asked to end it
# before, it would wait for that machine to obey, for a quarter of an hour: TCP probes no connection on which something
# is under way.
LINGER = 20.0


def launched() -> bool:
    """Return whether mpiexec, srun or the like has started this process as one of a job of MPI, if only of one.

    False where the environment has FOVEAL_ALONE=1. Raises FovealError where that is neither 0 nor 1.
    """
    if switched_on(ALONE):
        return False
    if any(size_in(name) > 1 for name in SIZES) or OPEN_MPI in os.environ:
        return True
    # What srun starts alone is an ordinary process.
    return SLURM not in os.environ and any(name in os.environ for name in (*SIZES, *OTHERS))


def size_in(name: str) -> int:
    """Return the number in a variable of the environment, 1 if there is none."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 1


def started_by_mpiexec() -> int:
    """Return how many processes mpiexec has started together with this one; 1 where another launcher may have."""
    if SLURM in os.environ and OPEN_MPI not in os.environ:
        return 1
    # Within a job of Open MPI that of one process is what counts.
    return size_in(OPEN_MPI) if OPEN_MPI in os.environ else max(map(size_in, SIZES))


def ranks(timeout: float = TIMEOUT, elastic: bool = False) -> Ranks:
    """Return the ranks of the job that this process belongs to: of one rank where no launcher has started it.

        mpiexec -n 4 python program.py

    timeout: seconds after which a rank that does not answer is named and the job ends. In a job of several ranks an
    exception that nobody catches ends all of them from now on. elastic: True to let those that are left go on at once
    when a rank's process or machine is gone: mpiexec --with-ft ulfm -n 4 python program.py. They get other numbers, and
    what was under way is repeated: steps on the shards of `step.shares`, and what `ranks.all_of` and the like return.

    Raises PackageError in a job of MPI where mpi4py is not installed, RankError where srun or mpiexec has started
    several processes that MPI does not connect, and where elastic ranks are asked for and the launcher cannot do so.
    """
    if elastic:
        prepare_elastic()
    if not launched():
        return Ranks(timeout=timeout)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise PackageError(
            f"a launcher of MPI has started this process, and mpi4py cannot be used ({error}): pip install"
            " 'foveal[mpi]'; on a cluster load its MPI first, and build mpi4py with it: pip install --no-binary mpi4py"
            " mpi4py. Without a launcher, or with FOVEAL_ALONE=1, Foveal trains on one machine and needs neither"
        ) from None
    found = Ranks(MPI.COMM_WORLD.Dup(), timeout, elastic)
    if found.size == 1 and size_in(SLURM) > 1 and OPEN_MPI not in os.environ:
        raise RankError(
            f"srun has started {os.environ[SLURM]} processes that MPI does not connect, so that each would train alone:"
            " use srun --mpi=pmix (srun --mpi=list shows what there is), or FOVEAL_ALONE=1 where this is meant"
        )
    if found.size == 1 and (started := started_by_mpiexec()) > 1:
        name = MPI.Get_library_version().split("\n")[0].split(",")[0].strip()
        raise RankError(
            f"mpiexec has started {started} processes that MPI does not connect, so that each would train alone:"
            f" mpi4py is built for another MPI ({name}) than that of this mpiexec: use the mpiexec of the same MPI, or"
            " build mpi4py with the other one (pip install --no-binary mpi4py mpi4py), or set FOVEAL_ALONE=1 where"
            " this is meant"
        )
    if found.size > 1 and not isinstance(sys.excepthook, Ending):
        sys.excepthook = Ending(found, sys.excepthook)
    if found.size > 1:
        atexit.register(found.leave)
    return found


class Ending:
    """A hook for exceptions that nobody catches: it prints them as they were printed before, and ends all ranks."""

    def __init__(self, ranks: Ranks, before: Callable[..., Any]) -> None:
        self.ranks, self.before = ranks, before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        announce(self.ranks)
        self.before(kind, error, trace)
        abort(self.ranks, 130 if issubclass(kind, KeyboardInterrupt) else 1)


def announce(ranks: Ranks) -> None:
    """Print which rank what follows comes from, unless it is rank 0, which comes first."""
    if not ranks.first:
        time.sleep(AFTER_FIRST)
        name = ranks.name(ranks.rank)
        print(f"{name[0].upper()}{name[1:]} of {ranks.size} ranks:", file=sys.stderr)


def abort(ranks: Ranks, status: int) -> None:
    """End all ranks."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if ranks.traffic.lost:
        time.sleep(LINGER)
    from mpi4py import MPI

    MPI.COMM_WORLD.Abort(status)


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Let an exception in the block, once it has been shown, end all ranks: when this process exits, it aborts the job.

    Nothing changes for a process that is alone.
    """
    try:
        yield
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else None
        status = 130 if isinstance(error, KeyboardInterrupt) else status
        # Nobody waits for this rank where all have agreed to end.
        if ranks.size > 1 and status != 0 and not ranks.parted:
            announce(ranks)
            atexit.register(abort, ranks, status or (2 if isinstance(error, FovealError) else 1))
        raise
