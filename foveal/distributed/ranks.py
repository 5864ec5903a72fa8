"""Ranks: the processes that train one network, and the messages between them.

No message is waited for without an end. A rank that waits for half of its deadline tells rank 0 that it is there; at
the deadline those that have told nothing are named, and the job ends. While a rank waits it leaves its core to others.
"""

import hashlib
import os
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from foveal.distributed.elastic import ARRAYS, LEAVING, Broken, Elastic, is_lost
from foveal.distributed.tree import owned
from foveal.errors import RankError, ShapeError
from foveal.strides import Ndarray
from foveal.system import processors

# Seconds that a rank waits for another one, unless it is said. Rank 0 may be writing.
TIMEOUT = 1800.0
# Seconds in which a rank that waits only yields its core. Then it sleeps, for this share of the time that it has waited
# and no longer than so many seconds: where much is under way MPI has to be called often, as it moves nothing meanwhile.
YIELDING, SHARE, SLEEP, SHORT_SLEEP = 0.005, 0.05, 1e-3, 5e-5
# Messages of so many bytes are much.
MUCH = 1 << 16
# Seconds that rank 0 gives the others to say that they wait, after its deadline. The others give it twice as many, and
# this share of the deadline, as it may have begun to wait later than they.
GRACE, LATER = 1.0, 0.25
# Tags of what a rank tells that waits, and of what one tells that has come to its end; by how much those of a second
# thread differ; seconds after which an end is an error of one that waits for it.
WAITING, ENDED, BESIDE, ENDED_BEFORE = 12, 14, 10, 5.0

Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass
class Traffic:
    """What a rank has sent so far: messages with their bytes; and for how many seconds its steps have waited for all
    that is exchanged, after the backward pass.
    """

    messages: int = 0
    bytes: int = 0
    waited: float = 0.0
    #: True when another rank has not answered in time
    lost: bool = False


