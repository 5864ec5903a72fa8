"""Activations: each takes x of any shape and returns y of the same shape, computed element by element unless it says
otherwise.
"""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.arguments import check_number, check_positive
from foveal.nn.init import filled
from foveal.nn.module import Module, Parameter
from foveal.ops.batch_norm import per_channel
from foveal.ops.op import Tensor
from foveal.trace import current

# The fixed point of mean 0 and variance 1 has these: Klambauer et al. 2017, equation 14.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


class InPlace(Module):
    """Base of the activations that take PyTorch's flag `inplace`.

    It changes nothing: a program writes a result into the memory of what is not read again, whatever it says, and the
    array that a model is called on stays as it is.
    """

    def __init__(self, inplace: bool = False) -> None:
        pass


class ReLU(InPlace):
    """y = max(x, 0). inplace: has no effect"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class ReLU6(InPlace):
    """y = min(max(x, 0), 6); inplace has no effect"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.clip(x, low=0.0, high=6.0)


class GELU(Module):
    """y = x Phi(x), Phi the distribution function of N(0, 1): Hendrycks and Gimpel 2016

    approximate: "none" for the exact form, "tanh" for the approximation with tanh. Raises ShapeError for other words.
    """

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def check_attribute(self, name: str, value: object) -> None:
        if name == "approximate" and (not isinstance(value, str) or value not in ("none", "tanh")):
            raise ShapeError(f"GELU: approximate is {value!r}; choose 'none' or 'tanh'")

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu_tanh(x) if self.approximate == "tanh" else ops.gelu(x)


class Tanh(Module):
    """y = tanh x"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """y = 1 / (1 + e^-x)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class SiLU(InPlace):
    """y = x sigmoid(x), also called swish; inplace has no effect"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class Hardsigmoid(InPlace):
    """y = min(max(x + 3, 0), 6) / 6; inplace has no effect"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardsigmoid(x)


class Hardswish(InPlace):
    """y = x min(max(x + 3, 0), 6) / 6: Howard et al. 2019, section 5.2; inplace has no effect"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardswish(x)


class Mish(InPlace):
    """y = x tanh(ln(1 + e^x)): Misra 2019; inplace has no effect"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.mish(x)


