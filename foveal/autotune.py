"""Measured choices of algorithms, for those who ask for them with FOVEAL_TUNE=1.

Without that, nothing depends on a timing. With it, each convolution that is met for the first time is timed in every
way it can be computed, on this machine alone and on random numbers, and the fastest is kept in a file: the same file
gives the same bits, on any number of threads.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from foveal import debug
from foveal.graph import Graph, Node
from foveal.kernel import cache
from foveal.kernel.target import host
from foveal.ops.kernels.conv import select
from foveal.ops.kernels.conv.cost_model import Algorithm, Problem
from foveal.trace import trace
from foveal.variable import Variable

VARIABLE = "FOVEAL_TUNE"


REPEATS, SECONDS = 20, 0.25  # of each candidate at most


GAIN = 0.97  # of the default's time that another has to stay below to be taken


def wanted() -> bool:
    """Whether FOVEAL_TUNE asks for measured choices."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")


def path() -> Path:
    """The file of this machine's choices, in the folder of the kernel cache."""
    machine = host()
    return cache.directory() / f"choices-{machine.name}-{machine.lanes}.json"


def load() -> dict[str, Algorithm]:
    """The choices measured before; none where the file is absent or not whole."""
    try:
        entries = json.loads(path().read_text())
        return {key: algorithm_of(**entry["choice"]) for key, entry in entries.items()}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


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
    """Add a choice to the file, and the milliseconds that decided. Where that fails it holds for this process."""
    try:
        entries = json.loads(path().read_text())
    except (OSError, ValueError):
        entries = {}
    milliseconds = {str(choice_of(c)): round(1e3 * seconds, 4) for c, seconds in times.items()}
    entries[key] = {"choice": choice_of(found), "ms": milliseconds}
    with suppress(OSError):
        path().parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path().parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            json.dump(entries, file, indent=1)
        os.replace(temporary, path())


def tune(graph: Graph, build: Callable[[Graph], Any]) -> None:
    """Measure what is not known yet of a simplified graph's convolutions. build: a graph -> a program to time."""
    for key, known in load().items():
        select.measured.setdefault(key, known)
    for node in graph.nodes:
        shapes = [x.shape for x in node.inputs]
        problem = node.op.problem(*shapes, **node.attributes) if node.op else None
        if problem is None or problem.key in select.measured or len(problem.tile_sizes()) == 1:
            continue
        times = {c: seconds(node, problem, c, build) for c in problem.candidates()}
        default, best = problem.default(), min(times, key=times.__getitem__)
        found = best if times[best] < GAIN * times[default] else default
        select.measured[problem.key] = found
        store(problem.key, found, times)
        if debug.level() >= debug.PROGRAM:
            debug.show(f"measured {problem.key}: {found}, {1e3 * times[found]:.3f} ms")


def seconds(node: Node, problem: Problem, how: Algorithm, build: Callable[[Graph], Any]) -> float:
    """The shortest time of one operator computed in one way."""
    op, rng = node.op, np.random.default_rng(0)
    assert op is not None
    fixed = {i: Variable(rng.standard_normal(x.shape)) for i, x in enumerate(node.inputs) if x.variable is not None}

    def function(*symbols: Any) -> Any:
        rest = iter(symbols)
        inputs = [fixed[i] if i in fixed else next(rest) for i in range(len(node.inputs))]
        return op(*inputs, **node.attributes)

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
        program.launch_from(0)  # what is prepared once at inference is part of each training step
        taken.append(time.perf_counter() - before)
    return min(taken)


@contextmanager
def assumed(problem: Problem, how: Algorithm) -> Iterator[None]:
    """Inside the block the problem is computed so."""
    before = select.measured.get(problem.key)
    select.measured[problem.key] = how
    try:
        yield
    finally:
        if before is None:
            del select.measured[problem.key]
        else:
            select.measured[problem.key] = before
