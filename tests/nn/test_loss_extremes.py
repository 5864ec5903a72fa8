"""Losses and their gradients at logits up to the largest of float32, against closed forms in float64."""

import itertools

import numpy as np
import pytest

import foveal
from foveal import nn, ops

LARGEST = float(np.finfo(np.float32).max)
SIZES = (0.0, 1.0, 30.0, 100.0, 1e4, 1e10, 3e38)
GRID = sorted({sign * size for size in SIZES for sign in (-1.0, 1.0)})
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)


def floats(values):
    return np.array(values, np.float32)


def rows():
    """Logits of three classes, all of the grid, classes of probability 0 among them; and labels in turn."""
    x = np.array(list(itertools.product([-np.inf, *GRID], repeat=3)), np.float32)
    labels = (np.arange(len(x)) % 3).astype(np.int32)
    kept = np.isfinite(x[np.arange(len(x)), labels])
    return x[kept], labels[kept]


def softplus(x):
    return np.logaddexp(0.0, x)


def in_float32(x):
    """Infinity for what float32 cannot hold, such as the difference of the largest logits."""
    return np.where(np.abs(x) < LARGEST, x, np.inf)


def times(weight, x):
    """The product; 0 where the weight is 0."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * x)


def check(loss, output, target, value, gradient):
    """Compare the loss with reduction "none", and the gradient of the sum; what is too large for float32 is inf."""
    loss.reduction = "none"
    with np.errstate(all="ignore"):
        found, at_once = foveal.compile(loss)(output, target), loss(output, target)
    fits = np.abs(value) < LARGEST
    np.testing.assert_allclose(found[fits], value[fits], rtol=4e-6, atol=1e-6)
    np.testing.assert_allclose(at_once[fits], value[fits], rtol=4e-6, atol=1e-6)
    assert np.isinf(found[~fits]).all()
    loss.reduction = "sum"
    slopes = foveal.grad(loss)(output, target)
    bounded = np.abs(gradient) < LARGEST
    np.testing.assert_allclose(slopes[bounded], gradient[bounded], rtol=4e-6, atol=2e-6)


def focal(x, labels, gamma, weight):
    """The focal loss of each row and its gradient, in float64."""
    x, own = x.astype(np.float64), np.eye(3)[labels] > 0
    others = np.where(own, -np.inf, x)
    top = np.maximum(others.max(axis=1, keepdims=True), -1e300)
    e = np.exp(others - top)
    total = e.sum(axis=1)
    # with z the logit of the label against all others: p = sigmoid(z), q = 1 - p, s = -ln p
    with np.errstate(divide="ignore"):
        z = x[own] - top[:, 0] - np.log(total)
    s, q, p = softplus(-z), np.exp(-softplus(z)), np.exp(-softplus(-z))
    slope = -(q**gamma) * (q + gamma * p * s)
    share = e / np.where(total, total, 1.0)[:, None]
    w = np.ones(3) if weight is None else np.array(weight)
    gradient = np.where(own, slope[:, None], -slope[:, None] * share)
    return times(w[labels], in_float32(q**gamma * s)), gradient * w[labels][:, None]


@pytest.mark.parametrize("weight", [None, [0.5, 0.0, 3.0]], ids=["plain", "weight"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss(gamma, weight):
    x, labels = rows()
    check(nn.FocalLoss(gamma, weight), x, labels, *focal(x, labels, gamma, weight))


def test_focal_loss_of_labels_that_do_not_count():
    x, labels = rows()
    value, gradient = focal(x, labels, 2.0, None)
    ignored = labels == 1
    value[ignored], gradient[ignored] = 0, 0
    check(nn.FocalLoss(2.0, ignore_index=1), x, labels, value, gradient)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss_of_one_class_is_0(gamma):
    x, labels = floats([[v] for v in GRID]), np.zeros(len(GRID), np.int32)
    check(nn.FocalLoss(gamma), x, labels, np.zeros(len(GRID)), np.zeros((len(GRID), 1)))


@pytest.mark.parametrize("weight", [None, [0.5, 0.0, 3.0]], ids=["plain", "weight"])
def test_cross_entropy(weight):
    x, labels = rows()
    check(nn.CrossEntropyLoss(weight), x, labels, *focal(x, labels, 0.0, weight))
    if weight is None:
        gradient = foveal.grad(ops.softmax_cross_entropy)(x, labels) * len(x)
        np.testing.assert_allclose(gradient, focal(x, labels, 0.0, weight)[1], rtol=4e-6, atol=2e-6)


@pytest.mark.parametrize("soft", [False, True], ids=["smoothing", "probabilities"])
def test_targets_that_are_spread_over_classes(soft):
    x, labels = rows()
    finite = np.isfinite(x).all(axis=1)
    x, labels = x[finite], labels[finite]
    target = np.eye(3)[labels] * 0.7 + 0.1
    wide = x.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    log_p = shifted - np.logaddexp.reduce(shifted, axis=1, keepdims=True)
    value, gradient = -(target * log_p).sum(axis=1), np.exp(log_p) - target
    loss = nn.CrossEntropyLoss() if soft else nn.CrossEntropyLoss(label_smoothing=0.3)
    # Where logits differ by more than float32 holds, one term may be infinite though the sum is not.
    held = -shifted.min(axis=1) < LARGEST
    given = target.astype(np.float32) if soft else labels
    check(loss, x[held], given[held], value[held], gradient[held])


BINARY = floats([*GRID, np.inf, -np.inf])


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_binary_focal_loss(gamma, alpha):
    x = np.repeat(BINARY, 2)
    target = floats([0, 1] * len(BINARY))
    sign = np.where(target > 0, 1.0, -1.0)
    z = sign * x.astype(np.float64)
    s, q, p = softplus(-z), np.exp(-softplus(z)), np.exp(-softplus(-z))
    w = 1.0 if alpha is None else np.where(target > 0, alpha, 1 - alpha)
    with np.errstate(invalid="ignore"):
        slope = -(q**gamma) * (q + gamma * np.where(np.isinf(s), 0.0, p * s))
    check(nn.BinaryFocalLoss(gamma, alpha), x, target, w * q**gamma * s, w * sign * slope)


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("how", [{}, {"pos_weight": [3.0]}, {"weight": [0.5]}], ids=str)
def test_binary_cross_entropy(target, how):
    x = floats([v for v in BINARY if np.isfinite(v) or (v > 0) == target])
    wide, positive = x.astype(np.float64), how.get("pos_weight", [1.0])[0]
    w = how.get("weight", [1.0])[0]
    with np.errstate(invalid="ignore"):
        parts = [positive * target * softplus(-wide), (1 - target) * softplus(wide)]
    value = sum(np.nan_to_num(part, nan=0.0, posinf=np.inf) for part in parts)
    p = np.exp(-softplus(-wide))
    gradient = (1 - target) * p - positive * target * np.exp(-softplus(wide))
    check(nn.BCEWithLogitsLoss(**how), x, np.full_like(x, target), w * value, w * gradient)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_binary_focal_loss_of_probabilities(gamma):
    x = floats(GRID)
    # both parts of the product are smooth here, and far out the second is 1 - t or t to the power of gamma
    value = foveal.compile(nn.BinaryFocalLoss(gamma, None, "none"))(x, np.full_like(x, 0.25))
    far = np.abs(x) >= 100
    power = np.where(x > 0, 0.75, 0.25)
    np.testing.assert_allclose(value[far], (power ** (gamma + 1) * np.abs(x))[far], rtol=4e-6)
    slopes = foveal.grad(nn.BinaryFocalLoss(gamma, None, "sum"))(x, np.full_like(x, 0.25))
    np.testing.assert_allclose(slopes[far], (np.sign(x) * power ** (gamma + 1))[far], rtol=4e-6)


def distances():
    pairs = floats(list(itertools.product(GRID, repeat=2)))
    return pairs[:, 0], pairs[:, 1], pairs[:, 0].astype(np.float64) - pairs[:, 1]


def smooth_l1(d, beta):
    size = np.abs(d)
    near = size < beta
    inner = size if not beta else np.where(near, size / beta, 1.0) * np.where(near, size, 0) / 2
    return np.where(near, inner, in_float32(size) - beta / 2), np.where(near, d / (beta or 1.0), np.sign(d))


@pytest.mark.parametrize("beta", [0.0, 1e-40, 1e-20, 0.5, 1.0, 2.0, 1e5, 1e15])
def test_smooth_l1(beta):
    output, target, d = distances()
    check(nn.SmoothL1Loss(beta=beta), output, target, *smooth_l1(d, beta))


@pytest.mark.parametrize("delta", [1e-20, 0.5, 1.0, 2.0, 1e5])
def test_huber(delta):
    output, target, d = distances()
    value, gradient = smooth_l1(d, delta)
    check(nn.HuberLoss(delta=delta), output, target, value * delta, gradient * delta)


def test_squares_and_distances():
    output, target, d = distances()
    check(nn.MSELoss(), output, target, d * d, 2 * d)
    check(nn.L1Loss(), output, target, np.abs(d), np.sign(d))
