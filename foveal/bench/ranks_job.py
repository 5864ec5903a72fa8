"""What the ranks of `foveal bench ranks` run: `mpiexec -n 2 python -m foveal.bench.ranks_job SETTINGS`.

Steps are timed in rounds, in which each way of taking them comes once: rank 0 alone, while the others sleep; all ranks
at the same time, each for itself; and together, on each link. So a machine that others use slows all of them.

Rank 0 prints a line of JSON for each result. To change the links it prints one that asks for it, and reads an answer.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np

from foveal import distributed, nn
from foveal.bench.hosts import Link
from foveal.bench.models import ModelWork, make_optimizer, select
from foveal.bench.ranks_model import ASKING, EAGER, sum_traffic
from foveal.bench.timing import Record
from foveal.distributed.ranks import TIMEOUT, Ranks
from foveal.distributed.tree import PartialSums, owned
from foveal.errors import FovealError
from foveal.step import Step, compile_step
from foveal.strides import Ndarray

# What begins a line of JSON; other lines may be Open MPI's.
MARK = "foveal-bench-ranks "
# Bytes of the arrays whose sums are timed to know a link, and how often each is.
SIZES, SUMS = (64, 1 << 14, 1 << 18, 1 << 21, 1 << 24), 9
# Seconds of the steps that are timed together, where one is shorter, and the most of them.
ROUND, MOST = 0.25, 20
# Until something begins, which all ranks have to learn before: seconds, and delays, where the kernel delays packets.
BEGIN, KNOWN = 0.005, 4
# Seconds before a moment that a rank is awake.
AWAKE = 1e-4
# By how much the tag of what is sent beside an array differs: when that was.
STAMPS = 40

Shards = Sequence[tuple[Any, Any]]


class DelayedRanks(Ranks):
    """Ranks whose messages arrive later than they do, for a kernel that cannot delay packets.

    A message of few bytes is not there before it was sent, the delay, and the time on the cable have passed. A larger
    one asks first: its bytes begin their way when the question and the answer have had theirs. All ranks are on one
    machine, so that they have one clock.
    """

    def __init__(self, communicator: Any = None, timeout: float = TIMEOUT) -> None:
        # In a list, which a second thread's ranks share.
        self.links = [Link()]
        super().__init__(communicator, timeout)

    @property
    def link(self) -> Link:
        """The link whose delay is waited for."""
        return self.links[0]

    @link.setter
    def link(self, link: Link) -> None:
        self.links[0] = link

    def exchange(self, other: int, sent: Ndarray | None, received: Ndarray | None) -> None:
        if not self.link.delay:
            super().exchange(other, sent, received)
            return
        asked = time.monotonic()
        # Their tags are those of the arrays, and one more, so that two threads do not take each other's.
        tag, stamp, found = self.arrays + STAMPS, np.array([asked]), np.empty(1)
        request = self.communicator.Isend(stamp, other, tag) if sent is not None else None
        super().exchange(other, sent, received)
        if received is not None:
            self.communicator.Recv(found, other, tag)
            until(self.arrival(float(found[0]), asked, time.monotonic(), received.nbytes))
        if request is not None:
            request.Wait()

    def arrival(self, sent: float, asked: float, there: float, size: int) -> float:
        """Return when a message arrives that was sent, asked for and there at these times."""
        delay = self.link.delay
        if size > EAGER:
            return there + ASKING * delay + min(max(sent + delay - asked, 0.0), delay)
        return sent + delay + (8 * size / self.link.rate if self.link.rate else 0.0)


def until(moment: float) -> None:
    """Wait until then: what is long is slept, and what is left is waited for more exactly than sleep does."""
    if (left := moment - time.monotonic()) > 2 * AWAKE:
        time.sleep(left - AWAKE)
    while time.monotonic() < moment:
        os.sched_yield()


class Job:
    """The measurements of one rank. report: is called with what was found, on rank 0."""

    def __init__(self, settings: Record, ranks: DelayedRanks, report: Callable[[Record], None]) -> None:
        self.settings, self.ranks, self.report = settings, ranks, report
        self.links = [Link(**link) for link in settings["links"]]
        self.used: Record = {}

    def tell(self, record: Record) -> None:
        """Report a record, on rank 0."""
        if self.ranks.first:
            self.report(record)

    def use(self, number: int) -> None:
        """Let the ranks be connected by one of the links."""
        self.ranks.all_of(None)
        if self.settings["hosts"]:
            self.tell({"link": number})
            if self.ranks.first and not sys.stdin.readline():
                raise FovealError("bench ranks: the command that has started the ranks is gone")
        self.ranks.link = Link()
        self.ranks.all_of(None)
        self.ranks.link = self.links[number] if self.settings["delays"] else Link()

    def timed(self, call: Callable[[], object], calls: int = 1) -> float:
        """Return the seconds of a call, of several that follow each other, on the rank where they are most.

        What this rank has sent in one of them is kept in `used`.
        """
        link, self.ranks.link = self.ranks.link, Link()
        # All have one clock, and begin at the same time.
        until(max(self.ranks.all_of(time.monotonic())) + BEGIN + KNOWN * link.delay)
        self.ranks.link = link
        before = vars(self.ranks.traffic).copy()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = (time.perf_counter() - began) / calls
        self.used = {name: (value - before[name]) / calls for name, value in vars(self.ranks.traffic).items()}
        self.ranks.link = Link()
        longest: float = max(self.ranks.all_of(seconds))
        self.ranks.link = link
        return longest

    def sums(self) -> None:
        """Time sums of arrays on each link."""
        for number in range(len(self.links)):
            self.use(number)
            for size in SIZES:
                seconds = [self.timed(self.sum_of(size)) for _ in range(SUMS + 1)][1:]
                traffic = sum_traffic(size, self.ranks.size)
                self.tell({"sum": size, "on": number, "traffic": traffic, "seconds": median(seconds)})

    def sum_of(self, size: int) -> Callable[[], object]:
        """Return a call that adds up an array of so many bytes of each rank."""
        own = owned(self.ranks.size, self.ranks.rank, self.ranks.size)
        sums, each = PartialSums(size // 4, own), np.ones(size // 4, np.float32)

        def add() -> None:
            sums.add(self.ranks.rank, each)
            sums.total(self.ranks, self.ranks.size, self.ranks.size)

        return add

    def steps(self, name: str, images: int) -> None:
        """Time the training step of a network, in each way."""
        work = ModelWork(**{**vars(select([name])[name]), "batch": images})
        each = self.settings["shards"]
        alone = together = TimedStep(work, Ranks(), each)
        # Rank 0 compiles, and the others find the kernels in the cache.
        if self.ranks.first:
            alone()
        self.ranks.link = Link()
        self.ranks.all_of(None)
        alone()
        if self.ranks.size > 1:
            together = TimedStep(work, self.ranks, each)
            together()
        calls = self.ranks.broadcast(max(1, min(MOST, int(ROUND / self.timed(alone)))))
        found: dict[str, list[Any]] = {"alone": [], "both": [], **{str(i): [] for i in range(len(self.links))}}
        for _ in range(self.settings["repeats"]):
            found["alone"].append(self.timed(alone if self.ranks.first else lambda: None, calls))
            if self.ranks.size > 1:
                found["both"].append(self.timed(alone, calls))
                for number in range(len(self.links)):
                    self.use(number)
                    found[str(number)].append(self.together(together, calls))
                self.ranks.link = Link()
        self.tell({"name": name, "images": images, "found": found, "sums": together.sums()})

    def together(self, step: "TimedStep", calls: int) -> Record:
        """Time steps of all ranks; return the seconds of one, and what a rank has sent in it."""
        if calls > 1:
            # Connections have to become used to the link, which shows in short steps.
            step()
        seconds, used = self.timed(step, calls), self.used
        self.ranks.link = Link()
        # The rank that waits least waits for messages alone, and for no slower rank.
        waited: float = min(self.ranks.all_of(used["waited"]))
        return {**used, "seconds": seconds, "waited": waited}


class TimedStep:
    """A training step on the shards of one rank, whose images are random."""

    def __init__(self, work: ModelWork, ranks: Ranks, each: int) -> None:
        net, shards = work.build(), each * ranks.size
        loss, optimizer = nn.CrossEntropyLoss(), make_optimizer(net)
        self.step: Step = compile_step(net, loss, optimizer, threads=1, shards=shards, ranks=ranks)
        x, labels = work.data()
        size = work.batch // each
        self.shards = [(x[i * size :][:size], labels[i * size :][:size]) for i in range(each)]

    def __call__(self) -> object:
        return self.step.take_shards(self.shards)

    def sums(self) -> list[int]:
        """Take a step; return the bytes of each array that it adds up across ranks."""
        found: list[int] = []
        total = PartialSums.total

        def counted(sums: PartialSums, *given: Any) -> Ndarray:
            array = total(sums, *given)
            found.append(array.nbytes)
            return array

        with patched(PartialSums, "total", counted):
            self()
        return found


@contextmanager
def patched(owner: type, name: str, value: object) -> Iterator[None]:
    """Let a class have another attribute in the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def main(words: str) -> None:
    """Measure what the settings, a text in JSON, ask for."""
    settings: Record = json.loads(words)
    found = distributed.ranks(settings["timeout"])
    ranks = DelayedRanks(found.communicator, found.timeout)
    processors = sorted(os.sched_getaffinity(0))
    # Each rank has a processor of its own, as on a machine of its own.
    os.sched_setaffinity(0, {processors[ranks.rank % len(processors)]})
    job = Job(settings, ranks, lambda record: print(MARK + json.dumps(record), flush=True))
    if ranks.size > 1:
        job.sums()
    for name, images in settings["works"].items():
        job.steps(name, images)


if __name__ == "__main__":
    main(sys.argv[1])
