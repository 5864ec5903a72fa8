"""Processes of this interpreter that work for this one: started by module name, told what to do through a pipe.

They have this interpreter's `sys.path`. No `__main__` is imported and nothing is forked, so that they can be started
from a script without a guard, from a notebook and from a program with threads. They read a pipe whose other end this
process holds, and end when it is closed: when this process is interrupted, and when it dies, whatever it dies of.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO

PACKAGE = Path(__file__).parent

# `site` would only look for packages again; sys.path comes from here, and the user's modules stay outside
FLAGS = ("-S", "-s", "-P")
START = "import sys; sys.path[:] = {path}; {serve}"


def obstacle() -> str | None:
    """Return why no process can be started, as a clause; None if nothing is known to be in the way."""
    program = Path(sys.executable or "").name.lower()
    if getattr(sys, "frozen", False) or not program.startswith(("python", "pypy")):
        return f"sys.executable, {sys.executable!r}, is not known to be a Python interpreter"
    return None if PACKAGE.is_dir() else f"{PACKAGE} is no folder"


def start(serve: str, environment: Mapping[str, str], files: Collection[int] = ()) -> subprocess.Popen[bytes]:
    """Start a process that carries out the statement `serve`, and return it; its pipes are not buffered.

    environment: variables that differ from those of this process. files: descriptors that it gets, under the same
    numbers. Raises OSError if it cannot be started.
    """
    flags = [*FLAGS, *(["-E"] if sys.flags.ignore_environment else []), *["-O"] * sys.flags.optimize]
    path = [entry for entry in sys.path if isinstance(entry, str)]
    package = str(PACKAGE.parent)
    code = START.format(path=ascii(path if package in path else [*path, package]), serve=serve)
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", code],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if is_open(2) else subprocess.DEVNULL,
        env=os.environ | environment,
        pass_fds=files,
        # Ctrl-C at a terminal goes to a whole process group: these processes end with their pipe
        process_group=0 if os.name == "posix" else None,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin, process.stdout = above_standard(process.stdin), above_standard(process.stdout)
    return process


def serve(answer: Callable[[bytes], bytes], greeting: bytes) -> None:
    """Answer one message after another until standard input is closed; then end at once, whatever is being done.

    Messages come in on standard input, and answers go out on what was standard output, the greeting first. What is
    printed meanwhile goes to standard error.
    """
    replies = os.dup(1)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # it is not flushed when this process ends
    sys.stdout = sys.stderr
    requests: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        while (request := receive(0)) is not None:
            requests.put(request)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    # a parent that has died reads no more, which its pipe may not have told yet
    with suppress(BrokenPipeError):
        send(replies, greeting)
        while True:
            send(replies, answer(requests.get()))
    os._exit(0)


def send(file: int, data: bytes) -> None:
    """Write a message to a pipe: its length, then its bytes."""
    rest = memoryview(len(data).to_bytes(8, "little") + data)
    while rest:
        rest = rest[os.write(file, rest) :]


def receive(file: int) -> bytes | None:
    """Read a message from a pipe; None if the other end has closed it."""
    length = read_bytes(file, 8)
    return None if length is None else read_bytes(file, int.from_bytes(length, "little"))


def read_bytes(file: int, count: int) -> bytes | None:
    """Read so many bytes; None if the pipe ends before."""
    parts = []
    while count:
        # a read may give less than was asked for
        part = os.read(file, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def above_standard(pipe: IO[bytes]) -> IO[bytes]:
    """Return a pipe that no standard stream's number stands for: where those are closed, print would write into it."""
    if pipe.fileno() > 2:
        return pipe
    # its number stays taken until a copy has a higher one
    with pipe:
        return above_standard(os.fdopen(os.dup(pipe.fileno()), pipe.mode, 0))


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close this process's ends. A program that closes all its descriptors has done so already."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):
            pipe.close()


def is_open(descriptor: int) -> bool:
    """Return whether a file descriptor is in use."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
