"""What the annotations of arguments mean for values: one vocabulary for operators, layers and functions.

    int              whole numbers, NumPy's too; no bool, no float (PyTorch's rule)
    float            numbers that float32 holds, whole ones and NumPy's too; no bool, no NaN, no infinity
    bool             True and False, 1 and 0
    Steps            numbers of steps: whole numbers, also as floats, since they are quotients (images / batch size)
    tuple, Sequence, Iterable    lists, tuples and arrays of what stands in the brackets, as long as it says; no strings
    ArrayLike, NDArray           what NumPy makes an array of numbers of
    Callable, classes, protocols what can be called, instances, what has the same methods

What lies beyond types, such as the range of a number, is checked by the function itself.
"""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.errors import ArgumentError, DataError, ShapeError

# the collections that a value lies in, the outermost first
Around = tuple[Any, ...]
# how many collections lie in each other at most: going through more would be too deep a recursion for Python
DEEPEST = 100
# axes that an array of NumPy 1 has at most; of NumPy 2 it has twice as many
MOST_AXES = 32

# numbers that may be infinite or NaN
AnyNumber = Annotated[float, "infinite or NaN, too"]

# numbers of steps
Steps = Annotated[int, "whole ones of floats, too"]

# NumPy's kinds of dtypes that are numbers: truth values, integers and floating point
NUMBERS = "biuf"
FLOAT32_MAX = 3.4028234663852886e38
# the smallest normal number
FLOAT32_SMALLEST = 1.1754943508222875e-38
# Counts, sizes and seeds have fewer bits.
INTEGER_BITS = 64
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
# the longest text of a value in a message
SHOWN = 60


class Refused(Exception):
    """A value is not what an annotation says; the text, if there is one, says which part of it is wrong."""


class Kind(NamedTuple):
    """What an annotation means for values."""

    #: what a value has to be, in words that follow "it has to be", and the words for several of them
    words: str
    many: str
    #: the value as it is passed on; raises Refused for values that are not of this kind
    take: Callable[[Any], Any]


def shown(value: object) -> str:
    """A short text that shows a value in a message."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, int) and abs(value) >= 1 << INTEGER_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}... ({type(value).__name__})"


def inside_of(value: object, around: Around) -> Around:
    """What the parts of a collection lie in. Raises ArgumentError for one that lies in itself, or in too many."""
    if any(value is outer for outer in around):
        raise ArgumentError(
            f"a {type(value).__name__} holds itself, at depth {len(around)}, so that it has no end; take it out of"
            " itself"
        )
    if len(around) >= DEEPEST:
        raise ArgumentError(
            f"more than {DEEPEST} lists, tuples or dicts are nested in each other; make one of those inside of it, such"
            " as a list of all arrays"
        )
    return (*around, value)


def no_array(lists: object) -> str:
    """Why NumPy makes no array of lists of integers, and what to give instead."""
    depth = 0
    while isinstance(lists, list | tuple) and lists and depth <= MOST_AXES:
        lists, depth = lists[0], depth + 1
    if depth > MOST_AXES:
        return "whose lists are nested too deeply; give one list"
    return "whose lists are not of one length; give lists of one length"


def unpacked(value: Any) -> Any:
    """A NumPy scalar, or an array of rank 0, as Python's number; all else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def whole(value: Any) -> int:
    """A whole number."""
    number = value if type(value) is int else unpacked(value)
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) >> INTEGER_BITS:
        raise Refused
    return number


def real(value: Any) -> float:
    """A number that float32 holds."""
    number = unpacked(value)
    # NaN fails the comparison.
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= FLOAT32_MAX:
        raise Refused
    return number


def any_real(value: Any) -> float:
    """A number that float32 holds, infinity, or NaN."""
    number = unpacked(value)
    return number if isinstance(number, float) and not math.isfinite(number) else real(number)


def flag(value: Any) -> bool:
    """A truth value."""
    given = unpacked(value)
    if not isinstance(given, int) or given not in (0, 1):
        raise Refused
    return bool(given)


def as_flag(value: object, what: str) -> bool:
    """True or False, for an attribute that is set. Raises ArgumentError for others; `what` names the attribute."""
    try:
        return flag(value)
    except Refused:
        raise ArgumentError(f"{what} is {shown(value)}, it has to be True or False") from None


def steps(value: Any) -> int:
    """A number of steps."""
    number = unpacked(value)
    return whole(int(number) if isinstance(number, float) and number.is_integer() else number)


