"""A convolution written with NumPy, its gradient checked: foveal.gradcheck takes forward and backward as they are.

The forward pass returns its output and a cache; the backward pass takes the gradient of the output and the cache, and
returns that of each input. Both are called in float64. A mistake is named by its element; docs/gradients.md explains
the table. The same call checks layers, losses and networks of Foveal.
"""

import numpy as np

import foveal
from foveal import nn


def windows(x, size):
    """All windows of images [N, C, H, W]: [N, C, P, Q, size, size]"""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))


def forward(x, w, b):
    """y[n,k,p,q] = b[k] + sum_{c,r,s} x[n,c,p+r,q+s] w[k,c,r,s]"""
    return np.einsum("ncpqrs,kcrs->nkpq", windows(x, w.shape[2]), w) + b[:, None, None], (x, w)


def backward(dy, cache):
    x, w = cache
    size = w.shape[2]
    padded = np.pad(dy, ((0, 0), (0, 0), (size - 1, size - 1), (size - 1, size - 1)))
    dx = np.einsum("nkhvrs,kcrs->nchv", windows(padded, size), w[:, :, ::-1, ::-1])
    dw = np.einsum("ncpqrs,nkpq->kcrs", windows(x, size), dy)
    return dx, dw, dy.sum(axis=(0, 2, 3))


def forgetful(dy, cache):
    """Leaves one tap of one filter out."""
    dx, dw, db = backward(dy, cache)
    dw[1, 0, 2, 1] = 0
    return dx, dw, db


rng = np.random.default_rng(0)
x, w, b = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
report = foveal.gradcheck(forward, x, w, b, backward=backward)
print(report)
assert report

wrong = foveal.gradcheck(forward, x, w, b, backward=forgetful)
print(wrong)
assert wrong["w"].worst == (1, 0, 2, 1)

# the numeric gradient alone, of any function of NumPy
dw = foveal.numeric_gradient(lambda w: np.sum(forward(x, w, b)[0] ** 2), w)
np.testing.assert_allclose(dw, backward(2 * forward(x, w, b)[0], (x, w))[1], rtol=1e-7, atol=1e-7)

# a layer of Foveal, with its parameters, in float64 and as it is compiled
assert foveal.gradcheck(nn.Conv2d(3, 4, 3), x, native=True)
