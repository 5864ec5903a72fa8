"""What a training step has to have alike on all ranks, beside its network: where it differs, ranks would wait for
messages that nobody sends, or train networks that are not the same.
"""

from collections.abc import Mapping
from typing import Any

from foveal.distributed.ranks import checksum
from foveal.strides import Ndarray
from foveal.variable import Variable


def rule_facts(optimizer: Any) -> dict[str, object]:
    """Return what an optimiser does with a gradient, by name: its class, its hyper-parameters and its state."""
    numbers: dict[str, float] = getattr(optimizer, "numbers", dict)()
    state: Mapping[str, Variable] = getattr(optimizer, "state_variables", dict)()
    found: dict[str, object] = {"the optimizer": type(optimizer).__name__}
    # As text, as NaN is not equal to itself.
    found |= {f"{name} of the optimizer": repr(value) for name, value in numbers.items()}
    structure = optimizer.structure()
    if plain(structure):
        found["what is compiled in of the optimizer"] = structure
    found["the state of the optimizer"] = checksum({name: v.data for name, v in state.items()})
    return found


def loss_facts(loss: object) -> dict[str, object]:
    """Return what a loss is, by name: its class or, of a function, its name; and its options and weights."""
    if not hasattr(loss, "__dict__") or hasattr(loss, "__qualname__"):
        return {"the loss": getattr(loss, "__qualname__", type(loss).__name__)}
    held = vars(loss)
    found: dict[str, object] = {"the loss": type(loss).__name__}
    found |= {f"{name} of the loss": value for name, value in held.items() if plain(value)}
    arrays: dict[str, Ndarray] = {name: value.data for name, value in held.items() if isinstance(value, Variable)}
    return found | {f"{name} of the loss": checksum({name: array}) for name, array in arrays.items()}


def plain(value: object) -> bool:
    """Return whether a value is equal on all ranks where it was made alike: numbers, texts, and tuples of them."""
    if isinstance(value, tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, bool | int | float | str)
