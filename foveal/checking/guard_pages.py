"""Memory between inaccessible pages: what a kernel reads or writes outside of a buffer ends the process.

Without them a read beyond the end gives what lies there, and passes unseen.
"""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache

import numpy as np

from foveal.errors import FovealError
from foveal.strides import Ndarray

PAGE = mmap.PAGESIZE
# mprotect's word for no access at all
NONE = 0
# Mappings live as long as the process: their arrays may outlive the program that they are made for.
_kept: list[tuple[mmap.mmap, Ndarray]] = []


@cache
def system_call() -> Callable[..., int]:
    """Return the system's mprotect. Raises FovealError where there is none."""
    try:
        return ctypes.CDLL(None, use_errno=True).mprotect
    except (AttributeError, OSError, TypeError):
        raise FovealError("guard pages need mprotect, which this system does not have; use Linux or macOS") from None


def protect(address: int, size: int) -> None:
    """Forbid every access to these bytes, which are whole pages. Raises FovealError where that cannot be done."""
    if system_call()(ctypes.c_void_p(address), ctypes.c_size_t(size), NONE):
        raise OSError(ctypes.get_errno(), "mprotect")


def allocator(at_end: bool) -> Callable[[int], Ndarray]:
    """Return a function bytes -> uint8 array of NaNs that ends right before a guard page, or begins right behind one.

        program = build(graph, threads=1, allocate=allocator(at_end=True))
        program.run(x)  # ends the process with SIGSEGV where a kernel leaves a buffer

    Run it in a process of its own, with `at_end` True for what lies behind buffers and False for what lies before them.
    Its memory is never given back. Raises FovealError where the system has no mprotect.
    """

    def allocate(size: int) -> Ndarray:
        pages = max(1, -(-size // PAGE))
        mapping = mmap.mmap(-1, (pages + 2) * PAGE)
        whole = np.frombuffer(mapping, np.uint8)
        _kept.append((mapping, whole))
        for guard in (whole.ctypes.data, whole.ctypes.data + (pages + 1) * PAGE):
            protect(guard, PAGE)
        start = (pages + 1) * PAGE - size if at_end else PAGE
        array = whole[start : start + size]
        array[: size // 4 * 4].view(np.float32)[:] = np.nan
        return array

    return allocate
