"""Kernels are compiled by several processes at once, so that all cores do it.

LLVM compiles in one thread of a process at a time (llvmlite holds a lock), so the cores are used by processes, started
as foveal.children says: no module of the user's runs in them. They get descriptions of kernels, pickled, and give
object files back (worker.py); only this process writes to the cache. They end with this process, and are ended when
they had nothing to do for some seconds.

A process takes about 0.3 s to start. So a few kernels are compiled here, unless that takes as long already; processes
that an earlier compilation has left help at once; and where a compilation is expected (`prepare`), they start while the
network is still traced. Which kernel is compiled where, and in which order, changes no bit of it. What a process cannot
do is done here: a kernel that it refuses, that cannot be pickled, or that it was compiling when it was killed; and all
of them, where no process can be started.

Of the kernels that wait, those of a kind that has taken longest so far come first, so that short ones are left for the
end, when some cores have nothing to do any more. Otherwise the order is drawn. Several programs that compile the same
network at once share the work: before a kernel is compiled the cache is looked through again, and what another program
has claimed comes last.
"""

import atexit
import itertools
import os
import pickle
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from foveal import debug, forks
from foveal.children import close_pipes, obstacle, receive, send, start
from foveal.errors import FovealError
from foveal.kernel import cache
from foveal.kernel.progress import Progress
from foveal.kernel.sources import imported_digest
from foveal.system import processors, total_memory

# the environment variable that says how many processes compile at once
VARIABLE = "FOVEAL_JOBS"
MAX_JOBS = 256
# a process holds 60 to 150 MiB while it compiles
BYTES_PER_JOB = 512 << 20
# so many kernels take about as long here as the start of the processes
FEW = 12
# after so long, compiling a few kernels here counts as slow
ALONE_SECONDS = 0.3
# while the processes start, this process waits so long before it compiles something itself
PATIENCE_SECONDS = 3.0
# processes that have nothing to do are kept so long
IDLE_SECONDS = 10.0
# as long as nothing comes back from a process, the progress is shown anew this often
TICK_SECONDS = 0.1

SERVE = "import foveal.ops; from foveal.kernel.worker import serve; serve()"
# libraries of NumPy's would start a thread for each core; what is to be shown is compiled by this process
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DEBUG": "0"}


@dataclass(frozen=True)
class Task:
    """A kernel that is in no cache.

    name: its key. kind: what kernels that take about as long to compile have in common. message: what a process has to
    be sent to compile it; None if only this process can.
    """

    name: str
    kind: str
    message: bytes | None


