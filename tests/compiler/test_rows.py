"""Rows that one kernel makes all passes over: what becomes one kernel, what does not, and whether numbers are right."""

import checks
import numpy as np
import pytest
from stages import stages_of
from widths import SECOND

from foveal import ops
from foveal.autodiff import gradients
from foveal.build import build
from foveal.checking.guard_pages import allocator
from foveal.kernel import target
from foveal.ops.op import Type
from foveal.passes.simplify import simplify
from foveal.trace import trace


def both(op, **attributes):
    """A function x, dy -> the operator's output and its gradient."""

    def function(x, dy):
        y = op(x, **attributes)
        return [y, *gradients(y, [x], dy)]

    return function


def cross_entropy(x, labels):
    loss = ops.softmax_cross_entropy(x, labels)
    return [loss, *gradients(loss, [x])]


def drawn(*types):
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, t.shape[0] and 5, t.shape).astype(np.int32)
        if t.dtype == "int32"
        else (3 * rng.standard_normal(t.shape) + 1).astype(np.float32)
        for t in types
    ]


def pair(*shape):
    return Type(shape), Type(shape)


# function, types of its inputs, groups
FUSED = {
    "softmax": (both(ops.softmax, axis=-1), pair(37, 77), 1),
    "softmax of short rows": (both(ops.softmax, axis=1), pair(21, 5), 1),
    "softmax of channels": (both(ops.softmax, axis=1), pair(2, 19, 3, 4), 1),
    "softmax over an axis that rows cross": (both(ops.softmax, axis=1), pair(20, 6, 7), None),
    "log_softmax": (both(ops.log_softmax, axis=-1), pair(17, 301), 1),
    "cross-entropy": (cross_entropy, (Type((33, 10)), Type((33,), "int32")), 2),
    "cross-entropy of many classes": (cross_entropy, (Type((16, 1100)), Type((16,), "int32")), 2),
    "layer norm": (both(ops.standardize, axes=(1, 2)), pair(16, 3, 25), 1),
    "layer norm of images": (both(ops.standardize, axes=(1, 2, 3)), pair(16, 3, 5, 7), 1),
    "group norm of images as they are given": (both(ops.group_norm, groups=8), pair(4, 16, 5, 7), 1),
    "RMS norm of long rows": (both(ops.rms_norm, axes=-1), pair(16, 1500), 1),
    "L2 norm": (both(ops.lp_normalize), pair(16, 40), 1),
    "one row": (both(ops.softmax, axis=0), pair(1000), 1),
}


def check(name, wants, results):
    for got, want in zip(results, wants, strict=True):
        assert abs(got - want).max() <= 1e-5 * max(abs(want).max(), 1e-3), name


@pytest.mark.parametrize("name", FUSED)
def test_rows_are_one_kernel_with_the_same_bits_on_any_number_of_threads(name):
    function, types, count = FUSED[name]
    graph, xs = trace(function, *types), drawn(*types)
    wants = graph.evaluate(*(x.astype(np.float64) if x.dtype == np.float32 else x for x in xs))
    program, first = checks.on_any_threads(graph, xs)
    check(name, wants, first)
    assert count is None or [g.kind for g in program.groups if g.domain] == ["rows"] * count


@pytest.mark.parametrize("width", [target.host(), *SECOND.values()], ids=["host", *SECOND])
@pytest.mark.parametrize("name", ["softmax", "softmax of short rows", "cross-entropy", "layer norm of images"])
def test_rows_in_vectors_of_every_width(name, width):
    function, types, _ = FUSED[name]
    graph, xs = trace(function, *types), drawn(*types)
    wants = graph.evaluate(*(x.astype(np.float64) if x.dtype == np.float32 else x for x in xs))
    with target.assume(width):
        program = build(graph, threads=1)
        for results in (program.run(*xs), program.interpret(*xs)):
            check(name, wants, results)


@pytest.mark.parametrize("wide", [target.AVX512, target.NEON], ids=["AVX512", "NEON"])
def test_rows_interpreted_in_vectors_that_this_cpu_may_not_have(wide):
    function, types, _ = FUSED["softmax"]
    graph, xs = trace(function, *types), drawn(*types)
    wants = graph.evaluate(*(x.astype(np.float64) for x in xs))
    with target.assume(wide):
        (call,) = stages_of(simplify(graph)).lowered.calls
        arrays = [np.full(view.shape, np.nan, np.float32) for view in call.written]
        arrays += [x.copy() for x in xs]
        order = [call.read.index(view) for view in call.read]
        call.kernel.interpret([*arrays[: call.outputs], *(xs[i] for i in order)], call.numbers, call.sizes)
    check("softmax", wants, arrays[:2])


@pytest.mark.parametrize("at_end", [True, False])
def test_rows_end_where_their_arrays_end(at_end):
    for function, types, _ in FUSED.values():
        xs = drawn(*types)
        build(trace(function, *types), threads=2, allocate=allocator(at_end)).run(*xs)


def kinds(function, *types):
    return [group.kind for group in stages_of(simplify(trace(function, *types))).groups]


