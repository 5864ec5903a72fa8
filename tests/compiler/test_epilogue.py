"""What convolutions take over of what follows: how many kernels are left, and that the numbers stay the same."""

from dataclasses import replace

import numpy as np
import pytest
from stages import stages_of

from foveal import nn, ops
from foveal.autodiff import gradients
from foveal.build import build
from foveal.kernel.target import assume, host
from foveal.nn.models.resnet import BasicBlock
from foveal.ops.batch_norm import per_channel
from foveal.ops.op import Type
from foveal.passes.simplify import simplify
from foveal.trace import trace

IMAGE, FILTERS, CHANNELS = Type((2, 20, 3, 7)), Type((20, 20, 3, 3)), Type((20,))


def drawn(types, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(t.shape).astype(np.float32) for t in types]


def same_numbers(graph, xs, limit=2e-5):
    """The program, whose outputs equal NumPy's in float64, in bits on every number of threads, and interpreted."""
    wants = graph.evaluate(*(x.astype(np.float64) for x in xs))
    programs = [build(graph, threads=threads) for threads in (1, 2, 3)]
    for program in programs:
        program.arena[:] = 255
    results = [program.run(*xs) for program in programs]
    programs[0].arena[:] = 255
    for *natives, interpreted, want in zip(*results, programs[0].interpret(*xs), wants, strict=True):
        for got in (natives[0], interpreted):
            assert abs(got - want).max() <= limit * max(abs(want).max(), 1e-3)
        assert {got.tobytes() for got in natives} == {natives[0].tobytes()}
    return programs[0]


def groups(function, *types, limit=2e-5):
    """What each kernel of a function computes, with the numbers checked."""
    program = same_numbers(trace(function, *types), drawn(types), limit)
    return [group.what() for group in program.groups]


def conv(x, w, **how):
    return ops.conv2d(x, w, padding=1, **how)


def test_bias_and_relu_end_a_convolution():
    def layer(x, w, b):
        y = conv(x, w)
        return ops.relu(y + per_channel(b, y))

    assert groups(layer, IMAGE, FILTERS, CHANNELS) == ["conv2d add relu -> f32[2,20,3,7]"]


@pytest.mark.parametrize("stride", [1, 2])
def test_inference_of_batch_norm_ends_a_convolution(stride):
    def layer(x, w, mean, var, gamma, beta):
        return ops.relu(ops.batch_norm_inference(conv(x, w, stride=stride), mean, var * var, gamma, beta, eps=0.1))

    scale, layer_group = groups(layer, IMAGE, FILTERS, *[CHANNELS] * 4)
    assert scale == "multiply add sqrt divide -> f32[20]"
    assert layer_group.startswith("conv2d subtract multiply add relu -> f32[2,20,")


def test_a_residual_is_added_where_the_convolution_is_stored():
    def layer(x, w, skip):
        return ops.relu(conv(x, w) + skip)

    assert groups(layer, IMAGE, FILTERS, IMAGE) == ["conv2d add relu -> f32[2,20,3,7]"]


def test_what_somebody_else_needs_is_stored_too():
    def layer(x, w, skip):
        y = conv(x, w)
        z = ops.relu(y + skip)
        return z, conv(y, w), conv(z, w)

    first, *others = groups(layer, IMAGE, FILTERS, IMAGE)
    assert first == "conv2d add relu -> f32[2,20,3,7], f32[2,20,3,7]"
    assert others == ["conv2d -> f32[2,20,3,7]"] * 2


def test_what_is_made_of_a_stored_value_alone_is_computed_again():
    def layer(x, w):
        y = conv(x, w)
        again = ops.relu(y)
        return conv(y, w), ops.sum(again, axes=(1,)), ops.max(again * 2.0, axes=(2,))

    found = groups(layer, IMAGE, FILTERS)
    assert found[0] == "conv2d -> f32[2,20,3,7]"
    assert sorted(what.split(" ->")[0] for what in found[1:]) == ["conv2d", "relu multiply max", "relu sum"]


