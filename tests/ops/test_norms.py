"""Norms against PyTorch in float64, in random configurations, with their running statistics; what is refused."""

import checks
import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.autodiff import gradients
from foveal.build import build
from foveal.errors import NumericsError, ShapeError
from foveal.trace import current, trace

ENOUGH = 8  # values that are normalised together: of two, the results are signs, and the gradients rounding errors


def sizes(rng, rank, least):
    """Sizes of `rank` axes whose product is at least `least`."""
    while True:
        found = tuple(int(n) for n in rng.integers(1, 9, rank))
        if np.prod(found) >= least:
            return found


def tracked(rng, kind, rank):
    """A batch or instance norm: (layer's name, arguments, hyper-parameters, shape of x)."""
    channels = int(rng.integers(1, 40))
    how = {"affine": bool(rng.random() < 0.7), "track_running_stats": bool(rng.random() < 0.7)}
    if rng.random() < 0.5:
        how["momentum"] = None if rng.random() < 0.4 else float(rng.uniform(0.05, 1))
    if kind == "Instance":
        shape = (int(rng.integers(1, 5)), channels, *sizes(rng, rank, ENOUGH))
        return f"InstanceNorm{rank}d", (channels,), how, shape
    rest = () if rank == 1 and rng.random() < 0.5 else sizes(rng, rank, 1)
    images = -(-ENOUGH // int(np.prod(rest))) + int(rng.integers(1, 5))
    return f"BatchNorm{rank}d", (channels,), how, (images, channels, *rest)


def layer_norm(rng, _):
    count = int(rng.integers(1, 4))
    normalized = sizes(rng, count, ENOUGH)
    how = {"elementwise_affine": bool(rng.random() < 0.7)}
    name = rng.choice(["LayerNorm", "RMSNorm"])
    if name == "LayerNorm":
        how["bias"] = bool(rng.random() < 0.7)
    shape = (*sizes(rng, int(rng.integers(1, 5 - count)), 1), *normalized)
    return str(name), (normalized,), how, shape


def group_norm(rng, rank):
    groups, channels = int(rng.integers(1, 8)), int(rng.integers(1, 8))
    rest = sizes(rng, rank, -(-ENOUGH // channels))
    shape = (int(rng.integers(1, 5)), groups * channels, *rest)
    return "GroupNorm", (groups, shape[1]), {"affine": bool(rng.random() < 0.7)}, shape


def local_response_norm(rng, rank):
    how = {key: float(rng.uniform(0.3, 2)) for key in ("alpha", "beta", "k")}
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 40)), *sizes(rng, rank, 1))
    return "LocalResponseNorm", (int(rng.integers(1, 8)),), how, shape


KINDS = (
    lambda rng, rank: tracked(rng, "Batch", rank),
    lambda rng, rank: tracked(rng, "Instance", rank),
    layer_norm,
    group_norm,
    local_response_norm,
)


def filled(rng, state):
    """Other numbers in all parameters and statistics than a new layer has."""
    return {
        name: np.array(rng.integers(0, 9)) if value.ndim == 0 else rng.uniform(0.5, 2.0, value.shape).astype(np.float32)
        for name, value in state.items()
    }


@pytest.mark.configurations(full=500, quick=25)
def test_norms_are_pytorchs(configuration, torch):
    rng = np.random.default_rng(configuration)
    draw = KINDS[rng.integers(len(KINDS))]
    name, arguments, how, shape = draw(rng, int(rng.integers(1, 3)))
    if name != "LocalResponseNorm" and rng.random() < 0.5:
        how["eps"] = float(10.0 ** rng.uniform(-6, -1))
    ours, theirs = (getattr(where, name)(*arguments, **how) for where in (nn, torch.nn))
    state = filled(rng, ours.state_dict())
    ours.load_state_dict(state)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    training = bool(rng.random() < 0.6)
    ours.train(training), theirs.double().train(training)
    x = (rng.standard_normal(shape) + rng.uniform(-2, 2)).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)

    def both(x, dy):
        y = ours(x)
        return [y, *gradients(y, [x, *(current().lift(p) for p in ours.parameters())], dy)]

    got = build(trace(both, *checks.types([x, dy])), threads=1).run(x, dy)
    z = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = theirs(z)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    want = [y.detach(), z.grad, *(p.grad for p in theirs.parameters())]
    for a, b in zip(got, want, strict=True):
        assert checks.error(a, b) < checks.LIMIT, (name, arguments, how, shape, training)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype.kind == value.numpy().dtype.kind
        assert checks.error(found[key], value) < checks.LIMIT, (name, how, key)


