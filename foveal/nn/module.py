"""Module, ModuleList and ModuleDict: networks as Python objects with PyTorch's names and layouts."""

import collections
import inspect
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, SupportsIndex

import numpy as np

from foveal.arguments import checked
from foveal.errors import ArgumentError
from foveal.kinds import Around, as_flag, inside_of
from foveal.names import missing
from foveal.nn.calls import Called, is_of_library
from foveal.nn.hooks import HOOKS
from foveal.nn.parameter import Buffer as Buffer
from foveal.nn.parameter import Counter as Counter
from foveal.nn.parameter import Parameter as Parameter
from foveal.nn.recorded import CALLS, MADE, record
from foveal.nn.stored import LoadedKeys, load_into
from foveal.ops.op import Tensor
from foveal.strides import Ndarray
from foveal.variable import Variable
from foveal.watch import PARTS, Watched, attributes_of, is_plain_object, note_read, own_attributes

if TYPE_CHECKING:
    from foveal.explain import Summary

# What a layer returns: one array, or several (MaxPool2d with its indices, GoogLeNet with its auxiliary classifiers).
Output = Tensor | tuple[Tensor, ...]
# Attributes of a module that hold what was compiled for it: for calls, for activations by the names wanted, and for the
# views of foveal.explain.
COMPILED = ("_compiled", "_activations", "_views")
# Attributes of a module that are no parts of it: its name, the number of calls, hooks, the
# arguments that it was made with, what was compiled for it.
INTERNAL = ("_name", "_calls", HOOKS, MADE, *COMPILED)
# What would be used up by looking at what it yields.
ONCE: tuple[type, ...] = (types.GeneratorType, map, filter, zip)
# What can change in place, and so get a layer later than it was assigned.
CHANGEABLE: tuple[type, ...] = (list, dict, set, collections.deque)


class Module(Called["Module"]):
    """Base of layers and models. A subclass sets its parts as attributes and defines `forward(x)`.

    Called on a NumPy array, a module is compiled for the array's shape and returns NumPy arrays; what was compiled
    follows later changes of the module (foveal.watch says which are noticed). Called on a Tensor, while a function is
    traced, it adds its operators to the trace.

    A list, tuple or dict that holds modules or parameters, also inside of each other, becomes a ModuleList or a
    ModuleDict when it is assigned, or when the module is next looked at if it got them afterwards. Raises ArgumentError
    for other containers of modules, and for anything but another one in place of a parameter or a layer.

        class Scale(nn.Module):
            def __init__(self, channels):
                self.linear = nn.Linear(channels, channels)
                self.gain = nn.Parameter(np.ones(channels), "gain")

            def forward(self, x):
                y = self.linear(x) if self.training else x
                return ops.tanh(y * self.gain)

    Its gradient follows by itself; `foveal.gradcheck(Scale(3), x)` checks it. No call of super().__init__() is needed.
    """

    training: bool = True
    #: names of parts without which the layer cannot compute; others may be None
    required: ClassVar[tuple[str, ...]] = ()

    # Type checkers would take these arguments for those of every layer.
    if not TYPE_CHECKING:

        def __new__(cls, *arguments: object, **options: object) -> Self:
            """Note what a module is made with, for `save`: of lists of modules what is in them says it."""
            if (arguments or options) and cls.__init__ is object.__init__:
                raise ArgumentError(f"{cls.__name__} takes no arguments; call it as {cls.__name__}()")
            module = super().__new__(cls)
            record(module, () if "made_of_parts" in vars(cls) else arguments, options)
            return module

        __new__.__signature__ = inspect.Signature([inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)])

    def __setattr__(self, name: str, value: object) -> None:
        place, old = f"{type(self).__name__}.{name}", own_attributes(self).get(name)
        if isinstance(old, ModuleList | ModuleDict) and isinstance(value, list | tuple | dict):
            value = ModuleDict(value) if isinstance(value, dict) else ModuleList(value)
        value = registered(value, place, self)
        check_replacement(place, old, value, optional=name not in self.required)
        if (isinstance(old, bool) and is_of_library(self)) or name == "training":
            value = as_flag(value, place)
        self.check_attribute(name, value)
        super().__setattr__(name, value)

    # Type checkers would take every attribute for one that exists.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            # Only what does not exist gets here.
            raise AttributeError(missing(type(self).__name__, name), name=name, obj=self)

    def check_attribute(self, name: str, value: object) -> None:
        """Raise an error that names the attribute if it cannot have this value; called whenever one is set."""

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take over: all attributes but the compiled programs."""
        return {name: value for name, value in self.__dict__.items() if name not in COMPILED}

    def summary(self, input_shape: Sequence[int] | int, batch: int = 1) -> "Summary":
        """Layer by layer: shape, parameters, multiply-adds, receptive field, what strides never read (foveal.explain).

        input_shape: the shape of one image, (C, H, W). Nothing is computed; `print` it for a table.
        """
        from foveal.explain import explain

        return explain(self, input_shape, batch)

    def parts(self) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of all attributes, in the order in which they were set."""
        note_read(self, PARTS)
        own = own_attributes(self)
        for name, value in list(own.items()):
            if name in INTERNAL:
                continue
            # Layers may have been appended since the list was assigned.
            if isinstance(value, CHANGEABLE):
                Watched.__setattr__(self, name, registered(value, f"{type(self).__name__}.{name}"))
            yield name, own[name]

    @checked
    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training behaviour (batch statistics, dropout), and return it."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all below it to inference behaviour, and return it."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze all parameters (False) or let them be trained (True), and return the module."""
        for parameter in self.parameters():
            parameter.trainable = requires_grad
        return self

    def state_dict(self) -> dict[str, Ndarray]:
        """Copies of all parameters and buffers by dotted name, C-contiguous, filters as [K, C, R, S]."""
        return {name: np.array(variable.data, order="C") for name, variable in self.named_variables()}

    @checked
    def load_state_dict(self, state: Mapping[str, Any] | str | Path, strict: bool = True) -> LoadedKeys:
        """Copy arrays in by name, and return what was not loaded: (missing_keys, unexpected_keys), as PyTorch does.

        state: arrays of NumPy or PyTorch by name, or the path of a safetensors file. float16, bfloat16 and float64 are
        converted; a prefix `module.`, `_orig_mod.`, `model.` or `backbone.` of the names is taken off where they match
        without it, with a FovealWarning; num_batches_tracked may be missing. strict: False leaves parameters that
        `state` lacks as they are, and ignores what the model does not have. Raises StateError that lists all that does
        not fit, with the nearest names; then nothing is changed.

            net.load_state_dict(torch_net.state_dict())
            missing, unexpected = net.load_state_dict("weights.safetensors", strict=False)
        """
        return load_into(self, state, strict)

    @checked
    def save(self, path: str | Path) -> None:
        """Write the network to a file, with what is needed to build it again: `foveal.load(path)` returns it.

        The file is a safetensors file: all parameters and buffers as `state_dict` has them, and in its metadata, as
        JSON, the class of the network by its import path, the arguments that it was made with, which every module
        records, and what was changed since: layers put in, taken out or exchanged, hyper-parameters, modes, frozen
        parameters. Nothing is pickled. Arguments have to be numbers, texts, lists, dicts, modules, their classes, or
        operators. Hooks are not stored. A file that exists is replaced as a whole, or stays as it is.

            net.save("net.safetensors")
            net = foveal.load("net.safetensors")

        Raises StateError that names what cannot be described so, DataError where the file cannot be written.
        """
        CALLS["save"](self, path)

    def __repr__(self) -> str:
        inner = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        head = f"{type(self).__name__}({self.describe()}"
        return "\n".join([head, *inner, ")"]) if inner else head + ")"

    def _repr_html_(self) -> str:
        from foveal.nn.tree_html import tree

        return tree(self)

    def describe(self) -> str:
        """Return the hyper-parameters that are shown when the module is printed."""
        return self.extra_repr()

    def extra_repr(self) -> str:
        """PyTorch's name of `describe`, for layers that have it."""
        return ""


