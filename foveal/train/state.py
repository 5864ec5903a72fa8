"""All that decides how a training goes on, as arrays by name: saved and loaded, it goes on to the same bits.

    foveal.train.Training(step, loader=loader).save("training.safetensors")

and later, in a process that has built the same model, optimiser, schedules, step and loader,

    foveal.train.Training(step, loader=loader).load("training.safetensors")

`examples/resume.py` is a whole program. Names are "part/name"; a part is an object with a state of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from foveal.arguments import checked
from foveal.data.loader import Loader
from foveal.data.transforms.mixing import Mixing
from foveal.data.transforms.transform import Transform
from foveal.errors import StateError
from foveal.files import write_whole
from foveal.nn import init
from foveal.nn.models.weights import read_file
from foveal.nn.module import Module
from foveal.optim.combined import Combined, Wrapper
from foveal.optim.optimizer import Optimizer, UpdateRule
from foveal.step import Step
from foveal.strides import Ndarray
from foveal.train.files import writing

# Of the names and what they hold; another number is refused.
VERSION = 1
# Letters of one value in a message at most: the parameters of a network are many.
MOST_SHOWN = 200

State = dict[str, Ndarray]


class Part(Protocol):
    """What a training consists of. Loading raises an error that names what does not fit."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: Mapping[str, Ndarray], /) -> object: ...


