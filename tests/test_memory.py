"""Memory of a training step: what is computed again instead of being kept, and the plan that is told before a run."""

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import ShapeError
from foveal.nn import models


def small(name):
    if name == "resnet20":
        return models.build(name, channels=3, size=(16, 16), classes=10)
    nn.seed(0)
    extra = [nn.Dropout(0.3)] if name == "dropout" else [nn.MaxPool2d(2)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *extra,
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * (16 * 16 if name == "dropout" else 8 * 8), 10),
    )  # fmt: skip


def trained(name, memory, threads=2, steps=3):
    net = small(name)
    optimizer = optim.Momentum(net.parameters(), lr=0.01)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads, memory=memory)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((16, 3, 16, 16)).astype("f4"), rng.integers(0, 10, 16)
    losses = [step(x, labels).loss for _ in range(steps)]
    return losses, net.state_dict(), step.program(x, labels)


@pytest.mark.parametrize("name", ["resnet20", "pooled", "dropout"])
def test_low_memory_trains_the_same_and_holds_less(name):
    losses, state, program = trained(name, "fast")
    low_losses, low_state, low = trained(name, "low")
    np.testing.assert_allclose(low_losses, losses, rtol=1e-4)
    for key, value in state.items():
        np.testing.assert_allclose(low_state[key], value, rtol=1e-3, atol=1e-4)
    assert low.plan.size <= program.plan.size * (0.9 if name == "resnet20" else 1.0)


def test_low_memory_gives_the_same_bits_on_any_number_of_threads():
    _, one, _ = trained("resnet20", "low", threads=1)
    _, two, _ = trained("resnet20", "low", threads=2)
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_the_plan_is_told_in_words():
    _, _, program = trained("pooled", "fast", steps=1)
    words = str(program.footprint())
    assert f"activations and gradients {program.plan.size / 2**20:.1f} MiB" in words
    assert "without reuse" in words
    assert "batch 0.0 MiB" in words


def test_unknown_modes_are_refused():
    with pytest.raises(ShapeError, match="memory 'tiny' is not known; choose one of fast, low"):
        trained("pooled", "tiny")
