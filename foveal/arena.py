"""Where the temporary buffers of a program lie: in one arena, by their lifetimes. CallSchedule -> ArenaPlan."""

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from foveal.lower import KernelCall
from foveal.ops.kernels import pointwise
from foveal.passes.plan_memory import Lifetime, plan_memory
from foveal.scheduling import CallSchedule
from foveal.strides import dense
from foveal.view import Buffer, View

# Packed filters are mentioned in a footprint if they take at least this many bytes; less would show as 0.0 or 0.1 MiB.
MIN_MENTIONED = 1 << 17


@dataclass(frozen=True)
class ArenaPlan:
    """Temporary buffers, the bytes each takes, its byte offset in the arena, and the arena's size in bytes."""

    buffers: list[Buffer]
    sizes: list[int]
    offsets: tuple[int, ...]
    size: int

    @property
    def without_reuse(self) -> int:
        """Bytes that the buffers would take side by side."""
        return sum(self.sizes)


def plan_arena(schedule: CallSchedule, outputs: Sequence[View], threads: int) -> ArenaPlan:
    """Place the temporary buffers of the repeated calls; what prepared calls write is kept outside of the arena.

    The calls of a phase may run at the same time, so that lifetimes are counted in phases.
    """
    kept = {view.buffer for call in schedule.prepared for view in call.written}
    calls, phases = schedule.repeated, schedule.phases
    first_use: dict[Buffer, int] = {}
    last_use: dict[Buffer, int] = {}
    for i, call in enumerate(calls):
        for view in call.views:
            if view.buffer in first_use or (view.buffer.temporary and view.buffer not in kept):
                first_use.setdefault(view.buffer, i)
                last_use[view.buffer] = i
    # Outputs are copied out after the last call.
    for view in outputs:
        if view.buffer in last_use:
            last_use[view.buffer] = len(calls)
    buffers = list(first_use)
    sizes = [4 * buffer.size * (threads if buffer.per_thread else 1) for buffer in buffers]
    # outputs are alive after the last phase
    ends = [*phases, len(calls)]
    lifetimes = [Lifetime(s, phases[first_use[b]], ends[last_use[b]]) for s, b in zip(sizes, buffers, strict=True)]
    number = {buffer: i for i, buffer in enumerate(buffers)}
    heirs: dict[int, int] = {}
    # by the calls of the phase so far
    used: set[Buffer] = set()
    for i, call in enumerate(calls):
        if i and phases[i] != phases[i - 1]:
            used = set()
        if call.kernel.body is pointwise.pointwise:
            # an input that other calls of the phase may read at the same time has no heir
            ending = {b for b in (view.buffer for view in call.views) if last_use.get(b) == i and b not in used}
            beginning = {view.buffer for view in call.views if first_use.get(view.buffer) == i}
            heirs |= {number[y]: number[x] for y, x in reusable_inputs(call, ending, beginning).items()}
        used |= {view.buffer for view in call.views}
    offsets = plan_memory(lifetimes, heirs)
    return ArenaPlan(buffers, sizes, offsets.offsets, offsets.size)


def reusable_inputs(call: KernelCall, ending: Container[Buffer], beginning: Container[Buffer]) -> dict[Buffer, Buffer]:
    """Return, for outputs of a pointwise call among the `beginning` buffers, the input among the `ending` ones whose
    place they can take.

    A pointwise kernel reads every array at one index before it writes there, and at no other index. So an output may
    take the place of an input if both arrays have the same strides and fill their buffers, and the input is read once.
    """
    reads = Counter(view.buffer for view in call.views)
    inherits: dict[Buffer, Buffer] = {}
    begun = [y for y in call.written if y.buffer in beginning and reads[y.buffer] == 1]
    ended = [x for x in call.read if x.buffer in ending and reads[x.buffer] == 1]
    for y in begun:
        for x in ended:
            alike = (x.strides, x.offset, x.buffer.size) == (y.strides, y.offset, y.buffer.size)
            free = alike and x.buffer not in inherits.values()
            if free and math.prod(x.shape) == x.buffer.size and dense(x.shape, x.strides):
                inherits[y.buffer] = x.buffer
                break
    return inherits


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run of a program holds, known before it runs."""

    #: parameters, running statistics and the optimiser's state
    variables: int
    #: filters that are packed once
    prepared: int
    #: activations, gradients and scratch memory: the arena
    values: int
    #: the same values side by side
    without_reuse: int
    #: the arguments
    batch: int
    #: of a step on shards: sums of gradients, and what another rank sends
    sums: int = 0

    def __str__(self) -> str:
        parts = [
            f"parameters, statistics and optimiser {mib(self.variables)}",
            f"activations and gradients {mib(self.values)} in one block ({mib(self.without_reuse)} without reuse)",
            f"batch {mib(self.batch)}",
        ]
        if self.sums:
            parts.insert(1, f"sums over shards {mib(self.sums)}")
        if self.prepared >= MIN_MENTIONED:
            parts.insert(2, f"packed filters {mib(self.prepared)}")
        return ", ".join(parts)


def mib(size: int) -> str:
    """Return a number of bytes in MiB, with the unit."""
    return f"{size / 2**20:.1f} MiB"
