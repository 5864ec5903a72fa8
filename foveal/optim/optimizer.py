"""The base of all optimisers. An update is written with operators and becomes part of the step's program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypedDict

import numpy as np

from foveal import ops
from foveal.errors import ShapeError, StateError
from foveal.optim.hyper import DECAY, POSITIVE, RATE, Group, Range, make_groups
from foveal.strides import Ndarray
from foveal.trace import Symbol, current
from foveal.variable import Variable

NORM_EPS = 1e-6  # keeps a gradient of zero from being divided by zero, as in PyTorch

Assignments = list[tuple[Variable, Any]]


class Scalars(dict[str, Variable]):
    """Numbers in memory that a program reads: setting them compiles nothing anew."""

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self.suffix = suffix

    def __missing__(self, name: str) -> Variable:
        made = self[name] = Variable(np.float32(0), name + self.suffix)
        return made

    def set(self, name: str, value: float) -> None:
        scalar = self[name]
        if scalar.data != np.float32(value):  # what is prepared from a variable holds until it is set
            scalar.data = value

    def lifted(self) -> Lifted:
        return Lifted(self)


class Lifted:
    """Scalars as symbols of the recording in progress; one that is not asked for is no input of the program."""

    def __init__(self, scalars: Scalars) -> None:
        self.scalars = scalars

    def __getitem__(self, name: str) -> Symbol:
        return current().lift(self.scalars[name])


class Update:
    """What a training step needs of an optimiser, and what every one can do: follow schedules, be saved and loaded."""

    lr: float
    weight_decay: float
    parameters: list[Variable]

    def __init__(self, clip_norm: float | None = None, clip_value: float | None = None) -> None:
        self.steps = 0
        self.schedules: dict[str, Callable[[int], float]] = {}
        self.limits = Scalars("")
        self.clip_norm, self.clip_value = clip_norm, clip_value

    def __setattr__(self, name: str, value: Any) -> None:
        """Numbers are checked whenever they are set, by a schedule too."""
        if name in ("clip_norm", "clip_value") and value is not None:
            self.check(name, value, POSITIVE)
        super().__setattr__(name, value)

    def check(self, name: str, value: Any, allowed: Range) -> None:
        for number in value if isinstance(value, tuple | list) else (value,):
            if number not in allowed:
                raise ShapeError(f"{type(self).__name__}: {name} is {value}, it has to be {allowed}")

    def schedule(self, **schedules: Callable[[int], float]) -> None:
        """Let hyper-parameters follow functions of the step's number (from 0), e.g. lr=schedule.cosine(0.1, 1000)."""
        for name in schedules:
            if not isinstance(getattr(self, name, None), float):
                raise ShapeError(f"{type(self).__name__}: has no hyper-parameter {name!r} that a schedule could change")
        self.schedules |= schedules

    def begin(self) -> None:
        """Set the scalars for the next step."""
        for name, value in self.schedules.items():
            setattr(self, name, value(self.steps))
        self.steps += 1
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                self.limits.set(name, getattr(self, name))

    def undo(self) -> None:
        """The step that was begun did not take place."""
        self.steps -= 1

    def structure(self) -> tuple[Any, ...]:
        """What is compiled into a step's program, which is made anew where this changes."""
        return self.clip_norm is not None, self.clip_value is not None

    def clipped(self, gradients: Mapping[Variable, Any]) -> Mapping[Variable, Any]:
        """Every element within -clip_value .. clip_value, then all scaled so that their norm is at most clip_norm."""
        now = self.limits.lifted()
        if self.clip_value is not None:
            most = now["clip_value"]
            gradients = {p: ops.minimum(ops.maximum(g, -most), most) for p, g in gradients.items()}
        if self.clip_norm is not None and gradients:
            scale = now["clip_norm"] / (global_norm(gradients.values()) + NORM_EPS)
            scale = ops.minimum(scale, 1.0)
            gradients = {p: g * scale for p, g in gradients.items()}
        return gradients

    def assignments(self, gradients: Mapping[Variable, Any]) -> Assignments:
        """(variable, new value) of all parameters and states, traced: what a step's program writes."""
        raise NotImplementedError

    def wanted(self, gradients: Mapping[Variable, Any]) -> dict[Variable, Any]:
        """Those of what is optimised here; the model's other parameters, and frozen groups, are left as they are."""
        raise NotImplementedError

    def held(self) -> dict[str, Variable]:
        """The state of all parameters by a name that says which."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """The hyper-parameters that are numbers and the count of steps."""
        raise NotImplementedError

    def load_numbers(self, numbers: Mapping[str, float]) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Ndarray]:
        """Copies of all that decides how training goes on: arrays by name, which safetensors can store."""
        arrays = {name: np.array(value, np.float64) for name, value in self.numbers().items()}
        return arrays | {name: np.array(v.data, order="C") for name, v in self.held().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state_dict. Raises StateError that lists all that does not fit; then nothing is changed."""
        own, numbers = self.held(), self.numbers()
        shapes: dict[str, tuple[int, ...]] = {name: v.shape for name, v in own.items()}
        shapes |= dict.fromkeys(numbers, ())
        problems = [f"missing: {name}" for name in shapes if name not in state]
        problems += [f"unknown: {name}" for name in state if name not in shapes]
        problems += [
            f"{name}: the file has {list(np.shape(state[name]))}, the optimiser {list(shape)}"
            for name, shape in shapes.items()
            if name in state and np.shape(state[name]) != shape
        ]
        if problems:
            raise StateError(
                f"the stored state does not fit this {type(self).__name__}: {'; '.join(problems)}. Build the optimiser"
                " with the options and the parameters, in their order, that it was stored from"
            )
        self.load_numbers({name: float(state[name]) for name in numbers})
        for name, variable in own.items():
            variable.data = np.asarray(state[name])


