"""Machine code on disk, one file per kernel, shared by all processes of a user.

File: 8 bytes magic, 32 bytes SHA-256 of what follows, then the object file. The name is the kernel's key, which covers
its source, shapes, target CPU, LLVM version and Foveal version. Written under a temporary name and renamed, so a reader
sees a whole file or none; a file that does not match its checksum counts as absent and is written again.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

MAGIC = b"foveal01"
LIMIT_BYTES = 1 << 30
SLACK_BYTES = 32 << 20  # may be written before the folder, of some ten thousand files, is looked through again


def directory() -> Path:
    """$FOVEAL_CACHE, else foveal/ in the user's cache folder."""
    if chosen := os.environ.get("FOVEAL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foveal"


def read(key: str) -> bytes | None:
    """The object stored under `key`, or None if there is none that is whole."""
    path = directory() / f"{key}.o"
    try:
        content = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # a cache that may only be read
        os.utime(path)  # `trim` removes what was used least recently
    body = content[40:]
    if content[:8] != MAGIC or content[8:40] != hashlib.sha256(body).digest():
        return None
    return body


def write(key: str, body: bytes) -> None:
    """Store an object; where the folder cannot be written nothing is kept and nothing fails (`foveal doctor` tells)."""
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(temporary, folder / f"{key}.o")
            _written[folder] = _written.get(folder, SLACK_BYTES) + len(body)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError:
        return


def entries() -> list[Path]:
    try:
        return [path for path in directory().iterdir() if path.suffix in (".o", ".tmp")]
    except OSError:
        return []


def size() -> tuple[int, int]:
    """How many files the cache holds, and their bytes together."""
    sizes = []
    for path in entries():
        try:
            sizes.append(path.stat().st_size)
        except OSError:
            continue
    return len(sizes), sum(sizes)


def writable() -> bool:
    """Whether kernels compiled now will be kept."""
    folder = directory()
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def clear() -> int:
    """Remove every file; the number removed."""
    removed = 0
    for path in entries():
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def trim(limit: int = LIMIT_BYTES) -> None:
    """Remove the files used least recently until at most `limit` bytes are left."""
    found = []
    for path in entries():
        try:
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
        except OSError:
            continue
    total = sum(size for _, size, _ in found)
    for _, size_of_one, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size_of_one


_written: dict[Path, int] = {}  # by this process, since it looked through the folder


def stay_small() -> None:
    """`trim` after a process's first writing, then whenever it has written another SLACK_BYTES."""
    if _written.get(directory(), 0) >= SLACK_BYTES:
        trim()
        _written[directory()] = 0
