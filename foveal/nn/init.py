"""Starting values of parameters: rules that draw them, the generator that layers draw from, `apply` for whole models.

A rule is called as rule(rng, shape, ...), with shape [K, C, R, S] of filters or [out, in] of linear layers, and returns
a float32 array of that shape. With fan-in n and fan-out m of a layer, the variance of its outputs is n var(w) times
that of its inputs, and the variance of its inputs' gradients is m var(w) times that of its outputs' gradients: rules
choose var(w) so that one or both stay the same. Strides are not counted, as is usual (He et al. 2015): with stride u,
the gradients of a convolution, and the outputs of a transposed one, have 1/u^2 of that variance.

The shape alone says nothing of groups, or of the order in which a transposed convolution stores its filters; a layer
that differs from [K, C, R, S] says so by its `weight_layout`, a Layout, which `apply` follows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from foveal import forks
from foveal.arguments import check_calls
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import AnyNumber, name_kind
from foveal.names import meant
from foveal.nn.arguments import check_number
from foveal.nn.module import Module, Parameter
from foveal.strides import Ndarray, Shape
from foveal.variable import Variable, shapes_only, without_memory


class Source(forks.Locked):
    """The generator that layers draw their starting values from, and that `seed` replaces.

    Philox is a counter-based generator: the numbers depend on its key and on how many were drawn before.
    """

    def __init__(self) -> None:
        self._generator = np.random.Generator(np.random.Philox(0))
        super().__init__(forks.GENERATORS)

    @property
    def lock(self) -> forks.AnyLock:
        """NumPy's own lock of the generator, held while numbers are drawn; from NumPy 2.5 also while it is copied."""
        return self._generator.bit_generator.lock

    def renew(self) -> None:
        """Keep the generator in a forked child: it is whole and its lock free, since the fork waited for the lock."""

    @property
    def generator(self) -> np.random.Generator:
        return self._generator

    @generator.setter
    def generator(self, generator: np.random.Generator) -> None:
        with forks.without_fork():
            self._generator = generator


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


def filled(shape: int | Sequence[int], value: float = 0.0) -> Ndarray:
    """An array of one value, as layers start with; where layers get no memory, one number of this shape."""
    if shapes_only():
        return one_number([shape] if isinstance(shape, int | np.integer) else shape)
    return np.full(shape, value, np.float32)


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
    """The number of inputs that one output sums over: C R S for filters [K, C, R, S], `in` for [out, in].

    With groups too, as C counts the channels of a group.
    """
    return math.prod(shape[1:])


def fan_out(shape: Shape) -> int:
    """The number of outputs that one input adds to: K R S for filters [K, C, R, S], `out` for [out, in].

    With groups it is as many times less; see Layout.
    """
    return math.prod(shape[:1]) * math.prod(shape[2:])


