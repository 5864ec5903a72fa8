"""Starting values of parameters: NumPy arrays from a generator."""

import math

import numpy as np

from foveal.ops.op import Ndarray, Shape


def fan_in(shape: Shape) -> int:
    """Inputs that one output sums over: C R S for filters [K, C, R, S], features for [out, in]."""
    return math.prod(shape[1:])


def kaiming_uniform(
    rng: np.random.Generator, shape: Shape, gain: float = math.sqrt(1 / 3)
) -> Ndarray:
    """Uniform in +-gain sqrt(3 / fan_in). The default gain is PyTorch's for Conv2d and Linear."""
    bound = gain * math.sqrt(3 / fan_in(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def kaiming_normal(rng: np.random.Generator, shape: Shape, gain: float = math.sqrt(2)) -> Ndarray:
    """Normal with standard deviation gain / sqrt(fan_in); He et al. 2015, eq. 10, keeps the variance through relu."""
    return (rng.standard_normal(shape) * (gain / math.sqrt(fan_in(shape)))).astype(np.float32)


def bias_uniform(rng: np.random.Generator, shape: Shape, inputs: int) -> Ndarray:
    """Uniform in +-1/sqrt(inputs), PyTorch's default for biases."""
    bound = 1 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, shape).astype(np.float32)
