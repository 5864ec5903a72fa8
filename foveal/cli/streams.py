"""Standard output and standard error of the command line: what happens when they cannot be written.

A closed pipe (`| head -1`), a full disk or a closed descriptor is no reason to lose a training, and no place for a
traceback. `guarded` puts streams in the place of Python's that drop what can no longer be written and remember why.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from foveal import errors
from foveal.names import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# 128 + SIGPIPE: what a shell shows of a program that the system ends when nobody reads its output.
PIPE_CLOSED = 141
# Of both streams and of standard input.
DESCRIPTORS = range(3)


class Stream(io.RawIOBase):
    """A file descriptor that writing never fails on: what it does not take is dropped, and `error` says why."""

    def __init__(self, descriptor: int, broken: OSError | None = None) -> None:
        #: broken: why nothing can be written any more. error: the same, once something was dropped.
        self.descriptor, self.broken = descriptor, broken
        self.error: OSError | None = None
        #: True for commands that go on without their output, as their results are files.
        self.optional = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            if self.broken is None:
                return os.write(self.descriptor, data)
        except OSError as error:
            self.broken = error
        if self.error is None:
            self.error = self.broken
            if self.optional:
                click.echo(f"Warning: {self.reason()}; what it would show is lost, the work goes on", err=True)
        return memoryview(data).nbytes

    def reason(self) -> str:
        """What is wrong with standard output, in words."""
        assert self.error is not None
        return f"standard output cannot be written: {self.error.strerror}"

    def status(self, code: str | int | None) -> str | int | None:
        """Return the exit status of a command that ended with `code`, after saying what its output was missing."""
        if code or self.error is None or self.optional:
            return code
        if self.error.errno == errno.EPIPE:
            return PIPE_CLOSED
        click.echo(f"Error: {self.reason()}", err=True)
        return 2


@contextmanager
def guarded() -> Iterator[Stream]:
    """Inside of the block neither stream raises, whatever becomes of its descriptor; yield standard output's.

    Names that the encoding of the terminal lacks are written as escapes. Where something else was put in Python's
    place, such as a test's, it stays. Warnings of other packages are left out: they would stand before the message that
    says what is wrong. `python -W` or PYTHONWARNINGS show them. Foveal's own become one line each.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield Stream(1)
        return
    # Files that are opened later must not get the numbers of the streams, which libraries write to.
    closed = [descriptor for descriptor in DESCRIPTORS if not is_open(descriptor)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    out = Stream(1, OSError(errno.EBADF, os.strerror(errno.EBADF)) if 1 in closed else None)
    # Python's messages have a descriptor of their own, so that those of libraries can be kept apart.
    err = Stream(os.dup(2))
    sys.stdout, sys.stderr = text(out, before[0]), text(err, before[1], line_buffering=True)
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning)
            warnings.showwarning = show_own
        try:
            yield out
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before


def show_own(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line, without the line of the source that it comes from, if it is one of Foveal's."""
    if category.__module__ == errors.__name__:
        click.echo(f"Warning: {printable(str(message))}", err=True)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
        return True
    except OSError:
        return False


def text(raw: Stream, before: Any, line_buffering: bool = False) -> io.TextIOWrapper:
    """Return a stream of text on `raw`, with the encoding and the buffering of Python's own, None if that is closed."""
    # As Python does with -u.
    unbuffered = getattr(before, "write_through", False)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding=getattr(before, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=line_buffering or raw.isatty(),
        write_through=unbuffered,
    )


@contextmanager
def without_library_lines() -> Iterator[None]:
    """Inside of the block, lines that C libraries write to standard error themselves go nowhere; Python's still do.

    libtiff's would stand before the message that says which file is damaged. It is a setting of the whole process.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
