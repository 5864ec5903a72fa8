"""Programs: what was compiled, by key, for functions, training steps and modules."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from foveal import collector, counts, debug, forks
from foveal.ops.op import Type
from foveal.watch import State

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

    names: what the parts of a key are, for DEBUG=1, which says what is new where there was a program before; "" for the
    number of the state, whose changes are said by attribute.
    """

    def __init__(self, limit: int = LIMIT, names: Sequence[str] = ()) -> None:
        self.limit, self.names = limit, names
        self.kept: OrderedDict[Hashable, Made] = OrderedDict()
        # the key that was asked for last and what is kept for it, which need no lock
        self.latest: tuple[Hashable, Made] | None = None
        super().__init__()

    def renew(self) -> None:
        """Make the locks; in a forked child too, where what other threads were making does not go on."""
        super().renew()
        self.turns: dict[Hashable, Turn] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit, self.names)

    def __len__(self) -> int:
        return len(self.kept)

    def find(self, key: Hashable, make: Callable[[], Made], what: object = "", state: State | None = None) -> Made:
        """Return what is kept for the key, else what `make` returns, which is kept. Raises what `make` raises.

        what: is compiled, and state: what was read of it, for the line at DEBUG=1.
        """
        latest = self.latest
        if latest is not None and latest[0] == key:
            return latest[1]
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                self.latest = key, self.kept[key]
                return self.kept[key]
            turn = self.turns.setdefault(key, Turn())
            turn.threads += 1
        try:
            with turn.lock:
                return self.find_or_make(key, make, what, state)
        finally:
            with self.lock:
                turn.threads -= 1
                if not turn.threads and self.turns.get(key) is turn:
                    del self.turns[key]

    def find_or_make(self, key: Hashable, make: Callable[[], Made], what: object, state: State | None) -> Made:
        """The same for one thread at a time."""
        with self.lock:
            if key in self.kept:
                return self.kept[key]
            before = nearest(key, self.kept)
        reason = None if before is None else self.say_what_is_new(before, key, what, state)
        with collector.paused():
            made = make()
        if reason is not None:
            counts.add(reason)
        with self.lock:
            self.kept[key] = made
            self.latest = key, made
            while len(self.kept) > self.limit:
                self.kept.popitem(last=False)
                if debug.level() >= debug.PROGRAM:
                    debug.show(f"a program was let go, the one used least recently of more than {self.limit}")
        return made

    def say_what_is_new(self, before: Any, now: Any, what: object, state: State | None) -> str:
        """Show at DEBUG=1 what differs from the program that is nearest; return which count that is."""
        found = list(differences(before, now, self.names))
        if debug.level() >= debug.PROGRAM:
            # the number of the state comes first
            attributes = [] if state is None or before[0] == now[0] else state.changed()
            debug.show(f"another program for {named(what)}: {'; '.join([*(text for text, _ in found), *attributes])}")
        return counts.SHAPES if any(is_shape for _, is_shape in found) else counts.ATTRIBUTES


def nearest(key: Any, known: Iterable[Any]) -> Any:
    """Return the known key that differs from this one in the fewest parts, of several the last; None if there is none.

    Parts that are tuples are compared part by part.
    """
    found = [(distance(key, other), other) for other in known if isinstance(key, tuple)]
    return min(reversed(found), key=lambda pair: pair[0])[1] if found else None


def distance(a: Any, b: Any) -> int:
    """Return in how many parts two keys differ."""
    if a == b:
        return 0
    if not isinstance(a, tuple) or not isinstance(b, tuple) or len(a) != len(b):
        return 1
    return sum(map(distance, a, b))


def differences(before: Any, now: Any, names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield what differs between two keys, part by part, in words, and whether it is a shape or a dtype.

    names: of the parts; "" for what is left out.
    """
    for name, old, new in zip(names, before, now, strict=False):
        if name.endswith("s") and isinstance(new, tuple) and len(old) == len(new):
            # several of a kind, such as arguments
            one = name.removesuffix("s")
            yield from differences(old, new, [one] if len(new) == 1 else [f"{one} {k}" for k in range(len(new))])
        elif name and old != new:
            is_shape = isinstance(new, Type) and isinstance(old, Type)
            yield (f"{name} is {in_words(new)}, was {in_words(old)}" if is_shape else f"another {name}"), is_shape


def in_words(kind: Type) -> str:
    """Return a dtype and a shape as text."""
    return f"{kind.dtype} {list(kind.shape)}"


def named(what: object) -> str:
    """Return what is compiled as text: the class of a model, the name of a function."""
    owner = getattr(what, "__self__", None)
    if owner is not None:
        return type(owner).__name__
    return what if isinstance(what, str) else str(getattr(what, "__name__", type(what).__name__))
