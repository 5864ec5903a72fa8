"""The convolution and product kernels beyond the operators' cases: epilogues of each one, and large shapes made small
by lowering the sizes that decide on the kernel."""

import dataclasses

import checks
import numpy as np
import pytest
import widths

from foveal import view
from foveal.build import build
from foveal.kernel import target
from foveal.ops import OPS
from foveal.ops.kernels import gemm, register_tile, transposed_product
from foveal.ops.kernels.conv import (
    conv1x1,
    depthwise,
    direct,
    direct_batch,
    direct_simd_batch,
    select,
    weight_grad_division,
    weight_grad_simd_batch,
)
from foveal.ops.kernels.epilogue import Epilogue, EpilogueOutputs
from foveal.ops.op import Case
from foveal.strides import channels_last, contiguous, filters_last
from foveal.view import Buffer, View


class Running:
    """A Lowering that runs each kernel at once, thread after thread, on memory of its own."""

    def __init__(self, threads):
        self.threads, self.memory, self.called = threads, {}, []

    def new(self, shape, strides, *, per_thread=False):
        view = View(Buffer(int(np.prod(shape)), per_thread=per_thread), shape, strides)
        size = view.buffer.size * (self.threads if per_thread else 1)
        self.memory[view.buffer] = np.full(size, np.nan, np.float32)
        return view

    def scratch(self, shape, *, per_thread=False):
        return self.new(shape, contiguous(shape), per_thread=per_thread)

    def holding(self, array, strides):
        view = self.new(array.shape, strides)
        self.array(view)[...] = array
        return view

    def array(self, view):
        shape = (self.threads, *view.shape[1:]) if view.buffer.per_thread else view.shape
        memory = self.memory[view.buffer][view.offset :]
        return np.lib.stride_tricks.as_strided(memory, shape, [4 * s for s in view.strides])

    def call(self, body, outputs, inputs, /, plain=False, **static):
        self.called.append(body.__name__)
        arrays = [self.array(view) for view in (*outputs, *inputs)]
        checks.run_kernel(body, arrays, plain, range(self.threads), self.threads, **static)