def test_what_is_made_of_a_value_that_is_not_stored_is_not_left_to_who_sums_it():
    """The convolution's own output is in no memory, its tanh is: their product cannot be computed again."""

    def layer(x, w):
        y = conv(x, w)
        gate = ops.tanh(y)
        return [gate, ops.sum(y * gate, axes=(2, 3))]

    convolution, total = groups(layer, IMAGE, FILTERS)
    assert convolution == "conv2d tanh multiply -> f32[2,20,3,7], f32[2,20,3,7]"
    assert total == "sum -> f32[2,20]"


def test_statistics_are_taken_while_the_output_is_written():
    def layer(x, w, gamma, beta):
        return ops.relu(ops.batch_norm(conv(x, w), gamma, beta))

    assert groups(layer, IMAGE, FILTERS, CHANNELS, CHANNELS) == [
        "conv2d channel_moments -> f32[2,20,3,7], f32[2,20]",
        "add sqrt divide -> f32[20]",
        "subtract multiply add relu -> f32[2,20,3,7]",
    ]


def test_a_gradient_is_masked_and_summed_while_it_is_written():
    """d of conv(relu(batch_norm(x))): mask, d beta and d gamma in the gradient's epilogue, then one pass for dx."""

    def slopes(x, gamma, beta, w, dy):
        return gradients(conv(ops.relu(ops.batch_norm(x, gamma, beta)), w), [x, gamma, beta], dy)

    found = groups(slopes, IMAGE, CHANNELS, CHANNELS, FILTERS, IMAGE, limit=1e-4)
    on_images = [what for what in found if "2,20,3,7" in what]
    assert on_images == [
        "conv2d_input_grad subtract multiply add relu where multiply multiply sum sum"
        " -> f32[2,20,3,7], f32[20], f32[20]",
        "subtract subtract multiply multiply subtract multiply -> f32[2,20,3,7]",
    ]


