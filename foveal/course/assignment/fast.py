"""Convolution as one matrix product."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64.
Array = NDArray[np.float64]


def conv_im2col(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    """Return what conv_forward of convolution.py returns, for the same arguments, without a loop over images or pixels.

    Copy the window of each output into the row of a matrix, [N P Q, C R S], and multiply it with the filters as a
    matrix, [C R S, K]. A loop over the taps of a filter is fast enough; `numpy.lib.stride_tricks.sliding_window_view`
    does without. The time is compared with that of four loops over images, filters, rows and columns: 2 points for 3
    times as fast, 4 more for 10 times.
    """
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    K, C, R, S = w.shape
    # [N, C, P, Q, R, S]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (R, S), axis=(2, 3))[:, :, ::stride, ::stride]
    N, _, P, Q = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(N * P * Q, C * R * S)
    y = columns @ w.reshape(K, C * R * S).T + b
    return y.reshape(N, P, Q, K).transpose(0, 3, 1, 2)
