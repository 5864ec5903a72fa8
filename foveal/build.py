"""The compiler, from a traced graph to a program: every stage in order, a named result each.

Each stage is a function of what the stages before it returned, and its result is a value that prints (DEBUG=3 and 4
show them). passes/__init__.py says what each pass does; ARCHITECTURE.md follows a training step through all of them.
"""

import time
from collections.abc import Callable

from foveal import autotune
from foveal.arena import plan_arena
from foveal.bind import bind
from foveal.errors import ShapeError
from foveal.graph import Graph, Node
from foveal.handover import plan_handover
from foveal.kernel import compile as machine_code
from foveal.kernel.compile import Kernel
from foveal.lower import lower
from foveal.pace import Pace
from foveal.passes.fusion.fuse import fuse
from foveal.passes.layout import plan_layout
from foveal.passes.recompute import FAST, LOW, MEMORY, recompute
from foveal.passes.simplify import simplify
from foveal.profile import show
from foveal.program import BuildRecord, Program
from foveal.scheduling import schedule
from foveal.strides import Ndarray
from foveal.workers import check_threads, is_short, threads_for


def kernels_of(graph: Graph, tuned: bool = True) -> list[Kernel]:
    """Return the kernels that a graph is computed by on the current target, or would be: none is compiled."""
    final = simplify(graph)
    groups = fuse(final, epilogues=tuned)
    calls = lower(final, groups, plan_layout(final, groups), tuned).calls
    return [kernel for call in calls for kernel in call.kernels]


def build(
    graph: Graph,
    threads: int | None = None,
    tuned: bool = True,
    memory: str = FAST,
    allocate: Callable[[int], Ndarray] | None = None,
    origins: dict[Node, Node] | None = None,
    early: bool = False,
) -> Program:
    """Compile a graph for its shapes.

    threads: how many run it; by default as many as `foveal.get_threads`, or one for a small graph. tuned: False to run
    every operator's plain kernel without epilogues. memory: "low" computes cheap values again in the backward pass
    instead of keeping them. allocate: see bind.bind. origins: see passes.simplify. early: write variables as soon as
    their values are known, for others to read them while the rest is computed. Raises ShapeError for another `memory`
    and for a number of threads that there cannot be.
    """
    if memory not in MEMORY:
        raise ShapeError(f"memory {memory!r} is not known; choose one of {', '.join(MEMORY)}")
    if threads is not None:
        check_threads(threads)
    started = time.perf_counter()

    # Composites become primitives, equal nodes are shared.
    simple = simplify(graph, origins)
    # To save memory, cheap values are computed again in the backward pass.
    final = recompute(simple) if memory == LOW else simple
    chosen = threads_for(final) if threads is None else threads
    # Where nobody has said how many, a short program finds out whether all of them pay.
    pace = Pace(chosen) if threads is None and chosen > 1 and is_short(final) else None
    threads = chosen
    # Tuned kernels plan with sizes that they divide by. Where an array has no elements, plain loop nests do.
    tuned = tuned and all(node.type.size for node in final.nodes)
    # With FOVEAL_TUNE=1, convolutions that are new to this machine are measured before algorithms are chosen.
    if autotune.requested():
        autotune.measure(final, lambda subgraph: build(subgraph, threads))
    # Which nodes become one kernel, and in which order.
    groups = fuse(final, epilogues=tuned, early=early)
    # How each stored value lies in memory, and what has to be converted.
    layout = plan_layout(final, groups)
    # Which kernels compute each group, on which arrays.
    lowered = lower(final, groups, layout, tuned)
    # Which calls run once, and after which calls the threads meet.
    scheduled = schedule(lowered.calls, final)
    # Where temporary buffers lie in the arena.
    arena_plan = plan_arena(scheduled, lowered.outputs, threads)
    # How large arguments and results are copied.
    handover = plan_handover(lowered)
    # Machine code, from the cache or from LLVM.
    kernels = [kernel for call in scheduled.calls for kernel in call.kernels]
    code = machine_code.native([*kernels, *handover.kernels])
    # Memory, and the table of calls that the threads run.
    binding = bind(lowered, scheduled, arena_plan, code, threads, allocate)

    record = BuildRecord(time.perf_counter() - started, code.found.compiled, code.found.from_disk)
    program = Program(final, threads, groups, layout, lowered, scheduled, arena_plan, handover, binding, record, pace)
    show(program)
    return program