def depthwise_slopes(stride, activation):
    """Gradients of a depthwise convolution of a normalised image, and their types, by whether it is normalised."""
    shape, filters, channels = (2, 19, 9, 10), (19, 1, 3, 3), Type((19,))

    def slopes(x, gamma, beta, w, dy):
        y = activation(ops.batch_norm(x, gamma, beta))
        return gradients(ops.conv2d(y, w, stride=stride, padding=1, groups=19), [x, gamma, beta, w], dy)

    out = (2, 19, -(-9 // stride), -(-10 // stride))
    return slopes, (Type(shape), channels, channels, Type(filters), Type(out))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_both_gradients_of_a_depthwise_convolution_are_one_kernel(stride):
    """The input of the convolution is computed from what the mask reads."""
    slopes, types = depthwise_slopes(stride, lambda y: ops.clip(y, low=0.0, high=6.0))
    found = groups(slopes, *types, limit=1e-4)
    assert [what for what in found if "conv2d" in what] == [
        "conv2d_input_grad subtract multiply add clip greater greater where where multiply multiply sum sum"
        " conv2d_weight_grad -> f32[2,19,9,10], f32[19], f32[19], f32[19,1,3,3]"
    ]


@pytest.mark.parametrize("shape", [(4, 16), (8, 16), (16, 32)], ids=str)
def test_both_gradients_of_a_depthwise_convolution_at_every_width(shape):
    width, registers = shape
    slopes, types = depthwise_slopes(2, ops.silu)
    graph, xs = trace(slopes, *types), drawn(types)
    with assume(replace(host(), lanes=width, registers=registers)):
        same_numbers(graph, xs, limit=1e-4)


def test_the_gradient_in_depthwise_weights_reads_an_image_that_nobody_computes():
    def slopes(x, w, dy):
        return gradients(ops.conv2d(x, w, padding=1, groups=20), [x, w], dy)

    assert groups(slopes, IMAGE, Type((20, 1, 3, 3)), IMAGE) == [
        "conv2d_input_grad conv2d_weight_grad -> f32[2,20,3,7], f32[20,1,3,3]"
    ]


def test_gradients_of_different_depthwise_convolutions_stay_apart():
    """The same dy comes from two convolutions with other windows."""

    def slopes(x, v, w, dy):
        dx = ops.conv2d_input_grad(dy, w, padding=1, groups=20, image_size=(3, 7))
        return dx, ops.conv2d_weight_grad(dy, x, padding=(2, 0, 1, 1), groups=20, kernel_size=(3, 3)), v

    found = groups(slopes, IMAGE, CHANNELS, Type((20, 1, 3, 3)), IMAGE)
    assert sorted(found) == ["conv2d_input_grad -> f32[2,20,3,7]", "conv2d_weight_grad -> f32[20,1,3,3]"]


def test_an_epilogue_reads_few_images():
    def layer(x, w, *more):
        y = conv(x, w)
        for z in more:
            y = ops.relu(y * z)
        return y

    first, second = groups(layer, IMAGE, FILTERS, *[IMAGE] * 6)
    assert first == f"conv2d{' multiply relu' * 4} -> f32[2,20,3,7]"
    assert second == "multiply relu multiply relu -> f32[2,20,3,7]"


def test_two_convolutions_that_meet_are_added_in_the_later_one():
    def layer(x, a, b):
        return conv(x, a) + conv(x, b)

    assert groups(layer, IMAGE, FILTERS, FILTERS) == ["conv2d -> f32[2,20,3,7]", "conv2d add -> f32[2,20,3,7]"]


def test_what_waits_for_the_sums_is_no_part_of_the_epilogue():
    def layer(x, w):
        y = conv(x, w)
        total = ops.sum(y * y, axes=(0, 2, 3))
        return y * per_channel(total, y)

    assert groups(layer, IMAGE, FILTERS, limit=1e-4) == [
        "conv2d multiply sum -> f32[2,20,3,7], f32[20]",
        "multiply -> f32[2,20,3,7]",
    ]


@pytest.mark.parametrize("stride", [1, 2])
def test_training_a_residual_block(stride):
    """Forward: a convolution with its moments, a pass that normalises. Backward: a gradient with its sums, a pass."""
    nn.seed(0)
    block = BasicBlock(16, 16, stride)
    x = Type((4, 16, 8, 8))

    def slopes(x, dy):
        parameters = [x.trace.lift(p) for p in block.parameters()]
        return gradients(block(x), [x, *parameters], dy)

    graph = trace(slopes, x, Type((4, 16, 8 // stride, 8 // stride)))
    program = build(graph, threads=2)
    images = [g for g in program.groups if len(g.domain) == 4 and g.domain[0] == 4]
    assert [g.kind for g in images].count("anchored") == (4 if stride == 1 else 6)
    assert [g.kind for g in images].count("reduce") <= 1
    xs = drawn([a.type for a in graph.arguments], 1)
    unfused = build(graph, threads=1, tuned=False).run(*xs)
    for got, want in zip(program.run(*xs), unfused, strict=True):
        assert abs(got - want).max() <= 1e-4 * abs(want).max()


# pooling


def pooled(x, gamma, beta, **window):
    return ops.max_pool2d(ops.relu(ops.batch_norm(x, gamma, beta)), **window)


WINDOWS = [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2, "stride": 3}]
LARGE = Type((3, 20, 9, 8))


@pytest.mark.parametrize("window", WINDOWS)
def test_norm_and_relu_are_computed_while_pooling_reads(window):
    found = groups(lambda x, g, b: pooled(x, g, b, **window), LARGE, CHANNELS, CHANNELS)
    assert [what.split(" ->")[0] for what in found] == [
        "channel_moments",
        "add sqrt divide",
        "subtract multiply add relu max_pool2d",
    ]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_gradient_of_pooling_is_masked_and_summed_while_it_is_written(window):
    def slopes(x, gamma, beta, scale):
        y = pooled(x, gamma, beta, **window)
        return gradients(ops.sum(y * y * per_channel(scale, y)), [x, gamma, beta])

    found = groups(slopes, LARGE, CHANNELS, CHANNELS, CHANNELS, limit=1e-4)
    # overlapping windows keep the places of their maxima, others find the maxima again
    again = window == {"kernel_size": 2}
    assert sum("max_pool2d_place -> f32" in what for what in found) == (not again)
    (gradient,) = (what for what in found if "max_pool2d_grad" in what or "max_pool2d_put" in what)
    relu = "subtract multiply add relu"
    start = f"{relu} max_pool2d_grad" if again else f"max_pool2d_put {relu}"
    assert gradient.startswith(f"{start} where multiply multiply")
    assert gradient.endswith("sum sum -> f32[3,20,9,8], f32[20], f32[20]")
    assert sum("[3,20,9,8]" in what for what in found) == 2


def test_average_pooling_computes_what_it_reads_and_ends_in_what_follows():
    def layer(x, y):
        return ops.relu(ops.avg_pool2d(x * y - 0.1, kernel_size=2) - 0.2)

    assert groups(layer, LARGE, LARGE) == ["multiply subtract avg_pool2d subtract relu -> f32[3,20,4,4]"]


def test_windows_that_overlap_much_compute_nothing_again():
    found = groups(lambda x: ops.max_pool2d(ops.exp(x), kernel_size=3, stride=1), LARGE)
    assert [what.split(" ->")[0] for what in found] == ["exp", "max_pool2d"]


def test_the_largest_is_nan_where_one_is():
    x = np.zeros((1, 3, 4, 4), np.float32)
    x[0, 1, 2, 3], x[0, 2] = np.nan, -np.inf
    y = build(trace(lambda x: ops.max_pool2d(x, kernel_size=2), Type(x.shape)), threads=1).run(x)[0]
    assert np.isnan(y[0, 1, 1, 1])
    assert np.isnan(y).sum() == 1
    assert (y[0, 2] == -np.inf).all()


# the epilogue itself


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize(
    ("filters", "how"),
    [
        ((20, 20, 3, 3), {}),
        ((33, 20, 1, 1), {"padding": 0}),
        ((20, 1, 3, 3), {"groups": 20}),
        ((40, 5, 3, 3), {"groups": 4, "stride": 2}),
    ],
)
def test_moments_lose_no_digits_by_a_large_mean(filters, how, mean):
    def layer(x, w):
        y = ops.conv2d(x, w, **{"padding": 1, **how}) + mean
        return y, ops.channel_moments(y), ops.sum(y * 2.0, axes=(0, 2, 3))

    types = [Type((3, 20, 5, 7)), Type(filters)]
    graph, xs = trace(layer, *types), drawn(types)
    program = same_numbers(graph, xs)
    assert [g.kind for g in program.groups] == ["anchored"]
    y, moments, _ = program.run(*xs)
    variance = y.astype(np.float64).var(axis=(0, 2, 3))
    np.testing.assert_allclose(moments[1], variance, rtol=1e-4 if mean else 1e-5)


def test_the_gradient_in_x_ends_in_the_same_way():
    def slope(dy, w, skip, scale):
        dx = ops.conv2d_input_grad(dy, w, stride=2, padding=1, image_size=(6, 14))
        dx = ops.where(skip, dx + skip, 0.0) * per_channel(scale, skip)
        return dx, ops.sum(dx, axes=(0, 2, 3)), ops.sum(dx * skip, axes=(0, 2, 3))

    types = [IMAGE, FILTERS, Type((2, 20, 6, 14)), CHANNELS]
    program = same_numbers(trace(slope, *types), drawn(types))
    assert [g.kind for g in program.groups] == ["anchored"]


def test_sums_alone_store_the_output_once():
    assert groups(lambda x, w: ops.sum(conv(x, w), axes=(0, 2, 3)), IMAGE, FILTERS) == [
        "conv2d sum -> f32[2,20,3,7], f32[20]"
    ]


def test_plain_kernels_have_no_epilogue():
    graph = simplify(trace(lambda x, w: ops.relu(conv(x, w)), IMAGE, FILTERS))
    assert [g.kind for g in stages_of(graph, tuned=False).groups] == ["anchored", "pointwise"]


def test_extras_may_lie_in_any_layout():
    def layer(x, w, flat, row):
        return conv(x, w) * flat.reshape(*IMAGE.shape) + row

    assert groups(layer, IMAGE, FILTERS, Type((2, 20 * 21)), Type((7,))) == ["conv2d multiply add -> f32[2,20,3,7]"]
