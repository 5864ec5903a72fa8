"""What a person sees of a long compilation."""

import sys
import time
from types import TracebackType

from foveal import debug

# below this, nothing is said
QUIET_SECONDS = 1.0
# how often the line is written anew
REFRESH_SECONDS = 0.1


class Progress:
    """How many kernels are compiled, of how many: a line on the terminal that goes away at the end.

    In a notebook it is a line at the end. Elsewhere nothing is said: where standard error is a file, or belongs to a
    live display.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.started = time.perf_counter()
        self.next = self.started + QUIET_SECONDS
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
        print(f"\r{text.ljust(len(self.shown))}", end="", file=sys.stderr, flush=True)
        self.shown = text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self.started
        if self.shown:
            print(f"\r{' ' * len(self.shown)}\r", end="", file=sys.stderr, flush=True)
        elif "ipykernel" in sys.modules and error is None and seconds > QUIET_SECONDS:
            debug.show(f"{self.total} kernels compiled in {seconds:.1f} s")


def is_terminal() -> bool:
    """Return whether standard error is a terminal that a line can be written anew on."""
    stream = sys.stderr
    # rich puts a stream of its own in the place of Python's while its live displays run
    return stream is not None and not type(stream).__module__.startswith("rich.") and stream.isatty()
