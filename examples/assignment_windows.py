"""The assignment's layers that have windows in plain NumPy, convolution and pooling, each with its gradient.

Both loop over the places of the output. The page of the course explains them; assignment_layers.py has the others.
"""

import numpy as np

import foveal
from foveal import ops


def convolution(x, w, b):
    """Return y [N, K, H, W] of x [N, C, H, W], filters w [K, C, R, R], R odd, and b [K]; zeros are added around x."""
    R, a = w.shape[2], w.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (a, a), (a, a)))
    y = np.empty((len(x), len(w), *x.shape[2:]), x.dtype)
    for p, q in np.ndindex(y.shape[2:]):
        window = padded[:, :, p : p + R, q : q + R]
        y[:, :, p, q] = np.einsum("ncrs,kcrs->nk", window, w) + b
    return y


def convolution_backward(dy, x, w, b):
    """Return dx, dw and db: each product of the forward sum gives one of dx and one of dw."""
    R, a = w.shape[2], w.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (a, a), (a, a)))
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    for p, q in np.ndindex(dy.shape[2:]):
        at = np.s_[:, :, p : p + R, q : q + R]
        dw += np.einsum("nk,ncrs->kcrs", dy[:, :, p, q], padded[at])
        dx[at] += np.einsum("nk,kcrs->ncrs", dy[:, :, p, q], w)
    return dx[:, :, a : a + x.shape[2], a : a + x.shape[3]], dw, dy.sum((0, 2, 3))


def max_pool(x):
    """Return the maxima of windows of 2 x 2, [N, C, H / 2, W / 2]."""
    P, Q = x.shape[2] // 2, x.shape[3] // 2
    y = np.empty((*x.shape[:2], P, Q), x.dtype)
    for p, q in np.ndindex(P, Q):
        at = np.s_[:, :, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
        y[:, :, p, q] = x[at].max((2, 3))
    return y


def max_pool_backward(dy, x):
    """Return dx alone: dy at the first of the largest values of each window, 0 elsewhere."""
    dx = np.zeros_like(x)
    for p, q in np.ndindex(dy.shape[2:]):
        at = np.s_[:, :, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
        window = x[at].reshape(*x.shape[:2], 4)
        first = window.argmax(2)[..., None] == np.arange(4)
        dx[at] = (first * dy[:, :, p, q, None]).reshape(x[at].shape)
    return (dx,)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype("float32") for shape in ((2, 3, 6, 8), (4, 3, 3, 3), (4,)))
    right = ops.conv2d(x, w, padding=1) + b[:, None, None]
    np.testing.assert_allclose(convolution(x, w, b), right, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(max_pool(x), ops.max_pool2d(x, kernel_size=2))
    print(foveal.gradcheck(convolution, x, w, b, backward=convolution_backward, raise_on_failure=True))
    print(foveal.gradcheck(max_pool, x, backward=max_pool_backward, raise_on_failure=True))
