"""Steps of optimisers. They return new arrays, and leave those that they are given as they are."""

import numpy as np
from numpy.typing import NDArray

# An array of numbers in float64.
Array = NDArray[np.float64]


def momentum_step(p: Array, g: Array, v: Array, lr: float, momentum: float) -> tuple[Array, Array]:
    """Return (p, v) after a step of SGD with momentum, as PyTorch defines it.

        v = momentum v + g,  then  p = p - lr v

    p: a parameter of any shape. g: its gradient. v: its velocity, 0 before the first step.
    """
    v = momentum * v + g
    return p - lr * v, v


def adam_step(
    p: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, eps: float
) -> tuple[Array, Array, Array]:
    """Return (p, m, v) after a step of Adam (Kingma and Ba 2015, algorithm 1).

        m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
        p = p - lr mhat / (sqrt(vhat) + eps),  with mhat = m / (1 - beta1^t) and vhat = v / (1 - beta2^t)

    p: a parameter of any shape. g: its gradient. m, v: the moments, 0 before the first step. t: the number of this
    step, from 1 on.
    """
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    mhat, vhat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - lr * mhat / (np.sqrt(vhat) + eps), m, v
