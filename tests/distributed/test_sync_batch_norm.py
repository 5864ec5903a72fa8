"""Batch norm over all shards of a batch: as a step on the whole batch normalises it, and in the same bits anywhere.

On several ranks: test_ranks.py.
"""

import copy
import json

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


def test_sequences_of_one_image_a_shard():
    """Shards of one image, whose programs are simplified otherwise; the last of 5 shards has one, the others two."""
    wanted = steps(made(Sequences), nn.CrossEntropyLoss(), X[:9], Y[:9])
    for shards in (9, 5):
        found = steps(made(Sequences), nn.CrossEntropyLoss(), X[:9], Y[:9], shards=shards, sync_batch_norm=True)
        assert_alike(found, wanted)
    wanted = steps(made(Branches), nn.CrossEntropyLoss(), X[:9], Y[:9], memory="low")
    found = steps(made(Branches), nn.CrossEntropyLoss(), X[:9], Y[:9], memory="low", shards=5, sync_batch_norm=True)
    assert_alike(found, wanted)


def test_the_moments_are_those_of_the_batch_in_float64():
    """Far from 0, where float32 has values to 2^-24 of the mean; and of a constant, exactly."""
    x = RNG.standard_normal((10, 3, 4, 4)) * [[[1.0]], [[3.0]], [[0.0]]] + [[[3e3]], [[-5.0]], [[7.0]]]
    x = x.astype(np.float32)
    net = nn.BatchNorm2d(3, momentum=1.0)
    loss = lambda y, target: ((y - target) * (y - target)).mean()  # noqa: E731
    step = foveal.compile_step(net, loss, optim.SGD(net.parameters(), 0.1), shards=4, sync_batch_norm=True)
    result = step(x, np.zeros_like(x))
    double = x.astype(np.float64)
    np.testing.assert_allclose(net.running_mean.data, double.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(net.running_var.data, double.var((0, 2, 3), ddof=1), rtol=2.0**-24 * 3e3, atol=1e-12)
    mean, variance = (f((0, 2, 3), keepdims=True) for f in (double.mean, double.var))
    np.testing.assert_allclose(result.output, (double - mean) / np.sqrt(variance + 1e-5), atol=1e-3)


def test_pytorch_on_the_whole_batch_agrees():
    torch = pytest.importorskip("torch")
    net, twin = nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    loss = lambda y, target: (y * target).mean()  # noqa: E731
    weights = RNG.standard_normal(X.shape).astype(np.float32)
    step = foveal.compile_step(net, loss, optim.SGD(net.parameters(), 1.0), shards=5, sync_batch_norm=True)
    result = step(X, weights)
    y = twin(torch.from_numpy(X))
    total = (y * torch.from_numpy(weights)).mean()
    total.backward()
    assert result.loss == pytest.approx(total.item(), rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(result.output, y.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(1.0 - net.weight.data, twin.weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.running_var.data, twin.running_var.numpy(), rtol=1e-5)


def test_gradients_of_gradients_go_through_messages():
    """A loss with the gradient in the input, as of a critic: that of one process."""
    net = lambda: made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh()))  # noqa: E731

    class Penalised(nn.Module):
        def __init__(self):
            self.inner = net()
            self.scale = nn.Parameter(np.float32(0.7))

        def forward(self, x):
            return self.inner(x * self.scale)

    wanted, found = (
        steps(made(Penalised), lambda y, t: (y * y).mean() + y.mean() * y.mean() * 0.0, X, Y, **given)
        for given in ({}, {"shards": 4, "sync_batch_norm": True})
    )
    assert_alike(found, wanted)


def test_frozen_batch_norms_and_networks_without_one_need_no_messages():
    frozen = made(Branches)
    for part in frozen.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    before = frozen.norm.running_mean.data.copy()
    step = foveal.compile_step(
        frozen, nn.CrossEntropyLoss(), optim.SGD(frozen.parameters(), 0.1), shards=4, sync_batch_norm=True
    )
    step(X, Y)
    np.testing.assert_array_equal(frozen.norm.running_mean.data, before)
    assert not any(call.between_shards for call in step.program(X[:3], Y[:3]).calls)
    one = step.footprint(X[:3], Y[:3]).values
    # The same step, with batch norms that are trained.
    frozen.train()
    step(X, Y)
    assert (frozen.norm.running_mean.data != before).any()
    assert step.footprint(X[:3], Y[:3]).values > 3 * one
    assert "all shards" in str(step.footprint(X[:3], Y[:3]))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    found = [
        steps(copy.deepcopy(plain), nn.CrossEntropyLoss(), X, Y, shards=4, sync_batch_norm=on) for on in (True, False)
    ]
    assert found[0][0] == found[1][0]


def test_a_shard_that_is_not_finite_fails_the_step_and_changes_nothing():
    net = made(Branches)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters()), shards=4, sync_batch_norm=True)
    before, x = {name: array.copy() for name, array in net.state_dict().items()}, X.copy()
    x[7] *= np.float32(1e38)
    with pytest.raises(NumericsError, match="nothing of the 4 shards"):
        step(x, Y)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert step.steps == 0
    step(X, Y)
    assert step.steps == 1


def test_what_cannot_be_is_refused_by_a_clear_error():
    net = made(Branches)
    rule = optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ShapeError, match=r"sync_batch_norm normalises the shards .* give shards=8"):
        foveal.compile_step(net, nn.CrossEntropyLoss(), rule, sync_batch_norm=True)
    with pytest.raises(FovealError, match=r"give shards \(--shards 8\)"):
        train.train((X, Y), net, epochs=1, quiet=True, sync_batch_norm=True)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule, shards=4, sync_batch_norm=True)
    with pytest.raises(ShapeError, match="one value per channel in the whole batch"):
        step(X[:1], Y[:1])
    with pytest.raises(AttributeError, match="sync_batch_norm=True"):
        _ = nn.SyncBatchNorm


class Interrupted(train.Callback):
    """Asks for an end after so many steps."""

    def __init__(self, step):
        self.left = step

    def on_step_end(self, values):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_run_goes_on_to_the_same_bits_with_the_same_setting_only(tmp_path):
    x = RNG.random((32, 3, 6, 6), np.float32)
    y = np.arange(32) % 3

    def run(folder, *callbacks, **more):
        given = {"epochs": 2, "batch_size": 8, "shards": 4, "threads": 1, "freeze_epochs": 1, "checkpoint_minutes": 0.0}
        given |= {"sync_batch_norm": True, "quiet": True, **more}
        return train.train((x, y), made(Branches), out=folder, callbacks=list(callbacks), **given)

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Interrupted(6))
    told = json.loads((tmp_path / "cut" / "run.json").read_text())["settings"]
    assert told["sync_batch_norm"] is True
    with pytest.raises(FovealError, match="sync_batch_norm was True and is False"):
        run(None, Interrupted(0), resume=tmp_path / "cut", sync_batch_norm=False)
    run(None, Interrupted(0), resume=tmp_path / "cut")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]
    run(tmp_path / "apart", sync_batch_norm=False)
    assert (tmp_path / "apart" / "model.safetensors").read_bytes() != models[0]
