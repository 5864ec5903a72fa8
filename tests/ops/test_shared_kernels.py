"""Kernels that differ in sizes only share one code: layers of other widths, other batch sizes, other image sizes."""

import numpy as np
import pytest
from stages import stages_of

import foveal
from foveal import nn, ops, optim, view
from foveal.graph import Type
from foveal.kernel import compile as kernels
from foveal.kernel.target import host
from foveal.ops.kernels.conv import conv1x1, winograd_weight_grad_shared
from foveal.ops.kernels.pointwise import rows_of
from foveal.ops.kernels.sizes import CallSizes, numbers_apart
from foveal.passes.simplify import simplify

# Kernels of pointwise groups, reductions, matrix products, moments, packing, sums of parts, labels, 1x1 convolutions
# and their gradients in weights take sizes from their calls.
BY_CALL = {
    "reduce",
    "multiply",
    "one_hot_rows",
    "swap_channels",
    "pointwise",
    "chunk_moments",
    "merge_chunks",
    "pack_panels",
    "add_chunks",
    "combine_tasks",
    "correlate_1x1",
    "transposed_product",
}

# The other convolutions take the number of images from their calls, and minimal filtering takes all sizes of images.
BY_BATCH = {"winograd", "winograd_weight_grad", "transform_tiles", "multiply_points", "depthwise", "correlate"}
BY_BATCH |= {"weight_grad_depthwise", "correlate_batch"}
BY_SIZE = {"winograd", "winograd_weight_grad", "transform_tiles", "multiply_points"}


@pytest.fixture(autouse=True)
def caches_of_any_size(monkeypatch):
    """Nothing is too large for a cache: what does not fit has code of its own."""
    monkeypatch.setattr(view, "min_streamed_bytes", lambda: 1 << 40)
    monkeypatch.setattr(conv1x1, "exceeds_l2", lambda image: False)


def codes(net, batch, size, names=BY_CALL):
    """By the name of a kernel: the codes that a training step needs, of the kernels with these names."""
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Momentum(net.parameters(), lr=0.1))
    graph = step.trace(Type((batch, 3, size, size), "float32"), Type((batch,), "int32"))
    calls = stages_of(simplify(graph)).lowered.calls
    found = {}
    for kernel in (kernel for call in calls for kernel in call.kernels):
        if kernel.name in names:
            found.setdefault(kernel.name, set()).add(kernels.key(kernel, host()))
    return found


def network(*widths):
    """1x1 convolutions with norms, then a mean over each image."""
    layers, channels = [], 3
    for width in widths:
        layers += [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def convolutions():
    """3x3 convolutions with strides 2 and 1, over large and over small images, and a depthwise one."""
    layers = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.MaxPool2d(4), nn.Conv2d(16, 32, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))


def news(first, second):
    """The kernels that the second step needs and the first does not have, by name."""
    return {name: len(keys - first.get(name, set())) for name, keys in second.items() if keys - first.get(name, set())}


def test_another_batch_size_needs_no_other_code():
    net = network(32, 64)
    assert news(codes(net, 24, 8), codes(net, 48, 8)) == {}


def test_another_image_size_needs_no_other_code():
    net = network(32, 64)
    others = BY_CALL - {"reduce"}
    assert news(codes(net, 24, 8, others), codes(net, 24, 12, others)) == {}
    # sums over more than BLOCK pixels in a row are cut into blocks, by other code
    assert news(codes(net, 24, 8), codes(net, 24, 10)) == {}


def test_another_batch_size_needs_no_other_code_of_poolings_masks_and_small_products():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
    )
    names = {"max_windows", "gather_windows", "max_grad_disjoint", "mean_windows", "dropout_in_order"}
    first = codes(net, 16, 16, {*names, "dot_products", "one_hot_rows"})
    assert names < first.keys()
    assert news(first, codes(net, 15, 16, {*names, "dot_products", "one_hot_rows"})) == {}


