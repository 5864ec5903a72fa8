"""The base classes of all optimisers. An update is written with operators and becomes part of the step's program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from foveal import ops
from foveal.arguments import checked
from foveal.errors import ShapeError, StateError
from foveal.kernel.sources import is_outside
from foveal.kinds import shown
from foveal.names import missing
from foveal.ops.op import Tensor
from foveal.optim import reads
from foveal.optim.hyper import DECAY, POSITIVE, RATE, ParameterGroup, Parameters, Range, make_groups
from foveal.optim.scalars import Scalars, TracedScalars, flat, unflat
from foveal.strides import Ndarray
from foveal.trace import current
from foveal.variable import Variable
from foveal.watch import note_write

# Added to the norm of all gradients, so that a norm of zero can be divided by; the value is PyTorch's.
NORM_EPS = 1e-6

# Hyper-parameters that every optimiser has; a step reads them where they are not 0.
PENALTIES = ("weight_decay", "l1")

Value = TypeVar("Value")

# What a step's program writes: (variable, its new value).
Assignments = list[tuple[Variable, Tensor]]

# The state of one parameter by name, such as "velocity", as it stands in a recording.
TracedState = dict[str, Tensor]


class CommonOptions(TypedDict, total=False):
    """Options that every optimiser takes; see Optimizer."""

    weight_decay: float
    decoupled: bool
    l1: float
    clip_norm: float | None
    clip_value: float | None


class UpdateRule:
    """Base of everything that updates parameters in a training step: optimisers, and what combines or wraps them.

    It follows schedules, clips gradients, and is saved and loaded. A subclass that is given a name, `class
    SGD(Optimizer, name="sgd")`, is registered: `optim.build` and `foveal train --optimizer` know it by this name. It
    needs a `default_lr`.
    """

    # Type checkers would take every attribute for one that exists.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            # Only what does not exist gets here.
            raise AttributeError(missing(type(self).__name__, name), name=name, obj=self)

    #: The registered subclasses by name.
    registry: ClassVar[dict[str, type[UpdateRule]]] = {}

    #: The learning rate of `foveal train` if none is given and this is not the recipe's optimiser. Good rates of
    #: optimisers differ by a factor of 10 and more: momentum 0.9 multiplies a step by 10, and the size of Adam's steps
    #: does not depend on the size of the gradient.
    default_lr: ClassVar[float]

    lr: float
    weight_decay: float
    #: None if the optimiser has no momentum.
    momentum: float | None = None
    parameters: list[Variable]

    def __init_subclass__(cls, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is None:
            return
        # A class of the user's may be defined again, as in a notebook cell.
        if name in cls.registry and not (is_outside(cls.registry[name].__module__) and is_outside(cls.__module__)):
            raise ValueError(f"two optimisers are called {name}, of which Foveal has one; give yours another name")
        if not hasattr(cls, "default_lr"):
            raise TypeError(f"optimiser {name}: class {cls.__name__} has no default_lr, its rate in `foveal train`")
        cls.registry[name] = cls

    @classmethod
    def build(cls, parameters: Parameters, **options: Any) -> UpdateRule:
        """Return the optimiser for all parameters of a network, with its options; `optim.build` calls it."""
        raise NotImplementedError

    def __init__(self, clip_norm: float | None = None, clip_value: float | None = None) -> None:
        self.steps = 0
        self.schedules: dict[str, Callable[[int], float]] = {}
        self.limits = Scalars("")
        self.clip_norm, self.clip_value = clip_norm, clip_value

    def __setattr__(self, name: str, value: object) -> None:
        """Check numbers whenever they are set, by a schedule too."""
        if name in ("clip_norm", "clip_value") and value is not None:
            self.check(name, value, POSITIVE)
        super().__setattr__(name, value)

    def __copy__(self) -> NoReturn:
        """Raise StateError: a copy whose parts are the original's would follow the original's numbers."""
        raise StateError(
            f"{type(self).__name__}: a shallow copy would share groups and state with the original; use copy.deepcopy,"
            " of the network and the optimiser, or the step, together"
        )

    def check(self, name: str, value: object, allowed: Range) -> None:
        """Raise ShapeError unless a number, or each of a tuple of numbers, lies in the range."""
        for number in value if isinstance(value, tuple | list) else (value,):
            if number not in allowed:
                raise ShapeError(f"{type(self).__name__}: {name} is {shown(value)}, it has to be {allowed}")

    @checked
    def schedule(self, **schedules: Callable[[int], float]) -> None:
        """Let hyper-parameters follow functions of the step's number (from 0), e.g. lr=schedule.cosine(0.1, 1000)."""
        for name in schedules:
            if not isinstance(getattr(self, name, None), float):
                raise ShapeError(f"{type(self).__name__}: has no hyper-parameter {name!r} that a schedule could change")
            if not callable(schedules[name]):
                raise ShapeError(
                    f"{type(self).__name__}: the schedule of {name} is {shown(schedules[name])}; give a function of the"
                    " step's number, such as optim.schedule.constant(0.1)"
                )
        self.schedules |= schedules

    def begin(self) -> None:
        """Set the scalars for the next step. Raises ShapeError if it cannot be taken; then no step is counted."""
        for name, value in self.schedules.items():
            reads.LOCAL.schedule = name
            try:
                setattr(self, name, value(self.steps))
            finally:
                reads.LOCAL.schedule = ""
        self.check_numbers()
        self.steps += 1
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                self.limits.set(name, getattr(self, name))

    def check_numbers(self) -> None:
        """Raise ShapeError for hyper-parameters that fit their ranges, but not each other."""

    def undo(self) -> None:
        """Take the last `begin` back: the step was not carried out. The next `begin` sets the schedules' values
        again.
        """
        self.steps -= 1

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model holds the average of its parameters, if this rule keeps one."""
        return nullcontext()

    def structure(self) -> tuple[object, ...]:
        """Return all that is compiled into a step's program; the program is compiled again when it changes."""
        return self.clip_norm is not None, self.clip_value is not None

    def clipped(self, gradients: Mapping[Variable, Tensor]) -> Mapping[Variable, Tensor]:
        """Clip every element to -clip_value .. clip_value, then scale all so that their norm is at most clip_norm."""
        now = self.limits.traced()
        if self.clip_value is not None:
            limit = now["clip_value"]
            gradients = {p: ops.minimum(ops.maximum(g, -limit), limit) for p, g in gradients.items()}
        if self.clip_norm is not None and gradients:
            norm = global_norm(gradients.values())
            # An infinite norm would scale all gradients to 0.
            current().require_finite("the norm of all gradients", norm)
            scale = now["clip_norm"] / (norm + NORM_EPS)
            scale = ops.minimum(scale, 1.0)
            gradients = {p: g * scale for p, g in gradients.items()}
        return gradients

    def assignments(self, gradients: Mapping[Variable, Tensor]) -> Assignments:
        """Return (variable, new value) for all parameters and states, traced: what a step's program writes.

        gradients: of the parameters that the loss reads. The others, and their states, have no new value.
        """
        raise NotImplementedError

    def own_gradients(self, gradients: Mapping[Variable, Value]) -> dict[Variable, Value]:
        """Return the gradients of the parameters that this rule updates: no frozen groups, no others of the model."""
        raise NotImplementedError

    def state_variables(self) -> dict[str, Variable]:
        """Return the state of all parameters, by names that hold the number of the parameter."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """Return the count of steps and all hyper-parameters that are numbers."""
        raise NotImplementedError

    def load_numbers(self, numbers: Mapping[str, float]) -> None:
        """Set what `numbers` returned."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Ndarray]:
        """Return copies of all that decides how training goes on: arrays by name, which safetensors can store."""
        arrays = {name: np.array(value, np.float64) for name, value in self.numbers().items()}
        return arrays | {name: np.array(v.data, order="C") for name, v in self.state_variables().items()}

    @checked
    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on from a state_dict. Raises StateError that lists all that does not fit; then nothing is changed."""
        variables, numbers = self.state_variables(), self.numbers()
        shapes: dict[str, tuple[int, ...]] = {name: v.shape for name, v in variables.items()}
        shapes |= dict.fromkeys(numbers, ())
        problems = [f"missing: {name}" for name in shapes if name not in state]
        problems += [f"unknown: {name}" for name in state if name not in shapes]
        problems += [
            f"{name}: the file has {list(np.shape(state[name]))}, the optimiser {list(shape)}"
            for name, shape in shapes.items()
            if name in state and np.shape(state[name]) != shape
        ]
        # Everything is checked before anything is set, so that a state that does not fit leaves the optimiser whole.
        if problems:
            raise StateError(
                f"the stored state does not fit this {type(self).__name__}: {'; '.join(problems)}. Build the optimiser"
                " with the options and the parameters, in their order, that it was stored from"
            )
        self.load_numbers({name: float(np.asarray(state[name])) for name in numbers})
        for name, variable in variables.items():
            variable.data = np.asarray(state[name])


class Optimizer(UpdateRule):
    """Base of optimisers that treat each parameter on its own; holds the state of each, and the hyper-parameters.

    One of your own names its state and writes `update`, with operators, for one parameter:

        class HeavyBall(optim.Optimizer):
            state_names = ("velocity",)
            ranges = {"momentum": optim.Range(0.0, 1.0)}

            def __init__(self, parameters, lr=0.1, momentum=0.9, **common):
                self.momentum = momentum
                super().__init__(parameters, lr, **common)

            def update(self, p, g, state, now, group):
                v = now["momentum"] * state["velocity"] + g
                return p - now["lr"] * v, {"velocity": v}

        optimizer = HeavyBall(net.parameters(), lr=0.05, weight_decay=1e-4)
        optimizer.schedule(lr=schedule.cosine(0.05, 1000))

    now holds the numbers of this step, in memory that the compiled step reads: the rate and all of `ranges` (of a tuple
    now["betas.0"], now["betas.1"]), with the group's own values and rate factor; or what a `values(self, step, group)`
    of the class returns, such as corrections by step. A schedule changes them without compiling anew. self.momentum in
    `update` would be a number that is compiled in, which a schedule does not reach: that is an error which says so.
    What decides about the update (`if self.nesterov:`) may be read there, and is followed when it changes.

    parameters: Variables, or dicts {"params": ..., hyper-parameter: value} (see hyper.by_name and hyper.no_decay).
    lr: learning rate. weight_decay: lambda of L2, g <- g + lambda p; or if decoupled p <- p - lr lambda p beside the
    update (Loshchilov and Hutter 2019). Where it takes the share lr lambda of a parameter away, in SGD and wherever it
    is decoupled, a step raises ShapeError if that is more than 1. l1: g <- g + l1 sign(p). clip_value: every element of
    the gradients is clipped to -clip_value .. clip_value; clip_norm: then all gradients together are scaled so that
    their norm is at most this (Pascanu et al. 2013, algorithm 1).
    """

    #: Names of the state arrays of each parameter, which have its shape.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: Hyper-parameters that are numbers in memory, and what they may be.
    ranges: dict[str, Range] = {}
    #: Hyper-parameters that are compiled in.
    static: tuple[str, ...] = ()
    #: What those of them that are numbers may be.
    fixed_ranges: Mapping[str, Range] = {}
    #: True if weight decay is added here, False if `update` does it.
    decays: ClassVar[bool] = True

    def __init_subclass__(cls, name: str | None = None) -> None:
        super().__init_subclass__(name)
        cls.ranges = {"weight_decay": DECAY, "l1": DECAY, **cls.ranges}
        cls.static = tuple(dict.fromkeys(("decoupled", *cls.static)))

    @classmethod
    def build(cls, parameters: Parameters, **options: Any) -> UpdateRule:
        return cls(parameters, **options)

    def __init__(
        self,
        parameters: Parameters,
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
        # the hyper-parameters that a user's `update` reads as numbers of Python
        self.compiled_in: set[str] = set()
        # those that it looks at, and the numbers that neither it nor `values` reads
        self.looked_at: set[str] = set()
        self.unread: set[str] = set()
        self.groups = make_groups(self, parameters)
        self.group_of = {p: group for group in self.groups for p in group.parameters}
        self.parameters = list(self.group_of)
        self.scalars = [Scalars(f".{i}" if i else "") for i in range(len(self.groups))]
        self.state: dict[Variable, dict[str, Variable]] = {p: {} for p in self.parameters}
        self.complete_state()

    def __setattr__(self, name: str, value: object) -> None:
        allowed = RATE if name == "lr" else self.ranges.get(name) or self.fixed_ranges.get(name)
        if allowed is not None:
            self.check(name, value, allowed)
        if name in self.__dict__.get("compiled_in", ()):
            if reads.LOCAL.schedule:
                reads.ignored(self, name, f"self.{name}")
            note_write(self, name)
        super().__setattr__(name, value)

    @checked
    def schedule(self, **schedules: Callable[[int], float]) -> None:
        """Let hyper-parameters follow functions of the step's number (from 0), e.g. lr=schedule.cosine(0.1, 1000).

        Raises ShapeError for what is no number of this optimiser, or one that its update does not read.
        """
        reads.check_read(self, schedules)
        super().schedule(**schedules)

    def states(self, group: ParameterGroup) -> tuple[str, ...]:
        """Return the names of the state arrays of each parameter of a group."""
        return self.state_names

    def initial_value(self, name: str) -> float:
        """Return the number that a state is filled with before the first step."""
        return 0.0

    def complete_state(self) -> None:
        """Make the state variables that are missing; a changed hyper-parameter may need more of them."""
        for i, p in enumerate(self.parameters):
            for name in self.states(self.group_of[p]):
                if name not in self.state[p]:
                    value = np.full(p.shape, self.initial_value(name), np.float32)
                    self.state[p][name] = Variable(value, f"{p.name or i}.{name}")

    def takes_share(self, group: ParameterGroup) -> bool:
        """True where a step takes the share lr lambda of each parameter away, as decoupled weight decay does."""
        return bool(group["decoupled"])

    def check_numbers(self) -> None:
        for i, group in enumerate(self.groups):
            lr, decay = group["lr"], group["weight_decay"]
            place = f"{type(self).__name__}: " + (f"group {i} has " if len(self.groups) > 1 else "")
            # Rates of groups are products, which no range was asked for.
            if lr not in RATE:
                raise ShapeError(f"{place}lr {lr:g}, it has to be {RATE}; set a smaller lr or lr_factor")
            # Beyond 2 the parameters would grow in every step, without end, however small the gradients are.
            if lr * decay > 1 and self.takes_share(group):
                raise ShapeError(
                    f"{place}lr {lr:g} and weight_decay {decay:g}: a step takes the share lr times weight_decay of each"
                    f" parameter away, {lr * decay:g}, which has to be at most 1; set a smaller lr or weight_decay"
                )

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        """Return the scalars of a group for the step of that number (from 1), in double precision: now[name] in update.

        Unless overridden the rate and all of `ranges`; the numbers of a tuple are name.0, name.1 and so on.
        """
        values = {"lr": float(group["lr"])}
        for name in self.ranges:
            if name not in PENALTIES:
                values |= flat(name, group[name])
        return values

    def begin(self) -> None:
        super().begin()
        try:
            for group, scalars in zip(self.groups, self.scalars, strict=True):
                for name, value in self.values(self.steps, group).items():
                    scalars.set(name, value)
                for name in PENALTIES:
                    if group[name] or name in scalars:
                        scalars.set(name, group[name])
        except BaseException:
            # an error in `values`, an interruption
            self.undo()
            raise

    def structure(self) -> tuple[object, ...]:
        return super().structure() + tuple(
            (group.frozen, bool(group["weight_decay"]), bool(group["l1"]), *(group[name] for name in self.static))
            for group in self.groups
        )

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        """Return the new parameter and its new state.

        p: the parameter. g: its gradient, of the same shape. state: the arrays of `states(group)`, of the same shape.
        now: the scalars of `values` in this step. All are traced.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update: define update(self, p, g, state, now, group)")

    def assignments(self, gradients: Mapping[Variable, Tensor]) -> Assignments:
        self.complete_state()
        lift = current().lift
        traced = {id(g): self.now(g, s) for g, s in zip(self.groups, self.scalars, strict=True)}
        assignments: Assignments = []
        for p, g in self.clipped(self.own_gradients(gradients)).items():
            group = self.group_of[p]
            old, now = lift(p), traced[id(group)]
            state: TracedState = {name: lift(self.state[p][name]) for name in self.states(group)}
            rule, seen = reads.spy_on(self, group, "update")
            updated = rule.update(old, self.decayed(old, g, now, group), state, now, seen)
            new, state = self.checked_update(updated, p, state)
            # Decoupled weight decay subtracts a share of the parameter's old value, apart from the update.
            if self.decays and group["decoupled"] and group["weight_decay"]:
                new = new - old * (now["lr"] * now["weight_decay"])
            assignments.append((p, new))
            assignments.extend((self.state[p][name], value) for name, value in state.items())
        if assignments and not reads.of_package(self):
            reads.note_unread(self, set().union(*(now.read for now in traced.values())))
        return assignments

    def now(self, group: ParameterGroup, scalars: Scalars) -> TracedScalars:
        """Return the scalars of a group as `update` reads them."""
        rule, seen = reads.spy_on(self, group, "values")
        # as `begin` uses them, so that what they are read from is noted
        values = {name: float(value) for name, value in rule.values(self.steps + 1, seen).items()}
        return scalars.traced({*values, *PENALTIES}, type(self).__name__)

    def checked_update(self, updated: object, p: Variable, state: TracedState) -> tuple[Tensor, TracedState]:
        """Return what `update` returned. Raises ShapeError unless it is a new parameter and its new state."""
        kind = type(self).__name__
        if not (isinstance(updated, tuple) and len(updated) == 2 and isinstance(updated[1], Mapping)):
            raise ShapeError(
                f"{kind}: update returned {shown(updated)}; it has to return the new parameter and a dict of its new"
                f" state, such as (p - now['lr'] * g, {{}})"
            )
        new, after = updated
        if unknown := [name for name in after if name not in state]:
            raise ShapeError(
                f"{kind}: update returned the state {unknown[0]!r}, which is none of its states"
                f" ({', '.join(state) or 'there are none'}); list it in state_names"
            )
        for name, value in {"new parameter": new, **after}.items():
            if not isinstance(value, Tensor) or value.shape != p.shape:
                raise ShapeError(
                    f"{kind}: update returned {shown(value)} as the {name} of {p.name or 'a parameter'}; it has to be"
                    f" computed by operators, of shape {list(p.shape)}"
                )
        return new, dict(after)

    def own_gradients(self, gradients: Mapping[Variable, Value]) -> dict[Variable, Value]:
        return {p: g for p, g in gradients.items() if p in self.state and not self.group_of[p].frozen}

    def decayed(self, p: Tensor, g: Tensor, now: TracedScalars, group: ParameterGroup) -> Tensor:
        """Return the gradient with that of the L2 and L1 penalties added."""
        if self.decays and group["weight_decay"] and not group["decoupled"]:
            g = g + p * now["weight_decay"]
        if group["l1"]:
            g = g + (ops.greater(p, 0.0) - ops.greater(0.0, p)) * now["l1"]
        return g

    def state_variables(self) -> dict[str, Variable]:
        return {
            f"{i}.{name}": variable for i, p in enumerate(self.parameters) for name, variable in self.state[p].items()
        }

    def numbers(self) -> dict[str, float]:
        numbers = {"steps": float(self.steps), "lr": self.lr}
        for name in self.ranges:
            numbers |= flat(name, getattr(self, name))
        for i, group in enumerate(self.groups):
            numbers[f"group.{i}.lr_factor"] = group.lr_factor
            for name in group.options:
                if name in self.ranges:
                    numbers |= flat(f"group.{i}.{name}", group.options[name])
        return numbers

    def load_numbers(self, numbers: Mapping[str, float]) -> None:
        self.steps, self.lr = int(numbers["steps"]), numbers["lr"]
        for name in self.ranges:
            setattr(self, name, unflat(name, getattr(self, name), numbers))
        for i, group in enumerate(self.groups):
            group["lr_factor"] = numbers[f"group.{i}.lr_factor"]
            for name in group.options:
                if name in self.ranges:
                    group[name] = unflat(f"group.{i}.{name}", group.options[name], numbers)


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients taken as one vector."""
    total: Tensor | float = 0.0
    for g in gradients:
        total = ops.sum(g * g) + total
    return ops.sqrt(total)
