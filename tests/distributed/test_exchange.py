"""What ranks exchange beside their computation: its end, a step that is broken off, a rank that is lost in a bucket.

Ranks are threads here, over an MPI of queues.
"""

import gc
import sys
import threading
import time
import warnings
from queue import Queue
from types import SimpleNamespace

import numpy as np
import pytest
import ranks_job

import foveal
from foveal import nn, optim
from foveal.distributed import Ranks, exchange, tree
from foveal.errors import FovealWarning, RankError

RNG = np.random.default_rng(0)
# Threads of two ranks, as MPI counts them.
SINGLE, MULTIPLE = 0, 3


class Received:
    """A message that is waited for."""

    def __init__(self, box, array):
        self.box, self.array = box, array

    def arrived(self):
        if self.array is not None and not self.box.empty():
            self.array.view(np.uint8)[...] = self.box.get()
            self.array = None
        return self.array is None


class Queues:
    """A communicator. boxes: what is under way, by sender, receiver and tag."""

    def __init__(self, rank, size, boxes):
        self.rank, self.size, self.boxes = rank, size, boxes

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Irecv(self, buffer, other, tag):
        return Received(self.boxes[other, self.rank, tag], buffer[0])

    def Isend(self, buffer, other, tag):
        self.boxes[self.rank, other, tag].put(buffer[0].view(np.uint8).copy())
        return Received(None, None)

    def isend(self, value, other, tag):
        self.boxes[self.rank, other, tag].put(value)

    def iprobe(self, source=None, tag=None):
        others = range(self.size) if source is None else [source]
        return any(not self.boxes[other, self.rank, tag].empty() for other in others)

    def recv(self, tag):
        boxes = [self.boxes[other, self.rank, tag] for other in range(self.size)]
        return next(box for box in boxes if not box.empty()).get()


class Boxes(dict):
    """A box for each key that is asked for."""

    def __missing__(self, key):
        return self.setdefault(key, Queue())


@pytest.fixture
def mpi(monkeypatch):
    """The MPI that Foveal finds; `level` is what threads may do with it."""
    found = SimpleNamespace(BYTE=None, THREAD_MULTIPLE=MULTIPLE, level=MULTIPLE, Status=object, Exception=OSError)
    found.Query_thread = lambda: found.level
    found.Request = SimpleNamespace(Testall=lambda requests, statuses: all(request.arrived() for request in requests))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=found))
    return found


def on_ranks(size, function, timeout=60.0):
    """Call a function on so many ranks; return what it returns, or the error that it raises, by rank."""
    found, boxes = [None] * size, Boxes()

    def run(rank):
        try:
            found[rank] = function(Ranks(Queues(rank, size, boxes), timeout))
        except RankError as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def two_alone(timeout=60.0):
    """Rank 0 of two, of which the other one has answered once and does so no more."""
    boxes = Boxes()
    other = threading.Thread(target=lambda: Ranks(Queues(1, 2, boxes), timeout))
    other.start()
    ranks = Ranks(Queues(0, 2, boxes), timeout)
    other.join()
    return ranks


def sums_of(ranks, leaves, shards):
    """The sums of a rank's shards."""
    own = tree.owned(shards, ranks.rank, ranks.size)
    sums = tree.PartialSums(leaves.shape[1], own)
    for shard in own:
        sums.add(shard, leaves[shard])
    return sums


@pytest.mark.parametrize("overlaps", [True, False], ids=["beside", "after"])
def test_jobs_are_done_in_order_and_beside_messages_of_the_step(mpi, overlaps):
    leaves = RNG.standard_normal((3, 8, 50)).astype(np.float32)

    def run(ranks):
        made, totals, names = exchange.Exchange(ranks, overlaps), [], []
        for part in leaves:
            sums = sums_of(ranks, part, 8)

            def job(beside, sums=sums):
                names.append(threading.current_thread().name)
                totals.append(sums.total(beside, 8, 8).tobytes())

            made.give(job)
        # The step's own messages go on meanwhile.
        assert ranks.all_of(ranks.rank) == list(range(ranks.size))
        made.wait()
        assert made.idle
        assert {name == "foveal-ranks" for name in names} == {overlaps}
        return totals

    alone = on_ranks(1, run)[0]
    assert on_ranks(3, run) == [alone] * 3
    assert len(set(alone)) == 3


