"""Pooling against PyTorch in float64, in random configurations; what is refused, by its words."""

import checks
import numpy as np
import pytest
import widths

from foveal import nn, ops
from foveal.autodiff import gradients
from foveal.build import build
from foveal.errors import DataError, ShapeError
from foveal.kernel import target
from foveal.ops.kernels import pool_loops
from foveal.ops.window import Window
from foveal.trace import trace


def with_gradient(function, x, dy):
    """function(x) and the gradient of <dy, function(x)> in x, by one native program; more outputs follow."""

    def both(x, dy):
        found = function(x)
        y, *more = found if isinstance(found, tuple) else (found,)
        return [y, *gradients(y, [x], dy), *more]

    return build(trace(both, *checks.types([x, dy])), threads=1).run(x, dy)


def torch_with_gradient(torch, layer, x, dy):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    found = layer(x)
    y, *more = found if isinstance(found, tuple) else (found,)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return [y.detach().numpy(), x.grad.numpy(), *(m.numpy() for m in more)]


def values(rng, shape):
    """Normal numbers, or a few different ones, so that maxima are equal to each other."""
    if rng.random() < 0.3:
        return rng.integers(0, 4, shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def axis(rng, dilated):
    """(positions, kernel, stride, padding, dilation) of which at least one window fits."""
    kernel, dilation = int(rng.integers(1, 6)), int(rng.integers(1, 4)) if dilated else 1
    reach = (kernel - 1) * dilation + 1
    padding = int(rng.integers(0, kernel // 2 + 1))
    n = int(rng.integers(max(1, reach - 2 * padding), 18))
    return n, kernel, int(rng.integers(1, 5)), padding, dilation


def windows(rng, rank, dilated=False, padded=True):
    """(sizes of the image, PyTorch's hyper-parameters of a layer over windows)."""
    while True:
        axes = [axis(rng, dilated) for _ in range(rank)]
        n, kernel, stride, padding, dilation = (tuple(v) for v in zip(*axes, strict=True))
        how = {"kernel_size": kernel if rank > 1 else kernel[0]}
        if rng.random() < 0.8:
            how["stride"] = stride if rank > 1 else stride[0]
        if padded:
            how["padding"] = padding if rank > 1 else padding[0]
        if dilated:
            how["dilation"] = dilation if rank > 1 else dilation[0]
        how["ceil_mode"] = bool(rng.random() < 0.5)
        whole = all(m + 2 * p * padded >= (k - 1) * d + 1 for m, k, _, p, d in axes)
        # a dilated window may miss an image smaller than its gaps: PyTorch then gives -inf
        if whole and all(d <= m or p == 0 for m, _, _, p, d in axes):
            return n, how


def max_pooling(rng, rank):
    n, how = windows(rng, rank, dilated=True)
    how["return_indices"] = bool(rng.random() < 0.5)
    return f"MaxPool{rank}d", n, how


def average_pooling(rng, rank):
    n, how = windows(rng, rank)
    how["count_include_pad"] = bool(rng.random() < 0.5)
    if rank == 2 and rng.random() < 0.3:
        how["divisor_override"] = int(rng.integers(1, 9))
    return f"AvgPool{rank}d", n, how


def adaptive_pooling(rng, rank):
    kind = rng.choice(["Avg", "Max"])
    n = tuple(int(m) for m in rng.integers(1, 15, rank))
    asked = [None if rank == 2 and rng.random() < 0.15 else int(rng.integers(1, 9)) for _ in range(rank)]
    how = {"output_size": tuple(asked) if rank == 2 else asked[0]}
    if kind == "Max":
        how["return_indices"] = bool(rng.random() < 0.5)
    return f"Adaptive{kind}Pool{rank}d", n, how


def p_norm_pooling(rng, rank):
    n, how = windows(rng, rank, padded=False)
    how["norm_type"] = rng.choice([1, 2, 2.5, 4]).item()
    return f"LPPool{rank}d", n, how


KINDS = (max_pooling, average_pooling, adaptive_pooling, p_norm_pooling)


@pytest.mark.configurations(full=500, quick=25)
def test_pooling_is_pytorchs(configuration, torch):
    rng = np.random.default_rng(configuration)
    draw = KINDS[rng.integers(len(KINDS))]
    name, n, how = draw(rng, int(rng.integers(1, 3)))
    x = values(rng, (int(rng.integers(1, 4)), int(rng.integers(1, 40)), *n))
    # other roots than that of a sum need sums that are not negative
    x = abs(x) if how.get("norm_type") == 2.5 else x
    reference = getattr(torch.nn, name)(**how)
    given = reference(torch.tensor(x))
    given = given[0] if isinstance(given, tuple) else given
    dy = rng.standard_normal(tuple(given.shape)).astype(np.float32)
    got = with_gradient(getattr(nn, name)(**how), x, dy)
    want = torch_with_gradient(torch, reference, x, dy)
    for a, b in zip(got, want, strict=True):
        assert checks.error(a, b) < checks.LIMIT, (name, n, how)


@pytest.mark.parametrize("size", [None, (7, 9)])
def test_unpooling_is_pytorchs(size, torch):
    rng = np.random.default_rng(0)
    image = size or (6, 8)
    x, dy = (rng.standard_normal((2, 20, *image)).astype(np.float32) for _ in range(2))
    back, theirs = nn.MaxUnpool2d(2), torch.nn.MaxUnpool2d(2)
    y, places = nn.MaxPool2d(2, return_indices=True)(x)
    z = torch.tensor(y, requires_grad=True)
    want = theirs(z, torch.tensor(places, dtype=torch.int64), size)
    want.backward(torch.tensor(dy))
    assert (back(y, places, size) == want.detach().numpy()).all()

    def slope(y, places, dy):
        return gradients(back(y, places, size), [y], dy)

    graph = trace(slope, *checks.types([y, places, dy]))
    assert (build(graph, threads=1).run(y, places, dy)[0] == z.grad.numpy()).all()


def test_places_outside_of_the_image_are_left_out_or_refused():
    x = np.ones((1, 2, 1, 3), np.float32)
    places = np.array([[[[0, 4, -1]], [[3, 2**31 - 1, 1]]]], np.int32)
    graph = trace(lambda x, at: ops.max_unpool2d(x, at, image_size=(2, 2)), *checks.types([x, places]))
    for y in (build(graph, threads=1).run(x, places)[0], graph.evaluate(x, places)[0]):
        assert y.reshape(2, 4).tolist() == [[1, 0, 0, 0], [0, 1, 0, 1]]
    with pytest.raises(DataError, match="index 4 lies outside of images of 2x2; give output_size"):
        nn.MaxUnpool2d((2, 1), (2, 1))(x, places, (2, 2))


def test_infinite_norm_is_the_largest_magnitude(torch):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    want = torch.nn.LPPool2d(np.inf, 2)(torch.tensor(x))
    assert (nn.LPPool2d(np.inf, 2)(x) == want.numpy()).all()


IMAGE, SEQUENCE = (1, 2, 4, 4), (1, 2, 6)
REFUSED = {
    "kernel": (lambda: nn.MaxPool2d(7), IMAGE, "reaches over 7 rows, the padded input has 4"),
    "kernel_1d": (lambda: nn.AvgPool1d(7), SEQUENCE, "reaches over 7 columns, the padded input has 6"),
    "kernel_0": (lambda: nn.MaxPool2d(0), None, r"MaxPool2d: kernel size \(0, 0\) has to be 1 or more"),
    "kernel_three": (lambda: nn.MaxPool2d((1, 2, 3)), None, "an int or two ints"),
    "kernel_pair_1d": (lambda: nn.MaxPool1d((2, 2)), None, "kernel_size is .*, it has to be an int"),
    "stride": (lambda: nn.AvgPool2d(2, stride=-1), None, r"AvgPool2d: stride \(-1, -1\) has to be 1 or more"),
    "dilation": (lambda: nn.MaxPool2d(2, dilation=0), None, r"dilation \(0, 0\) has to be 1 or more"),
    "padding": (lambda: nn.MaxPool2d(2, padding=-1), None, "padding .* has to be 0 or more"),
    "half": (lambda: nn.MaxPool2d(3, padding=2), None, "is more than half of the window"),
    "half_1d": (lambda: nn.AvgPool1d(3, padding=2), None, "is more than half of the window"),
    "rank": (lambda: nn.MaxPool2d(2), SEQUENCE, r"takes images \[N, C, H, W\], got shape \(1, 2, 6\)"),
    "rank_1d": (lambda: nn.LPPool1d(2, 2), IMAGE, r"LPPool1d: takes sequences \[N, C, L\]"),
    "rank_adaptive": (lambda: nn.AdaptiveAvgPool2d(1), SEQUENCE, r"takes images \[N, C, H, W\]"),
    "rank_global": (lambda: nn.GlobalMaxPool2d(), SEQUENCE, r"takes images \[N, C, H, W\]"),
    "output": (lambda: nn.AdaptiveMaxPool2d((2, 0)), None, "each size has to be 1 or more, or None"),
    "outputs": (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), IMAGE, "it has to be one size or two"),
    "divisor": (lambda: nn.AvgPool2d(2, divisor_override=0), None, "divisor_override is 0, it has to be 1 or more"),
    "norm_type": (lambda: nn.LPPool2d(0, 2), None, "norm_type is 0, it has to be above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_pooling_is_refused(name):
    layer, shape, words = REFUSED[name]
    with pytest.raises(ShapeError, match=words):
        layer()(np.zeros(shape or IMAGE, np.float32))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.LPPool2d(2, 2)])
def test_integers_are_refused(layer):
    with pytest.raises(ShapeError, match="is int32, it has to be float32"):
        layer(np.zeros(IMAGE, np.int32))


def test_windows_outside_of_the_image_are_refused():
    x = np.zeros((1, 1, 3, 3), np.float32)
    with pytest.raises(ShapeError, match="window 0 of 5 along the rows lies outside of the image"):
        ops.max_pool2d(x, kernel_size=3, stride=1, padding=(3, 1, 0, 0))


def test_places_that_do_not_fit_are_refused():
    x = np.zeros(IMAGE, np.float32)
    with pytest.raises(ShapeError, match="each value needs a place"):
        ops.max_unpool2d(x, np.zeros((1, 2, 3, 4), np.int32), image_size=(8, 8))
    with pytest.raises(ShapeError, match="the same number of images and of channels"):
        ops.take_pixels(x, np.zeros((1, 3, 2, 2), np.int32))


MANY = [{"kernel_size": (9, 8), "stride": (3, 2), "padding": 4}, {"kernel_size": (11, 12), "stride": 1}]


@pytest.mark.parametrize("channels", [5, 37])
@pytest.mark.parametrize("window", MANY)
@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d])
def test_windows_of_many_taps_end_in_epilogues(pool, window, channels):
    """What is computed before and after them is fused, sums and moments too; the bits are those of any threads."""
    rng = np.random.default_rng(0)

    def function(x, dy):
        y = pool(ops.gelu(x), **window)
        (dx,) = gradients(y, [x], dy)
        return [y, ops.channel_moments(y), dx, ops.sum(dx * x, axes=(0, 2, 3))]

    x = rng.standard_normal((3, channels, 11, 13)).astype(np.float32)
    dy = rng.standard_normal(pool(x, **window).shape).astype(np.float32)
    graph = trace(function, *checks.types([x, dy]))
    want = [np.asarray(value, np.float64) for value in graph.evaluate(x.astype(np.float64), dy.astype(np.float64))]
    one, two = (build(graph, threads=threads).run(x, dy) for threads in (1, 2))
    for got, same, exact in zip(one, two, want, strict=True):
        assert checks.error(got, exact) < 1e-5
        np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize("channels", [64, 535, 1030])
