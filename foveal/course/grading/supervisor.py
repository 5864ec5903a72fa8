"""A process that starts the worker with limits, watches it and all that it starts, and ends them.

It is started as a program of its own for each exercise, and imports the standard library alone. It is given a JSON
object on the command line, and prints another one when the worker has ended; see `Limits` and `Report`.

What one process may use is limited by the system (setrlimit). What processes use together is looked at every few
milliseconds: on Linux through /proc, where processes that have left their session and whose parents have ended are
found too, as they then become children of this one (prctl, PR_SET_CHILD_SUBREAPER). If this process is killed, so is
the worker (PR_SET_PDEATHSIG). On other systems, processes are ended by their session alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, TypedDict

# Windows has no limits of this kind; there, only the types below are of use.
if sys.platform != "win32":
    import resource

# Seconds between two looks, and for which what is left is waited for after the worker has ended.
PAUSE, GRACE = 0.02, 0.1
# Letters of what the worker prints that are kept.
KEPT = 4000
# From sys/prctl.h.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ON_LINUX = sys.platform == "linux"


class Limits(TypedDict):
    """What a worker may use."""

    #: seconds, by the clock
    seconds: float
    #: bytes of memory, of one process and of all together
    memory: int
    #: processes besides the worker
    processes: int
    #: bytes of a file that is written
    file_size: int


class Report(TypedDict):
    """How a worker ended."""

    #: why it was ended: time, memory, processes, left (processes that it had left running); empty if it was not
    ended: str
    #: its exit status; the negative number of a signal
    status: int
    #: the beginning of what it printed
    printed: str
    #: bytes of memory that it used at most, itself
    memory: int


def limit(limits: Limits, running: int) -> None:
    """Limit this process, which becomes the worker. running: processes and threads that its user has."""

    def set_to(name: str, value: int) -> None:
        which = getattr(resource, name, None)
        if which is None:
            return
        hard = resource.getrlimit(which)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(which, (bound, bound))
        # macOS refuses some.
        except (ValueError, OSError):
            return

    set_to("RLIMIT_CPU", int(limits["seconds"]) + 1)
    set_to("RLIMIT_AS", limits["memory"])
    set_to("RLIMIT_FSIZE", limits["file_size"])
    set_to("RLIMIT_CORE", 0)
    # It counts all processes of the user, and threads; root has no such limit.
    if ON_LINUX and os.getuid():
        set_to("RLIMIT_NPROC", running + limits["processes"] + 16)
    if ON_LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def of_user() -> int:
    """Return how many processes and threads this process's user has."""
    total = 0
    for name in os.listdir("/proc") if ON_LINUX else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return total


def descendants() -> dict[int, int]:
    """Return the processes that stem from this one, by number, with the bytes of memory that each uses."""
    parents, memory = {}, {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # After the name in brackets, which may hold anything: state, parent, ...
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        # A zombie uses nothing, and is gone once somebody waits for it.
        if fields[0] not in (b"Z", b"X"):
            parents[int(name)], memory[int(name)] = int(fields[1]), int(fields[21]) * resource.getpagesize()
    found = {os.getpid()}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return {number: memory[number] for number in found - {os.getpid()}}


def kill_all(worker: int) -> None:
    """End the worker's session and whatever else stems from it, until nothing is left."""
    for _ in range(200):
        # The whole group at once, so that none of it can start another one in between.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(worker, signal.SIGKILL)
        left = descendants() if ON_LINUX else {}
        # All stand still before any of them ends, as others would take note of that.
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for number in left:
                try:
                    os.kill(number, sent)
                except ProcessLookupError:
                    continue
        reap()
        if not left:
            return
        time.sleep(0.005)


def kill_with_home(folder: str) -> None:
    """End the processes that were started with this folder as their home, for a supervisor that was ended itself."""
    variable = os.fsencode(f"\0HOME={folder}\0")
    for _ in range(200):
        left = []
        for name in filter(str.isdigit, os.listdir("/proc") if ON_LINUX else ()):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    left += [int(name)] if variable in b"\0" + file.read() else []
            except OSError:
                continue
        for number in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.005)


