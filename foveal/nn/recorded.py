"""What a module was made with: its arguments, recorded when it is made, for files that describe it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from foveal.kinds import DEEPEST, Around, shown
from foveal.ops.op import Operator
from foveal.watch import Watched, own_attributes

# The attribute of a module that holds them.
MADE = "_made"
# Functions that modules call and that make modules themselves, by name; they enter themselves (saving.py).
CALLS: dict[str, Callable[..., Any]] = {}
# Collections of more elements are not recorded.
MOST_ELEMENTS = 10_000


class Unrecorded:
    """In the place of an argument of a kind that no file describes; it is not kept alive for that."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Unrecorded({self.text})"


def record(module: object, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Note the arguments that a module is made with, as they are now; modules among them by reference."""
    kept = tuple([taken(value) for value in arguments])
    own_attributes(module)[MADE] = kept, {name: taken(value) for name, value in options.items()}


def of_instance(module: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the named arguments that a module was made with."""
    made: Any = own_attributes(module).get(MADE, ((), {}))
    return made


def taken(value: Any, around: Around = ()) -> Any:
    """Return an argument as it is recorded; what lies in itself, or too deep, is not.

    around: what it lies in.
    """
    if value is None or isinstance(value, bool | int | float | str | Watched | Operator | type):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple, dict) and len(value) <= MOST_ELEMENTS:
        if len(around) >= DEEPEST or any(value is outer for outer in around):
            return Unrecorded(shown(value))
        around = (*around, value)
        if isinstance(value, dict):
            return {key: taken(part, around) for key, part in value.items()}
        return type(value)([taken(part, around) for part in value])
    return Unrecorded(shown(value))
