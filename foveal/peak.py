"""The most this machine can multiply and add, and copy: what kernels are measured against."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from foveal.kernel.compile import ArraySpec, Kernel, native
from foveal.kernel.lang import LINE, fma, lanes, loop, parallel, registers, splat, var, vectors
from foveal.strides import Ndarray, contiguous
from foveal.workers import aligned, workers

RUNS = 20  # of which the fastest counts; about 3 ms each
PARTS = 8  # of the work, per thread
STEPS = 50_000  # run-time iterations of a chain
UNROLL = 4  # steps of a chain in one iteration, so that the loop's own instructions do not count

COPY_RUNS = 8  # of which the fastest counts
COPY_BYTES = 1 << 26  # moved in a run at least, so that starting the threads does not count


def multiply_add_chains(y: Any, x: Any, factors: Any, *, chains: int) -> None:
    """y[t,i] = x[t,i] after many steps y <- y m + b with factors = (m, b): multiply-adds on registers, nothing else."""
    width = lanes()
    for (t,) in parallel(y.shape[0]):
        m, b = splat(factors[0], width), splat(factors[1], width)
        values = [var(x.load((t, c * width), width), width) for c in range(chains)]
        for _ in loop(STEPS):
            for _ in range(UNROLL):
                for value in values:
                    value.set(fma(value.get(), m, b))
        for c, value in enumerate(values):
            y.store((t, c * width), value, width)


@cache
def peak(threads: int) -> float:
    """GFLOP/s of fused multiply-adds on full vectors, on that number of threads: the best of several runs.

    The chains are independent and more than latency times units (4 x 2, on some ARM 4 x 4) need.
    """
    chains = registers() * 3 // 4
    x = np.zeros((PARTS * threads, chains * lanes()), np.float32)
    y, factors = (np.empty_like(x), np.array([0.5, 1.0], np.float32))  # tends to 2: no denormals, no infinity
    fastest = best_of(RUNS, multiply_add_chains, [y, x, factors], threads, chains=chains)
    return 2 * x.size * STEPS * UNROLL / fastest / 1e9


def copies(y: Any, x: Any, *, times: int) -> None:
    """y = x, then x = y, `times` times over; each thread copies a part of its own."""
    parts, size = x.shape
    for (p,) in parallel(parts):
        for _ in loop(times):
            for to, source in ((y, x), (x, y)):
                for i, width in vectors(size):
                    to.store_past_cache((p, i), source.load((p, i), width), width)


@cache
def copy_rate(threads: int, moved: int) -> float:
    """GB/s of reading and writing on that number of threads, where `moved` bytes are read or written in all.

    As in STREAM's copy a byte counts when it is read and when it is written. Arrays that fit in a cache are copied from
    there: an operator on as many bytes, run again and again, finds them there too. Through the cache or past it,
    whichever
    is faster.
    """
    row = max(moved // 2 // 4 // threads // LINE, 1) * LINE
    x, y = (aligned(4 * threads * row).view(np.float32).reshape(threads, row) for _ in range(2))
    times = max(1, COPY_BYTES // (4 * x.nbytes))
    seconds = min(best_of(COPY_RUNS, copies, [y, x], threads, streamed, times=times) for streamed in (False, True))
    return 4 * x.nbytes * times / seconds / 1e9


def best_of(
    runs: int, body: Callable[..., None], arrays: Sequence[Ndarray], threads: int, streamed: bool = False, **static: int
) -> float:
    """Seconds of a kernel's fastest run on the arrays, on that number of threads."""
    specs = tuple(ArraySpec(a.shape, contiguous(a.shape), streamed=streamed) for a in arrays)
    (address,) = native([Kernel(body, specs, tuple(static.items()))])
    table = np.array([*(a.ctypes.data for a in arrays), 0], np.int64)

    def once() -> float:
        before = time.perf_counter()
        workers().run(threads, address, table.ctypes.data)
        return time.perf_counter() - before

    return min(once() for _ in range(runs))
