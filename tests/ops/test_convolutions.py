"""Convolutions of every kind against PyTorch, as each other's gradients, as matrix products, and what is refused."""

import numpy as np
import pytest
from checks import error

import foveal
from foveal import nn, ops
from foveal.errors import ShapeError

LIMIT, WEIGHT_LIMIT = 1e-5, 2e-5  # of the largest value; the second for sums over a batch


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def choose(rng, *values):
    return values[rng.integers(len(values))]


def some(rng, axes, low, high):
    """A number for each axis, or one for all."""
    values = tuple(int(v) for v in rng.integers(low, high + 1, axes))
    return values if axes == 2 and rng.random() < 0.5 else values[0]


def many(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def configuration_of(number):
    """(layer, its arguments, shape of x): all hyper-parameters at once."""
    rng = np.random.default_rng(number)
    axes = 1 if rng.random() < 0.25 else 2
    groups = int(choose(rng, 1, 1, 1, 2, 3, 5))
    inside, outside = (groups * int(choose(rng, 1, 1, 2, 3, 5, 8, 17)) for _ in range(2))
    if rng.random() < 0.15:  # depthwise
        groups = inside = int(choose(rng, 2, 7, 16, 19))
        outside = inside * int(choose(rng, 1, 1, 2))
    kernel = some(rng, axes, 1, int(choose(rng, 1, 3, 3, 5, 7)))
    dilation = some(rng, axes, 1, int(choose(rng, 1, 1, 1, 3)))
    stride = some(rng, axes, 1, int(choose(rng, 1, 1, 2, 3)))
    how = {"dilation": dilation, "groups": groups, "bias": bool(rng.random() < 0.5)}
    reach = [d * (k - 1) + 1 for d, k in zip(many(dilation, axes), many(kernel, axes), strict=True)]
    batch = int(choose(rng, 1, 2, 3, 4, 16))
    if rng.random() < 0.25:
        spread = [max(u, d) for u, d in zip(many(stride, axes), many(dilation, axes), strict=True)]
        how |= {"stride": stride, "padding": tuple(int(rng.integers(0, r)) for r in reach)}
        how["output_padding"] = tuple(int(rng.integers(0, s)) for s in spread)
        size = tuple(r + int(v) for r, v in zip(reach, rng.integers(1, 8, axes), strict=True))
        return f"ConvTranspose{axes}d", (inside, outside, kernel), how, (batch, inside, *size)
    words = ("same", "valid") if many(stride, axes) == (1,) * axes else ("valid",)
    how["padding"] = choose(rng, *words) if rng.random() < 0.3 else some(rng, axes, 0, 4)
    how["padding_mode"] = choose(rng, "zeros", "zeros", "reflect", "replicate", "circular")
    how["stride"] = stride
    least = max(*reach, 5) + int(choose(rng, 0, 1, 6))  # no border is wider than the image
    size = tuple(int(least + v) for v in rng.integers(0, 6, axes))
    return f"Conv{axes}d", (inside, outside, kernel), how, (batch, inside, *size)


@pytest.mark.configurations(full=2000, quick=50)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's, about its speed
def test_a_configuration(torch, configuration):
    kind, arguments, how, shape = configuration_of(configuration)
    layer = getattr(nn, kind)(*arguments, **how)
    theirs = getattr(torch.nn, kind)(*arguments, **how).double()
    state = {name: torch.tensor(value).double() for name, value in layer.state_dict().items()}
    theirs.load_state_dict(state)
    rng = np.random.default_rng(configuration)
    x = drawn(rng, *shape)
    double = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = theirs(double)
    cotangent = drawn(rng, *want.shape)
    want.backward(torch.tensor(cotangent, dtype=torch.float64))

    parameters = layer.parameters()
    seen = {}

    def weighed(a, c):
        seen["y"] = layer(a)
        return (seen["y"] * c).sum()

    def everything(a, c):
        total = weighed(a, c)
        wanted = [a, *(total.trace.lift(p) for p in parameters)]
        return [seen["y"], *foveal.autodiff.gradients(total, wanted)]

    y, dx, *slopes = foveal.compile(everything)(x, cotangent)
    assert error(y, want.detach().numpy()) < LIMIT
    assert error(dx, double.grad.numpy()) < LIMIT
    for slope, parameter in zip(slopes, theirs.parameters(), strict=True):
        assert error(slope, parameter.grad.numpy()) < WEIGHT_LIMIT


@pytest.mark.parametrize(("border", "dilation"), [(0, 1), (1, 1), (1, 2)])
def test_the_gradient_of_cross_correlation_is_convolution_and_the_reverse(border, dilation):
    """With stride 1 and filters [K, C, R, S]: dx is the other one of dy, inputs and outputs exchanged."""
    rng = np.random.default_rng(0)
    x, w, R = drawn(rng, 2, 3, 7, 8), drawn(rng, 4, 3, 3, 3), 3
    exchanged = np.ascontiguousarray(w.transpose(1, 0, 2, 3))
    how = {"padding": border, "dilation": dilation}
    around = {"padding": dilation * (R - 1) - border, "dilation": dilation}
    pairs = ((ops.cross_correlation2d, ops.convolve2d), (ops.convolve2d, ops.cross_correlation2d))
    for one, other in pairs:
        dy = drawn(rng, *np.shape(one(x, w, **how)))
        gradient = foveal.grad(lambda a, b, c, one=one: (one(a, b, **how) * c).sum())(x, w, dy)
        convolved = foveal.compile(lambda a, b, other=other: other(a, b, **around))(dy, exchanged)
        assert error(gradient, convolved) < LIMIT


def test_convolution_is_what_the_textbooks_say():
    """[1 2 3] * [0 1 1/2] = [0 1 2.5 4 1.5]: polynomials are multiplied, which cross-correlation does not do."""
    x, w = np.array([1, 2, 3], np.float32), np.array([0, 1, 0.5], np.float32)
    as_image = {"padding": (0, 0, 2, 2)}
    y = ops.convolve2d(x.reshape(1, 1, 1, 3), w.reshape(1, 1, 1, 3), **as_image)
    np.testing.assert_allclose(y.ravel(), np.convolve(x, w))
    y = ops.cross_correlation2d(x.reshape(1, 1, 1, 3), w.reshape(1, 1, 1, 3), **as_image)
    np.testing.assert_allclose(y.ravel(), np.correlate(x, w, "full"))


def test_naive_is_matrix_product_is_native():
    rng = np.random.default_rng(1)
    x, w = drawn(rng, 3, 5, 9, 8), drawn(rng, 6, 5, 3, 2)
    how = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
    naive = ops.conv2d(x.astype(np.float64), w.astype(np.float64), **how)
    for way in (ops.conv2d, ops.conv2d_im2col):
        assert error(foveal.compile(lambda a, b, way=way: way(a, b, **how))(x, w), naive) < LIMIT


def test_columns_are_torchs(torch):
    rng = np.random.default_rng(2)
    x = drawn(rng, 2, 3, 7, 6)
    how = {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 2), "stride": (2, 1)}
    columns = nn.Unfold(**how)(x)
    np.testing.assert_array_equal(columns, torch.nn.Unfold(**how)(torch.tensor(x)).numpy())
    folded = nn.Fold((7, 6), **how)(columns)
    want = torch.nn.Fold((7, 6), **how)(torch.tensor(np.array(columns)))
    assert error(folded, want.numpy()) < LIMIT


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("ReflectionPad2d", (2, 1, 0, 3)),
        ("ReplicationPad2d", 4),
        ("CircularPad2d", (1, 4, 2, 0)),
        ("ZeroPad2d", (1, 2, 3, 0)),
    ],
)
def test_borders_are_torchs(torch, name, padding):
    x = drawn(np.random.default_rng(3), 2, 3, 5, 4)
    want = getattr(torch.nn, name)(padding)(torch.tensor(x)).numpy()
    np.testing.assert_array_equal(getattr(nn, name)(padding)(x), want)