def test_convolutions_of_another_batch_size_need_no_other_code():
    # so many images that all blocks of tiles are whole
    net = convolutions()
    one = codes(net, 384, 16, BY_BATCH)
    assert {"winograd", "winograd_weight_grad", "depthwise", "correlate"} <= set(one)
    assert news(one, codes(net, 480, 16, BY_BATCH)) == {}


def test_minimal_filtering_of_another_image_size_needs_no_other_code():
    # all of whose sizes are multiples of a tile's
    net = convolutions()
    assert news(codes(net, 384, 64, BY_SIZE), codes(net, 384, 96, BY_SIZE)) == {}


def test_weight_gradients_of_shared_tiles_need_no_other_code_of_another_size(monkeypatch):
    monkeypatch.setattr(winograd_weight_grad_shared, "fits", lambda *_: True)
    names = {"transform_chunk", "add_products", "add_panels", "store_gradient", "transform_tiles"}
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 96, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(96, 5))
    one = codes(net, 384, 16, names)
    assert names == set(one)
    assert news(one, codes(net, 480, 16, names)) == news(one, codes(net, 384, 32, names)) == {}


def test_layers_that_differ_in_their_channels_share_kernels():
    # products know their numbers of features
    names = BY_CALL - {"multiply"}
    one, other = codes(network(64, 96, 128), 24, 8, names), codes(network(96, 64, 160), 24, 8, names)
    assert news(one, other) == {}


def test_a_constant_is_a_number_of_the_call_unless_it_is_zero():
    steps = (("constant", (("value", 0.25),), ()), ("constant", (("value", 0.0),), ()), ("where", (), (0, 1, 2)))
    kept, results, numbers = numbers_apart(1, steps, (3,), ())
    assert numbers == (0.25,)
    assert [name for name, *_ in kept] == ["constant", "where"]
    assert kept[-1][2] == (0, 1, 2)
    assert results == (3,)


def test_what_is_computed_from_constants_alone_is_a_number():
    steps = (("constant", (("value", 3.0),), ()), ("multiply", (), (1, 1)), ("add", (), (0, 2)))
    kept, results, numbers = numbers_apart(1, steps, (3,), ())
    assert (kept, results, numbers) == ((("add", (), (0, 1)),), (2,), (9.0,))


def test_sizes_of_one_name_and_value_are_one():
    sizes = CallSizes()
    assert sizes.of(7, "rows") == sizes.of(7, "rows")
    assert sizes.of(7, "columns") != sizes.of(7, "rows")
    assert sizes.of(8, "rows") != sizes.of(7, "rows")
    assert sizes.values == [7, 7, 8]


@pytest.mark.parametrize(("n", "rest"), [(64, 0), (7, 7), (71, 7)])
def test_what_is_left_by_whole_blocks_is_part_of_the_code(n, rest):
    assert rows_of((n,), [(1,)], 1).rest == rest


@pytest.mark.parametrize(
    ("shape", "axes"), [((7, 5, 40), (0, 1)), ((300, 33), (0,)), ((9, 70), (1,)), ((2, 200, 3), (1,))]
)
def test_any_sizes_are_reduced_right(shape, axes):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for threads in (1, 3):
        foveal.set_threads(threads)
        y = foveal.compile(lambda x: ops.sum(x * x + 0.3, axes=axes))(x)
        np.testing.assert_allclose(y, (x.astype(np.float64) ** 2 + 0.3).sum(axis=axes), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 40, 30), (7, 9, 33), (40, 21, 50), (13, 64, 10), (30, 5, 16)])
def test_products_of_any_sizes_are_right(shape):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    for threads in (1, 3):
        foveal.set_threads(threads)
        y = foveal.compile(ops.matmul)(a, b)
        np.testing.assert_allclose(y, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 40), (70, 33), (1, 31), (129,), (4, 100, 3), (1000, 40)])
def test_any_sizes_are_computed_right(shape):
    rng = np.random.default_rng(0)
    x, scale = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[-1:]).astype(np.float32)
    for threads in (1, 3):
        foveal.set_threads(threads)
        y = foveal.compile(lambda x, s: x * s + 0.3)(x, scale)
        np.testing.assert_allclose(y, x * scale + np.float32(0.3), rtol=1e-6, atol=1e-6)
