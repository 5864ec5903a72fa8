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
# an object file takes 1 to 20 KB, so this is room for 50,000 kernels and more; a model has some hundred
LIMIT_BYTES = 1 << 30
# a process may write so much before it looks through the folder again, which may hold some ten thousand files
SLACK_BYTES = 32 << 20


def directory() -> Path:
    """The folder of the cache: $FOVEAL_CACHE, else foveal/ in the user's cache folder."""
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
    # the time of last use, by which `trim` chooses; a cache may be one that can only be read
    with suppress(OSError):
        os.utime(path)
    body = content[40:]
    if content[:8] != MAGIC or content[8:40] != hashlib.sha256(body).digest():
        return None
    return body


def write(key: str, body: bytes) -> None:
    """Store an object under `key`.

    Where the folder cannot be written, nothing is kept and nothing fails; `foveal doctor` reports such a folder.
    """
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            # whole before it has its name, so that no reader sees a part of it
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
    """The cache's files, temporary ones among them."""
    try:
        return [path for path in directory().iterdir() if path.suffix in (".o", ".tmp")]
    except OSError:
        return []


def size() -> tuple[int, int]:
    """The number of files in the cache, and the sum of their bytes."""
    sizes = []
    for path in entries():
        try:
            sizes.append(path.stat().st_size)
        except OSError:
            continue
    return len(sizes), sum(sizes)


def writable() -> bool:
    """True if kernels that are compiled now will be kept."""
    folder = directory()
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def clear() -> int:
    """Remove every file; gives their number."""
    removed = 0
    for path in entries():
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def trim(limit: int = LIMIT_BYTES) -> None:
    """Remove the files used least recently until at most `limit` bytes are left."""
    # (last use, bytes, path) of each file
    files = []
    for path in entries():
        try:
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
        except OSError:
            continue
    total = sum(size for _, size, _ in files)
    for _, size_of_one, path in sorted(files):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size_of_one


# bytes that this process has written, by folder, since it last looked through it
_written: dict[Path, int] = {}


def stay_small() -> None:
    """Call `trim` after this process has first written, then whenever it has written another SLACK_BYTES."""
    if _written.get(directory(), 0) >= SLACK_BYTES:
        trim()
        _written[directory()] = 0
