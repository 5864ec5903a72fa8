"""The states of a network that a run has kept: where it started, its checkpoints, the model that it left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveal.errors import DataError, StateError
from foveal.nn import models
from foveal.strides import Ndarray
from foveal.train.callbacks import State
from foveal.train.checkpoint import METRICS, ModelDescription, load_run
from foveal.train.checkpoints import CHECKPOINTS, LAST, PREVIOUS, read_checkpoint
from foveal.train.run_file import read_facts, run_path
from foveal.train.state import to_text

# What the names of the network's arrays in a checkpoint begin with, and its entry that says how far the run was.
MODEL, PROGRESS = "model/", "run/progress"
# Of the states that are always called so.
START, TRAINED = "start", "trained"


@dataclass(frozen=True)
class KeptStates:
    """What `kept_states` returns."""

    #: By name, in the order of the training, each other than those before it: "start", "after epoch 3", "trained".
    states: dict[str, State]
    #: What the run does not hold, a sentence each.
    missing: tuple[str, ...]


def kept_states(run: str | Path) -> KeptStates:
    """Return the states of its network that a run holds, and what it does not hold.

        kept = train.kept_states("runs/fashion")
        explain.loss_path(net, images, labels, nn.CrossEntropyLoss(), kept.states)

    run: its folder. The starting values are not stored: they are drawn again from the seed, which gives the same bits,
    where the run has begun with random numbers and its network is one of `nn.models`. A run keeps its last checkpoint
    and the one before it; "trained" is the model that it left, of its best epoch, or an average, where it has such.
    Raises DataError where there is no run, StateError for a damaged one.
    """
    folder = Path(run)
    description, trained = load_run(folder)
    facts = read_facts(folder)
    missing: list[str] = []
    # (epoch, steps after it), then what is named.
    found: list[tuple[tuple[float, int], str, State]] = []
    if (why := unknown_start(description, facts["settings"])) is not None:
        missing.append(f"The starting values are not known: {why}.")
    else:
        found.append(((0, 0), START, starting_values(description, int(facts["settings"]["seed"]))))
    for name in (PREVIOUS, LAST):
        path = run_path(folder).parent / CHECKPOINTS / name
        try:
            if not path.is_file():
                missing.append(f"There is no checkpoint {path}.")
                continue
            found.append(of_checkpoint(read_checkpoint(path, facts["id"])))
        except (DataError, StateError) as error:
            missing.append(f"{error}.")
    found.append(((trained_epoch(folder), 0), TRAINED, trained))
    # Of equal ones the last in this order stays, so that a checkpoint of the trained model is "trained".
    states: dict[str, State] = {}
    for _, name, state in sorted(found, key=lambda one: (one[0], one[1] == TRAINED)):
        states = {known: other for known, other in states.items() if not equal(other, state)}
        states[name] = state
    return KeptStates(states, tuple(missing))


def unknown_start(description: ModelDescription, settings: Mapping[str, Any]) -> str | None:
    """Return why the starting values of a run cannot be drawn again; None if they can be."""
    if description.model is None:
        return "the network is one of your own, and only you know how its values were drawn"
    for name in ("weights", "pretrained"):
        # What is no text, such as a path, is not stored in run.json.
        if settings.get(name, "a file") is not None:
            return f"the run began with weights ({name}: {settings.get(name, 'a file')}) and not with random numbers"
    if not isinstance(settings.get("seed"), int):
        return "run.json has no seed"
    return None


def starting_values(description: ModelDescription, seed: int) -> State:
    """Return the values that a network of `nn.models` starts with."""
    assert description.model is not None
    size, classes = description.size, len(description.classes)
    net = models.build(description.model, channels=description.channels, size=size, classes=classes, seed=seed)
    return net.state_dict()


def of_checkpoint(state: Mapping[str, Ndarray]) -> tuple[tuple[float, int], str, State]:
    """Return where in the training a checkpoint is, its name, and the network's state. Raises StateError for none."""
    values = {name.removeprefix(MODEL): array for name, array in state.items() if name.startswith(MODEL)}
    try:
        progress = json.loads(to_text(state[PROGRESS]))
        epoch, taken = int(progress["epoch"]), int(progress["taken"])
    except (KeyError, TypeError, ValueError):
        raise StateError("a checkpoint does not say how far the training was") from None
    place = f"after epoch {epoch}" if taken == 0 else f"after step {taken} of epoch {epoch + 1}"
    return (epoch, taken), place, values


def trained_epoch(folder: Path) -> float:
    """Return the number of the epoch whose model a run has left; infinity where nothing says it."""
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        return float(metrics.get("best_epoch") or metrics["epochs_done"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return float("inf")


def equal(one: Mapping[str, Ndarray], other: Mapping[str, Ndarray]) -> bool:
    """Return True if two states hold the same values."""
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())
