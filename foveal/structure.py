"""Values nested in tuples, lists and dicts, taken apart into a list of arrays and put together again."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveal.errors import ArgumentError
from foveal.kinds import Around, inside_of, shown
from foveal.ops.op import Tensor, Type
from foveal.variable import Variable
from foveal.watch.tokens import Description

# Puts arrays in the place of values, in their order.
Rebuild = Callable[[Iterator[Any]], Any]
# A value with its name for messages.
Named = tuple[str, Any]
# What stands among arrays and is none.
CONSTANTS = (bool, str, type(None))
# What is an array by itself; a Type stands for one. (It is a tuple, too.)
ARRAYS = (np.ndarray, Tensor, Variable, Type)


@dataclass(frozen=True)
class Place:
    """The place of an array."""

    def build(self, arrays: Iterator[Any]) -> Any:
        """Return the next array."""
        return next(arrays)


@dataclass(frozen=True)
class Constant:
    """A value that is no array, and is compiled in. Two are equal if they have the same type and value."""

    value: Any = field(compare=False)
    token: Hashable

    def build(self, arrays: Iterator[Any]) -> Any:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Branch:
    """A tuple, list or dict with parts inside."""

    kind: type
    #: of a dict
    keys: tuple[Hashable, ...]
    parts: tuple["Form", ...]

    def build(self, arrays: Iterator[Any]) -> Any:
        """Return the collection, with arrays in their places."""
        built = [part.build(arrays) for part in self.parts]
        if self.kind is dict:
            return dict(zip(self.keys, built, strict=True))
        # A named tuple takes its parts one by one.
        return self.kind(*built) if hasattr(self.kind, "_fields") else self.kind(built)


# How arrays are nested: hashable, so that it can be part of the key of what is compiled.
Form = Place | Constant | Branch
PLACE = Place()


def is_array(value: Any) -> bool:
    """True for an array, or what stands for one, that has an axis or is traced; arrays of other packages too."""
    return isinstance(value, ARRAYS) or bool(getattr(value, "shape", ()))


def is_nested(value: Any, around: Around = ()) -> bool:
    """True for a dict, and for a tuple or list that holds an array at any depth. (A list of numbers is an array.)

    around: what it lies in. Raises ArgumentError where a list lies in itself.
    """
    if isinstance(value, ARRAYS):
        return False
    if isinstance(value, tuple | list):
        around = inside_of(value, around)
        return any(is_array(part) or is_nested(part, around) for part in value)
    return isinstance(value, Mapping)


def take_apart(value: Any, name: str = "", listed: bool = False, around: Around = ()) -> tuple[list[Named], Form]:
    """Return the arrays in a nested value in order, with their names, and the form in which they are nested.

    name: of the value. listed: True turns tuples into lists. Whatever is no tuple, list, dict, truth value, text or
    None counts as an array. around: what the value lies in. Raises ArgumentError where something lies in itself.
    """
    if isinstance(value, CONSTANTS):
        return [], constant(value, name)
    if isinstance(value, Mapping):
        around = inside_of(value, around)
        parts = [take_apart(part, f"{name}[{key!r}]", listed, around) for key, part in value.items()]
        return [one for found, _ in parts for one in found], Branch(dict, tuple(value), tuple(f for _, f in parts))
    if isinstance(value, ARRAYS) or not isinstance(value, tuple | list) or not (listed or is_nested(value)):
        return [(name, value)], PLACE
    around = inside_of(value, around)
    parts = [take_apart(part, f"{name}[{i}]", listed, around) for i, part in enumerate(value)]
    kind = list if listed else type(value)
    return [one for found, _ in parts for one in found], Branch(kind, (), tuple(form for _, form in parts))


def constant(value: Any, name: str) -> Constant:
    """Return a value that is compiled in. Raises ArgumentError unless it is hashable."""
    try:
        hash(value)
    except TypeError:
        raise ArgumentError(
            f"{name} is {shown(value)}, which is compiled in and so has to be hashable; give a tuple for a list, or an"
            " array if it is an input"
        ) from None
    return Constant(value, Description({}).of(value))


class Composed:
    """A result of another kind, which says itself what values are in it."""

    def taken_apart(self) -> tuple[list[Any], Rebuild]:
        """Return the values in order, and what makes the same of as many arrays."""
        raise NotImplementedError


def flattened(result: Any) -> tuple[list[Any], Rebuild]:
    """Return the values in a nested result in order, and what nests as many arrays in the same way.

    Tuples and lists become lists, dicts stay dicts.
    """
    if isinstance(result, Composed):
        return result.taken_apart()
    if isinstance(result, tuple | list | Mapping):
        values, form = take_apart(result, listed=True)
        return [value for _, value in values], form.build
    return [result], next


@dataclass(frozen=True)
class Call:
    """The arguments of a call, taken apart: its arrays with their names, and the form of the tuple and the dict."""

    arrays: list[Named]
    form: Branch

    @classmethod
    def of(cls, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> "Call":
        """Take the arguments of a call apart: positional values, and by name arrays, or options that are none."""
        found: list[Named] = []
        forms: list[Form] = []
        for i, value in enumerate(inputs):
            arrays, form = take_apart(value, str(i))
            found += arrays
            forms.append(form)
        named: list[Form] = []
        for name, value in options.items():
            is_input = is_array(value) or is_nested(value)
            arrays, form = take_apart(value, name) if is_input else ([], constant(value, name))
            found += arrays
            named.append(form)
        keywords = Branch(dict, tuple(options), tuple(named))
        return cls(found, Branch(tuple, (), (Branch(tuple, (), tuple(forms)), keywords)))

    @property
    def traced(self) -> bool:
        """True for a call on Tensors, in a function that is being traced."""
        return any(isinstance(x, Tensor) for _, x in self.arrays)


def call_on(function: Callable[..., Any], inputs: Any) -> Any:
    """Call a function on a batch: one array, a tuple or list of them in order, or a dict of them by name."""
    if isinstance(inputs, Mapping):
        wrong = [key for key in inputs if not isinstance(key, str)]
        if wrong:
            raise ArgumentError(f"a dict of inputs has the key {shown(wrong[0])}; its keys are names of arguments")
        return function(**inputs)
    return function(*inputs) if isinstance(inputs, tuple | list) else function(inputs)