def test_a_maximum_that_broadcasting_puts_along_columns_is_not_a_row_s():
    """x [N, N] - max(x, axis=1): the maxima, without their axis, belong to columns."""
    square = Type((16, 16))
    crossed = trace(lambda x: x - ops.max(x, axis=1), square)
    assert [g.kind for g in stages_of(simplify(crossed)).groups] == ["reduce", "pointwise"]
    (x,) = drawn(square)
    np.testing.assert_array_equal(build(crossed, threads=1).run(x)[0], x - x.max(axis=1))
    assert kinds(lambda x: x - ops.max(x, axis=1, keepdims=True), square) == ["rows"]


def test_rows_that_do_not_fit_a_cache_or_are_too_few_are_shared_by_threads():
    assert kinds(lambda x: ops.softmax(x, axis=1), Type((64, 1 << 16))).count("rows") == 0
    assert kinds(lambda x: ops.softmax(x, axis=1), Type((2, 1 << 14))).count("rows") == 0


def test_what_others_read_is_stored_and_nothing_runs_between():
    """The maxima are an output, and a product of matrices needs the exponentials before their sums are divided by."""

    def function(x, w):
        e = ops.exp(x - ops.max(x, axis=1, keepdims=True))
        total = ops.sum(e, axis=1, keepdims=True)
        return [total, (e @ w) / total, e / ops.sum(e @ w, axis=1, keepdims=True)]

    types = Type((24, 24)), Type((24, 24))
    graph, xs = trace(function, *types), drawn(*types)
    program = build(graph, threads=1)
    check("between", graph.evaluate(*(x.astype(np.float64) for x in xs)), program.run(*xs))


@pytest.mark.parametrize("shape", [(16, 1), (1, 40), (1, 1)], ids=str)
def test_what_is_read_and_repeated_along_rows_is_stored(shape):
    """Repeated, a number for each row, for each column and for all are results beside what their rows give."""

    def function(x, y):
        repeated = ops.broadcast_to(x, shape=(16, 40))
        largest = ops.max(repeated * y, axis=1, keepdims=True)
        return [repeated, largest, ops.broadcast_to(largest, shape=(16, 40)), repeated - ops.sum(repeated, axis=1)[0]]

    types = Type(shape), Type((16, 40))
    graph, xs = trace(function, *types), drawn(*types)
    program = build(graph, threads=1)
    assert "rows" in [group.kind for group in program.groups]
    program.arena[:] = 255
    check("repeated", graph.evaluate(*(x.astype(np.float64) for x in xs)), program.run(*xs))


def test_exponentials_of_what_is_not_above_zero():
    """To 2 ULP, with 0 far below, and NaN for NaN; the same bits as exp where that is a normal number."""
    edges = [-0.0, 0.0, -np.inf, np.nan, -1e30, -1e-30, -87.33654, -88.0297, -88.03]
    x = np.concatenate([-np.linspace(0, 87.3, 1 << 16), edges]).astype(np.float32)
    graph = trace(lambda x: [ops.exp_to_zero(x), ops.exp(x)], Type(x.shape))
    got, other = build(graph, threads=1).run(x)
    want = np.exp(x.astype(np.float64))
    normal = want > np.finfo(np.float32).tiny
    assert (abs(got - want)[normal] <= 2 * np.spacing(want[normal].astype(np.float32))).all()
    assert got[normal].tobytes() == other[normal].tobytes()
    small = ~normal & ~np.isnan(x)
    assert np.isnan(got[np.isnan(x)]).all()
    assert (got[small] <= np.finfo(np.float32).tiny).all()
    assert (got[small] >= 0).all()


def distances(x, axes, keepdims=True):
    return x - ops.max(x, axis=axes, keepdims=keepdims)


# functions x [N, N] -> an exponential that only looks like one of what is not above 0
ABOVE_ZERO = {
    "maxima of rows along columns": lambda x: ops.exp(distances(x, 1, keepdims=False)),
    "rows far below the largest of all": lambda x: ops.exp(
        distances(x, None) - ops.log(ops.sum(ops.exp(distances(x, None)), axis=1, keepdims=True))
    ),
}


@pytest.mark.parametrize("name", ABOVE_ZERO)
def test_exponentials_above_zero_may_be_infinite(name):
    x = np.zeros((16, 16), np.float32)
    x[0] = -120
    graph = trace(ABOVE_ZERO[name], Type(x.shape))
    with np.errstate(over="ignore", divide="ignore"):
        (want,) = graph.evaluate(x)
    assert np.isinf(want).any()
    np.testing.assert_array_equal(build(graph, threads=1).run(x)[0], want)


@pytest.mark.parametrize("axes", [0, 1, (0, 1)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_exponentials_below_a_maximum_are_told_from_others(axes, keepdims):
    graph = simplify(trace(lambda x: ops.exp(distances(x, axes, keepdims)), Type((5, 5))))
    is_below = keepdims or axes != 1
    assert [node.op.name for node in graph.nodes if node.op in (ops.exp, ops.exp_to_zero)] == [
        "exp_to_zero" if is_below else "exp"
    ]


def test_infinite_and_missing_numbers_in_rows():
    x = np.zeros((16, 40), np.float32)
    x[1, 3], x[2], x[3, 4], x[4, :39] = np.nan, -np.inf, np.inf, -np.inf
    (y,) = build(trace(lambda x: ops.softmax(x, axis=1), Type(x.shape)), threads=1).run(x)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(y), np.isnan(ops.softmax.numpy(x, axis=1)))
    assert y[4].tolist() == [0.0] * 39 + [1.0]