def numbers_array(value: Any) -> Any:
    """An array of numbers, from whatever NumPy makes one of."""
    if not isinstance(value, np.ndarray):
        # Ragged lists, strings, objects and what only looks like an array raise all kinds of errors, or become objects.
        try:
            value = np.asarray(value)
        except Exception:
            raise Refused from None
    if value.dtype.kind not in NUMBERS:
        raise Refused
    return value


def as_float32(array: NDArray[Any], what: str) -> NDArray[Any]:
    """An array of numbers as float32. Raises DataError for finite ones beyond its range; `what` names the array."""
    try:
        with np.errstate(over="raise"):
            return array.astype(np.float32, copy=False)
    except FloatingPointError:
        raise DataError(f"{what} holds numbers beyond 3.4e38, the largest of float32; scale them down") from None


def listed(value: Any) -> list[Any]:
    """The items of a list, a tuple, an array or another iterable; not of strings, sets and dictionaries."""
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):
        raise Refused
    # An array that is not NumPy's, such as a parameter, is one thing and no list.
    if value.ndim != 1 if isinstance(value, np.ndarray) else hasattr(value, "shape"):
        raise Refused
    return list(value)


def sizes(value: Any) -> tuple[int, ...]:
    """The sizes of an array."""
    numbers = tuple(whole(item) for item in listed(value))
    if min(numbers, default=0) < 0:
        raise Refused
    return numbers


def kind_of(annotation: Any) -> Kind:
    """What values of an annotation are. Whatever is not in the vocabulary takes all values."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if annotation is None or annotation is type(None):
        return Kind("None", "None", functools.partial(same, None))
    if annotation == ArrayLike or origin in (np.ndarray, NDArray) or annotation is np.ndarray:
        return ARRAY
    if origin in (Union, types.UnionType):
        # ArrayLike is a union itself; `ArrayLike | None` lists its members and None.
        arrays = set(inner) >= ARRAY_LIKE
        rest = [a for a in inner if not arrays or a not in ARRAY_LIKE]
        return any_of([kind_of(a) for a in ([ArrayLike] if arrays else []) + rest])
    if origin is Literal:
        return any_of([Kind(repr(v), repr(v), functools.partial(same, v)) for v in inner])
    if isinstance(origin, type) and issubclass(origin, Mapping) and inner:
        return mapping_kind(kind_of(inner[0]), kind_of(inner[1]))
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return items_kind(origin, inner)
    if annotation is Callable or origin is Callable:
        given = inner[0] if inner and isinstance(inner[0], list) else None
        return Kind(function_words(given), "functions", functools.partial(require, functools.partial(takes, given)))
    if getattr(annotation, "_is_protocol", False):
        return protocol_kind(annotation)
    if isinstance(origin or annotation, type) and annotation not in (object, Any):
        return class_kind(origin or annotation)
    return ANYTHING


ANYTHING = Kind("anything", "anything", lambda value: value)
ARRAY = Kind("an array of numbers", "arrays of numbers", numbers_array)
# its members before Python 3.12; from there on NumPy's ArrayLike is an alias, which unions list as it is
ARRAY_LIKE = set(get_args(ArrayLike)) or {ArrayLike}

SIMPLE: dict[Any, Kind] = {
    int: Kind("a whole number", "whole numbers", whole),
    float: Kind("a number", "numbers", real),
    AnyNumber: Kind("a number", "numbers", any_real),
    Steps: Kind("a whole number", "whole numbers", steps),
    bool: Kind("True or False", "truth values", flag),
    # the shape of an array
    tuple[int, ...]: Kind("a list of sizes, whole numbers of 0 or more", "shapes", sizes),
}


def same(wanted: object, value: Any) -> Any:
    """The value, if it is the one wanted."""
    if value is wanted or (isinstance(value, str) and value == wanted):
        return value
    raise Refused


def require(test: Callable[[Any], bool], value: Any) -> Any:
    """The value, if it passes the test."""
    if test(value):
        return value
    raise Refused


def function_words(parameters: list[Any] | None) -> str:
    """What can be called on as many arguments, in words; parameters: None where any number will do."""
    n = -1 if parameters is None else len(parameters)
    return "something that can be called" + f" with {COUNTS.get(n, n)} argument{'s' * (n != 1)}" * (n >= 0)


def takes(parameters: list[Any] | None, value: Any) -> bool:
    """True for what can be called with as many arguments; parameters: None where any number will do.

    Python's own classes, such as `int`, are no functions that anybody means.
    """
    if not callable(value) or (isinstance(value, type) and value.__module__ == "builtins"):
        return False
    try:
        signature = inspect.signature(value)
        if parameters is not None:
            signature.bind(*parameters)
    except TypeError:
        return False
    except ValueError:
        # Some functions that are built into Python do not say what they take.
        pass
    return True


def any_of(kinds: Sequence[Kind]) -> Kind:
    """The kind of a union: the first one that takes the value."""

    def take(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.take(value)
            except Refused:
                pass
        raise Refused

    words, many = (list(dict.fromkeys(texts)) for texts in zip(*((k.words, k.many) for k in kinds), strict=True))
    return Kind(alternatives(words), alternatives(many), take)


def alternatives(words: Sequence[str]) -> str:
    """The words as a list that ends with "or"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def items_kind(origin: type, inner: tuple[Any, ...]) -> Kind:
    """The kind of tuples and of other sequences. Numbers are passed on in a tuple.

    Other things that can be walked through only once, or are read when they are needed, are passed on unseen.
    """
    fixed = origin is tuple and Ellipsis not in inner
    kinds = [kind_of(a) for a in inner if a is not Ellipsis] or [ANYTHING]
    numbers = all(kind.many.startswith(("numbers", "whole numbers")) for kind in kinds)

    def take(value: Any) -> Any:
        if origin is Iterable and not numbers and isinstance(value, Iterable) and not isinstance(value, Collection):
            return value
        items = listed(value)
        if fixed and len(items) != len(kinds):
            raise Refused
        taken = [kinds[i if fixed else 0].take(item) for i, item in enumerate(items)]
        return tuple(taken) if numbers else value

    if not fixed:
        return Kind(f"a list of {kinds[0].many}", f"lists of {kinds[0].many}", take)
    word = kinds[0].words.removeprefix("a ") if len(kinds) == 1 else kinds[0].many
    count = COUNTS.get(len(kinds), str(len(kinds)))
    return Kind(f"{count} {word}", f"tuples of {count} {word}", take)