def test_a_large_mean_costs_no_digits_of_the_variance():
    """The mean of squares less the square of the mean would have none left."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((4, 6, 5, 5)) + 3000.0).astype(np.float32)
    for layer, axes in (
        (nn.LayerNorm((6, 5, 5)), (1, 2, 3)),
        (nn.GroupNorm(1, 6), (1, 2, 3)),
        (nn.InstanceNorm2d(6), (2, 3)),
        (nn.BatchNorm2d(6), (0, 2, 3)),
    ):
        wide = x.astype(np.float64)
        want = wide - wide.mean(axes, keepdims=True)
        want /= np.sqrt((want**2).mean(axes, keepdims=True) + 1e-5)
        assert checks.error(layer(x), want) < 2e-4  # the mean itself has 24 bits


def test_statistics_of_batches_are_averaged_without_momentum():
    rng = np.random.default_rng(0)
    norm, means = nn.BatchNorm2d(3, momentum=None), []
    for i in range(4):
        x = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
        norm(x)
        means.append(x.mean((0, 2, 3)))
        assert norm.state_dict()["num_batches_tracked"] == i + 1
        assert checks.error(norm.running_mean.data, np.mean(means, axis=0)) < checks.LIMIT


def test_a_failed_step_counts_no_batch():
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
    x, labels = np.random.default_rng(0).standard_normal((4, 1, 2, 2)), np.array([0, 1, 0, 1])
    for _ in range(3):
        step(x, labels)
    with pytest.raises(NumericsError):
        step(x * 1e30, labels)
    count = net.state_dict()["1.num_batches_tracked"]
    assert (count, count.dtype) == (3, np.int64)


IMAGES = (2, 4, 3, 3)
REFUSED = {
    "channels": (lambda: nn.BatchNorm2d(5), IMAGES, r"made for 5; use BatchNorm2d\(4\)"),
    "rank": (lambda: nn.BatchNorm2d(4), (2, 4, 3), r"BatchNorm2d: takes images \[N, C, H, W\]"),
    "rank_1d": (lambda: nn.BatchNorm1d(4), IMAGES, r"takes features \[N, C\] or sequences"),
    "rank_instance": (lambda: nn.InstanceNorm1d(4), (2, 4), r"takes sequences \[N, C, L\]"),
    "one_value": (lambda: nn.BatchNorm2d(4), (1, 4, 1, 1), "one value per channel"),
    "one_pixel": (lambda: nn.InstanceNorm2d(4), (3, 4, 1, 1), "one value per channel and image"),
    "no_features": (lambda: nn.BatchNorm1d(0), None, "num_features is 0"),
    "momentum": (lambda: nn.BatchNorm2d(4, momentum=1.5), None, "momentum is 1.5, it has to be between 0 and 1"),
    "eps": (lambda: nn.LayerNorm(4, eps=-1.0), None, "LayerNorm: eps is -1.0, it has to be 0 or more"),
    "groups": (lambda: nn.GroupNorm(3, 4), None, "num_groups=3 does not divide num_channels=4"),
    "group_channels": (lambda: nn.GroupNorm(2, 6), IMAGES, r"takes \[N, 6, ...\], got shape"),
    "shape": (lambda: nn.LayerNorm((4, 3)), IMAGES, r"does not end in normalized_shape \(4, 3\)"),
    "shape_rms": (lambda: nn.RMSNorm(5), IMAGES, "RMSNorm: x of shape .* does not end in"),
    "shape_rank": (lambda: nn.LayerNorm((2, 2, 4, 3, 3)), IMAGES, "does not end in normalized_shape"),
    "shape_empty": (lambda: nn.LayerNorm(()), None, "normalized_shape is empty"),
    "shape_zero": (lambda: nn.LayerNorm((4, 0)), None, "normalized_shape is 0"),
    "size": (lambda: nn.LocalResponseNorm(0), None, "size is 0"),
    "rank_response": (lambda: nn.LocalResponseNorm(3), (2, 4), r"takes \[N, C, L\] or \[N, C, H, W\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_norm_is_refused(name):
    layer, shape, words = REFUSED[name]
    with pytest.raises(ShapeError, match=words):
        layer()(np.zeros(shape or IMAGES, np.float32))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(3)])
def test_integers_are_refused(layer):
    with pytest.raises(ShapeError, match="is int32, it has to be float32"):
        layer(np.zeros(IMAGES, np.int32))


def test_operators_refuse_what_they_cannot_normalise():
    x = np.zeros(IMAGES, np.float32)
    for call, words in (
        (lambda: ops.group_norm(x, groups=3), "3 groups do not divide 4 channels"),
        (lambda: ops.standardize(x, axes=(4,)), "axes .* are not among those of shape"),
        (lambda: ops.lp_normalize(x, p=3), "p is 3, it has to be 1 or 2"),
        (lambda: ops.lp_normalize(x, axis=4), "axis 4 is not one of those"),
    ):
        with pytest.raises(ShapeError, match=words):
            call()
