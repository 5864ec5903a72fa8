"""Activation layers against PyTorch in float64: values and gradients, small and large numbers, and what is refused."""

import numpy as np
import pytest
from checks import error

import foveal
from foveal import nn
from foveal.errors import ShapeError

LIMIT = 1e-5
ACTIVATIONS = {
    "ReLU": ("ReLU", {}),
    "ReLU6": ("ReLU6", {}),
    "LeakyReLU": ("LeakyReLU", {}),
    "LeakyReLU, slope": ("LeakyReLU", {"negative_slope": 0.3}),
    "PReLU": ("PReLU", {"num_parameters": 5, "init": 0.1}),
    "PReLU, one": ("PReLU", {}),
    "ELU": ("ELU", {"alpha": 1.3}),
    "GELU": ("GELU", {}),
    "GELU, tanh": ("GELU", {"approximate": "tanh"}),
    "SiLU": ("SiLU", {}),
    "Sigmoid": ("Sigmoid", {}),
    "Tanh": ("Tanh", {}),
    "Softplus": ("Softplus", {}),
    "Softplus, sharp": ("Softplus", {"beta": 3.0, "threshold": 5.0}),
    "Hardsigmoid": ("Hardsigmoid", {}),
    "Hardswish": ("Hardswish", {}),
    "Mish": ("Mish", {}),
    "Hardtanh": ("Hardtanh", {}),
    "Hardtanh, wide": ("Hardtanh", {"min_val": -0.5, "max_val": 3.0}),
    "Softsign": ("Softsign", {}),
    "Tanhshrink": ("Tanhshrink", {}),
    "Hardshrink": ("Hardshrink", {"lambd": 0.7}),
    "Softshrink": ("Softshrink", {}),
    "Threshold": ("Threshold", {"threshold": 0.2, "value": -1.5}),
    "LogSigmoid": ("LogSigmoid", {}),
    "GLU": ("GLU", {"dim": 2}),
    "CELU": ("CELU", {"alpha": 1.7}),
    "SELU": ("SELU", {}),
    "Softmin": ("Softmin", {"dim": 3}),
    "Softmax2d": ("Softmax2d", {}),
    "Softmax": ("Softmax", {"dim": 1}),
    "Softmax, last": ("Softmax", {"dim": -1}),
    "LogSoftmax": ("LogSoftmax", {"dim": 1}),
    "LogSoftmax, rows": ("LogSoftmax", {"dim": 2}),
}


@pytest.mark.parametrize("scale", [1.0, 6.0, 60.0])
@pytest.mark.parametrize("which", ACTIVATIONS)
def test_values_and_gradients_are_pytorchs(torch, which, scale):
    name, options = ACTIVATIONS[which]
    rng = np.random.default_rng(0)
    x = (scale * rng.standard_normal((3, 5, 6, 7))).astype(np.float32)
    layer, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options).double()
    double = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = theirs(double)
    dy = rng.standard_normal(tuple(want.shape)).astype(np.float32)
    want.backward(torch.tensor(dy, dtype=torch.float64))

    both = foveal.value_and_grad(lambda a, c: (layer(a) * c).sum(), [0, *layer.parameters()])
    _, (dx, *slopes) = both(x, dy)
    assert error(layer(x), want.detach().numpy()) < LIMIT
    assert error(dx, double.grad.numpy()) < LIMIT
    for slope, parameter in zip(slopes, theirs.parameters(), strict=True):
        assert error(slope, parameter.grad.numpy()) < LIMIT


# the limits far below and far above 0, None where there is none: they are exact, without NaN or overflow
ENDS = {
    "ReLU": (0, None),
    "LeakyReLU": (-1e35, None),
    "ELU": (-1, None),
    "GELU": (0, None),
    "SiLU": (0, None),
    "Sigmoid": (0, 1),
    "Tanh": (-1, 1),
    "Softplus": (0, None),
    "Hardsigmoid": (0, 1),
    "Hardswish": (0, None),
    "ReLU6": (0, 6),
    "Mish": (0, None),
    "Hardtanh": (-1, 1),
    "LogSigmoid": (-1e37, 0),
    "CELU": (-1, None),
    "Softsign": (-1, 1),
}


@pytest.mark.parametrize("name", ENDS)
def test_far_from_zero(name):
    layer, large = getattr(nn, name)(), np.float32(1e37)
    low, high = ENDS[name]
    both = foveal.value_and_grad(lambda a: layer(a).sum())
    for x, want in ((-large, low), (large, large if high is None else high)):
        y, slope = both(np.full(4, x, np.float32))
        np.testing.assert_allclose(y / 4, want, rtol=1e-6)
        assert np.isfinite(slope).all()


def test_softmax_of_large_numbers():
    x = np.array([[1e4, 1e4 + 1, -1e38], [-1e4, -1e4, -1e4]], np.float32)
    e = np.exp([-1, 0])
    want = np.array([[*(e / e.sum()), 0], [1 / 3] * 3])
    np.testing.assert_allclose(nn.Softmax(1)(x), want, rtol=1e-6)
    np.testing.assert_allclose(nn.LogSoftmax(1)(x)[:, :2], np.log(want[:, :2]), rtol=1e-6)


@pytest.mark.parametrize("rows", [16, 512])
def test_a_softmax_is_one_kernel(rows):
    x = np.random.default_rng(0).standard_normal((rows, 130)).astype(np.float32)
    program = foveal.compile(lambda a: foveal.ops.softmax(a, axis=1)).program(x)
    assert [group.kind for group in program.groups] == ["rows"]
    e = np.exp(x.astype(np.float64))
    assert error(program.run(x)[0], e / e.sum(axis=1, keepdims=True)) < LIMIT


IN_PLACE = ("ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "Hardtanh")


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_is_taken_and_changes_nothing(name):
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    before = x.copy()
    np.testing.assert_array_equal(getattr(nn, name)(inplace=True)(x), getattr(nn, name)()(x))
    np.testing.assert_array_equal(x, before)
    with pytest.raises(ShapeError, match="inplace is 'yes', it has to be True or False"):
        getattr(nn, name)(inplace="yes")


IMAGES = np.ones((2, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.GELU(approximate="erf"), "approximate is 'erf'; choose 'none' or 'tanh'"),
        (lambda: nn.PReLU(0), "num_parameters is 0"),
        (lambda: nn.PReLU(3)(IMAGES), "it has 3 weights, x of shape \\(2, 4, 3, 3\\) has another number"),
        (lambda: nn.Softmax(4)(IMAGES), "axis 4"),
        (lambda: nn.Softplus(beta=0.0)(IMAGES), "beta"),
        (lambda: nn.Hardtanh(1.0, 1.0), "min_val is 1.0, it has to be below max_val, 1.0"),
        (lambda: nn.Softshrink(-1.0), "Softshrink: lambd is -1.0, it has to be 0 or more"),
        (lambda: nn.CELU(0.0), "alpha is 0, which x cannot be divided by"),
        (lambda: nn.GLU(2)(IMAGES), "x of shape \\(2, 4, 3, 3\\) has no axis 2 of even size"),
        (lambda: nn.GLU(4)(IMAGES), "has no axis 4"),
        (lambda: nn.Softmax2d()(IMAGES[0, 0]), "takes images \\[N, C, H, W\\] or one image"),
        (lambda: nn.SiLU()(IMAGES.astype(np.int32)), "int32"),
    ],
)
def test_what_has_no_meaning_is_one_clear_error(build, words):
    with pytest.raises(ShapeError, match=words):
        build()
