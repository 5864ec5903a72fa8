"""Native threads that run programs, and the memory that programs run on."""

import mmap
import threading
from contextlib import suppress

import numpy as np

from foveal import forks
from foveal.arguments import checked
from foveal.errors import ShapeError, StateError
from foveal.graph import Graph
from foveal.kernel import runtime
from foveal.strides import Ndarray
from foveal.system import max_threads, processors

# A graph with fewer operations and elements than these runs on one thread. The operations take about 100 us on one
# thread, and waking another one takes 50 us.
SMALL_WORK = 10_000_000
SMALL_SIZE = 1 << 18

# How often an idle thread looks for work before it sleeps: about 100 us, which is about what waking it takes.
SPINS = 250

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
    work = sum(
        node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
        for node in graph.nodes
        if node.op is not None
    )
    size = sum(node.type.size for node in graph.nodes)
    return 1 if work < SMALL_WORK and size < SMALL_SIZE else get_threads()


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
    """Threads that wait to run their part of a job. A job is native code from begin to end (kernel.runtime).

    Each thread has a box, a piece of memory in which it finds its next job. After a job it watches its box in native
    code, so that the next job reaches it within a microsecond. If none comes for a while, it sleeps until a bare lock
    is
    released: threading's semaphores are written in Python, and an interruption inside of one (Ctrl-C) can leave it held
    for ever.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # a job is in progress, which the thread that has the lock has begun
        self.running = False
        # the caller's box, then one per thread
        self.boxes = [aligned(runtime.BOX_BYTES)]
        # one per thread, released to wake it
        self.wake: list[threading.Lock] = []
        # the addresses of the boxes
        self.table = np.zeros(0, np.int64)
        # Compile the native loops here, and not in each thread as it starts, nor while a job is in progress.
        self.native_start, self.native_finish, self.native_serve = runtime.start(), runtime.finish(), runtime.serve()

    def grow(self, threads: int) -> None:
        """Start threads until there are enough for jobs on `threads` threads, the caller's included."""
        while len(self.wake) < threads - 1:
            thread, box, wake = len(self.wake) + 1, aligned(runtime.BOX_BYTES), locked()
            arguments = (thread, box, wake)
            threading.Thread(target=self.serve, args=arguments, daemon=True, name="foveal").start()
            self.boxes[thread:] = [box]
            self.wake.append(wake)
        if len(self.table) < threads:
            self.table = np.array([box.ctypes.data for box in self.boxes])

    def serve(self, thread: int, box: Ndarray, wake: threading.Lock) -> None:
        """Run jobs for ever; `thread` is this thread's index in a job."""
        # A thread without a processor of its own must not spin: it would keep the others from running.
        spins = SPINS if thread < processors() else 0
        native, address = self.native_serve, box.ctypes.data
        while True:
            native(address, thread, spins)
            wake.acquire()

    def run(self, threads: int, function: int, arguments: int) -> None:
        """Call the native function(arguments, thread, threads) in each thread, as thread 0 here. Returns when all are
        done. Raises StateError when it is called during a job in the same thread.

        An interruption (Ctrl-C) between any two lines must leave no thread waiting at a barrier. So a job that has been
        started is finished first, and then the interruption is raised. Python cannot know how far the job has come,
        because the interruption may be raised on the way back from native code; the boxes know it.
        """
        with self.lock:
            if self.running:
                raise StateError(
                    "a program was run from within a run in the same thread, by a signal handler or a finaliser; let"
                    " that set a flag, and run the program when the run has returned"
                )
            self.grow(threads)
            self.running = True
            try:
                if self.native_start(self.table.ctypes.data, threads, function, arguments):
                    self.finish(threads)
            except BaseException:
                # once more, whatever interrupts it now
                while True:
                    try:
                        self.finish(threads)
                        break
                    except BaseException:
                        continue
                raise
            finally:
                self.running = False

    def finish(self, threads: int) -> None:
        """Wake the threads that sleep, and run this thread's part of the job until all are done."""
        for wake in self.wake[: threads - 1]:
            # RuntimeError: the lock is released already, the thread is awake.
            with suppress(RuntimeError):
                wake.release()
        self.native_finish(self.table.ctypes.data, threads)


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
