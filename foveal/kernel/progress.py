"""What a person sees of a long compilation."""

import sys
import time
from types import TracebackType

# below this, nothing is said
QUIET_SECONDS = 1.0
# how often the line is written anew
REFRESH_SECONDS = 0.1


class Progress:
    """A line on the terminal: how many kernels are compiled, of how many. It goes away at the end.

    Nothing is shown where standard error is no terminal, or belongs to somebody else, such as a live display.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.next = time.perf_counter() + QUIET_SECONDS
        self.shown = ""

    def __enter__(self) -> "Progress":
        return self

    def show(self, done: int) -> None:
        """Write the line, if that is due."""
        now = time.perf_counter()
        if now < self.next or not is_terminal():
            return
        self.next = now + REFRESH_SECONDS
        text = f"compiling kernels: {done} of {self.total}"
        self.write(text + " " * (len(self.shown) - len(text)))
        self.shown = text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.shown:
            self.write(" " * len(self.shown) + "\r")

    def write(self, text: str) -> None:
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Return whether standard error is a terminal that a line can be written anew on."""
    stream = sys.stderr
    # rich puts a stream of its own in the place of Python's while its live displays run
    return stream is not None and not type(stream).__module__.startswith("rich.") and stream.isatty()
