"""A network as a description that is JSON, and a network from such a description: classes, arguments, and changes.

A module is described by its class and the arguments that it was made with, which Module records by itself; lists of
modules (Sequential, ModuleList, ...) by what is in them. What was changed since, such as a last layer of one's own, a
dropout rate, or a layer put in the place of another, is found by making the module once more, without memory, and
comparing. A description that does not lead back to the same modules and parameters is an error when it is made.

A description that is read may come from anywhere. So nothing that it names is imported: its classes have to be layers
of this package, or subclasses of nn.Module in modules that this process has imported already, or be given by the
caller. They are called on the numbers, texts and collections that the description holds, first without memory.
"""

import math
import re
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from inspect import getattr_static
from typing import Any

import numpy as np

from foveal.errors import FovealError, StateError
from foveal.kinds import shown
from foveal.nn.init import filled, without_values
from foveal.nn.module import INTERNAL, Container, Module, ModuleList
from foveal.nn.parameter import Buffer, Counter, Parameter
from foveal.nn.recorded import Unrecorded, of_instance
from foveal.ops.op import OPS, Operator, Tensor
from foveal.variable import Variable

# A description, or a part of one, as JSON.
Json = Any
# The name of a class: that of its module, a colon, and its own.
CLASS_NAME = re.compile(r"(?a:[\w.]{1,200}):(?a:[\w.<>]{1,200})")
VARIABLES: dict[str, Callable[[tuple[int, ...]], Variable]] = {
    "parameter": lambda shape: Parameter(filled(shape)),
    "buffer": lambda shape: Buffer(filled(shape)),
    "counter": lambda shape: Counter(),
}
# What is equal if it is written in the same way.
PLAIN = (bool, int, float, str, type(None))
# Numbers of one parameter, and axes, at most.
MAX_SIZE, MAX_AXES = 1 << 40, 32


def describe(module: Module) -> dict[str, Json]:
    """Return the description of a network. Raises StateError that names what in it cannot be described."""
    describer = Describer({type(part) for part in module.modules()})
    try:
        found = describer.of(module, type(module).__name__)
    except RecursionError:
        raise StateError(
            f"an attribute of this {type(module).__name__}, or an argument it was made with, is nested too deeply to be"
            " stored, or holds itself. Store net.state_dict() and build the network before loading"
        ) from None
    with without_values():
        again = Builder(describer.classes).build(found)
        if shares := shared_places(module, again):
            found["shared"] = shares
            share(again, shares)
        problem = difference(module, again)
    if problem:
        raise StateError(
            f"this {type(module).__name__} cannot be described by its class and arguments: {problem}. Make the change"
            " in its __init__, or store net.state_dict() and build the network before loading"
        )
    return found


def build(description: Json, classes: Iterable[type] = ()) -> Module:
    """Return the network of a description. classes: those of the caller, which count before others of their names.

    Raises StateError for descriptions that lead to no network.
    """
    try:
        made = Builder(classes).build(description)
    except RecursionError:
        raise StateError("its brackets are nested too deeply for a network") from None
    share(made, description.get("shared", []))
    return made


def class_name(cls: type) -> str:
    """Return the name of a class in a description; layers have that of nn, wherever they are defined."""
    public = getattr(sys.modules["foveal.nn"], cls.__name__, None) is cls
    return f"{'foveal.nn' if public else cls.__module__}:{cls.__qualname__}"


def is_container(module: object) -> bool:
    """True for what is described by what is in it: Sequential, ModuleList, ..., and no class derived from them."""
    return "made_of_parts" in vars(type(module))