def test_after_a_job_that_fails_no_other_is_done(mpi):
    made, done = exchange.Exchange(two_alone(), True), []

    def fails(ranks):
        raise ValueError("out of luck")

    for job in (done.append, fails, done.append):
        made.give(job)
    for _ in range(2):
        with pytest.raises(ValueError, match="out of luck"):
            made.wait()
    assert len(done) == 1
    assert not made.idle


def test_the_thread_ends_with_what_it_exchanges_for(mpi):
    made = exchange.Exchange(two_alone(), True)
    made.give(lambda ranks: None)
    made.wait()
    thread = made.thread
    assert thread.is_alive()
    del made
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def made_step(ranks):
    net = ranks_job.network()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Momentum(net.parameters(), 0.1), 1, ranks=ranks)
    # Nobody answers.
    step.sharded.agreed = True
    return step


def test_a_step_that_is_broken_off_leaves_mpi_and_no_other_begins(mpi):
    """Ctrl-C while the other rank is waited for: in the thread, and in the step itself."""
    x, y = ranks_job.IMAGES[:16], ranks_job.LABELS[:16]
    step = made_step(two_alone())
    before = ranks_job.digest(step.model)

    def interrupt(outputs, targets):
        raise KeyboardInterrupt

    step.sharded.counting(interrupt, 1, bool)
    with pytest.raises(KeyboardInterrupt):
        step(x, y)
    made = step.sharded.exchange
    assert not made.thread.is_alive()
    assert "was broken off" in str(made.progress.problem)
    with pytest.raises(RankError, match="a step before this one was broken off on this rank"):
        step(x, y)
    assert (ranks_job.digest(step.model), step.steps) == (before, 0)


def test_a_rank_that_is_lost_inside_of_a_bucket_is_named_in_time(mpi, monkeypatch):
    """Of four ranks one ends between two messages of the second bucket; the others are not to blame."""
    monkeypatch.setattr(tree, "SMALL", 0)
    leaves, timeout = RNG.standard_normal((2, 8, 50)).astype(np.float32), 2.0

    def run(ranks):
        ranks.hosts = list("abcd")
        made, sent = exchange.Exchange(ranks, True), []
        beside = made.progress.ranks
        send = beside.exchange

        def lost(other, *arrays):
            # Four messages are a bucket.
            sent.append(other)
            if len(sent) == 6:
                raise SystemExit
            send(other, *arrays)

        if ranks.rank == 1:
            beside.exchange = lost
        totals = []
        for sums in [sums_of(ranks, part, 8) for part in leaves]:
            made.give(lambda ranks, sums=sums: totals.append(sums.total(ranks, 8, 8)))
        try:
            made.wait()
        except SystemExit:
            return totals
        finally:
            assert len(totals) == 1
            assert not made.idle

    began = time.monotonic()
    found = on_ranks(4, run, timeout)
    assert time.monotonic() - began < 4 * timeout + 10
    assert str(found[0]).startswith("rank 1 (on b): no answer for 2 seconds")
    assert len(found[1]) == 1
    # Where rank 0 is a process it has ended the job by now.
    assert all(isinstance(found[rank], RankError) for rank in (2, 3))


def test_an_mpi_for_one_thread_is_told_of_once_and_exchanges_after_the_backward_pass(mpi, monkeypatch):
    monkeypatch.setattr(exchange, "_told", [])
    ranks = two_alone()
    assert exchange.overlapping(ranks)
    assert not exchange.overlapping(Ranks())
    mpi.level = SINGLE
    with pytest.warns(FovealWarning, match=r"MPI_THREAD_MULTIPLE.*the results are the same"):
        step = made_step(ranks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made_step(ranks)
    assert not step.sharded.overlaps
    # Nothing is sent before all four shards were computed.
    counted = []

    def count(outputs, targets):
        counted.append(1)
        return [1]

    def send(other, *arrays):
        raise RankError(f"sent after {len(counted)} shards")

    ranks.exchange = send
    step.sharded.counting(count, 1, bool)
    with pytest.raises(RankError, match="sent after 4 shards"):
        step(ranks_job.IMAGES[:16], ranks_job.LABELS[:16])
    assert step.sharded.exchange.thread is None
