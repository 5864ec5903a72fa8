"""The layout pass: what of a training step is converted, and that the kernels copy what the plan lists and nothing
else.
"""

import numpy as np
import pytest
from stages import stages_of

import foveal
from foveal import debug, nn, optim
from foveal.build import build
from foveal.graph import Graph
from foveal.handover import MIN_CHANNELS, fill
from foveal.lower import Lowered
from foveal.nn import models
from foveal.ops import add, conv2d, max_pool2d, relu, reshape
from foveal.ops import sum as total
from foveal.ops.kernels.pointwise import pointwise
from foveal.ops.kernels.reorder import squares, strips
from foveal.ops.op import Type
from foveal.passes.layout import LayoutPlan
from foveal.passes.simplify import simplify
from foveal.strides import channels_last, contiguous, dense, filters_last, reshaped_strides
from foveal.trace import trace, tracing
from foveal.variable import Variable

NETWORKS = {  # channels, size, and what is copied: the flattening of more than one pixel per image, there and back
    "lenet5": (1, (28, 28), {("max_pool2d", (4, 400)), ("reshape", (4, 16, 5, 5))}),
    "resnet20": (3, (32, 32), set()),
    "vgg16-cifar": (3, (32, 32), set()),
    "mobilenet_v2": (3, (64, 64), set()),
    "airbench94": (3, (32, 32), set()),
}


def training_step(model: nn.Module, channels: int, size: tuple[int, int], optimiser=optim.Momentum):
    step = foveal.compile_step(model, nn.CrossEntropyLoss(), optimiser(model.parameters(), lr=0.1))
    return simplify(step.trace(Type((4, channels, *size)), Type((4,), "int32")))


def copies(lowered: Lowered) -> int:
    """Calls that only move values."""
    statics = [c.kernel.static for c in lowered.calls if c.kernel.body is pointwise]
    reordered = sum(call.kernel.body in (strips, squares) for call in lowered.calls)
    return reordered + sum(dict(static)["steps"] == () for static in statics)


def planned(layout: LayoutPlan) -> int:
    return sum(not conversion.fused for conversion in layout.conversions)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tuned", [True, False], ids=["tuned", "plain"])
def test_training_converts_at_the_edges_alone(name, tuned):
    channels, size, edges = NETWORKS[name]
    model = models.build(name, channels=channels, size=size, classes=10)
    graph = training_step(model, channels, size)
    stages = stages_of(graph, tuned)
    plan = stages.layout
    found = set()
    for conversion in plan.conversions:
        assert not conversion.fused, conversion
        node = conversion.node
        flattened = next((to for to, x in plan.reads if x is node and to.op is reshape), node)
        found.add((str(node.op), flattened.shape))
    assert found == edges
    assert copies(stages.lowered) == planned(plan) == len(edges)
    assert not plan.late
    assert len(plan.in_place) == len(graph.updates)
    inputs = {node.variable: node for node in graph.variables}
    for variable, value in graph.updates:
        assert plan.in_place[value] is inputs[variable]
        assert plan.strides[value] == variable.strides
    for group in stages.groups:
        for node in group.results:
            strides = plan.strides[node]
            if len(node.shape) == 4 and str(node.op) == "conv2d_weight_grad":
                assert strides == filters_last(node.shape)
            elif group.kind == "anchored" and len(node.shape) == 4 and node is group.anchor:
                assert strides == channels_last(node.shape)


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.Adam])
def test_optimisers_update_in_place(optimiser):
    model = models.build("lenet5", channels=1, size=(28, 28), classes=10)
    graph = training_step(model, 1, (28, 28), optimiser)
    plan = stages_of(graph).layout
    assert not plan.late
    assert len(plan.in_place) == len(graph.updates)


def graph_of(function, *shapes) -> Graph:
    return simplify(trace(function, *map(Type, shapes)))


def test_one_copy_serves_all_readers():
    def function(x, w):
        image = reshape(x, shape=(2, 3, 6, 6))
        return conv2d(image, w, padding=1), max_pool2d(image, kernel_size=2)

    stages = stages_of(graph_of(function, (2, 108), (5, 3, 3, 3)))
    assert [str(c.node.op) for c in stages.layout.conversions] == ["reshape"]
    assert len(stages.layout.reads) == 2
    assert copies(stages.lowered) == 1


def test_filters_that_are_computed_keep_the_layout_of_filters():
    w = Variable(np.random.default_rng(1).standard_normal((5, 3, 3, 3)).astype(np.float32), "w")
    with tracing() as recording:
        x = recording.argument(Type((2, 3, 6, 6)), "x")
        graph = recording.graph([conv2d(x, relu(recording.lift(w)), padding=1)])
    program = build(graph)
    assert program.layout.conversions == []
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    (y,) = program.run(x)
    np.testing.assert_allclose(y, graph.evaluate(x)[0], rtol=1e-5, atol=1e-5)


def test_what_a_kernel_reads_across_its_layout_is_listed():
    def function(x, y):
        return relu(add(x, reshape(y, shape=(2, 3, 6, 6))))

    stages = stages_of(graph_of(function, (2, 3, 6, 6), (2, 108)))
    (conversion,) = stages.layout.conversions
    assert conversion.fused
    assert str(conversion) == ("reshape f32[2,3,6,6]: C order read as channels last, by add relu -> f32[2,3,6,6]")
    assert copies(stages.lowered) == 0


