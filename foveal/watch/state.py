"""State: what a traced function read, and a number for each combination of values that it has had."""

import inspect
import itertools
import operator
import types
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from foveal import forks
from foveal.ops.op import REDEFINED
from foveal.variable import Variable
from foveal.watch.tokens import PLAIN, Description, Snapshot, is_of_package
from foveal.watch.watched import CHANGES, LOCAL, MISSING, PARTS, Watched, own_attributes

# How many combinations of values a State remembers.
MOST_ENTRIES = 64
# What may change unnoticed, by the keys of its snapshots.
Ignored = dict[Hashable, Snapshot]
# Reading an object's dictionary reads all of its attributes.
DICT = "__dict__"
WHOLE = (PARTS, DICT)
# What a list of parts is made for.
MEMBERS = (Variable, Watched)


class Read:
    """Something that was read, an attribute or the parts of an object, and the token of the value that it had."""

    def __init__(self, owner: object, name: str, ignored: Ignored) -> None:
        self.owner, self.name = owner, name
        self.describe(ignored)

    def fetch(self) -> object:
        """Return the present value."""
        if self.name in WHOLE:
            assert isinstance(self.owner, Watched)
            parts = tuple(self.owner.parts())
            # Where layers are listed, numbers among the attributes do not count.
            return parts if self.name == DICT else tuple([part for part in parts if isinstance(part[1], MEMBERS)])
        try:
            return object.__getattribute__(self.owner, self.name)
        except AttributeError:
            return MISSING

    def describe(self, ignored: Ignored) -> None:
        """Set the token and the snapshots to those of the present value."""
        self.value = self.fetch()
        description = Description(ignored)
        self.token = description.of(self.value)
        self.snapshots = description.snapshots

    def holds(self, ignored: Ignored) -> bool:
        """True if the value is what it was. Snapshots are renewed then: equal elements may be other objects."""
        if not self.snapshots:
            now = self.fetch()
            if now is self.value or (self.name == PARTS and same_parts(now, self.value)):
                return True
        kept = self.value, self.token, self.snapshots
        self.describe(ignored)
        if self.token == kept[1]:
            return True
        # The value is compared by itself next time, so it has to stay the one that the token is of.
        self.value, self.token, self.snapshots = kept
        return False

    def difference(self) -> str:
        """Return in words what it was, and what it is now."""
        now = self.fetch()
        if self.name in WHOLE or not isinstance(now, PLAIN) or not isinstance(self.value, PLAIN):
            return "other parts" if self.name in WHOLE else f"another {self.name or 'function'}"
        return f"{self.name} is {now!r}, was {self.value!r}"

    def unmoved(self) -> bool:
        """True if nothing of it has changed in place."""
        return all(snapshot.holds() for snapshot in self.snapshots)


def same_parts(now: Any, before: Any) -> bool:
    """True if two lists of (name, part) have the same names and, each itself, the same parts."""
    pairs = zip(now, before, strict=False)
    return len(now) == len(before) and all(a is b and name == other for (name, a), (other, b) in pairs)


class Inherited(Read):
    """What an object has from its class, such as `forward`, and what may be put in its place on the object itself."""

    def fetch(self) -> object:
        """Return the object's own value, else its class, which decides."""
        return own_attributes(self.owner).get(self.name, type(self.owner))


class Root(Read):
    """What a State is asked about: a function, a model, a loss."""

    def __init__(self, value: object, ignored: Ignored) -> None:
        self.root = value
        super().__init__(None, "", ignored)

    def fetch(self) -> object:
        return self.root


class Reads:
    """The reads of a traced function while it is traced, by owner and name; the first read of each counts."""

    def __init__(self, ignored: Ignored) -> None:
        self.ignored = ignored
        self.reads: dict[tuple[int, str], Read] = {}
        self.written: dict[tuple[int, str], object] = {}
        # what classes have under a name: finding it takes longer than all else here
        self.of_class: dict[tuple[type, str], object] = {}

    def read(self, owner: object, name: str, value: object) -> None:
        key = (id(owner), name)
        if key in self.reads or key in self.written:
            return
        # What is looked at here is not read by the function. (There are some ten thousand reads, and a `with` block
        # takes longer than most of them.)
        previous, LOCAL.recorder = LOCAL.recorder, None
        try:
            if kind := self.kind(owner, name, value):
                self.reads[key] = kind(owner, name, self.ignored)
        finally:
            LOCAL.recorder = previous

    def kind(self, owner: object, name: str, value: object) -> type[Read] | None:
        """Return what records an attribute; None for properties, which compute from what they read themselves."""
        # A parameter notes the reads of its flag itself.
        if name in WHOLE or isinstance(owner, Variable) or name in own_attributes(owner):
            return Read
        place = type(owner), name
        if place not in self.of_class:
            self.of_class[place] = inspect.getattr_static(*place, MISSING)
        held = self.of_class[place]
        if held is value or isinstance(held, types.MemberDescriptorType):
            return Read
        function = getattr(held, "__func__", held)
        # Of the methods of this package, forward is the one that people replace.
        is_method = isinstance(function, types.FunctionType) and (name == "forward" or not is_of_package(function))
        return Inherited if is_method else None

    def wrote(self, owner: object, name: str) -> None:
        key = (id(owner), name)
        self.reads.pop(key, None)
        self.written[key] = owner

    def finish(self) -> list[Read]:
        """Return the reads. What the function itself changed is left out; layers that it made are in it."""
        for (_, name), owner in self.written.items():
            one = Read(owner, name, self.ignored)
            if isinstance(one.value, MEMBERS):
                self.reads[id(owner), name] = one
            if (id(owner), PARTS) in self.reads:
                self.reads[id(owner), PARTS].describe(self.ignored)
        return list(self.reads.values())