def test_sharing_weights_adds_their_gradients():
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    apart = nn.LocallyConnected2d.from_conv(conv, (7, 6))
    shared = nn.LocallyConnected2d.from_conv(conv, (7, 6), shared_weights=True)
    places = 4 * 3
    count = {layer: sum(p.size for p in layer.parameters()) for layer in (conv, apart, shared)}
    assert count[shared] == count[conv] == (3 * 3 * 3 + 1) * 5
    assert count[apart] == places * count[conv]

    rng = np.random.default_rng(4)
    x, dy = drawn(rng, 2, 3, 7, 6), drawn(rng, 2, 5, 4, 3)

    def value_and_slopes(layer):
        both = foveal.value_and_grad(lambda a, c: (layer(a) * c).sum(), [0, *layer.parameters()])
        return both(x, dy)

    (y, (dx, dw, db)), (y1, (dx1, dw1, db1)) = value_and_slopes(apart), value_and_slopes(shared)
    assert error(y, y1) < LIMIT
    assert error(dx, dx1) < LIMIT
    assert error(dw.sum(0).T.reshape(5, 3, 3, 3), dw1) < WEIGHT_LIMIT
    assert error(db.sum((1, 2)), db1) < WEIGHT_LIMIT


def test_a_separable_block_is_its_two_convolutions():
    block = nn.DepthwiseSeparableConv2d(6, 10, stride=2)
    assert [tuple(p.shape) for p in block.parameters()] == [(6, 1, 3, 3), (6,), (6,), (10, 6, 1, 1), (10,), (10,)]
    assert block.eval()(drawn(np.random.default_rng(5), 2, 6, 9, 8)).shape == (2, 10, 5, 4)


