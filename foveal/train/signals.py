"""Ctrl-C and SIGTERM while a run goes on: the first one lets it finish its step and save, the second ends it at once.

SIGTERM is what Slurm, containers and `kill` send before they end a process for good.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from foveal.errors import Terminated

# What a program does about each signal if nobody has said otherwise; handlers of the caller's own are left alone.
DEFAULTS = ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL))
HEARD = b"\nFinishing this step and saving; Ctrl-C again ends at once.\n"


# Both ways to be interrupted.
INTERRUPTIONS = (KeyboardInterrupt, Terminated)


class Interruptions:
    """A context in which signals wait for `check`, once `deferred` is set.

    Python has signals in its main thread only: in another one, as where a program has handlers of its own, the context
    changes nothing.
    """

    def __init__(self) -> None:
        # The first signal that came.
        self.asked: int | None = None
        # Whether there is something to finish: before the first step there is not.
        self.deferred = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number, default in DEFAULTS:
                if signal.getsignal(number) == default:
                    self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        # One that came too late to change anything ends what follows.
        if kind is None:
            self.check()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None and self.deferred:
            self.asked = number
            # Written past Python's streams, which may be in the middle of a line.
            if number == signal.SIGINT:
                with contextlib.suppress(OSError):
                    os.write(2, HEARD)
            return
        self.raise_for(number)

    def check(self) -> None:
        """Raise KeyboardInterrupt or Terminated if a signal waits."""
        if self.asked is not None:
            self.raise_for(self.asked)

    def raise_for(self, number: int) -> None:
        if number == signal.SIGTERM:
            raise Terminated
        raise KeyboardInterrupt
