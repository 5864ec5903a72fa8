"""A first look in seconds: an operator agrees with NumPy, a network learns. To be run before each commit."""

import numpy as np

import foveal
from foveal import nn, ops, optim


def test_an_operator_agrees_with_numpy():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 9, 8)).astype("float32"), rng.standard_normal((5, 3, 3, 3)).astype("float32")

    def layer(x, w):
        return ops.relu(ops.conv2d(x, w, padding=1))

    want = np.maximum(ops.conv2d(x, w, padding=1), 0)
    np.testing.assert_allclose(foveal.compile(layer)(x, w), want, rtol=1e-4, atol=1e-4)


def test_a_network_learns_the_same_bits_on_any_number_of_threads():
    def trained(threads):
        nn.seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        optimizer = optim.Momentum(net.parameters(), lr=0.1)
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads=threads)
        rng = np.random.default_rng(0)
        images, labels = rng.standard_normal((16, 1, 8, 8)).astype("float32"), rng.integers(0, 3, 16)
        losses = [step(images, labels).loss for _ in range(30)]
        assert losses[-1] < 0.1 * losses[0]
        return {name: array.tobytes() for name, array in net.state_dict().items()}

    assert trained(threads=1) == trained(threads=2)