@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d])
def test_large_windows_side_by_side(pool, channels):
    """They go row by row, in parts of the channels; NaN and infinities go their way."""
    x = np.random.default_rng(0).standard_normal((2, channels, 8, 19)).astype(np.float32)
    x[0, 3, 2, 1], x[0, 5], x[1, 7, 5, 12] = np.nan, -np.inf, 1e30
    graph = trace(lambda x: pool(ops.relu(x) - x, kernel_size=(4, 9), stride=(4, 10)) * 2 + 1, *checks.types([x]))
    program = build(graph, threads=2)
    assert [call.kernel.name for call in program.calls][-1] == "whole_rows"
    for result in program.results:
        result[...] = np.nan
    got, (want,) = program.run(x)[0], graph.evaluate(x.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(got, build(graph, threads=1).run(x)[0])


def test_a_window_of_a_thousand_taps_is_short_code():
    """Code that grows with the window would take minutes to compile."""
    window = {"kernel_size": 101, "stride": 1}
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((1, 3, n, n)).astype(np.float32) for n in (102, 2))
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        y, dx = with_gradient(lambda a, pool=pool: pool(a, **window), x, dy)
        np.testing.assert_allclose(y, pool(x, **window), rtol=0, atol=1e-5)
        np.testing.assert_allclose(dx.sum(), dy.sum(), rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
def test_the_windows_over_a_pixel_are_counted(stride, dilation):
    """Dilated windows meet where strides alone would leave them apart."""
    window = Window((1, 5), (1, stride), dilation=(1, dilation))
    meeting = np.bincount([window.position(1, q, s) for q in range(60) for s in range(5)])
    assert pool_loops.windows_at_most(window) == meeting.max()


TIED = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "ceil_mode": True},
    {"kernel_size": (2, 3), "stride": (3, 1), "padding": (0, 1, 1, 0), "dilation": (2, 1)},
    {"kernel_size": (9, 8), "stride": (2, 3), "padding": 4},
    {"kernel_size": (9, 8), "stride": 1},
    {"kernel_size": 3},
]


