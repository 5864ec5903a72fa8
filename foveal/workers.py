"""Threads that run programs, and memory they run on."""

import mmap
import os
import threading
from contextlib import suppress

import numpy as np

from foveal.errors import ShapeError
from foveal.graph import Graph
from foveal.kernel import runtime
from foveal.strides import Ndarray
from foveal.system import processors

SMALL_WORK = 10_000_000  # operations, 100 us of one thread; another one is awake after 50 us


PATIENCE = 250  # turns, about 100 us: a thread that is asleep takes about as long to come back


SMALL_SIZE = 1 << 18  # elements of all values together


HUGE_PAGE = 2 << 20


_threads = 0


def set_threads(n: int) -> None:
    """How many threads programs made from now on use; results do not depend on it."""
    if n < 1:
        raise ShapeError(f"{n} threads: a program needs at least 1")
    global _threads
    _threads = n


def get_threads() -> int:
    """The number of threads programs use: what was set, else the processors this process may run on."""
    return _threads or processors()


def threads_for(graph: Graph) -> int:
    """As many threads as programs use, but one where waking the others takes longer than they save."""
    work = sum(
        node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
        for node in graph.nodes
        if node.op is not None
    )
    size = sum(node.type.size for node in graph.nodes)
    return 1 if work < SMALL_WORK and size < SMALL_SIZE else get_threads()


def aligned(size: int) -> Ndarray:
    """`size` bytes, zeroed, on a page boundary; large blocks ask for huge pages, which save address translation."""
    length = max(size, 1) + (HUGE_PAGE if size >= HUGE_PAGE else 0)
    if hasattr(mmap, "MAP_PRIVATE"):  # shared memory, the default, gets no huge pages
        memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, length)
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(memory, np.uint8)
    shift = -block.ctypes.data % HUGE_PAGE if size >= HUGE_PAGE else 0
    return block[shift : shift + size]


class Workers:
    """Threads that wait to run their part of a job, which is native code from begin to end (kernel.runtime).

    After a job a thread watches its box natively, so that the next one reaches it within a microsecond; when it has
    seen
    none for a while it sleeps until a bare lock is unlocked. (threading's semaphores are Python inside, and an
    interruption
    there, Ctrl-C, can leave one held for ever.)
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.boxes = [aligned(runtime.BOX_BYTES)]  # the caller's own, then one per thread
        self.wake: list[threading.Lock] = []  # one per thread: unlocked to wake it
        self.table = np.zeros(0, np.int64)  # the boxes' addresses
        runtime.engine()  # here, not by each thread as it starts

    def grow(self, threads: int) -> None:
        while len(self.wake) < threads - 1:
            thread, box, wake = len(self.wake) + 1, aligned(runtime.BOX_BYTES), locked()
            arguments = (thread, box, wake)
            threading.Thread(target=self.serve, args=arguments, daemon=True, name="foveal").start()
            self.boxes[thread:] = [box]
            self.wake.append(wake)
        if len(self.table) < threads:
            self.table = np.array([box.ctypes.data for box in self.boxes])

    def serve(self, thread: int, box: Ndarray, wake: threading.Lock) -> None:
        patience = PATIENCE if thread < processors() else 0
        native, at = runtime.serve(), box.ctypes.data
        while True:
            native(at, thread, patience)
            wake.acquire()

    def run(self, threads: int, function: int, arguments: int) -> None:
        """function(arguments, 0, threads) here, with 1 ... in the other threads; back when all are done.

        An interruption (Ctrl-C) between any two lines must leave nobody waiting at a barrier: a job that has been
        started is
        finished first, then the interruption is raised. The boxes know how far it is, which Python itself cannot: the
        interruption may be raised on the way back from native code.
        """
        with self.lock:
            self.grow(threads)
            try:
                boxes = self.table.ctypes.data
                if runtime.start()(boxes, threads, function, arguments):
                    self.finish(threads)
            except BaseException:
                while not self.finished(threads):
                    pass
                raise

    def finish(self, threads: int) -> None:
        for wake in self.wake[: threads - 1]:
            with suppress(RuntimeError):  # unlocked already
                wake.release()
        runtime.finish()(self.table.ctypes.data, threads)

    def finished(self, threads: int) -> bool:
        """Bring an interrupted job to its end; False if that was interrupted once more."""
        try:
            self.finish(threads)
            return True
        except BaseException:
            return False


def locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


_workers: Workers | None = None


def workers() -> Workers:
    """This process's threads; a forked child starts its own."""
    global _workers
    if _workers is None or _workers.process != os.getpid():
        _workers = Workers()
    return _workers
