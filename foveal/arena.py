"""Where the buffers of a program lie, and how much memory that takes."""

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from foveal.lower import Call
from foveal.ops.kernels import pointwise
from foveal.passes.plan_memory import Lifetime, Plan, plan_memory
from foveal.schedule import temporary
from foveal.strides import dense
from foveal.view import Buffer, View

TOLD = 1 << 17  # bytes of prepared filters from which on they are told


@dataclass(frozen=True)
class Layout:
    """Temporary buffers, their bytes, and where they lie in the arena."""

    buffers: list[Buffer]
    sizes: list[int]
    plan: Plan

    @property
    def without_reuse(self) -> int:
        """Bytes that the buffers would take side by side."""
        return sum(self.sizes)


def lay_out(calls: Sequence[Call], outputs: Sequence[View], threads: int, kept: Container[Buffer]) -> Layout:
    """Lifetimes of the temporary buffers that are not kept from run to run, and where they lie."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, call in enumerate(calls):
        for view in call.views:
            if temporary(view.buffer) and view.buffer not in kept:
                first.setdefault(view.buffer, i)
                last[view.buffer] = i
    for view in outputs:
        if view.buffer in last:
            last[view.buffer] = len(calls)
    buffers = list(first)
    sizes = [4 * b.size * (threads if b.per_thread else 1) for b in buffers]
    lifetimes = [Lifetime(s, first[b], last[b]) for s, b in zip(sizes, buffers, strict=True)]
    number = {buffer: i for i, buffer in enumerate(buffers)}
    heirs: dict[int, int] = {}
    for i, call in enumerate(calls):
        old = {b for v in call.views if last.get(b := v.buffer) == i}
        new = {b for v in call.views if first.get(b := v.buffer) == i}
        heirs |= {number[b]: number[a] for b, a in in_place(call, old, new).items()}
    return Layout(buffers, sizes, plan_memory(lifetimes, heirs))


def in_place(call: Call, old: Container[Buffer], new: Container[Buffer]) -> dict[Buffer, Buffer]:
    """For outputs among the new buffers the input, among the old ones, whose place they may take over.

    A pointwise kernel reads every array at one index before it writes there, and at no other index; so that is right
    where
    both arrays lie alike and fill their buffers, and the input is read in no other way.
    """
    if call.kernel.body is not pointwise.pointwise:
        return {}
    reads = Counter(view.buffer for view in call.views)
    found: dict[Buffer, Buffer] = {}
    for y in call.views[: call.outputs]:
        for x in call.views[call.outputs :]:
            alike = (x.strides, x.offset, x.buffer.size) == (y.strides, y.offset, y.buffer.size)
            whole = math.prod(x.shape) == x.buffer.size and dense(x.shape, x.strides)
            free = x.buffer in old and x.buffer not in found.values()
            alone = reads[x.buffer] == reads[y.buffer] == 1
            if y.buffer in new and free and alone and alike and whole:
                found[y.buffer] = x.buffer
                break
    return found


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run of a program holds, known before it.

    variables: parameters, statistics and the optimiser's state. prepared: filters packed once. values: activations,
    gradients and scratch, one block; without_reuse: these side by side. batch: the arguments.
    """

    variables: int
    prepared: int
    values: int
    without_reuse: int
    batch: int

    def __str__(self) -> str:
        parts = [
            f"parameters, statistics and optimiser {mib(self.variables)}",
            f"activations and gradients {mib(self.values)} in one block ({mib(self.without_reuse)} without reuse)",
            f"batch {mib(self.batch)}",
        ]
        if self.prepared >= TOLD:
            parts.insert(2, f"prepared filters {mib(self.prepared)}")
        return ", ".join(parts)


def mib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:.1f} MiB"
