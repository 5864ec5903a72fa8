"""Sums over long axes against float64, and norms of constants, which are exactly their shift."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops
from foveal.build import build
from foveal.ops.op import Type
from foveal.trace import trace

# float32's unit roundoff; blocks of 128 additions in three levels are at most 384 roundings, of which most cancel out
ROUNDING = 2.0**-24

LENGTH = 1 << 20
# shape, axes
LONG = [
    ((LENGTH,), (0,)),
    ((LENGTH, 3), (0,)),
    ((3, LENGTH), (1,)),
    ((LENGTH // 64, 64), (0, 1)),
    ((4, 2, 512, 256), (0, 2, 3)),
    ((4, LENGTH // 64, 2, 8), (1, 3)),
    ((70000, 40), (0,)),
]


@pytest.mark.parametrize(("shape", "axes"), LONG)
def test_means_over_long_axes(shape, axes):
    """Equal numbers, whose roundings add up, and numbers of one sign."""
    x = np.full(shape, 100.3, np.float32)
    mean = foveal.compile(lambda x: ops.mean(x, axes=axes))
    assert np.max(abs(mean(x).astype(np.float64) / np.float64(x.flat[0]) - 1)) < 48 * ROUNDING
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    want = x.mean(axes, dtype=np.float64)
    assert np.max(abs(mean(x) / want - 1)) < 48 * ROUNDING


@pytest.mark.parametrize("value", [100.3, -1e-3, 12345.678, 3e7])
@pytest.mark.parametrize("shape", [(64, 1, 32, 32), (8, 20, 9, 7), (300, 17), (3, 5, 1001)])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_constant_channel_is_normalised_to_its_shift(value, shape, tuned):
    x, gamma = np.full(shape, value, np.float32), np.full(shape[1], 1.7, np.float32)
    beta = np.linspace(-1, 1, shape[1]).astype(np.float32)
    graph = trace(
        lambda *xs: [ops.batch_norm(*xs), ops.channel_moments(xs[0])], *map(Type, (shape, beta.shape, beta.shape))
    )
    y, moments = build(graph, threads=1, tuned=tuned).run(x, gamma, beta)
    assert (np.moveaxis(y, 1, -1) == beta).all()
    assert (moments[0] == np.float32(value)).all()
    assert (moments[1] == 0).all()


class AfterConvolution(nn.Module):
    """A batch norm whose statistics are taken in the epilogue of a convolution."""

    def __init__(self, conv):
        self.conv, self.bn = conv, nn.BatchNorm2d(conv.out_channels)

    def forward(self, x):
        return self.bn(self.conv(x))


@pytest.mark.parametrize("value", [100.3, -7.7e3])
@pytest.mark.parametrize("groups", [1, 8])
def test_a_constant_after_a_convolution(value, groups):
    net = AfterConvolution(nn.Conv2d(8, 8, 1, bias=False, groups=groups))
    weight = np.zeros(net.conv.weight.shape, np.float32)
    weight[:, 0] = 1
    net.conv.weight.data = weight
    net.bn.bias.data = np.arange(8)
    y = net(np.full((16, 8, 31, 29), value, np.float32))
    assert (np.moveaxis(y, 1, -1) == np.arange(8)).all()
    assert (net.bn.running_var.data >= 0).all()


@pytest.mark.parametrize("value", [100.3, -7.7e3])
def test_constants_in_norms_of_an_image(value):
    x = np.full((2, 6, 64, 33), value, np.float32)
    for layer in (nn.LayerNorm((6, 64, 33)), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6)):
        assert not layer(x).any()


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (4000, 5)])
def test_moments_of_numbers_far_from_zero(shape):
    """Also where the first value, from which distances are taken, is far from all others."""
    x = (np.random.default_rng(0).standard_normal(shape) + 1000.0).astype(np.float32)
    for first in (1000.0, -1e5):
        x[0] = first
        axes = (0, *range(2, len(shape)))
        mean, variance = foveal.compile(ops.channel_moments)(x)
        np.testing.assert_allclose(mean, x.mean(axes, dtype=np.float64), rtol=2 * ROUNDING)
        np.testing.assert_allclose(variance, x.var(axes, dtype=np.float64), rtol=1e-5)
