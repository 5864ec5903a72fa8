"""Starting values of parameters: NumPy arrays from a generator, the generator that layers draw from, `apply` for
models.

A rule is called as rule(rng, shape, ...), with shape [K, C, R, S] of filters or [out, in] of linear layers, and returns
float32. With fan_in n and fan_out m of a layer, the variance of its outputs is n var(w) times that of its inputs, the
variance of its inputs' gradients m var(w) times that of its outputs' gradients: rules choose var(w) to hold one or
both.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from foveal.errors import ShapeError
from foveal.strides import Ndarray, Shape
from foveal.variable import shapes_only, without_memory

if TYPE_CHECKING:
    from foveal.nn.module import Module


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
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, [0] * len(shape), writeable=False).view(
        OneNumber
    )


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


def fan_out(shape: Shape) -> int:
    """Outputs that one input adds to: K R S for filters [K, C, R, S], [out] features for [out, in]."""
    return shape[0] * math.prod(shape[2:])


def fans(rule: str, shape: Shape) -> tuple[int, int]:
    if len(shape) < 2 or 0 in shape:
        raise ShapeError(
            f"{rule}: a parameter of shape {tuple(shape)} has no fan in and out; use it for weights [out, in, ...] and"
            " zeros or constant for others"
        )
    return fan_in(shape), fan_out(shape)


def chosen_fan(rule: str, shape: Shape, mode: str) -> int:
    inputs, outputs = fans(rule, shape)
    if mode not in ("fan_in", "fan_out"):
        raise ShapeError(f"{rule}: mode is {mode!r}; choose 'fan_in' or 'fan_out'")
    return inputs if mode == "fan_in" else outputs


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor for the standard deviation that makes up for what an activation takes away, by PyTorch's table.

    param: the slope of leaky_relu, 0.01 where it is not given.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        known = ", ".join((*GAINS, "leaky_relu"))
        raise ShapeError(f"no gain is known for {nonlinearity!r}; choose one of {known}, or give it")
    return GAINS[nonlinearity]


GAINS = {"linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def zeros(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """All 0: right for biases; as weights every unit of a layer stays equal to the others."""
    return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """All 1."""
    return np.ones(shape, np.float32)


def constant(rng: np.random.Generator, shape: Shape, value: float = 0.0) -> Ndarray:
    """All `value`."""
    return np.full(shape, value, np.float32)


def normal(rng: np.random.Generator, shape: Shape, std: float = 0.01, mean: float = 0.0) -> Ndarray:
    """Normal with one standard deviation for all layers, whatever their size."""
    return (rng.standard_normal(shape) * std + mean).astype(np.float32)


def uniform(rng: np.random.Generator, shape: Shape, low: float = -0.1, high: float = 0.1) -> Ndarray:
    """Uniform between `low` and `high`."""
    return rng.uniform(low, high, shape).astype(np.float32)


def truncated_normal(
    rng: np.random.Generator, shape: Shape, std: float = 1.0, mean: float = 0.0, low: float = -2.0, high: float = 2.0
) -> Ndarray:
    """Normal, drawn anew where it lies outside of [low, high] (which are values, not multiples of std)."""
    if not (std > 0 and low < high and low - 8 * std < mean < high + 8 * std):
        raise ShapeError(
            f"truncated_normal: std {std}, mean {mean} and bounds [{low}, {high}] leave nothing to draw; take std"
            " above 0 and bounds about the mean"
        )
    values = rng.standard_normal(shape) * std + mean
    while (outside := (values < low) | (values > high)).any():
        values[outside] = rng.standard_normal(int(outside.sum())) * std + mean
    return values.astype(np.float32)


def xavier_uniform(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> Ndarray:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16"""
    bound = gain * math.sqrt(6 / np.sum(fans("xavier_uniform", shape)))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def xavier_normal(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> Ndarray:
    """Normal with variance gain^2 2 / (fan_in + fan_out): Glorot and Bengio 2010, eq. 12"""
    std = gain * math.sqrt(2 / np.sum(fans("xavier_normal", shape)))
    return (rng.standard_normal(shape) * std).astype(np.float32)


def kaiming_uniform(
    rng: np.random.Generator, shape: Shape, gain: float = math.sqrt(1 / 3), mode: str = "fan_in"
) -> Ndarray:
    """Uniform in +-gain sqrt(3 / fan): He et al. 2015, eq. 10. The default gain is PyTorch's for Conv2d and Linear."""
    bound = gain * math.sqrt(3 / chosen_fan("kaiming_uniform", shape, mode))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def kaiming_normal(rng: np.random.Generator, shape: Shape, gain: float = math.sqrt(2), mode: str = "fan_in") -> Ndarray:
    """Normal with standard deviation gain / sqrt(fan): He et al. 2015, eq. 10, keeps the variance through relu.

    mode "fan_in" holds it for activations, "fan_out" for their gradients.
    """
    fan = chosen_fan("kaiming_normal", shape, mode)
    return (rng.standard_normal(shape) * (gain / math.sqrt(fan))).astype(np.float32)


def orthogonal(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> Ndarray:
    """Rows [out, in ...] (or columns, where there are fewer) of length `gain`, at right angles: Saxe et al. 2014"""
    fans("orthogonal", shape)
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # uniform among all such matrices
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(np.float32)


def dirac(rng: np.random.Generator, shape: Shape, groups: int = 1) -> Ndarray:
    """Filters [K, C, ...] that hand on their input: 1 in the middle of channel k for filter k of each group, else 0."""
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        raise ShapeError(
            f"dirac: filters of shape {tuple(shape)} in {groups} group(s); it takes [K, C, ...] with K divisible by"
            f" groups"
        )
    values = np.zeros(shape, np.float32)
    size = shape[0] // groups
    middle = tuple(n // 2 for n in shape[2:])
    for group in range(groups):
        for k in range(min(size, shape[1])):
            values[(group * size + k, k, *middle)] = 1.0
    return values


def bias_uniform(rng: np.random.Generator, shape: Shape, inputs: int) -> Ndarray:
    """Uniform in +-1/sqrt(inputs), PyTorch's default for biases."""
    bound = 1 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


RULES: dict[str, Callable[..., Ndarray]] = {
    rule.__name__: rule
    for rule in (
        zeros,
        ones,
        constant,
        normal,
        uniform,
        truncated_normal,
        xavier_uniform,
        xavier_normal,
        kaiming_uniform,
        kaiming_normal,
        orthogonal,
        dirac,
    )
}


def apply(model: "Module", rule: str, **how: Any) -> "Module":
    """Draw the weights of all convolutions and linear layers anew by a rule of this module, and set their biases to 0.

    `how` are the rule's hyper-parameters, e.g. apply(net, "kaiming_normal", mode="fan_out"). `seed` makes it
    repeatable.
    """
    if rule not in RULES:
        raise ShapeError(f"no rule for starting values is called {rule!r}; choose one of {', '.join(RULES)}")
    for _, module in model.named_modules():
        weight, bias = (module.__dict__.get(name) for name in ("weight", "bias"))
        normalises = hasattr(module, "normalized_shape")  # its weight may be of any rank
        if weight is not None and len(weight.shape) >= 2 and not normalises:
            weight.data = RULES[rule](generator(), weight.shape, **how)
            if bias is not None:
                bias.data = np.zeros(bias.shape, np.float32)
    return model
