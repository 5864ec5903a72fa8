"""Activations: each takes x of any shape and returns y of the same shape, computed element by element unless it says
otherwise.
"""

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.arguments import check_positive
from foveal.nn.module import Module, Parameter
from foveal.ops.batch_norm import per_channel
from foveal.ops.op import Tensor
from foveal.trace import current


class ReLU(Module):
    """y = max(x, 0)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class ReLU6(Module):
    """y = min(max(x, 0), 6)"""

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


class SiLU(Module):
    """y = x sigmoid(x), also called swish"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class Hardsigmoid(Module):
    """y = min(max(x + 3, 0), 6) / 6"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardsigmoid(x)


class Hardswish(Module):
    """y = x min(max(x + 3, 0), 6) / 6: Howard et al. 2019, section 5.2"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardswish(x)


class LeakyReLU(Module):
    """y = x where x is above 0, else negative_slope x"""

    def __init__(self, negative_slope: float = 0.01) -> None:
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
        self.weight = Parameter(np.full(num_parameters, init, np.float32))

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
    """y = x where x is above 0, else alpha (e^x - 1): Clevert, Unterthiner and Hochreiter 2016"""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, alpha=self.alpha)

    def describe(self) -> str:
        return f"alpha={self.alpha}"


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


class LogSoftmax(Softmax):
    """The natural logarithm of softmax along the axis `dim`"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.log_softmax(x, axis=self.dim)
