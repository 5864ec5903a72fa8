"""What `update` and `values` of an optimiser read of its hyper-parameters, while a step is traced.

What `update` reads as a number of Python is compiled into the step; a schedule, or another value for a group, would
change nothing. So optimisers that users write are traced as a Spy, which has the same attributes and takes note of
such reads: of the learning rate they are errors, of others if a schedule sets them; else the step is compiled again
when they change. Optimisers of this package are tested with schedules of everything; what they read is left to them.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from foveal.errors import ShapeError
from foveal.optim.hyper import ParameterGroup, Range
from foveal.watch import note_read

# Where the truth of a value is asked for only, another program is made when it changes (Optimizer.structure).
BY_TRUTH = ("weight_decay", "l1")
# These change in every step, or may.
ALWAYS = ("lr", "steps")
# What an optimiser keeps beside its hyper-parameters.
NO_NUMBERS = bool, str, type(None)


class Spied(Protocol):
    """What is needed of an optimiser here; see Optimizer."""

    static: tuple[str, ...]
    ranges: dict[str, Range]
    groups: list[ParameterGroup]
    schedules: dict[str, Callable[[int], float]]
    compiled_in: set[str]
    looked_at: set[str]
    unread: set[str]

    def structure(self) -> tuple[object, ...]: ...
    def values(self, step: int, group: ParameterGroup) -> dict[str, float]: ...


class Local(threading.local):
    """The hyper-parameter whose schedule is setting values in this thread; empty outside of that."""

    schedule = ""


LOCAL = Local()


class Number(float):
    """A hyper-parameter as `update` reads it: a number that takes note when it is used as more than a truth value."""

    used: Callable[[], None]
    asked: Callable[[], None]

    def __new__(cls, value: float, used: Callable[[], None], asked: Callable[[], None]) -> "Number":
        made = super().__new__(cls, value)
        made.used, made.asked = used, asked
        return made

    def __bool__(self) -> bool:
        self.asked()
        return float.__bool__(self)

    __hash__ = float.__hash__


def noting(name: str) -> Callable[..., Any]:
    """The method of float of this name, which takes note first."""
    method = getattr(float, name)

    def noted(self: Number, *others: Any) -> Any:
        self.used()
        return method(self, *others)

    return noted


ARITHMETIC = "add sub mul truediv floordiv mod pow"
for _name in (*(f"__{r}{n}__" for n in ARITHMETIC.split() for r in ("", "r")), "__neg__", "__pos__", "__abs__"):
    setattr(Number, _name, noting(_name))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "float", "int", "round", "trunc", "floor", "ceil"):
    setattr(Number, f"__{_name}__", noting(f"__{_name}__"))


def by_package() -> bool:
    """True if what asks the caller for an attribute is code of this package."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("foveal.")


class Spy:
    """An optimiser that is traced: mixed into a class of its own, whose instance shares the optimiser's attributes."""

    __slots__ = ("group", "method", "spied")

    spied: Spied
    #: of the parameter whose update is traced
    group: ParameterGroup
    #: the method that is called, "update" or "values"
    method: str

    # mypy would take every attribute of a class that has this method for one that exists.
    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> object:
            value = object.__getattribute__(self, name)
            if name not in object.__getattribute__(self, "__dict__") or by_package():
                return value
            return observed(self, name, value, False)


class SpiedGroup(ParameterGroup):
    """The group of parameters that `update` is given: group[name] takes note as a Spy does."""

    spy: Spy

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value if by_package() else observed(self.spy, name, value, True)


def observed(spy: Spy, name: str, value: object, of_group: bool) -> object:
    """The value of a hyper-parameter, or what takes note when it is used."""
    spy.spied.looked_at.add(name)
    if name in spy.spied.static:
        return value
    if isinstance(value, int | float) and not isinstance(value, NO_NUMBERS):

        def used() -> None:
            note(spy, name, of_group)

        def asked() -> None:
            if name not in (*BY_TRUTH, *ALWAYS) and not own_structure(spy):
                used()

        return Number(value, used, asked)
    if isinstance(value, NO_NUMBERS) or (
        isinstance(value, tuple | list) and all(isinstance(part, int | float | str) for part in value)
    ):
        note(spy, name, of_group)
    return value