class Common(TypedDict, total=False):
    """Options that every optimiser takes; see Optimizer."""

    weight_decay: float
    decoupled: bool
    l1: float
    clip_norm: float | None
    clip_value: float | None


class Optimizer(Update):
    """Holds the state of each parameter, and the numbers that change from step to step.

    A subclass names its state and writes `update(p, g, state, now, group) -> (new p, new state)` with operators.
    Numbers
    that change (the learning rate, corrections by step) are scalars in memory, which `values` computes before a step.

    parameters: Variables, or dicts {"params": ..., hyper-parameter: value} (see hyper.by_name and hyper.no_decay).
    lr: learning rate. weight_decay: lambda of L2, g <- g + lambda p; or if decoupled p <- p - lr lambda p beside the
    update
    (Loshchilov and Hutter 2019). l1: g <- g + l1 sign(p). clip_value: every element of the gradients is brought into
    -clip_value .. clip_value; clip_norm: then all gradients together are scaled so that their norm is at most this
    (Pascanu et al. 2013, algorithm 1).
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    ranges: ClassVar[dict[str, Range]] = {}  # hyper-parameters that are numbers in memory
    static: ClassVar[tuple[str, ...]] = ()  # hyper-parameters that are compiled in
    decays: ClassVar[bool] = True  # whether weight decay is added here; else `update` does it

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.ranges = {"weight_decay": DECAY, "l1": DECAY, **cls.ranges}
        cls.static = tuple(dict.fromkeys(("decoupled", *cls.static)))

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        l1: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(clip_norm, clip_value)
        self.lr, self.weight_decay, self.l1 = float(lr), float(weight_decay), float(l1)
        self.decoupled = decoupled
        self.groups = make_groups(self, parameters)
        self.group_of = {p: group for group in self.groups for p in group.parameters}
        self.parameters = list(self.group_of)
        self.scalars = [Scalars(f".{i}" if i else "") for i in range(len(self.groups))]
        self.state: dict[Variable, dict[str, Variable]] = {p: {} for p in self.parameters}
        self.complete_state()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "lr" or name in self.ranges:
            self.check(name, value, self.ranges.get(name, RATE))
        super().__setattr__(name, value)

    def states(self, group: Group) -> tuple[str, ...]:
        """The names of what is kept for each parameter of a group."""
        return self.state_names

    def start(self, name: str) -> float:
        """What a state is filled with before the first step."""
        return 0.0

    def complete_state(self) -> None:
        for i, p in enumerate(self.parameters):
            for name in self.states(self.group_of[p]):
                if name not in self.state[p]:
                    value = np.full(p.shape, self.start(name), np.float32)
                    self.state[p][name] = Variable(value, f"{p.name or i}.{name}")

    def values(self, step: int, group: Group) -> dict[str, float]:
        """The scalars of a group for the step of that number (from 1), in double precision."""
        return {"lr": group["lr"]}

    def begin(self) -> None:
        super().begin()
        for group, scalars in zip(self.groups, self.scalars, strict=True):
            for name, value in self.values(self.steps, group).items():
                scalars.set(name, value)
            for name in ("weight_decay", "l1"):
                if group[name]:
                    scalars.set(name, group[name])

    def structure(self) -> tuple[Any, ...]:
        return super().structure() + tuple(
            (group.frozen, bool(group["weight_decay"]), bool(group["l1"]), *(group[name] for name in self.static))
            for group in self.groups
        )

    def update(self, p: Any, g: Any, state: dict[str, Any], now: Lifted, group: Group) -> tuple[Any, dict[str, Any]]:
        """The new parameter and the new state, from the old ones and this step's scalars; all are traced."""
        raise NotImplementedError

    def assignments(self, gradients: Mapping[Variable, Any]) -> Assignments:
        self.complete_state()
        lift = current().lift
        now = {id(g): s.lifted() for g, s in zip(self.groups, self.scalars, strict=True)}
        found: Assignments = []
        for p, g in self.clipped(self.wanted(gradients)).items():
            group = self.group_of[p]
            old, scalars = lift(p), now[id(group)]
            state = {name: lift(self.state[p][name]) for name in self.states(group)}
            new, state = self.update(old, self.decayed(old, g, scalars, group), state, scalars, group)
            if self.decays and group["decoupled"] and group["weight_decay"]:
                new = new - old * (scalars["lr"] * scalars["weight_decay"])
            found.append((p, new))
            found.extend((self.state[p][name], value) for name, value in state.items())
        return found

    def wanted(self, gradients: Mapping[Variable, Any]) -> dict[Variable, Any]:
        return {p: g for p, g in gradients.items() if p in self.state and not self.group_of[p].frozen}

    def decayed(self, p: Any, g: Any, now: Lifted, group: Group) -> Any:
        """The gradient with that of the L2 and L1 penalties."""
        if self.decays and group["weight_decay"] and not group["decoupled"]:
            g = g + p * now["weight_decay"]
        if group["l1"]:
            g = g + (ops.greater(p, 0.0) - ops.greater(0.0, p)) * now["l1"]
        return g

    def held(self) -> dict[str, Variable]:
        return {
            f"{i}.{name}": variable for i, p in enumerate(self.parameters) for name, variable in self.state[p].items()
        }

    def numbers(self) -> dict[str, float]:
        found = {"steps": float(self.steps), "lr": self.lr}
        for name in self.ranges:
            found |= flat(name, getattr(self, name))
        for i, group in enumerate(self.groups):
            found[f"group.{i}.lr_factor"] = group.lr_factor
            for name in group.options:
                if name in self.ranges:
                    found |= flat(f"group.{i}.{name}", group.options[name])
        return found

    def load_numbers(self, numbers: Mapping[str, float]) -> None:
        self.steps, self.lr = int(numbers["steps"]), numbers["lr"]
        for name in self.ranges:
            setattr(self, name, unflat(name, getattr(self, name), numbers))
        for i, group in enumerate(self.groups):
            group["lr_factor"] = numbers[f"group.{i}.lr_factor"]
            for name in group.options:
                if name in self.ranges:
                    group[name] = unflat(f"group.{i}.{name}", group.options[name], numbers)


def global_norm(gradients: Iterable[Any]) -> Any:
    """The Euclidean norm of all gradients taken as one vector."""
    total: Any = 0.0
    for g in gradients:
        total = ops.sum(g * g) + total
    return ops.sqrt(total)


def flat(name: str, value: Any) -> dict[str, float]:
    """A number under its name, or the numbers of a pair under numbered ones."""
    if isinstance(value, tuple | list):
        return {f"{name}.{i}": float(v) for i, v in enumerate(value)}
    return {name: float(value)}


def unflat(name: str, like: Any, numbers: Mapping[str, float]) -> Any:
    if isinstance(like, tuple | list):
        return tuple(numbers[f"{name}.{i}"] for i in range(len(like)))
    return numbers[name]
