"""Measured choices of convolution algorithms, if FOVEAL_TUNE=1 asks for them.

Without it, algorithms are chosen by shape and nothing depends on a timing. With it, each convolution that is met for
the first time is timed with every algorithm that can compute it, on this machine and on random numbers. The fastest one
is kept in a file. The same file gives the same bits, on any number of threads.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foveal import debug
from foveal.graph import Graph, Node
from foveal.kernel import cache
from foveal.kernel.target import used
from foveal.ops.kernels.conv import select
from foveal.ops.kernels.conv.cost_model import DIRECT, TILE_BLOCKS, Algorithm, Problem
from foveal.ops.kernels.conv.winograd_matrices import TILE_SIZES
from foveal.ops.op import Tensor
from foveal.program import Program
from foveal.system import switched_on
from foveal.trace import trace
from foveal.variable import Variable

VARIABLE = "FOVEAL_TUNE"


# How often, and for how many seconds, each candidate is run at most.
REPEATS, SECONDS = 20, 0.25

# Another algorithm replaces the default only if it takes less than this share of its time: timings vary by some
# percent.
MAX_SHARE = 0.97


def requested() -> bool:
    """True if FOVEAL_TUNE asks for measured choices. Raises FovealError where it is neither 0 nor 1."""
    return switched_on(VARIABLE)


def path() -> Path:
    """Return the file of this machine's choices for its target, which lies in the folder of the kernel cache."""
    machine = used()
    return cache.directory() / f"choices-{machine.name}-{machine.lanes}.json"


def load() -> dict[str, Algorithm]:
    """Return the choices measured before; what is damaged in the file is reported and left out."""
    return {key: algorithm_of(**entry["choice"]) for key, entry in entries().items()}


def entries() -> dict[str, Any]:
    """Return the entries of the file that are whole, by key; none if there is no file that may be used."""
    content = cache.load(path().name)
    if content is None:
        return {}
    table: object = {}
    damaged = ""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        damaged = str(error) or type(error).__name__
    if not isinstance(table, dict):
        table, damaged = {}, "it holds no table"
    whole = {key: entry for key, entry in table.items() if is_whole(entry)}
    if len(whole) < len(table):
        damaged = f"{len(table) - len(whole)} of {len(table)} entries mean nothing"
    if damaged:
        debug.show(f"the measured choices in {path()} are damaged ({damaged}): what is lost is measured again")
        cache.store(path().name, as_json(whole))
    return whole


def as_json(entries: Mapping[str, object]) -> bytes:
    """Return the content of the file."""
    return json.dumps(entries, indent=1).encode()


def is_whole(entry: object) -> bool:
    """True if an entry of the file holds a choice that means something."""
    choice = entry.get("choice") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(choice, dict) or not choice.keys() <= {"m", "tiles", "shared"}:
        return False
    m, tiles, shared = choice.get("m"), choice.get("tiles", 0), choice.get("shared")
    whole_numbers = type(m) is int and type(tiles) is int
    return (
        whole_numbers and m in (DIRECT, *TILE_SIZES[1]) and tiles in (0, *TILE_BLOCKS) and shared in (None, True, False)
    )


def choice_of(algorithm: Algorithm) -> dict[str, int | bool | None]:
    """An algorithm as it stands in the file.

    m: its winograd_tile, 0 for direct convolution. tiles: its tile_block, 0 for the kernel's own. shared: true if
    threads share filters, false if they share tiles, null if the kernel decides.
    """
    shared = None if algorithm.parallel_over is None else algorithm.parallel_over == "filters"
    return {"m": algorithm.winograd_tile, "tiles": algorithm.tile_block or 0, "shared": shared}


def algorithm_of(m: int, tiles: int = 0, shared: bool | None = None) -> Algorithm:
    """The algorithm of a choice in the file."""
    return Algorithm(m, tiles or None, None if shared is None else "filters" if shared else "tiles")


def store(key: str, found: Algorithm, times: dict[Algorithm, float]) -> None:
    """Add a choice to the file, with the milliseconds that decided. If that fails, it is valid in this process only."""
    milliseconds = {str(choice_of(c)): round(1e3 * seconds, 4) for c, seconds in times.items()}
    table = {**entries(), key: {"choice": choice_of(found), "ms": milliseconds}}
    cache.store(path().name, as_json(table))


def measure(graph: Graph, build: Callable[[Graph], Program]) -> None:
    """Measure the convolutions of a simplified graph that are not in the file yet.

    build: makes the program that is timed from the graph of one convolution.
    """
    for key, known in load().items():
        select.measured.setdefault(key, known)
    for node in graph.nodes:
        shapes = [x.shape for x in node.inputs]
        problem = node.op.problem(*shapes, **node.attributes) if node.op else None
        chosen = select.measured.get(problem.key) if problem else None
        if problem and chosen and chosen.winograd_tile not in problem.tile_sizes():
            debug.show(f"the measured choices in {path()} name {chosen} for {problem.key}, which cannot compute it")
            del select.measured[problem.key]
        if problem is None or problem.key in select.measured or len(problem.tile_sizes()) == 1:
            continue
        times = {c: seconds(node, problem, c, build) for c in problem.candidates()}
        default, best = problem.default(), min(times, key=times.__getitem__)
        found = best if times[best] < MAX_SHARE * times[default] else default
        select.measured[problem.key] = found
        store(problem.key, found, times)
        if debug.level() >= debug.PROGRAM:
            debug.show(f"measured {problem.key}: {found}, {1e3 * times[found]:.3f} ms")


def seconds(node: Node, problem: Problem, how: Algorithm, build: Callable[[Graph], Program]) -> float:
    """Return the shortest time, in seconds, of one operator computed with one algorithm."""
    op, rng = node.op, np.random.default_rng(0)
    assert op is not None
    fixed = {i: Variable(rng.standard_normal(x.shape)) for i, x in enumerate(node.inputs) if x.variable is not None}

    def function(*symbols: Tensor) -> Tensor:
        rest = iter(symbols)
        inputs = [fixed[i] if i in fixed else next(rest) for i in range(len(node.inputs))]
        return op(*inputs, **op.arguments(**node.attributes))

    given = [x.type for i, x in enumerate(node.inputs) if i not in fixed]
    with assumed(problem, how):
        program = build(trace(function, *given))
    for argument in program.arguments:
        argument[...] = rng.standard_normal(argument.shape)
    program.launch()
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < REPEATS and time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        # From call 0 on: filters that are packed once at inference are packed in each training step.
        program.launch_native(0, len(program.calls), timed=False)
        taken.append(time.perf_counter() - before)
    return min(taken)


@contextmanager
def assumed(problem: Problem, how: Algorithm) -> Iterator[None]:
    """Inside the block, the problem is computed with this algorithm."""
    before = select.measured.get(problem.key)
    select.measured[problem.key] = how
    try:
        yield
    finally:
        if before is None:
            del select.measured[problem.key]
        else:
            select.measured[problem.key] = before
