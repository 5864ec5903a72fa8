"""Group, instance and layer norm of images channels last: whether numbers and bits are right, what is stored."""

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


def behind(norm, rank=4, **attributes):
    """A function x, dy -> the norm of tanh(x), which lies channels last, and its gradient; rank 3: of sequences."""

    def function(x, dy):
        y = ops.tanh(x)
        if rank == 3:
            y, dy = (ops.reshape(a, shape=(*a.shape[:2], -1)) for a in (y, dy))
        y = norm(y, **attributes)
        return [y, *gradients(y, [x], dy)]

    return function


# norm, shape of x
NORMS = {
    "groups": (behind(ops.group_norm, groups=4), (3, 32, 12, 11)),
    "odd groups": (behind(ops.group_norm, groups=7, eps=1e-3), (2, 21, 5, 7)),
    "wide groups": (behind(ops.group_norm, groups=2), (1, 74, 9, 9)),
    "many chunks": (behind(ops.group_norm, groups=5), (2, 45, 40, 37)),
    "one channel each": (behind(ops.standardize, axes=(2, 3)), (2, 35, 6, 6)),
    "whole images": (behind(ops.standardize, axes=(1, 2, 3), eps=1e-2), (5, 19, 8, 3)),
    "sequences": (behind(ops.group_norm, rank=3, groups=3), (4, 18, 1, 29)),
}


def drawn(shape, mean=0.0):
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(shape) + mean).astype(np.float32), rng.standard_normal(shape).astype(np.float32)]


def check(graph, xs, results):
    for got, want in zip(results, graph.evaluate(*(x.astype(np.float64) for x in xs)), strict=True):
        assert abs(got - want).max() <= 1e-5 * abs(want).max()


@pytest.mark.parametrize("name", NORMS)
def test_norms_go_by_channels_with_the_same_bits_on_any_number_of_threads(name):
    function, shape = NORMS[name]
    graph, xs = trace(function, Type(shape), Type(shape)), drawn(shape)
    program, first = checks.on_any_threads(graph, xs)
    check(graph, xs, first)
    anchors = [group.anchor.op for group in program.groups if group.anchor]
    assert anchors == [ops.group_moments]


@pytest.mark.parametrize("width", [target.host(), *SECOND.values()], ids=["host", *SECOND])
@pytest.mark.parametrize("name", ["groups", "odd groups"])
def test_norms_in_vectors_of_every_width(name, width):
    function, shape = NORMS[name]
    graph, xs = trace(function, Type(shape), Type(shape)), drawn(shape)
    with target.assume(width):
        program = build(graph, threads=1)
        for results in (program.run(*xs), program.interpret(*xs)):
            check(graph, xs, results)


@pytest.mark.parametrize("at_end", [True, False])
def test_norms_end_where_their_arrays_end(at_end):
    for function, shape in NORMS.values():
        graph = trace(function, Type(shape), Type(shape))
        build(graph, threads=2, allocate=allocator(at_end)).run(*drawn(shape))


def test_a_large_mean_costs_no_digits():
    x, _ = drawn((2, 24, 16, 16), 30.0)
    graph = trace(lambda x: ops.group_norm(x * 2.0, groups=6), Type(x.shape))
    check(graph, [x], build(graph, threads=1).run(x))
    constant = np.full(x.shape, 100.3, np.float32)
    assert not build(graph, threads=1).run(constant)[0].any()


def test_images_as_they_are_given_and_few_pixels_do_not_go_by_channels():
    for function, shape in (
        (lambda x: ops.group_norm(x, groups=2), (16, 8, 6, 6)),
        (lambda x: ops.group_norm(ops.tanh(x), groups=2), (16, 8, 2, 2)),
    ):
        groups = stages_of(simplify(trace(function, Type(shape)))).groups
        assert all(group.anchor is None for group in groups)


def test_no_product_is_stored_to_be_summed():
    """Behind a convolution's gradient the sums of dy and of dy y are a pass over dy and x."""

    def function(x, w, scale, dy):
        y = ops.group_norm(ops.tanh(x), groups=4) * ops.reshape(scale, shape=(1, 16, 1, 1))
        return gradients(ops.conv2d(ops.relu(y), w, padding=1), [x, scale], dy)

    shape = (4, 16, 14, 14)
    types = [Type(s) for s in (shape, (8, 16, 3, 3), (16,), (4, 8, 14, 14))]
    graph = trace(function, *types)
    groups = stages_of(simplify(graph)).groups
    (anchored,) = [group for group in groups if group.anchor and group.anchor.op is ops.conv2d_input_grad]
    assert [node.shape for node in anchored.results] == [shape, (16,)]
    xs = [np.random.default_rng(0).standard_normal(t.shape).astype(np.float32) for t in types]
    check(graph, xs, build(graph, threads=2).run(*xs))
