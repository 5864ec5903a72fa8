"""Graphs and the passes over them: printing, verification, simplification, fusion, memory and barriers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foveal
from foveal import nn, ops, optim
from foveal.build import build
from foveal.errors import ShapeError
from foveal.graph import Graph, Node
from foveal.nn.models.resnet import BasicBlock
from foveal.ops.batch_norm import per_channel
from foveal.ops.op import Type
from foveal.passes.plan_memory import ALIGNMENT, Lifetime, plan_memory
from foveal.passes.simplify import simplify
from foveal.scheduling import needed_barriers
from foveal.trace import trace
from foveal.variable import Variable

IMAGE = Type((2, 16, 6, 6))
CHANNELS = Type((16,))


def names(graph):
    return [str(node.op) for node in graph.nodes if node.op is not None]


def kinds(program):
    return [group.kind for group in program.groups]


# Graph


def test_a_graph_prints_as_its_own_grammar():
    graph = trace(lambda x, w: ops.relu(ops.matmul(x, w)) + 1.0, Type((2, 3)), Type((3, 4)), names=("x", "w"))
    assert str(graph).splitlines() == [
        "graph",
        "  x : f32[2,3], argument",
        "  w : f32[3,4], argument",
        "  %0 = matmul(x, w, ta=False, tb=False) : f32[2,4]",
        "  %1 = relu(%0) : f32[2,4]",
        "  %2 = constant(value=1.0) : f32[]",
        "  %3 = add(%1, %2) : f32[2,4]",
        "  return %3",
    ]


def test_variables_and_updates_print():
    linear = nn.Linear(3, 2)
    step = foveal.compile_step(linear, nn.CrossEntropyLoss(), optim.SGD(linear.parameters(), 0.1), threads=1)
    text = str(step.trace(Type((4, 3)), Type((4,), "int32")))
    assert "  weight : f32[2,3], variable" in text
    assert "  weight <- %" in text
    assert "  target : i32[4], argument" in text


def test_a_variable_is_read_and_written_in_place():
    total = foveal.Variable(np.zeros(3), "total")

    def add(x):
        from foveal.trace import current

        current().assign(total, current().lift(total) + x)
        return current().lift(total) * 10.0

    program = build(trace(add, Type((3,))), threads=1)
    first, second = (program.run(np.array([1.0, 2.0, 3.0]))[0] for _ in range(2))
    assert (first.tolist(), second.tolist()) == ([10, 20, 30], [20, 40, 60])
    assert total.data.tolist() == [2, 4, 6]


def test_verify_finds_what_is_wrong():
    good = trace(lambda x: ops.relu(x) + x, Type((3,)))
    assert good.verify() is good
    x, relu, add = good.nodes
    with pytest.raises(AssertionError, match="add uses a value that is computed later or never"):
        replace(good, nodes=(x, add, relu)).verify()
    with pytest.raises(AssertionError, match="computed later or never"):
        replace(good, nodes=(x, add)).verify()
    with pytest.raises(AssertionError, match="not among the nodes"):
        replace(good, outputs=(Node(None, (), {}, Type((3,))),)).verify()
    wrong = replace(relu, type=Type((4,)))
    with pytest.raises(AssertionError, match=r"relu gives f32\[3\], the node says f32\[4\]"):
        Graph((x, wrong), (x,), (wrong,)).verify()
    with pytest.raises(AssertionError, match="is updated with"):
        replace(good, updates=((foveal.Variable(np.zeros(4)), add),)).verify()


def test_the_type_of_equal_calls_is_computed_once(monkeypatch):
    asked = []
    shape_of = type(ops.relu).shape

    def shape(self, *shapes, **attributes):
        asked.append(shapes)
        return shape_of(self, *shapes, **attributes)

    monkeypatch.setattr(type(ops.relu), "shape", shape)
    # a shape that no other test has
    graph = simplify(trace(lambda x: ops.relu(ops.relu(x)), Type((3, 1213))))
    assert graph.verify().nodes[-1].type == Type((3, 1213))
    assert asked == [((3, 1213),)]


def test_the_users_of_a_node_are_found_once_for_each_graph():
    graph = trace(lambda x: ops.relu(x) + x, Type((3,)))
    x, relu, add = graph.nodes
    assert graph.users == {x: [relu, add], relu: [add], add: []}
    assert graph.users is graph.users
    assert replace(graph, nodes=(x, relu), outputs=(relu,)).users == {x: [relu], relu: []}


def test_what_nothing_needs_is_left_out():
    assert names(trace(lambda x: (ops.exp(x), ops.relu(x))[1], Type((3,)))) == ["relu"]


def test_the_truth_of_a_symbol_is_refused():
    with pytest.raises(ShapeError, match="where"):
        trace(lambda x: x if x > 0.0 else -x, Type((3,)))


def test_an_array_inside_of_a_traced_function_is_refused():
    with pytest.raises(ShapeError, match=r"foveal\.Variable"):
        trace(lambda x: ops.add(x, np.ones(3)), Type((3,)))


# simplify


def test_equal_nodes_are_shared():
    graph = simplify(trace(lambda x: ops.exp(x) * 2.0 + ops.exp(x) * 2.0, Type((3,))))
    assert sorted(names(graph)) == ["add", "constant", "exp", "multiply"]


def test_different_attributes_are_not_shared():
    def both(x):
        return ops.max_pool2d(x, kernel_size=2) + ops.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    assert names(simplify(trace(both, IMAGE))).count("max_pool2d") == 2


def test_composites_are_expanded():
    graph = simplify(trace(lambda x, t: ops.softmax_cross_entropy(x, t), Type((4, 5)), Type((4,), "int32")))
    assert not [node for node in graph.nodes if node.op is not None and node.op.composite]


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: x + 0.0, []),
        (lambda x: 0.0 + x, []),
        (lambda x: x - 0.0, []),
        (lambda x: x * 1.0, []),
        (lambda x: 1.0 * x, []),
        (lambda x: x / 1.0, []),
        (lambda x: x.reshape(2, 3), []),
        (lambda x: x.reshape(6).reshape(3, 2).reshape(2, 3), []),
        (lambda x: ops.broadcast_to(x, shape=(2, 3)), []),
        (lambda x: ops.sum(x.reshape(2, 1, 3), axes=(1,)), []),
        (lambda x: x * (ops.exp(0.0 * ops.constant(value=2.0)) + 2.0), ["constant", "multiply"]),
        (lambda x: 0.0 - x, ["constant", "subtract"]),
        (lambda x: 1.0 / x, ["constant", "divide"]),
    ],
)
def test_constants_are_folded_and_neutral_operations_left_out(function, left):
    traced = trace(function, Type((2, 3)))
    graph = simplify(traced)
    assert names(graph) == left
    x = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_allclose(graph.evaluate(x)[0], traced.evaluate(x)[0])


def test_zeros_of_either_sign_are_two_constants():
    """They are equal, but what is divided by them is not."""
    graph = trace(lambda x: (1.0 / ops.maximum(x, 0.0), 1.0 / ops.where(x, x, -0.0)), Type((4,)))
    with np.errstate(divide="ignore"):
        _, low = simplify(graph).evaluate(np.zeros(4))
    np.testing.assert_array_equal(low, np.full(4, -np.inf))


def test_simplifying_twice_changes_nothing_more():
    step = foveal.compile_step(
        model := nn.models.build("small", channels=1, size=(8, 8), classes=3),
        nn.CrossEntropyLoss(),
        optim.Momentum(model.parameters(), 0.1),
    )
    once = simplify(step.trace(Type((4, 1, 8, 8)), Type((4,), "int32")))
    assert str(simplify(once)) == str(once)


# fuse: how many kernels


def calls(function, *types):
    """The kernels of a function, by group; their results are compared with NumPy's."""
    graph = trace(function, *types)
    program = build(graph, threads=1)
    rng = np.random.default_rng(0)
    xs = [rng.uniform(0.5, 1.5, t.shape).astype(np.float32) for t in types]
    for got, want in zip(program.run(*xs), graph.evaluate(*xs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return kinds(program)


def test_bias_and_relu_are_one_kernel():
    assert calls(lambda x, b: ops.relu(x + per_channel(b, x)) * 2.0, IMAGE, CHANNELS) == ["pointwise"]


def test_bias_and_relu_are_part_of_a_convolution():
    def layer(x, w, b):
        y = ops.conv2d(x, w, padding=1)
        return ops.relu(y + per_channel(b, y))

    assert calls(layer, IMAGE, Type((8, 16, 3, 3)), Type((8,))) == ["anchored"]


def test_batch_norm_inference_residual_and_relu_are_one_kernel_on_the_image():
    def block(x, skip, mean, var, gamma, beta):
        return ops.relu(ops.batch_norm_inference(x, mean, var, gamma, beta) + skip)

    program = build(trace(block, IMAGE, IMAGE, *[CHANNELS] * 4), threads=1)
    assert [g.domain for g in program.groups if g.domain == IMAGE.shape] == [IMAGE.shape]
    assert set(calls(block, IMAGE, IMAGE, *[CHANNELS] * 4)) == {"pointwise"}


def test_reductions_over_the_same_values_share_one_pass():
    def moments(x):
        return ops.sum(x, axes=(0, 2, 3)), ops.sum(x * x, axes=(0, 2, 3))

    assert calls(moments, IMAGE) == ["reduce"]


def test_a_reduction_takes_what_it_reduces_along():
    assert calls(lambda x: ops.sum(ops.exp(x) * 2.0, axes=(1,)), Type((5, 40))) == ["reduce"]


def test_a_value_that_is_read_again_and_returned_is_written_once():
    assert calls(lambda x: (y := ops.exp(x), ops.relu(y) + 1.0), Type((5, 40))) == ["pointwise"]


def test_views_are_no_kernels():
    assert calls(lambda x: x.reshape(6, 4), Type((4, 6))) == []
    assert calls(lambda x: x[1] + x[0], Type((2, 40))) == ["pointwise"]


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_writes_parameter_and_velocity_in_one_kernel(nesterov):
    linear = nn.Linear(3, 2, bias=False)
    optimizer = optim.Momentum(linear.parameters(), 0.1, nesterov=nesterov, weight_decay=0.1)
    step = foveal.compile_step(linear, nn.CrossEntropyLoss(), optimizer, threads=1)
    program = step.program(np.zeros((4, 3), np.float32), np.zeros(4, int))
    written = [
        {view.buffer.variable.name for view in call.views[: call.outputs] if view.buffer.variable is not None}
        for call in program.calls
    ]
    assert [names for names in written if names] == [{"weight", "weight.velocity"}]
    (updating,) = (call for call, names in zip(program.calls, written, strict=True) if names)
    assert updating.outputs == 2


def test_adam_writes_all_of_a_parameter_in_one_kernel():
    linear = nn.Linear(3, 2, bias=False)
    step = foveal.compile_step(linear, nn.CrossEntropyLoss(), optim.Adam(linear.parameters()), threads=1)
    program = step.program(np.zeros((4, 3), np.float32), np.zeros(4, int))
    groups = [g for g in program.groups if set(g.results) & {v for _, v in program.graph.updates}]
    assert [len(group.results) for group in groups] == [3]


def test_small_updates_of_one_shape_share_a_kernel_and_others_do_not_wait_for_each_other():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    step = foveal.compile_step(model, nn.CrossEntropyLoss(), optim.Momentum(model.parameters(), 0.1), threads=2)
    program = step.program(np.zeros((2, 4), np.float32), np.zeros(2, int))
    values = {value for _, value in program.graph.updates}
    writing = [bool(set(g.results) & values) for g in program.groups]
    sizes = [len(g.results) for g in program.groups[-4:]]
    assert writing == [False] * (len(writing) - 4) + [True] * 4
    assert sorted(sizes) == [2, 2, 4, 4]  # (4, 4) and (4,) twice, (3, 4) and (3,): parameter and velocity
    assert sum(program.schedule.barriers[-5:-1]) == 1  # behind the last gradient


def test_inference_of_a_residual_block_is_two_convolutions():
    block = BasicBlock(16, 16, 1).eval()
    program = foveal.compile(block.forward, threads=1).program(np.zeros(IMAGE.shape, np.float32))
    on_images = [g.kind for g in program.groups if g.domain == IMAGE.shape]
    assert on_images == ["anchored", "anchored"]


POINTWISE = st.sampled_from(["add", "multiply", "relu", "maximum", "sum", "broadcast", "channels", "reshape"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(POINTWISE, st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12),
    st.sets(st.integers(0, 11), min_size=1, max_size=3),
)
def test_any_fused_graph_computes_what_numpy_does(recipe, returned):
    """Chains that fork, join, reduce and broadcast, with several outputs: fusion never changes a result."""
    shape = (3, 4, 2, 5)

    def function(x, c):
        values = [x, x * per_channel(c, x)]
        for name, i, j in recipe:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append(
                {
                    "add": lambda a, b: a + b,
                    "multiply": lambda a, b: a * b * 0.5,
                    "relu": lambda a, b: ops.relu(a - 0.3),
                    "maximum": ops.maximum,
                    "sum": lambda a, b: a - ops.mean(b, axes=(0, 2, 3), keepdims=True),
                    "broadcast": lambda a, b: a * ops.max(b, axes=(1,), keepdims=True),
                    "channels": lambda a, b: a + per_channel(ops.sum(b, axes=(0, 2, 3)) * 0.1, a),
                    "reshape": lambda a, b: (a.reshape(3, 40) * 2.0).reshape(*shape) - b,
                }[name](a, b)
            )
        made = values[2:]
        return tuple(made[r % len(made)] for r in sorted(returned))

    graph = trace(function, Type(shape), Type((4,)))
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal(shape).astype(np.float32), rng.standard_normal(4).astype(np.float32)]
    wants = graph.evaluate(*(x.astype(np.float64) for x in xs))
    program = build(graph, threads=2)
    program.arena[:] = 255
    for got, want in zip(program.run(*xs), wants, strict=True):
        assert abs(got - want).max() <= 1e-5 * max(abs(w).max() for w in (*wants, np.ones(1)))


# memory and barriers


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 10)), max_size=40))
def test_buffers_alive_together_never_overlap(drawn):
    lifetimes = [Lifetime(size, first, first + length) for size, first, length in drawn]
    plan = plan_memory(lifetimes)
    for offset, mine in zip(plan.offsets, lifetimes, strict=True):
        assert offset % ALIGNMENT == 0
        assert offset >= 0
        assert offset + mine.size <= plan.size
    for i, a in enumerate(lifetimes):
        for j, b in enumerate(lifetimes[:i]):
            if a.first <= b.last and b.first <= a.last:
                apart = plan.offsets[i] + a.size <= plan.offsets[j] or plan.offsets[j] + b.size <= plan.offsets[i]
                assert apart or not a.size or not b.size
    most = max(
        (
            sum(-(-max(b.size, 1) // ALIGNMENT) * ALIGNMENT for b in lifetimes if b.first <= t <= b.last)
            for t in range(41)
        ),
        default=0,
    )
    assert most <= plan.size <= 2 * most


def test_memory_is_used_again():
    sizes = [plan_memory([Lifetime(640, i, i + 1) for i in range(n)]).size for n in (2, 20)]
    assert sizes == [1280, 1280]


def test_a_long_chain_needs_two_buffers():
    def chain(x, w):
        for _ in range(9):
            x = ops.matmul(x, w)
        return x

    program = build(trace(chain, Type((64, 64)), Type((64, 64))), threads=1)
    panels, values = 64 * 64 * 4, 64 * 64 * 4
    assert program.arena_plan.size <= panels + 3 * values


def test_every_call_that_reads_or_overwrites_waits():
    model = nn.models.build("small", channels=1, size=(8, 8), classes=3)
    step = foveal.compile_step(model, nn.CrossEntropyLoss(), optim.Momentum(model.parameters(), 0.1))
    program = step.program(np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, int))
    where = {
        b: (o, o + 4 * b.size) for b, o in zip(program.arena_plan.buffers, program.arena_plan.offsets, strict=True)
    }

    def overlap(a, b):
        if a in where and b in where and a is not b:
            return where[a][0] < where[b][1] and where[b][0] < where[a][1]
        return a is b or (a.variable is not None and a.variable is b.variable)

    since = []  # calls with no barrier behind them
    for call, barrier in zip(program.calls, needed_barriers(program.calls), strict=True):
        for other in since:
            for mine, theirs, one_writes in (
                (a.buffer, b.buffer, i < call.outputs or j < other.outputs)
                for i, a in enumerate(call.views)
                for j, b in enumerate(other.views)
            ):
                assert not (one_writes and overlap(mine, theirs)), (call.kernel.name, other.kernel.name)
        since = [] if barrier else [*since, call]
    assert sum(program.schedule.barriers) < len(program.calls)


def test_what_depends_on_parameters_alone_is_prepared_once_and_again_when_they_change():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("f4") for s in ((2, 3, 5, 5), (4, 3, 2, 2)))
    filters = Variable(w)
    program = foveal.compile(lambda x: ops.conv2d(x, filters)).program(x)
    assert [c.kernel.name for c in program.calls[: program.prepared]] == ["pack_panels"]
    for changed in (w, w + 1, w * 2):
        filters.data = changed
        for _ in range(2):
            program.arena[:] = 255
            (y,) = program.run(x)
            np.testing.assert_allclose(y, ops.conv2d(x, changed), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="read-only"):
        filters.data[0] = 0
