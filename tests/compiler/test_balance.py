"""How calls divide among threads: what is counted, what is predicted of it, and what DEBUG=2 says."""

import re

import numpy as np
import pytest

import foveal
from foveal import debug, ops
from foveal.balance import Section, divide, divided, sections
from foveal.kernel import counting
from foveal.kernel import target as targets
from foveal.kernel.compile import ArraySpec, Kernel, Size
from foveal.kernel.lang import loop, parallel, parallel_vectors
from foveal.kernel.maths import tanh
from foveal.ops.op import Operator
from foveal.profile import call_seconds, division


def several(y, x, *, n):
    """A parallel loop of n x 3 iterations, one over vectors with a tail, one without iterations."""
    for i, j in parallel(n, 3):
        y[i] = x[j]
    for _ in loop(4):
        y[0] = x[0]
    for i, width in parallel_vectors(x.shape[0]):
        y.store((i,), x.load((i,), width), width)
    for _ in parallel(0):
        y[0] = x[1]


@pytest.mark.parametrize("length", [37, Size(0)])
def test_iterations_of_parallel_loops(length):
    spec = ArraySpec((length,), (1,))
    kernel = Kernel(several, (spec, spec), (("n", Size(1)),), sizes=2)
    # 37 = 9 vectors of 4 lanes, and a tail
    assert counting.parallel_iterations(kernel, (37, 5), targets.SSE) == (15, 9, 1)
    assert counting.parallel_iterations(kernel, (37, 2), targets.AVX2) == (6, 4, 1)


def section(*loops):
    return Section(0, len(loops), loops)


@pytest.mark.parametrize(
    ("loops", "seconds", "threads", "span"),
    [
        # one call: its iterations in turns
        ([(8,)], [8], 2, 4),
        ([(11,)], [11], 2, 6),
        ([(11,)], [11], 8, 2),
        ([(1,)], [1], 64, 1),
        ([()], [1], 2, 1),
        ([(1000,)], [1], 64, 16 / 1000),
        # two calls without a barrier between them
        ([(1,), (1,)], [1, 1], 2, 1),
        ([(1,), (2,)], [3, 2], 2, 3),
        ([(1,), (3,)], [1, 3], 2, 2),
        ([(1,), (1,), (1,)], [1, 1, 1], 2, 2),
        # the second one fills what the first one leaves
        ([(1,), (100,)], [1, 3], 2, 2),
        ([(1,), (1000,)], [1, 7], 8, 1),
        ([(1,), (1000,)], [3, 2], 4, 3),
        # loops of one call, whose iterations are taken to be alike
        ([(13, 1)], [14], 2, 7),
    ],
)
def test_how_long_threads_take(loops, seconds, threads, span):
    one = section(*loops)
    assert one.span(seconds, threads) == pytest.approx(span)
    assert one.span(seconds, 1) == pytest.approx(sum(seconds))
    assert one.lost(seconds, threads) == pytest.approx(1 - sum(seconds) / threads / span)


def test_work_is_kept_however_it_is_divided():
    rng = np.random.default_rng(0)
    for _ in range(200):
        threads, iterations = rng.integers(1, 9), int(rng.integers(1, 200))
        free = rng.choice([0.0, 1.0, 2.5], threads).tolist()
        after = divided(list(free), iterations, 0.125)
        assert sum(after) == pytest.approx(sum(free) + iterations * 0.125)
        assert max(after) <= max(max(free), sum(free) / threads + iterations * 0.125 / threads + 0.125) + 1e-9


def test_what_is_lost_is_told_by_section():
    found = [Section(0, 1, ((1,),)), Section(1, 3, ((1,), (1,))), Section(3, 4, ((3,),)), Section(4, 5, ((64,),))]
    how = divide(found, [1.0, 2.0, 2.0, 4.0, 8.0], 2)
    assert (how.barriers, how.single, how.single_seconds, how.worst_single) == (4, 1, 1.0, 0)
    # three pieces take as long as four
    assert (how.lost_seconds, how.worst_lost) == (pytest.approx(1.0), 3)


@pytest.fixture
def alone():
    class Alone(Operator):
        """y = tanh(tanh(tanh(x))), by one thread."""

        name, arity, differentiable = "alone", 1, False

        def normalise(self, x):
            return {}

        def shape(self, x):
            return x

        def numpy(self, x):
            return np.tanh(np.tanh(np.tanh(x)))

        def kernel(self, y, x):
            for _ in parallel(1):
                for i in loop(x.shape[0]):
                    y[i] = tanh(tanh(tanh(x[i])))

    return Alone()


def test_debug_tells_what_is_not_shared(alone, capsys):
    x = np.ones(200_000, np.float32)
    function = foveal.compile(lambda x: ops.exp(alone(x)).sum(), threads=2)
    with debug.at(debug.TIME):
        function(x)
    *_, barriers, split = capsys.readouterr().err.splitlines()
    program = function.program(x)
    assert [len(one.loops) for one in sections(program)] == [1] * len(program.calls)
    assert re.fullmatch(
        rf"2 threads meet at {len(program.calls)} barriers and wait there [\d.]+% of the time, [\d.]+ us each time",
        barriers,
    )
    assert re.fullmatch(
        r"what cannot be split: [\d.]+% of the time, in 2 calls of one piece, most in \w+;"
        r" [\d.]+% is lost where pieces do not come out even on 2 threads(, most in \w+)?",
        split,
    )
    seconds, waits = call_seconds(program, 3)
    assert seconds.shape == waits.shape == (3, len(program.calls))
    assert (seconds > 0).all()
    # one of the threads waits as long as the other one works alone, or it is not there at all
    assert (waits[:, 0] > 0).all()
    # as it would be said of such times
    assert division(program, [3e-3, *[1e-3] * (len(program.calls) - 1)], 2e-3)[1].startswith(
        f"what cannot be split: {4 / (2 + len(program.calls)):.1%} of the time, in 2 calls of one piece, most in alone;"
    )


def test_one_thread_shares_nothing(alone, capsys):
    with debug.at(debug.TIME):
        foveal.compile(lambda x: ops.exp(alone(x)).sum(), threads=1)(np.ones(9, np.float32))
    assert "barriers and wait" not in capsys.readouterr().err
