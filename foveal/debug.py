"""One ladder that follows the flow: DEBUG=1 ... 6 in the environment, or `with debug.at(level):` in code.

1 a line per program (kernels, bytes, arena); 2 time and share of peak per kernel; 3 the graph and what was fused;
4 the calls with their shapes and kernel source; 5 LLVM IR; 6 assembly.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PROGRAM, TIME, GRAPH, SOURCE, IR, ASSEMBLY = range(1, 7)

_level: ContextVar[int | None] = ContextVar("debug_level", default=None)


def level() -> int:
    """The level in force: the innermost `at` block's, else the environment's, else 0."""
    scoped = _level.get()
    if scoped is not None:
        return scoped
    text = os.environ.get("DEBUG", "0")
    return int(text) if text.isdigit() else 0


@contextmanager
def at(value: int) -> Iterator[None]:
    """The level inside the block is `value`."""
    token = _level.set(value)
    try:
        yield
    finally:
        _level.reset(token)


def show(title: str, text: str = "") -> None:
    """Print to standard error, so that a program's own output stays as it is."""
    print(f"-- {title}" + (f"\n{text}" if text else ""), file=sys.stderr)
