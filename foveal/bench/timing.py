"""Turns and rows: how times are taken, and what they are set against.

Contenders take turns in one process (A B A B ...), so that a change of clock rate or a noisy neighbour
meets all of them. Before each turn the process sleeps and makes a call that is not timed: threads of an
OpenMP runtime spin for some milliseconds after their work and would spoil whoever runs next, and the
caches hold the other's data.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import numpy as np

from foveal.errors import FovealError
from foveal.graph import Graph
from foveal.strides import Ndarray

PAUSE = 0.008  # seconds of sleep before a turn; libgomp's workers spin for less
TURN = 0.01  # seconds of timed calls in a turn, where one call is shorter
MOST_CALLS = 50  # timed calls in a turn

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


CONTIGUOUS, CHANNELS_LAST, COMPILED = "contiguous", "channels_last", "compile"
MODES = (CONTIGUOUS, CHANNELS_LAST, COMPILED)  # of PyTorch: two memory formats, and torch.compile


class Against(Protocol):
    """What a framework to compare with offers; the modules against_... are such.

    What gives calls gives them by mode, and only for modes that it has; each call returns its results, which NumPy can
    read.
    """

    NAME: str

    def version(self) -> str: ...

    def session(self, threads: int, gradients: bool) -> AbstractContextManager[None]:
        """Inside the block it runs on `threads` threads, and records gradients or does not."""

    def operator_calls(self, op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, Any]) -> dict[str, Call]:
        """The same operator on the same arrays; empty where it has no counterpart."""

    def step_calls(
        self,
        model: str,
        state: Mapping[str, Ndarray],
        x: Ndarray,
        labels: Ndarray,
        lr: float,
        momentum: float,
        modes: Sequence[str],
    ) -> dict[str, Call]:
        """Training steps of the same model from the same parameters; each returns (loss, output)."""

    def inference_calls(
        self, model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
    ) -> dict[str, Call]:
        """The same model, of which `graph` is the trace, on the same images; each returns the output."""


@dataclass(frozen=True)
class Bench:
    """What all rows of one run share. repeats: turns of each contender. peak: GFLOP/s on that number of threads.

    copy: bytes moved -> GB/s of copying as many on that number of threads, where it is measured.
    """

    threads: int
    repeats: int
    peak: float
    against: Against | None = None
    modes: Sequence[str] = MODES
    copy: Callable[[int], float] | None = None

    @property
    def other(self) -> str:
        """The other framework's name, as it stands in the record's keys."""
        return self.against.NAME if self.against else "torch"

    def session(self, gradients: bool) -> AbstractContextManager[None]:
        """The other framework's settings while it is timed."""
        return self.against.session(self.threads, gradients) if self.against else nullcontext()


@dataclass(frozen=True)
class Row:
    """One line of the result.

    theirs: the other framework's times by mode, empty where there are none. operations: floating-point
    operations of one call, 2 per multiply-add, counted as direct convolution; 0 where there are none to
    count. moved: bytes of the arguments and results, each read or written once: the least that has to move;
    0 where they are not what decides.
    """

    name: str
    direction: str
    batch: int
    bench: Bench
    operations: int
    ours: Times
    theirs: Mapping[str, Times] = field(default_factory=dict)
    moved: int = 0

    @property
    def mode(self) -> str | None:
        """The mode in which the other one is fastest, by median."""
        return min(self.theirs, key=lambda mode: self.theirs[mode].median) if self.theirs else None

    def record(self) -> dict[str, Any]:
        """The row for the table and for JSON; times in ms, rates in GFLOP/s and GB/s, ratio > 1 where Foveal is
        faster.
        """
        theirs = self.theirs[self.mode] if self.mode else None
        best = min(times.best for times in self.theirs.values()) if self.theirs else None
        gflops = self.operations / self.ours.median / 1e6 if self.operations else None
        rate = self.moved / self.ours.median / 1e6 if self.moved else None
        copy = self.bench.copy(self.moved) if self.moved and self.bench.copy else None
        other = self.bench.other
        return {
            "name": self.name,
            "pass": self.direction,
            "batch": self.batch,
            "threads": self.bench.threads,
            "ours_ms": self.ours.median,
            f"{other}_ms": theirs.median if theirs else None,
            f"{other}_mode": self.mode,
            "ratio": theirs.median / self.ours.median if theirs else None,
            "gflops": gflops,
            "peak_share": gflops / self.bench.peak if gflops else None,
            "ours_best_ms": self.ours.best,
            f"{other}_best_ms": best,
            "ratio_best": best / self.ours.best if best else None,
            "operations": self.operations,
            "moved_bytes": self.moved,
            "gbytes": rate,
            "copy_share": rate / copy if rate and copy else None,
            f"{other}_modes": {
                mode: {"ms": times.median, "best_ms": times.best} for mode, times in self.theirs.items()
            },
        }


def check_same(what: str, ours: Any, theirs: Any, tolerance: float, other_name: str = "torch") -> None:
    """The guard that the same thing is timed: no element differs by more than a share of the largest value."""
    mine, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if mine.shape != other.shape:
        raise FovealError(f"{what}: Foveal gives shape {mine.shape}, {other_name} {other.shape}; it was not timed")
    largest = max(float(np.abs(other).max(initial=0.0)), 1e-30)
    error = float(np.abs(mine - other).max(initial=0.0)) / largest
    if not error <= tolerance:
        raise FovealError(
            f"{what}: the results of Foveal and {other_name} differ by {error:.1e} of the largest value (allowed:"
            f" {tolerance:.0e}), so the same thing is not computed and it was not timed; please report it"
        )


def operations(graph: Graph) -> int:
    """Floating-point operations of a simplified graph, 2 per multiply-add, where operators count them.

    Convolutions count as direct ones, products with the zeros of the padding included, as is the
    custom: the figure is the same whatever algorithm runs, and Winograd's may pass the peak.
    """
    return sum(
        node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
        for node in graph.nodes
        if node.op is not None
    )
