"""Starting values of parameters: NumPy arrays from a generator, and the generator that layers draw from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from foveal.graph import shapes_only, without_memory
from foveal.ops.op import Ndarray, Shape


def generator() -> np.random.Generator:
    """The generator that layers draw their starting values from; `seed` sets it."""
    return NoNumbers(np.random.Philox(0)) if shapes_only() else _generator[0]


_generator = [np.random.Generator(np.random.Philox(0))]


def seed(value: int) -> None:
    """Make the starting values of layers built from now on a function of `value`."""
    _generator[0] = np.random.Generator(np.random.Philox(key=value))


@contextmanager
def without_values() -> Iterator[None]:
    """Layers built inside the block have parameters with shapes and no memory: to be explained, whatever their size."""
    kept = _generator[0]
    try:
        with without_memory():
            yield
    finally:
        _generator[0] = kept


class OneNumber(np.ndarray[Any, Any]):
    """An array of some shape that is one number in memory, and so is what is computed with it element by element."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **how: Any) -> Any:
        return one_number(np.broadcast_shapes(*(np.shape(x) for x in inputs)))

    def astype(self, *args: Any, **how: Any) -> Any:
        return self


def one_number(shape: Any) -> Any:
    return np.lib.stride_tricks.as_strided(
        np.zeros(1, np.float32), shape, [0] * len(shape), writeable=False
    ).view(OneNumber)


class NoNumbers(np.random.Generator):
    """Draws arrays of the right shape without drawing their numbers."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return one_number(np.atleast_1d(() if size is None else size).astype(int).tolist())

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        return self.uniform(size=size)

    def standard_normal(self, size: Any = None, *args: Any, **how: Any) -> Any:
        return self.uniform(size=size)

    def random(self, size: Any = None, *args: Any, **how: Any) -> Any:
        return self.uniform(size=size)


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
