"""Watched: the base of what traced functions read. Reads are recorded while a function is traced, changes counted."""

import itertools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol


class Missing:
    """The value of an attribute that is not there."""


MISSING = Missing()
# The name under which the list of an object's parts is recorded.
PARTS = "parts of"


class Recorder(Protocol):
    """What records the reads and writes of a traced function; state.Reads is one."""

    def read(self, owner: object, name: str, value: object) -> None:
        """Note that an attribute was read, or with PARTS what an object consists of."""

    def wrote(self, owner: object, name: str) -> None:
        """Note that the traced function itself set or deleted an attribute."""


class Local(threading.local):
    """What records the function that this thread traces; None where it traces none."""

    recorder: Recorder | None = None


LOCAL = Local()


class Changes:
    """Counts the changes of everything that is watched in this process.

    Two threads may set the number in any order: who compares it asks only whether it is another one.
    """

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.latest = 0

    def note(self) -> None:
        self.latest = next(self.numbers)


CHANGES = Changes()


class Watched:
    """Base of objects that traced functions read: their reads are recorded, their changes are counted."""

    # mypy would take every attribute of a class that has this method for one that exists.
    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> object:
            recorder = LOCAL.recorder
            if recorder is None:
                return object.__getattribute__(self, name)
            try:
                value = object.__getattribute__(self, name)
            except AttributeError:
                recorder.read(self, name, MISSING)
                raise
            recorder.read(self, name, value)
            return value

    def __setattr__(self, name: str, value: object) -> None:
        same = own_attributes(self).get(name, MISSING) is value
        object.__setattr__(self, name, value)
        if not same:
            note_write(self, name)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        note_write(self, name)

    def parts(self) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of what the object consists of: its attributes, in the order in which they were set."""
        note_read(self, PARTS)
        yield from list(own_attributes(self).items())


def own_attributes(value: object) -> dict[str, object]:
    """Return the attributes of an object itself, without recording that they were read."""
    found: dict[str, object] = object.__getattribute__(value, "__dict__")
    return found


def note_read(owner: object, name: str, value: object = None) -> None:
    """Record that a traced function read an attribute."""
    if (recorder := LOCAL.recorder) is not None:
        recorder.read(owner, name, value)


def note_write(owner: object, name: str) -> None:
    """Count a change; what a traced function writes itself is no reason to trace it again."""
    if (recorder := LOCAL.recorder) is not None:
        recorder.wrote(owner, name)
    CHANGES.note()