class Container(Module):
    """Base of ModuleList and ModuleDict: values under keys, of which the modules and parameters belong to the model."""

    # (key, value); replaced as a whole with every change, so that the change is noticed
    _items: tuple[tuple[Hashable, Any], ...]

    def forward(self, x: Tensor) -> Output:
        """Raise ArgumentError: the model calls what is in it, one by one."""
        raise ArgumentError(
            f"{type(self).__name__} has no forward(x); call the modules in it, or make an nn.Sequential of them"
        )

    def set_items(self, items: Iterable[tuple[Hashable, object]]) -> None:
        """Put (key, value) in place of what there is."""
        kind = type(self).__name__
        Watched.__setattr__(self, "_items", tuple((key, registered(v, f"{kind}[{key!r}]")) for key, v in items))

    def parts(self) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of all values; names are the keys as text."""
        note_read(self, PARTS)
        if any(isinstance(value, CHANGEABLE) for _, value in self._items):
            self.set_items(self._items)
        for key, value in self._items:
            yield str(key), value

    def __getattr__(self, name: str) -> Any:
        for key, value in own_items(self):
            if str(key) == name:
                return value
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: object) -> None:
        items = own_items(self)
        if name in (str(key) for key, _ in items):
            self.set_items((key, value if str(key) == name else old) for key, old in items)
        else:
            super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self._items)


class ModuleList(Container, MutableSequence[Any]):
    """A list of modules and parameters that belong to the model, named 0, 1, 2, ... as PyTorch's ModuleList

    It has no `forward`: the model calls what is in it. Other values may stand among them.
    """

    #: A file describes it by what is in it.
    made_of_parts: ClassVar[bool] = True

    def __init__(self, modules: Iterable[object] = ()) -> None:
        self.set_items(enumerate(modules))

    def to_list(self) -> list[Any]:
        """Return a plain list of what is in it."""
        return [value for _, value in self._items]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_list())

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = self.to_list()[index]
        return ModuleList(found) if isinstance(index, slice) else found

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        values = self.to_list()
        values[index] = value
        self.set_items(enumerate(values))

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        values = self.to_list()
        del values[index]
        self.set_items(enumerate(values))

    def insert(self, index: SupportsIndex, value: object) -> None:
        """Put a value before the one of that index."""
        values = self.to_list()
        values.insert(index, value)
        self.set_items(enumerate(values))

    def __add__(self, other: Iterable[object]) -> "ModuleList":
        return ModuleList([*self, *other])


class ModuleDict(Container, MutableMapping[Any, Any]):
    """A dict of modules and parameters that belong to the model, named by their keys as in PyTorch's ModuleDict

    Keys are texts without a dot, or whole numbers; else ArgumentError. It has no `forward`.
    """

    #: A file describes it by what is in it.
    made_of_parts: ClassVar[bool] = True

    def __init__(self, modules: Mapping[Any, object] | Iterable[tuple[Any, object]] = ()) -> None:
        self.set_items(dict(modules).items())

    def set_items(self, items: Iterable[tuple[Hashable, object]]) -> None:
        items = list(items)
        names = [str(key) for key, _ in items]
        for (key, _), name in zip(items, names, strict=True):
            if not isinstance(key, str | int) or not name or "." in name or names.count(name) > 1:
                raise ArgumentError(
                    f"ModuleDict: the key {key!r} cannot name a part of a model; keys are different texts without a"
                    " dot, or whole numbers"
                )
        super().set_items(items)

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self._items])

    def __getitem__(self, key: Hashable) -> Any:
        return dict(self._items)[key]

    def __setitem__(self, key: Hashable, value: Any) -> None:
        self.set_items((dict(self._items) | {key: value}).items())

    def __delitem__(self, key: Hashable) -> None:
        items = dict(self._items)
        del items[key]
        self.set_items(items.items())

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def own_items(container: Container) -> tuple[tuple[Hashable, Any], ...]:
    """Return what a container holds; nothing while it is being made."""
    items: Any = own_attributes(container).get("_items", ())
    return tuple(items)


def registered(value: object, place: str, owner: Module | None = None) -> object:
    """Return the value as a part of a model: a list or dict that holds modules or parameters as one that lists them.

    place: of the value, for messages. owner: what it is assigned to, which it may refer to. Raises ArgumentError for
    other containers of modules.
    """
    if isinstance(value, ONCE):
        raise ArgumentError(f"{place} is a {type(value).__name__}, which yields its elements once; give a list of them")
    if isinstance(value, Module | Variable) or not holds_parts(value, owner):
        return value
    check_ends(value)
    if isinstance(value, dict):
        return ModuleDict(value)
    if type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        return ModuleList(value)
    raise ArgumentError(
        f"{place} is a {type(value).__name__} that holds modules or parameters, which would be no part of the model;"
        " assign them to attributes of the model, or give a list or a dict of them"
    )


def check_ends(value: object, around: Around = ()) -> None:
    """Raise ArgumentError where a list, tuple or dict lies in itself. around: what the value lies in."""
    if isinstance(value, list | tuple | dict):
        around = inside_of(value, around)
        for part in value.values() if isinstance(value, dict) else value:
            check_ends(part, around)


def holds_parts(value: object, owner: Module | None = None) -> bool:
    """True for a container with a module or a parameter in it, at any depth; of other objects, among the attributes."""
    waiting = [value]
    # containers by their ids, so that one that holds itself is looked into once
    seen: dict[int, object] = {}
    inner: Iterable[object]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple | set | frozenset | collections.deque | collections.UserList | ValuesView):
            inner = value
        elif isinstance(value, Mapping):
            inner = value.values()
        elif isinstance(value, np.ndarray):
            inner = value.flat if value.dtype.hasobject else ()
        else:
            held = attributes_of(value).values() if is_plain_object(value) else ()
            if any(isinstance(x, Module | Parameter) and x is not owner for x in held):
                return True
            continue
        if id(value) in seen:
            continue
        seen[id(value)] = value
        for x in inner:
            if isinstance(x, Module | Variable):
                return True
            if not isinstance(x, str):
                waiting.append(x)
    return False


def check_replacement(place: str, old: object, value: object, optional: bool) -> None:
    """Raise ArgumentError if something else is put in place of a parameter, a buffer or a layer.

    optional: None may stand for it.
    """
    allowed = " or None" if optional else ""
    if value is None and optional:
        return
    given = "None" if value is None else type(value).__name__
    if isinstance(old, Variable) and not isinstance(value, Variable):
        kind = type(old).__name__
        raise ArgumentError(
            f"{place} is a {kind}, and {given} would take it out of the model; copy values into it with {place}.data ="
            f" values, or assign nn.{kind}(values){allowed}"
        )
    if isinstance(old, Module) and not isinstance(value, Module):
        raise ArgumentError(
            f"{place} is a layer, {type(old).__name__}, and {given} would take it out of the model; assign another"
            f" module, nn.Identity() to leave it out{allowed and ', or None'}"
        )