# (fan-in, fan-out)
Fans = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """What the weight of a layer is as filters, and how it is stored."""

    #: [K, C/groups, ...]: filter k of a group reads the channels of this group
    shape: Shape
    groups: int
    fans: Fans
    #: brings filters [K, C/groups, ...] into the shape and order of the weight
    stored: Callable[[Ndarray], Ndarray]

    @classmethod
    def plain(cls, shape: Shape, groups: int = 1) -> Self:
        """Filters that are stored as such: each input adds to the outputs of its own group."""
        return cls(shape, groups, (fan_in(shape), fan_out(shape) // groups), lambda filters: filters)

    @classmethod
    def transposed(cls, shape: Shape, groups: int) -> Self:
        """Filters [C, K/groups, R, S] of a transposed convolution: an output sums over C/groups channels."""
        inputs, outputs, *taps = shape

        def stored(filters: Ndarray) -> Ndarray:
            # [G, K/G, C/G, ...] -> [C, K/G, ...]
            banks = filters.reshape(groups, outputs, inputs // groups, *taps)
            return banks.swapaxes(1, 2).reshape(shape)

        filters = (outputs * groups, inputs // groups, *taps)
        return cls(filters, groups, (fan_in(filters), fan_in(shape)), stored)


def checked_fans(rule: str, shape: Shape, given: Fans | None = None) -> Fans:
    """(fan-in, fan-out), those of the shape if none are given. Raise ShapeError for a parameter that has neither."""
    if given is not None:
        if min(given) < 1:
            raise ShapeError(f"{rule}: fans is {given}, both have to be at least 1")
        return given
    if len(shape) < 2 or 0 in shape:
        raise ShapeError(
            f"{rule}: a parameter of shape {tuple(shape)} has no fan in and out; use this rule for weights"
            " [out, in, ...], and zeros or constant for others"
        )
    return fan_in(shape), fan_out(shape)


def chosen_fan(rule: str, shape: Shape, mode: str, given: Fans | None = None) -> int:
    """The fan that `mode` names, "fan_in" or "fan_out". Raise ShapeError for other words."""
    inputs, outputs = checked_fans(rule, shape, given)
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
        known = *GAINS, "leaky_relu"
        raise ShapeError(
            f"no gain is known for {nonlinearity!r}{meant(nonlinearity, known)}; choose one of {', '.join(known)}, or"
            " pass a number"
        )
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


def xavier_uniform(rng: np.random.Generator, shape: Shape, gain: float = 1.0, *, fans: Fans | None = None) -> Ndarray:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16

    fans: (fan_in, fan_out) where they do not follow from the shape, as with groups.
    """
    check_number("xavier_uniform", "gain", gain, 0.0)
    bound = gain * math.sqrt(6 / np.sum(checked_fans("xavier_uniform", shape, fans)))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def xavier_normal(rng: np.random.Generator, shape: Shape, gain: float = 1.0, *, fans: Fans | None = None) -> Ndarray:
    """Normal with variance gain^2 2 / (fan_in + fan_out): Glorot and Bengio 2010, eq. 12

    fans: (fan_in, fan_out) where they do not follow from the shape, as with groups.
    """
    std = gain * math.sqrt(2 / np.sum(checked_fans("xavier_normal", shape, fans)))
    return (rng.standard_normal(shape) * std).astype(np.float32)


def kaiming_uniform(
    rng: np.random.Generator,
    shape: Shape,
    gain: float = math.sqrt(1 / 3),
    mode: str = "fan_in",
    *,
    fans: Fans | None = None,
) -> Ndarray:
    """Uniform in +-gain sqrt(3 / fan): He et al. 2015, eq. 10. The default gain is PyTorch's for Conv2d and Linear.

    mode: "fan_in" or "fan_out". fans: (fan_in, fan_out) where they do not follow from the shape, as with groups.
    """
    check_number("kaiming_uniform", "gain", gain, 0.0)
    bound = gain * math.sqrt(3 / chosen_fan("kaiming_uniform", shape, mode, fans))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def kaiming_normal(
    rng: np.random.Generator,
    shape: Shape,
    gain: float = math.sqrt(2),
    mode: str = "fan_in",
    *,
    fans: Fans | None = None,
) -> Ndarray:
    """Normal with standard deviation gain / sqrt(fan): He et al. 2015, eq. 10, which keeps the variance through relu.

    mode: "fan_in" keeps that of activations, "fan_out" that of their gradients (eq. 14). fans: (fan_in, fan_out) where
    they do not follow from the shape, as with groups.
    """
    fan = chosen_fan("kaiming_normal", shape, mode, fans)
    return (rng.standard_normal(shape) * (gain / math.sqrt(fan))).astype(np.float32)


def orthogonal(rng: np.random.Generator, shape: Shape, gain: float = 1.0, groups: int = 1) -> Ndarray:
    """Rows of the matrix [out, in ...], or its columns where there are fewer, of length `gain` and at right angles

    Saxe, McClelland and Ganguli 2014. With groups each group of filters is such a matrix.
    """
    checked_fans("orthogonal", shape)
    if groups < 1 or shape[0] % groups:
        raise ShapeError(f"orthogonal: {groups} group(s) do not divide filters of shape {tuple(shape)}")
    rows, columns = shape[0] // groups, math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((groups, max(rows, columns), min(rows, columns))))
    # With the signs of r's diagonal, q is uniform among all orthogonal matrices (Mezzadri 2007).
    q = q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]
    return (gain * (q if rows >= columns else q.swapaxes(1, 2))).reshape(shape).astype(np.float32)


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


def partial_dirac(rng: np.random.Generator, shape: Shape, groups: int = 1, *, fans: Fans | None = None) -> Ndarray:
    """Filters [K, C, ...] of which the first C of each group copy their input, as `dirac`, and the others are drawn by
    kaiming_uniform.

    A convolution with as many filters as channels, or more, passes its input on. K. Jordan, 94 % on CIFAR-10 in 3.29
    seconds on a single GPU, 2024, section 3.3. fans: (fan_in, fan_out) where they do not follow from the shape.
    """
    copies = dirac(rng, shape, groups)
    drawn = kaiming_uniform(rng, shape, fans=fans)
    size = shape[0] // groups
    copying = np.arange(shape[0]) % size < shape[1]
    return np.where(copying.reshape(-1, *[1] * (len(shape) - 1)), copies, drawn)


def bias_uniform(rng: np.random.Generator, shape: Shape, inputs: int) -> Ndarray:
    """Uniform in +-1/sqrt(inputs), PyTorch's default for biases; inputs: the fan-in of the layer's weight."""
    if inputs < 1:
        raise ShapeError(f"bias_uniform: inputs is {inputs}, it has to be 1 or more")
    bound = 1 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


NAMES = (
    "zeros ones constant normal uniform truncated_normal xavier_uniform xavier_normal kaiming_uniform kaiming_normal"
    " orthogonal dirac partial_dirac bias_uniform fan_in fan_out calculate_gain seed"
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
        partial_dirac,
    )
}

RuleName = Annotated[str, "a name in RULES"]
name_kind(RuleName, f"the name of a rule: {', '.join(RULES)}", str)


def apply(model: Module, rule: RuleName, **options: float | str) -> Module:
    """Draw the weights of all convolutions and linear layers again by a rule of this module, set their biases to 0, and
    return the model.

    rule: a name in RULES, else ShapeError. options: the rule's hyper-parameters, as in apply(net, "kaiming_normal",
    mode="fan_out"); ArgumentError for others. Groups and the order of a weight's axes are taken from the layer. Call
    `seed` before, for the same values each time. If the rule refuses a layer, no layer is changed.
    """
    if rule not in RULES:
        raise ShapeError(
            f"no rule for starting values is called {rule!r}{meant(rule, RULES)}; choose one of {', '.join(RULES)}"
        )
    known = [name for name in signature(RULES[rule]).parameters if name not in ("rng", "shape", "fans")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ArgumentError(f"{rule}: there is no option {unknown[0]!r}; it takes {', '.join(known) or 'none'}")
    drawn: list[tuple[Variable, Ndarray]] = []
    for _, module in model.named_modules(remove_duplicate=False):
        weight, bias = (module.__dict__.get(name) for name in ("weight", "bias"))
        # The weight of a LayerNorm may have two axes and more, too.
        normalises = hasattr(module, "normalized_shape")
        if isinstance(weight, Parameter) and len(weight.shape) >= 2 and not normalises:
            layout = getattr(module, "weight_layout", None) or Layout.plain(weight.shape)
            drawn.append((weight, draw(rule, weight.shape, layout, options)))
            if isinstance(bias, Parameter):
                drawn.append((bias, np.zeros(bias.shape, np.float32)))
    for variable, values in drawn:
        variable.data = values
    return model


def draw(rule: str, shape: Shape, layout: Layout, options: dict[str, Any]) -> Ndarray:
    """Draw a weight of this shape, whose filters lie as the layout says, by the rule of that name."""
    parameters = signature(RULES[rule]).parameters
    # What relates the filters of a group to each other is drawn as filters; other numbers need the fans at most.
    if "fans" in parameters:
        options = {**options, "fans": layout.fans}
    if "groups" in parameters:
        return layout.stored(RULES[rule](generator(), layout.shape, **{"groups": layout.groups, **options}))
    return RULES[rule](generator(), shape, **options)


check_calls(__name__, ("apply",))