def jobs() -> int:
    """Return how many processes may compile at once: $FOVEAL_JOBS, else one for each core that memory suffices for.

    Raises FovealError if the variable holds no such number.
    """
    text = os.environ.get(VARIABLE, "")
    if text:
        if not (re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= MAX_JOBS):
            raise FovealError(f"{VARIABLE} is {text[:40]!r}: give a number of compiling processes from 1 to {MAX_JOBS}")
        return int(text)
    return int(max(1, min(processors(), total_memory() // BYTES_PER_JOB, MAX_JOBS)))


# what has been said of this process's compiling processes, each once
_said: set[str] = set()


def say_once(what: str) -> None:
    """Say that fewer processes compile than could, unless the same was said before."""
    if what not in _said:
        _said.add(what)
        debug.show(what)


# the number of a worker, and a message of it
Results = SimpleQueue[tuple[int, bytes | None]]


class Worker:
    """A compiling process, as this process sees it."""

    def __init__(self, number: int, results: Results) -> None:
        """Start it; what it sends goes into `results`, and None when it has ended. OSError if it cannot be started.

        Its reader holds neither this object nor the other pipe: dropped by an interruption, they close, and it ends.
        """
        # what it is compiling, and since when
        self.task: Task | None = None
        self.since = 0.0
        self.ready = False
        self.process = start(SERVE, ENVIRONMENT)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.inbox, outbox = self.process.stdin, self.process.stdout

        def read() -> None:
            message: bytes | None = b""
            while message is not None:
                try:
                    message = receive(outbox.fileno())
                except (OSError, ValueError):
                    message = None
                results.put((number, message))

        self.reader = threading.Thread(target=read, daemon=True, name="foveal compiling process")
        try:
            self.reader.start()
        except RuntimeError:
            self.process.kill()
            self.process.wait()
            raise
        _running.processes.add(self.process)

    def send(self, task: Task) -> None:
        """Have it compile a kernel. One that has ended is noticed by its reader."""
        assert task.message is not None
        self.task, self.since = task, time.perf_counter()
        with suppress(OSError):
            send(self.inbox.fileno(), task.message)

    def end(self) -> None:
        """End it at once: it has nothing to finish, as it writes no files."""
        _running.processes.discard(self.process)
        self.process.kill()
        self.process.wait()
        self.reader.join()
        close_pipes(self.process)


class Crew:
    """Compiling processes by number, and the queue that what they send goes into."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.results: Results = SimpleQueue()

    def start(self, count: int) -> None:
        """Start so many more; OSError or RuntimeError if one cannot be started."""
        for number in itertools.islice(_numbers, count):
            self.workers[number] = Worker(number, self.results)

    def end(self) -> None:
        """End all of them."""
        while self.workers:
            self.workers.popitem()[1].end()


class Running(forks.Locked):
    """The compiling processes that this process has now, in all its threads."""

    def __init__(self) -> None:
        self.processes: set[subprocess.Popen[bytes]] = set()
        super().__init__()

    def renew(self) -> None:
        """Begin without any. A forked child lets go of its parent's pipes: they must close when the parent ends."""
        super().renew()
        # those that have nothing to do, and what ends them after a while
        self.idle: tuple[Crew, threading.Timer] | None = None
        for process in self.processes:
            close_pipes(process)
            # it is no child of this process, which is nothing to warn of
            process.returncode = 0
        self.processes = set()

    def keep(self, crew: Crew) -> None:
        """Keep processes that have nothing to do now for the next compilation, if that comes soon."""
        timer = threading.Timer(IDLE_SECONDS, self.end_idle)
        timer.daemon = True
        with self.lock:
            if crew.workers and self.idle is None:
                with suppress(RuntimeError):
                    timer.start()
                    self.idle = crew, timer
                    return
        crew.end()

    def take(self) -> Crew | None:
        """Return what was kept, if any of it still runs."""
        with self.lock:
            kept, self.idle = self.idle, None
        if kept is None:
            return None
        crew, timer = kept
        timer.cancel()
        for number in [number for number, worker in crew.workers.items() if worker.process.poll() is not None]:
            crew.workers.pop(number).end()
        return crew if crew.workers else None

    def end_idle(self) -> None:
        """End what was kept."""
        if (crew := self.take()) is not None:
            crew.end()


_numbers = itertools.count()
_running = Running()


def end_idle() -> None:
    """End the processes that have nothing to do: their memory is free, and their CPU time counts as this process's."""
    _running.end_idle()


atexit.register(end_idle)


def prepare() -> None:
    """Start processes for a compilation that is expected soon, unless there are some. Nothing is said of obstacles."""
    if jobs() > 1 and not _running.processes and obstacle() is None:
        crew = Crew()
        with suppress(OSError, RuntimeError):
            crew.start(jobs())
        _running.keep(crew)


@dataclass
class Kind:
    """The kernels of a kind that wait, and how long those took that are done."""

    waiting: list[Task] = field(default_factory=list)
    seconds: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """How long one takes; a kind of which that is not known might take for ever."""
        return self.seconds / self.count if self.count else float("inf")


class Compilation:
    """The compilation of some kernels, by this process and by others."""

    def __init__(
        self, tasks: Sequence[Task], find: Callable[[Task], bytes | None], make: Callable[[Task], bytes]
    ) -> None:
        """find: looks a kernel up in the cache. make: compiles it in this process."""
        self.find, self.make, self.total = find, make, len(tasks)
        self.kinds: dict[str, Kind] = {}
        # those that only this process can compile
        self.own: list[Task] = []
        # those that another program is compiling, and the names of those that this one is
        self.claimed_elsewhere: list[Task] = []
        self.claims: set[str] = set()
        # object files by name, of all that are done, and the names of those that another program has compiled meanwhile
        self.objects: dict[str, bytes] = {}
        self.found: set[str] = set()
        self.crew = Crew()
        self.started = time.perf_counter()
        # true as long as processes may still be started
        self.growing = jobs() > 1
        # a generator of its own: the one of `random` is the user's
        for task in random.Random().sample(tasks, len(tasks)):
            (self.own if task.message is None else self.kinds.setdefault(task.kind, Kind()).waiting).append(task)

    def run(self) -> None:
        """Compile all of them, here and in processes that are started if that is worth it."""
        with Progress(self.total) as progress:
            try:
                while len(self.objects) < self.total:
                    if self.growing and self.worth_starting():
                        self.start()
                    self.feed()
                    patient = any(w.ready for w in self.crew.workers.values()) or self.elapsed() < PATIENCE_SECONDS
                    if self.own or not (self.crew.workers and patient):
                        self.compile_here()
                    else:
                        self.collect(TICK_SECONDS)
                    while not self.crew.results.empty():
                        self.collect(0.0)
                    progress.show(len(self.objects))
                _running.keep(self.crew)
            except BaseException:
                self.crew.end()
                raise
            finally:
                while self.claims:
                    cache.release(self.claims.pop())

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def waiting(self) -> int:
        """Return how many kernels wait that other processes can compile."""
        return sum(len(kind.waiting) for kind in self.kinds.values()) + len(self.claimed_elsewhere)

    def worth_starting(self) -> bool:
        soon = _running.idle is not None or self.elapsed() > ALONE_SECONDS
        return self.waiting() >= FEW or (self.waiting() > 1 and soon)

    def start(self) -> None:
        """Take the processes that have nothing to do, and start as many more as are free and useful; once."""
        self.growing = False
        reason = obstacle()
        if reason is not None:
            say_once(f"kernels are compiled on one core: {reason}")
            return
        self.crew = _running.take() or self.crew
        workers = self.crew.workers
        # fewer may be wanted than when they were started
        for number in list(workers)[jobs() :]:
            workers.pop(number).end()
        wanted = min(jobs() - len(_running.processes) + len(workers), self.waiting() // 2)
        # other threads of this process have all of them: look again later
        self.growing = wanted < 1 and not workers
        try:
            self.crew.start(max(0, wanted - len(workers)))
        except (OSError, RuntimeError) as error:
            say_once(f"{len(workers)} of {wanted} compiling processes were started: {error}")

    def next_task(self) -> Task | None:
        """Take one of the kernels that wait, of the kind that takes longest, unless another program has compiled it."""
        while self.waiting():
            kind = max((k for k in self.kinds.values() if k.waiting), key=lambda k: k.mean, default=None)
            task = self.claimed_elsewhere.pop() if kind is None else kind.waiting.pop()
            body = self.find(task)
            if body is not None:
                self.objects[task.name] = body
                self.found.add(task.name)
            elif kind is None:
                return task
            elif cache.claim(task.name):
                self.claims.add(task.name)
                return task
            else:
                self.claimed_elsewhere.append(task)
        return None

    def feed(self) -> None:
        """Give each process that does nothing a kernel."""
        for worker in self.crew.workers.values():
            if worker.ready and worker.task is None and (task := self.next_task()):
                worker.send(task)

    def compile_here(self) -> None:
        """Compile one kernel in this process."""
        task = self.own.pop() if self.own else self.next_task()
        if task is not None:
            started = time.perf_counter()
            self.finish(task, self.make(task), time.perf_counter() - started)

    def finish(self, task: Task, body: bytes, seconds: float) -> None:
        """Note what has become of a kernel, and keep it."""
        self.objects[task.name] = body
        kind = self.kinds.setdefault(task.kind, Kind())
        kind.seconds, kind.count = kind.seconds + seconds, kind.count + 1
        cache.write(task.name, body)
        if task.name in self.claims:
            self.claims.discard(task.name)
            cache.release(task.name)

    def collect(self, timeout: float) -> None:
        """Take what comes next from a process, if something comes in that time."""
        try:
            number, message = self.crew.results.get(timeout=timeout)
        except Empty:
            return
        worker = self.crew.workers.get(number)
        if worker is None:
            return
        if message is None:
            self.lose(number)
        elif worker.ready:
            task, worker.task = worker.task, None
            assert task is not None
            if message:
                self.finish(task, message, time.perf_counter() - worker.since)
            else:
                # here the error is raised that it had
                self.own.append(task)
        elif message.decode() == imported_digest():
            worker.ready = True
        else:
            self.lose(number, "the files of Foveal have changed since this process imported them; start it again")

    def lose(self, number: int, reason: str = "") -> None:
        """Go on without a process; what it was compiling is compiled here."""
        worker = self.crew.workers.pop(number)
        worker.end()
        if worker.task is not None:
            self.own.append(worker.task)
        code = worker.process.returncode
        reason = reason or f"it ended with {f'signal {-code}' if code < 0 else f'status {code}'}"
        say_once(f"a compiling process is lost, its work is done by the others: {reason}")


def message(parts: object) -> bytes | None:
    """Pickle the description of a kernel; None if it cannot be."""
    try:
        return pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)
    # whatever the operators of others hold
    except Exception:
        return None
