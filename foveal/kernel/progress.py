"""What a person sees of a long compilation: what is compiled, and that it is kept."""

import os
import shutil
import sys
import time
from importlib import import_module
from types import TracebackType
from typing import Any

from foveal.kernel import cache
from foveal.names import printable

# below this, nothing is said
QUIET_SECONDS = 1.0
# how often the line is written anew; in a notebook each one is a message
REFRESH_SECONDS, NOTEBOOK_SECONDS = 0.1, 0.5


def kept() -> str:
    """Where compiled kernels are kept, as words; or that they are not."""
    folder = cache.directory()
    if folder == cache.OFF:
        return "kept nowhere, as FOVEAL_CACHE says, so that the next process compiles them again"
    if not cache.writable():
        return f"not kept, as {cache.problem() or f'{folder} cannot be written'}"
    home = os.path.expanduser("~")
    path = str(folder)
    return f"kept in {f'~{path.removeprefix(home)}' if path.startswith(home + os.sep) else path}"


class Progress:
    """How many kernels are compiled, of how many: a line on the terminal that goes away at the end.

    In a notebook it is an output of the cell, which stays and says what was compiled. Elsewhere nothing is said: where
    standard error is a file, or belongs to a live display.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.started = time.perf_counter()
        self.next = self.started + QUIET_SECONDS
        self.shown = ""
        # the output of a notebook's cell
        self.output: Any = None

    def __enter__(self) -> "Progress":
        return self

    def show(self, done: int) -> None:
        """Write the line, if that is due."""
        now = time.perf_counter()
        if now < self.next or not is_rewritable():
            return
        self.next = now + (NOTEBOOK_SECONDS if is_notebook() else REFRESH_SECONDS)
        self.write(f"compiling: {done} of {self.total} kernels, {kept()}")

    def write(self, text: str) -> None:
        """Write a line in the place of the one before."""
        if is_notebook():
            self.output = show_in_notebook(printable(text), self.output)
            self.shown = text
            return
        # a line that is longer than the terminal is wide could not be written anew
        text = printable(text)[: shutil.get_terminal_size().columns - 1] if sys.stderr.isatty() else printable(text)
        print(f"\r{text.ljust(len(self.shown))}", end="", file=sys.stderr, flush=True)
        self.shown = text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self.started
        if not self.shown:
            return
        if self.output is not None:
            if error is not None:
                return
            self.write(f"{self.total} kernels compiled in {seconds:.1f} s, {kept()}")
        else:
            print(f"\r{' ' * len(self.shown)}\r", end="", file=sys.stderr, flush=True)


def show_in_notebook(text: str, output: Any) -> Any:
    """Show a text as an output of the cell, or in the place of one; return the output."""
    display = import_module("IPython.display").display
    if output is None:
        return display({"text/plain": text}, raw=True, display_id=True)
    output.update({"text/plain": text}, raw=True)
    return output


def is_notebook() -> bool:
    """Return whether standard error is that of a notebook."""
    return type(sys.stderr).__module__.startswith("ipykernel.")


def is_rewritable() -> bool:
    """Return whether standard error is a terminal, or a notebook, that a line can be written anew on."""
    stream = sys.stderr
    # rich puts a stream of its own in the place of Python's while its live displays run
    if stream is None or type(stream).__module__.startswith("rich."):
        return False
    return stream.isatty() or is_notebook()