@pytest.mark.parametrize("channels", [1, 3, 8, 21])
@pytest.mark.parametrize("window", TIED)
def test_the_first_of_equal_maxima_gets_the_gradient(window, channels):
    """The places of the maxima come from the pass forward, in vectors of any width, whatever both passes end in."""
    rng = np.random.default_rng(channels)
    # the numbers 0, 1 and 2 alone: nearly every window has its largest twice
    x = rng.integers(0, 3, (2, channels, 10, 9)).astype(np.float32)
    y = ops.max_pool2d(x, **window)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    want = ops.max_pool2d_grad(dy, x, y, **window)

    def both(x, dy):
        y = ops.max_pool2d(x, **window)
        (dx,) = gradients(y, [x], dy)
        return y * 2.0, dx, dx - 1.0

    graph, results = trace(both, *checks.types([x, dy])), []
    for vectors in (target.host(), *widths.SECOND.values()):
        with target.assume(vectors):
            program = build(graph, threads=2)
            assert str(program.groups[0].results[-1].op) == "max_pool2d_place"
            program.arena[:] = 255
            results += [program.run(x, dy), program.interpret(x, dy)]
    for doubled, dx, less in results:
        assert (doubled == 2 * y).all()
        np.testing.assert_allclose(dx, want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(less, want - 1, rtol=0, atol=1e-5)


def test_a_window_without_a_maximum_has_no_gradient():
    x = np.full((1, 8, 5, 5), np.nan, np.float32)
    for size in (3, 4):
        dy, window = np.ones((1, 8, 8 - size, 8 - size), np.float32), {"kernel_size": size, "stride": 1, "padding": 1}
        y, dx = with_gradient(lambda a, window=window: ops.max_pool2d(a, **window), x, dy)
        assert np.isnan(y).all()
        assert (dx == 0).all()


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("window", [TIED[0], TIED[3], {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2}])
def test_padding_has_no_maximum_where_all_pixels_are_minus_infinity(window, channels):
    """A window's first pixel is then the place, in NumPy and in kernels, also if taps beside it are in the padding."""
    rng = np.random.default_rng(channels)
    # places, and gradients, of pixels that are equal have to be those of pixels that are all -inf
    equal = np.zeros((2, channels, 10, 9), np.float32)
    x, dy = np.full_like(equal, -np.inf), rng.standard_normal(ops.max_pool2d(equal, **window).shape).astype(np.float32)
    want = ops.max_pool2d_grad(dy, equal, ops.max_pool2d(equal, **window), **window)
    places = ops.max_pool2d_index(equal, **window)
    assert (ops.max_pool2d_index(x, **window) == places).all()
    assert (ops.max_pool2d_place(x, **window) == places).all()
    y, dx = with_gradient(lambda a: ops.max_pool2d(a, **window), x, dy)
    assert (y == -np.inf).all()
    for got in (dx, ops.max_pool2d_grad(dy, x, y, **window)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
