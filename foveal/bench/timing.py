"""Turns, rows and the peak: how times are taken and what they are set against.

Contenders take turns in one process (A B A B ...), so that a change of clock rate or a noisy neighbour
meets all of them. Before each turn the process sleeps and makes a call that is not timed: threads of an
OpenMP runtime spin for some milliseconds after their work and would spoil whoever runs next, and the
caches hold the other's data.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import Any, Protocol

import numpy as np

from foveal.errors import FovealError
from foveal.graph import Graph, Node
from foveal.kernel.lang import fma, lanes, loop, parallel, registers, splat, var
from foveal.ops.op import Lowering, Ndarray, Operator, Shape
from foveal.program import compile

PAUSE = 0.008  # seconds of sleep before a turn; libgomp's workers spin for less
TURN = 0.01  # seconds of timed calls in a turn, where one call is shorter
MOST_CALLS = 50  # timed calls in a turn
PEAK_TURNS = 20  # runs of which the peak is the fastest; 3 ms each at 3 GHz
CHUNKS = 8  # parts of the peak's work per thread
ROUNDS = 50_000  # run-time iterations of a chain
UNROLL = 4  # steps of a chain in one iteration, so that the loop's own instructions do not count

Call = Callable[[], Any]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call: the median and the best of all timed calls."""

    median: float
    best: float


def turns(contenders: Mapping[str, Call], repeats: int) -> dict[str, Times]:
    """Time every contender in `repeats` turns, one after another."""
    counts = {name: calls_per_turn(call) for name, call in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            time.sleep(PAUSE)
            call()
            taken[name] += [seconds(call) for _ in range(counts[name])]
    return {name: Times(1e3 * median(all_), 1e3 * min(all_)) for name, all_ in taken.items()}


def seconds(call: Call) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def calls_per_turn(call: Call) -> int:
    """As many calls as fill a turn; the first one, which may set things up, does not count."""
    call()
    return max(1, min(MOST_CALLS, int(TURN / max(seconds(call), 1e-9))))


class Against(Protocol):
    """What a framework to compare with offers; the module against_torch is one.

    Both give a dict of memory format -> call; each call returns its results, which NumPy can read.
    """

    def version(self) -> str: ...

    def session(self, threads: int, gradients: bool) -> AbstractContextManager[None]:
        """Inside the block it runs on `threads` threads, and records gradients or does not."""

    def operator_calls(
        self, op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, Any]
    ) -> dict[str, Call]:
        """The same operator on the same arrays; empty where it has no counterpart."""

    def step_calls(
        self,
        model: str,
        state: Mapping[str, Ndarray],
        x: Ndarray,
        labels: Ndarray,
        lr: float,
        momentum: float,
    ) -> dict[str, Call]:
        """Training steps of the same model from the same parameters; each returns (loss, output)."""


@dataclass(frozen=True)
class Bench:
    """What all rows of one run share. repeats: turns of each contender. peak: GFLOP/s on that number of threads."""

    threads: int
    repeats: int
    peak: float
    against: Against | None = None

    def session(self, gradients: bool) -> AbstractContextManager[None]:
        """The other framework's settings while it is timed."""
        return self.against.session(self.threads, gradients) if self.against else nullcontext()


@dataclass(frozen=True)
class Row:
    """One line of the result.

    theirs: the other framework's times by memory format, empty where there are none. operations:
    floating-point operations of one call, 2 per multiply-add, counted as direct convolution; 0 where
    there are none to count.
    """

    name: str
    direction: str
    batch: int
    bench: Bench
    operations: int
    ours: Times
    theirs: Mapping[str, Times] = field(default_factory=dict)

    @property
    def mode(self) -> str | None:
        """The memory format in which the other one is fastest, by median."""
        return min(self.theirs, key=lambda mode: self.theirs[mode].median) if self.theirs else None

    def record(self) -> dict[str, Any]:
        """The row for the table and for JSON; times in ms, rates in GFLOP/s, ratio > 1 where Foveal is faster."""
        theirs = self.theirs[self.mode] if self.mode else None
        best = min(times.best for times in self.theirs.values()) if self.theirs else None
        gflops = self.operations / self.ours.median / 1e6 if self.operations else None
        return {
            "name": self.name,
            "pass": self.direction,
            "batch": self.batch,
            "threads": self.bench.threads,
            "ours_ms": self.ours.median,
            "torch_ms": theirs.median if theirs else None,
            "torch_mode": self.mode,
            "ratio": theirs.median / self.ours.median if theirs else None,
            "gflops": gflops,
            "peak_share": gflops / self.bench.peak if gflops else None,
            "ours_best_ms": self.ours.best,
            "torch_best_ms": best,
            "ratio_best": best / self.ours.best if best else None,
            "operations": self.operations,
            "torch_modes": {
                mode: {"ms": times.median, "best_ms": times.best}
                for mode, times in self.theirs.items()
            },
        }