class Ranks:
    """The processes that train one network together: this one is number `rank` of `size`.

    Made by `foveal.distributed.ranks()`. communicator: of mpi4py; None for a process that is alone. timeout: seconds
    after which a rank that does not answer is named and the job ends; 30 minutes unless said. elastic: True to go on
    without ranks that are gone, with other numbers for those that are left.
    """

    def __init__(self, communicator: Any = None, timeout: float = TIMEOUT, elastic: bool = False) -> None:
        if not timeout > 0:
            raise ShapeError(f"Ranks: timeout is {timeout}: it is a number of seconds, more than 0")
        self.communicator, self.timeout = communicator, float(timeout)
        self.rank: int = 0 if communicator is None else communicator.Get_rank()
        self.size: int = 1 if communicator is None else communicator.Get_size()
        # True when all ranks have agreed to end.
        self.parted = False
        self.traffic = Traffic()
        # The tags of messages, and seconds in which a rank that waits yields its core.
        self.arrays, self.waiting, self.yielding = ARRAYS, WAITING, YIELDING
        # True where nothing more is to be waited for.
        self.broken_off = False
        # The numbers that the ranks were started with, for messages.
        self.numbers = list(range(self.size))
        # How often some were gone, and the others went on.
        self.shrunk = 0
        self.elastic = Elastic(self) if elastic and communicator is not None else None
        # The names of all ranks' machines.
        self.hosts = ["a machine that has not answered"] * self.size
        self.hosts = self.all_of(os.uname().nodename if hasattr(os, "uname") else "localhost")

    def __repr__(self) -> str:
        return f"Ranks(rank {self.rank} of {self.size})"

    def __deepcopy__(self, memo: object) -> "Ranks":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # What a pickle comes back to is alone, and goes on to the same bits.
        return Ranks, (None, self.timeout)

    @property
    def first(self) -> bool:
        """True for rank 0, which speaks and writes."""
        return self.rank == 0

    def own(self, shards: int) -> range:
        """Return the shards of a batch that this rank takes. Raises ShapeError for fewer shards than ranks."""
        if shards < self.size:
            raise ShapeError(
                f"{self.size} ranks and {shards} shards of a batch: each rank takes one shard or more; use --shards"
                f" {self.size} or more, or fewer ranks"
            )
        return owned(shards, self.rank, self.size)

    def threads(self) -> int:
        """Return how many native threads this rank should use: the processors that it may run on, shared evenly.

        A launcher that binds each rank to processors of its own has shared them already.
        """
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        everywhere = self.all_of((self.hosts[self.rank], tuple(allowed)))
        return max(1, processors() // everywhere.count(everywhere[self.rank]))

    def beside(self) -> "Ranks":
        """Return the same ranks for a second thread: its messages do not mix with those of the first one.

        It sleeps as soon as it waits, as the first one computes.
        """
        # A copy would be alone, as a pickle is.
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        found.arrays, found.waiting, found.yielding = self.arrays + BESIDE, self.waiting + BESIDE, 0.0
        return found

    def allows_threads(self) -> bool:
        """Return whether several threads may call MPI at once."""
        if self.communicator is None:
            return False
        from mpi4py import MPI

        return bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)

    def name(self, rank: int) -> str:
        """Return a rank and its machine for messages."""
        return f"rank {self.numbers[rank]} (on {self.hosts[rank]})"

    # Messages.

    def exchange(self, other: int, sent: Ndarray | None, received: Ndarray | None) -> None:
        """Send a contiguous array to another rank and receive one from it; either may be left out.

        Raises RankError if it does not answer, or is gone.
        """
        from mpi4py import MPI

        requests, statuses = [], [MPI.Status(), MPI.Status()]
        much = any(array is not None and array.nbytes > MUCH for array in (sent, received))
        try:
            if received is not None:
                requests.append(self.communicator.Irecv([received, MPI.BYTE], other, self.arrays))
            if sent is not None:
                requests.append(self.communicator.Isend([sent, MPI.BYTE], other, self.arrays))
            states = statuses[: len(requests)]
            self.wait(lambda: bool(MPI.Request.Testall(requests, states)), other, SHORT_SLEEP if much else SLEEP)
        except MPI.Exception as error:
            if not is_lost(error, statuses):
                raise
            if self.elastic is not None:
                raise Broken(requests) from None
            raise RankError(f"{self.gone()}; go on with --resume; --elastic goes on at once, without it") from None
        if sent is not None:
            self.traffic.messages += 1
            self.traffic.bytes += sent.nbytes

    def gone(self) -> str:
        """Return which ranks are gone, where MPI lives on without them."""
        from mpi4py import MPI

        failed = self.communicator.Get_failed()
        found = MPI.Group.Translate_ranks(failed, None, self.communicator.Get_group())
        names = ", ".join(self.name(rank) for rank in found) or "another rank"
        return f"{names}: its process was killed, or its machine has failed"

    def wait(self, done: Callable[[], bool], other: int, longest: float) -> None:
        """Wait until something is done by another rank. Raises RankError at the deadline."""
        began, asleep, told, ended = time.monotonic(), False, False, 0.0
        deadline = self.timeout + (0.0 if self.first else LATER * self.timeout + 2 * GRACE)
        while not done():
            waited = time.monotonic() - began
            if self.broken_off:
                raise RankError("a step was broken off on this rank, in which others wait for it")
            if waited < self.yielding:
                os.sched_yield() if hasattr(os, "sched_yield") else time.sleep(0)
                continue
            if not asleep and self.first:
                # What was told in an earlier exchange is out of date.
                self.told()
            asleep = True
            time.sleep(max(SHORT_SLEEP, min(longest, SHARE * waited)))
            if waited > self.timeout / 2 and not told and not self.first:
                told = True
                self.communicator.isend(self.rank, 0, self.waiting)
            if waited > deadline:
                self.traffic.lost = True
                raise RankError(self.silent(other, waited))
            if waited > GRACE and self.arrays != LEAVING and self.communicator.iprobe(other, ENDED):
                # What it has sent before comes first, and may be long.
                ended = ended or waited
                if waited > ended + ENDED_BEFORE:
                    raise RankError(
                        f"{self.name(other)} has come to its end, and {self.name(self.rank)} waits for it: let all"
                        " ranks end alike; one that calls sys.exit lets the others wait"
                    )

    def told(self) -> set[int]:
        """Return the ranks that have told rank 0 that they wait, since it last asked."""
        there = set()
        while self.communicator.iprobe(tag=self.waiting):
            there.add(self.communicator.recv(tag=self.waiting))
        return there

    def silent(self, other: int, waited: float) -> str:
        """Return which ranks do not answer, of which this one waits for one."""
        # Otherwise rank 0 would have ended the job.
        missing = [0]
        if self.first:
            time.sleep(GRACE)
            # One that waits as well is not to blame.
            there = self.told()
            missing = [rank for rank in range(1, self.size) if rank not in there] or [other]
        names = ", ".join(self.name(rank) for rank in missing)
        return (
            f"{names}: no answer for {waited:.0f} seconds; the process hangs, or its machine cannot be reached. The"
            " checkpoints are whole: go on with --resume, without that machine. --rank-timeout sets how long ranks wait"
        )

    def spread(self, array: Ndarray) -> None:
        """Let the contiguous array of each rank hold what that of rank 0 holds: along a binomial tree."""
        distance = 1 << max(0, (self.size - 1).bit_length() - 1)
        # Rank 0 has it; with each round twice as many have it.
        while distance:
            if self.rank % (2 * distance) == 0 and self.rank + distance < self.size:
                self.exchange(self.rank + distance, array, None)
            elif self.rank % (2 * distance) == distance:
                self.exchange(self.rank - distance, None, array)
            distance //= 2

    def exchanged(self, attempt: Callable[[], Value]) -> Value:
        """Return what a function returns, alike on all ranks, in which all of them send messages.

        Of elastic ranks those that are left repeat it if some are gone. Nobody may come to its end before all have
        begun it.
        """
        if self.elastic is None or self.elastic.within:
            return attempt()
        return self.elastic.exchange(attempt)

    def broadcast(self, value: Value) -> Value:
        """Return on each rank what rank 0 gives, which pickle can store."""
        return self.computed(lambda: value)

    def gather(self, value: Value) -> list[Value]:
        """Return on rank 0 what each rank gives, in their order; on the others an empty list."""
        if self.elastic is None:
            return self.gathered(value)
        found = self.all_of(value)
        return found if self.first else []

    def all_of(self, value: Value) -> list[Value]:
        """Return on each rank what each of them gives, in their order."""
        return self.joined(value, lambda everywhere: everywhere)

    def computed(self, compute: Callable[[], Value]) -> Value:
        """Return on each rank what `compute` returns on rank 0, where alone it is called."""
        if self.elastic is not None:
            # Otherwise rank 0 would be ahead of the others.
            return self.joined(None, lambda everywhere: compute())
        return self.given(compute() if self.first else None)  # type: ignore[return-value]

    def joined(self, value: Value, join: Callable[[list[Value]], Result]) -> Result:
        """Return on each rank what `join` returns on rank 0, of what each rank gives, in their order."""

        def attempt() -> Result:
            everywhere = self.gathered(value)
            return self.given(join(everywhere) if self.first else None)  # type: ignore[return-value]

        return self.exchanged(attempt)

    def given(self, value: Value) -> Value:
        """Return on each rank what rank 0 gives: its length, and then what pickle makes of it."""
        if self.size == 1:
            return value
        content = np.frombuffer(pickle.dumps(value) if self.first else b"", np.uint8)
        length = np.array([content.size], np.int64)
        self.spread(length)
        array = content.copy() if self.first else np.empty(int(length[0]), np.uint8)
        self.spread(array)
        result: Value = value if self.first else pickle.loads(array.tobytes())
        return result

    def gathered(self, value: Value) -> list[Value]:
        """Return on rank 0 what each rank gives; on the others an empty list."""
        if self.size == 1:
            return [value]
        if not self.first:
            content = np.frombuffer(pickle.dumps(value), np.uint8)
            self.exchange(0, np.array([content.size], np.int64), None)
            self.exchange(0, content, None)
            return []
        found = [value]
        for other in range(1, self.size):
            length = np.empty(1, np.int64)
            self.exchange(other, None, length)
            array = np.empty(int(length[0]), np.uint8)
            self.exchange(other, None, array)
            found.append(pickle.loads(array.tobytes()))
        return found

    def leave(self) -> None:
        """Let this rank come to its end, where all of them do."""
        from mpi4py import MPI

        if MPI.Is_finalized():
            return
        if self.elastic is not None:
            self.elastic.leave()
        else:
            self.tell_end()

    def tell_end(self) -> None:
        """Tell the other ranks that this one has come to its end."""
        from mpi4py import MPI

        for other in range(self.size):
            if other != self.rank:
                # Some may be gone.
                with suppress(MPI.Exception):
                    self.communicator.isend(None, other, ENDED)

    # What all have to agree about.

    def agree(self, facts: Mapping[str, object], way_out: str) -> None:
        """Raise RankError, on all ranks, that names the first one with other facts than rank 0, and what differs.

        facts: by name, what pickle can store; texts are shown. way_out: what to do, a sentence without its full stop.
        """
        problem = self.joined(dict(facts), lambda everywhere: self.differing(everywhere, way_out))
        if problem:
            raise RankError(problem)

    def differing(self, everywhere: list[dict[str, object]], way_out: str) -> str:
        """Return what is wrong with the facts of all ranks; empty if nothing is."""
        for rank, found in enumerate(everywhere):
            different = [name for name in everywhere[0] if found.get(name) != everywhere[0][name]]
            if different:
                name = different[0]
                values = f"{shortened(found.get(name))} there, {shortened(everywhere[0][name])} on rank 0"
                return f"{self.name(rank)}: {name} differs: {values}; {way_out}"
        return ""


def shortened(value: object) -> str:
    """Return a fact for a message; of a checksum the beginning."""
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def checksum(arrays: Mapping[str, Ndarray]) -> str:
    """Return SHA-256 of arrays with their names."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
