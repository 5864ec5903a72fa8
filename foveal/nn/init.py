"""Starting values of parameters: rules that draw them, the generator that layers draw from, `apply` for whole models.

A rule is called as rule(rng, shape, ...), with shape [K, C, R, S] of filters or [out, in] of linear layers, and returns
a float32 array of that shape. With fan-in n and fan-out m of a layer, the variance of its outputs is n var(w) times
that of its inputs, and the variance of its inputs' gradients is m var(w) times that of its outputs' gradients: rules
choose var(w) so that one or both stay the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.arguments import AnyNumber, check_calls, checked, shown
from foveal.errors import ShapeError
from foveal.nn.arguments import check_number
from foveal.strides import Ndarray, Shape
from foveal.variable import shapes_only, without_memory

if TYPE_CHECKING:
    from foveal.nn.module import Module


class Source:
    """The generator that layers draw their starting values from, and that `seed` replaces.

    Philox is a counter-based generator: the numbers depend on its key and on how many were drawn before.
    """

    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.Philox(0))


# The one source of this process: layers are built without being handed a generator, as in PyTorch.
SOURCE = Source()


def generator() -> np.random.Generator:
    """The generator that layers draw their starting values from; `seed` sets it."""
    return NoNumbers(np.random.Philox(0)) if shapes_only() else SOURCE.generator


def seed(value: int) -> None:
    """Make the starting values of layers built from now on a function of `value`."""
    if value < 0:
        raise ShapeError(f"nn.seed: value is {value}, it has to be 0 or more")
    SOURCE.generator = np.random.Generator(np.random.Philox(key=value))


@contextmanager
def without_values() -> Iterator[None]:
    """Give layers built inside the block shapes and no memory, so that models of any size can be explained.

    Their parameters cannot be read or trained. Layers built after the block draw what they would have without it.
    """
    previous = SOURCE.generator
    try:
        with without_memory():
            yield
    finally:
        SOURCE.generator = previous


class OneNumber(np.ndarray[Any, Any]):
    """An array of some shape that is one number in memory; so is whatever is computed from it element by element."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: ArrayLike, **options: object) -> "OneNumber":
        return one_number(np.broadcast_shapes(*(np.shape(x) for x in inputs)))

    def astype(self, *args: object, **options: object) -> "OneNumber":
        return self


def one_number(shape: Sequence[int]) -> OneNumber:
    """An array of this shape whose strides are all 0: one float32 in memory."""
    one = np.zeros(1, np.float32)
    return np.lib.stride_tricks.as_strided(one, shape, [0] * len(shape), writeable=False).view(OneNumber)


class NoNumbers(np.random.Generator):
    """Draws arrays of the right shape without drawing their numbers."""

    def uniform(  # type: ignore[override]
        self, low: ArrayLike = 0.0, high: ArrayLike = 1.0, size: int | Sequence[int] | None = None
    ) -> OneNumber:
        return one_number(np.atleast_1d(() if size is None else size).astype(int).tolist())

    def normal(  # type: ignore[override]
        self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, size: int | Sequence[int] | None = None
    ) -> OneNumber:
        return self.uniform(size=size)

    def standard_normal(  # type: ignore[override]
        self, size: int | Sequence[int] | None = None, *args: object, **options: object
    ) -> OneNumber:
        return self.uniform(size=size)

    def random(  # type: ignore[override]
        self, size: int | Sequence[int] | None = None, *args: object, **options: object
    ) -> OneNumber:
        return self.uniform(size=size)


def fan_in(shape: Shape) -> int:
    """The number of inputs that one output sums over: C R S for filters [K, C, R, S], `in` for [out, in]."""
    return math.prod(shape[1:])


def fan_out(shape: Shape) -> int:
    """The number of outputs that one input adds to: K R S for filters [K, C, R, S], `out` for [out, in]."""
    return math.prod(shape[:1]) * math.prod(shape[2:])


