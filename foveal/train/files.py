"""Errors of writing files, and locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from foveal import debug
from foveal.errors import DataError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# What a file system answers that has no locks, or does not synchronise folders.
_NOT_SUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Convert an OSError inside of the block into a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from None


def synchronise(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, on systems where folders can be opened."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(handle)


def lock(path: Path) -> TextIO:
    """Return the open file at `path`, locked until it is closed; the system closes it too when the process is killed.

    It holds the number of the process, for the message of the next one. Raises DataError if another process, or another
    training of this one, has the lock.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _lock(file)
            # Whoever had the lock may have removed the file since it was opened here.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"{os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
        except BlockingIOError:
            file.seek(0)
            owner = file.read() or "unknown"
            file.close()
            raise DataError(
                f"{path.parent}: another training writes to this folder (process {owner}): choose another --out, or"
                " wait until it has ended"
            ) from None
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: TextIO) -> None:
    """Lock an open file, or raise BlockingIOError if it is locked."""
    try:
        if sys.platform == "win32":
            # A byte beyond the end, as what is locked there cannot be read.
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            raise BlockingIOError from None
        if error.errno not in _NOT_SUPPORTED:
            raise
        debug.show(f"{file.name}: this file system has no locks, so a second training would not be refused")
