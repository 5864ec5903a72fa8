"""Pooling against PyTorch in float64, in random configurations; what is refused, by its words."""

import checks
import numpy as np
import pytest

from foveal import nn
from foveal.autodiff import gradients
from foveal.execute import Program
from foveal.trace import trace

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: compare)")


def with_gradient(function, x, dy):
    """function(x) and the gradient of <dy, function(x)> in x, by one native program; more outputs follow."""

    def both(x, dy):
        found = function(x)
        y, *more = found if isinstance(found, tuple) else (found,)
        return [y, *gradients(y, [x], dy), *more]

    return Program(trace(both, *checks.types([x, dy])), threads=1).run(x, dy)


def torch_with_gradient(layer, x, dy):
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
    asked = [
        None if rank == 2 and rng.random() < 0.15 else int(rng.integers(1, 9)) for _ in range(rank)
    ]
    how = {"output_size": tuple(asked) if rank == 2 else asked[0]}
    if kind == "Max":
        how["return_indices"] = bool(rng.random() < 0.5)
    return f"Adaptive{kind}Pool{rank}d", n, how


KINDS = (max_pooling, average_pooling, adaptive_pooling)


@pytest.mark.configurations(full=500, quick=25)
def test_pooling_is_pytorchs(configuration):
    rng = np.random.default_rng(configuration)
    name, n, how = KINDS[configuration % 25 % len(KINDS)](rng, int(rng.integers(1, 3)))
    x = values(rng, (int(rng.integers(1, 4)), int(rng.integers(1, 40)), *n))
    reference = getattr(torch.nn, name)(**how)
    given = reference(torch.tensor(x))
    given = given[0] if isinstance(given, tuple) else given
    dy = rng.standard_normal(tuple(given.shape)).astype(np.float32)
    got = with_gradient(getattr(nn, name)(**how), x, dy)
    want = torch_with_gradient(reference, x, dy)
    for a, b in zip(got, want, strict=True):
        assert checks.error(a, b) < checks.LIMIT, (name, n, how)
