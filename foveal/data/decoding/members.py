"""Images that lie inside of other files: members of a tar shard, rows of a parquet file.

Their address is a text, `FILE::NAME`, so that they stand where paths of files stand; whoever opens the file of an image
or asks for its size and time does so by `opened` and `file_of`, which take both.
"""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Between the file and the name of what lies in it.
SEPARATOR = "::"


class Member(str):
    """The address of an image inside of another file, as a text."""

    __slots__ = ("file",)

    #: The path of the file that it lies in.
    file: str
    #: False if images of this kind are read fast only one after another, as they lie in the file.
    in_any_order = True

    def __new__(cls, file: str, name: str) -> Self:
        """Return an address. file: the path of the file; name: what the image is called there."""
        self = super().__new__(cls, f"{file}{SEPARATOR}{name}")
        self.file = file
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.file, self.name

    @property
    def name(self) -> str:
        """Its name in the file."""
        return self[len(self.file) + len(SEPARATOR) :]

    def open(self) -> BinaryIO:
        """Return the content as a stream. Raises OSError where it cannot be read."""
        raise NotImplementedError


class TarMember(Member):
    """The address of a member of a tar file, which is read where it lies, without unpacking anything."""

    __slots__ = ("length", "offset")

    #: Of its content in the file, in bytes.
    offset: int
    length: int

    @classmethod
    def at(cls, file: str, name: str, offset: int, length: int) -> Self:
        """Return the address of so many bytes of a file."""
        self = cls(file, name)
        self.offset, self.length = offset, length
        return self

    def open(self) -> BinaryIO:
        return io.BufferedReader(Window(self.file, self.offset, self.length))


class Window(io.RawIOBase):
    """A part of a file, as a file of its own that can be read."""

    def __init__(self, path: str, offset: int, length: int) -> None:
        self.file, self.offset, self.length, self.place = io.FileIO(path), offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.length}[whence]
        self.place = max(0, start + offset)
        return self.place

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)[: max(0, self.length - self.place)]
        self.file.seek(self.offset + self.place)
        count = self.file.readinto(view)
        self.place += count
        return count

    def readall(self) -> bytes:
        self.file.seek(self.offset + self.place)
        content = self.file.read(max(0, self.length - self.place)) or b""
        self.place += len(content)
        return content

    def close(self) -> None:
        self.file.close()
        super().close()


def file_of(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the file that holds an image: its own, or the one that it is a member of."""
    return path.file if isinstance(path, Member) else path


def opened(path: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
    """Return the content of the file or the member as a stream. Raises OSError where it cannot be read."""
    return path.open() if isinstance(path, Member) else open(path, "rb")