@contextmanager
def recording(reads: Reads | None) -> Iterator[None]:
    """Inside of the block, what this thread reads is recorded in `reads`."""
    previous, LOCAL.recorder = LOCAL.recorder, reads
    try:
        yield
    finally:
        LOCAL.recorder = previous


class Entry:
    """One combination of values: what was read under it, and its number."""

    def __init__(self, number: int, roots: tuple[object, ...], changes: int, ignored: Ignored) -> None:
        self.number, self.roots, self.changes = number, roots, changes
        self.reads: list[Read] = [Root(root, ignored) for root in roots]
        # Where an operator has been defined again since, functions may find another one under its name.
        self.redefined = len(REDEFINED)
        # Until something was traced under it, any change may be one that matters.
        self.traced = False
        self.changeable: list[Read] = []
        self.gather()

    def gather(self) -> None:
        """Collect the reads of what can change in place."""
        self.changeable = [read for read in self.reads if read.snapshots]

    def unmoved(self, roots: tuple[object, ...]) -> bool:
        """True if nothing has changed in place, and the question is about the same objects."""
        same = self.redefined == len(REDEFINED) and all(map(operator.is_, roots, self.roots))
        return same and all(read.unmoved() for read in self.changeable)

    def holds(self, roots: tuple[object, ...], changes: int, ignored: Ignored) -> bool:
        """True if everything that was read has the value that it had."""
        known = self.redefined == len(REDEFINED) and all(map(operator.is_, roots, self.roots))
        if not known or not (self.traced or self.changes == changes):
            return False
        if not all(read.holds(ignored) for read in self.reads):
            return False
        self.gather()
        return True

    def extend(self, found: list[Read]) -> None:
        """Add what one more trace under this combination has read."""
        known = {(id(read.owner), read.name) for read in self.reads}
        self.reads = [*self.reads, *(read for read in found if (id(read.owner), read.name) not in known)]
        self.traced = True
        self.gather()


def owner_in_words(owner: object) -> str:
    """Return the class of what was read, and its name in the model, if it has one."""
    attributes = getattr(owner, "__dict__", {})
    name = attributes.get("_name") or (owner.name if isinstance(owner, Variable) else "")
    return " ".join(filter(None, (type(owner).__name__ if owner is not None else "what is compiled", str(name))))


class State(forks.Locked):
    """Numbers for the combinations of values that traced functions have read; see foveal/watch/__init__.py.

    Python threads may share it. A copy and a pickle are empty: they belong to copies of what is traced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.count = itertools.count()
        # What the traced functions change themselves.
        self.ignored: Ignored = {}
        # the entry that was found last, and the count of changes before it was looked for
        self.latest: tuple[Entry, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def number(self, *roots: object) -> int:
        """Return the number of the present combination, for what is traced from these functions, models or losses."""
        if self.latest is not None:
            entry, changes = self.latest
            if changes == CHANGES.latest and entry.unmoved(roots):
                return entry.number
        with self.lock:
            changes = CHANGES.latest
            found = (e for e in self.entries if e.holds(roots, changes, self.ignored))
            entry = next(found, None) or Entry(next(self.count), roots, changes, self.ignored)
            # The one that was used last comes first; the oldest go.
            self.entries = [entry, *(e for e in self.entries if e is not entry)][:MOST_ENTRIES]
            self.latest = entry, changes
            return entry.number

    def changed(self) -> list[str]:
        """Return what is another value now than when something was traced last, in words; [] if nothing is."""
        with self.lock:
            previous = next((entry for entry in self.entries[1:] if entry.traced), None)
            if previous is None:
                return []
            moved = [read for read in previous.reads if not read.holds(self.ignored)]
            # by what happened: the owners that it happened to
            texts: dict[str, list[str]] = {}
            for read in moved:
                texts.setdefault(read.difference(), []).append(owner_in_words(read.owner))
        return [
            f"{owners[0]}{f' and {len(owners) - 1} more' if len(owners) > 1 else ''}: {text}"
            for text, owners in texts.items()
        ]

    @contextmanager
    def reading(self, number: int) -> Iterator[None]:
        """Inside of the block a function is traced under the combination of that number: what it reads is recorded."""
        entry = next((e for e in self.entries if e.number == number), None)
        reads = Reads(self.ignored)
        with recording(reads):
            yield
        if entry is None:
            return
        with self.lock:
            found = reads.finish()
            self.ignore_changes([*entry.reads, *found])
            entry.extend(found)

    def ignore_changes(self, reads: list[Read]) -> None:
        """Leave out from now on what has changed in place since it was read: the traced function did that."""
        for read in reads:
            moved = {s.key: s for s in read.snapshots if not s.holds()}
            if moved:
                self.ignored |= moved
                read.describe(self.ignored)
