"""Upsample, and channels that become pixels, against PyTorch; what they read of an image."""

import numpy as np
import pytest
from checks import error

import foveal
from foveal import nn
from foveal.errors import ShapeError
from foveal.explain import explain

LIMIT = 1e-5
# (class, arguments, shape of x)
LAYERS = [
    ("Upsample", {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", {"size": (7, 9), "mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
    ("Upsample", {"size": 6, "mode": "bicubic"}, (2, 3, 4, 5)),
    ("Upsample", {"scale_factor": 1.5, "mode": "linear"}, (2, 3, 8)),
    ("Upsample", {"size": 3, "mode": "nearest"}, (2, 3, 8)),
    ("UpsamplingNearest2d", {"scale_factor": 3}, (2, 3, 4, 5)),
    ("UpsamplingBilinear2d", {"size": (7, 8)}, (2, 3, 4, 5)),
    ("UpsamplingBilinear2d", {"scale_factor": 2}, (2, 3, 4, 5)),
    ("PixelShuffle", {"upscale_factor": 3}, (2, 18, 4, 5)),
    ("PixelShuffle", {"upscale_factor": 1}, (2, 3, 4, 5)),
    ("PixelUnshuffle", {"downscale_factor": 2}, (2, 3, 4, 6)),
    ("ChannelShuffle", {"groups": 3}, (2, 12, 4, 5)),
    ("ChannelShuffle", {"groups": 2}, (2, 4, 5)),
    ("Flatten", {}, (2, 3, 4, 5)),
    ("Flatten", {"start_dim": 2}, (2, 3, 4, 5)),
    ("Flatten", {"start_dim": 0, "end_dim": -2}, (2, 3, 4, 5)),
    ("Unflatten", {"dim": 1, "unflattened_size": (2, 3)}, (2, 6, 4)),
    ("Unflatten", {"dim": -1, "unflattened_size": (2, -1)}, (2, 6)),
]


@pytest.mark.parametrize(("name", "how", "shape"), LAYERS, ids=str)
def test_values_and_gradients_are_pytorchs(name, how, shape, torch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    layer, double = getattr(nn, name)(**how), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = getattr(torch.nn, name)(**how)(double)
    dy = rng.standard_normal(tuple(want.shape)).astype(np.float32)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    assert error(layer(x), want.detach().numpy()) < LIMIT
    slope = foveal.grad(lambda a, c: (layer(a) * c).sum())(x, dy)
    assert error(slope, double.grad.numpy()) < LIMIT
    assert name in repr(layer)


def test_shuffling_channels_back_and_forth():
    x = np.random.default_rng(0).standard_normal((2, 8, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(nn.PixelUnshuffle(2)(nn.PixelShuffle(2)(x)), x)
    np.testing.assert_array_equal(nn.ChannelShuffle(4)(nn.ChannelShuffle(2)(x)), x)


FIELDS = {
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "corners": lambda: nn.Upsample(size=(17, 25), mode="bilinear", align_corners=True),
    "bicubic": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "down": lambda: nn.Upsample(size=(6, 7), mode="nearest-exact"),
    "shuffle": lambda: nn.PixelShuffle(2),
}


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_read_of_the_image(name):
    """The field that `explain` states is that of the gradient: of all outputs, the one that reads most."""
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), FIELDS[name](), nn.Conv2d(1 if name == "shuffle" else 4, 1, 3))
    for p in net.parameters():
        p.data = np.random.default_rng(0).uniform(0.5, 1.0, p.shape)
    image = (1, 12, 13)
    x = np.random.default_rng(1).uniform(0.5, 1.0, (1, *image)).astype(np.float32)
    slope, y = foveal.grad(lambda a, c: (net(a) * c).sum()), net(x)
    most = [0, 0]
    for at in np.ndindex(*y.shape[2:]):
        one = np.zeros_like(y)
        one[0, 0][at] = 1
        read = slope(x, one)[0, 0] != 0
        most = [max(m, int(read.any(axis).sum())) for m, axis in zip(most, (1, 0), strict=True)]
    field = explain(net, image, memory=False).field
    assert [extent.size for extent in field] == most
    for extent in field:
        assert extent.line is None or extent.line.largest >= extent.size


X = np.ones((1, 3, 4, 5), np.float32)
REFUSED = [
    (lambda: nn.Upsample(), "Upsample: give either size or scale_factor"),
    (lambda: nn.Upsample(2, 2.0), "Upsample: give either size or scale_factor"),
    (lambda: nn.Upsample(0), "Upsample: size is 0, it has to be above 0"),
    (lambda: nn.Upsample(2, mode="cubic"), "Upsample: mode is 'cubic'; choose one of nearest"),
    (lambda: nn.Upsample(2, mode="linear")(X), "mode is 'linear'; for images choose"),
    (lambda: nn.Upsample(2, align_corners=True)(X), "align_corners is for linear, bilinear and bicubic"),
    (lambda: nn.PixelShuffle(0), "upscale_factor is 0"),
    (lambda: nn.PixelShuffle(2)(X), "whose C is a multiple of 2x2, got shape"),
    (lambda: nn.PixelUnshuffle(2)(X), "whose H and W are multiples of 2, got shape"),
    (lambda: nn.ChannelShuffle(2)(X), "a multiple of groups=2, got shape"),
    (lambda: nn.Flatten(3, 1)(X), "axis 3 of shape .* comes after axis 1"),
    (lambda: nn.Flatten(1, 4)(X), "has no axes 1 to 4"),
    (lambda: nn.Unflatten(1, (2, 2))(X), r"has 3 elements, and \(2, 2\) another number"),
    (lambda: nn.Unflatten(1, (2, -1))(X), "has 3 elements"),
    (lambda: nn.Unflatten(4, (1, 3))(X), "has no axis 4"),
    (lambda: nn.Unflatten(1, (-1, -1)), "of which one may be -1"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_be_meant_is_one_clear_error(call, words):
    with pytest.raises(ShapeError, match=words):
        call()
