"""Starting values of parameters: NumPy arrays from a generator, and the generator that layers draw from."""

import math

import numpy as np

from foveal.ops.op import Ndarray, Shape


def generator() -> np.random.Generator:
    """The generator that layers draw their starting values from; `seed` sets it."""
    return _generator[0]


_generator = [np.random.Generator(np.random.Philox(0))]


def seed(value: int) -> None:
    """Make the starting values of layers built from now on a function of `value`."""
    _generator[0] = np.random.Generator(np.random.Philox(key=value))


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
