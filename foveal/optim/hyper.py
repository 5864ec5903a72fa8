"""Hyper-parameters: the range of each, and groups of parameters that share them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol, SupportsFloat

from foveal.errors import ShapeError
from foveal.kinds import FLOAT32_MAX, FLOAT32_SMALLEST, SIMPLE, Kind, kind_of
from foveal.variable import Variable

# A group of parameters as the caller describes it: {"params": parameters, hyper-parameter: value, ...}.
GroupOptions = Mapping[str, object]

# What an optimiser is given: parameters, or groups of them.
Parameters = Iterable[Variable] | Iterable[GroupOptions]
# What is among them is checked by `variables`.
PARAMETERS = "net.parameters(), or a list of dicts with 'params'"
SIMPLE[Parameters] = Kind(PARAMETERS, PARAMETERS, kind_of(Iterable[object]).take)


class Range(NamedTuple):
    """The numbers that a hyper-parameter may be: low <= value < high, or low < value < high if `exclusive`.

    Programs hold it as float32, where what is below the smallest normal number may count as 0.
    """

    low: float = 0.0
    high: float = math.inf
    exclusive: bool = False

    def __contains__(self, value: object) -> bool:
        # each step asks, and a protocol takes long to look at
        if not isinstance(value, float | SupportsFloat):
            return False
        try:
            number = float(value)
        # text, arrays, whole numbers of hundreds of digits
        except (TypeError, ValueError, OverflowError):
            return False
        # NaN fails both comparisons, so it lies in no range.
        if abs(number) > FLOAT32_MAX:
            return False
        if abs(number) < FLOAT32_SMALLEST:
            number = 0.0
        return self.low <= number < self.high and not (self.exclusive and number == self.low)

    def __str__(self) -> str:
        if self.low == -self.high:
            return f"a finite number between {self.low:g} and {self.high:g}"
        zero = f", in float32, whose smallest number is {FLOAT32_SMALLEST:.2g}" if self.low == 0 else ""
        lower = f"more than {self.low:g}{zero}" if self.exclusive else f"at least {self.low:g}"
        return lower if self.high == math.inf else f"{lower} and below {self.high:g}"


POSITIVE = Range(exclusive=True)
BELOW_ONE = Range(high=1.0)
# Far above all that means something, and so low that a rate times a gradient is a finite float32.
RATE, DECAY = Range(high=1e9), Range(high=1e9)
NUMBER = Range(-1e9, 1e9, exclusive=True)


class HasHyperParameters(Protocol):
    """What a group needs of its optimiser; see Optimizer."""

    lr: float
    ranges: dict[str, Range]
    static: tuple[str, ...]
    fixed_ranges: Mapping[str, Range]

    def check(self, name: str, value: object, allowed: Range) -> None: ...


class ParameterGroup:
    """Parameters that share hyper-parameters.

    group[name] is the group's own value, or the optimiser's where the group has none. The learning rate of a group is
    the optimiser's times `lr_factor`, so that one schedule drives all groups. A group that is given an `lr` gets the
    factor that results in this rate at the optimiser's present one.
    """

    def __init__(self, optimizer: HasHyperParameters, parameters: list[Variable], options: GroupOptions) -> None:
        """Raise ShapeError for an option that is no hyper-parameter of the optimiser, or out of its range."""
        self.optimizer, self.parameters = optimizer, parameters
        self.lr_factor, self.frozen = 1.0, False
        self.options: dict[str, Any] = {}
        for name, value in options.items():
            self[name] = value

    def __getitem__(self, name: str) -> Any:
        if name == "lr":
            return self.optimizer.lr * self.lr_factor
        if name in ("lr_factor", "frozen"):
            return getattr(self, name)
        return self.options[name] if name in self.options else getattr(self.optimizer, name)

    def __setitem__(self, name: str, value: object) -> None:
        kind, optimizer = type(self.optimizer).__name__, self.optimizer
        if name == "frozen":
            self.frozen = bool(value)
        elif name in ("lr", "lr_factor"):
            optimizer.check(name, value, RATE)
            assert isinstance(value, SupportsFloat)
            number = float(value)
            # The rate is kept as a factor of the optimiser's, which cannot be 0 then.
            if name == "lr" and optimizer.lr == 0:
                raise ShapeError(
                    f"{kind}: a group has lr {number:g}, but the optimiser's own lr is 0, and the rates of groups are"
                    " stored as factors of it; give the optimiser a rate, or the group an lr_factor"
                )
            self.lr_factor = number / optimizer.lr if name == "lr" else number
        elif name in optimizer.ranges:
            optimizer.check(name, value, optimizer.ranges[name])
            self.options[name] = value
        elif name in optimizer.static:
            if name in optimizer.fixed_ranges:
                optimizer.check(name, value, optimizer.fixed_ranges[name])
            self.options[name] = value
        else:
            known = ", ".join(("lr", "lr_factor", "frozen", *optimizer.ranges, *optimizer.static))
            raise ShapeError(
                f"{kind}: a group of parameters has {name!r}, which is no hyper-parameter of it; it takes {known}"
            )


def make_groups(optimizer: HasHyperParameters, parameters: Parameters) -> list[ParameterGroup]:
    """Return the groups of an optimiser, from parameters or from dicts {"params": ..., name: value} as in PyTorch.

    Raises ShapeError if there are no parameters, if something else stands among them, or if one is named twice.
    """
    kind = type(optimizer).__name__
    groups: list[ParameterGroup] = []
    seen: set[Variable] = set()
    for description in descriptions(parameters):
        options = {name: value for name, value in description.items() if name != "params"}
        if "params" not in description:
            raise ShapeError(f"{kind}: a group of parameters lacks 'params': {options}")
        members = variables(kind, description["params"])
        for p in members:
            # The update of a parameter that is listed twice would be undefined.
            if p in seen:
                raise ShapeError(
                    f"{kind}: parameter {p.name or 'without a name'} {list(p.shape)} is named twice; a parameter"
                    " belongs to one group"
                )
            seen.add(p)
        groups.append(ParameterGroup(optimizer, members, options))
    if not seen:
        raise ShapeError(f"{kind}: there are no parameters to optimise")
    return groups


def descriptions(parameters: Parameters | Variable) -> list[GroupOptions]:
    """Return one dict per group; plain parameters form a single group without options of its own."""
    items = as_list(parameters)
    dicts = [item for item in items if isinstance(item, Mapping)]
    return dicts if items and len(dicts) == len(items) else [{"params": items}]


def as_list(value: object) -> list[object]:
    """Return a single Variable as a list of one, and what can be iterated over as a list."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, Variable) else [value]


