"""The most this machine can multiply and add: what kernels are measured against."""

import ctypes
import time
from functools import cache
from typing import Any

import numpy as np

from foveal.execute import workers
from foveal.kernel.compile import ArraySpec, Kernel, native
from foveal.kernel.lang import fma, lanes, loop, parallel, registers, splat, var
from foveal.ops.op import contiguous

RUNS = 20  # of which the fastest counts; about 3 ms each
PARTS = 8  # of the work, per thread
STEPS = 50_000  # run-time iterations of a chain
UNROLL = 4  # steps of a chain in one iteration, so that the loop's own instructions do not count


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
    y, factors = (
        np.empty_like(x),
        np.array([0.5, 1.0], np.float32),
    )  # tends to 2: no denormals, no infinity
    specs = tuple(ArraySpec(a.shape, contiguous(a.shape)) for a in (y, x, factors))
    (address,) = native([Kernel(multiply_add_chains, specs, (("chains", chains),))])
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    table = np.array([a.ctypes.data for a in (y, x, factors)], np.int64)

    def once() -> float:
        before = time.perf_counter()
        part = lambda thread: run(table.ctypes.data, thread, threads)  # noqa: E731
        workers().run(threads, part, ended=lambda: True)
        return time.perf_counter() - before

    return 2 * x.size * STEPS * UNROLL / min(once() for _ in range(RUNS)) / 1e9
