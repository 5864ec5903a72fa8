"""Short runs of `foveal tune` in several processes side by side, each with its share of the cores.

The processes are started as foveal.children says, are told what to do by pickled messages, and answer with results or
errors (tune_worker.py). The training images are not sent: they lie in a file without a name that all of them map into
their memory, so that there is one copy for all, which is gone with the last of them.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from io import BytesIO
from threading import Thread
from types import TracebackType
from typing import IO, Any, TypeVar

import numpy as np

from foveal import forks, optim
from foveal.children import close_pipes, obstacle, receive, send, start
from foveal.errors import FovealError
from foveal.kernel import pool
from foveal.kernel.sources import imported_digest, is_outside
from foveal.train.findings import Candidate, Trial
from foveal.train.short_runs import Task

T = TypeVar("T")

SERVE = "from foveal.train.tune_worker import serve; serve()"
# Arrays in the file begin at multiples of this, as vector instructions like it.
ALIGNMENT = 64
# What a process takes beside its training step: Python, its packages, LLVM.
BYTES_PER_PROCESS = 256 << 20
# Seconds in which a process that has closed its pipe ends by itself.
LAST_SECONDS = 5.0
FEWER = "use fewer workers, or a smaller batch size or model"


class Started(forks.Locked):
    """The processes that this process has started. A forked child lets go of their pipes: its parent's close them."""

    def __init__(self) -> None:
        self.processes: set[subprocess.Popen[bytes]] = set()
        super().__init__()

    def renew(self) -> None:
        super().renew()
        for process in self.processes:
            close_pipes(process)
            # It is no child of this process, which is nothing to warn of.
            process.returncode = 0
        self.processes = set()


_started = Started()


class Worker:
    """A process that makes short runs, as this process sees it; asked by one thread at a time."""

    def __init__(self, environment: dict[str, str], files: tuple[int, ...], count: int) -> None:
        """Start it, as one of `count`. files: the descriptors that it gets. Raises FovealError if that fails."""
        self.count = count
        try:
            self.process = start(SERVE, environment, files)
        except OSError as error:
            raise FovealError(f"tune: a worker cannot be started: {error.strerror or error}; {FEWER}") from None
        _started.processes.add(self.process)

    def greet(self) -> None:
        """Wait until it has imported Foveal. Raises FovealError if that is not what this process has imported."""
        if self.received().decode() != imported_digest():
            raise FovealError("tune: the files of Foveal have changed since this process imported them; start it again")

    def ask(self, name: str, *arguments: Any) -> Any:
        """Return what a method of its short runs returns, or raise what that raises."""
        assert self.process.stdin is not None
        # What has ended is noticed where its answer is read.
        with suppress(OSError):
            send(self.process.stdin.fileno(), pickle.dumps((name, arguments), pickle.HIGHEST_PROTOCOL))
        result, error = pickle.loads(self.received())
        if isinstance(error, MemoryError):
            raise FovealError(f"tune: one of {self.count} workers has not enough memory; {FEWER}") from error
        if error is not None:
            raise error
        return result

    def received(self) -> bytes:
        """Return its next message. Raises FovealError if it has ended."""
        assert self.process.stdout is not None
        message = receive(self.process.stdout.fileno())
        if message is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LAST_SECONDS)
            raise FovealError(f"tune: one of {self.count} workers {ending(self.process.returncode)}; {FEWER}")
        return message


def ending(code: int | None) -> str:
    """Return how a process has ended, as a clause, given its status as `subprocess` has it."""
    if code is None or code >= 0:
        return f"has ended with status {code}"
    killed = ", as systems do to a process where memory runs out" if code == -signal.SIGKILL else ""
    # Most real-time signals have no name.
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was ended by {name}{killed}"


