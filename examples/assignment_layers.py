"""The assignment's layers without windows in plain NumPy, each with its gradient, and the loss.

The page of the course explains them; assignment_windows.py has the others, and assignment_numpy.py trains with them.
"""

import numpy as np

import foveal
from foveal import nn, ops


def batch_norm(x, gamma, beta):
    """Return gamma x^ + beta, where x^ is x [N, C, H, W] with mean 0 and variance 1 in each channel."""
    deviation = np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    normal = (x - x.mean((0, 2, 3), keepdims=True)) / deviation
    return gamma[:, None, None] * normal + beta[:, None, None]


def batch_norm_backward(dy, x, gamma, beta):
    """Return dx, dgamma and dbeta; the mean and the variance depend on x as well."""
    over, M = (0, 2, 3), x.size / len(gamma)
    deviation = np.sqrt(x.var(over, keepdims=True) + 1e-5)
    normal = (x - x.mean(over, keepdims=True)) / deviation
    dgamma, dbeta = (dy * normal).sum(over), dy.sum(over)
    shared = (dbeta[:, None, None] + normal * dgamma[:, None, None]) / M
    return gamma[:, None, None] / deviation * (dy - shared), dgamma, dbeta


def relu(x):
    """Return x where it is above 0, else 0."""
    return np.maximum(x, 0)


def relu_backward(dy, x):
    """Return dx alone: dy where x is above 0, else 0."""
    return (dy * (x > 0),)


def linear(x, w, b):
    """Return y [N, K] of x [N, ...], the values of an image in a row, w [K, D] and b [K]."""
    return x.reshape(len(x), -1) @ w.T + b


def linear_backward(dy, x, w, b):
    """Return dx, dw and db."""
    return (dy @ w).reshape(x.shape), dy.T @ x.reshape(len(x), -1), dy.sum(0)


def cross_entropy(logits, labels):
    """Return the mean of -ln p[label] over the batch; p = softmax(logits), [N, K]."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean()


def cross_entropy_backward(logits, labels):
    """Return the gradient in the logits: (p - one-hot) / N."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)


def compare(layer, forward, backward, x):
    """Compare the outputs and the gradients of two functions with those of Foveal's layer."""
    parameters = [np.asarray(parameter.data) for parameter in layer.parameters()]
    y = forward(x, *parameters)
    dx, rest = foveal.grad(lambda x: ops.sum(layer(x) ** 2), wrt=[0, layer])(x)
    for ours, theirs in zip((y, *backward(2 * y, x, *parameters)), (layer(x), dx, *rest.values()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    print(f"{layer}: output and gradients agree")


if __name__ == "__main__":
    nn.seed(0)
    images = np.random.default_rng(0).standard_normal((4, 3, 2, 5)).astype("float32")
    compare(nn.BatchNorm2d(3), batch_norm, batch_norm_backward, images)
    compare(nn.ReLU(), relu, relu_backward, images)
    compare(nn.Linear(30, 6), linear, linear_backward, images.reshape(4, 30))