def variables(call: str, parameters: object) -> list[Variable]:
    """The parameters as a list. Raise ShapeError, which names what was called, where something else is among them."""
    members: list[Variable] = []
    for p in as_list(parameters):
        if not isinstance(p, Variable):
            raise ShapeError(f"{call}: {type(p).__name__} is no parameter; give {PARAMETERS}")
        members.append(p)
    return members


def by_name(parameters: Iterable[Variable], rules: Mapping[str, GroupOptions]) -> list[GroupOptions]:
    """Return groups by name: each parameter gets the options of the first pattern that matches its name.

        optim.Momentum(optim.by_name(net.parameters(), {"features.*": {"lr_factor": 0.1}}), lr=0.1)

    Patterns are those of the shell, such as "*.bias" or "head.*". Parameters that match no pattern form the first
    group, which has the optimiser's own hyper-parameters. Raises ShapeError for a pattern without any parameter.
    """
    unmatched: list[Variable] = []
    matched: dict[str, list[Variable]] = {pattern: [] for pattern in rules}
    names = []
    for p in variables("by_name", parameters):
        names.append(p.name)
        pattern = next((rule for rule in rules if fnmatchcase(p.name, rule)), None)
        (unmatched if pattern is None else matched[pattern]).append(p)
    for pattern, members in matched.items():
        if not members:
            raise ShapeError(
                f"no parameter is called {pattern!r} (or an earlier pattern matched it); there are {', '.join(names)}"
            )
    groups: list[GroupOptions] = [{"params": unmatched}] if unmatched else []
    return groups + [{"params": matched[pattern], **rules[pattern]} for pattern in rules]


def no_decay(parameters: Iterable[Variable]) -> list[GroupOptions]:
    """Return two groups: weights, and parameters of fewer than two axes (biases, norms), which get no weight decay.

    T. He et al. 2019, Bag of Tricks, section 3.1.
    """
    parameters = variables("no_decay", parameters)
    weights = [p for p in parameters if len(p.shape) > 1]
    others = [p for p in parameters if len(p.shape) <= 1]
    groups: list[GroupOptions] = [{"params": weights}, {"params": others, "weight_decay": 0.0, "l1": 0.0}]
    return [group for group in groups if group["params"]]
