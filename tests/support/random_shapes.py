"""Operators on shapes that nobody chose: native results against NumPy in float64, between guard pages, as a script.

`python random_shapes.py EXAMPLES OPERATOR...` draws that many shapes of each, always the same ones, and tells the
smallest that fails. Each is run in a process of its own, so that one that reads or writes outside of its buffers is
found and made smaller too.
"""

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import checks
import guard
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal.build import build
from foveal.ops import OPS
from foveal.ops.kernels.conv import select
from foveal.ops.kernels.conv.cost_model import Algorithm
from foveal.trace import trace

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Axis:
    """One of the two axes of an image and of the window that moves along it; at least one window fits."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int = 1

    @property
    def outputs(self) -> int:
        reach = (self.kernel - 1) * self.dilation + 1
        return (self.size + self.before + self.after - reach) // self.stride + 1


@dataclass(frozen=True)
class Convolution:
    """A convolution's sizes; `inputs` and `filters` are per group."""

    batch: int
    groups: int
    inputs: int
    filters: int
    rows: Axis
    columns: Axis
    seed: int


@dataclass(frozen=True)
class Pooling:
    batch: int
    channels: int
    rows: Axis
    columns: Axis
    seed: int


@dataclass(frozen=True)
class Product:
    m: int
    k: int
    n: int
    ta: bool
    tb: bool
    seed: int


seeds = st.integers(0, 2**16)


