"""What traced functions return: values nested in tuples, lists and dicts, as one list and back."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Puts arrays in the place of values, in their order.
Rebuild = Callable[[Iterator[Any]], Any]


def flattened(result: Any) -> tuple[list[Any], Rebuild]:
    """Return the values in a nested result in order, and what nests as many arrays in the same way.

    Tuples and lists become lists, dicts stay dicts.
    """
    if isinstance(result, Mapping):
        values, rebuild = flattened(list(result.values()))
        # the keys alone: the values belong to the trace
        keys = list(result)
        return values, lambda arrays: dict(zip(keys, rebuild(arrays), strict=True))
    if not isinstance(result, tuple | list):
        return [result], next
    parts = [flattened(part) for part in result]
    rebuilds = [rebuild for _, rebuild in parts]
    return [value for values, _ in parts for value in values], lambda arrays: [rebuild(arrays) for rebuild in rebuilds]
