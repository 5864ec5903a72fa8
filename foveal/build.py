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

    simple = simplify(graph)
    graph = recompute(simple) if memory == LOW else simple
    threads = threads or threads_for(graph)
    if autotune.requested():
        autotune.measure(graph, lambda one: build(one, threads))
    groups = fuse(graph, epilogues=tuned)
    layout = plan_layout(graph, groups)
    lowered = lower(graph, groups, layout, tuned)
    scheduled = schedule(lowered.calls, graph)
    arena_plan = plan_arena(scheduled, lowered.outputs, threads)
    addresses = kernels.native([call.kernel for call in scheduled.calls])
    binding = bind(lowered, scheduled, arena_plan, addresses, threads, allocate)

    record = BuildRecord(
        time.perf_counter() - started, kernels.statistics.compiled - compiled, kernels.statistics.from_disk - from_disk
    )
    program = Program(graph, threads, groups, layout, lowered, scheduled, arena_plan, binding, record)
    show(program)
    return program