class Hardtanh(Module):
    """y = min(max(x, min_val), max_val); min_val below max_val, else ShapeError; inplace has no effect"""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        if not min_val < max_val:
            raise ShapeError(f"Hardtanh: min_val is {min_val}, it has to be below max_val, {max_val}")
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        return ops.clip(x, low=self.min_val, high=self.max_val)

    def describe(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


def magnitude(x: Tensor) -> Tensor:
    """|x|"""
    return ops.maximum(x, -x)


class Softsign(Module):
    """y = x / (1 + |x|)"""

    def forward(self, x: Tensor) -> Tensor:
        return x / (magnitude(x) + 1.0)


class Tanhshrink(Module):
    """y = x - tanh x"""

    def forward(self, x: Tensor) -> Tensor:
        return x - ops.tanh(x)


class Hardshrink(Module):
    """y = x where |x| is above lambd, else 0. lambd: 0 or more, else ShapeError"""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = check_number(type(self).__name__, "lambd", lambd, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return ops.where(ops.greater(magnitude(x), self.lambd), x, 0.0)

    def describe(self) -> str:
        return str(self.lambd)


class Softshrink(Hardshrink):
    """y = x moved towards 0 by lambd, and 0 where |x| is at most lambd. lambd: 0 or more, else ShapeError"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x - self.lambd) - ops.relu(-x - self.lambd)


class Threshold(Module):
    """y = x where x is above `threshold`, else `value`; inplace has no effect"""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self.threshold, self.value = threshold, value

    def forward(self, x: Tensor) -> Tensor:
        return ops.where(ops.greater(x, self.threshold), x, self.value)

    def describe(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class LogSigmoid(Module):
    """y = ln(1 / (1 + e^-x))"""

    def forward(self, x: Tensor) -> Tensor:
        return -ops.softplus(-x)


class GLU(Module):
    """y = a sigmoid(b), where a and b are the halves of x along the axis `dim`: Dauphin et al. 2017, equation 1

    x [..., 2 n, ...] -> y [..., n, ...]. Raises ShapeError for an axis of odd size.
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        rank = len(x.shape)
        if not -rank <= self.dim < rank or x.shape[self.dim] % 2:
            raise ShapeError(
                f"GLU: x of shape {x.shape} has no axis {self.dim} of even size, which it cuts into halves; choose"
                " another dim"
            )
        axis, half = self.dim % rank, x.shape[self.dim] // 2
        a, b = (ops.narrow(x, axis=axis, start=start, length=half) for start in (0, half))
        return a * ops.sigmoid(b)

    def describe(self) -> str:
        return f"dim={self.dim}"


class LeakyReLU(Module):
    """y = x where x is above 0, else negative_slope x; inplace has no effect"""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return ops.leaky_relu(x, negative_slope=self.negative_slope)

    def describe(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """y = x where x is above 0, else weight x, with a trained weight: He et al. 2015, eq. 1

    x [N, C, ...]. num_parameters: 1 for one weight, or C for one for each channel. init: their starting value. Raises
    ShapeError for x with another number of channels.
    """

    required = ("weight",)

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        check_positive("PReLU", num_parameters=num_parameters)
        self.weight = Parameter(filled(num_parameters, init))

    def forward(self, x: Tensor) -> Tensor:
        count = self.weight.shape[0]
        if count != 1 and (len(x.shape) < 2 or x.shape[1] != count):
            raise ShapeError(
                f"PReLU: it has {count} weights, x of shape {x.shape} has another number of channels; use"
                " num_parameters=1, or as many as there are channels"
            )
        slope: Tensor = current().lift(self.weight)
        if count != 1:
            slope = per_channel(slope, x)
        return ops.maximum(x, 0.0) + ops.minimum(x, 0.0) * slope

    def describe(self) -> str:
        return str(self.weight.shape[0])


class ELU(Module):
    """y = x where x is above 0, else alpha (e^x - 1): Clevert, Unterthiner and Hochreiter 2016

    inplace has no effect.
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, alpha=self.alpha)

    def describe(self) -> str:
        return f"alpha={self.alpha}"


class CELU(Module):
    """y = x where x is above 0, else alpha (e^(x/alpha) - 1): Barron 2017

    alpha: not 0, else ShapeError. inplace has no effect.
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha
        self.inverse()

    def inverse(self) -> float:
        """1 / alpha"""
        if self.alpha == 0:
            raise ShapeError("CELU: alpha is 0, which x cannot be divided by")
        return 1.0 / self.alpha

    def forward(self, x: Tensor) -> Tensor:
        below = ops.elu(ops.minimum(x, 0.0) * self.inverse(), alpha=1.0) * self.alpha
        return ops.where(ops.greater(x, 0.0), x, below)

    def describe(self) -> str:
        return f"alpha={self.alpha}"


class SELU(InPlace):
    """y = 1.0507 x where x is above 0, else 1.0507 1.6733 (e^x - 1): Klambauer et al. 2017, equation 2

    inplace has no effect.
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, alpha=SELU_ALPHA) * SELU_SCALE


class Softplus(Module):
    """y = ln(1 + e^(beta x)) / beta, and x itself where beta x is above `threshold`"""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return ops.softplus(x, beta=self.beta, threshold=self.threshold)

    def describe(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Module):
    """y_i = e^x_i / sum_j e^x_j along the axis `dim`, which may count from the end (-1 is the last)"""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(x, axis=self.dim)

    def describe(self) -> str:
        return f"dim={self.dim}"


class Softmin(Softmax):
    """y_i = e^-x_i / sum_j e^-x_j along the axis `dim`"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(-x, axis=self.dim)


class Softmax2d(Module):
    """Softmax over the channels of each pixel; x [N, C, H, W] or [C, H, W]. Raises ShapeError for other ranks"""

    def forward(self, x: Tensor) -> Tensor:
        if len(x.shape) not in (3, 4):
            raise ShapeError(f"Softmax2d: takes images [N, C, H, W] or one image [C, H, W], got shape {x.shape}")
        return ops.softmax(x, axis=-3)


class LogSoftmax(Softmax):
    """The natural logarithm of softmax along the axis `dim`"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.log_softmax(x, axis=self.dim)
