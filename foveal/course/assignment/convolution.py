"""Convolution as networks use it (a cross-correlation: the filter is not turned), by loops, and its gradients."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64.
Array = NDArray[np.float64]


def conv_forward(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    """Return the convolution of images with filters.

        y[n, k, p, q] = b[k] + sum over c, r, s of x[n, c, p stride + r - padding, q stride + s - padding] w[k, c, r, s]

    x: images [N, C, H, W]; outside of them x counts as 0. w: filters [K, C, R, S]. b: [K]. stride: at least 1. padding:
    rows and columns of zeros that are added on each side. Returns y of shape [N, K, P, Q].

    Write it as loops over n, k, p and q. Inside, NumPy may multiply and sum a whole window.
    """
    padded = _padded(x, padding)
    (N, _, H, W), (K, _, R, S) = padded.shape, w.shape
    P, Q = (H - R) // stride + 1, (W - S) // stride + 1
    y = np.zeros((N, K, P, Q))
    for n, k, p, q in np.ndindex(N, K, P, Q):
        window = padded[n, :, p * stride : p * stride + R, q * stride : q * stride + S]
        y[n, k, p, q] = np.sum(window * w[k]) + b[k]
    return y


def conv_backward(dy: Array, x: Array, w: Array, stride: int, padding: int) -> tuple[Array, Array, Array]:
    """Return the gradients (dx, dw, db) of a loss in the inputs of conv_forward.

    dy: the gradient of the loss in y, [N, K, P, Q]. x, w, stride, padding: as they were given to conv_forward. dx has
    the shape of x, dw that of w, and db is [K].

    Each product x w of the forward sum adds dy w to one element of dx, and dy x to one element of dw.
    """
    padded = _padded(x, padding)
    dx, dw, db = np.zeros_like(padded), np.zeros_like(w), dy.sum((0, 2, 3))
    R, S = w.shape[2:]
    for n, k, p, q in np.ndindex(*dy.shape):
        rows, columns = slice(p * stride, p * stride + R), slice(q * stride, q * stride + S)
        dw[k] += dy[n, k, p, q] * padded[n, :, rows, columns]
        dx[n, :, rows, columns] += dy[n, k, p, q] * w[k]
    H, W = x.shape[2:]
    return dx[:, :, padding : padding + H, padding : padding + W], dw, db


def _padded(x: Array, padding: int) -> Array:
    """Return images with zeros around them."""
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
