"""What is printed while Foveal works: DEBUG=1 ... 6 in the environment, or `with debug.at(level):` in code.

The levels follow a program on its way to machine code, and each one shows what those below it show as well:

1 PROGRAM   a line per program: its kernels, bytes, arena
2 TIME      time and share of the machine's peak per kernel
3 GRAPH     the graph, what was fused, how values lie in memory
4 SOURCE    every call with its shapes, and the kernels' source
5 IR        LLVM IR
6 ASSEMBLY  assembly
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from foveal.errors import warn
from foveal.names import printable

PROGRAM, TIME, GRAPH, SOURCE, IR, ASSEMBLY = range(1, 7)

# what the innermost `at` block asks for, in this thread or task
_level: ContextVar[int | None] = ContextVar("debug_level", default=None)


def level() -> int:
    """The current level: the innermost `at` block's, else the environment's, else 0."""
    scoped = _level.get()
    if scoped is not None:
        return scoped
    text = os.environ.get("DEBUG", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else unknown(text)


@cache
def unknown(text: str) -> int:
    """0, for a DEBUG that is no level; a FovealWarning says so once. It is no error: others read the variable, too."""
    if text:
        warn(f"DEBUG is {text[:40]!r}, which is no level, so that nothing is shown; give 1 to {ASSEMBLY}, or 0")
    return 0


@contextmanager
def at(value: int) -> Iterator[None]:
    """Set the level inside the block to `value`."""
    token = _level.set(value)
    try:
        yield
    finally:
        _level.reset(token)


def show(title: str, text: str = "") -> None:
    """Print a title, and a text below it, to standard error, so that a program's own output stays as it is."""
    print(printable(f"-- {title}" + (f"\n{text}" if text else "")), file=sys.stderr)
