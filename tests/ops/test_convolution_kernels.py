"""The convolution and product kernels beyond the operators' cases: epilogues of each one, and large shapes made small
by lowering the sizes that decide on the kernel."""

import checks
import numpy as np
import pytest

from foveal.ops import OPS
from foveal.ops.kernels import gemm
from foveal.ops.kernels.conv import depthwise, direct, direct_simd_batch, dispatch, weight_grad
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
        for thread in range(self.threads):
            checks.run_kernel(body, arrays, plain, thread, self.threads, **static)


# body, x, w, stride, padding, dilation, groups
KERNELS = [
    ("correlate", (2, 3, 18, 14), (19, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("correlate", (1, 16, 5, 6), (70, 8, 3, 3), (2, 1), (1, 1, 0, 1), (1, 2), 2),
    ("correlate_batch", (7, 9, 5, 4), (37, 9, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("correlate_batch", (17, 8, 4, 4), (6, 8, 5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 1),
    ("correlate_images", (47, 2, 7, 24), (5, 2, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("correlate_images", (32, 8, 4, 4), (18, 8, 5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 1),
    ("correlate_pixels", (3, 10, 5, 7), (39, 10, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ("depthwise", (2, 19, 12, 9), (19, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 19),
    ("depthwise", (2, 19, 4, 5), (19, 1, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 19),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("body", "x", "w", "stride", "padding", "dilation", "groups"), KERNELS)
def test_epilogue(body, x, w, stride, padding, dilation, groups, threads):
    """relu(sum + extra) is stored; sum + extra is summed up, and its mean and variance are taken, per channel."""
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    rng = np.random.default_rng(0)
    image, filters = (rng.standard_normal(shape).astype(np.float32) for shape in (x, w))
    want = OPS["conv2d"].numpy(*checks.double([image, filters]), **how)
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
    dispatch.lower_forward(to, results, *views, **how)

    assert body in to.called
    assert checks.error(to.array(y), np.maximum(want, 0)) < checks.LIMIT
    assert checks.error(to.array(total), want.sum((0, 2, 3))) < checks.LIMIT
    mean, variance = to.array(moments)
    assert checks.error(mean, want.mean((0, 2, 3))) < checks.LIMIT
    assert checks.error(variance, want.var((0, 2, 3))) < 1e-4


CONV, GRADIENT = "conv2d", "conv2d_weight_grad"
LOWERED = [  # a size that decides, lowered; an operator, its case
    (gemm, "LARGE", 1, "matmul", Case(((3, 60), (60, 45)))),
    (gemm, "LARGE", 1, "matmul", Case(((1, 9), (9, 70)))),
    (weight_grad, "UNIT", 60, GRADIENT, Case(((3, 18, 5, 4), (3, 17, 10, 8)), {"stride": 2, "padding": 1, "size": 3})),
    (weight_grad, "UNIT", 60, GRADIENT, Case(((2, 6, 9, 8), (2, 2, 9, 8)), {"padding": 1, "size": (3, 3)})),
    (weight_grad, "UNIT", 60, GRADIENT, Case(((3, 6, 5, 7), (3, 20, 5, 7)), {"size": (1, 1)})),
    (weight_grad, "LEAST_PIXELS", 4, GRADIENT, Case(((5, 70, 4, 3), (5, 20, 4, 3)), {"padding": 1, "size": (3, 3)})),
    (
        depthwise,
        "CACHED",
        1,
        GRADIENT,
        Case(((3, 19, 9, 12), (3, 19, 9, 12)), {"padding": 1, "size": (3, 3), "groups": 19}),
    ),
    (depthwise, "CACHED", 1, CONV, Case(((3, 19, 9, 12), (19, 1, 3, 3)), {"padding": 1, "groups": 19})),
    (direct_simd_batch, "BAND", 4000, CONV, Case(((20, 2, 9, 12), (3, 2, 3, 3)), {"padding": 1})),
    (direct, "BAND", 60, CONV, Case(((17, 4, 9, 12), (20, 4, 3, 3)), {"padding": 1})),
]


@pytest.mark.parametrize(("module", "size", "lowered", "name", "case"), LOWERED)
@pytest.mark.parametrize("check", [checks.native, checks.threads, checks.interpreted])
def test_large_shapes(monkeypatch, module, size, lowered, name, case, check, quick):
    quick(checks.takes_long(check, OPS[name], case))
    monkeypatch.setattr(module, size, lowered)
    check(OPS[name], case)
