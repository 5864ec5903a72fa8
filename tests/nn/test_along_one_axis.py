"""Layers for sequences: those of PyTorch against it, the others against the layer for images of one row."""

import numpy as np
import pytest
from checks import error

import foveal
from foveal import nn
from foveal.autodiff import gradients
from foveal.build import build
from foveal.errors import DataError, ShapeError
from foveal.ops.op import Type
from foveal.trace import trace

LIMIT = 1e-5


def test_every_layer_for_images_has_one_for_sequences():
    names = {n for n in nn.__all__ if n.endswith("2d")}
    ours = {"SqueezeExcitation2d", "Unfold2d", "Fold2d"}
    # PyTorch's names, which have no layers for sequences there either: Upsample takes these
    alone = {"Softmax2d", "UpsamplingBilinear2d", "UpsamplingNearest2d"}
    missing = {n for n in names | ours if n[:-2] + "1d" not in nn.__all__}
    assert missing == alone


def both(layer, x, dy):
    """The result for x, and the gradient in x."""
    return layer(x), foveal.grad(lambda a, c: (layer(a) * c).sum())(x, dy)


BORDERS = [
    ("ZeroPad1d", ((2, 1),)),
    ("ZeroPad1d", (3,)),
    ("ConstantPad1d", ((0, 2), 0.5)),
    ("ReflectionPad1d", ((3, 4),)),
    ("ReplicationPad1d", (2,)),
    ("CircularPad1d", ((5, 1),)),
]


@pytest.mark.parametrize(("name", "arguments"), BORDERS, ids=str)
def test_borders_are_pytorchs(name, arguments, torch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5)).astype(np.float32)
    tensor = torch.tensor(x, requires_grad=True)
    want = getattr(torch.nn, name)(*arguments)(tensor)
    dy = rng.standard_normal(tuple(want.shape)).astype(np.float32)
    want.backward(torch.tensor(dy))
    y, dx = both(getattr(nn, name)(*arguments), x, dy)
    np.testing.assert_array_equal(y, want.detach().numpy())
    assert error(dx, tensor.grad.numpy()) < LIMIT


# (layer for sequences, layer for images, shape of x)
PAIRS = {
    "global mean": (lambda: nn.GlobalAvgPool1d(), lambda: nn.GlobalAvgPool2d(), (2, 3, 7)),
    "global maximum": (lambda: nn.GlobalMaxPool1d(), lambda: nn.GlobalMaxPool2d(), (2, 3, 7)),
    "separable": (
        lambda: nn.DepthwiseSeparableConv1d(3, 5, 3, stride=2),
        lambda: nn.DepthwiseSeparableConv2d(3, 5, (1, 3), stride=(1, 2)),
        (2, 3, 9),
    ),
    "squeeze and excitation": (lambda: nn.SqueezeExcitation1d(4, 2), lambda: nn.SqueezeExcitation(4, 2), (2, 4, 6)),
    "locally connected": (
        lambda: nn.LocallyConnected1d(3, 5, 9, 3, stride=2, padding=(1, 0), dilation=2),
        lambda: nn.LocallyConnected2d(3, 5, (1, 9), (1, 3), (1, 2), (0, 0, 1, 0), (1, 2)),
        (2, 3, 9),
    ),
    "locally connected, shared": (
        lambda: nn.LocallyConnected1d(3, 5, 9, 3, bias=False, shared_weights=True),
        lambda: nn.LocallyConnected2d(3, 5, (1, 9), (1, 3), bias=False, shared_weights=True),
        (2, 3, 9),
    ),
    "columns": (
        lambda: nn.Unfold1d(3, dilation=2, padding=(1, 2), stride=2),
        lambda: nn.Unfold((1, 3), (1, 2), (0, 0, 1, 2), (1, 2)),
        (2, 3, 8),
    ),
}


@pytest.mark.parametrize("which", PAIRS)
def test_a_sequence_is_an_image_of_one_row(which):
    ours, images, shape = PAIRS[which]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    nn.seed(0)
    layer, reference = ours().eval(), images().eval()
    state = layer.state_dict()
    reference.load_state_dict({n: state[n].reshape(v.shape) for n, v in reference.state_dict().items()})
    want = reference(x[:, :, None])
    y, _ = both(layer, x, np.ones_like(layer(x)))
    assert error(y, want.reshape(y.shape)) < LIMIT
    dy = rng.standard_normal(y.shape).astype(np.float32)
    _, dx = both(layer, x, dy)
    _, slope = both(reference, x[:, :, None], dy.reshape(want.shape))
    assert error(dx, slope[:, :, 0]) < LIMIT
    assert layer.describe() == reference.describe()