# body, x, w, stride, padding, dilation, groups
KERNELS = [
    ("correlate", (2, 3, 18, 14), (19, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("correlate", (1, 16, 5, 6), (70, 8, 3, 3), (2, 1), (1, 1, 0, 1), (1, 2), 2),
    # rows of taps that leave the image above and below; columns that do so to the left and right, where rows do not
    ("correlate", (2, 8, 11, 14), (19, 8, 5, 1), (2, 1), (4, 2, 0, 0), (2, 1), 1),
    ("correlate", (2, 18, 13, 14), (38, 9, 1, 7), (1, 1), (0, 0, 3, 3), (1, 1), 2),
    # more channels than one cut of any target
    ("correlate_1x1", (2, 421, 3, 5), (21, 421, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ("correlate_batch", (7, 9, 5, 4), (37, 9, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("correlate_batch", (17, 8, 4, 4), (6, 8, 5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 1),
    ("correlate_simd_batch", (47, 2, 7, 24), (5, 2, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("correlate_simd_batch", (32, 8, 4, 4), (18, 8, 5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 1),
    ("correlate_1x1", (3, 10, 5, 7), (39, 10, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ("depthwise", (2, 19, 12, 9), (19, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 19),
    ("depthwise", (2, 19, 4, 5), (19, 1, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 19),
    ("depthwise", (2, 19, 6, 8), (19, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 19),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("body", "x", "w", "stride", "padding", "dilation", "groups"), KERNELS)
def test_epilogue(body, x, w, stride, padding, dilation, groups, threads):
    check_epilogue(body, x, w, stride, padding, dilation, groups, threads)


@pytest.mark.parametrize("vectors", widths.SECOND)
@pytest.mark.parametrize(("body", "x", "w", "stride", "padding", "dilation", "groups"), KERNELS)
def test_epilogue_in_narrower_vectors(body, x, w, stride, padding, dilation, groups, vectors):
    """Whichever kernel is chosen for these: it may be another one than for the widest."""
    with target.assume(widths.SECOND[vectors]):
        check_epilogue(None, x, w, stride, padding, dilation, groups, threads=1)


def check_epilogue(body, x, w, stride, padding, dilation, groups, threads):
    """relu(sum + extra) is stored; sum + extra is summed up, and its mean and variance are taken, per channel."""
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    rng = np.random.default_rng(0)
    image, filters = (rng.standard_normal(shape).astype(np.float32) for shape in (x, w))
    attributes = OPS["conv2d"].normalise(image, filters, **how)
    want = OPS["conv2d"].numpy(*checks.double([image, filters]), **attributes)
    extra = rng.standard_normal(want.shape).astype(np.float32)
    want = want + extra + 100  # a large mean, near which the variance must not lose digits
    extra += 100

    to = Running(threads)
    y = to.new(want.shape, channels_last(want.shape))
    total, moments = to.scratch((want.shape[1],)), to.scratch((2, want.shape[1]))
    steps = (("add", (), (0, 1)), ("relu", (), (2,)))
    epilogue = Epilogue(steps, results=(3,), sums=(2,), moments=2)
    results = EpilogueOutputs([y], [to.holding(extra, channels_last(want.shape))], epilogue, [total], moments)
    views = (to.holding(image, channels_last(x)), to.holding(filters, filters_last(w)))
    select.direct_forward(to, results, *views, attributes["window"], groups)

    assert body is None or body in to.called
    assert checks.error(to.array(y), np.maximum(want, 0)) < checks.LIMIT
    assert checks.error(to.array(total), want.sum((0, 2, 3))) < checks.LIMIT
    mean, variance = to.array(moments)
    assert checks.error(mean, want.mean((0, 2, 3))) < checks.LIMIT
    assert checks.error(variance, want.var((0, 2, 3))) < 1e-4


CONV, GRADIENT = "conv2d", "conv2d_weight_grad"


# gradients in the weights of more pixels than a unit of 60 elements
UNIT_CASES = [
    Case(((3, 18, 5, 4), (3, 17, 10, 8)), {"stride": 2, "padding": 1, "kernel_size": 3}),
    Case(((2, 6, 9, 8), (2, 2, 9, 8)), {"padding": 1, "kernel_size": 3}),
    Case(((3, 6, 5, 7), (3, 20, 5, 7)), {"kernel_size": 1}),
]

# gradients in the weights of 1x1 convolutions, with tiles of one, two and three vectors, and with a stride
PIXEL_CASES = [
    Case(((2, 6, 9, 8), (2, 17, 9, 8)), {"kernel_size": 1}),
    Case(((2, 40, 9, 8), (2, 13, 9, 8)), {"kernel_size": 1}),
    Case(((3, 20, 5, 4), (3, 29, 10, 8)), {"stride": 2, "kernel_size": 1}),
]


# a cache of the target and its bytes; the size that follows from it, in elements; an operator, its case
SMALL_CACHES = [
    ("llc", 16, gemm.large_elements, 1, "matmul", Case(((3, 60), (60, 45)))),
    ("llc", 16, gemm.large_elements, 1, "matmul", Case(((1, 9), (9, 70)))),
    # fewer rows of b than one pass over the sums adds
    ("llc", 16, gemm.large_elements, 1, "matmul", Case(((2, 4), (4, 70)))),
    # whole blocks of columns and a last one, whole steps and the rows of b that are left
    ("llc", 16, gemm.large_elements, 1, "matmul", Case(((16, 19), (19, 300)))),
    # dot products in parts of k, and rows that fall into one set of the cache
    ("l1", 640, lambda: gemm.part_of_dots(6, 220), 16, "matmul", Case(((6, 220), (9, 220)), {"tb": True})),
    ("l1", 640, lambda: gemm.conflicts(20), True, "matmul", Case(((5, 20), (5, 33)), {"ta": True})),
    ("l2", 4800, gemm.row_block_elements, 450, "matmul", Case(((40, 50), (50, 70)))),
    (
        "llc",
        32,
        depthwise.cached_elements,
        1,
        GRADIENT,
        Case(((3, 19, 9, 12), (3, 19, 9, 12)), {"padding": 1, "kernel_size": (3, 3), "groups": 19}),
    ),
    (
        "llc",
        32,
        depthwise.cached_elements,
        1,
        CONV,
        Case(((3, 19, 9, 12), (19, 1, 3, 3)), {"padding": 1, "groups": 19}),
    ),
    ("l2", 32000, direct_simd_batch.band_elements, 4000, CONV, Case(((20, 2, 9, 12), (3, 2, 3, 3)), {"padding": 1})),
    ("l2", 960, direct.band_elements, 60, CONV, Case(((17, 4, 9, 12), (20, 4, 3, 3)), {"padding": 1})),
    *(("l2", 480, weight_grad_division.max_unit_elements, 60, GRADIENT, case) for case in UNIT_CASES),
    # the channels of 1x1 convolutions in cuts, and gradients of more pixels than a unit of 100 elements
    ("l1", 640, transposed_product.max_unit_elements, 100, CONV, Case(((3, 28, 4, 5), (20, 28, 1, 1)))),
    # pixels that fall into one set of the cache, which are copied
    ("l1", 640, lambda: conv1x1.conflicts(40), True, CONV, Case(((3, 40, 4, 5), (20, 40, 1, 1)))),
    # panels that pass one after the other, since not all of them fit
    ("l1", 1280, transposed_product.max_unit_elements, 200, CONV, Case(((3, 7, 4, 5), (37, 7, 1, 1)))),
    *(("l1", 640, transposed_product.max_unit_elements, 100, GRADIENT, case) for case in PIXEL_CASES),
    ("l2", 9600, conv1x1.pixel_block_elements, 450, CONV, Case(((3, 10, 9, 12), (20, 10, 1, 1)))),
    # outputs that are written past the cache, of tiles of several vectors, and of one
    ("llc", 4096, view.min_streamed_bytes, 512, CONV, Case(((3, 10, 9, 12), (48, 10, 1, 1)))),
    ("llc", 4096, view.min_streamed_bytes, 512, CONV, Case(((3, 9, 9, 12), (32, 9, 5, 5)), {"padding": 2})),
]


@pytest.mark.parametrize(("cache", "size", "elements", "value", "name", "case"), SMALL_CACHES)
@pytest.mark.parametrize("check", [checks.native, checks.tuned_interpreted])
def test_small_caches(cache, size, elements, value, name, case, check, quick):
    """Shapes that are large for a target whose caches are small."""
    quick(checks.takes_long(check, OPS[name], case))
    with target.assume(dataclasses.replace(target.current(), **{cache: size})):
        assert elements() == value
        check(OPS[name], case)


@pytest.mark.parametrize("vectors", widths.SECOND)
@pytest.mark.parametrize(("cache", "size", "elements", "value", "name", "case"), SMALL_CACHES)
def test_small_caches_in_narrower_vectors(cache, size, elements, value, name, case, vectors):
    with target.assume(dataclasses.replace(widths.SECOND[vectors], **{cache: size})):
        assert elements() == value
        graph, xs, want = checks.forward(OPS[name], case)
        assert checks.error(checks.run_native(build(graph, threads=1), xs), want) < checks.limit(OPS[name])


# depthwise, small images whose tiles are whole rows, some of which differ in their places only
ALIKE = [
    (CONV, Case(((2, 9, 8, 4), (9, 1, 3, 3)), {"padding": 1, "groups": 9})),
    (
        "conv2d_input_grad",
        Case(((2, 9, 5, 8), (9, 1, 3, 3)), {"stride": 2, "padding": 1, "groups": 9, "image_size": (10, 16)}),
    ),
]


@pytest.mark.parametrize(("name", "case"), ALIKE)
@pytest.mark.parametrize("check", [checks.native, checks.tuned_interpreted])
def test_tiles_of_a_small_image_that_are_alike(name, case, check):
    check(OPS[name], case)


# depthwise, few images of many channels, of which each task has a part: small images, and bands of rows
CHANNEL_PARTS = [
    (CONV, Case(((1, 101, 3, 5), (101, 1, 3, 3)), {"padding": 1, "groups": 101})),
    (CONV, Case(((2, 98, 9, 9), (98, 1, 3, 3)), {"padding": 1, "groups": 98})),
    (
        "conv2d_input_grad",
        Case(((1, 99, 2, 3), (99, 1, 3, 3)), {"stride": 2, "padding": 1, "groups": 99, "image_size": (4, 5)}),
    ),
]


@pytest.mark.parametrize(("name", "case"), CHANNEL_PARTS)
@pytest.mark.parametrize("check", [checks.native, checks.tuned_interpreted])
def test_tasks_of_parts_of_the_channels(name, case, check):
    assert depthwise.parts_of(case.shapes[0][0], case.shapes[0][1]) > 1
    check(OPS[name], case)


@pytest.mark.parametrize("vectors", widths.SECOND)
@pytest.mark.parametrize(("name", "case"), CHANNEL_PARTS)
def test_tasks_of_parts_of_the_channels_in_narrower_vectors(name, case, vectors):
    with target.assume(widths.SECOND[vectors]):
        graph, xs, want = checks.forward(OPS[name], case)
        assert checks.error(checks.run_native(build(graph, threads=1), xs), want) < checks.limit(OPS[name])


# gradients in x with a stride and few channels, whose phases have as many taps, fewer, and more than a vector of lanes
PHASES = [
    Case(((2, 9, 5, 7), (9, 3, 7, 7)), {"stride": 2, "padding": 3, "image_size": (10, 14)}),
    Case(((1, 5, 12, 8), (5, 1, 4, 4)), {"stride": 2, "padding": 1, "image_size": (24, 16)}),
    Case(((1, 4, 6, 6), (4, 3, 11, 11)), {"stride": 4, "padding": 2, "image_size": (28, 28)}),
    Case(((2, 6, 9, 10), (6, 4, 3, 3)), {"stride": 3, "image_size": (27, 30)}),
]


@pytest.mark.parametrize("case", PHASES)
@pytest.mark.parametrize("check", [checks.native, checks.tuned_interpreted])
def test_phases_as_filters(case, check, quick):
    quick(checks.takes_long(check, OPS["conv2d_input_grad"], case))
    check(OPS["conv2d_input_grad"], case)


@pytest.mark.parametrize("case", PHASES)
def test_epilogue_of_phases(case):
    """relu is stored, and the values are summed up per channel; kernels run as in plain Python, thread after thread."""
    op, arrays = OPS["conv2d_input_grad"], case.arrays(0)
    attributes = op.normalise(*arrays, **case.attributes)
    want = op.numpy(*checks.double(arrays), **attributes)
    to = Running(2)
    dx, total = to.new(want.shape, channels_last(want.shape)), to.scratch((want.shape[1],))
    results = EpilogueOutputs([dx], [], Epilogue((("relu", (), (0,)),), results=(1,), sums=(0,)), [total])
    views = (
        to.holding(arrays[0], channels_last(arrays[0].shape)),
        to.holding(arrays[1], filters_last(arrays[1].shape)),
    )
    select.direct_input_grad(to, results, *views, attributes["window"], 1)
    assert to.called[:2] == ["pack_phases", "correlate"]
    assert checks.error(to.array(dx), np.maximum(want, 0)) < checks.LIMIT
    assert checks.error(to.array(total), want.sum((0, 2, 3))) < checks.LIMIT


# cases of a gradient in the weights; those of 1x1 convolutions have as many chunks as tasks
MIN_PIXELS_CASES = [
    (weight_grad_division, Case(((5, 70, 4, 3), (5, 20, 4, 3)), {"padding": 1, "kernel_size": 3})),
    *((transposed_product, case) for case in PIXEL_CASES),
]


@pytest.mark.parametrize(("module", "case"), MIN_PIXELS_CASES)
@pytest.mark.parametrize("l1", [1024, 32768])
@pytest.mark.parametrize("check", [checks.native, checks.tuned_interpreted])
def test_small_chunks(monkeypatch, check, module, case, l1, quick):
    """A chunk of a weight gradient may have fewer pixels, so that there are several."""
    quick(checks.takes_long(check, OPS[GRADIENT], case))
    monkeypatch.setattr(module, "MIN_PIXELS", 4)
    with target.assume(dataclasses.replace(target.current(), l1=l1)):
        check(OPS[GRADIENT], case)


@pytest.mark.parametrize("check", [checks.native, checks.tuned_interpreted])
def test_strips_of_a_band(check):
    """Few filters with lanes over images: sums wait while the next rows are staged; the last strip has fewer."""
    case = Case(((8, 3, 13, 9), (8, 1, 13, 9)), {"padding": 2, "kernel_size": 5})
    l1 = 4 * 1280 // 8 * target.current().lanes
    with target.assume(dataclasses.replace(target.current(), l1=l1)):
        assert weight_grad_simd_batch.strip_rows(9 * 3 + 13, 6) == 2
        check(OPS[GRADIENT], case)


def test_few_chunks_are_a_power_of_two():
    """They come out even on 2, 4 and 8 threads."""
    found = [weight_grad_division.even_chunks(n, 16) for n in (0, 1, 3, 4, 12, 16, 100)]
    assert found == [1, 1, 2, 4, 8, 16, 16]


# pixels, and elements from one to the next in x and in dy
SPREAD = [(64, (400, 120)), (32, (400, 120)), (256, (400, 120)), (64, (512, 120)), (64, (1100, 120))]


def test_short_pixels_are_read_where_they_lie():
    """Copying costs more than reading and writing sums more often, where there are few sums for each pixel."""
    with target.assume(target.AVX2):
        shapes = [(16, 96), (144, 24), (256, 64), (512, 512)]
        short = [transposed_product.is_short(transposed_product.tile_of(C, K), C, K) for C, K in shapes]
    assert short == [True, True, False, False]


def test_rows_that_spread_over_the_first_level_cache_are_read_where_they_lie():
    """Those a power of two apart fall into a few of its sets, and those of a large batch are cut into units."""
    with target.assume(target.AVX2):
        tile = transposed_product.tile_of(400, 120)
        found = [transposed_product.spread_pixels(n, tile, steps) for n, steps in SPREAD]
        assert [transposed_product.most_lines(64, step, 16) for step in (512, 400)] == [32, 1]
    assert found == [64, 32, 128, 0, 0]


def test_parts_of_a_weight_gradient_cost_least():
    """Each part of the channels copies all filters, and each part of the filters all channels."""
    with target.assume(target.AVX2):
        wide, high = (
            transposed_product.parts_of(16, 196, C, K, transposed_product.tile_of(C, K))
            for C, K in ((960, 160), (96, 960))
        )
    assert wide[0] > wide[1]
    assert high[0] < high[1]


def test_blocks_and_parts_of_a_1x1_convolution_read_least():
    """Many filters are cut into parts, many pixels into blocks; either gives enough tasks."""
    with target.assume(target.AVX2):
        tile = register_tile.tile_for(512)
        pairs = [conv1x1.blocks_and_parts(pixels, 64, 32, tile) for pixels in (48, 100_000)]
    (few, parts), (blocks, one) = pairs
    assert few * parts >= register_tile.ENOUGH_TASKS
    assert (parts > few, one) == (True, 1)
    assert blocks * 64 >= 100_000 * 64 // conv1x1.pixel_block_elements()


def test_images_in_memory_are_written_pixel_after_pixel():
    """A tile is one pixel of many images where padding is saved, but not if outputs are in memory or taps part."""

    def kernels(images, filters, **attributes):
        graph, _, _ = checks.forward(OPS[CONV], Case((images, filters), attributes))
        return {call.kernel.body for call in build(graph, threads=1).calls}

    with target.assume(target.AVX2):
        assert direct_batch.correlate_batch in kernels((12, 8, 12, 12), (16, 8, 5, 5), padding=2)
        assert direct.correlate in kernels((12, 16, 8, 8), (16, 16, 1, 1), stride=2)
        with target.assume(dataclasses.replace(target.AVX2, llc=4096)):
            assert direct.correlate in kernels((12, 8, 12, 12), (16, 8, 5, 5), padding=2)
