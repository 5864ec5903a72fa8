"""Native threads that run programs, and the memory that programs run on."""

import mmap
import threading
import time
from contextlib import suppress

import numpy as np

from foveal import forks
from foveal.arguments import checked
from foveal.errors import ShapeError
from foveal.graph import Graph
from foveal.kernel import native_loop, runtime
from foveal.kernel.target import used
from foveal.strides import Ndarray
from foveal.system import MAX_THREADS, max_threads, processors

# A graph with fewer operations and elements than these runs on one thread: it takes about 20 us there, and a barrier of
# several threads some. Waking a thread takes 50 us, which is what a short program measures (pace.py).
SMALL_WORK = 2_000_000
SMALL_SIZE = 1 << 16

# A graph with fewer of both than these runs in some milliseconds at most, and measures whether other threads pay.
SHORT_WORK = 500_000_000
SHORT_SIZE = 1 << 24

# A graph with fewer of both than these runs in about 30 us at most, with Python's lock held. Among several threads that
# call, to hand the lock over and to get it back takes 10 to 50 us each, the waking of a thread.
BRIEF_WORK = 2_000_000
BRIEF_SIZE = 1 << 17

# Seconds that a thread watches for work, or for another one to have done its piece, before it sleeps: about what
# waking it takes.
PATIENCE = 100e-6

# Bytes of a huge page on x86-64 and on ARM with 4 KiB pages.
HUGE_PAGE = 2 << 20

# What set_threads was called with; 0 if it was not.
_threads = 0


@checked
def set_threads(n: int) -> None:
    """Set how many threads programs use that are built from now on. Results do not depend on it.

    Raises ShapeError for less than 1 and for more than `system.max_threads()`.
    """
    check_threads(n)
    global _threads
    _threads = n


def check_threads(n: int) -> None:
    """Raise ShapeError unless a program can have that many threads."""
    if n < 1:
        raise ShapeError(f"{n} threads: a program needs at least 1")
    if n > max_threads():
        raise ShapeError(
            f"{n} threads: more than {max_threads()}, 16 for each of the {processors()} processors here, at least 64;"
            " threads that share a processor only wait for each other, and fewer give the same results"
        )


def get_threads() -> int:
    """Return the number of threads programs use: what was set, else the processors this process may run on."""
    return _threads or processors()


def threads_for(graph: Graph) -> int:
    """Return the number of threads for a graph: `get_threads()`, or 1 if waking others takes longer than they save."""
    return 1 if takes_less(graph, SMALL_WORK, SMALL_SIZE) else get_threads()


def is_short(graph: Graph) -> bool:
    """Return True if a program of the graph is to measure whether other threads pay."""
    return takes_less(graph, SHORT_WORK, SHORT_SIZE)


def is_brief(graph: Graph) -> bool:
    """Return True if a program of the graph takes less time than handing Python's lock to another thread and back."""
    return takes_less(graph, BRIEF_WORK, BRIEF_SIZE)


def takes_less(graph: Graph, work: int, size: int) -> bool:
    """Return True if a graph has fewer operations and elements than these."""
    operations = sum(
        node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
        for node in graph.nodes
        if node.op is not None
    )
    return operations < work and sum(node.type.size for node in graph.nodes) < size


def aligned(size: int) -> Ndarray:
    """Return `size` zeroed bytes on a page boundary. Large blocks ask for huge pages, which save address
    translation.
    """
    length = max(size, 1) + (HUGE_PAGE if size >= HUGE_PAGE else 0)
    # mmap's default is shared memory, which gets no huge pages.
    if hasattr(mmap, "MAP_PRIVATE"):
        memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, length)
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(memory, np.uint8)
    shift = -block.ctypes.data % HUGE_PAGE if size >= HUGE_PAGE else 0
    return block[shift : shift + size]


class Workers:
    """Threads that take part in runs. A run is native code from begin to end (kernel.native_loop), and the
    caller's thread needs none of them to complete it.

    Each thread has a box, a piece of memory by which it is told of a run. After a run it watches its box in native
    code, so that the next one reaches it within a microsecond. If none comes for a while, it sleeps.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # what callers and threads share, then a box per thread, of which the caller has none; pages that no thread uses
        # take no memory
        self.block = aligned(native_loop.BLOCK_BYTES).view(np.int64)
        self.block[0] = native_loop.OVER
        self.boxes = aligned(native_loop.BOX_BYTES * MAX_THREADS).view(np.int64).reshape(MAX_THREADS, -1)
        self.addresses = self.block.ctypes.data, self.boxes.ctypes.data
        # by thread: released to wake it, where threads sleep in Python
        self.wake: dict[int, threading.Lock] = {}
        # Compile the native loops here, and not in each thread as it starts, nor while a run is in progress.
        self.native_run, self.native_serve = runtime.run(), runtime.serve()
        self.patience = patience()
        self.sleeps_in_python = not runtime.sleeps(used())

    def grow(self, threads: int) -> None:
        """Start threads until there are enough for runs on `threads` threads, the caller's included.

        Where an interruption falls between two lines, a second thread may be started for a box; it ends at once.
        """
        with self.lock:
            for thread in range(len(self.wake) + 1, threads):
                wake = locked()
                arguments = (thread, wake)
                threading.Thread(target=self.serve, args=arguments, daemon=True, name="foveal").start()
                self.wake[thread] = wake

    def serve(self, thread: int, wake: threading.Lock) -> None:
        """Take part in runs for ever; `thread` is this thread's index in a run."""
        # A thread without a processor of its own must not spin: it would keep the others from running.
        spins = self.patience if thread < processors() else 0
        block, boxes = self.addresses
        while True:
            self.native_serve(block, boxes + native_loop.BOX_BYTES * thread, thread, spins)
            wake.acquire()

    def run(self, threads: int, records: int, number: int, times: int = 0) -> bool:
        """Run `number` records, on `threads` threads as far as they come. Returns when all is done.

        Returns False if another caller had the threads, so that this one ran alone. It is one native call: an
        interruption (Ctrl-C) comes before it or after it.
        """
        if len(self.wake) < threads - 1:
            self.grow(threads)
        if self.sleeps_in_python:
            self.wake_sleepers(threads)
        return bool(self.native_run(*self.addresses, threads, records, number, times, self.patience))

    def wake_sleepers(self, threads: int) -> None:
        """Wake the threads that sleep in Python."""
        for thread in range(1, threads):
            if self.boxes[thread, 1]:
                # RuntimeError: the lock is released already, the thread is awake.
                with suppress(RuntimeError):
                    self.wake[thread].release()


def patience() -> int:
    """Return how many pauses take as long as PATIENCE; the shortest of some measurements counts."""
    count, seconds = 1000, []
    for _ in range(3):
        before = time.perf_counter()
        runtime.pauses()(count)
        seconds.append(time.perf_counter() - before)
    return int(count * PATIENCE / max(min(seconds), 1e-9))


def locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Process(forks.Locked):
    """The threads of this process, made when a program first runs on several. A forked child makes its own."""

    def renew(self) -> None:
        super().renew()
        self.workers: Workers | None = None


_process = Process()


def workers() -> Workers:
    """Return this process's threads."""
    if _process.workers is None:
        with _process.lock:
            if _process.workers is None:
                _process.workers = Workers()
    return _process.workers
