"""Max and average pooling, and their gradients."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64.
Array = NDArray[np.float64]


def max_pool_forward(x: Array, size: int, stride: int) -> Array:
    """Return the maximum of each window of size x size pixels, in each channel.

    x: images [N, C, H, W]. stride: from one window to the next, in rows and in columns; windows may overlap, or leave
    pixels out. Rows and columns at the end that no whole window reaches are left out. Returns [N, C, P, Q].
    """
    N, C, H, W = x.shape
    P, Q = (H - size) // stride + 1, (W - size) // stride + 1
    y = np.zeros((N, C, P, Q))
    for p, q in np.ndindex(P, Q):
        window = x[:, :, p * stride : p * stride + size, q * stride : q * stride + size]
        y[:, :, p, q] = window.max((2, 3))
    return y


def max_pool_backward(dy: Array, x: Array, size: int, stride: int) -> Array:
    """Return the gradient dx of a loss in the images of max_pool_forward, [N, C, H, W].

    dy: the gradient of the loss in the output, [N, C, P, Q]. Each element of dy goes to the pixel that was the maximum
    of its window; of equal ones, to the first, row by row. Where windows overlap, gradients add up.
    """
    dx = np.zeros_like(x)
    for n, c, p, q in np.ndindex(*dy.shape):
        window = x[n, c, p * stride : p * stride + size, q * stride : q * stride + size]
        r, s = np.unravel_index(np.argmax(window), window.shape)
        dx[n, c, p * stride + r, q * stride + s] += dy[n, c, p, q]
    return dx


def avg_pool_forward(x: Array, size: int, stride: int) -> Array:
    """Return the mean of each window of size x size pixels, in each channel; the rest is as in max_pool_forward."""
    N, C, H, W = x.shape
    P, Q = (H - size) // stride + 1, (W - size) // stride + 1
    y = np.zeros((N, C, P, Q))
    for p, q in np.ndindex(P, Q):
        window = x[:, :, p * stride : p * stride + size, q * stride : q * stride + size]
        y[:, :, p, q] = window.mean((2, 3))
    return y


def avg_pool_backward(dy: Array, x: Array, size: int, stride: int) -> Array:
    """Return the gradient dx of a loss in the images of avg_pool_forward, [N, C, H, W].

    dy: the gradient of the loss in the output, [N, C, P, Q]. All pixels of a window get the same share of it.
    """
    dx = np.zeros_like(x)
    for p, q in np.ndindex(*dy.shape[2:]):
        share = dy[:, :, p : p + 1, q : q + 1] / size**2
        dx[:, :, p * stride : p * stride + size, q * stride : q * stride + size] += share
    return dx