def reap() -> None:
    """Wait for children that have ended, of which there may be some that others have left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


class Watch:
    """The worker while it runs: what it prints, and what it and its processes use."""

    def __init__(self, command: list[str], limits: Limits, pass_on: list[int]) -> None:
        running = of_user()
        self.limits, self.printed, self.status = limits, bytearray(), 0
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_on,
            start_new_session=True,
            preexec_fn=lambda: limit(limits, running),
        )
        self.stream = self.process.stdout
        # The other side sees that the worker has ended when nobody holds them any more.
        for number in pass_on:
            os.close(number)
        self.memory = 0

    def run(self) -> str:
        """Wait until the worker has ended; return why it had to be ended, or nothing."""
        now = time.monotonic()
        until, next_look = now + self.limits["seconds"], now
        while not self.has_ended():
            self.take_printed(PAUSE)
            now = time.monotonic()
            if now > until:
                return "time"
            if ON_LINUX and now >= next_look:
                if why := self.used_too_much():
                    return why
                # A look takes longer where there are many processes; it shall not take much of the time.
                next_look = time.monotonic() + 5 * (time.monotonic() - now)
        until = time.monotonic() + GRACE
        while ON_LINUX and descendants():
            if time.monotonic() > until:
                return "left"
            time.sleep(PAUSE)
        return ""

    def has_ended(self) -> bool:
        """Whether the worker has ended; takes note of its status and of its memory."""
        number, status, used = os.wait4(self.process.pid, os.WNOHANG)
        if number:
            self.note(status, used)
        return bool(number)

    def note(self, status: int, used: resource.struct_rusage) -> None:
        self.status = os.waitstatus_to_exitcode(status)
        # In kilobytes, on macOS in bytes.
        self.memory = used.ru_maxrss * (1024 if ON_LINUX else 1)

    def used_too_much(self) -> str:
        """Return which of the limits on all processes together is passed, if any is."""
        found = descendants()
        if len(found) > 1 + self.limits["processes"]:
            return "processes"
        return "memory" if sum(found.values()) > self.limits["memory"] else ""

    def take_printed(self, seconds: float) -> None:
        """Read what is printed, for that long at most, and keep the beginning."""
        if self.stream is None:
            time.sleep(seconds)
        elif select.select([self.stream], [], [], seconds)[0]:
            part = os.read(self.stream.fileno(), 1 << 16)
            self.printed += part[: max(0, KEPT + 1 - len(self.printed))]
            if not part:
                self.stream = None

    def end(self) -> None:
        """End what is left, and read what was printed last."""
        # The worker's own status is wanted; it is reaped here rather than with the others.
        with suppress(ProcessLookupError, ChildProcessError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
            _, status, used = os.wait4(self.process.pid, 0)
            self.note(status, used)
        kill_all(self.process.pid)
        while self.stream is not None and select.select([self.stream], [], [], 0)[0]:
            self.take_printed(0)


def main(given: str) -> Report:
    """Run a worker and return how it ended."""
    settings: dict[str, Any] = json.loads(given)
    if ON_LINUX:
        library = ctypes.CDLL(None)
        library.prctl(PR_SET_CHILD_SUBREAPER, 1)
        # It ends with the process that grades, and has time to end the others before.
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    watch = Watch(settings["command"], settings["limits"], settings["pass_on"])
    try:
        why = watch.run()
    finally:
        watch.end()
    text = bytes(watch.printed).decode("utf-8", "replace")
    printed = text[:KEPT] + ("\n[...]" if len(text) > KEPT else "")
    return {"ended": why, "status": watch.status, "printed": printed, "memory": watch.memory}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])), flush=True)
