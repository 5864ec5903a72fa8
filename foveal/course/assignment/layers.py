"""The fully connected layer and ReLU, and their gradients."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64.
Array = NDArray[np.float64]


def linear_forward(x: Array, w: Array, b: Array) -> Array:
    """Return y[n, k] = sum over c of x[n, c] w[k, c], plus b[k].

    x: [N, C]. w: [K, C]. b: [K]. Returns y of shape [N, K].
    """
    return x @ w.T + b


def linear_backward(dy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return the gradients (dx, dw, db) of a loss in the inputs of linear_forward.

    dy: the gradient of the loss in y, [N, K]. dx has the shape of x, dw that of w, and db is [K].
    """
    return dy @ w, dy.T @ x, dy.sum(0)


def relu_forward(x: Array) -> Array:
    """Return x where it is positive, and 0 elsewhere, for x of any shape. x itself stays as it is."""
    return np.maximum(x, 0.0)


def relu_backward(dy: Array, x: Array) -> Array:
    """Return the gradient of a loss in the input x of relu_forward.

    dy: the gradient of the loss in the output, of the same shape. Where x is 0, the gradient is 0.
    """
    return dy * (x > 0)
