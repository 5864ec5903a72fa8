"""Options of convolutions: filters that are turned, and the size that a transposed convolution is to give."""

import numpy as np
import pytest
from checks import WEIGHT_LIMIT, error

import foveal
from foveal import nn, ops
from foveal.errors import ShapeError
from foveal.explain import explain

LIMIT = 1e-5

FLIPPED = [
    ("Conv1d", (4, 6, 3), {"padding": (2, 1)}, (2, 4, 7)),
    (
        "Conv1d",
        (4, 6, 3),
        {"stride": 2, "groups": 2, "dilation": 2, "padding_mode": "reflect", "padding": 2},
        (2, 4, 9),
    ),
    ("Conv2d", (4, 6, (3, 2)), {"padding": (1, 2, 0, 1), "groups": 2}, (2, 4, 6, 5)),
    ("Conv2d", (3, 5, 3), {"stride": (2, 1), "padding": "valid", "bias": False, "dilation": (1, 2)}, (2, 3, 7, 8)),
]


@pytest.mark.parametrize(("name", "sizes", "how", "shape"), FLIPPED, ids=str)
def test_turned_filters_are_a_convolution_with_the_filters_turned(name, sizes, how, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    flipped, plain = (getattr(nn, name)(*sizes, **how, flip=flip) for flip in (True, False))
    state = flipped.state_dict()
    axes = tuple(range(2, state["weight"].ndim))
    plain.load_state_dict(state | {"weight": np.flip(state["weight"], axes)})
    dy = rng.standard_normal(plain(x).shape).astype(np.float32)
    found = []
    for layer in (flipped, plain):
        both = foveal.value_and_grad(lambda a, c, layer=layer: (layer(a) * c).sum(), [0, *layer.parameters()])
        _, (dx, dw, *rest) = both(x, dy)
        found.append((layer(x), dx, np.flip(dw, axes) if layer is plain else dw, *rest))
    for got, want in zip(*found, strict=True):
        assert error(got, want) < WEIGHT_LIMIT
    assert "flip=True" in repr(flipped)
    assert "flip" not in repr(plain)


def test_it_is_the_convolution_of_numpy():
    x, w = (np.random.default_rng(0).standard_normal(n).astype(np.float32) for n in (7, 3))
    layer = nn.Conv1d(1, 1, 3, padding=2, bias=False, flip=True)
    layer.load_state_dict({"weight": w.reshape(1, 1, 3)})
    np.testing.assert_allclose(layer(x.reshape(1, 1, 7)).ravel(), np.convolve(x, w), rtol=1e-5, atol=1e-6)
    assert layer.state_dict()["weight"].ravel().tolist() == w.tolist()
    layer.flip = False
    np.testing.assert_allclose(layer(x.reshape(1, 1, 7)).ravel(), np.correlate(x, w, "full"), rtol=1e-5, atol=1e-6)


def test_a_turned_filter_costs_and_sees_the_same():
    rows = [explain(nn.Conv2d(3, 4, 3, padding=1, flip=flip), (3, 8, 8), memory=False).rows[0] for flip in (0, 1)]
    assert (rows[0].parameters, rows[0].macs, rows[0].shape) == (rows[1].parameters, rows[1].macs, rows[1].shape)
    assert [e.size for e in rows[0].field] == [e.size for e in rows[1].field] == [3, 3]


def test_batch_norm_is_folded_into_turned_filters():
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, flip=True), nn.BatchNorm2d(4))
    net[1].running_mean.data, net[1].running_var.data = np.arange(4.0), np.arange(1.0, 5.0)
    assert error(nn.fold_batch_norm(net, x.shape)(x), net.eval()(x)) < LIMIT


class Resized(nn.Module):
    """A transposed convolution whose output has the size of another array."""

    def __init__(self, layer, size):
        self.layer, self.size = layer, size

    def forward(self, x):
        return self.layer.forward(x, output_size=self.size)


SIZES = [
    ("ConvTranspose1d", (4, 6, 3), {"stride": 3, "padding": 1}, (2, 4, 5), [(13,), (14,), (2, 6, 15)]),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "groups": 2}, (2, 4, 5, 4), [(11, 9), (12, 10), (2, 6, 11, 10)]),
    (
        "ConvTranspose2d",
        (3, 2, (3, 2)),
        {"stride": (2, 1), "dilation": 2, "output_padding": 1},
        (1, 3, 4, 4),
        [(12, 6)],
    ),
]


@pytest.mark.parametrize(("name", "sizes", "how", "shape", "outputs"), SIZES, ids=str)
def test_output_sizes_are_pytorchs(name, sizes, how, shape, outputs, torch):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours, theirs = getattr(nn, name)(*sizes, **how), getattr(torch.nn, name)(*sizes, **how)
    ours.load_state_dict(theirs.state_dict())
    for size in outputs:
        want = theirs(torch.tensor(x), output_size=list(size)).detach().numpy()
        assert want.shape[2:] == size[-len(want.shape[2:]) :]
        assert error(Resized(ours, size)(x), want) < LIMIT
        assert error(Resized(ours, list(size))(x), want) < LIMIT
    np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5)


X = np.ones((2, 4, 5, 4), np.float32)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            (10, 9),
            r"output_size \(10, 9\) cannot be had .*; with stride \(2, 2\) it has to be from \(11, 9\) to \(12, 10\)",
        ),
        ((13, 9), r"to \(12, 10\)"),
        ((11,), r"output_size is \(11,\), it has to be \(H, W\) or \(N, C, H, W\)"),
        (11, "output_size is 11"),
        ((11.5, 9), "output_size is"),
    ],
)
def test_sizes_that_cannot_be_had(size, words):
    with pytest.raises(ShapeError, match=words):
        Resized(nn.ConvTranspose2d(4, 6, 3, stride=2), size)(X)


def test_a_flag_that_is_none():
    with pytest.raises(ShapeError, match="Conv2d: flip is 'yes', it has to be True or False"):
        nn.Conv2d(4, 6, 3, flip="yes")
    assert ops.conv2d is ops.cross_correlation2d