def fans(rule: str, shape: Shape) -> tuple[int, int]:
    """(fan-in, fan-out). Raise ShapeError, with the rule's name, for a parameter that has neither."""
    if len(shape) < 2 or 0 in shape:
        raise ShapeError(
            f"{rule}: a parameter of shape {tuple(shape)} has no fan in and out; use this rule for weights"
            " [out, in, ...], and zeros or constant for others"
        )
    return fan_in(shape), fan_out(shape)


def chosen_fan(rule: str, shape: Shape, mode: str) -> int:
    """The fan that `mode` names, "fan_in" or "fan_out". Raise ShapeError for other words."""
    inputs, outputs = fans(rule, shape)
    if mode not in ("fan_in", "fan_out"):
        raise ShapeError(f"{rule}: mode is {mode!r}; choose 'fan_in' or 'fan_out'")
    return inputs if mode == "fan_in" else outputs


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which the standard deviation of weights has to be larger because of the activation.

    nonlinearity: a name in PyTorch's table (torch.nn.init.calculate_gain), whose numbers these are; ShapeError for
    others. param: the slope of leaky_relu, 0.01 where it is not given.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        known = ", ".join((*GAINS, "leaky_relu"))
        raise ShapeError(f"no gain is known for {nonlinearity!r}; choose one of {known}, or pass a number")
    return GAINS[nonlinearity]


