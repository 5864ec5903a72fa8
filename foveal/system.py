"""What the operating system lets this process use: processors, memory, places for files."""

import ctypes
import math
import os
from pathlib import Path

from foveal.errors import DataError, FovealError

# Native threads that a program may have on any machine.
MAX_THREADS = 4096


def switched_on(variable: str) -> bool:
    """True where a variable of the environment is 1, False where it is 0, empty or not set; else FovealError."""
    text = os.environ.get(variable, "")
    if text not in ("", "0", "1"):
        raise FovealError(f"{variable} is {text[:40]!r}: give 1 to switch it on, 0 or nothing to switch it off")
    return text == "1"


def processors() -> int:
    """The number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def max_threads() -> int:
    """The number of native threads that a program may have: 16 for each processor, from 64 to MAX_THREADS.

    More only take turns on the processors.
    """
    return min(max(64, 16 * processors()), MAX_THREADS)


def free_memory() -> float:
    """Bytes of memory that are free; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def available_memory() -> float:
    """Bytes of memory that a program can get without swapping; infinity where the system does not say.

    On Linux the page cache counts as available, and a container's limit (cgroup 2) is kept.
    """
    found = free_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        limit, used = (Path("/sys/fs/cgroup", name).read_text("ascii") for name in ("memory.max", "memory.current"))
        found = min(found, float(limit) - float(used)) if limit.strip() != "max" else found
    except (OSError, ValueError, IndexError, StopIteration):
        return found
    return found


def total_memory() -> float:
    """Bytes of memory that this machine has; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def give_back() -> None:
    """Hand memory that this process has freed back to the system, where the C library can do so (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def place_of_file(path: Path) -> Path:
    """Return where a file lies that is about to be replaced by a new one, links followed.

    Raises DataError where there is something else than a file: root could replace /dev/null as well.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise DataError(f"{path} is no file, and would be replaced by one; give another name")
    if not place.parent.is_dir():
        raise DataError(f"{path} cannot be written: there is no folder {place.parent}; make it, or give another name")
    return place
