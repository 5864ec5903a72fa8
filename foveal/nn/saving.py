"""Networks in files: weights as safetensors, and how the network is built in the metadata. Nothing is pickled."""

import json
from collections.abc import Sequence
from os.path import isdir
from pathlib import Path
from typing import Any, NoReturn

from foveal.errors import DataError, ShapeError, StateError
from foveal.files import write_whole
from foveal.nn.architecture import Json, build, describe
from foveal.nn.init import without_values
from foveal.nn.module import Module
from foveal.nn.recorded import CALLS
from foveal.nn.stored import State, read_file

# The only metadata entry, since safetensors writes several in an order that varies.
KEY = "foveal"
# The field of that entry which holds a network: its description, modes, and frozen parameters.
NETWORK = "network"


def network_entry(net: Module) -> dict[str, Json]:
    """Return the description of a network with what training depends on beside the weights.

    Raises StateError that names what cannot be described.
    """
    modules = list(net.named_modules())
    return {
        "description": describe(net),
        # True for training mode; and the modules in the other mode than the network itself
        "training": net.training,
        "other_mode": [name for name, module in modules if module.training != net.training],
        "frozen": [name for name, parameter in net.named_parameters() if not parameter.trainable],
    }


def entry_or_problem(net: Module) -> dict[str, Json]:
    """Return the entry of a network that is trained; one that cannot be described says why, to whoever loads it."""
    try:
        return network_entry(net)
    except StateError as error:
        return {"problem": str(error)}


def save(net: Module, path: str | Path) -> None:
    """Write a network to a file; see Module.save."""
    from safetensors.numpy import save as as_bytes

    replacing = [name or type(net).__name__ for name, m in net.named_modules() if any(h.replaces for h in m._hooks)]
    if replacing:
        raise StateError(
            f"a hook of {replacing[0]} replaces what the layer computes, and no file holds functions; remove it with"
            " handle.remove(), or write it into forward"
        )
    entry = json.dumps({NETWORK: network_entry(net)}, allow_nan=False)
    # safetensors stores arrays in another order than C's wrongly, without an error; state_dict gives C's.
    content = as_bytes(net.state_dict(), metadata={KEY: entry})
    try:
        write_whole(Path(path), content)
    # A name that no file can have is a ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be written: {reason}; choose another path") from None


CALLS["save"] = save


def load(path: str | Path, net: Module | None = None, *, cls: type | Sequence[type] = ()) -> Module:
    """Return the network that `net.save(path)` has written, as it was: weights, buffers, modes, frozen parameters.

    `foveal.load` (train/classifier.py) is this for all files but those of training runs, and explains the rest.
    """
    place = model_file(path)
    texts, state = read_file(place)
    try:
        entry = entry_of(place, texts.get(KEY))
    except StateError:
        if net is None:
            raise
        # Weights alone fit a network that is built already.
        entry = {}
    classes = [cls] if isinstance(cls, type) else list(cls)
    try:
        made = built(entry, state, classes) if net is None else net
        made.load_state_dict(state)
        set_modes(made, entry)
    except (StateError, ShapeError) as error:
        raise StateError(f"{place}: {error}") from None
    return made


def model_file(path: str | Path) -> Path:
    """Return the path of a model file: of a folder, that of the training run in it."""
    place = Path(path)
    return place / "model.safetensors" if isdir(place) else place


def entry_of(path: Path, text: str | None) -> dict[str, Json]:
    """Return what a file says about its network. Raises StateError where that is nothing, or damaged."""
    if text is None:
        raise StateError(
            f"{path}: holds weights and not how their network is built; build it, and load them with"
            " foveal.load(path, net), or for models of foveal.nn.models with nn.models.load"
        )
    try:
        found = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path}: its description of the network is damaged ({error}); fetch the file again") from None
    entry = found.get(NETWORK) if isinstance(found, dict) else None
    if not isinstance(entry, dict):
        raise StateError(f"{path}: does not say how its network is built; build it: foveal.load(path, net)")
    if isinstance(entry.get("problem"), str):
        raise StateError(
            f"{path}: its network could not be described when it was written: {entry['problem']}; build it, and load"
            " the weights with foveal.load(path, net)"
        )
    return entry


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON")


def built(entry: dict[str, Json], state: State, classes: Sequence[type]) -> Module:
    """Return the network of an entry, with starting values. Raises StateError where the weights do not fit it."""
    description = entry.get("description")
    # A description that does not belong to the weights may be one of a network of terabytes.
    with without_values():
        build(description, classes).load_state_dict(state)
    return build(description, classes)


def set_modes(net: Module, entry: dict[str, Any]) -> None:
    """Set modes and frozen parameters as an entry says."""
    if not entry:
        return
    mode, others, frozen = entry.get("training"), entry.get("other_mode"), entry.get("frozen")
    modules, parameters = dict(net.named_modules(remove_duplicate=False)), dict(net.named_parameters())
    if not isinstance(mode, bool) or not isinstance(others, list) or not isinstance(frozen, list):
        raise StateError("its modes and frozen parameters are damaged; fetch the file again")
    net.train(mode)
    for names, known in ((others, modules), (frozen, parameters)):
        if wrong := [name for name in names if not isinstance(name, str) or name not in known]:
            raise StateError(f"it names {wrong[0]!r}, which the network does not have")
    for name, parameter in parameters.items():
        parameter.trainable = name not in frozen
    for name in others:
        modules[name].training = not mode
