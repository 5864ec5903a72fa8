"""Writing files so that nobody sees a part of one."""

import os
from pathlib import Path


def write_synchronised(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_soon(path: Path, content: bytes) -> None:
    """Write a file, which the system brings to the disk when it likes; until then a loss of power loses it."""
    path.write_bytes(content)


def synchronise_file(path: Path) -> None:
    """Wait until a file that was written is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def temporary(path: Path) -> Path:
    """Return the name under which this process writes a file before it gets its own."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_whole(path: Path, content: bytes, synchronised: bool = True) -> None:
    """Write a file so that whoever opens it sees the old content or the new one, and never a part.

    synchronised: False for what may be lost with the machine's power, for as long as that takes the system.
    """
    try:
        (write_synchronised if synchronised else write_soon)(temporary(path), content)
        temporary(path).replace(path)
    finally:
        temporary(path).unlink(missing_ok=True)