def test_reductions_read_across_too():
    def function(x, y):
        return total(add(x, reshape(y, shape=(2, 3, 6, 6))), axes=(0, 2, 3))

    stages = stages_of(graph_of(function, (2, 3, 6, 6), (2, 108)))
    assert [c.fused for c in stages.layout.conversions] == [True]


def test_outputs_that_are_variables_keep_what_was_there_before():
    """Values that lie in a variable, directly or through a view, are read before it is overwritten."""
    a = Variable(np.zeros(4, np.float32), "a")
    b = Variable(np.ones((2, 2), np.float32), "b")
    with tracing() as recording:
        x = recording.argument(Type((2, 2)), "x")
        old, values = recording.lift(b), recording.lift(a)
        recording.assign(a, reshape(old, shape=(4,)))
        recording.assign(b, add(old, x))
        graph = recording.graph([reshape(old, shape=(4,)), values])
    program = build(graph)
    flat, values = program.run(np.full((2, 2), 5, np.float32))
    assert (flat == 1).all()
    assert (values == 0).all()
    assert (a.data == 1).all()
    assert (b.data == 6).all()
    plan = program.layout
    assert len(plan.late) == 2
    assert copies(program.lowered) == planned(program.layout)


def test_images_that_are_only_flattened_stay_as_they_come():
    stages = stages_of(graph_of(lambda x: relu(reshape(x, shape=(2, 108))), (2, 3, 6, 6)))
    assert stages.lowered.arguments[0].strides == contiguous((2, 3, 6, 6))
    assert stages.layout.conversions == []
    assert copies(stages.lowered) == 0


def test_debug_shows_the_layout(capsys):
    with debug.at(debug.GRAPH):
        build(graph_of(lambda x: reshape(max_pool2d(x, kernel_size=2), shape=(2, 27)), (2, 3, 6, 6)))
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "0 updates in place, 0 copied" in text
    assert "max_pool2d f32[2,3,3,3]: channels last copied as C order, to be reshaped" in text


def test_debug_shows_one_title_for_the_graph_and_the_values_of_sizes(capsys):
    with debug.at(debug.SOURCE):
        build(graph_of(lambda x, w: conv2d(x, w), (1, 8, 9, 9), (8, 8, 4, 4)), threads=1)
    text = capsys.readouterr().err
    assert "-- graph\n  x0 : f32[1,8,9,9], argument\n" in text
    calls = text.partition("-- calls\n")[2].partition("\n-- ")[0]
    assert "correlate([1, 6, 6, 8]" in calls
    assert "'bands': 1," in calls
    assert "Size(" not in calls


@pytest.mark.parametrize("channels", [1, 3, MIN_CHANNELS - 1, MIN_CHANNELS])
def test_arguments_are_filled_whatever_their_layout(channels):
    given = np.random.default_rng(0).standard_normal((2, channels, 5, 4)).astype(np.float32)
    for array in (given, np.ascontiguousarray(given.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        mine = np.zeros((2, 5, 4, channels), np.float32).transpose(0, 3, 1, 2)
        fill(mine, array)
        assert (mine == given).all()


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 4, 5), (1, 7, 1, 3)])
def test_reshaped_strides_name_the_same_elements(shape):
    """Every reshape that needs no copy, of every layout, against NumPy's own."""
    values = np.arange(np.prod(shape))
    for strides in {contiguous(shape), contiguous(shape[::-1])[::-1]}:
        assert dense(shape, strides)
        x = np.lib.stride_tricks.as_strided(values, shape, [s * 8 for s in strides])
        n = int(np.prod(shape))
        for first in (d for d in range(1, n + 1) if n % d == 0):
            to = (first, n // first)
            found = reshaped_strides(shape, strides, to)
            if found is None:
                assert strides != contiguous(shape)
            else:
                y = np.lib.stride_tricks.as_strided(values, to, [s * 8 for s in found])
                assert (y == x.reshape(to)).all()


def test_weights_of_a_whole_image_are_turned_to_its_order():
    """LayerNorm's [C, H, W] beside images with neighbouring channels: one small copy each, no gathering."""
    norm = nn.LayerNorm((16, 4, 4))
    norm.name_parameters()
    model = nn.Sequential(nn.Conv2d(3, 16, 1), norm)
    graph = simplify(trace(model.traced, Type((8, 3, 4, 4))))
    plan = stages_of(graph).layout
    assert [(c.node.name, c.wanted, c.fused) for c in plan.conversions] == [
        ("weight", (1, 64, 16), False),
        ("bias", (1, 64, 16), False),
    ]
    x = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
    norm.weight.data = np.random.default_rng(1).standard_normal(norm.weight.shape)
    double = [np.asarray(v.data, np.float64) for v in model.parameters()]
    w, b, scale, shift = double
    y = np.einsum("nchw,kc->nkhw", x, w[:, :, 0, 0]) + b[:, None, None]
    axes = (1, 2, 3)
    y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + norm.eps)
    np.testing.assert_allclose(model(x), y * scale + shift, atol=2e-5)