def mapping_kind(key: Kind, item: Kind) -> Kind:
    """The kind of dictionaries."""

    def take(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Refused
        taken = {}
        for name, part in value.items():
            try:
                taken[key.take(name)] = item.take(part)
            except Refused:
                raise Refused(f"{shown(part)} for {shown(name)}, it has to be {item.words}") from None
        return taken

    return Kind(f"a dictionary of {item.many}", f"dictionaries of {item.many}", take)


def protocol_kind(protocol: type) -> Kind:
    """The kind of what has the attributes of a protocol; not of a class whose instances would have them."""
    names = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]

    def take(value: Any) -> Any:
        if isinstance(value, type) or not all(hasattr(value, name) for name in names):
            raise Refused
        return value

    text = ", ".join(names)
    return Kind(f"an object with {text}", f"objects with {text}", take)


def class_kind(cls: type) -> Kind:
    """The kind of a class's instances."""
    name = cls.__name__
    words = {"str": "text", "Path": "a path", "Mapping": "a dictionary"}
    word = words.get(name, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")
    return Kind(word, f"{name}s", functools.partial(require, lambda value: isinstance(value, cls)))


def refusal(call: str, name: str, value: object, kind: Kind, reason: Refused) -> ShapeError | DataError:
    """The error that a value is not what an argument has to be: a DataError where that is an array."""
    error = DataError if kind.words.startswith(ARRAY.words) else ShapeError
    if str(reason):
        return error(f"{call}: {name} holds {reason}")
    words = kind.words
    if isinstance(unpacked(value), int | float) and not isinstance(unpacked(value), bool):
        # It is a number, and too large, or NaN.
        words = words.replace("a number", "a finite number that float32 holds")
        words = (
            words.replace("a whole number", "a whole number of at most 64 bits") if isinstance(value, int) else words
        )
    own = isinstance(value, type) and value.__module__ != "builtins"
    made = f"; make one first: {value.__name__}(...)" if own else ""  # type: ignore[attr-defined]
    return error(f"{call}: {name} is {shown(value)}, it has to be {words}{made}")


def name_kind(annotation: Any, words: str, wider: Any = None) -> None:
    """Say what values of an annotation are in better words than those that follow from its parts.

    wider: an annotation of more values, all of which are passed on to a function that checks them itself.
    """
    SIMPLE[annotation] = Kind(words, words, kind_of(annotation if wider is None else wider).take)


def kinds_of(function: Callable[..., Any]) -> dict[str, Kind]:
    """The kind of each annotated parameter of a function, by name."""
    hints: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(function).items():
        if name == "return":
            continue
        text = {name: annotation}
        holder = types.SimpleNamespace(__annotations__=text)
        # A class that only type checkers import is not known here.
        try:
            hints |= typing.get_type_hints(holder, function.__globals__, include_extras=True)
        except NameError:
            continue
    return {name: kind_of(annotation) for name, annotation in hints.items()}
