"""Program: one arena and a list of kernel calls. Threads, barriers, timing."""

import ctypes
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foveal import autotune, debug
from foveal.arena import Footprint, lay_out, mib
from foveal.errors import ShapeError
from foveal.graph import Graph
from foveal.kernel import compile as kernels
from foveal.kernel import runtime
from foveal.kernel.values import PARALLEL_LOOPS
from foveal.lower import Lowered, lower
from foveal.passes.plan_memory import ALIGNMENT
from foveal.passes.recompute import FAST, LOW, MEMORY, recompute
from foveal.passes.simplify import simplify
from foveal.schedule import needed_barriers, split_calls
from foveal.strides import Ndarray
from foveal.view import Buffer, View
from foveal.workers import aligned, threads_for, workers

POINTER_BYTES = 8


RECORD_BYTES = 3 * POINTER_BYTES


FEW_CHANNELS = 8  # up to here NumPy copies images faster channel by channel


@dataclass(frozen=True)
class Timing:
    """One group of a program: seconds of its calls (the barriers behind them included) and the operations they stand
    for.

    flops: multiplications and additions, counted for convolutions and matrix products; 0 else.
    """

    name: str
    kernels: str
    seconds: float
    flops: int


class Program:
    """A graph compiled for its shapes. `run` takes the arguments and gives the outputs, as NumPy arrays.

    tuned: off to run every operator's plain kernel. allocate: bytes -> zeroed uint8 array, to give each buffer memory
    of its
    own instead of a place in the arena (tests put guard pages around it). memory: "low" to compute cheap values again
    in
    the backward pass instead of keeping them.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        tuned: bool = True,
        allocate: Callable[[int], Ndarray] | None = None,
        memory: str = FAST,
    ) -> None:
        if memory not in MEMORY:
            raise ShapeError(f"memory {memory!r} is not known; choose one of {', '.join(MEMORY)}")
        started = time.perf_counter()
        self.graph = simplify(graph)
        if memory == LOW:
            self.graph = recompute(self.graph)
        self.threads = threads or threads_for(self.graph)
        if autotune.wanted():
            autotune.tune(self.graph, lambda one: Program(one, self.threads))
        self.lowered: Lowered = lower(self.graph, tuned)
        prepared, every_time = split_calls(self.lowered.calls, self.graph)
        self.calls, self.prepared = [*prepared, *every_time], len(prepared)
        before = (kernels.statistics.compiled, kernels.statistics.from_disk)
        addresses = kernels.native([call.kernel for call in self.calls])
        self.memory: dict[Buffer, Ndarray] = {}
        for buffer in dict.fromkeys(v.buffer for c in prepared for v in c.views[: c.outputs]):
            self.memory[buffer] = (allocate or aligned)(4 * buffer.size)
        self.layout = lay_out(every_time, self.lowered.outputs, self.threads, kept=set(self.memory))
        self.plan = self.layout.plan
        self.arena = aligned(0 if allocate else self.plan.size)
        for buffer, size, offset in zip(self.layout.buffers, self.layout.sizes, self.plan.offsets, strict=True):
            self.memory[buffer] = allocate(size) if allocate else self.arena[offset : offset + size]
        self.bind_inputs(allocate or aligned)
        self.barriers = needed_barriers(self.calls)
        self.counters = np.zeros((len(self.calls), PARALLEL_LOOPS * self.threads), np.int64)
        self.table = self.make_table(addresses)
        self.count = aligned(2 * ALIGNMENT)
        self.times = np.zeros(len(self.calls), np.int64)
        self.arguments = [self.array(view) for view in self.lowered.arguments]
        self.results = [self.array(view) for view in self.lowered.outputs]
        self.compiled = kernels.statistics.compiled - before[0]
        self.from_disk = kernels.statistics.from_disk - before[1]
        self.seconds_to_build = time.perf_counter() - started
        self.versions: list[int] | None = None  # of `sources`, when the prepared calls last ran
        self.updated = [variable for variable, _ in self.graph.updates]
        self.sources = [n.variable for n in self.graph.variables if n.variable and n.variable not in self.updated]
        self.reported = False
        self.lock = threading.Lock()
        self.explain()

    def bind_inputs(self, allocate: Callable[[int], Ndarray]) -> None:
        for view in self.lowered.arguments:
            self.memory[view.buffer] = allocate(view.buffer.size * 4)
        for call in self.calls:
            for view in call.views:
                if view.buffer.variable is not None and view.buffer not in self.memory:
                    self.memory[view.buffer] = view.buffer.variable.storage
        for view in self.lowered.outputs:
            if view.buffer.variable is not None:
                self.memory[view.buffer] = view.buffer.variable.storage

    def make_table(self, addresses: Sequence[int]) -> Ndarray:
        """Records {kernel, arguments, barrier}, with the arguments' addresses behind them in one block.

        The last argument is where a call's parallel loops count; one thread needs no counting.
        """
        count = sum(len(call.views) + 1 for call in self.calls)
        table = np.zeros(3 * len(self.calls) + count, np.int64)
        at = 3 * len(self.calls)
        for i, (call, address) in enumerate(zip(self.calls, addresses, strict=True)):
            table[3 * i : 3 * i + 3] = (address, table.ctypes.data + at * POINTER_BYTES, self.barriers[i])
            for view in call.views:
                table[at] = self.memory[view.buffer].ctypes.data + 4 * view.offset
                at += 1
            table[at] = self.counters[i].ctypes.data if self.threads > 1 else 0
            at += 1
        return table

    def array(self, view: View) -> Ndarray:
        """A view's memory as a NumPy array."""
        dtype = np.dtype(view.buffer.dtype)
        flat = self.memory[view.buffer].view(np.uint8).reshape(-1)
        flat = flat[: flat.size // 4 * 4].view(dtype)[view.offset :]
        strides = [s * dtype.itemsize for s in view.strides]
        made: Ndarray = np.lib.stride_tricks.as_strided(flat, view.shape, strides)
        return made

    def run(self, *arrays: Ndarray, timed: bool = False) -> list[Ndarray]:
        """Copy the arguments in, run every call, copy the outputs out. Python threads that share a program take
        turns.
        """
        with self.lock:
            for mine, given in zip(self.arguments, arrays, strict=True):
                fill(mine, given)
            self.launch(timed)
            return [result.copy() for result in self.results]

    def launch(self, timed: bool = False) -> None:
        """All calls; those that depend on variables alone only when one of these has changed."""
        versions = [variable.version for variable in self.sources]
        start = self.prepared if versions == self.versions else 0
        try:
            self.launch_from(start, timed)
            self.versions = versions
        finally:
            for variable in self.updated:
                variable.version += 1

    def launch_from(self, start: int, timed: bool = False) -> None:
        if start == len(self.calls):
            return
        program = (ctypes.c_int64 * 4)(
            self.table.ctypes.data + start * RECORD_BYTES,
            len(self.calls) - start,
            self.count.ctypes.data,
            self.times[start:].ctypes.data if timed else 0,
        )
        if self.threads == 1:
            runtime.run()(ctypes.addressof(program), 0, 1)
        else:
            self.counters[start:] = 0
            workers().run(self.threads, runtime.address("run"), ctypes.addressof(program))

    def interpret(self, *arrays: Ndarray) -> list[Ndarray]:
        """The same calls with every kernel body in plain Python; slow, for tests and for debugging."""
        for mine, given in zip(self.arguments, arrays, strict=True):
            fill(mine, given)
        for call in self.calls:
            call.kernel.interpret([self.array(view) for view in call.views])
        return [result.copy() for result in self.results]

    def timings(self, repeats: int = 5) -> list[Timing]:
        """The median seconds of each group, run on the arguments that are in memory now.

        Running changes what a program updates; a training step's timings train.
        """
        self.launch()
        groups = np.array([call.group for call in self.calls[self.prepared :]])
        rows = []
        for _ in range(repeats):
            before = time.perf_counter()
            self.launch(timed=True)
            wall = time.perf_counter() - before
            stamps = self.times[self.prepared :].astype(np.float64)
            steps = np.diff(stamps, prepend=stamps[0])
            # the clock ticks at a rate of its own; the first call has no tick before it and gets the mean share
            steps[0] = steps.mean() if len(steps) > 1 else 1.0
            rows.append(np.bincount(groups, steps, len(self.lowered.groups) + 1) / steps.sum() * wall)
        names = [group.what() for group in self.lowered.groups] + ["copies of what is updated"]
        flops = [group.flops() for group in self.lowered.groups] + [0]
        kernels_of = [
            " ".join(dict.fromkeys(c.kernel.name for c in self.calls if c.group == g)) for g in range(len(names))
        ]
        return [
            Timing(name, kernel, float(s), n)
            for name, kernel, s, n in zip(names, kernels_of, np.median(rows, axis=0), flops, strict=True)
            if kernel
        ]

    def explain(self) -> None:
        """What the DEBUG ladder shows of a program."""
        level = debug.level()
        if level >= debug.PROGRAM:
            debug.show(self.summary())
        if level >= debug.GRAPH:
            debug.show("graph", str(self.graph))
            debug.show("groups", "\n".join(f"  {group}" for group in self.lowered.groups))
            debug.show("layout", str(self.lowered.layout))
        if level >= debug.SOURCE:
            lines = []
            for call in self.calls:
                shapes = ", ".join(str(list(view.shape)) for view in call.views)
                lines.append(f"  {call.kernel.name}({shapes}) {dict(call.kernel.static)}")
            debug.show("calls", "\n".join(lines))
            for body in dict.fromkeys(call.kernel.body for call in self.calls):
                debug.show(f"{body.__module__}.{body.__qualname__}", inspect.getsource(body))

    def footprint(self) -> Footprint:
        made = (v.buffer for c in self.calls[: self.prepared] for v in c.views[: c.outputs])
        return Footprint(
            variables=sum(4 * b.size for b in self.memory if b.variable is not None),
            prepared=sum(4 * b.size for b in dict.fromkeys(made)),
            values=self.plan.size,
            without_reuse=self.layout.without_reuse,
            batch=sum(array.nbytes for array in self.arguments),
        )

    def summary(self) -> str:
        """One line: calls, barriers, arena, where the kernels came from."""
        return (
            f"program: {len(self.calls)} calls, {sum(self.barriers)} barriers, {self.threads} thread(s),"
            f" arena {mib(self.plan.size)} for {mib(self.layout.without_reuse)} of values,"
            f" {self.compiled} kernels compiled, {self.from_disk} from the cache,"
            f" built in {self.seconds_to_build:.2f} s"
        )


def fill(mine: Ndarray, given: Ndarray) -> None:
    """Copy an argument in; few channels one by one, so that NumPy's inner loop runs over pixels."""
    if mine.ndim == 4 and 1 < mine.shape[1] <= FEW_CHANNELS and given.strides != mine.strides:
        for channel in range(mine.shape[1]):
            mine[:, channel] = given[:, channel]
    else:
        mine[...] = given