@st.composite
def convolution_axes(draw: Any) -> Axis:
    size, before, after = draw(st.integers(1, 20)), draw(st.integers(0, 4)), draw(st.integers(0, 4))
    whole = size + before + after
    kernel = min(draw(st.integers(1, 7)), whole)
    dilation = min(draw(st.integers(1, 3)), (whole - 1) // (kernel - 1) if kernel > 1 else 3)
    return Axis(size, kernel, draw(st.integers(1, 4)), before, after, dilation)


@st.composite
def pooling_axes(draw: Any) -> Axis:
    kernel = draw(st.integers(1, 5))
    before, after = (draw(st.integers(0, kernel // 2)) for _ in range(2))
    size = draw(st.integers(max(1, kernel - before - after), 20))
    return Axis(size, kernel, draw(st.integers(1, 4)), before, after)


@st.composite
def convolutions(draw: Any) -> Convolution:
    few, many = st.integers(1, 10), st.integers(1, 80)
    groups, inputs, filters = draw(
        st.one_of(
            st.tuples(st.just(1), many, many),
            st.tuples(st.integers(2, 8), few, few),
            st.tuples(many, st.just(1), st.just(1)),
            st.tuples(st.integers(2, 30), st.just(1), st.integers(2, 3)),
        )
    )
    rows, columns = draw(convolution_axes()), draw(convolution_axes())
    return Convolution(draw(st.integers(1, 5)), groups, inputs, filters, rows, columns, draw(seeds))


@st.composite
def filterings(draw: Any) -> tuple[Convolution, Algorithm]:
    """What minimal filtering is for, and a way to compute it, however slow it may be for the shape."""
    stride, channels = draw(st.integers(1, 2)), st.integers(1, 64)

    def axis() -> Axis:
        size, before = draw(st.integers(1, 20)), draw(st.integers(0, 4))
        return Axis(size, 3, stride, before, draw(st.integers(max(0, 3 - size - before), 4)))

    sizes = draw(st.integers(1, 5)), 1, draw(channels), draw(channels), axis(), axis(), draw(seeds)
    over = draw(st.sampled_from(("tiles", "filters")))
    algorithm = Algorithm(draw(st.sampled_from((2, 4))), draw(st.sampled_from((None, 5))), over)
    return Convolution(*sizes), algorithm


poolings = st.builds(Pooling, st.integers(1, 5), st.integers(1, 80), pooling_axes(), pooling_axes(), seeds)
products = st.builds(Product, *[st.integers(1, 150)] * 3, st.booleans(), st.booleans(), seeds)

# From sizes to inputs and attributes of an operator.


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Numbers]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def convolution(name: str, s: Convolution) -> tuple[list[Numbers], dict[str, Any]]:
    h, v = s.rows, s.columns
    x = (s.batch, s.groups * s.inputs, h.size, v.size)
    y = (s.batch, s.groups * s.filters, h.outputs, v.outputs)
    w = (s.groups * s.filters, s.inputs, h.kernel, v.kernel)
    shapes, size = {
        "conv2d": ((x, w), {}),
        "conv2d_input_grad": ((y, w), {"image_size": x[2:]}),
        "conv2d_weight_grad": ((y, x), {"kernel_size": w[2:]}),
    }[name]
    how = {
        "stride": (h.stride, v.stride),
        "padding": (h.before, h.after, v.before, v.after),
        "dilation": (h.dilation, v.dilation),
        "groups": s.groups,
    }
    return normal(s.seed, *shapes), how | size


def filtering(name: str, s: tuple[Convolution, Algorithm]) -> tuple[list[Numbers], dict[str, Any]]:
    """The inputs; that they are computed in the way drawn is noted where measured choices are."""
    name = name.removesuffix(FILTERED)
    arrays, how = convolution(name, s[0])
    problem = OPS[name].problem(*(a.shape for a in arrays), **OPS[name].normalise(*arrays, **how))
    assert problem is not None
    select.measured[problem.key] = s[1]
    return arrays, how


def pooling(name: str, s: Pooling) -> tuple[list[Numbers], dict[str, Any]]:
    h, v = s.rows, s.columns
    padding = (h.before, h.after, v.before, v.after)
    how = {"kernel_size": (h.kernel, v.kernel), "stride": (h.stride, v.stride), "padding": padding}
    x, dy = normal(s.seed, (s.batch, s.channels, h.size, v.size), (s.batch, s.channels, h.outputs, v.outputs))
    if name == "max_pool2d_grad":
        return [dy, x, OPS["max_pool2d"](x, **how)], how
    if name == "max_pool2d_put":
        return [dy, OPS["max_pool2d_place"](x, **how)], how | {"image_size": (h.size, v.size)}
    if name == "avg_pool2d_grad":
        return [dy], how | {"image_size": (h.size, v.size)}
    return [x], how


def matmul(name: str, s: Product) -> tuple[list[Numbers], dict[str, Any]]:
    a, b = (s.m, s.k), (s.k, s.n)
    shapes = (a[::-1] if s.ta else a, b[::-1] if s.tb else b)
    return normal(s.seed, *shapes), {"ta": s.ta, "tb": s.tb}


CONVOLUTIONS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
FILTERED = " by minimal filtering"
FILTERINGS = tuple(name + FILTERED for name in CONVOLUTIONS)
POOLINGS = ("max_pool2d", "max_pool2d_grad", "max_pool2d_put", "avg_pool2d", "avg_pool2d_grad")
# each is one process of the tests
GROUPS = (CONVOLUTIONS, FILTERINGS, (*POOLINGS, "matmul"))


def strategy_and_inputs(name: str) -> tuple[Any, Any]:
    if name in CONVOLUTIONS:
        return convolutions(), convolution
    if name in FILTERINGS:
        return filterings(), filtering
    return (products, matmul) if name == "matmul" else (poolings, pooling)


# The check


def check(name: str, arrays: list[Numbers], attributes: dict[str, Any]) -> None:
    """One thread before guard pages, two behind them: both near NumPy, and the same bits."""
    op = OPS[name.removesuffix(FILTERED)]
    graph = trace(lambda *symbols: op(*symbols, **attributes), *checks.types(arrays))
    (want,) = graph.evaluate(*checks.double(arrays))
    # both are kept until both have run: they share the machine code, which is nowhere else
    programs = [
        build(graph, threads=threads, allocate=guard.allocator(at_end)) for threads, at_end in ((1, True), (2, False))
    ]
    got = [program.run(*arrays)[0] for program in programs]
    largest = max(np.max(abs(want)), typical(graph, arrays))
    wrong = np.max(abs(got[0] - want)) / max(largest, 1e-30)
    assert wrong <= checks.limit(op), f"{name}: off by {wrong:.2g} of the largest value"
    assert got[0].tobytes() == got[1].tobytes(), f"{name}: other bits on two threads"


def typical(graph: Any, arrays: list[Numbers]) -> float:
    """What the largest of many outputs would at least be: the deviation of a sum of products of normal numbers.

    The one output of a small shape may be near zero because its terms happen to cancel, which is no error.
    """
    (squares,) = graph.evaluate(*(np.square(x) for x in checks.double(arrays)))
    return float(np.sqrt(np.max(abs(squares))))


def in_a_child(name: str, arrays: list[Numbers], attributes: dict[str, Any]) -> None:
    """`check` in a fork of this process; raises AssertionError with what was wrong there."""
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            check(name, arrays, attributes)
            status = 0
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode()[:4000])
        finally:
            os._exit(status)
    os.close(tell)
    with os.fdopen(told) as messages:
        message = messages.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status >= 0, f"{name}: signal {-status}: outside of its buffers"
    assert status == 0, message


def search(name: str, examples: int) -> None:
    """Raises AssertionError for the smallest sizes found that fail."""
    strategy, inputs = strategy_and_inputs(name)

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def holds(sizes: Any) -> None:
        in_a_child(name, *inputs(name, sizes))

    holds()


def main(examples: str, *names: str) -> None:
    """Search all of them, and only then say which have failed."""
    failed = []
    for name in names:
        try:
            search(name, int(examples))
        except Exception:
            traceback.print_exc()
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
