"""How times are taken, and what a timed row holds.

Contenders run alternately in one process (A B A B ...), so that a change of clock rate or a noisy neighbour affects all
of them. Before each round of calls the process sleeps and makes one call that is not timed: threads of an OpenMP
runtime spin for some milliseconds after their work and would slow down whoever runs next, and the caches hold the
other contender's data.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import FovealError
from foveal.graph import Graph
from foveal.strides import Ndarray

# Seconds of sleep before a round; libgomp's workers spin for less.
PAUSE = 0.008
# Seconds that the timed calls of a round take together, if one call is shorter.
ROUND = 0.01
# Timed calls of a round at most.
MAX_CALLS = 50
# First calls of a contender, which are not timed, or seconds of them, whichever comes first: a short program of Foveal
# measures by its first runs on how many threads it is faster (foveal/pace.py), and others prepare themselves too.
FIRST_CALLS = 200
FIRST_SECONDS = 0.25

# A call that is timed; what it returns is compared.
Contender = Callable[[], Any]
# One row of a result: values by the name of their column.
Record = dict[str, Any]
# Is called with a text that says what comes next.
Starting = Callable[[str], None]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call: the median and the best of all timed calls."""

    median: float
    best: float


def alternate(contenders: Mapping[str, Contender], repeats: int) -> dict[str, Times]:
    """Time the contenders alternately, each in `repeats` rounds of calls; return the times by name."""
    counts = {name: calls_per_round(call) for name, call in contenders.items()}
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            time.sleep(PAUSE)
            call()
            measured[name] += [seconds(call) for _ in range(counts[name])]
    return {name: Times(1e3 * median(times), 1e3 * min(times)) for name, times in measured.items()}


def seconds(call: Contender) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def calls_per_round(call: Contender) -> int:
    """Return how many calls fill a round, by the last of the first calls, which may set things up."""
    time.sleep(PAUSE)
    total = seconds(call)
    for _ in range(FIRST_CALLS):
        last = seconds(call)
        total += last
        if total > FIRST_SECONDS:
            break
    return max(1, min(MAX_CALLS, int(ROUND / max(last, 1e-9))))


# PyTorch's modes: two memory formats, and torch.compile.
CONTIGUOUS, CHANNELS_LAST, COMPILED = "contiguous", "channels_last", "compile"
MEMORY_FORMATS = (CONTIGUOUS, CHANNELS_LAST)
MODES = (*MEMORY_FORMATS, COMPILED)


@dataclass(frozen=True)
class StepSettings:
    """What a training step that is timed starts from: the model's name, its parameters, one batch, SGD's settings."""

    model: str
    state: Mapping[str, Ndarray]
    # Images [N, C, H, W] and labels [N].
    x: Ndarray
    labels: Ndarray
    lr: float
    momentum: float


class Against(Protocol):
    """A framework to compare with: the modules against_torch, against_onnxruntime and against_openvino, or several.

    The methods ..._calls return calls by mode, for those of the modes that the framework has. The results of a call can
    be read by NumPy.
    """

    NAME: str

    def version(self) -> str:
        """Return the framework's version."""

    def session(self, threads: int, gradients: bool) -> AbstractContextManager[None]:
        """Inside the block the framework runs on `threads` threads; it records gradients only if asked to."""

    def operator_calls(
        self, op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object], modes: Sequence[str]
    ) -> dict[str, Contender]:
        """Return calls of the same operator on the same arrays; none if it has no counterpart."""

    def step_calls(self, settings: StepSettings, modes: Sequence[str]) -> dict[str, Contender]:
        """Return training steps of the same model from the same parameters; each returns (loss, output)."""

    def inference_calls(
        self, model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
    ) -> dict[str, Contender]:
        """Return calls of the same model, of which `graph` is the trace, on the images x; each returns the output."""


@dataclass(frozen=True)
class Bench:
    """What all rows of one run share."""

    threads: int
    # Rounds of each contender.
    repeats: int
    # Measured peak in GFLOP/s on that number of threads.
    peak: float
    # The framework that is compared with, and which of its modes.
    against: Against | None = None
    modes: Sequence[str] = MODES
    # Returns the rate in GB/s of copying a number of bytes on that number of threads; None if it is not measured.
    copy: Callable[[int], float] | None = None

    @property
    def other(self) -> str:
        """The other framework's name, as it stands in the keys of records."""
        return self.against.NAME if self.against else "torch"

    def session(self, gradients: bool) -> AbstractContextManager[None]:
        """Inside the block the other framework has the settings that it is timed with."""
        return self.against.session(self.threads, gradients) if self.against else nullcontext()


@dataclass(frozen=True)
class Measurement:
    """One row of the result."""

    name: str
    # Which pass was timed: forward, dx, step, inference, ...
    direction: str
    batch: int
    bench: Bench
    # Floating-point operations of one call, 2 per multiply-add, counted as direct convolution; 0 if there are none to
    # count.
    operations: int
    ours: Times
    # The other framework's times by mode; empty if there are none.
    theirs: Mapping[str, Times] = field(default_factory=dict)
    # Bytes of the arguments and results, each read or written once, which is the minimum that has to move; 0 if
    # operations decide the time.
    moved: int = 0

    @property
    def mode(self) -> str | None:
        """The mode in which the other framework is fastest, by median."""
        return min(self.theirs, key=lambda mode: self.theirs[mode].median) if self.theirs else None

    def record(self) -> Record:
        """Return the row for the table and for JSON: times in ms, rates in GFLOP/s and GB/s.

        A ratio is the other framework's time by Foveal's, above 1 where Foveal is faster.
        """
        # The other framework in its fastest mode.
        theirs = self.theirs[self.mode] if self.mode else None
        best = min(times.best for times in self.theirs.values()) if self.theirs else None
        # Rates, as far as there is something to count.
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


def check_same(what: str, ours: ArrayLike, theirs: ArrayLike, tolerance: float, other_name: str = "torch") -> None:
    """Check that both contenders compute the same.

    Raises FovealError if shapes differ, or if an element differs by more than the share `tolerance` of the largest
    value. what: the row's name, for the message.
    """
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
    """Return the floating-point operations of a simplified graph, 2 per multiply-add, of operators that count them.

    Convolutions count as direct ones, products with the zeros of the padding included, as is usual: the number does not
    depend on the algorithm, and Winograd's may exceed the peak.
    """
    return sum(
        node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
        for node in graph.nodes
        if node.op is not None
    )