X = np.ones((2, 4, 6, 6), np.float32)
REFUSED = [
    (lambda: nn.Conv2d(4, 6, 3, groups=4), "groups=4 does not divide both.*choose a divisor of 2"),
    (lambda: nn.Conv2d(4, 6, 0), "kernel_rows is 0"),
    (lambda: nn.Conv2d(-4, 6, 3), "in_channels is -4"),
    (lambda: nn.Conv2d(4, 6, 3, stride=0), "stride \\(0, 0\\) and dilation \\(1, 1\\) have to be 1 or more"),
    (lambda: nn.Conv2d(4, 6, 3, padding=-1), "padding \\(-1, -1, -1, -1\\) has to be 0 or more"),
    (lambda: nn.Conv2d(4, 6, 3, padding="full"), "padding is 'full'; choose 'same', 'valid'"),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", stride=2), "'same' is for stride 1"),
    (lambda: nn.Conv2d(4, 6, 3, padding_mode="mirror"), "padding_mode is 'mirror'; choose one of zeros"),
    (lambda: nn.Conv2d(4, 6, (3, 3, 3)), "has to be an int or two ints"),
    (lambda: nn.Conv1d(4, 6, (3, 3)), "Conv1d: kernel_size is .*, it has to be an int; sequences have one axis"),
    (lambda: nn.Conv1d(4, 6, 3, padding=(1, 2, 3)), "padding is .*, it has to be an int or \\(before, after\\)"),
    (lambda: nn.ConvTranspose1d(4, 6, 3, padding="same"), "padding is .*, it has to be an int or \\(before, after\\)"),
    (lambda: nn.ConvTranspose2d(4, 6, 3, padding="same"), "a transposed convolution takes it in numbers"),
    (lambda: nn.Conv2d(4, 6, 7)(X), "the kernel reaches over 7 rows, the padded input has 6"),
    (lambda: nn.Conv2d(4, 6, 3, padding=6, padding_mode="reflect")(X), "reflect padding of 6 rows needs an image"),
    (lambda: nn.Conv2d(4, 6, 3, padding=7, padding_mode="circular")(X), "circular padding of 7 rows needs an image"),
    (lambda: nn.Conv2d(3, 6, 3)(X), "x has 4 channels in 1 group"),
    (lambda: nn.Conv2d(4, 6, 3)(X[0]), "takes images \\[N, C, H, W\\] and filters.*a batch of one: image\\[None\\]"),
    (lambda: nn.Conv2d(4, 6, 3)(X.transpose(0, 2, 3, 1)), "channels are the second axis of images, not the last"),
    (lambda: nn.Conv1d(4, 6, 3)(X), "takes sequences \\[N, C, L\\]"),
    (lambda: nn.Conv2d(4, 6, 3)(X.astype(np.int32)), "is int32, it has to be float32"),
    (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=2)(X), "output_padding \\(2, 2\\) has to be"),
    (lambda: nn.ConvTranspose2d(4, 6, 1, padding=3)(X), "the output would have 0 rows"),
    (lambda: nn.ConvTranspose2d(3, 6, 3)(X), "the filters take 3"),
    (lambda: ops.pad(X, padding=1, mode="wrap"), "mode 'wrap' is not known"),
    (lambda: ops.pad(X, padding=(-1, 0, 0, 0)), "has to be 0 or more"),
    (lambda: ops.conv2d_im2col(X, np.ones((4, 2, 3, 3), np.float32), groups=2), "has no groups"),
    (lambda: ops.permute(X, order=(0, 1, 1, 2)), "has to name each of the 4 axes"),
    (lambda: nn.LocallyConnected2d(4, 6, (5, 5), 3)(X), "it is made for images of 5x5"),
    (lambda: nn.LocallyConnected2d(4, 6, (2, 2), 3), "the kernel reaches over 3 rows"),
]


@pytest.mark.parametrize(("build", "words"), REFUSED)
def test_what_cannot_be_meant_is_one_clear_error(build, words):
    with pytest.raises(ShapeError, match=words):
        build()
