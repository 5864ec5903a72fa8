"""What every course on convolutional networks begins with: published values, and a network that overfits."""

import time

import numpy as np
import pytest
from checks import error

import foveal
from foveal import nn, ops, optim
from foveal.data.readers import load

PUBLISHED = 1e-6  # of the largest value; the digits that are printed are correct in float32


def arrays(values):
    return {
        k: np.array(v, np.float32) if isinstance(v, list) and not k.endswith("shape") else v for k, v in values.items()
    }


@pytest.fixture
def published(cs231n):
    """The values of the one call that is named."""

    def find(name):
        (values,) = (v for call, v in cs231n.items() if name in call)
        return arrays(values)

    return find


def test_convolution(published):
    v = published("conv_forward")
    stride, padding = v["conv_param"]["stride"], v["conv_param"]["pad"]
    x, w = v["x"].reshape(v["x_shape"]), v["w"].reshape(v["w_shape"])
    conv = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2:], stride=stride, padding=padding)
    conv.weight.data, conv.bias.data = w, v["b"]
    assert error(conv(x), v["correct_out"]) < PUBLISHED


def test_max_pooling(published):
    v = published("max_pool")
    how = v["pool_param"]
    pool = nn.MaxPool2d((how["pool_height"], how["pool_width"]), how["stride"])
    assert error(pool(v["x"].reshape(v["x_shape"])), v["correct_out"]) < PUBLISHED


def test_affine(published):
    v = published("affine_forward")
    linear = nn.Linear(v["w"].shape[0], v["w"].shape[1])
    linear.weight.data, linear.bias.data = v["w"].T, v["b"]
    assert error(linear(v["x"].reshape(v["num_inputs"], -1)), v["correct_out"]) < PUBLISHED


def test_relu(published):
    v = published("relu_forward")
    assert error(foveal.compile(ops.relu)(v["x"]), v["correct_out"]) < PUBLISHED


@pytest.mark.long
def test_fifty_images_are_learnt_by_heart(cifar10):
    """A convolution 3 -> 32 of 5x5, relu, 2x2 max pooling, a linear layer: 100 % of 50 training images, in seconds."""
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 14 * 14, 10))
    data = load(cifar10)
    # floats are made of 50 images, not of all
    x, labels = data.images_train[:50].astype("f4") / 255 - 0.5, data.y_train[:50]
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Momentum(net.parameters(), lr=0.02))
    begin, right = time.perf_counter(), 0.0
    while right < 1 and step.steps < 60:
        right = (step(x, labels).output.argmax(1) == labels).mean()
    assert right == 1, f"{right:.0%} after {step.steps} steps"
    assert time.perf_counter() - begin < 30  # compilation included; seconds, on a busy machine
    assert (net.eval()(x).argmax(1) == labels).all()