def test_columns_of_sequences_are_added_up_again(torch):
    how = {"kernel_size": 3, "dilation": 1, "padding": 1, "stride": 2}
    columns = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    pairs = {"kernel_size": (1, 3), "dilation": 1, "padding": (0, 1), "stride": (1, 2)}
    want = torch.nn.Fold((1, 8), **pairs)(torch.tensor(columns)).numpy()
    assert error(nn.Fold1d(8, **how)(columns), want[:, :, 0]) < LIMIT


@pytest.mark.parametrize("flip", [False, True])
def test_a_locally_connected_layer_starts_from_a_convolution(flip):
    x = np.random.default_rng(0).standard_normal((2, 3, 9)).astype(np.float32)
    conv = nn.Conv1d(3, 5, 3, stride=2, padding=(1, 0), dilation=2, flip=flip)
    for shared in (False, True):
        layer = nn.LocallyConnected1d.from_conv(conv, 9, shared_weights=shared)
        assert error(layer(x), conv(x)) < LIMIT
    images = x.reshape(2, 3, 3, 3)
    conv = nn.Conv2d(3, 4, (2, 3), padding=1, flip=flip)
    assert error(nn.LocallyConnected2d.from_conv(conv, 3)(images), conv(images)) < LIMIT


@pytest.mark.parametrize("size", [None, (7,), (2, 20, 7)])
def test_unpooling_is_pytorchs(size, torch):
    rng = np.random.default_rng(0)
    length = 6 if size is None else 7
    x = rng.standard_normal((2, 20, length)).astype(np.float32)
    y, places = nn.MaxPool1d(2, return_indices=True)(x)
    back, theirs = nn.MaxUnpool1d(2), torch.nn.MaxUnpool1d(2)
    z = torch.tensor(y, requires_grad=True)
    want = theirs(z, torch.tensor(places, dtype=torch.int64), size)
    dy = rng.standard_normal(tuple(want.shape)).astype(np.float32)
    want.backward(torch.tensor(dy))
    assert (back(y, places, size) == want.detach().numpy()).all()

    def slope(y, places, dy):
        return gradients(back(y, places, size), [y], dy)

    graph = trace(slope, Type(y.shape), Type(places.shape, "int32"), Type(dy.shape))
    assert (build(graph, threads=1).run(y, places, dy)[0] == z.grad.numpy()).all()
    with pytest.raises(DataError, match="lies outside of images of 1x3"):
        back(y, places, (3,))


X = np.ones((2, 3, 4, 4), np.float32)
REFUSED = [
    (lambda: nn.ZeroPad1d((1, 2, 3)), "ZeroPad1d: padding is .*, it has to be an int or \\(before, after\\)|two"),
    (lambda: nn.ReflectionPad1d(4)(X[0]), "reflect padding of 4 columns needs an image of at least 5"),
    (lambda: nn.ReplicationPad1d(-1)(X[0]), "has to be 0 or more"),
    (lambda: nn.CircularPad1d(1)(X), "CircularPad1d: takes sequences \\[N, C, L\\]"),
    (lambda: nn.GlobalAvgPool1d()(X), "GlobalAvgPool1d: takes sequences"),
    (lambda: nn.GlobalMaxPool1d()(X), "GlobalMaxPool1d: takes sequences"),
    (lambda: nn.SqueezeExcitation1d(3, 2)(X), "SqueezeExcitation1d: takes sequences"),
    (lambda: nn.SqueezeExcitation1d(0, 2), "SqueezeExcitation1d: input_channels is 0"),
    (lambda: nn.Unfold1d(2)(X), "Unfold1d: takes sequences"),
    (lambda: nn.Unfold1d((2, 2)), "Unfold1d: kernel_size is .*, it has to be an int"),
    (lambda: nn.Fold1d((2, 2), 2), "Fold1d: output_size is .*, it has to be an int"),
    (lambda: nn.LocallyConnected1d(3, 4, 5, 3)(X[0]), "it is made for images of 1x5, got shape"),
    (lambda: nn.LocallyConnected1d(3, 4, 2, 3), "LocallyConnected1d: the kernel reaches over 3 columns"),
    (lambda: nn.MaxUnpool1d((2, 2)), "MaxUnpool1d: kernel_size is .*, it has to be an int"),
    (lambda: nn.DepthwiseSeparableConv1d(3, 4, (3, 3)), "kernel_size is .*, it has to be an int"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_be_meant_is_one_clear_error(call, words):
    with pytest.raises(ShapeError, match=words):
        call()
