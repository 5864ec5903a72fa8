"""Batch norm over all shards of a batch: as a step on the whole batch normalises it, and in the same bits anywhere.

On several ranks: test_ranks.py.
"""

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim, train
from foveal.errors import FovealError, NumericsError, ShapeError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3, 6, 6)).astype(np.float32), np.arange(12) % 3


class Branches(nn.Module):
    """Two branches that are normalised by themselves, and a norm of features: three batch norms."""

    def __init__(self, **options):
        self.a = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5, **options), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5, **options))
        self.norm, self.last = nn.BatchNorm1d(5, **options), nn.Linear(5, 3)

    def forward(self, x):
        y = ops.relu(self.b(x) + self.a(x))
        return self.last(self.norm(y.mean(axis=(2, 3))))


class Sequences(nn.Module):
    """A batch norm of sequences; x [N, 3, 6, 6] as [N, 3, 36]."""

    def __init__(self, **options):
        self.norm, self.last = nn.BatchNorm1d(3, **options), nn.Linear(108, 3)

    def forward(self, x):
        y = self.norm(x.reshape(x.shape[0], 3, 36))
        return self.last(ops.tanh(y).reshape(x.shape[0], 108))


def made(kind, **options):
    nn.seed(3)
    return kind(**options)


def steps(net, loss, x, y, count=2, **given):
    """Take steps; return losses, outputs and the state of the network."""
    step = foveal.compile_step(net, loss, optim.SGD(net.parameters(), 0.3), threads=1, **given)
    results = [step(x, y) for _ in range(count)]
    return [result.loss for result in results], results[-1].output, net.state_dict()


def assert_alike(found, wanted, limit=2e-5):
    np.testing.assert_allclose(found[0], wanted[0], rtol=limit)
    np.testing.assert_allclose(found[1], wanted[1], rtol=limit, atol=limit)
    assert found[2].keys() == wanted[2].keys()
    for name, array in found[2].items():
        np.testing.assert_allclose(array, wanted[2][name], rtol=limit, atol=limit, err_msg=name)


OPTIONS = [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_shards_are_normalised_as_the_whole_batch_is(options, reduction):
    """11 images in 4 shards are 3, 3, 3 and 2: gradients, statistics and outputs are those of one process."""
    loss = nn.CrossEntropyLoss(reduction=reduction)
    wanted = steps(made(Branches, **options), loss, X[:11], Y[:11])
    found = steps(made(Branches, **options), loss, X[:11], Y[:11], shards=4, sync_batch_norm=True)
    assert_alike(found, wanted)
    apart = steps(made(Branches, **options), loss, X[:11], Y[:11], shards=4)
    assert abs(apart[0][0] / wanted[0][0] - 1) > 1e-3
