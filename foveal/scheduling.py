"""Scheduling: which calls run once, and after which calls threads wait until all is done. Calls -> CallSchedule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from foveal.graph import Graph
from foveal.lower import KernelCall
from foveal.view import Buffer

# Bytes of buffers of the arena that begin in the middle of a phase at most. Until it ends they lie beside all that its
# calls have read, so that memory grows by so much; a call that writes more takes as long as some barriers.
MOST_BEGUN = 1 << 18


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

    @property
    def phases(self) -> list[int]:
        """The number of each repeated call's phase: of the calls that may run at the same time."""
        return [0, *accumulate(self.barriers[len(self.prepared) : -1])] if self.repeated else []


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

    The calls from one barrier to the next are a phase. Call i belongs to the phase of those before it if it has no
    conflict with them: none of them writes a buffer that it touches or touches one that it writes. What ends in a phase
    keeps its place in the arena as long as that (arena.py), so buffers of more than MOST_BEGUN bytes begin a phase.
    """
    barriers = [1] * len(calls)
    seen: set[Buffer] = set()
    # in the phase
    written: set[Buffer] = set()
    touched: set[Buffer] = set()
    begun = 0
    for i, call in enumerate(calls):
        outputs = {view.buffer for view in call.written}
        everything = {view.buffer for view in call.views}
        new = {buffer for buffer in everything - seen if buffer.temporary}
        begun += sum(4 * buffer.size for buffer in new)
        conflict = bool(written & everything) or bool(touched & outputs)
        if i and not conflict and (not new or begun <= MOST_BEGUN):
            barriers[i - 1] = 0
        else:
            # those of a phase's first call are not in the middle of it
            written, touched, begun = set(), set(), 0
        written |= outputs
        touched |= everything
        seen |= new
    return barriers
