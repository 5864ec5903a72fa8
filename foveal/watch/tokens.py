"""Values as hashable tokens, equal where a traced function would read the same; what can change in place."""

import argparse
import collections
import dis
import functools
import inspect
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
# So far inside of each other objects are looked at.
DEEPEST = 20
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)

# What is looked at as a whole.
WITH_ELEMENTS = (tuple, list, dict, set, frozenset, collections.deque, np.ndarray, types.FunctionType, types.MethodType)

# Methods of an operator that are called while a function is traced or compiled, and not when it runs.
TRACED_METHODS = frozenset(("normalise", "shape", "vjp", "expand", "scalar", "kernel", "lower"))

COLLECTIONS = (list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict)


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


class Attribute:
    """One attribute of an object, which a function uses."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def value(self) -> object:
        """Return the object's own value; MISSING where it has none, as the class may have one."""
        own = getattr(self.owner, "__dict__", {})
        if self.name in own or not any(self.name in slots_of(kind) for kind in type(self.owner).__mro__):
            return own.get(self.name, MISSING)
        return getattr(self.owner, self.name, MISSING)


def elements(value: object) -> tuple[object, ...]:
    """Return what something that can change in place holds at present."""
    match value:
        case np.ndarray():
            return value.shape, value.dtype, value.tobytes()
        case dict():
            return *value.keys(), *value.values(), *beside(value)
        case list() | set() | collections.deque():
            return *value, *beside(value)
        case GlobalName():
            return (value.space.get(value.name, MISSING),)
        case Attribute():
            return (value.value(),)
        case types.CellType():
            try:
                return (value.cell_contents,)
            # the cell of a variable that has no value yet
            except ValueError:
                return (MISSING,)
        case types.FunctionType():
            return value.__code__, value.__defaults__, *(value.__kwdefaults__ or {}).values()
    return tuple(itertools.chain.from_iterable(attributes_of(value).items()))


def beside(value: object) -> tuple[object, ...]:
    """Return the attributes that a collection of a class of the user's own has beside its elements."""
    return () if type(value) in COLLECTIONS else tuple(itertools.chain.from_iterable(attributes_of(value).items()))


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
        match self.value:
            case GlobalName(space=owner, name=name) | Attribute(owner=owner, name=name):
                return id(owner), name
        return id(self.value)

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
    return (
        not packages & {"numpy", "foveal"}
        and not is_foreign(kind.__module__)
        and (hasattr(value, "__dict__") or any(map(slots_of, kind.__mro__)))
    )


