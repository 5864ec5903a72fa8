"""How often something was compiled again for another shape, or another attribute: for each, a byte is added to a file.

So the size of a file is the count. Several processes may add at once, and none reads what another wrote. The files lie
in the folder of the cache, and are as safe or unused as that is (kernel/cache.py); where nothing is kept, nothing is
counted.
"""

import os
from contextlib import suppress

from foveal.kernel import cache

# what is counted: programs for another shape, or another attribute, of what a process had compiled before
SHAPES, ATTRIBUTES = NAMES = ("shapes", "attributes")
FILE = "{}.count"
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def add(name: str) -> None:
    """Count one more; nothing fails where that cannot be written."""
    folder = cache.usable()
    if folder is None:
        return
    with suppress(OSError):
        cache.make(folder)
        handle = os.open(folder / FILE.format(name), FLAGS, 0o600)
        try:
            if cache.is_own_file(os.fstat(handle)):
                os.write(handle, b".")
        finally:
            os.close(handle)


def counted() -> dict[str, int]:
    """The counts by name."""
    found = dict.fromkeys(NAMES, 0)
    folder = cache.usable()
    for name in NAMES if folder is not None else ():
        with suppress(OSError):
            assert folder is not None
            status = (folder / FILE.format(name)).lstat()
            found[name] = status.st_size if cache.is_own_file(status) else 0
    return found


def clear() -> None:
    """Begin to count anew."""
    folder = cache.usable()
    for name in NAMES if folder is not None else ():
        assert folder is not None
        cache.remove(folder / FILE.format(name))
