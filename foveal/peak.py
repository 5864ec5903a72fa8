"""The peak of this machine in arithmetic and in copying memory: what kernels are measured against."""

import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from foveal import forks
from foveal.kernel.builder import PARALLEL_LOOPS
from foveal.kernel.compile import ArraySpec, Kernel, native
from foveal.kernel.lang import LINE, Array, fma, lanes, loop, parallel, registers, splat, var, vectors
from foveal.strides import Ndarray, contiguous
from foveal.workers import aligned, workers

# Arithmetic: runs of about a third of a millisecond, so short that some are undisturbed where other programs want the
# processor too, of which the fastest counts; parts of the work per thread; run-time iterations of a chain, and steps in
# each, enough that the loop's own instructions do not count.
RUNS = 200
PARTS = 8
STEPS = 5_000
UNROLL = 4

# Copying: runs, of which the fastest counts; bytes moved in each, enough that starting the threads does not count.
COPY_RUNS = 8
COPY_BYTES = 1 << 26


def multiply_add_chains(y: Array, x: Array, factors: Array, *, chains: int, steps: int) -> None:
    """y[t,i] = x[t,i] after many steps y <- y m + b with factors = (m, b): multiply-adds on registers, nothing else."""
    width = lanes()
    for (t,) in parallel(y.shape[0]):
        m, b = splat(factors[0], width), splat(factors[1], width)
        values = [var(x.load((t, c * width), width), width) for c in range(chains)]
        for _ in loop(steps):
            for _ in range(UNROLL):
                for value in values:
                    value.set(fma(value.get(), m, b))
        for c, value in enumerate(values):
            y.store((t, c * width), value, width)


@cache
def peak(threads: int) -> float:
    """Return the GFLOP/s of fused multiply-adds on full vectors on that number of threads: the best of several runs.

    The chains are independent, and there are more of them than latency x units: 4 cycles x 2 units, on some ARM 4 x 4.
    """
    chains = registers() * 3 // 4
    x = np.zeros((PARTS * threads, chains * lanes()), np.float32)
    # The values tend to 2, so that they become neither denormal nor infinite.
    y, factors = np.empty_like(x), np.array([0.5, 1.0], np.float32)
    fastest = best_of(RUNS, multiply_add_chains, [y, x, factors], threads, chains=chains, steps=STEPS)
    return 2 * x.size * STEPS * UNROLL / fastest / 1e9


def copies(y: Array, x: Array, *, times: int) -> None:
    """y = x, then x = y, `times` times over. x, y: [parts, size]; each thread copies parts of its own."""
    parts, size = x.shape
    for (p,) in parallel(parts):
        for _ in loop(times):
            for target, source in ((y, x), (x, y)):
                for i, width in vectors(size):
                    target.store_past_cache((p, i), source.load((p, i), width), width)


@cache
def copy_rate(threads: int, moved: int) -> float:
    """Return the GB/s of copying on that number of threads, if `moved` bytes are read or written in all.

    As in STREAM's copy a byte counts when it is read and when it is written. Arrays that fit in a cache are copied from
    there: an operator on as many bytes, run again and again, finds them there too. Through the cache or past it,
    whichever is faster.
    """
    row = max(moved // 2 // 4 // threads // LINE, 1) * LINE
    x, y = (aligned(4 * threads * row).view(np.float32).reshape(threads, row) for _ in range(2))
    times = max(1, COPY_BYTES // (4 * x.nbytes))
    seconds = min(best_of(COPY_RUNS, copies, [y, x], threads, streamed, times=times) for streamed in (False, True))
    return 4 * x.nbytes * times / seconds / 1e9


# held while something is timed: two threads that measure at once would take each other's time
_measuring = forks.Locked()


def best_of(
    runs: int, body: Callable[..., None], arrays: Sequence[Ndarray], threads: int, streamed: bool = False, **static: int
) -> float:
    """Return the seconds of a kernel's fastest run on the arrays, on that number of threads."""
    specs = tuple(ArraySpec(a.shape, contiguous(a.shape), streamed=streamed) for a in arrays)
    code = native([Kernel(body, specs, tuple(static.items()))])
    counters = np.zeros(PARALLEL_LOOPS * threads, np.int64)
    arguments = np.array([*(a.ctypes.data for a in arrays), counters.ctypes.data], np.int64)
    record = np.array([code.addresses[0], arguments.ctypes.data, 0], np.int64)

    def once() -> float:
        counters[:] = 0
        before = time.perf_counter()
        workers().run(threads, record.ctypes.data, 1)
        return time.perf_counter() - before

    with _measuring.lock:
        return min(once() for _ in range(runs))