def own_structure(spy: Spy) -> bool:
    """True if a user's class says itself what is compiled into the step."""
    return not type(spy.spied).structure.__module__.startswith("foveal.")


def note(spy: Spy, name: str, of_group: bool) -> None:
    """Take note that a value was used. Raises ShapeError where that would leave a schedule or a group's value out."""
    group, optimizer = spy.group, spy.spied
    place = f"group[{name!r}]" if of_group else f"self.{name}"
    own = name in group.options or (name == "lr" and group.lr_factor != 1.0)
    if own and not of_group:
        number = optimizer.groups.index(group)
        raise ShapeError(
            f"{type(optimizer).__name__}: {spy.method} reads {place}, but group {number} of the parameters has a value"
            f" of its own, {name} {group[name]:g}, which would be ignored; read group[{name!r}] in values, and"
            f" now[{name!r}] in update"
        )
    if spy.method == "values":
        return
    if name in ALWAYS:
        ignored(optimizer, name, place)
    optimizer.compiled_in.add(name)
    note_read(optimizer, name)
    # a value of the group's own, also one that it gets later
    note_read(group, "options")


def ignored(optimizer: Spied, name: str, place: str) -> NoReturn:
    """Raise ShapeError for a hyper-parameter that is compiled in and changes."""
    kind = type(optimizer).__name__
    if name == "steps":
        raise ShapeError(
            f"{kind}: update reads {place}, the number of the step, which would be compiled in and stay what it is now;"
            f" return what depends on it from values(self, step, group), and read it as now[...]"
        )
    way = (
        f"read now[{name!r}]"
        if name == "lr" or name in optimizer.ranges
        else (f"return it from values(self, step, group) and read now[{name!r}], or list it in `ranges`")
    )
    raise ShapeError(
        f"{kind}: update reads {place}, a number that would be compiled into the step: a schedule and later changes"
        f" would be ignored. In update, {way}, the value in each step"
    )


def note_unread(optimizer: Spied, now: set[str]) -> None:
    """Take note of the numbers that neither `update` nor `values` looked at, so that a schedule would change nothing.

    now: what `update` read of this step's numbers. Raises ShapeError if one has a schedule.
    """
    read = optimizer.looked_at | {name.partition(".")[0] for name in now}
    numbers = {name for name, value in vars(optimizer).items() if isinstance(value, float)}
    # Gradients are clipped, and penalties of 0 left out, before `update` is called.
    zero = {name for name in BY_TRUTH if not any(group[name] for group in optimizer.groups)}
    # A subclass of an optimiser of this package computes with what that one's `values` reads.
    place = type(optimizer).values.__module__
    inherited = place.startswith("foveal.") and place != "foveal.optim.optimizer"
    optimizer.unread = set() if inherited else numbers - read - zero - {"clip_norm", "clip_value"}
    check_read(optimizer, optimizer.schedules)


def check_read(optimizer: Spied, names: Iterable[str]) -> None:
    """Raise ShapeError if one of the names, which have schedules, is a number that nothing reads."""
    for name in names:
        if name in optimizer.unread:
            raise ShapeError(
                f"{type(optimizer).__name__}: the schedule of {name} changes nothing, as neither update nor values"
                f" reads it; list {name} in `ranges` and read now[{name!r}] in update"
            )


def of_package(optimizer: Spied) -> bool:
    """True for optimisers of this package."""
    return type(optimizer).__module__.startswith("foveal.")


def spy_on(optimizer: Spied, group: ParameterGroup, method: str) -> tuple[Any, ParameterGroup]:
    """The optimiser and a group of it as `method` is called with; for optimisers of this package themselves."""
    if of_package(optimizer):
        return optimizer, group
    spy: Any = object.__new__(spying(type(optimizer)))
    object.__setattr__(spy, "__dict__", vars(optimizer))
    for name, value in (("spied", optimizer), ("group", group), ("method", method)):
        object.__setattr__(spy, name, value)
    spied = object.__new__(SpiedGroup)
    vars(spied).update(vars(group))
    spied.spy = spy
    return spy, spied


def spying(cls: type) -> type:
    """The class of spies on optimisers of a class; made for each trace, which is long beside that."""
    return type(cls.__name__, (Spy, cls), {"__module__": cls.__module__, "__slots__": ()})