# sqrt(2) undoes that relu takes half of the second moment (He et al. 2015, eq. 10); 5/3 and 3/4 are PyTorch's
GAINS = {"linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def zeros(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """All 0: right for biases. With weights of 0 all units of a layer would stay equal to each other."""
    return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: Shape) -> Ndarray:
    """All 1."""
    return np.ones(shape, np.float32)


def constant(rng: np.random.Generator, shape: Shape, value: float = 0.0) -> Ndarray:
    """All `value`."""
    return np.full(shape, value, np.float32)


def normal(rng: np.random.Generator, shape: Shape, std: float = 0.01, mean: float = 0.0) -> Ndarray:
    """Normal with the same standard deviation for all layers, whatever their size."""
    return (rng.standard_normal(shape) * std + mean).astype(np.float32)


def uniform(rng: np.random.Generator, shape: Shape, low: float = -0.1, high: float = 0.1) -> Ndarray:
    """Uniform between `low` and `high`."""
    if low > high:
        raise ShapeError(f"uniform: low is {low} and high is {high}; low has to be at most high")
    return rng.uniform(low, high, shape).astype(np.float32)


def truncated_normal(
    rng: np.random.Generator,
    shape: Shape,
    std: float = 1.0,
    mean: float = 0.0,
    low: AnyNumber = -2.0,
    high: AnyNumber = 2.0,
) -> Ndarray:
    """Normal, drawn again where a value lies outside of [low, high]; these are values, not multiples of std.

    Raises ShapeError where hardly any value would lie inside.
    """
    # What share of the values lies between the bounds; with a small one the loop below would practically never end.
    spread = std * math.sqrt(2)
    inside = math.erf((high - mean) / spread) - math.erf((low - mean) / spread) if std > 0 else 0.0
    if inside / 2 < LEAST_INSIDE:
        raise ShapeError(
            f"truncated_normal: std {std}, mean {mean} and bounds [{low}, {high}] leave nothing to draw; take std"
            " above 0 and bounds about the mean"
        )
    values = rng.standard_normal(shape) * std + mean
    while (outside := (values < low) | (values > high)).any():
        values[outside] = rng.standard_normal(int(outside.sum())) * std + mean
    return values.astype(np.float32)


# one in a hundred: truncated_normal draws 100 times as many numbers then
LEAST_INSIDE = 0.01


def xavier_uniform(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> Ndarray:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16"""
    check_number("xavier_uniform", "gain", gain, 0.0)
    bound = gain * math.sqrt(6 / np.sum(fans("xavier_uniform", shape)))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def xavier_normal(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> Ndarray:
    """Normal with variance gain^2 2 / (fan_in + fan_out): Glorot and Bengio 2010, eq. 12"""
    std = gain * math.sqrt(2 / np.sum(fans("xavier_normal", shape)))
    return (rng.standard_normal(shape) * std).astype(np.float32)


def kaiming_uniform(
    rng: np.random.Generator, shape: Shape, gain: float = math.sqrt(1 / 3), mode: str = "fan_in"
) -> Ndarray:
    """Uniform in +-gain sqrt(3 / fan): He et al. 2015, eq. 10. The default gain is PyTorch's for Conv2d and Linear.

    mode: "fan_in" or "fan_out".
    """
    check_number("kaiming_uniform", "gain", gain, 0.0)
    bound = gain * math.sqrt(3 / chosen_fan("kaiming_uniform", shape, mode))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def kaiming_normal(rng: np.random.Generator, shape: Shape, gain: float = math.sqrt(2), mode: str = "fan_in") -> Ndarray:
    """Normal with standard deviation gain / sqrt(fan): He et al. 2015, eq. 10, which keeps the variance through relu.

    mode: "fan_in" keeps that of activations, "fan_out" that of their gradients (eq. 14).
    """
    fan = chosen_fan("kaiming_normal", shape, mode)
    return (rng.standard_normal(shape) * (gain / math.sqrt(fan))).astype(np.float32)


def orthogonal(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> Ndarray:
    """Rows of the matrix [out, in ...], or its columns where there are fewer, of length `gain` and at right angles

    Saxe, McClelland and Ganguli 2014.
    """
    fans("orthogonal", shape)
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    # With the signs of r's diagonal, q is uniform among all orthogonal matrices (Mezzadri 2007).
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(np.float32)


def dirac(rng: np.random.Generator, shape: Shape, groups: int = 1) -> Ndarray:
    """Filters [K, C, ...] that copy their input: 1 in the middle of channel k for filter k of each group, else 0."""
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        raise ShapeError(
            f"dirac: filters of shape {tuple(shape)} in {groups} group(s); it takes [K, C, ...] with K divisible by"
            " the groups"
        )
    values = np.zeros(shape, np.float32)
    size = shape[0] // groups
    middle = tuple(n // 2 for n in shape[2:])
    for group in range(groups):
        for k in range(min(size, shape[1])):
            values[(group * size + k, k, *middle)] = 1.0
    return values


def bias_uniform(rng: np.random.Generator, shape: Shape, inputs: int) -> Ndarray:
    """Uniform in +-1/sqrt(inputs), PyTorch's default for biases; inputs: the fan-in of the layer's weight."""
    if inputs < 1:
        raise ShapeError(f"bias_uniform: inputs is {inputs}, it has to be 1 or more")
    bound = 1 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


NAMES = (
    "zeros ones constant normal uniform truncated_normal xavier_uniform xavier_normal kaiming_uniform kaiming_normal"
    " orthogonal dirac bias_uniform fan_in fan_out calculate_gain seed"
)
check_calls(__name__, NAMES.split())

# what `apply` takes by name
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


@checked
def apply(model: "Module", rule: str, **options: float | str) -> "Module":
    """Draw the weights of all convolutions and linear layers again by a rule of this module, set their biases to 0, and
    return the model.

    rule: a name in RULES, else ShapeError. options: the rule's hyper-parameters, as in apply(net, "kaiming_normal",
    mode="fan_out"). Call `seed` before, for the same values each time.
    """
    if not hasattr(model, "named_modules"):
        raise ShapeError(f"apply: model is {shown(model)}, it has to be a Module")
    if rule not in RULES:
        raise ShapeError(f"no rule for starting values is called {rule!r}; choose one of {', '.join(RULES)}")
    for _, module in model.named_modules():
        weight, bias = (module.__dict__.get(name) for name in ("weight", "bias"))
        # The weight of a LayerNorm may have two axes and more, too.
        normalises = hasattr(module, "normalized_shape")
        if weight is not None and len(weight.shape) >= 2 and not normalises:
            weight.data = RULES[rule](generator(), weight.shape, **options)
            if bias is not None:
                bias.data = np.zeros(bias.shape, np.float32)
    return model
