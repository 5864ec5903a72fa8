"""Hyper-parameters: what each may be, and groups of parameters that share them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from foveal.errors import ShapeError
from foveal.variable import Variable


class Range(NamedTuple):
    """low <= value < high, or low < value < high where it has to be above `low`."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        try:
            return bool(self.low <= value < self.high and not (self.above and value == self.low))
        except TypeError:
            return False

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        lower = f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        return lower if self.high == math.inf else f"{lower} and below {self.high:g}"


NUMBER = Range(-math.inf, above=True)
POSITIVE = Range(above=True)
BELOW_ONE = Range(high=1.0)
RATE, DECAY = Range(), Range()


class Group:
    """Parameters that share hyper-parameters: group[name] is the group's own value, or else the optimiser's.

    The rate of a group is the optimiser's times `lr_factor`, so that a schedule drives all groups together. A group
    that
    is given an `lr` gets the factor that makes it so now.
    """

    def __init__(self, optimizer: Any, parameters: list[Variable], options: Mapping[str, Any]) -> None:
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

    def __setitem__(self, name: str, value: Any) -> None:
        kind, base = type(self.optimizer).__name__, self.optimizer
        if name == "frozen":
            self.frozen = bool(value)
        elif name in ("lr", "lr_factor"):
            base.check(name, value, RATE)
            if name == "lr" and base.lr == 0:
                raise ShapeError(
                    f"{kind}: a group has lr {value:g}, but the optimiser's own lr is 0, and rates of groups are kept"
                    f" as factors of it; give the optimiser a rate, or the group an lr_factor"
                )
            self.lr_factor = value / base.lr if name == "lr" else float(value)
        elif name in base.ranges:
            base.check(name, value, base.ranges[name])
            self.options[name] = value
        elif name in base.static:
            self.options[name] = value
        else:
            known = ", ".join(("lr", "lr_factor", "frozen", *base.ranges, *base.static))
            raise ShapeError(
                f"{kind}: a group of parameters has {name!r}, which is no hyper-parameter of it; it takes {known}"
            )


def make_groups(optimizer: Any, parameters: Iterable[Any]) -> list[Group]:
    """Groups from parameters, or from dicts {"params": parameters, hyper-parameter: value, ...} as PyTorch takes
    them.
    """
    kind = type(optimizer).__name__
    given: list[Any] = [parameters] if isinstance(parameters, Variable) else list(parameters)
    dicts = bool(given) and all(isinstance(item, Mapping) for item in given)
    described: list[Any] = given if dicts else [{"params": given}]
    groups, seen = [], set()
    for item in described:
        options = {name: value for name, value in item.items() if name != "params"}
        if "params" not in item:
            raise ShapeError(f"{kind}: a group of parameters lacks 'params': {options}")
        members = item["params"]
        members = [members] if isinstance(members, Variable) else list(members)
        for p in members:
            if not isinstance(p, Variable):
                raise ShapeError(
                    f"{kind}: {type(p).__name__} is no parameter; give net.parameters(), or a list of dicts with"
                    f" 'params'"
                )
            if p in seen:
                raise ShapeError(
                    f"{kind}: parameter {p.name or 'without a name'} {list(p.shape)} is named twice; a parameter"
                    " belongs to one group"
                )
            seen.add(p)
        groups.append(Group(optimizer, members, options))
    if not seen:
        raise ShapeError(f"{kind}: there are no parameters to optimise")
    return groups


def by_name(parameters: Iterable[Variable], rules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups by name: each parameter gets the options of the first pattern that fits it, such as "*.bias" or "head.*".

        optim.Momentum(optim.by_name(net.parameters(), {"features.*": {"lr_factor": 0.1}}), lr=0.1)

    What no pattern fits forms the first group, with the optimiser's own hyper-parameters.
    """
    rest: list[Variable] = []
    found: dict[str, list[Variable]] = {pattern: [] for pattern in rules}
    names = []
    for p in parameters:
        names.append(p.name)
        pattern = next((r for r in rules if fnmatchcase(p.name, r)), None)
        (rest if pattern is None else found[pattern]).append(p)
    for pattern, members in found.items():
        if not members:
            raise ShapeError(
                f"no parameter is called {pattern!r} (or an earlier pattern took it); there are {', '.join(names)}"
            )
    groups = [{"params": rest}] if rest else []
    return groups + [{"params": found[pattern], **rules[pattern]} for pattern in rules]


def no_decay(parameters: Iterable[Variable]) -> list[dict[str, Any]]:
    """Two groups: weights, and without weight decay all that has fewer than two axes, which are biases and norms.

    T. He et al. 2019, Bag of Tricks, section 3.1.
    """
    parameters = list(parameters)
    weights = [p for p in parameters if len(p.shape) > 1]
    others = [p for p in parameters if len(p.shape) <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0, "l1": 0.0}]
    return [group for group in groups if group["params"]]
