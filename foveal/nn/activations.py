"""What inner layers return, by name."""

from collections.abc import Sequence
from typing import Any

from foveal.errors import ArgumentError
from foveal.names import nearest
from foveal.nn.tree import Tree
from foveal.trace import LayerCall, calls_within


def check_names(module: Tree[Any], names: Sequence[str]) -> None:
    """Raise ArgumentError for a name that no layer of the module has."""
    known = [name for name, _ in module.named_modules(remove_duplicate=False)]
    for name in names:
        if name not in known:
            hint = nearest(name, known, 3) or "see net.named_modules() for all"
            raise ArgumentError(f"activations: {type(module).__name__} has no layer {name!r}; {hint}")


def by_name(module: Tree[Any], call: LayerCall, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the results of the layers that were called within a call of `module`, by name, in order of their ends.

    names: those wanted; all but the module itself if None. The result of a layer that was called several times is a
    list. Raises ArgumentError for a layer that was not called.
    """
    places: dict[int, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        places.setdefault(id(layer), []).append(name)
    found: dict[str, list[Any]] = {}
    for inner in calls_within(call):
        # a layer that is held in several places has several names
        for name in places.get(id(inner.layer), ()):
            if name in names if names is not None else name:
                found.setdefault(name, []).append(inner.result)
    for name in names or ():
        if name not in found:
            raise ArgumentError(f"activations: {type(module).__name__} does not call its layer {name!r}")
    return {name: results if len(results) > 1 else results[0] for name, results in found.items()}