def check_same(what: str, ours: Any, theirs: Any, tolerance: float) -> None:
    """The guard that the same thing is timed: no element differs by more than a share of the largest value."""
    mine, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if mine.shape != other.shape:
        raise FovealError(
            f"{what}: Foveal gives shape {mine.shape}, torch {other.shape}; it was not timed"
        )
    largest = max(float(np.abs(other).max(initial=0.0)), 1e-30)
    error = float(np.abs(mine - other).max(initial=0.0)) / largest
    if not error <= tolerance:
        raise FovealError(
            f"{what}: the results of Foveal and torch differ by {error:.1e} of the largest value (allowed:"
            f" {tolerance:.0e}), so the same thing is not computed and it was not timed; please report it"
        )


def conv_operations(node: Node) -> int:
    """Of y or dy [N, K, P, Q], which all three convolutions have, with filters [K, C/groups, R, S]."""
    dy, filters = {
        "conv2d": (node, node.inputs[-1]),
        "conv2d_input_grad": (node.inputs[0], node.inputs[-1]),
        "conv2d_weight_grad": (node.inputs[0], node),
    }[str(node.op)]
    return 2 * dy.type.size * math.prod(filters.shape[1:])


def matmul_operations(node: Node) -> int:
    """Of y [M, N] with K terms in each sum."""
    return 2 * node.type.size * node.inputs[0].shape[0 if node.attributes["ta"] else 1]


COUNTED: dict[str, Callable[[Node], int]] = {
    "conv2d": conv_operations,
    "conv2d_input_grad": conv_operations,
    "conv2d_weight_grad": conv_operations,
    "matmul": matmul_operations,
}


def operations(graph: Graph) -> int:
    """Floating-point operations of a simplified graph's convolutions and matrix products, 2 per multiply-add.

    Convolutions count as direct ones, products with the zeros of the padding included, as is the
    custom: the figure is the same whatever algorithm runs, and Winograd's may pass the peak.
    """
    return sum(COUNTED[str(node.op)](node) for node in graph.nodes if str(node.op) in COUNTED)


def chains() -> int:
    """Independent chains: more than latency times units (4 x 2, on some ARM 4 x 4), and two registers are left over."""
    return registers() * 3 // 4


class FmaChains(Operator):
    """y[t,i] = x[t,i] after many steps y <- y m + b, factors = (m, b): multiply-adds on registers, nothing else"""

    name, arity, differentiable = "fma_chains", 2, False

    def __init__(self) -> None:  # not among OPS: no network uses it
        pass

    def shape(self, x: Shape, factors: Shape, **how: int) -> Shape:
        return x

    def kernel(
        self, y: Any, x: Any, factors: Any, *, chains: int, rounds: int, unroll: int
    ) -> None:
        width = lanes()
        for (t,) in parallel(y.shape[0]):
            m, b = splat(factors[0], width), splat(factors[1], width)
            values = [var(x.load((t, c * width), width), width) for c in range(chains)]
            for _ in loop(rounds):
                for _ in range(unroll):
                    for value in values:
                        value.set(fma(value.get(), m, b))
            for c, value in enumerate(values):
                y.store((t, c * width), value, width)

    def lower(self, to: Lowering, y: Any, /, *inputs: Any, **attributes: Any) -> None:
        to.call(self.kernel, [y], inputs, **attributes)


@cache
def peak(threads: int) -> float:
    """The most GFLOP/s that fused multiply-adds on full vectors reach on `threads` threads: the best of several runs."""
    width, op = lanes(), FmaChains()
    how = {"chains": chains(), "rounds": ROUNDS, "unroll": UNROLL}
    x = np.zeros((CHUNKS * threads, chains() * width), np.float32)
    factors = np.array([0.5, 1.0], np.float32)  # tends to 2: no denormals, no infinity
    program = compile(lambda *inputs: op(*inputs, **how), threads).program(x, factors)
    for mine, given in zip(program.arguments, (x, factors), strict=True):
        mine[...] = given
    best = min(
        turns({"peak": program.launch}, PEAK_TURNS).values(), key=lambda times: times.best
    ).best
    return 2 * x.size * ROUNDS * UNROLL / best / 1e6
