"""What kernel calls need of each other: which run once, and which have to wait."""

from collections import Counter
from collections.abc import Sequence

from foveal.graph import Graph
from foveal.lower import Call
from foveal.view import Buffer


def split_calls(calls: Sequence[Call], graph: Graph) -> tuple[list[Call], list[Call]]:
    """(calls that depend on nothing but variables that the program leaves alone, the others).

    The former, such as the packing of filters at inference, need not run again until a variable changes.
    """
    updated = {variable for variable, _ in graph.updates}
    writers = Counter(v.buffer for c in calls for v in c.views[: c.outputs])
    fixed: set[Buffer] = set()
    prepared: list[Call] = []
    every_time: list[Call] = []
    for call in calls:
        made, read = call.views[: call.outputs], call.views[call.outputs :]
        own = all(temporary(v.buffer) and writers[v.buffer] == 1 and not v.buffer.per_thread for v in made)
        known = all(
            v.buffer in fixed or (v.buffer.variable is not None and v.buffer.variable not in updated) for v in read
        )
        if own and known:
            fixed |= {v.buffer for v in made}
        (prepared if own and known else every_time).append(call)
    return prepared, every_time


def temporary(buffer: Buffer) -> bool:
    return buffer.variable is None and not buffer.argument


def needed_barriers(calls: Sequence[Call]) -> list[int]:
    """1 after each call behind which all threads have to meet: all but those before a call with which nothing is
    shared.

    Two calls share if one writes a buffer that the other touches. Buffers of different lifetimes may lie in the same
    place of the arena, so a call that touches a buffer for the first time waits too.
    """
    barriers = [1] * len(calls)
    seen: set[Buffer] = set()
    written: set[Buffer] = set()
    touched: set[Buffer] = set()
    for i, call in enumerate(calls):
        outputs = {v.buffer for v in call.views[: call.outputs]}
        everything = {v.buffer for v in call.views}
        own = {b for b in everything if temporary(b)}
        shares = bool(written & everything) or bool(touched & outputs) or bool(own - seen)
        if i and not shares:
            barriers[i - 1] = 0
        else:
            written, touched = set(), set()
        written |= outputs
        touched |= everything
        seen |= own
    return barriers
