"""Norms against PyTorch in float64, in random configurations, with their running statistics; what is refused."""

import checks
import numpy as np
import pytest

from foveal import nn
from foveal.autodiff import gradients
from foveal.execute import Program
from foveal.trace import current, trace

TORCH = "PyTorch is not installed (extra: compare)"
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
        name: np.array(rng.integers(0, 9)) if value.ndim == 0
        else rng.uniform(0.5, 2.0, value.shape).astype(np.float32)
        for name, value in state.items()
    }  # fmt: skip


@pytest.mark.configurations(full=500, quick=25)
def test_norms_are_pytorchs(configuration):
    torch = pytest.importorskip("torch", reason=TORCH)
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

    got = Program(trace(both, *checks.types([x, dy])), threads=1).run(x, dy)
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