class Crew:
    """Processes that make short runs side by side; leaving the context ends them, whatever they are doing."""

    def __init__(self, task: Task, count: int, compile_first: Callable[[], object]) -> None:
        """Start so many processes for a task, whose settings have the threads of one of them.

        compile_first: called while they start; what it compiles they find in the cache. Raises FovealError if they
        cannot be started, or one ends.
        """
        self.task, self.count, self.compile_first = task, count, compile_first
        self.modules = modules_of(task)
        if (reason := obstacle()) is not None:
            raise FovealError(f"tune: no worker can be started: {reason}; leave workers out")
        self.workers: list[Worker] = []
        # Those that wait for answers.
        self.threads: list[Thread] = []

    def __enter__(self) -> Crew:
        with ExitStack() as failed:
            failed.callback(self.end)
            with nameless_file() as file:
                content, places = packed(self.task, file if os.name == "posix" else None)
                files = (file.fileno(),) if places else ()
                # Kernels that are still missing are compiled by as many processes as the machine has cores, in all.
                environment = {pool.VARIABLE: str(max(1, pool.jobs() // self.count)), "DEBUG": "0"}
                for _ in range(self.count):
                    self.workers.append(Worker(environment, files, self.count))
                self.compile_first()
                self.each(Worker.greet)
                self.each(lambda worker: worker.ask("begin", self.modules, content, places, *files))
            self.each(lambda worker: worker.ask("prepare"))
            failed.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def each(self, ask: Callable[[Worker], T]) -> list[T]:
        """Return what all workers answer, asked at the same time; raise the first error as soon as there is one."""

        def answer(worker: Worker, future: Future[T]) -> None:
            try:
                future.set_result(ask(worker))
            except BaseException as error:
                future.set_exception(error)

        futures: list[Future[T]] = []
        for worker in self.workers:
            futures.append(Future())
            # A program whose main thread ends waits for no answer.
            self.threads.append(Thread(target=answer, args=(worker, futures[-1]), daemon=True, name="foveal tune"))
            self.threads[-1].start()
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
        return [future.result() for future in futures]

    def measure(self) -> tuple[float, float]:
        """Return the seconds of a step and of a validation, while all processes are at work; of the slowest."""
        found = self.each(lambda worker: worker.ask("measure"))
        return max(step for step, _ in found), max(validation for _, validation in found)

    def trials(self, candidates: Iterable[Candidate], steps: int, goes_on: Callable[[int], bool]) -> Iterator[Trial]:
        """Yield the results of short runs in the order of the candidates, as long as goes_on(number of the run)."""

        # Each thread takes the first one that is left, which is at the end of the list.
        waiting = list(enumerate(candidates))[::-1]

        def make(worker: Worker) -> dict[int, Trial]:
            made = {}
            while waiting:
                with suppress(IndexError):
                    number, candidate = waiting.pop()
                    if goes_on(number):
                        made[number] = worker.ask("trial", candidate, steps)
            return made

        made = {number: trial for part in self.each(make) for number, trial in part.items()}
        yield from (made[number] for number in sorted(made))

    def end(self) -> None:
        """End all processes; threads that wait for their answers end then too."""
        processes = [worker.process for worker in self.workers]
        # At once: they have nothing to finish, as they write no files.
        for process in processes:
            process.kill()
        for thread in self.threads:
            # An interruption may have come before it was started.
            if thread.is_alive():
                thread.join()
        for process in processes:
            process.wait()
            close_pipes(process)
        _started.processes.difference_update(processes)


def modules_of(task: Task) -> tuple[str, ...]:
    """Return the modules that a worker has to import beside Foveal's. Raises FovealError if one cannot be imported."""
    name = task.settings.optimizer
    module = optim.UpdateRule.registry[name].__module__
    if not is_outside(module):
        return ()
    if module == "__main__":
        raise FovealError(
            f"tune: optimizer {name!r} is defined in this program or notebook, where worker processes do not find it;"
            " put it into a module that is imported here, or leave workers out"
        )
    return (module,)


class DataPickler(pickle.Pickler):
    """Maps of whole files are pickled by the names of these; other arrays as their memory."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.memmap:
            return NotImplemented
        whole = isinstance(value.base, mmap.mmap) and value.mode == "r" and value.flags.c_contiguous
        if whole and value.filename is not None:
            return np.memmap, (str(value.filename), value.dtype, "r", value.offset, value.shape)
        return value.view(np.ndarray).__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def nameless_file() -> IO[bytes]:
    """Return a new temporary file without a name. Raises FovealError if there cannot be one."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise FovealError(
            f"tune: no file can be made that holds the images for the workers ({error.strerror}); let TMPDIR name a"
            " folder that can be written to, or leave workers out"
        ) from None


def packed(task: Task, file: IO[bytes] | None) -> tuple[bytes, list[tuple[int, int]]]:
    """Return a task pickled, without its test images, and the places (first byte, length) of its arrays in the file.

    file: None for arrays that are pickled with the rest. Raises FovealError if the arrays cannot be written.
    """
    data = task.data
    # Their size is the network's; `tune` looks at no test image.
    one = replace(data, images_test=data.images_test[:1], y_test=data.y_test[:1])
    one = replace(one, images_validation=None, y_validation=None, files=None)
    content, buffers = BytesIO(), list[pickle.PickleBuffer]()
    keep = None if file is None else buffers.append
    DataPickler(content, pickle.HIGHEST_PROTOCOL, buffer_callback=keep).dump(replace(task, data=one))
    places = []
    for buffer in buffers:
        assert file is not None
        memory = buffer.raw()
        try:
            first = file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
            file.write(memory)
            file.flush()
        except OSError as error:
            raise FovealError(
                f"tune: the images, {memory.nbytes >> 20} MiB, cannot be written to a file in {tempfile.gettempdir()}"
                f" for the workers ({error.strerror}); let TMPDIR name another folder, or leave workers out"
            ) from None
        places.append((first, memory.nbytes))
    return content.getvalue(), places