class Training:
    """All that a training consists of, to be stored and gone on with, in a loop of one's own.

        training = foveal.train.Training(step, loader=loader)
        if path.exists():
            training.load(path)
        for x, y in training.batches(epochs=10):
            step(x, y)
            if time_is_up():
                training.save(path)
                break

    What goes on from a state has the bits of what was never stopped. `foveal.train.train` has the callback SaveState
    and the option `resume` for the same.

    step: of compile_step. loader: its order follows from its seed and the number of steps, so that it is compared, and
    nothing of it is stored but the number of the epoch that its next `for` walks through. generators: the caller's
    own, by name, such as those of augmentations. parts: objects with `state_dict()` and `load_state_dict(state)`,
    arrays by name, that belong to the training.

    Raises StateError for a model without a state.
    """

    def __init__(
        self,
        step: Step,
        *,
        loader: Loader | None = None,
        generators: Mapping[str, Generator] | None = None,
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        self.step, self.loader = step, loader
        self.generators, self.parts = dict(generators or {}), dict(parts or {})
        for kind, names in (("generator", self.generators), ("part", self.parts)):
            if wrong := [name for name in names if "/" in name]:
                raise StateError(
                    f"the {kind} {wrong[0]!r} has a / in its name, which ends the names of parts; give another"
                )
        self.all()

    def all(self) -> dict[str, Part]:
        """Return all parts by name, in the order in which they are loaded."""
        found = parts(self.step, self.loader, self.generators)
        if twice := sorted(found.keys() & self.parts.keys()):
            raise StateError(f"a part is called {twice[0]}, as one that every training has; give another name")
        return found | self.parts

    def state_dict(self) -> State:
        """Return copies of all that decides how the training goes on, as arrays that safetensors can store.

        Raises StateError while the model holds the averages of its parameters.
        """
        state = {"version": np.array(VERSION, np.int64)}
        for name, part in self.all().items():
            state |= {f"{name}/{key}": array for key, array in part.state_dict().items()}
        return state

    @checked
    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on from a `state_dict`. Raises StateError that names what does not fit; then nothing is changed.

        Model, optimiser, schedules and loader have to be built as they were.
        """
        load(self.all(), state)

    @checked
    def save(self, path: str | Path) -> None:
        """Write the state into a file of safetensors, whole at any moment. Raises DataError if it cannot be."""
        from safetensors.numpy import save

        with writing(Path(path)):
            write_whole(Path(path), save(self.state_dict()))

    @checked
    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote. Raises DataError and StateError; then nothing is changed."""
        self.load_state_dict(read_file(Path(path))[1])

    @checked
    def batches(self, epochs: int) -> Iterator[tuple[Any, Any]]:
        """Yield the batches that are left of so many epochs, from where the training is, in the middle of one too."""
        if self.loader is None:
            raise StateError("Training.batches: there is no loader; give one, Training(step, loader=loader)")
        first, taken = divmod(self.step.steps, len(self.loader))
        for epoch in range(first, epochs):
            yield from islice(self.loader.epoch(epoch, fill=False), taken if epoch == first else 0, None)


def state_dict(step: Step, *, loader: Loader | None = None, generators: Mapping[str, Generator] | None = None) -> State:
    """Return copies of all that decides how the training goes on, as arrays that safetensors can store.

    That is: parameters, running statistics, modes and frozen parameters of the model, and of a loss with a state; the
    optimiser with its averages, its hyper-parameters and its schedules; the seed and the number of steps, which random
    layers draw from; the gradients of a window that is not full; and the generator of starting values (`nn.seed`).

    loader, generators: as in Training, whose state_dict() this is.

    Raises StateError while the model holds the averages of its parameters, and for a model without a state.
    """
    return Training(step, loader=loader, generators=generators).state_dict()


def load_state_dict(
    step: Step,
    state: Mapping[str, ArrayLike],
    *,
    loader: Loader | None = None,
    generators: Mapping[str, Generator] | None = None,
) -> None:
    """Go on from a `state_dict`, to the bits of a training that was never stopped.

    Model, optimiser, schedules and loader have to be built as they were. Raises StateError that names what does not
    fit; then nothing is changed.
    """
    Training(step, loader=loader, generators=generators).load_state_dict(state)


def load(own: dict[str, Part], state: Mapping[str, ArrayLike]) -> None:
    """Load a state into the parts of a training; if one does not fit, none is changed."""
    arrays = {name: np.asarray(array) for name, array in state.items()}
    version = arrays.pop("version", None)
    if version is None or version.shape != () or version != VERSION:
        found = "no version" if version is None else f"version {version}"
        raise StateError(
            f"the state of a training has {found}, this Foveal reads {VERSION}: store it with train.state_dict"
        )
    stored: dict[str, State] = {}
    for name, array in arrays.items():
        prefix, _, key = name.partition("/")
        stored.setdefault(prefix, {})[key] = array
    # A part whose state is empty leaves no name.
    before = {name: part.state_dict() for name, part in own.items()}
    needed = {name for name, values in before.items() if values}
    problems = [f"it lacks {name}" for name in sorted(needed - stored.keys())]
    problems += [f"it has {name}, which there is none of here" for name in sorted(stored.keys() - needed)]
    # A model would take a state without counters, as states of PyTorch may be; what is stored here has all.
    problems += [
        f"it lacks {name}/{key}"
        for name in ("model", "loss")
        for key in sorted(before.get(name, {}).keys() - stored.get(name, {}).keys())
        if name in stored
    ]
    if problems:
        raise StateError(
            f"the stored training does not fit: {'; '.join(problems)}. Build the model, the optimiser and its schedules"
            " as they were, and give the loader and the generators that were stored"
        )
    try:
        for name, part in own.items():
            _load(name, part, stored.get(name, {}))
    except BaseException:
        for name, part in own.items():
            if not isinstance(part, Comparison):
                part.load_state_dict(before[name])
        raise


def _load(name: str, part: Part, state: State) -> None:
    """Load the state of one part; any error becomes a StateError that names the part."""
    try:
        part.load_state_dict(state)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise StateError(f"the stored training does not fit: {name}: {reason}. Nothing was changed") from None


def parts(step: Step, loader: Loader | None, generators: Mapping[str, Generator] | None) -> dict[str, Part]:
    """Return the parts of a training by name, in the order in which they are loaded."""
    model, optimizer = step.model, step.optimizer
    if not isinstance(model, Module) or not isinstance(optimizer, UpdateRule):
        raise StateError(
            f"the step trains {type(model).__name__} with {type(optimizer).__name__}; the state of a training needs an"
            " nn.Module and an optimiser of foveal.optim"
        )
    found: dict[str, Part] = {"options": Options(step), "step": step, "model": model, "modes": Modes(model, step.loss)}
    if isinstance(step.loss, Module) and step.loss.state_dict():
        found["loss"] = step.loss
    found["optimizer"] = optimizer
    # Schedules that react to a metric have a state of their own; of the others the value is compared.
    schedules = dict(schedules_of(optimizer))
    for name, (_, schedule) in schedules.items():
        if hasattr(schedule, "state_dict") and hasattr(schedule, "load_state_dict"):
            found[f"schedule.{name}"] = Numbers(schedule)
    if schedules:
        found["schedules"] = Schedules(optimizer)
    found["generator"] = RandomState(None)
    for name, generator in (generators or {}).items():
        found[f"generators.{name}"] = RandomState(generator)
    if loader is not None:
        found["loader"] = LoaderOptions(loader)
        found["position"] = Position(loader)
    return found


def _rules(rule: UpdateRule, prefix: str = "") -> Iterator[tuple[str, UpdateRule]]:
    """Yield an optimiser, and those that it combines or wraps, with what their names begin with."""
    yield prefix, rule
    if isinstance(rule, Combined):
        for i, part in enumerate(rule.parts):
            yield from _rules(part, f"{prefix}{i}.")


def schedules_of(optimizer: UpdateRule) -> Iterator[tuple[str, tuple[UpdateRule, Any]]]:
    """Yield the name of each schedule, such as "lr", with the optimiser that follows it, and the schedule."""
    for prefix, rule in _rules(optimizer):
        for name, schedule in rule.schedules.items():
            yield prefix + name, (rule, schedule)


class Comparison:
    """A part that is built and not loaded: what it is now is compared with what was stored."""

    def values(self) -> dict[str, Any]:
        """Return what is compared, ready for JSON."""
        raise NotImplementedError

    def state_dict(self) -> State:
        return {"values": from_text(json.dumps(self.values()))}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        stored, own = json.loads(to_text(state["values"])), json.loads(json.dumps(self.values()))
        # As text, since NaN differs from itself.
        texts = {name: (json.dumps(stored.get(name)), json.dumps(own.get(name))) for name in {**own, **stored}}
        different = {name: pair for name, pair in texts.items() if pair[0] != pair[1]}
        # Of another optimiser all else is different, too.
        kinds = {name: pair for name, pair in different.items() if name.rpartition(".")[2] == "kind"}
        if different:
            named = (kinds or different).items()
            raise StateError("; ".join(f"{name} was {brief(was)} and is {brief(now)}" for name, (was, now) in named))


def brief(text: str) -> str:
    """Return a text, or as much of its beginning as a message may hold of one value."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


class Options(Comparison):
    """The layers and the loss as they are printed; the optimisers, and their options that are not loaded."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def values(self) -> dict[str, Any]:
        assert isinstance(self.step.model, Module)
        assert isinstance(self.step.optimizer, UpdateRule)
        loss = self.step.loss
        values: dict[str, Any] = {
            f"layer {name}" if name else "model": f"{type(module).__name__}({module.describe()})"
            for name, module in self.step.model.named_modules(remove_duplicate=False)
        }
        values["loss"] = repr(loss) if isinstance(loss, Module) else getattr(loss, "__qualname__", type(loss).__name__)
        for prefix, rule in _rules(self.step.optimizer):
            if isinstance(rule, Wrapper) and rule.swapped:
                raise StateError(
                    f"{type(rule).__name__}: the model holds the averages now; take the state after the block `with"
                    " averaged()`"
                )
            values[f"{prefix}kind"] = type(rule).__name__
            values[f"{prefix}parameters"] = [p.name for p in rule.parameters]
            values[f"{prefix}schedules"] = sorted(rule.schedules)
            # What the optimiser's own state holds is loaded, and not compared.
            loaded = {"steps", "lr", *getattr(rule, "ranges", {}), *rule.schedules}
            for name, value in vars(rule).items():
                if name not in loaded and name[0] != "_" and plain(value):
                    values[prefix + name] = value
            for i, group in enumerate(rule.groups if isinstance(rule, Optimizer) else []):
                values[f"{prefix}group.{i}.frozen"] = group.frozen
                static = {name: value for name, value in group.options.items() if name not in loaded}
                values |= {f"{prefix}group.{i}.{name}": value for name, value in static.items() if plain(value)}
        return values


class Schedules(Comparison):
    """The value that each schedule had in the last step: another schedule has another one."""

    def __init__(self, optimizer: UpdateRule) -> None:
        self.optimizer = optimizer

    def values(self) -> dict[str, Any]:
        # A schedule need not go on beyond the last step of a training.
        return {
            name: float(schedule(max(0, rule.steps - 1))) for name, (rule, schedule) in schedules_of(self.optimizer)
        }


class LoaderOptions(Comparison):
    """What decides the order of the images and their augmentation."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def values(self) -> dict[str, Any]:
        names = ("batch_size", "seed", "shuffle", "drop_last")
        own = {name: getattr(self.loader, name) for name in names}
        own |= {"images": self.loader.count, "augmented": self.loader.augment is not None}
        # Functions cannot be compared; transforms and mixtures say what they are.
        changes = [*(self.loader.augment.parts if self.loader.augment is not None else []), self.loader.mix]
        told = [repr(change) for change in changes if isinstance(change, Transform | Mixing)]
        return {**own, "transforms": told} if told else own


class Position:
    """The number of the epoch that the next `for` over a loader walks through."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def state_dict(self) -> State:
        return {"epoch": np.array(self.loader.next_epoch, np.int64)}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        check_shapes(self.state_dict(), state)
        self.loader.set_epoch(int(state["epoch"]))


class Modes:
    """Of each module its mode and the number of its calls, which random layers draw from; which parameters train."""

    def __init__(self, *owners: object) -> None:
        """owners: the model and the loss, which may be a module too."""
        models = [owner for owner in owners if isinstance(owner, Module)]
        self.modules = [module for model in models for _, module in model.named_modules(remove_duplicate=False)]
        self.parameters = [parameter for model in models for parameter in model.parameters()]

    def state_dict(self) -> State:
        return {
            "training": np.array([module.training for module in self.modules], np.uint8),
            "calls": np.array([module.__dict__.get("_calls", 0) for module in self.modules], np.int64),
            "trainable": np.array([p.trainable for p in self.parameters], np.uint8),
        }

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        check_shapes(self.state_dict(), state)
        for module, training, calls in zip(self.modules, state["training"], state["calls"], strict=True):
            if module.training != bool(training):
                module.training = bool(training)
            if calls or "_calls" in module.__dict__:
                module.__dict__["_calls"] = int(calls)
        for parameter, trainable in zip(self.parameters, state["trainable"], strict=True):
            if parameter.trainable != bool(trainable):
                parameter.trainable = bool(trainable)


class Numbers:
    """A schedule that keeps numbers, such as one that follows a metric."""

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def state_dict(self) -> State:
        return {name: np.array(value, np.float64) for name, value in self.schedule.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        check_shapes(self.state_dict(), state)
        self.schedule.load_state_dict({name: float(array) for name, array in state.items()})


class RandomState:
    """The state of a NumPy generator; None stands for that of starting values, which `nn.seed` replaces."""

    def __init__(self, generator: Generator | None) -> None:
        self.generator = generator

    def state_dict(self) -> State:
        state = (self.generator or init.SOURCE.generator).bit_generator.state
        return {"state": from_text(json.dumps(state, default=lambda array: array.tolist()))}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        (self.generator or init.SOURCE.generator).bit_generator.state = json.loads(to_text(state["state"]))


def check_shapes(own: State, stored: Mapping[str, Ndarray]) -> None:
    """Raise StateError unless both have the same names and shapes."""
    shapes = [{name: list(array.shape) for name, array in state.items()} for state in (own, stored)]
    if shapes[0] != shapes[1]:
        raise StateError(f"it has arrays {shapes[1]}, here they are {shapes[0]}")


def plain(value: object) -> bool:
    """True for what JSON holds as it is: numbers, text, and lists of them."""
    if isinstance(value, tuple | list):
        return all(plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def from_text(text: str) -> Ndarray:
    """Return the bytes of a text as an array, uint8 [n]."""
    return np.frombuffer(text.encode(), np.uint8).copy()


def to_text(array: Ndarray) -> str:
    """Return the text of `from_text`. Raises StateError for an array that is none."""
    if array.dtype != np.uint8:
        raise StateError(f"an array of {array.dtype} is no text")
    return array.tobytes().decode()
