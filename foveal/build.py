"""The compiler, from a traced graph to a program: every stage in order, a line each.

Each stage is a function of what the stages before it returned, and its result is a value that prints (DEBUG=3 and 4
show them). passes/__init__.py says what each pass does; ARCHITECTURE.md follows a training step through all of them.
"""

import time
from collections.abc import Callable

from foveal import autotune
from foveal.arena import plan_arena
from foveal.bind import bind
from foveal.errors import ShapeError
from foveal.graph import Graph
from foveal.kernel import compile as kernels
from foveal.lower import lower
from foveal.passes.fusion.fuse import fuse
from foveal.passes.layout import plan_layout
from foveal.passes.recompute import FAST, LOW, MEMORY, recompute
from foveal.passes.simplify import simplify
from foveal.profile import show
from foveal.program import BuildRecord, Program
from foveal.schedule import schedule
from foveal.strides import Ndarray
from foveal.workers import threads_for


def build(
    graph: Graph,
    threads: int | None = None,
    tuned: bool = True,
    memory: str = FAST,
    allocate: Callable[[int], Ndarray] | None = None,
) -> Program:
    """Compile a graph for its shapes.

    threads: how many run it; by default as many as `foveal.get_threads`, or one for a small graph. tuned: False to run
    every operator's plain kernel without epilogues. memory: "low" computes cheap values again in the backward pass
    instead of keeping them. allocate: see bind.bind. Raises ShapeError for another `memory`.
    """
    if memory not in MEMORY:
        raise ShapeError(f"memory {memory!r} is not known; choose one of {', '.join(MEMORY)}")
    started = time.perf_counter()
    compiled, from_disk = kernels.statistics.compiled, kernels.statistics.from_disk

    # Graph -> Graph: composites become primitives, equal nodes are shared; to save memory, cheap values are recomputed.
    simple = simplify(graph)
    final = recompute(simple) if memory == LOW else simple
    threads = threads or threads_for(final)
    # With FOVEAL_TUNE=1, convolutions that are new to this machine are measured before algorithms are chosen.
    if autotune.requested():
        autotune.measure(final, lambda one: build(one, threads))
    # Which nodes become one kernel, in which order; how each stored value lies in memory; which kernels compute it.
    groups = fuse(final, epilogues=tuned)
    layout = plan_layout(final, groups)
    lowered = lower(final, groups, layout, tuned)
    # Which calls run once and where threads meet; where buffers lie.
    scheduled = schedule(lowered.calls, final)
    arena_plan = plan_arena(scheduled, lowered.outputs, threads)
    # Machine code from the cache or from LLVM; memory, and the table of calls that the threads run.
    addresses = kernels.native([call.kernel for call in scheduled.calls])
    binding = bind(lowered, scheduled, arena_plan, addresses, threads, allocate)

    record = BuildRecord(
        time.perf_counter() - started, kernels.statistics.compiled - compiled, kernels.statistics.from_disk - from_disk
    )
    program = Program(final, threads, groups, layout, lowered, scheduled, arena_plan, binding, record)
    show(program)
    return program
