"""Reading the bytes of a file, which may be gzipped, and never more of them than there should be.

A gzip file of a megabyte can hold a gigabyte, so whoever reads one says how much it takes: what a header promises, or
a limit of the format.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.errors import DataError
from foveal.system import total_memory

# The first two bytes of every gzip file.
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate, which gzip and zip use, makes no more than so many bytes of one (zlib's technical notes).
MAX_RATIO = 1032
_CHUNK = 1 << 24


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading, as what it unpacks to if it is gzipped.

    Inside of the block, what cannot be read becomes a DataError.
    """
    try:
        with path.open("rb") as file:
            yield gzip.GzipFile(fileobj=file) if begins_packed(file) else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: torn gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def begins_packed(file: io.BufferedReader) -> bool:
    """Return True if a file is gzipped; it is read from its begin afterwards.

    The content decides, not the name: browsers unpack .gz files on download and keep the name.
    """
    packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    return packed


def is_packed(path: Path) -> bool:
    """Return True if the file is gzipped. Raises DataError if it cannot be read."""
    with opened(path) as stream:
        return isinstance(stream, gzip.GzipFile)


def fill(stream: io.BufferedIOBase, content: NDArray[np.uint8]) -> int:
    """Read into `content`, uint8 [n], until it is full or the stream ends; return how many bytes were read."""
    view, count = content.data, 0
    while count < len(content):
        # Pieces, so that memory is touched only as far as there is content.
        read = stream.readinto(view[count : count + _CHUNK])
        if not read:
            break
        count += read
    return count


def read_limited(path: Path, limit: int, what: str) -> bytes:
    """Return the content of a file of at most `limit` bytes, unpacked; raise DataError if it holds more.

    what: the limit in words, for the message.
    """
    with opened(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{path}: holds more than {what}, {limit:,} bytes; it is damaged or another file")
    return content


def check_size(size: int, possible: float, source: str | Path) -> None:
    """Raise DataError if data of `size` bytes is more than is `possible` there, or than this machine's memory."""
    if size > possible:
        raise DataError(
            f"{source}: the header says {size:,} bytes, more than the file can hold; it is damaged, fetch it again"
        )
    if size > total_memory():
        raise DataError(
            f"{source}: takes {size:,} bytes of memory, and this machine has {total_memory():,.0f}; take fewer images"
        )
