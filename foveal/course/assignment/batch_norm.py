"""Batch normalisation in training and evaluation, and its gradients."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64.
Array = NDArray[np.float64]


def batch_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    momentum: float,
    eps: float,
    training: bool,
) -> tuple[Array, Array, Array]:
    """Return (y, running_mean, running_var): the normalised images, and the running statistics afterwards.

        y = gamma (x - mean) / sqrt(var + eps) + beta, for each channel

    x: images [N, C, H, W]. gamma, beta, running_mean, running_var: [C].

    In training, mean and var are those of the batch, over all images and pixels of the channel. var is the mean of the
    squared deviations. The running statistics move towards those of the batch:

        new = (1 - momentum) old + momentum batch

    where the variance of the batch is multiplied by m / (m - 1), with m = N H W, as it is an estimate from m values.
    In evaluation, mean and var are the running ones, which stay as they are.
    """
    if training:
        mean, var, m = x.mean((0, 2, 3)), x.var((0, 2, 3)), x.size // x.shape[1]
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * var * m / (m - 1)
    else:
        mean, var = running_mean, running_var
    # [C] -> [C, 1, 1], which fits beside [N, C, H, W]
    scale = gamma / np.sqrt(var + eps)
    y = scale[:, None, None] * (x - mean[:, None, None]) + beta[:, None, None]
    return y, running_mean, running_var


def batch_norm_backward(
    dy: Array, x: Array, gamma: Array, running_mean: Array, running_var: Array, eps: float, training: bool
) -> tuple[Array, Array, Array]:
    """Return the gradients (dx, dgamma, dbeta) of a loss in the inputs of batch_norm_forward.

    dy: the gradient of the loss in y, [N, C, H, W]. The others are as they were given to batch_norm_forward. dx has the
    shape of x; dgamma and dbeta are [C].

    In training, mean and var depend on x too. In evaluation they are constants.
    """
    axes = (0, 2, 3)
    mean, var = (x.mean(axes), x.var(axes)) if training else (running_mean, running_var)
    sigma = np.sqrt(var + eps)[:, None, None]
    normal = (x - mean[:, None, None]) / sigma
    dgamma, dbeta = (dy * normal).sum(axes), dy.sum(axes)
    dx = dy * gamma[:, None, None] / sigma
    if training:
        # Ioffe and Szegedy 2015, section 3: what mean and var pass on.
        m = x.size // x.shape[1]
        through = dbeta[:, None, None] + normal * dgamma[:, None, None]
        dx = dx - gamma[:, None, None] / sigma * through / m
    return dx, dgamma, dbeta
