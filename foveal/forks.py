"""Locks and `os.fork`: a child has the locks that threads of its parent hold, but not these threads.

Two rules. A lock that is held for a short time, while memory is written (a program that runs, LLVM that works, a
generator that draws), is taken before the fork, so that the child finds the memory whole: as it is between two runs of
a program. All locks of ours are new in the child, so that none is held for ever, also of what takes long (a
compilation) and is cut off by the fork.

The child starts native threads of its own when it first runs a program on several. What its parent's threads were
doing between runs, such as the count of a training step of theirs, may be half done in the child; what it computes with
a model of theirs is computed with parameters as they are after some whole step.

A `with` statement takes and releases these locks, or C functions (`map`, `filter`) do, since no interruption (Ctrl-C)
falls between a lock and the note of it there.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Any, TypeAlias

# ours are RLocks; NumPy's were Locks before version 2.3
AnyLock: TypeAlias = "threading.Lock | threading.RLock"
# the order in which locks are taken before a fork: who holds one may wait for those after it
PROGRAMS, LLVM, GENERATORS = range(3)


class Locked:
    """A lock that is new in a forked child, and in copies and pickles of what it belongs to.

    order: its place among the locks that are taken before a fork; None if it is only made anew.
    """

    def __init__(self, order: int | None = None) -> None:
        self.order = order
        self.renew()
        locked = _locked[order]
        locked.add(weakref.ref(self, locked.discard))

    @property
    def lock(self) -> AnyLock:
        """The lock; some have one that is not ours."""
        return self._lock

    def renew(self) -> None:
        """Make the lock, and make it anew in a forked child."""
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.order,)


# all that have such locks, by order
_locked: dict[int | None, set[weakref.ref[Locked]]] = {PROGRAMS: set(), LLVM: set(), GENERATORS: set(), None: set()}
_forking = threading.RLock()
# `held`: the locks that this thread has taken to fork
_local = threading.local()

acquire: Callable[[AnyLock], bool] = methodcaller("acquire")
release: Callable[[AnyLock], None] = methodcaller("release")


def alive(order: int | None) -> list[Locked]:
    return [one for one in (reference() for reference in list(_locked[order])) if one is not None]


def take(locks: Iterable[AnyLock], held: list[AnyLock]) -> BaseException | None:
    """Acquire locks and add each to `held`; returns what has interrupted that, when all are held."""
    interruption = None
    while True:
        try:
            mine = {id(lock) for lock in held}
            held.extend(filter(acquire, [lock for lock in locks if id(lock) not in mine]))
            return interruption
        except BaseException as error:
            interruption = error


def before() -> None:
    """Wait until no program runs and LLVM and generators rest, and keep it so. An interruption is raised afterwards."""
    held: list[AnyLock] = []
    _local.held = held
    interruptions: list[Any] = [take([_forking], held)]
    # programs may be made in the meantime
    while fresh := [one.lock for one in alive(PROGRAMS) if one.lock not in held]:
        interruptions.append(take(fresh, held))
    for order in (LLVM, GENERATORS):
        interruptions.append(take([one.lock for one in alive(order)], held))
    for error in filter(None, interruptions):
        raise error


def without_fork() -> AnyLock:
    """The lock within which no thread begins to fork; after it no other lock is waited for."""
    return _forking


def after_in_parent() -> None:
    """Go on."""
    held: list[AnyLock] = getattr(_local, "held", [])
    _local.held = []
    deque(map(release, held), maxlen=0)


def after_in_child() -> None:
    """Begin with locks that nobody holds."""
    global _forking
    # locks that are not ours stay, so they are released
    after_in_parent()
    _forking = threading.RLock()
    for order in _locked:
        for one in alive(order):
            one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
