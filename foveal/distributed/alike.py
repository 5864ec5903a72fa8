"""What a training step has to have alike on all ranks, beside its network: where it differs, ranks would wait for
messages that nobody sends, or train networks that are not the same.
"""

from collections.abc import Mapping
from typing import Any

from foveal.distributed.found import Running
from foveal.distributed.ranks import Ranks, checksum
from foveal.strides import Ndarray
from foveal.variable import Variable


def check_alike(ranks: Ranks, step: Running, shards: int, compress: str | None, sync_batch_norm: bool) -> None:
    """Raise RankError, on all ranks, unless all have the same step: of its network, its loss and its optimiser.

    shards, compress, sync_batch_norm: what it was made with.
    """
    state: dict[str, Ndarray] = getattr(step.model, "state_dict", dict)()
    facts: dict[str, object] = {
        "the number of shards": shards,
        "compress": compress,
        "sync_batch_norm": sync_batch_norm,
        "the content of the network": checksum(state),
        "the seed": step.key[:2].tolist(),
        "the number of steps taken": step.steps,
    }
    way_out = "build the same network, from the same seed (nn.seed) or file, and the same step of it on all ranks"
    ranks.agree(facts | loss_facts(step.loss) | rule_facts(step.optimizer), way_out)


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
