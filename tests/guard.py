"""Memory between inaccessible pages: a read or write outside of a buffer ends the process instead of passing unseen."""

import ctypes
import mmap

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
NONE, READ_WRITE = 0, 3
_kept = []  # mappings live as long as the process: their arrays may outlive the test


def protect(address: int, size: int, how: int) -> None:
    if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), how):
        raise OSError(ctypes.get_errno(), "mprotect")


def allocator(at_end: bool):
    """A function bytes -> uint8 array filled with NaNs that ends right before a guard page, or begins right behind one."""

    def allocate(size: int) -> np.ndarray:
        pages = max(1, -(-size // PAGE))
        mapping = mmap.mmap(-1, (pages + 2) * PAGE)
        whole = np.frombuffer(mapping, np.uint8)
        _kept.append((mapping, whole))
        for guard in (whole.ctypes.data, whole.ctypes.data + (pages + 1) * PAGE):
            protect(guard, PAGE, NONE)
        start = (pages + 1) * PAGE - size if at_end else PAGE
        array = whole[start : start + size]
        array[: size // 4 * 4].view(np.float32)[:] = np.nan
        return array

    return allocate


def release() -> None:
    """Make the guard pages accessible again and drop the mappings; their arrays must not be used any more."""
    _kept.clear()
