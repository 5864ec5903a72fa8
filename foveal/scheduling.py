"""Scheduling: which calls run once, and after which calls threads wait until all is done. Calls -> CallSchedule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foveal.graph import Graph
from foveal.lower import KernelCall
from foveal.view import Buffer


@dataclass(frozen=True)
class CallSchedule:
    """The calls of a program in the order in which they run."""

    #: calls that read nothing but variables that the program leaves alone: they run again only when one has changed
    prepared: list[KernelCall]
    #: calls of every run
    repeated: list[KernelCall]
    #: barriers[i] is 1 if call i and all before it are done before the next one begins (prepared calls first), else 0
    barriers: list[int]

    @property
    def calls(self) -> list[KernelCall]:
        return [*self.prepared, *self.repeated]


def schedule(calls: Sequence[KernelCall], graph: Graph) -> CallSchedule:
    prepared, repeated = split_calls(calls, graph)
    return CallSchedule(prepared, repeated, needed_barriers([*prepared, *repeated]))


def split_calls(calls: Sequence[KernelCall], graph: Graph) -> tuple[list[KernelCall], list[KernelCall]]:
    """Separate the calls that depend only on variables that are not updated, such as the packing of filters at
    inference, from those that every run repeats.
    """
    updated = {variable for variable, _ in graph.updates}
    writers = Counter(view.buffer for call in calls for view in call.written)
    # buffers that prepared calls have written
    fixed: set[Buffer] = set()
    prepared: list[KernelCall] = []
    repeated: list[KernelCall] = []
    for call in calls:
        # The outputs must be kept from run to run: temporary memory that nobody else writes.
        keeps = all(
            view.buffer.temporary and writers[view.buffer] == 1 and not view.buffer.per_thread for view in call.written
        )
        known = all(
            view.buffer in fixed or (view.buffer.variable is not None and view.buffer.variable not in updated)
            for view in call.read
        )
        if keeps and known:
            fixed |= {view.buffer for view in call.written}
        (prepared if keeps and known else repeated).append(call)
    return prepared, repeated


def needed_barriers(calls: Sequence[KernelCall]) -> list[int]:
    """Return 1 for each call after which threads must wait until it is done, 0 where a barrier can be left out.

    The barrier before call i can be left out if call i has no conflict with the calls since the last barrier: none of
    them writes a buffer that it touches or touches one that it writes. A buffer that call i touches for the first time
    needs the barrier as well, because another buffer, whose life has ended, may lie in the same place of the arena.
    """
    barriers = [1] * len(calls)
    seen: set[Buffer] = set()
    # since the last barrier
    written: set[Buffer] = set()
    touched: set[Buffer] = set()
    for i, call in enumerate(calls):
        outputs = {view.buffer for view in call.written}
        everything = {view.buffer for view in call.views}
        in_arena = {buffer for buffer in everything if buffer.temporary}
        conflict = bool(written & everything) or bool(touched & outputs) or bool(in_arena - seen)
        if i and not conflict:
            barriers[i - 1] = 0
        else:
            written, touched = set(), set()
        written |= outputs
        touched |= everything
        seen |= in_arena
    return barriers
