"""Calls of a submission's functions, which run in a process with limits; see supervisor.py and worker.py."""

from __future__ import annotations

import errno
import io
import json
import os
import select
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from foveal.course.grading.supervisor import Limits, Report, kill_with_home
from foveal.course.grading.worker import Broken, packed, received

HERE = Path(__file__).parent
# Seconds that the supervisor may take beyond those of the worker, to start and to end what is left.
BEYOND = 20.0
# Seconds between two looks at whether there is still a supervisor.
LOOK = 0.2
# Of these, libraries of linear algebra make as many threads as there are cores, each with memory of its own.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


class Failed(Exception):
    """A call that has given no result. The text says why, for the student."""

    def __init__(self, text: str, where: Sequence[str] = (), ended: bool = False, blank: bool = False) -> None:
        super().__init__(text)
        #: lines of the submission that led to it
        self.where = tuple(where)
        #: True if the process has ended, so that no other call can follow
        self.ended = ended
        #: True if the function is not written yet
        self.blank = blank
        #: code that repeats the call, where one is known
        self.code = ""


@dataclass(frozen=True)
class Ended:
    """How the process of an exercise ended."""

    #: what was wrong, as a sentence; empty if it ended as it should
    text: str
    #: the beginning of what it printed
    printed: str


class Pipes(io.RawIOBase):
    """The pipes to and from a worker, which end with its supervisor.

    A process that a worker has left behind may hold their other ends open, and would be waited for without end.
    """

    def __init__(self, calls: int, answers: int, supervisor: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.calls, self.answers, self.supervisor = calls, answers, supervisor
        # A pipe takes less than a message at once, and is not waited for by the system.
        os.set_blocking(calls, False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some bytes; none at the end."""
        if not self.ready(self.answers, select.POLLIN):
            return 0
        part = os.read(self.answers, len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def write_all(self, content: bytes) -> None:
        """Write all bytes. Raises BrokenPipeError where nobody reads them any more."""
        view = memoryview(content)
        while view:
            if not self.ready(self.calls, select.POLLOUT):
                raise BrokenPipeError
            with suppress(BlockingIOError):
                view = view[os.write(self.calls, view) :]

    def ready(self, number: int, event: int) -> bool:
        """Wait until a pipe is ready, or has been closed; False where the supervisor has ended, and it is not."""
        poll = select.poll()
        poll.register(number, event)
        while True:
            ended = self.supervisor.poll() is not None
            if poll.poll(0 if ended else LOOK * 1000):
                return True
            if ended:
                return False

    def close_calls(self) -> None:
        """Tell the worker that there are no more calls."""
        if self.calls >= 0:
            os.close(self.calls)
        self.calls = -1

    def close(self) -> None:
        """Close both."""
        if not self.closed:
            self.close_calls()
            os.close(self.answers)
        super().close()


class Session:
    """A process that calls functions of a submission.

    folder: a copy of the submission, which the process may change. It is entered with `with`, and whatever the process
    has started is ended when it is left.
    """

    def __init__(self, folder: Path, limits: Limits, allowed: Sequence[str] = ()) -> None:
        self.folder, self.limits, self.allowed = folder, limits, allowed
        self.ended: Ended | None = None
        self.stopped = False

    def stop(self) -> None:
        """End it, from any thread: what it runs gives no result, and it runs nothing else."""
        self.stopped = True
        if hasattr(self, "process"):
            self.process.terminate()

    def __enter__(self) -> Self:
        folder = os.path.realpath(self.folder)
        there, calls = os.pipe()
        answers, back = os.pipe()
        worker = [sys.executable, "-P", "-B", str(HERE / "worker.py"), folder, str(there), str(back), *self.allowed]
        settings = {"command": worker, "limits": self.limits, "pass_on": [there, back]}
        # -I -S: the supervisor needs the standard library alone, and starts faster so.
        command = [sys.executable, "-I", "-S", str(HERE / "supervisor.py"), json.dumps(settings)]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(there, back),
                start_new_session=True,
                cwd=folder,
                env=environment(folder),
            )
        finally:
            os.close(there)
            os.close(back)
        self.pipes = Pipes(calls, answers, self.process)
        self.incoming = cast(BinaryIO, io.BufferedReader(self.pipes))
        # A supervisor that was stopped itself would be waited for without end.
        self.timer = threading.Timer(self.limits["seconds"] + BEYOND, self.process.kill)
        self.timer.daemon = True
        self.timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end(at_once=error is not None)

    def call(self, module: str, function: str, arguments: Sequence[object]) -> Any:
        """Return what a function of a module of the submission returns. Raises Failed where that is nothing."""
        return self.timed(module, function, arguments)[0]

    def timed(self, module: str, function: str, arguments: Sequence[object]) -> tuple[Any, float]:
        """Return what a function returns, and the seconds until it was there, by the clock of this process."""
        if self.stopped:
            raise Failed("It was stopped.", ended=True)
        if self.ended is not None:
            raise Failed(self.ended.text or "The process had ended before this call.", ended=True)
        message = packed({"module": module, "function": function, "arguments": list(arguments)})
        start = time.perf_counter()
        try:
            self.pipes.write_all(message)
            answer = received(self.incoming)
        except Broken:
            text = self.end(at_once=True).text or "It has sent something that is no result."
            raise Failed(text, ended=True) from None
        except (EOFError, OSError):
            text = self.end().text or f"It ended Python (exit status 0) instead of returning from {function}."
            self.ended = Ended(text, self.end().printed)
            raise Failed(text, ended=True) from None
        seconds = time.perf_counter() - start
        return result_of(answer, module, function, self.limits), seconds

    def end(self, at_once: bool = False) -> Ended:
        """End the process if it still runs, and return how it ended. at_once: do not wait until it ends by itself."""
        if self.ended is not None:
            return self.ended
        self.pipes.close_calls()
        if at_once:
            self.process.terminate()
        try:
            printed, errors = self.process.communicate()
        finally:
            self.timer.cancel()
            self.process.kill()
        self.incoming.close()
        try:
            report = cast(Report, json.loads(printed))
            # Warnings name files; where the copy lay is of no use.
            printed_text = report["printed"].replace(os.path.realpath(self.folder) + os.sep, "")
            self.ended = Ended(self.sentence(report), printed_text)
        except ValueError:
            last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
            kill_with_home(os.path.realpath(self.folder))
            killed = self.process.returncode == -signal.SIGKILL
            text = "It ended the process that watches it." if killed else f"It could not be run ({last})."
            self.ended = Ended("" if at_once else text, "")
        return self.ended

    def sentence(self, report: Report) -> str:
        """Return what was wrong with the end of the process, as a sentence; nothing if all was well."""
        limits, status = self.limits, report["status"]
        megabytes = f"{limits['memory'] / 1e6:g} MB"
        if report["ended"] == "time" or -status == signal.SIGXCPU:
            return f"It did not end within {limits['seconds']:g} s, and was stopped."
        if report["ended"] == "memory":
            return f"It used more than {megabytes} of memory, and was stopped."
        if report["ended"] == "processes":
            return f"It started more than {limits['processes']} processes, and was stopped."
        if report["ended"] == "left":
            return "It left a process running, which was stopped; nothing may go on after a function has returned."
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            return f"It crashed Python itself ({name})."
        return f"It ended Python (exit status {status}) instead of returning." if status else ""


def result_of(answer: Any, module: str, function: str, limits: Limits) -> Any:
    """Return the result that a message holds. Raises Failed where it holds an error; one of a limit names it."""
    if isinstance(answer, dict) and "returned" in answer:
        return answer["returned"]
    if isinstance(answer, dict) and "missing" in answer:
        raise Failed(f"There is no function {function} in {module}.py.")
    if isinstance(answer, dict) and isinstance(answer.get("changed"), list):
        names = ", ".join(map(str, answer["changed"]))
        raise Failed(f"{function} writes into the arrays that it gets: {names}. Write into copies of them.")
    told = isinstance(answer, dict) and {"raised", "text", "where"} <= answer.keys()
    if not told or not isinstance(answer["where"], list):
        raise Failed("It has sent something that is no result.")
    kind, text, where = str(answer["raised"]), str(answer["text"]), [str(line) for line in answer["where"]]
    if answer.get("blank"):
        raise Failed(f"{function} is not written yet.", blank=True)
    if kind == "MemoryError":
        text = f"{text or 'no memory is left'} ({limits['memory'] / 1e6:g} MB may be used)"
    if kind == "OSError" and os.strerror(errno.EFBIG) in text:
        text += f" (a file may have {limits['file_size'] / 1e6:g} MB)"
    raise Failed(f"It raises {kind}: {text}" if text else f"It raises {kind}.", where)


def environment(folder: str) -> dict[str, str]:
    """Return the variables that a worker gets: none of those that may hold a secret, and its folder as its home."""
    kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    own = {"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0", "PYTHONUSERBASE": site.getuserbase()}
    return {**found, **own, **ONE_THREAD}