class Description:
    """Makes tokens of values, and collects snapshots of what can change in place.

    ignored: the keys of snapshots of what may change unnoticed.
    """

    def __init__(self, ignored: dict[Hashable, Snapshot]) -> None:
        self.ignored = ignored
        self.snapshots: list[Snapshot] = []
        self.seen: dict[int, int] = {}
        self.depth = 0

    def of(self, value: object) -> Hashable:
        """Return the token of a value."""
        # The type tells 1 from True. An integer stands for itself: of a very large one there is no text.
        if isinstance(value, int):
            return type(value), value
        # The text tells 0.0 from -0.0, and NaN is NaN.
        if isinstance(value, PLAIN):
            return type(value), repr(value)
        # Symbols that a traced function has stored are results of tracing.
        if isinstance(value, Symbol):
            return Symbol
        if isinstance(value, Variable | Watched | type | types.ModuleType):
            return Same(value)
        # An operator of the user's own may hold numbers, which its gradient is traced with.
        if isinstance(value, Operator):
            return Same(value) if value.of_package else self.of_attributes(value, TRACED_METHODS)
        if id(value) in self.seen:
            return "again", self.seen[id(value)]
        if len(self.seen) > MOST_ELEMENTS or self.depth > DEEPEST:
            return Same(value)
        self.seen[id(value)] = len(self.seen)
        self.depth += 1
        try:
            return self.of_composed(value)
        finally:
            self.depth -= 1

    def of_composed(self, value: object) -> Hashable:
        """Return the token of something that consists of other values."""
        kind = type(value)
        match value:
            case tuple():
                return kind, *map(self.of, value)
            case types.FunctionType():
                return self.of_function(value)
            case types.MethodType():
                owner, function = value.__self__, value.__func__
                used = names_used(function) if isinstance(function, types.FunctionType) else frozenset()
                return self.of_used(owner, used), self.of(function)
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
        if not is_of_package(function):
            # What is assigned to it in its place, as by tools that load a changed file into a running process.
            self.held(function)
            for name in (name for name in global_names(function.__code__) if name in space):
                values.extend(self.held(GlobalName(space, name)))
        # Functions of other files, such as NumPy's, count as they are; but not what this package has wrapped.
        used = names_used(function)
        tokens = [
            Same(x)
            if isinstance(x, types.FunctionType)
            and x.__globals__ is not space
            and not x.__closure__
            and (not is_of_package(function) or is_foreign(x.__module__))
            else self.of_used(x, used)
            for x in values
        ]
        return Same(function), Same(function.__code__), *tokens

    def of_used(self, owner: object, names: frozenset[str]) -> Hashable:
        """Return the token of what a function has at hand; of an object the attributes of these names alone.

        An object that trains may count its steps: that is no reason to trace its loss again.
        """
        if isinstance(owner, (*PLAIN, *WITH_ELEMENTS)) or not is_plain_object(owner):
            return self.of(owner)
        return self.of_attributes(owner, names)

    def of_attributes(self, owner: object, names: frozenset[str]) -> Hashable:
        """Return the token of an object with the attributes of these names, and those that its methods of them use."""
        kind, tokens = type(owner), []
        for name in sorted(with_methods(kind, names)):
            default = inspect.getattr_static(kind, name, MISSING)
            own = Attribute(owner, name)
            if own.value() is not MISSING or not (default is MISSING or hasattr(type(default), "__get__")):
                tokens.append((name, *map(self.of, self.held(own))))
        return Same(owner), *tokens


@functools.cache
def global_names(code: types.CodeType) -> dict[str, None]:
    """Return the global names that a function and the functions written inside of it use."""
    own = (str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    inner = (global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return dict.fromkeys(itertools.chain(own, *inner))


def is_of_package(function: types.FunctionType) -> bool:
    """True for the functions of foveal itself."""
    return (function.__module__ or "").startswith("foveal.")


def names_used(function: types.FunctionType) -> frozenset[str]:
    """Return the names, of attributes too, that a function uses, and those that users' functions use that it calls."""
    names: set[str] = set()
    reached, todo = {function}, [function]
    while todo:
        one = todo.pop()
        names |= names_in(one.__code__)
        inner = [one.__globals__.get(name) for name in global_names(one.__code__)]
        # Functions of a module that is imported whole are attributes of it.
        inner += [vars(m).get(n) for m in inner if isinstance(m, types.ModuleType) for n in names_in(one.__code__)]
        inner += itertools.chain.from_iterable(elements(cell) for cell in one.__closure__ or ())
        for other in inner:
            if isinstance(other, types.FunctionType) and other not in reached and not is_foreign(other.__module__):
                reached.add(other)
                todo.append(other)
    return frozenset(names)


@functools.cache
def names_in(code: types.CodeType) -> frozenset[str]:
    """Return the names of attributes and globals in a function, and in the functions written inside of it."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def with_methods(kind: type, names: frozenset[str]) -> set[str]:
    """Return the names, and those that the methods and properties among them use."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        held = inspect.getattr_static(kind, name, None)
        held = held.fget if isinstance(held, property) else getattr(held, "__func__", held)
        if isinstance(held, types.FunctionType):
            todo.extend(names_used(held))
    return found


def is_foreign(module: str | None) -> bool:
    """True for modules of the standard library, of NumPy and of this package."""
    package = (module or "").partition(".")[0]
    return package in sys.stdlib_module_names or package in ("numpy", "foveal")
