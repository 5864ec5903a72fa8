"""Binding: buffers get memory, and calls become a table of addresses that the native loop runs. -> Binding."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveal.arena import ArenaPlan
from foveal.kernel.builder import PARALLEL_LOOPS
from foveal.kernel.compile import NativeCode
from foveal.lower import KernelCall, Lowered
from foveal.scheduling import CallSchedule
from foveal.strides import Ndarray
from foveal.view import Buffer, View
from foveal.workers import aligned

POINTER_BYTES = 8
# A record of the table: kernel, arguments, barrier.
RECORD_BYTES = 3 * POINTER_BYTES


@dataclass(frozen=True)
class Binding:
    """The memory of a program, and the table that the native loop (kernel.native_loop) runs."""

    memory: dict[Buffer, Ndarray]
    #: uint8; empty if every buffer has memory of its own
    arena: Ndarray
    #: [calls, loops x threads] int64: how much of each thread's share of a parallel loop has been taken
    counters: Ndarray
    #: int64: a record {kernel, arguments, barrier} per call, then the addresses of all arguments
    table: Ndarray
    #: the kernels' machine code, which is in memory as long as this object
    code: NativeCode

    def array(self, view: View) -> Ndarray:
        """Return a view's memory as a NumPy array."""
        dtype = np.dtype(view.buffer.dtype)
        flat = self.memory[view.buffer].view(np.uint8).reshape(-1)
        flat = flat[: flat.size // 4 * 4].view(dtype)[view.offset :]
        strides = [s * dtype.itemsize for s in view.strides]
        made: Ndarray = np.lib.stride_tricks.as_strided(flat, view.shape, strides)
        return made


def bind(
    lowered: Lowered,
    schedule: CallSchedule,
    arena_plan: ArenaPlan,
    code: NativeCode,
    threads: int,
    allocate: Callable[[int], Ndarray] | None = None,
    prepared: Mapping[Buffer, Ndarray] | None = None,
) -> Binding:
    """Give each buffer memory and make the table of calls.

    code: of each call's kernel and of the functions it calls, one after the other. allocate: bytes -> zeroed uint8
    array, to give each buffer memory of its own instead of a place in the arena; tests put guard pages around it.
    prepared: memory of what prepared calls write, where there is some already.
    """
    new = allocate or aligned
    memory: dict[Buffer, Ndarray] = {}
    # What prepared calls write is kept from run to run.
    for buffer in dict.fromkeys(view.buffer for call in schedule.prepared for view in call.written):
        memory[buffer] = new(4 * buffer.size) if prepared is None else prepared[buffer]
    arena = aligned(0 if allocate else arena_plan.size)
    for buffer, size, offset in zip(arena_plan.buffers, arena_plan.sizes, arena_plan.offsets, strict=True):
        memory[buffer] = allocate(size) if allocate else arena[offset : offset + size]
    for view in lowered.arguments:
        memory[view.buffer] = new(4 * view.buffer.size)
    calls = schedule.calls
    for view in (*(view for call in calls for view in call.views), *lowered.outputs):
        if view.buffer.variable is not None:
            memory[view.buffer] = view.buffer.variable.storage
    counters = np.zeros((len(calls), PARALLEL_LOOPS * threads), np.int64)
    table = make_table(calls, schedule.barriers, code.addresses, memory, counters if threads > 1 else None)
    return Binding(memory, arena, counters, table, code)


def make_table(
    calls: Sequence[KernelCall],
    barriers: Sequence[int],
    addresses: Sequence[int],
    memory: dict[Buffer, Ndarray],
    counters: Ndarray | None,
) -> Ndarray:
    """Return the records of the calls followed by their arguments, as one block of int64.

    The arguments of a call: the addresses of its arrays, its sizes, the bits of its numbers, the addresses of its
    functions, then that of the counters of its parallel loops, or 0: one thread needs none.
    """
    count = sum(len(call.views) + len(call.sizes) + len(call.numbers) + len(call.kernels) for call in calls)
    table = np.zeros(3 * len(calls) + count, np.int64)
    # asking an array for its address takes longer than all else here
    origins = {buffer: array.ctypes.data for buffer, array in memory.items()}
    first, counts, step = table.ctypes.data, 0, 0
    if counters is not None:
        counts, step = counters.ctypes.data, counters.strides[0]
    records: list[int] = []
    words: list[int] = []
    code = iter(addresses)
    for i, call in enumerate(calls):
        kernel, *functions = itertools.islice(code, len(call.kernels))
        records += kernel, first + (3 * len(calls) + len(words)) * POINTER_BYTES, barriers[i]
        words += [origins[view.buffer] + 4 * view.offset for view in call.views]
        words += call.sizes
        if call.numbers:
            words += np.array(call.numbers, np.float32).view(np.uint32).tolist()
        words += [*functions, counts + i * step]
    table[:] = [*records, *words]
    return table