class Describer:
    """Makes the description of a network, part by part.

    classes: those that it meets, which may be local to a function.
    """

    def __init__(self, classes: set[type]) -> None:
        self.classes = classes

    def of(self, module: Module, place: str) -> dict[str, Json]:
        """Return the description of a module; place: its name in messages."""
        arguments, options = of_instance(module)
        found: dict[str, Json] = {"class": class_name(type(module))}
        if arguments:
            found["args"] = [self.value(v, f"argument {i} of {place}") for i, v in enumerate(arguments)]
        if options:
            found["options"] = {name: self.value(v, f"{place}({name}=...)") for name, v in options.items()}
        with without_values():
            fresh = Builder(self.classes).build(found)
        if not is_container(module):
            return found | self.changes(parts_of(module), fresh, place)
        items = module._items if isinstance(module, Container) else tuple(module.named_children())
        found["parts"] = [[key, self.value(value, f"{place}.{key}")] for key, value in items]
        inside = {str(key) for key, _ in items}
        return found | self.changes({n: v for n, v in parts_of(module).items() if n not in inside}, fresh, place)

    def changes(self, now: Mapping[str, object], fresh: Module, place: str) -> dict[str, Json]:
        """Return how the parts of a module differ from a fresh one of its class and arguments; {} if they do not."""
        changed: dict[str, Json] = {}
        inside: dict[str, Json] = {}
        before = parts_of(fresh)
        if gone := [name for name in before if name not in now]:
            raise StateError(f"{place} has lost {', '.join(gone)} since it was made; assign None, or nn.Identity()")
        for name, value in now.items():
            old, at = before.get(name, Unrecorded("nothing")), f"{place}.{name}"
            if isinstance(value, Module) and isinstance(old, Module) and same_origin(value, old):
                if found := self.changes(parts_of(value), old, at):
                    inside[name] = found
            elif not unchanged(value, old):
                changed[name] = self.value(value, at)
        return ({"set": changed} if changed else {}) | ({"inside": inside} if inside else {})

    def value(self, value: object, place: str) -> Json:
        """Return a value of an argument or an attribute as JSON. Raises StateError where there is no such form."""
        match value:
            case np.bool_() | np.integer() | np.floating():
                # Numbers that a network was made from, such as labels.max() + 1, mean the same as Python's.
                return self.value(value.item(), place)
            case float() if not math.isfinite(value):
                return {"float": repr(value)}
            case None | bool() | int() | float() | str():
                return value
            case Module():
                return {"module": self.of(value, place)}
            case Counter():
                return {"counter": []}
            case Parameter():
                return {"parameter": list(value.shape)}
            case Buffer():
                return {"buffer": list(value.shape)}
            case Operator():
                return {"operator": value.name}
            case list():
                return [self.value(v, f"{place}[{i}]") for i, v in enumerate(value)]
            case tuple() if type(value) is tuple:
                return {"tuple": [self.value(v, f"{place}[{i}]") for i, v in enumerate(value)]}
            case dict():
                if wrong := [key for key in value if not isinstance(key, (*PLAIN, np.generic))]:
                    raise StateError(
                        f"{place} has the key {shown(wrong[0])}; keys that are stored are numbers and texts"
                    )
                return {"dict": [[self.value(k, place), self.value(v, f"{place}[{k!r}]")] for k, v in value.items()]}
            case type() if issubclass(value, Module):
                self.classes.add(value)
                return {"class": class_name(value)}
        text = value.text if isinstance(value, Unrecorded) else shown(value)
        raise StateError(
            f"{place} is {text}, which cannot be stored; what a network is made from are numbers, texts, lists, dicts,"
            " modules, their classes, and operators. Store net.state_dict() and build the network before loading, or"
            " hold arrays in an nn.Buffer"
        )


def parts_of(module: Module) -> dict[str, object]:
    """Return the attributes of a module that decide what it is, by name; of a list or dict of modules what is in it."""
    if isinstance(module, Container):
        return dict(module.parts())
    own = dict(module.parts())
    return {name: value for name, value in own.items() if name not in (*INTERNAL, "training")}


def same_origin(one: Module, other: Module) -> bool:
    """True for modules of the same class that were made with the same arguments, or are lists of as many parts."""
    if type(one) is not type(other) or not same_record(of_instance(one), of_instance(other)):
        return False
    return not is_container(one) or list(parts_of(one)) == list(parts_of(other))


