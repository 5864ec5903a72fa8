"""Memory between inaccessible pages: a read or write outside of a buffer ends the process instead of passing unseen.

As a script, `python guard.py OPERATOR...`: run every kernel of the named operators so, tuned and plain, and print each
name when it is done. The process that ends early has run the operator that is missing.
"""

import ctypes
import mmap
import sys

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
NONE = 0  # no access at all
_kept = []  # mappings live as long as the process: their arrays may outlive the test


def protect(address: int, size: int, how: int) -> None:
    if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), how):
        raise OSError(ctypes.get_errno(), "mprotect")


def allocator(at_end: bool):
    """A function bytes -> uint8 array of NaNs that ends right before a guard page, or begins right behind one."""

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


def check(op) -> None:
    import checks

    from foveal.build import build

    for case in op.cases:
        graphs = [checks.forward(op, case)[:2]]
        if op.differentiable and op.arity != 0:
            graphs.append(checks.backward(op, case))
        for graph, xs in graphs:
            wants = graph.evaluate(*checks.double(xs))
            for tuned in (True, False):
                for at_end in (True, False):
                    program = build(graph, threads=2, tuned=tuned, allocate=allocator(at_end))
                    for got, want in zip(program.run(*xs), wants, strict=True):
                        assert checks.error(got, want) < checks.WEIGHT_LIMIT, (op, case, tuned)


if __name__ == "__main__":
    from foveal.ops import OPS

    for name in sys.argv[1:]:
        check(OPS[name])
        print(name, flush=True)
