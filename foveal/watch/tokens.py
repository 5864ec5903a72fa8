"""Values as hashable tokens, equal where a traced function would read the same; what can change in place."""

import argparse
import collections
import dis
import functools
import itertools
import operator
import sys
import types
from collections.abc import Hashable, Sequence

import numpy as np

from foveal.ops.op import Operator
from foveal.trace import Symbol
from foveal.variable import Variable
from foveal.watch.watched import MISSING, Watched

# Larger collections (elements) and arrays (bytes) count as changed only when another one takes their place.
MOST_ELEMENTS, MOST_BYTES = 1000, 1 << 16
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


class Same:
    """An object that is equal to itself alone; it is kept, so that no other one gets its identity."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class GlobalName:
    """A global name that a function uses."""

    def __init__(self, space: dict[str, object], name: str) -> None:
        self.space, self.name = space, name


def elements(value: object) -> tuple[object, ...]:
    """Return what something that can change in place holds at present."""
    match value:
        case np.ndarray():
            return value.shape, value.dtype, value.tobytes()
        case dict():
            return *value.keys(), *value.values()
        case list() | set() | collections.deque():
            return tuple(value)
        case GlobalName():
            return (value.space.get(value.name, MISSING),)
        case types.CellType():
            try:
                return (value.cell_contents,)
            # the cell of a variable that has no value yet
            except ValueError:
                return (MISSING,)
    return tuple(itertools.chain.from_iterable(attributes_of(value).items()))


def attributes_of(value: object) -> dict[str, object]:
    """Return the attributes of an object of any class, those in slots as well."""
    names = itertools.chain.from_iterable(slots_of(kind) for kind in type(value).__mro__)
    slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {})


def slots_of(kind: type) -> tuple[str, ...]:
    """Return the names of the slots that a class itself declares."""
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


class Snapshot:
    """What something that can change in place held."""

    def __init__(self, value: object) -> None:
        self.value, self.kept = value, elements(value)

    @property
    def key(self) -> Hashable:
        value = self.value
        return (id(value.space), value.name) if isinstance(value, GlobalName) else id(value)

    def holds(self) -> bool:
        """True if it holds the same elements; of an array, equal ones."""
        now = elements(self.value)
        if isinstance(self.value, np.ndarray):
            return now == self.kept
        return len(now) == len(self.kept) and all(map(operator.is_, now, self.kept))


def is_plain_object(value: object) -> bool:
    """True for objects whose attributes decide what they are: those of classes that users write."""
    kind = type(value)
    if isinstance(value, types.SimpleNamespace | argparse.Namespace):
        return True
    packages = {base.__module__.partition(".")[0] for base in kind.__mro__ if base is not object}
    foreign = packages & {"numpy", "foveal"} or kind.__module__.partition(".")[0] in sys.stdlib_module_names
    return not foreign and (hasattr(value, "__dict__") or any(map(slots_of, kind.__mro__)))


class Description:
    """Makes tokens of values, and collects snapshots of what can change in place.

    ignored: the keys of snapshots of what may change unnoticed.
    """

    def __init__(self, ignored: dict[Hashable, Snapshot]) -> None:
        self.ignored = ignored
        self.snapshots: list[Snapshot] = []
        self.seen: dict[int, int] = {}

    def of(self, value: object) -> Hashable:
        """Return the token of a value."""
        if isinstance(value, PLAIN):
            # The type tells 1 from True, the text 0.0 from -0.0, and NaN is NaN.
            return type(value), repr(value)
        # Symbols that a traced function has stored are results of tracing.
        if isinstance(value, Symbol):
            return Symbol
        if isinstance(value, Variable | Watched | Operator | type | types.ModuleType):
            return Same(value)
        if id(value) in self.seen:
            return "again", self.seen[id(value)]
        self.seen[id(value)] = len(self.seen)
        return self.of_composed(value)

    def of_composed(self, value: object) -> Hashable:
        """Return the token of something that consists of other values."""
        kind = type(value)
        match value:
            case tuple():
                return kind, *map(self.of, value)
            case types.FunctionType():
                return self.of_function(value)
            case types.MethodType():
                return self.of(value.__self__), self.of(value.__func__)
            case functools.partial():
                return self.of(value.func), self.of(value.args), self.of(value.keywords)
            case np.ndarray() if value.nbytes <= MOST_BYTES and not value.dtype.hasobject:
                return kind, *self.held(value)
            # The order in which a set is walked through is no property of it.
            case set() if len(value) <= MOST_ELEMENTS:
                return kind, frozenset(map(self.of, self.held(value)))
            case list() | dict() | collections.deque() if len(value) <= MOST_ELEMENTS:
                return kind, *(self.of(x) for x in self.held(value) if not isinstance(x, Symbol))
            case np.ndarray() | set() | list() | dict() | collections.deque():
                return Same(value)
        return (kind, *map(self.of, self.held(value))) if is_plain_object(value) else Same(value)

    def held(self, value: object) -> Sequence[object]:
        """Return the elements of something that can change in place, and remember them."""
        snapshot = Snapshot(value)
        if snapshot.key in self.ignored:
            return ()
        self.snapshots.append(snapshot)
        return snapshot.kept

    def of_function(self, function: types.FunctionType) -> Hashable:
        """Return the token of a function: itself, its defaults, its closure, and the globals it names."""
        space = function.__globals__
        values: list[object] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            values.extend(self.held(cell))
        if not function.__module__.startswith("foveal."):
            for name in (name for name in global_names(function.__code__) if name in space):
                values.extend(self.held(GlobalName(space, name)))
        # Functions of other files, such as NumPy's, count as they are.
        tokens = [
            Same(x)
            if isinstance(x, types.FunctionType) and x.__globals__ is not space and not x.__closure__
            else self.of(x)
            for x in values
        ]
        return Same(function), *tokens


@functools.cache
def global_names(code: types.CodeType) -> dict[str, None]:
    """Return the global names that a function and the functions written inside of it use."""
    own = (str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    inner = (global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return dict.fromkeys(itertools.chain(own, *inner))
