"""Programs: what was compiled, by key, for functions, training steps and modules."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from foveal import collector, debug, forks

# How many programs one function, step or module keeps. Each has memory of its own. A network for images of any size is
# compiled for each size that it meets, of which there may be dozens; making a program again takes a second or so.
LIMIT = 128

Made = TypeVar("Made")


class Turn:
    """The lock of a key whose program is being made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # how many threads make the program or wait for it
        self.threads = 0


class Programs(forks.Locked, Generic[Made]):
    """What was made for each key; at most `limit`, of which the one used least recently makes room.

    Threads that ask for the same key at once wait while one of them makes it; if that fails, the next one tries. A copy
    and a pickle are empty: what was compiled belongs to this process and to what it was compiled for.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.kept: OrderedDict[Hashable, Made] = OrderedDict()
        super().__init__()

    def renew(self) -> None:
        """Make the locks; in a forked child too, where what other threads were making does not go on."""
        super().renew()
        self.turns: dict[Hashable, Turn] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit,)

    def __len__(self) -> int:
        return len(self.kept)

    def find(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what is kept for the key, else what `make` returns, which is kept. Raises what `make` raises."""
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
            turn = self.turns.setdefault(key, Turn())
            turn.threads += 1
        try:
            with turn.lock:
                return self.find_or_make(key, make)
        finally:
            with self.lock:
                turn.threads -= 1
                if not turn.threads and self.turns.get(key) is turn:
                    del self.turns[key]

    def find_or_make(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The same for one thread at a time."""
        with self.lock:
            if key in self.kept:
                return self.kept[key]
        with collector.paused():
            made = make()
        with self.lock:
            self.kept[key] = made
            while len(self.kept) > self.limit:
                self.kept.popitem(last=False)
                if debug.level() >= debug.PROGRAM:
                    debug.show(f"a program was let go, the one used least recently of more than {self.limit}")
        return made