def same_record(one: object, other: object) -> bool:
    """True for arguments that mean the same; modules among them are compared by their own origin."""
    if isinstance(one, Module) and isinstance(other, Module):
        return same_origin(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(same_record, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_record(one[k], other[k]) for k in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    # NaN is what it was. Other objects of one type come from the constructor.
    return not isinstance(one, PLAIN) or one == other or repr(one) == repr(other)


def unchanged(value: object, old: object) -> bool:
    """True if an attribute is what the constructor has set, as far as its kind tells."""
    if isinstance(value, Tensor):
        # What a layer has noted while it was traced.
        return True
    if isinstance(value, Module) or type(value) is not type(old):
        return False
    if isinstance(value, Variable) and isinstance(old, Variable):
        return value.shape == old.shape
    if isinstance(value, types.FunctionType):
        return value.__qualname__ == getattr(old, "__qualname__", None)
    return same_record(value, old)


def difference(module: Module, again: Module) -> str:
    """Return in words how a rebuilt network differs in its modules and variables; "" if it does not."""
    here, there = dict(module.named_modules(remove_duplicate=False)), dict(again.named_modules(remove_duplicate=False))
    if wrong := [n for n in {**here, **there} if type(here.get(n)) is not type(there.get(n))]:
        return f"made again, it has other modules under {', '.join(map(repr, wrong[:3]))}"
    ours, theirs = ({n: v.shape for n, v in net.named_variables()} for net in (module, again))
    if ours != theirs:
        wrong = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
        return f"made again, it has other parameters or shapes: {', '.join(wrong[:3])}"
    if firsts(module) != firsts(again):
        return "made again, it shares other layers or parameters"
    return ""


def named_parts(module: Module) -> dict[str, object]:
    """Return all modules and variables of a network under each of their names."""
    found: dict[str, object] = dict(module.named_modules(remove_duplicate=False))
    return found | dict(module.named_variables())


def firsts(module: Module) -> dict[str, str]:
    """Return for the name of each module and variable the first name that it has."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(part), name) for name, part in named_parts(module).items()}


def shared_places(module: Module, again: Module) -> list[list[str]]:
    """Return [first name, other name] of what has two places in a network, and is two in another one like it."""
    here, there = firsts(module), firsts(again)
    return [[first, name] for name, first in here.items() if first != name and there.get(name) == name]


def share(module: Module, places: Json) -> None:
    """Put what stands at the first place of each pair at the second, too."""
    for place in listed(places):
        first, name = (listed(place) + [None, None])[:2]
        parts = named_parts(module)
        above, _, last = str(name).rpartition(".")
        holder = parts.get(above)
        if first not in parts or name not in parts or not isinstance(holder, Module):
            raise StateError(f"it shares {shown(place)}, which are no two places of the network")
        set_part(holder, last, parts[first])


def set_part(module: Module, name: str, value: object) -> None:
    """Set an attribute as a description says. Raises StateError where the module does not take it."""
    try:
        setattr(module, name, value)
    except Exception as error:
        raise StateError(
            f"{name} of a {type(module).__name__} cannot be set as it says: {in_one_line(error)}"
        ) from error


class Builder:
    """Makes networks from descriptions, of which nothing is taken on trust."""

    def __init__(self, classes: Iterable[type] = ()) -> None:
        self.classes = list(classes)

    def build(self, found: Json) -> Module:
        """Return the module of a description."""
        if not isinstance(found, dict) or not isinstance(found.get("class"), str):
            raise StateError(f"{shown(found)} in place of the description of a module")
        cls = self.find(found["class"])
        arguments = [self.value(v) for v in listed(found.get("args", []))]
        options = {name: self.value(v) for name, v in named(found.get("options", {})).items()}
        if "made_of_parts" in vars(cls):
            parts = [(key, self.value(v)) for key, v in map(pair, listed(found.get("parts", [])))]
            arguments = [[v for _, v in parts]] if issubclass(cls, ModuleList) else [dict(parts)]
        try:
            module = cls(*arguments, **options)
        except FovealError as error:
            raise StateError(f"a {cls.__name__} cannot be made: {in_one_line(error)}") from error
        except Exception as error:
            raise StateError(
                f"a {cls.__name__} cannot be made with the arguments in the file ({type(error).__name__}:"
                f" {in_one_line(error)}); its __init__ may have changed since: give it the old arguments, or load into"
                " a network that is built already, foveal.load(path, net)"
            ) from error
        self.change(module, found)
        return module

    def change(self, module: Module, found: Json) -> None:
        """Make the changes of a description in a module."""
        for name, value in named(found.get("set", {})).items():
            if name in INTERNAL or name.startswith("__"):
                raise StateError(f"it sets {shown(name)}, which is no part of a module")
            set_part(module, name, self.value(value))
        for name, changes in named(found.get("inside", {})).items():
            part = parts_of(module).get(name)
            if not isinstance(part, Module):
                raise StateError(f"it changes {shown(name)} of a {type(module).__name__}, which is no module")
            self.change(part, named(changes))

    def find(self, name: str) -> type[Module]:
        """Return the class of a name. Nothing is imported. Raises StateError for whatever is no class of modules."""
        last = re.split(r"[:.]", name)[-1]
        given = [cls for cls in self.classes if class_name(cls) == name]
        given += [cls for cls in self.classes if cls.__name__ == last]
        if not CLASS_NAME.fullmatch(name):
            raise StateError(f"{shown(name)} in place of the name of a class")
        place, _, path = name.partition(":")
        value: object = given[0] if given else sys.modules.get(place)
        if value is None:
            raise StateError(
                f"its network has a part of the class {path} of {place}, which this process has not imported, and"
                " nothing that a file names is imported for it; import that module first, or name the class:"
                f" foveal.load(path, cls={last}), on the command line --code FILE"
            )
        for step in () if given else path.split("."):
            value = getattr_static(value, step, None)
        if not isinstance(value, type) or not issubclass(value, Module):
            raise StateError(
                f"its network has a part of the class {path}, and {place} has no module of that name; name the class:"
                f" foveal.load(path, cls={last}), on the command line --code FILE, or load into a network:"
                " foveal.load(path, net)"
            )
        return value

    def value(self, found: Json) -> Any:
        """Return the value that stands in a description as JSON."""
        if isinstance(found, list):
            return [self.value(v) for v in found]
        if not isinstance(found, dict):
            return found
        if len(found) != 1:
            raise StateError(f"{shown(found)} in place of a value")
        ((kind, inner),) = found.items()
        if kind == "module":
            return self.build(inner)
        if kind == "tuple":
            return tuple(self.value(v) for v in listed(inner))
        if kind == "dict":
            return {hashable(self.value(k)): self.value(v) for k, v in map(pair, listed(inner))}
        if kind == "float" and inner in ("inf", "-inf", "nan"):
            return float(inner)
        if kind == "operator" and inner in OPS:
            return OPS[inner]
        if kind == "class" and isinstance(inner, str):
            return self.find(inner)
        if kind in VARIABLES:
            return VARIABLES[kind](sizes(inner))
        raise StateError(f"{shown(found)} in place of a value")


def in_one_line(error: Exception) -> str:
    """Return a message in which modules may be printed, each in several lines."""
    return " ".join(str(error).split())


def listed(found: Json) -> list[Json]:
    """Return a list of a description."""
    if not isinstance(found, list):
        raise StateError(f"{shown(found)} in place of a list")
    return found


def pair(found: Json) -> tuple[Any, Json]:
    """Return a key and a value of a description."""
    if not isinstance(found, list) or len(found) != 2:
        raise StateError(f"{shown(found)} in place of a pair")
    return hashable(found[0]), found[1]


def hashable(key: Any) -> Hashable:
    """Return the key of a dict."""
    if not isinstance(key, PLAIN):
        raise StateError(f"{shown(key)} in place of a key")
    return key


def named(found: Json) -> Mapping[str, Json]:
    """Return a JSON object of a description."""
    if not isinstance(found, dict):
        raise StateError(f"{shown(found)} in place of names and values")
    return found


def sizes(found: Json) -> tuple[int, ...]:
    """Return the shape of a parameter."""
    shape: Sequence[Any] = listed(found)
    if len(shape) > MAX_AXES or not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > MAX_SIZE:
        raise StateError(f"{shown(found)} in place of a shape")
    return tuple(shape)
